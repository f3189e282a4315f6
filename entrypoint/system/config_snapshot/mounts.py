"""What is mounted, and whether the kernel reports changes of it."""

import contextlib
import os

REPORTING = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "ramfs", "overlay"})
"""Where every change is made by this kernel, which can report it. Not so on what is shared with other hosts."""
_DELETED = "//deleted"


class Mounts:
    """What is mounted where (proc_pid_mountinfo(5)); nothing where /proc is not."""

    def __init__(self) -> None:
        """Begin without one."""
        self._text = b""
        self._at: dict[str, tuple[str, bool]] = {}
        self._of: dict[str, str] = {}

    def look(self) -> None:
        """Read it; only what is new is made sense of, because that would be half of each look at the disk."""
        text = b""
        with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as file:
            text = file.read()
        if text != self._text:
            self._text, self._at = text, _mounted(text)
        self._of.clear()

    def is_mount(self, path: str) -> bool:
        """Tell whether something is mounted here; yes if nobody knows, so that it is watched to be sure."""
        return not self._at or path in self._at

    def is_deleted(self, path: str) -> bool:
        """Tell whether what is mounted at or above a path is deleted."""
        return self._at.get(self._point(path), ("", False))[1]

    def kind_of(self, path: str) -> str:
        """Return the type of the file system that a path is on; empty if nobody knows."""
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
    """Return of each mount point in mountinfo the file system's type, and whether what is mounted is deleted."""
    found = {}
    for line in text.split(b"\n"):
        before, dash, after = line.partition(b" - ")
        fields = before.split(b" ")
        if dash and len(fields) > 4:
            point, root = os.fsdecode(_unescaped(fields[4])), os.fsdecode(_unescaped(fields[3]))
            found[point] = (after.split(b" ")[0].decode("ascii", "replace"), root.endswith(_DELETED))
    return found


def _unescaped(field: bytes) -> bytes:
    """Return a field of mountinfo without the octal that stands for blanks and backslashes."""
    for octal, character in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(octal, character)
    return field
