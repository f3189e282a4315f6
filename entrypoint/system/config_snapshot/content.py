"""A file's content, read in pieces and within a bound."""

import contextlib
import os
import stat

from entrypoint.lean.hashing import sha256
from entrypoint.lean.record import record

_PIECE = 1 << 20
_TEXT_PIECE = 1 << 16
SETTLED_NS = 2_000_000_000
"""A file changed within this time is read again even if it looks the same: time stamps are coarse, 10 ms and more."""


@record(frozen=True)
class Seen:
    """A file's identity and time stamps, and the digest of what it held."""

    mark: tuple[int, ...]
    digest: bytes


def open_regular(path: str) -> int | None:
    """Open a regular file; None if it is something else, which is not read: haproxy would miss what we took.

    Raises:
        OSError: it cannot be opened.

    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        return None
    # Without blocking, should it have become a pipe since.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def read_content(descriptor: int, most: int) -> bytes | None:
    """Return what there is to be read; None if it is more than that, which the size does not always tell."""
    pieces = []
    while piece := os.read(descriptor, _TEXT_PIECE):
        pieces.append(piece)
        most -= len(piece)
        if most < 0:
            return None
    return b"".join(pieces)


def output() -> set[tuple[int, int]]:
    """Return the files that our own output goes to: each line that we write about a change would be another one."""
    found = set()
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            found.add((status.st_dev, status.st_ino))
    return found


def mark_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file is written or replaced."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def digest_of(path: str) -> Seen | None:
    """Return what a file holds, as a digest; None of what is no regular file."""
    descriptor = open_regular(path)
    if descriptor is None:
        return None
    try:
        mark = mark_of(os.fstat(descriptor))  # first: who writes while we read makes another mark
        content = sha256()
        while piece := os.read(descriptor, _PIECE):
            content.update(piece)
    finally:
        os.close(descriptor)
    return Seen(mark, content.digest())


def reason_of(error: OSError) -> bytes:
    """Return why a file cannot be read, as part of a digest."""
    return os.strerror(error.errno or 0).encode()


def counted(path: str, digest: bytes) -> bytes:
    """Return a name and a digest so that no two of them read like others."""
    name = os.fsencode(path)
    return b"%d:%b%d:%b" % (len(name), name, len(digest), digest)
