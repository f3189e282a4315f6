"""The configuration that a generation was given: its files' contents in memory, and the last known good one on disk.

In memory it is one sealed memory file (memfd_create(2), F_ADD_SEALS in fcntl(2)), so that a process that never looks
into it can keep it, pass it on, and give it to haproxy. On disk it is one file, private, replaced atomically, and
checked when it is read.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator

from entrypoint.lean.hashing import sha256

Files = tuple[tuple[str, bytes], ...]

_FORMAT = b"safe_reload last known good 1\n"
_MOST = 64 * 1024 * 1024
"""Bytes; a file that is larger was not written by us."""
_LONGEST_NAME = 200
"""Bytes, so that what is added to an instance's name still fits into a file's name (NAME_MAX is 255)."""
_LONGEST_LINE = 100
_LONGEST_PATH = 65536
_PIECE = 1 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class DamagedError(Exception):
    """What is there cannot be used; its text is one line for the user."""


# ---- in memory -----------------------------------------------------------------------------------------------------


def in_memory(digest: str, files: Files) -> int:
    """Return a sealed memory file with the digest, and the path and the content of each file.

    Raises:
        OSError: there are no descriptors left, or no memory.

    """
    descriptor = _memory_file()
    try:
        _write(descriptor, digest.encode() + b"\n")
        for path, content in files:
            name = os.fsencode(path)
            _write(descriptor, b"%d %d\n%b" % (len(name), len(content), name))
            _write(descriptor, content)
        _seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_sealed(descriptor: int) -> bool:
    """Tell whether this is a memory file that nobody can change any more, and no larger than ours are."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS and os.fstat(descriptor).st_size <= _MOST
    except OSError:
        return False


def for_haproxy(descriptor: int) -> list[int]:
    """Return a descriptor for each file in a memory file, which haproxy can be given as /dev/fd/N.

    The contents are copied by the kernel, and never are in our memory.

    Raises:
        OSError: there are no descriptors left, or it is damaged.

    """
    found: list[int] = []
    try:
        for path, at, size in _entries(descriptor):
            # The name is for who looks into /proc, and has at most 249 bytes.
            name = os.fsdecode(os.fsencode(os.path.basename(path))[:_LONGEST_NAME]) or "haproxy.cfg"
            found.append(os.memfd_create(name, os.MFD_CLOEXEC))
            _copy(descriptor, found[-1], at, size)
            os.lseek(found[-1], 0, os.SEEK_SET)
    except (OSError, ValueError) as error:
        for one in found:
            os.close(one)
        raise error if isinstance(error, OSError) else OSError(f"what was kept in memory is damaged: {error}") from None
    return found


def _entries(descriptor: int) -> Iterator[tuple[str, int, int]]:
    """Yield of each file the path, and where in the memory file its content begins, and its length.

    Raises:
        ValueError: it was not written by `in_memory`.

    """
    end = os.fstat(descriptor).st_size
    _, at = _line(descriptor, 0)
    if at == end:
        raise ValueError("there is no file in it")
    while at < end:
        line, at = _line(descriptor, at)
        length, size = (int(number) for number in line.split(b" "))
        if not 0 <= length <= _LONGEST_PATH or size < 0 or at + length + size > end:
            raise ValueError("a file that does not fit")
        path = os.pread(descriptor, length, at)
        if b"\0" in path:
            raise ValueError("a name that no file can have")
        yield os.fsdecode(path), at + length, size
        at += length + size


def _line(descriptor: int, at: int) -> tuple[bytes, int]:
    """Return the line that begins here, and where the next one does."""
    line, newline, _ = os.pread(descriptor, _LONGEST_LINE, at).partition(b"\n")
    if not newline:
        raise ValueError("a line without an end")
    return line, at + len(line) + 1


def _memory_file() -> int:
    return os.memfd_create("safe_reload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _seal(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _copy(source: int, target: int, at: int, size: int) -> None:
    while size:
        sent = os.sendfile(target, source, at, size)
        if not sent:
            raise OSError("what was kept in memory is not whole")
        at, size = at + sent, size - sent


def _must_be(descriptor: int, check: bytes) -> None:
    """See that a memory file is whole.

    Raises:
        ValueError: it is not.

    """
    if _check(descriptor) != check:
        raise ValueError("another check sum")
    for _ in _entries(descriptor):
        pass


def _check(descriptor: int) -> bytes:
    """Return what tells a memory file's content from any other."""
    content, at = sha256(), 0
    while piece := os.pread(descriptor, _PIECE, at):
        content.update(piece)
        at += len(piece)
    digest: str = content.hexdigest()
    return digest.encode()


# ---- on disk -------------------------------------------------------------------------------------------------------


class StateFile:
    """The file in the state directory that belongs to one instance."""

    def __init__(self, folder: str, name: str) -> None:
        """Take the place; nothing is touched."""
        self.folder = folder
        """It has to be there before anything is written."""
        name = _short(name)
        self._path = os.path.join(folder, f"{name}.last-known-good")
        self._temporary = os.path.join(folder, f".{name}.{os.getpid()}")

    def read(self) -> int | None:
        """Return a sealed memory file with what was written, or None when there is nothing.

        Raises:
            DamagedError: what is there was not written by this program for this user, or is not whole.
            OSError: there are no descriptors left, or no memory.

        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise DamagedError(f"{self.folder} is not a folder") from error
        except OSError as error:
            raise DamagedError(f"{self._path}: {error.strerror}") from error
        try:
            return self._content(descriptor)
        except OSError as error:
            raise DamagedError(f"{self._path}: {error.strerror}") from error
        except ValueError:
            raise DamagedError(f"{self._path} is damaged, or of another version") from None
        finally:
            os.close(descriptor)

    def _content(self, descriptor: int) -> int:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise DamagedError(f"{self._path} is not a file that only this user can read and write")
        if status.st_size > _MOST:
            raise DamagedError(f"{self._path} has more than {_MOST} bytes")
        if os.read(descriptor, len(_FORMAT)) != _FORMAT:
            raise ValueError("another format")
        check, at = _line(descriptor, len(_FORMAT))
        copy = _memory_file()
        try:
            _copy(descriptor, copy, at, status.st_size - at)
            _must_be(copy, check)
            _seal(copy)
        except BaseException:
            os.close(copy)
            raise
        return copy

    def write(self, descriptor: int) -> None:
        """Replace what is kept by what is in a memory file.

        Not synced: a crash of the host may leave half a file, which the checksum finds out, and an fsync(2) may take
        seconds.

        Raises:
            OSError: it cannot be written; then what was kept still is.

        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(self._temporary, flags, 0o600)
        try:
            try:
                _write(target, _FORMAT + _check(descriptor) + b"\n")
                _copy(descriptor, target, 0, os.fstat(descriptor).st_size)
            finally:
                os.close(target)
            os.replace(self._temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            raise


def _short(name: str) -> str:
    """Return a name that a file can have: of one that is too long the beginning, and what tells it from others."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    check: str = sha256(encoded).hexdigest()
    return os.fsdecode(encoded[: _LONGEST_NAME - 65]) + f"-{check}"


def digest_of(descriptor: int) -> str:
    """Return the digest that a memory file was given.

    Raises:
        ValueError: it was not written by `in_memory`.

    """
    return _line(descriptor, 0)[0].decode("ascii")
