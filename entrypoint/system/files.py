"""Files: the pid file, a look into the configuration before haproxy reads it, and the three standard descriptors."""

import contextlib
import os
import resource
import stat
from collections.abc import Iterable, Iterator, Sequence

_MOST_DESCRIPTORS = 65536
"""What is gone through where there is no /proc: 10 ms."""
_ROOM = 64
"""Bytes; more than a pid has."""


class PidFile:
    """A file that holds the pid of the current haproxy, or is not there."""

    def __init__(self, path: str) -> None:
        """Take the path, make its folder, and see that it can be written.

        Raises:
            OSError: it cannot. Tried at once, because nobody reads the log for a pid file an hour later.

        """
        self.path = self._path = path
        folder, name = os.path.split(path)
        self._temporary = os.path.join(folder, f".{name}.{os.getpid()}")
        self._content = ""
        make_folder(folder or ".")
        self._write("")
        os.unlink(self._temporary)
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path} is a directory")

    def write(self, pid: int) -> None:
        """Replace the content atomically.

        Raises:
            OSError: it cannot be written; then the file is gone, because what it held is the pid of one that leaves.

        """
        content = f"{pid}\n"
        try:
            self._write(content)
            os.replace(self._temporary, self._path)
        except OSError:
            self.remove()
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            raise
        self._content = content

    def restore(self, pid: int) -> None:
        """Take what our last life has written for ours."""
        self._content = f"{pid}\n"

    def _write(self, content: str) -> None:
        # Never through a link that somebody else has put there: the folder may be one where anybody can write.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(content)

    def remove(self) -> None:
        """Remove the file, unless it was never written, or is somebody else's by now."""
        if not self._content:
            return
        with contextlib.suppress(OSError):
            # It may be anything by now, and a pipe would be waited for.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
                ours = is_file and os.read(descriptor, _ROOM) == self._content.encode()
            finally:
                os.close(descriptor)
            if ours:
                os.unlink(self._path)


def make_folder(path: str, mode: int = 0o755) -> None:
    """Make a folder, and those above it, if need be: never writable for others, however open the umask is.

    Raises:
        OSError: it cannot be made.

    """
    before = os.umask(0o022)  # there is no other way to read it
    try:
        # A stricter umask is the user's wish.
        os.umask(before | 0o022)
        os.makedirs(path, mode=mode, exist_ok=True)
    finally:
        os.umask(before)


def configuration_files(paths: Sequence[str], folder: str | None) -> Iterator[str]:
    """Yield the files that haproxy reads for these -f arguments: of a folder its *.cfg, in order (haproxy(1)).

    Args:
        paths: as given to haproxy.
        folder: where relative ones are looked for (`-C`); None for the working directory.

    """
    for name in paths:
        path = os.path.join(folder, name) if folder else name
        if os.path.isdir(path):
            names = sorted(os.listdir(path))
            yield from (os.path.join(path, n) for n in names if n.endswith(".cfg") and not n.startswith("."))
        else:
            yield path


def read(path: str) -> bytes:
    """Return the content of a file; empty when it cannot be read, which haproxy will say better.

    A pipe or a device is not read: haproxy would not find in it again what we took.
    """
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def fill_standard_descriptors(*, inheritable: bool) -> None:
    """Put /dev/null where stdin, stdout or stderr is closed, so that no socket of ours gets the numbers 0 to 2.

    Args:
        inheritable: whether children see it, too, and not a closed descriptor as before.

    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            try:
                os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                # It holds the number, and to read and to write it is an error as before (open(2)).
                os.open("/", os.O_PATH | os.O_CLOEXEC)
            os.set_inheritable(descriptor, inheritable)


def keep_from_children() -> None:
    """Mark every descriptor from 3 up close-on-exec: what our parent left open is not haproxy's business."""
    for descriptor in _open_descriptors():
        if descriptor > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, False)


def _open_descriptors() -> Iterable[int]:
    try:
        return map(int, os.listdir("/proc/self/fd"))
    except OSError:
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MOST_DESCRIPTORS))
