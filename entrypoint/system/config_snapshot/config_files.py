"""What the files of a configuration hold at one moment."""

import contextlib
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from entrypoint.haproxy.file_names import ANYTHING, Named
from entrypoint.haproxy.key_pairs import fits
from entrypoint.haproxy.referenced_files import named_by, named_in
from entrypoint.lean.hashing import sha256
from entrypoint.lean.record import replace
from entrypoint.system.config_snapshot.content import (
    SETTLED_NS,
    Seen,
    counted,
    digest_of,
    mark_of,
    open_regular,
    output,
    read_content,
    reason_of,
)
from entrypoint.system.config_snapshot.links import Links
from entrypoint.system.config_snapshot.mounts import REPORTING, Mounts
from entrypoint.system.config_snapshot.snapshot import Contents

_TRIES = 5
"""How often a set of files that changes while it is read is read again."""
MOST_TEXT = 32 << 20
"""Bytes of all files given with -f together. HAProxy 3.1 and later refuse a file of more than 10 MiB."""
_COMPANIONS = (".key", ".ocsp", ".issuer", ".sctl", ".rsa", ".dsa", ".ecdsa")
"""What haproxy looks for beside a certificate without being told to (manual, ssl-load-extra-files)."""
_COMPANIONS_OF_KINDS = tuple(kind + extra for kind in (".rsa", ".dsa", ".ecdsa") for extra in _COMPANIONS[:4])
STATE_SUFFIX = ".last-known-good"
"""What the files of a state directory (`system.kept`) end with."""


class ConfigFiles:
    """The files that count, and what is remembered of them so that large ones are read only once."""

    def __init__(
        self,
        configurations: Sequence[str],
        folder: str | None,
        extra: Sequence[str],
        variables: Mapping[str, str],
        *,
        follow: bool = True,
        ours: Collection[str] = (),
        most_text: int = MOST_TEXT,
    ) -> None:
        """Take what to read. Nothing is touched yet.

        Args:
            configurations: haproxy's -f arguments, files and folders.
            folder: haproxy's -C, which relative paths are relative to; None for the working directory.
            extra: more files, and folders all of whose files count: one level, names with a leading dot excepted.
            variables: haproxy's environment.
            follow: whether the files that the configuration names count.
            ours: files that we write ourselves, and that never count.
            most_text: how many bytes the files given with -f may have together.

        """
        self._configurations = tuple(configurations)
        self._folder = folder or ""
        self._extra = tuple(extra)
        self._variables = variables
        self._follow = follow
        self._ours = tuple(ours)
        self._output = output()
        self.most_text = most_text
        self.watched: tuple[str, ...] = ()
        """What `read` has come upon, also where it could not be finished."""
        self._seen: dict[str, Seen] = {}
        self._mounts = Mounts()
        self._names: tuple[object, Named] = (None, Named((), ()))
        self._entries: dict[object, Named] = {}
        self._fitting: dict[object, bool] = {}

    def read(self) -> Contents:
        """Return what is there now, all of it as it was between two points in time at which no link had changed.

        Kubernetes publishes all files of a volume by one symbolic link, `..data`. So each link is resolved once, and
        everything is read through what it said; if one says something else afterwards, all is read again. (That
        holds for any scheme with links. What is overwritten in place has no such moment.)
        """
        for _ in range(_TRIES):
            self._mounts.look()
            look = _Look(self._seen, self._mounts, self._output, self.most_text)
            try:
                contents = self._read_through(look)
            except OSError as error:
                # Of no file, but of where we are: the working directory has been deleted.
                problem = f"{', '.join(self._configurations)} cannot be looked for: {error.strerror}"
                return Contents((), "", (), (), problem, (), polled=True)
            finally:
                self.watched = tuple(look.watched)
            if look.still_holds():
                self._seen = look.seen
                return contents
        problem = f"the links to {', '.join(self._configurations)} changed {_TRIES} times while they were followed"
        return replace(contents, unreadable=problem)

    def _read_through(self, look: "_Look") -> Contents:
        records: list[bytes] = []
        files: dict[str, None] = {}
        kept: list[tuple[str, bytes]] = []
        problems: list[str] = []
        incomplete: list[str] = []
        given: list[tuple[str, bytes, bytes]] = []
        for name in self._configuration_files(look):
            path = self._at(name)
            files[path] = None
            content, problem = look.content_of(path)
            if problem:
                problems.append(f"{path} {problem}")
            if content is None:
                records.append(counted(path, problem.encode()))
                continue
            if not content:
                incomplete.append(f"{path} is empty")
            digest = sha256(content).digest()
            kept.append((path, content))
            given.append((name, digest, content))
            records.append(counted(path, digest))
        if not files:
            problems.append(f"no *.cfg file in {', '.join(self._configurations) or 'nothing'}")
        ours = {os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in self._ours}
        pairs: dict[tuple[str, str], None] = {}
        for path in self._others(look, given, pairs):
            for file in look.files_at(path):
                if file in files or look.leads_to(file, ours):
                    continue
                found = look.digest_of(file)
                if found is not None:
                    files[file] = None
                    records.append(counted(file, found))
        incomplete += self._not_fitting(look, pairs)
        stale = tuple(file for file in files if look.is_stale(file))
        return Contents(
            tuple(kept),
            sha256(b"".join(records)).hexdigest(),
            tuple(look.watched),
            tuple(files),
            problems[0] if problems else None,
            stale,
            look.is_polled(),
            tuple(incomplete),
        )

    def _at(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _configuration_files(self, look: "_Look") -> Iterator[str]:
        """Yield what haproxy reads for its -f arguments: of a folder its *.cfg, in order (haproxy(1))."""
        for name in self._configurations:
            names = look.names_in(self._at(name))
            if names is None:
                yield name
            else:
                yield from (os.path.join(name, n) for n in names if n.endswith(".cfg") and not n.startswith("."))

    def _not_fitting(self, look: "_Look", pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Yield a line for each key that is named for a certificate and does not fit it."""
        fitting: dict[object, bool] = {}
        for certificate, key in pairs:
            if ANYTHING in certificate + key:
                continue
            known = look.digest_of(certificate), look.digest_of(key)
            if known not in fitting:
                fitting[known] = self._fitting.get(known) or fits(
                    look.content_of(certificate)[0] or b"", look.content_of(key)[0] or b""
                )
            if not fitting[known]:
                yield f"{key} does not fit {certificate}"
        self._fitting = fitting

    def _others(
        self,
        look: "_Look",
        configurations: Sequence[tuple[str, bytes, bytes]],
        pairs: dict[tuple[str, str], None],
    ) -> Iterator[str]:
        """Yield the paths of what counts besides the configuration: what it names, and what was asked for.

        Args:
            look: this look.
            configurations: as for `_named_by`.
            pairs: gets the certificates and the keys that are named for them.

        """
        if self._follow:
            named = self._named_by(configurations)
            entries: dict[object, Named] = {}
            pairs.update(((self._at(certificate), self._at(key)), None) for certificate, key in named.pairs)
            for name in named.files:
                yield from self._with_companions(look, name)
            naming = [(path, context) for name, context in named.naming for path in look.matching(self._at(name))]
            for path, context in naming:
                content, _ = look.content_of(path)
                key = (sha256(content or b"").digest(), context)
                entries[key] = self._entries.get(key) or named_in(content or b"", context)
                pairs.update(((self._at(one), self._at(other)), None) for one, other in entries[key].pairs)
                for entry in entries[key].files:
                    yield from self._with_companions(look, entry)
            self._entries = entries
        yield from map(self._at, self._extra)

    def _named_by(self, configurations: Sequence[tuple[str, bytes, bytes]]) -> Named:
        """Return what they name; of the same content it is the same, and large ones take a tenth of a second.

        Args:
            configurations: the name that haproxy has for each, because `default-path config` is about those; the
                digest of its content; its content.

        """
        key = tuple((name, digest) for name, digest, _ in configurations)
        if self._names[0] != key:
            named = named_by([(name, content) for name, _, content in configurations], self._variables)
            self._names = (key, named)
        return self._names[1]

    def _with_companions(self, look: "_Look", name: str) -> Iterator[str]:
        for path in look.matching(self._at(name)):
            yield path
            yield from look.companions_of(path)


class _Look:
    """One look at the disk, during which each link and each folder is looked at once."""

    def __init__(
        self, seen: Mapping[str, Seen], mounts: "Mounts", output: Collection[tuple[int, int]], most_text: int
    ) -> None:
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
        """Tell whether every link that was followed still says what it said."""
        return self._links.still_hold()

    def _real(self, path: str) -> str:
        real = self._links.follow(path)
        for folder in self._links.folders_of(path):
            self._watch(folder)
        return real

    def _watch(self, folder: str) -> None:
        """Watch a folder, or of its parents the nearest that is there."""
        if folder in self.watched:
            return
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        self.watched[folder] = None

    def names_in(self, path: str) -> list[str] | None:
        """Return the sorted names in a folder; None if it is none."""
        if path not in self._names:
            real = self._links.follow(path)
            if not os.path.isdir(real):
                return None
            # Not the folder that it is in: should this one go, its own watch says so.
            for folder in (*self._links.folders_of(path)[:-1], real):
                self.watched[folder] = None
            names: list[str] = []
            with contextlib.suppress(OSError):
                names = sorted(os.listdir(real))
            self._names[path] = names
            self._members[path] = frozenset(names)
        return self._names[path]

    def files_at(self, path: str) -> list[str]:
        """Return the path itself or, of a folder, the paths in it that haproxy would look at."""
        names = self.names_in(path)
        if names is None:
            return [path]
        return [os.path.join(path, name) for name in names if not name.startswith(".")]

    def matching(self, path: str) -> list[str]:
        """Return what a path stands for: itself or, with ANYTHING in it, each of those that are there."""
        before, anything, _ = path.partition(ANYTHING)
        if not anything:
            return [path]
        folder = os.path.dirname(before)
        pattern, slash, rest = path[len(os.path.join(folder, "")) :].partition("/")
        first, *_, last = pattern.split(ANYTHING)
        names = self.names_in(folder or ".")
        if names is None:
            # It may come.
            self._real(folder)
        fitting = [name for name in names or () if name.startswith(first) and name[len(first) :].endswith(last)]
        return [found for name in fitting for found in self.matching(os.path.join(folder, name) + slash + rest)]

    def companions_of(self, path: str) -> list[str]:
        """Return the files that haproxy may look for beside a certificate."""
        folder, name = os.path.split(path)
        folder = folder or "."
        if not name or self.names_in(folder) is None:
            return []
        there = self._members[folder]
        bare = name.removesuffix(".crt")
        bases = (name,) if bare == name else (name, bare)
        extras = _COMPANIONS + _COMPANIONS_OF_KINDS if name not in there else _COMPANIONS
        where = os.path.dirname(path)
        return [os.path.join(where, base + extra) for base in bases for extra in extras if base + extra in there]

    def content_of(self, path: str) -> tuple[bytes | None, str]:
        """Return a regular file's content, or None; and what is wrong with it, or nothing."""
        try:
            descriptor = open_regular(self._real(path))
        except OSError as error:
            return None, f"cannot be read: {error.strerror}"
        if descriptor is None:
            return None, ""
        try:
            status = os.fstat(descriptor)
            self._watch_file(path, status, always=True)
            content = read_content(descriptor, self._room) if status.st_size <= self._room else None
        except OSError as error:
            return None, f"cannot be read: {error.strerror}"
        finally:
            os.close(descriptor)
        if content is None:
            # Of no use in parts, and what all of it takes in memory is many times as much.
            return None, f"is too large: all files given with -f have more than {self._most_text >> 20} MiB"
        self._room -= len(content)
        return content, ""

    def leads_to(self, path: str, files: Collection[str]) -> bool:
        """Tell whether a path leads to one of these files; or to what a state directory keeps, whosever it is."""
        real = self._real(path)
        return real in files or real.endswith(STATE_SUFFIX)

    def digest_of(self, path: str) -> bytes | None:
        """Return the digest of a regular file; None if there is no such file.

        One that is there and cannot be read counts by the reason, so that it is a change when it can.
        """
        real = self._real(path)
        try:
            status = os.stat(real)
        except OSError as error:
            return None if isinstance(error, FileNotFoundError | NotADirectoryError) else reason_of(error)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in self._output:
            return None
        self._watch_file(path, status)
        seen = self._seen_before.get(path)
        if seen is None or seen.mark != mark_of(status):
            try:
                seen = digest_of(real)
            except OSError as error:
                return reason_of(error)
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
        """Tell whether what is mounted at or above a path has been deleted where it came from."""
        return self._mounts.is_deleted(self._real(path))

    def is_polled(self) -> bool:
        """Tell whether something that is watched is where changes may come unreported."""
        return any(self._mounts.kind_of(path) not in REPORTING for path in self.watched)
