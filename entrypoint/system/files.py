"""Files: the pid file, the configuration as it is before haproxy reads it, and the three standard descriptors."""

from __future__ import annotations

import errno
import os
import resource
import stat

from entrypoint.lean import contextlib
from entrypoint.lean.collections import Iterable, Iterator, Sequence

_MOST_DESCRIPTORS = 65536
"""How many descriptors are tried if there is no /proc; takes 10 ms."""
_ROOM = 64
"""Bytes; more than a pid needs."""


class PidFile:
    """A file that holds the pid of the current haproxy, or does not exist."""

    def __init__(self, path: str) -> None:
        """Make the folder and check that the file can be written.

        Raises:
            OSError: it cannot. Checked at the start, because an hour later nobody would notice the log line.

        """
        self.path = path
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
            OSError: it cannot be written. The file is removed then: it would name a haproxy that is leaving.

        """
        content = f"{pid}\n"
        try:
            self._write(content)
            os.replace(self._temporary, self.path)
        except OSError:
            self.remove()
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            raise
        self._content = content

    def restore(self, pid: int) -> None:
        """Regard the file as ours, with the pid that the previous program wrote."""
        self._content = f"{pid}\n"

    def _write(self, content: str) -> None:
        # Never through a symbolic link: the folder may be one in which anybody can create files.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(content)

    def remove(self) -> None:
        """Remove the file, unless it was never written or somebody else has replaced it."""
        if not self._content:
            return
        with contextlib.suppress(OSError):
            # Non-blocking: it may have become a pipe.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
                ours = is_file and os.read(descriptor, _ROOM) == self._content.encode()
            finally:
                os.close(descriptor)
            if ours:
                os.unlink(self.path)


def replace_file(path: str, content: bytes) -> None:
    """Replace a file's content atomically; a new file is private, an old one keeps its mode, and a link its place.

    Raises:
        OSError: it cannot be written, or is not a regular file; what was there is still there.

    """
    path = os.path.realpath(path)
    mode = 0o600
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(path)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}")
    # Never through a symbolic link: the folder may be one in which anybody can create files.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def make_folder(path: str, mode: int = 0o755) -> None:
    """Make a folder and its parents if they are missing, never writable for others, whatever the umask.

    Raises:
        OSError: it cannot be made.

    """
    before = os.umask(0o022)  # the only way to read it
    try:
        # The user may want a stricter umask.
        os.umask(before | 0o022)
        os.makedirs(path, mode=mode, exist_ok=True)
    finally:
        os.umask(before)


def configuration_files(paths: Sequence[str], folder: str | None) -> Iterator[str]:
    """Yield the files that haproxy reads for these -f arguments: of a folder its *.cfg, in order (haproxy(1)).

    Args:
        paths: the -f arguments.
        folder: haproxy's -C, for relative paths; None for the working directory.

    """
    for name in paths:
        path = os.path.join(folder, name) if folder else name
        if os.path.isdir(path):
            names = sorted(os.listdir(path))
            yield from (os.path.join(path, n) for n in names if n.endswith(".cfg") and not n.startswith("."))
        else:
            yield path


def read(path: str) -> bytes:
    """Return the content of a file; empty if it cannot be read, because haproxy's message about that is better.

    Pipes and devices are not read: haproxy could not read the same data again.
    """
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def fill_standard_descriptors(*, inheritable: bool) -> None:
    """Open /dev/null where stdin, stdout or stderr is closed, so that no socket of ours gets the numbers 0 to 2.

    With `inheritable` children get it too, instead of a closed descriptor.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            try:
                os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                # It takes up the number, and reading or writing it fails as before (open(2)).
                os.open("/", os.O_PATH | os.O_CLOEXEC)
            os.set_inheritable(descriptor, inheritable)


def keep_from_children() -> None:
    """Mark every descriptor from 3 up close-on-exec: haproxy must not inherit what our parent left open."""
    for descriptor in _open_descriptors():
        if descriptor > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, False)


def _open_descriptors() -> Iterable[int]:
    try:
        return map(int, os.listdir("/proc/self/fd"))
    except OSError:
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MOST_DESCRIPTORS))
