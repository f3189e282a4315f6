"""The last known good configuration on disk: one file, private, replaced atomically, and checked when it is read."""

import contextlib
import os
import stat

from entrypoint.core.hashing import sha256

Files = tuple[tuple[str, bytes], ...]

_FORMAT = b"safe_reload last known good 1\n"
_MOST = 64 * 1024 * 1024
"""Bytes; a file that is larger was not written by us."""
_LONGEST_NAME = 200
"""Bytes, so that what is added to an instance's name still fits into a file's name (NAME_MAX is 255)."""


class DamagedError(Exception):
    """What is there cannot be used; its text is one line for the user."""


class StateFile:
    """The file in the state directory that belongs to one instance."""

    def __init__(self, folder: str, name: str) -> None:
        """Take the place; nothing is touched."""
        self.folder = folder
        """It has to be there before anything is written."""
        name = _short(name)
        self._path = os.path.join(folder, f"{name}.last-known-good")
        self._temporary = os.path.join(folder, f".{name}.{os.getpid()}")

    def read(self) -> tuple[str, Files] | None:
        """Return the digest and the files that were written, or None when there are none.

        Raises:
            DamagedError: what is there was not written by this program for this user, or is not whole.

        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedError(f"{self._path}: {error.strerror}") from error
        try:
            content = self._content(descriptor)
        except OSError as error:
            raise DamagedError(f"{self._path}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        try:
            return _parse(content)
        except ValueError:
            raise DamagedError(f"{self._path} is damaged, or of another version") from None

    def _content(self, descriptor: int) -> bytes:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise DamagedError(f"{self._path} is not a file that only this user can read and write")
        if status.st_size > _MOST:
            raise DamagedError(f"{self._path} has more than {_MOST} bytes")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST + 1)

    def write(self, digest: str, files: Files) -> None:
        """Replace what is kept.

        Not synced: a crash of the host may leave half a file, which the checksum finds out, and an fsync(2) may hold
        up PID 1 for seconds.

        Raises:
            OSError: it cannot be written; what was there stands.

        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._temporary, flags, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(_written(digest, files))
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


def _written(digest: str, files: Files) -> bytes:
    body = b"".join(
        b"%d %d\n%b%b" % (len(os.fsencode(path)), len(content), os.fsencode(path), content) for path, content in files
    )
    body = digest.encode() + b"\n" + body
    check: str = sha256(body).hexdigest()
    return _FORMAT + check.encode() + b"\n" + body


def _parse(content: bytes) -> tuple[str, Files]:
    """Read what `_written` wrote.

    Raises:
        ValueError: it did not.

    """
    if not content.startswith(_FORMAT):
        raise ValueError
    check, _, body = content[len(_FORMAT) :].partition(b"\n")
    if sha256(body).hexdigest().encode() != check:
        raise ValueError
    digest, _, rest = body.partition(b"\n")
    files = []
    while rest:
        lengths, _, rest = rest.partition(b"\n")
        path, size = (int(length) for length in lengths.split(b" "))
        if path < 0 or size < 0 or path + size > len(rest):
            raise ValueError
        files.append((os.fsdecode(rest[:path]), rest[path : path + size]))
        rest = rest[path + size :]
    if not files:
        raise ValueError
    return digest.decode("ascii"), tuple(files)
