"""The runtime folder: which instances have their control socket there, and which of those who listen are believed.

In a folder where others may write, such as docker's plain `--tmpfs` (mode 1777) or a Kubernetes emptyDir, a socket's
name does not tell whose it is. So the kernel is asked for the uid of who listens (SO_PEERCRED, unix(7)).
"""

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator

_SUFFIX = ".sock"
_GONE = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class NoInstanceError(Exception):
    """There is none, or none that answers us; its text is one line for the user."""


def path_of(folder: str, name: str) -> str:
    """Return the path of the control socket of an instance."""
    return os.path.join(folder, f"{name}{_SUFFIX}")


def names(folder: str) -> list[str]:
    """Return the names of all control sockets in a runtime folder, alive or not.

    Raises:
        NoInstanceError: it may not be read.

    """
    try:
        return sorted(name.removesuffix(_SUFFIX) for name in os.listdir(folder) if name.endswith(_SUFFIX))
    except PermissionError:
        raise NoInstanceError(f"{folder}: permission denied; {who_may_ask(folder)}") from None
    except OSError:
        return []


def find(folder: str, name: str | None, tell: Callable[[str], None] = lambda _: None) -> str:
    """Return the path of the control socket of the instance that is meant.

    Args:
        folder: the runtime folder.
        name: the instance's; None for the only one. Sockets that nobody listens on, or a stranger, do not count.
        tell: is given a line for each stranger that is passed over.

    Raises:
        NoInstanceError: there is none, or there may be several.

    """
    if name:
        return path_of(folder, name)
    found = names(folder)
    if len(found) > 1:
        believed = []
        for one in found:
            alive, doubt = look(path_of(folder, one))
            if doubt:
                tell(doubt)
            elif alive:
                believed.append(one)
        found = believed
    if len(found) > 1:
        raise NoInstanceError(f"several instances are in {folder}, --name says which one: {', '.join(found)}")
    if not found:
        raise NoInstanceError(f"{folder}: no instance answers there; is one running, with this --runtime-dir?")
    return path_of(folder, found[0])


def look(path: str) -> tuple[bool, str]:
    """Tell whether somebody listens, though he may not listen to us, and why he is not believed, as `doubt` does."""
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
    """Return why who listens is not believed, one line; empty where he is.

    Root and our own uid are. Root believes another uid where nobody else could have put it there: PID 1 of this
    container, and the owner of a folder in which, and above which, only he and root can write.

    Args:
        connection: to him.
        path: the control socket's.

    """
    pid, uid = peer(connection)
    ours = os.geteuid()
    folder = os.path.dirname(path) or "."
    link = next((place for place in (folder, path) if _link_of_a_stranger(place, {0, ours, uid})), None)
    if link:
        return f"{path}: not believed: {link} is a link that somebody else has made"
    if uid in {0, ours} or (not ours and (pid == 1 or _belongs_to(folder, uid))):
        return ""
    who = "root" if not ours else f"root or uid {ours}"
    where = f"and others may write in {folder} or above: ask as that user" if not ours else "who may be anybody"
    return f"{path}: not believed: uid {uid} listens there, not {who}, {where}"


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return the pid (0 where it cannot be seen) and the uid of who listens, or asks, at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid


def who_may_ask(path: str) -> str:
    """Say who may ask, from the owner of a socket or a folder."""
    try:
        uid = os.stat(path).st_uid
    except OSError:
        return "it speaks to root and to the user that it runs as"
    if uid == 0:
        return "it speaks to root only"
    import pwd  # noqa: PLC0415  # PID 1 has no use for it

    try:
        return f"it speaks to root and to {pwd.getpwuid(uid).pw_name} (uid {uid}) only"
    except KeyError:
        return f"it speaks to root and to uid {uid} only"


def _doubt_of_owner(path: str) -> str:
    """Return why he who lets us not in is not believed: the file's owner is all that can be seen of him."""
    try:
        uid = os.lstat(path).st_uid
    except OSError:
        return ""
    return "" if uid in {0, os.geteuid()} else f"{path}: not believed: it is uid {uid}'s, and lets nobody in"


def _link_of_a_stranger(path: str, friends: set[int]) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) and status.st_uid not in friends


def _belongs_to(folder: str, uid: int) -> bool:
    """Tell whether a folder is this user's, and nobody but him and root can put anything into it or in its place."""
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
