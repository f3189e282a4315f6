"""Where paths lead: symbolic links, each read once, and the mounts on the way."""

from __future__ import annotations

import os

from entrypoint.lean import contextlib

_DEEP = 10
"""Longer paths are followed from the top, to limit the recursion."""
_LINKS = 40
"""Symbolic links that the kernel follows in one path (path_resolution(7))."""
REPORTING = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "ramfs", "overlay"})
"""File systems that only this kernel changes, so that it can report every change. Those shared with other hosts are not
among them."""
_DELETED = "//deleted"


class Links:
    """Symbolic links, each read once."""

    def __init__(self) -> None:
        """Begin without any."""
        self._real: dict[str, str] = {}
        self._folders: dict[str, tuple[str, ...]] = {}
        self._targets: dict[str, str | None] = {}

    def still_hold(self) -> bool:
        """Tell whether every path that was read still is the same link, or still no link."""
        return all(_read_link(path) == target for path, target in self._targets.items())

    def folders_of(self, path: str) -> tuple[str, ...]:
        """Return the folders of every link on the way to a path that has been followed, and of its target."""
        return self._folders[path]

    def follow(self, path: str, depth: int = 0) -> str:
        """Return where a path leads, whether or not anything is there; for a loop, some link in it."""
        known = self._real.get(path)
        if known is not None:
            return known
        if path.count("/") > _DEEP:
            for at, character in enumerate(path):
                if character == "/" and at:
                    self.follow(path[:at], depth)
        folder, name = os.path.split(path.rstrip("/") or "/")
        if path in {"", folder}:
            real = path or os.getcwd()
            folders: tuple[str, ...] = (os.path.dirname(real),)
        else:
            real_folder = self.follow(folder, depth)
            before = self._folders.get(folder, ()) if folder else ()
            real, folders = self._step(real_folder, name, depth)
            # Without the last: that is the folder's parent, which `real` implies.
            folders = (*(before[:-1]), *folders)
        self._real[path], self._folders[path] = real, folders
        return real

    def _step(self, folder: str, name: str, depth: int) -> tuple[str, tuple[str, ...]]:
        if name in {"", "."}:
            return folder, (os.path.dirname(folder),)
        if name == "..":
            parent = os.path.dirname(folder)
            return parent, (os.path.dirname(parent),)
        path = os.path.join(folder, name)
        if path not in self._targets:
            self._targets[path] = _read_link(path)
        target = self._targets[path]
        if target is None or depth == _LINKS:
            return path, (folder,)
        full = os.path.join(folder, target)
        real = self.follow(full, depth + 1)
        return real, (folder, *self._folders.get(full, ()))


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


class Mounts:
    """The mount table (proc_pid_mountinfo(5)); empty if there is no /proc."""

    def __init__(self) -> None:
        """Begin with an empty one."""
        self._text = b""
        self._at: dict[str, tuple[str, bool]] = {}
        self._of: dict[str, str] = {}

    def look(self) -> None:
        """Read the table; parse it only if it has changed, because that takes half the time of a look at the disk."""
        text = b""
        with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as file:
            text = file.read()
        if text != self._text:
            self._text, self._at = text, _mounted(text)
        self._of.clear()

    def is_mount(self, path: str) -> bool:
        """Tell whether something is mounted at this path; True if there is no table, so that the path is watched."""
        return not self._at or path in self._at

    def is_deleted(self, path: str) -> bool:
        """Tell whether the source of the mount at or above a path has been deleted."""
        return self._at.get(self._point(path), ("", False))[1]

    def kind_of(self, path: str) -> str:
        """Return the type of the file system that a path is on; empty if there is no table."""
        return self._at.get(self._point(path), ("", False))[0]

    def _point(self, path: str) -> str:
        below = []
        while path not in self._at and path not in self._of and path not in {"/", ""}:
            below.append(path)
            path = os.path.dirname(path)
        point = self._of.get(path, path)
        self._of.update(dict.fromkeys(below, point))
        return point


def _mounted(text: bytes) -> dict[str, tuple[str, bool]]:
    """Return for each mount point the file system's type, and whether the mount's source has been deleted."""
    found = {}
    for line in text.split(b"\n"):
        before, dash, after = line.partition(b" - ")
        fields = before.split(b" ")
        if dash and len(fields) > 4:
            point, root = os.fsdecode(_unescaped(fields[4])), os.fsdecode(_unescaped(fields[3]))
            found[point] = (after.split(b" ")[0].decode("ascii", "replace"), root.endswith(_DELETED))
    return found


def _unescaped(field: bytes) -> bytes:
    """Replace the octal codes that stand for blanks and backslashes."""
    for octal, character in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(octal, character)
    return field
