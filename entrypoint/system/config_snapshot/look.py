"""One look at the disk. Contents are read in pieces, up to a limit."""

from __future__ import annotations

import os
import stat
import time

from entrypoint.haproxy.file_names import ANYTHING
from entrypoint.lean import contextlib
from entrypoint.lean.collections import Collection, Mapping
from entrypoint.lean.hashing import sha256
from entrypoint.lean.record import record
from entrypoint.system.config_snapshot.paths import REPORTING, Links, Mounts

_PIECE = 1 << 20
_TEXT_PIECE = 1 << 16
_MOST_OF_A_CERTIFICATE = 1 << 20
SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago is read again even if it looks the same: time stamps are coarse, 10 ms and
more."""
COMPANIONS = (".key", ".ocsp", ".issuer", ".sctl", ".rsa", ".dsa", ".ecdsa")
"""What haproxy looks for beside a certificate without being told to (manual, ssl-load-extra-files)."""
_COMPANIONS_OF_KINDS = tuple(kind + extra for kind in (".rsa", ".dsa", ".ecdsa") for extra in COMPANIONS[:4])
STATE_SUFFIX = ".last-known-good"
"""Suffix of the files in a state directory (`system.state_file`)."""


@record(frozen=True)
class Seen:
    """A file's identity and time stamps, and the digest of its content then."""

    mark: tuple[int, ...]
    digest: bytes


class Look:
    """One look at the disk; it reads each link and each folder once."""

    def __init__(
        self, seen: Mapping[str, Seen], mounts: Mounts, output: Collection[tuple[int, int]], most_text: int
    ) -> None:
        """Begin a look. `seen` has the digests of an earlier one, by path; files in `output` do not count.

        `content_of` returns at most `most_text` bytes in all.
        """
        self.seen: dict[str, Seen] = {}
        self.watched: dict[str, None] = {}
        self._seen_before = seen
        self._links = Links()
        self._names: dict[str, list[str]] = {}
        self._members: dict[str, frozenset[str]] = {}
        self._mounts = mounts
        self._most_text = self._room = most_text
        self._now = time.time_ns()
        self._output = output

    def still_holds(self) -> bool:
        """Tell whether every link that was followed still leads to the same place."""
        return self._links.still_hold()

    def _real(self, path: str) -> str:
        real = self._links.follow(path)
        for folder in self._links.folders_of(path):
            self._watch(folder)
        return real

    def _watch(self, folder: str) -> None:
        """Watch a folder, or its nearest parent that exists."""
        if folder in self.watched:
            return
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        self.watched[folder] = None

    def names_in(self, path: str) -> list[str] | None:
        """Return the sorted names in a folder; None if it is no folder."""
        if path not in self._names:
            real = self._links.follow(path)
            if not os.path.isdir(real):
                return None
            # Not the parent: the folder's own watch reports that the folder is removed.
            for folder in (*self._links.folders_of(path)[:-1], real):
                self.watched[folder] = None
            names: list[str] = []
            with contextlib.suppress(OSError):
                names = sorted(os.listdir(real))
            self._names[path] = names
            self._members[path] = frozenset(names)
        return self._names[path]

    def files_at(self, path: str) -> list[str]:
        """Return the path itself or, for a folder, the paths in it that haproxy would read."""
        names = self.names_in(path)
        if names is None:
            return [path]
        return [os.path.join(path, name) for name in names if not name.startswith(".")]

    def matching(self, path: str) -> list[str]:
        """Return what a path stands for: itself or, if it contains ANYTHING, each existing path that matches."""
        before, anything, _ = path.partition(ANYTHING)
        if not anything:
            return [path]
        folder = os.path.dirname(before)
        pattern, slash, rest = path[len(os.path.join(folder, "")) :].partition("/")
        first, *_, last = pattern.split(ANYTHING)
        names = self.names_in(folder or ".")
        if names is None:
            # Follow it all the same, to watch where it may appear.
            self._real(folder)
        fitting = [name for name in names or () if name.startswith(first) and name[len(first) :].endswith(last)]
        return [found for name in fitting for found in self.matching(os.path.join(folder, name) + slash + rest)]

    def companions_of(self, path: str) -> list[str]:
        """Return the files that haproxy may read along with a certificate."""
        folder, name = os.path.split(path)
        folder = folder or "."
        if not name or self.names_in(folder) is None:
            return []
        there = self._members[folder]
        bare = name.removesuffix(".crt")
        bases = (name,) if bare == name else (name, bare)
        extras = COMPANIONS + _COMPANIONS_OF_KINDS if name not in there else COMPANIONS
        where = os.path.dirname(path)
        return [os.path.join(where, base + extra) for base in bases for extra in extras if base + extra in there]

    def content_of(self, path: str) -> tuple[bytes | None, str]:
        """Return a regular file's content or None, and what is wrong with it, or ""."""
        try:
            descriptor = _open_regular(self._real(path))
        except OSError as error:
            return None, f"cannot be read: {error.strerror}"
        if descriptor is None:
            return None, ""
        try:
            status = os.fstat(descriptor)
            self._watch_file(path, status, always=True)
            content = _read_content(descriptor, self._room) if status.st_size <= self._room else None
        except OSError as error:
            return None, f"cannot be read: {error.strerror}"
        finally:
            os.close(descriptor)
        if content is None:
            # Parts of it are useless, and parsing all of it takes many times as much memory.
            return None, f"is too large: the files given with -f may have {self._most_text >> 20} MiB together"
        self._room -= len(content)
        return content, ""

    def text_of(self, path: str) -> bytes:
        """Return the content of a certificate or key, 1 MiB at most; empty if it cannot be read."""
        try:
            descriptor = _open_regular(self._real(path))
        except OSError:
            return b""
        if descriptor is None:
            return b""
        with open(descriptor, "rb") as file, contextlib.suppress(OSError):
            return file.read(_MOST_OF_A_CERTIFICATE)
        return b""

    def leads_to(self, path: str, files: Collection[str]) -> bool:
        """Tell whether a path leads to one of these files, or to any instance's file in a state directory."""
        real = self._real(path)
        return real in files or real.endswith(STATE_SUFFIX)

    def digest_of(self, path: str) -> bytes | None:
        """Return the digest of a regular file; None if there is no such file.

        For a file that cannot be read it is the reason, so that becoming readable is a change.
        """
        real = self._real(path)
        try:
            status = os.stat(real)
        except OSError as error:
            return None if isinstance(error, FileNotFoundError | NotADirectoryError) else _reason_of(error)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in self._output:
            return None
        self._watch_file(path, status)
        seen = self._seen_before.get(path)
        if seen is None or seen.mark != _mark_of(status):
            try:
                seen = _digest_of(real)
            except OSError as error:
                return _reason_of(error)
        if seen is None:
            return None
        if self._now - status.st_ctime_ns > SETTLED_NS:
            self.seen[path] = seen
        return seen.digest

    def _watch_file(self, path: str, status: os.stat_result, *, always: bool = False) -> None:
        real = self._real(path)
        if always or status.st_nlink != 1 or self._mounts.is_mount(real):
            self.watched[real] = None

    def is_stale(self, path: str) -> bool:
        """Tell whether the source of the mount at or above a path has been deleted."""
        return self._mounts.is_deleted(self._real(path))

    def is_polled(self) -> bool:
        """Tell whether something watched is on a file system that may change without a report."""
        return any(self._mounts.kind_of(path) not in REPORTING for path in self.watched)


def _open_regular(path: str) -> int | None:
    """Open a regular file; None for anything else: haproxy could not read the same data from it again."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return None
    # Non-blocking: it may have become a pipe since.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _read_content(descriptor: int, most: int) -> bytes | None:
    """Return the content; None if it is longer than `most`, which the file's size does not always tell."""
    pieces = []
    while piece := os.read(descriptor, _TEXT_PIECE):
        pieces.append(piece)
        most -= len(piece)
        if most < 0:
            return None
    return b"".join(pieces)


def output() -> set[tuple[int, int]]:
    """Return the files that our output goes to. They do not count: a log line would be a change."""
    found = set()
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            found.add((status.st_dev, status.st_ino))
    return found


def _mark_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes if a file is written or replaced."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest_of(path: str) -> Seen | None:
    descriptor = _open_regular(path)
    if descriptor is None:
        return None
    try:
        mark = _mark_of(os.fstat(descriptor))  # first: a write while we read changes the mark
        content = sha256()
        while piece := os.read(descriptor, _PIECE):
            content.update(piece)
    finally:
        os.close(descriptor)
    return Seen(mark, content.digest())


def _reason_of(error: OSError) -> bytes:
    """Return why a file cannot be read, in the place of its digest."""
    return os.strerror(error.errno or 0).encode()


def counted(path: str, digest: bytes) -> bytes:
    """Return a name and a digest, each with its length, so that different ones cannot be joined to equal bytes."""
    name = os.fsencode(path)
    return b"%d:%b%d:%b" % (len(name), name, len(digest), digest)
