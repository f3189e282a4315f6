"""The configuration of a generation: in memory for its haproxy, and on disk as the last known good one.

In memory it is one sealed memory file (memfd_create(2), F_ADD_SEALS in fcntl(2)): a process can keep it, pass it on and
give it to haproxy without reading it. On disk it is one private file with a checksum, replaced atomically.
"""

from __future__ import annotations

import fcntl
import os
import stat

from entrypoint.lean import contextlib
from entrypoint.lean.collections import Iterator
from entrypoint.lean.hashing import sha256

Files = tuple[tuple[str, bytes], ...]

_FORMAT = b"safe_reload last known good 1\n"
_MOST = 64 * 1024 * 1024
"""Bytes; we never write a larger file."""
_LONGEST_NAME = 200
"""Bytes of an instance's name, so that the name with our additions is a valid file name (NAME_MAX is 255)."""
_LONGEST_LINE = 100
_LONGEST_PATH = 65536
_PIECE = 1 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class DamagedError(Exception):
    """Raised for a file that cannot be used; its text is one line for the user."""


# ---- in memory -----------------------------------------------------------------------------------------------------


def in_memory(digest: str, files: Files) -> int:
    """Return a sealed memory file with the digest, and each file's path and content.

    Raises:
        OSError: no descriptors or no memory are left.

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
    """Tell whether this is a memory file that nobody can change any more, and not larger than ours are."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS and os.fstat(descriptor).st_size <= _MOST
    except OSError:
        return False


def for_haproxy(descriptor: int) -> list[int]:
    """Return one descriptor for each file in a memory file; haproxy opens them as /dev/fd/N.

    The kernel copies the contents, so they never are in our memory.

    Raises:
        OSError: no descriptors are left, or the memory file is damaged.

    """
    found: list[int] = []
    try:
        for path, at, size in _entries(descriptor):
            # The name shows in /proc; the kernel allows 249 bytes.
            name = os.fsdecode(os.fsencode(os.path.basename(path))[:_LONGEST_NAME]) or "haproxy.cfg"
            found.append(os.memfd_create(name, os.MFD_CLOEXEC))
            _copy(descriptor, found[-1], at, size)
            os.lseek(found[-1], 0, os.SEEK_SET)
    except (OSError, ValueError) as error:
        for one in found:
            os.close(one)
        if isinstance(error, OSError):
            raise
        raise OSError(f"the configuration in memory is damaged: {error}") from None
    return found


def _entries(descriptor: int) -> Iterator[tuple[str, int, int]]:
    """Yield each file's path, and offset and length of its content; ValueError if `in_memory` did not write them."""
    end = os.fstat(descriptor).st_size
    _, at = _line(descriptor, 0)
    if at == end:
        raise ValueError("there is no file in it")
    while at < end:
        line, at = _line(descriptor, at)
        length, size = (int(number) for number in line.split(b" "))
        if not 0 <= length <= _LONGEST_PATH or size < 0 or at + length + size > end:
            raise ValueError("a length is wrong")
        path = os.pread(descriptor, length, at)
        if b"\0" in path:
            raise ValueError("a name that no file can have")
        yield os.fsdecode(path), at + length, size
        at += length + size


def _line(descriptor: int, at: int) -> tuple[bytes, int]:
    """Return the line at this offset, and the offset of the next one; ValueError if there is none."""
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
            raise OSError("the configuration in memory is truncated")
        at, size = at + sent, size - sent


def _verify(descriptor: int, check: bytes) -> None:
    if _checksum(descriptor) != check:
        raise ValueError("wrong checksum")
    for _ in _entries(descriptor):
        pass


def _checksum(descriptor: int) -> bytes:
    content, at = sha256(), 0
    while piece := os.pread(descriptor, _PIECE, at):
        content.update(piece)
        at += len(piece)
    digest: str = content.hexdigest()
    return digest.encode()


# ---- on disk -------------------------------------------------------------------------------------------------------


class StateFile:
    """A file of one instance in the state directory."""

    def __init__(self, folder: str, name: str, what: str = "last-known-good") -> None:
        """Compute the paths; nothing is touched.

        Args:
            folder: the state directory.
            name: of the instance.
            what: the file's extension.

        """
        self.folder = folder
        """It has to exist before anything is written."""
        name = _short(name)
        self._path = os.path.join(folder, f"{name}.{what}")
        self._temporary = os.path.join(folder, f".{name}.{what}.{os.getpid()}")

    def read(self) -> int | None:
        """Return a sealed memory file with the file's content; None if there is no file.

        Raises:
            DamagedError: the file is not whole, or not written by this program for this user.
            OSError: no descriptors or no memory are left.

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
            raise DamagedError(f"{self._path} is damaged, or from another version") from None
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
            _verify(copy, check)
            _seal(copy)
        except BaseException:
            os.close(copy)
            raise
        return copy

    def write(self, descriptor: int) -> None:
        """Replace the file by what is in a memory file.

        Without fsync(2), which may take seconds: a crash of the host may leave half a file, and the checksum detects
        that.

        Raises:
            OSError: it cannot be written; the old file is still there.

        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(self._temporary, flags, 0o600)
        try:
            try:
                _write(target, _FORMAT + _checksum(descriptor) + b"\n")
                _copy(descriptor, target, 0, os.fstat(descriptor).st_size)
            finally:
                os.close(target)
            os.replace(self._temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            raise


def _short(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    check: str = sha256(encoded).hexdigest()
    return os.fsdecode(encoded[: _LONGEST_NAME - 65]) + f"-{check}"


def contents_of(descriptor: int) -> Iterator[bytes]:
    """Yield the content of each file in a memory file; ValueError if `in_memory` did not write it."""
    for _, at, size in _entries(descriptor):
        yield os.pread(descriptor, size, at)


def digest_of(descriptor: int) -> str:
    """Return the digest in a memory file; ValueError if `in_memory` did not write it."""
    return _line(descriptor, 0)[0].decode("ascii")
