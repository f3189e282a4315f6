"""The runtime directory: which instances have a control socket there, and which listeners are trusted.

If others may write to the directory, as with docker's plain `--tmpfs` (mode 1777) or a Kubernetes emptyDir, the name of
a socket does not tell its owner. So the kernel is asked for the listener's uid (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import os
import stat
import struct

from entrypoint.lean import socket
from entrypoint.lean.collections import Callable, Iterator

_SUFFIX = ".sock"
_GONE = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class NoInstanceError(Exception):
    """Raised if no instance answers us; its text is one line for the user."""


def path_of(folder: str, name: str) -> str:
    """Return the path of an instance's control socket."""
    return os.path.join(folder, f"{name}{_SUFFIX}")


def names(folder: str) -> list[str]:
    """Return the names of all control sockets in a runtime directory, whether or not anybody listens.

    Raises:
        NoInstanceError: we may not read the directory.

    """
    try:
        return sorted(name.removesuffix(_SUFFIX) for name in os.listdir(folder) if name.endswith(_SUFFIX))
    except PermissionError:
        raise NoInstanceError(f"{folder}: permission denied; {who_may_ask(folder)}") from None
    except OSError:
        return []


def find(folder: str, name: str | None, tell: Callable[[str], None] = lambda _: None) -> str:
    """Return the path of the control socket to use.

    Args:
        folder: the runtime directory.
        name: the instance's; None for the only one that is alive and trusted.
        tell: gets a line for each listener that is not trusted.

    Raises:
        NoInstanceError: there is none, or more than one.

    """
    if name:
        return path_of(folder, name)
    found = names(folder)
    if len(found) > 1:
        trusted = []
        for one in found:
            alive, doubt = look(path_of(folder, one))
            if doubt:
                tell(doubt)
            elif alive:
                trusted.append(one)
        found = trusted
    if len(found) > 1:
        raise NoInstanceError(f"several instances are in {folder}; choose one with --name: {', '.join(found)}")
    if not found:
        raise NoInstanceError(f"{folder}: no instance answers there; is one running, with this --runtime-dir?")
    return path_of(folder, found[0])


def look(path: str) -> tuple[bool, str]:
    """Return whether anybody listens at this path, even if we may not connect, and what `doubt` says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        try:
            client.connect(path)
        except _GONE:
            return False, ""
        except PermissionError:
            return True, _doubt_of_owner(path)
        except OSError:
            return True, ""
        return True, doubt(client, path)


def doubt(connection: socket.socket, path: str) -> str:
    """Return one line that says why the listener is not trusted; empty if it is.

    Root and our own uid are trusted. Root also trusts another uid if only that user or root can have created the
    socket: PID 1 of this container, or the owner of a directory to which, and to whose parents, only that user and root
    can write.

    Args:
        connection: to the listener.
        path: of the control socket.

    """
    pid, uid = peer(connection)
    ours = os.geteuid()
    folder = os.path.dirname(path) or "."
    link = next((place for place in (folder, path) if _is_link_of_another(place, {0, ours, uid})), None)
    if link:
        return f"{path}: not trusted: {link} is a symbolic link that another user has made"
    if uid in {0, ours} or (not ours and (pid == 1 or _belongs_to(folder, uid))):
        return ""
    who = "root" if not ours else f"root or uid {ours}"
    where = "who may be anybody" if ours else f"and others can write to {folder} or above it: ask as that user"
    return f"{path}: not trusted: uid {uid} listens there, not {who}, {where}"


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return pid (0 if we cannot see it) and uid of the process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid


def who_may_ask(path: str) -> str:
    """Return a clause that says who may use a socket or directory, judged by its owner."""
    try:
        uid = os.stat(path).st_uid
    except OSError:
        return "only root and the user that it runs as may use it"
    if uid == 0:
        return "only root may use it"
    import pwd  # noqa: PLC0415  # PID 1 does not need it

    try:
        return f"only root and {pwd.getpwuid(uid).pw_name} (uid {uid}) may use it"
    except KeyError:
        return f"only root and uid {uid} may use it"


def _doubt_of_owner(path: str) -> str:
    """Return what `doubt` does for a listener that we may not connect to, judged by the owner of its file."""
    try:
        uid = os.lstat(path).st_uid
    except OSError:
        return ""
    return "" if uid in {0, os.geteuid()} else f"{path}: not trusted: it belongs to uid {uid} and lets nobody in"


def _is_link_of_another(path: str, friends: set[int]) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) and status.st_uid not in friends


def _belongs_to(folder: str, uid: int) -> bool:
    """Tell whether a directory is this user's, and only that user and root can replace it or anything in it."""
    try:
        if os.stat(folder).st_uid != uid:
            return False
        for place in {*_with_parents(os.path.abspath(folder)), *_with_parents(os.path.realpath(folder))}:
            status = os.stat(place)
            others = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid else 0)
            if status.st_uid not in {0, uid} or status.st_mode & others:
                return False
    except OSError:
        return False
    return True


def _with_parents(path: str) -> Iterator[str]:
    while True:
        yield path
        above = os.path.dirname(path)
        if above == path:
            return
        path = above
