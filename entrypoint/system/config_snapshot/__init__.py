"""The configuration on disk at one moment: read as a whole, and reduced to a digest."""

from __future__ import annotations

import os

from entrypoint.haproxy.file_names import ANYTHING, Kind, Named, Store
from entrypoint.haproxy.key_pairs import fits, has_certificate, has_key
from entrypoint.haproxy.referenced_files import named_by, named_in
from entrypoint.lean.collections import Collection, Iterable, Iterator, Mapping, MappingProxyType, Sequence
from entrypoint.lean.hashing import sha256
from entrypoint.lean.record import record, replace
from entrypoint.system.config_snapshot.look import COMPANIONS, Look, Seen, counted, output
from entrypoint.system.config_snapshot.paths import Mounts

_TRIES = 5
"""Files that change while they are read are read this often at most."""
MOST_TEXT = 32 << 20
"""Bytes of all files given with -f together. HAProxy 3.1 and later refuse a file of more than 10 MiB."""


@record(frozen=True)
class ConfigSnapshot:
    """The configuration on disk at one moment."""

    texts: tuple[tuple[str, bytes], ...]
    """Each regular file that the -f arguments stand for, in haproxy's order, with its content."""

    digest: str
    """SHA-256, in hex, of the names and contents of everything: equal if nothing differs."""

    watched: tuple[str, ...]
    """Files and folders to watch. The watch on a folder reports changes of the files in it, except files that are
    mounted on their own or written through another hard link. Those files are listed, too."""

    files: tuple[str, ...]
    """All files that are part of the digest, as named, including those of folders."""

    unreadable: str | None
    """One line: which -f argument is missing or unreadable, so that it is too early to act."""

    stale: tuple[str, ...]
    """Files that can never change again, because the file that was bind-mounted has been replaced at its source."""

    polled: bool
    """Whether some of it is on a file system of which the kernel does not report every change."""

    incomplete: tuple[str, ...] = ()
    """Signs that somebody is still writing, a line each; haproxy may accept the configuration all the same."""

    digests: Mapping[str, bytes] = MappingProxyType({})
    """Of the content of each of the files, or why it cannot be read."""

    fixed: frozenset[str] = frozenset()
    """Those of the files whose new content only another haproxy can read."""

    crt_lists: Mapping[str, bytes] = MappingProxyType({})
    """The content of each crt-list."""

    stores: tuple[Store, ...] = ()
    """The certificates that the configuration names; their files as the configuration has them."""


def changed_files(before: ConfigSnapshot, now: ConfigSnapshot) -> tuple[str, ...]:
    """Return the files that are new, gone, or have another content."""
    files = {**before.digests, **now.digests}
    return tuple(path for path in files if before.digests.get(path) != now.digests.get(path))


def digest_of_all(digests: Mapping[str, bytes]) -> str:
    """Return the digest of a configuration with these files."""
    digest: str = sha256(b"".join(counted(path, one) for path, one in digests.items())).hexdigest()
    return digest


class ConfigFiles:
    """The files that count. Remembers their digests, so that large ones are read only once."""

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
        """Take the arguments. Nothing is read yet.

        Args:
            configurations: haproxy's -f arguments, files and folders.
            folder: haproxy's -C, for relative paths; None for the working directory.
            extra: more files, and folders in which all files count: one level, without names that begin with a dot.
            variables: haproxy's environment.
            follow: whether the files that the configuration names count.
            ours: files that we write ourselves; they never count.
            most_text: bytes that the files given with -f may have together.

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
        """What the last `read` found to watch, even if it failed."""
        self._seen: dict[str, Seen] = {}
        self._mounts = Mounts()
        self._names: tuple[object, Named] = (None, Named((), ()))
        self._entries: dict[object, Named] = {}
        self._fitting: dict[object, bool] = {}
        self._crt_lists: dict[str, bytes] = {}

    def read(self, reported: Sequence[str] = (), before: Mapping[str, bytes] | None = None) -> ConfigSnapshot:
        """Return what is there now: all of it as it was between two points in time at which no link had changed.

        Besides what the configuration names, the `reported` files count, which haproxy says that it has read. `before`
        has the digests of an earlier snapshot: certificates that have changed since are examined.

        Kubernetes publishes all files of a volume by one symbolic link, `..data`. So each link is resolved once, and
        everything is read through the result. If a link has changed afterwards, everything is read again. This works
        for every scheme with links. Files that are overwritten in place have no consistent moment.
        """
        for _ in range(_TRIES):
            self._mounts.look()
            look = Look(self._seen, self._mounts, self._output, self.most_text)
            try:
                snapshot = self._read_through(look, reported, before)
            except OSError as error:
                # Not from a file: the working directory has been deleted.
                problem = f"{', '.join(self._configurations)} cannot be searched for: {error.strerror}"
                return ConfigSnapshot((), "", (), (), problem, (), polled=True)
            finally:
                self.watched = tuple(look.watched)
            if look.still_holds():
                self._seen = look.seen
                return snapshot
        problem = f"the links to {', '.join(self._configurations)} changed {_TRIES} times while they were followed"
        return replace(snapshot, unreadable=problem)

    def _read_through(self, look: Look, reported: Sequence[str], before: Mapping[str, bytes] | None) -> ConfigSnapshot:
        digests: dict[str, bytes] = {}
        files: dict[str, None] = {}
        problems: list[str] = []
        incomplete: list[str] = []
        given: list[tuple[str, bytes, bytes]] = []
        for name in self._configuration_files(look):
            path = self.at(name)
            files[path] = None
            content, problem = look.content_of(path)
            if problem:
                problems.append(f"{path} {problem}")
            if content is None:
                digests[path] = problem.encode()
                continue
            if not content:
                incomplete.append(f"{path} is empty")
            digest = sha256(content).digest()
            given.append((name, digest, content))
            digests[path] = digest
        fixed = set(files)
        if not files:
            problems.append(f"no *.cfg file in {', '.join(self._configurations) or 'nothing'}")
        ours = {os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in self._ours}
        stores: dict[Store, None] = {}
        for path, is_fixed in self._others(look, given, stores, reported):
            for file in look.files_at(path):
                if file not in files and not look.leads_to(file, ours):
                    found = look.digest_of(file)
                    if found is not None:
                        files[file] = None
                        digests[file] = found
                if is_fixed:
                    fixed.add(file)
        incomplete += self._without_key(look, stores, digests, before)
        return ConfigSnapshot(
            tuple((self.at(name), content) for name, _, content in given),
            digest_of_all(digests),
            tuple(look.watched),
            tuple(files),
            problems[0] if problems else None,
            tuple(file for file in files if look.is_stale(file)),
            look.is_polled(),
            tuple(incomplete),
            digests,
            frozenset(fixed),
            self._crt_lists,
            tuple(stores),
        )

    def at(self, name: str) -> str:
        """Return the path of a file that haproxy names so."""
        return os.path.join(self._folder, name)

    def _configuration_files(self, look: Look) -> Iterator[str]:
        """Yield what haproxy reads for its -f arguments: of a folder its *.cfg, in order (haproxy(1))."""
        for name in self._configurations:
            names = look.names_in(self.at(name))
            if names is None:
                yield name
            else:
                yield from (os.path.join(name, n) for n in names if n.endswith(".cfg") and not n.startswith("."))

    def _without_key(
        self, look: Look, stores: Iterable[Store], digests: Mapping[str, bytes], before: Mapping[str, bytes] | None
    ) -> Iterator[str]:
        """Yield a line for each certificate whose private key does not fit, or is missing.

        haproxy would take a key that is named and does not fit. It refuses everything else here, so that is examined
        only where it has changed. What is no certificate at all is left to haproxy.
        """
        fitting: dict[object, bool] = {}
        for store in stores:
            if ANYTHING in store.crt + store.key:
                continue
            for certificate in look.files_at(self.at(store.crt)):
                beside = [path for path in look.companions_of(certificate) if path.endswith(".key")]
                key = self.at(store.key) if store.key else next(iter(beside), "")
                known = digests.get(certificate), digests.get(key)
                is_old = before is None or known == (before.get(certificate), before.get(key))
                if known[0] is None or (is_old and not store.key) or certificate.endswith(COMPANIONS):
                    continue
                if store.key and self._fitting.get(known):
                    fitting[known] = True
                    continue
                text = look.text_of(certificate)
                if not text:
                    yield f"{certificate} is empty"
                if not has_certificate(text) or (not store.key and has_key(text)):
                    continue
                if not key:
                    yield f"{certificate} has no private key"
                    continue
                key_text = look.text_of(key)
                if not has_key(key_text):
                    yield f"{key} has no private key"
                    continue
                fitting[known] = fits(text, key_text)
                if not fitting[known]:
                    yield f"{key} does not fit {certificate}"
        self._fitting = fitting

    def _others(
        self,
        look: Look,
        configurations: Sequence[tuple[str, bytes, bytes]],
        stores: dict[Store, None],
        reported: Iterable[str],
    ) -> Iterator[tuple[str, bool]]:
        """Yield the paths that count besides the -f arguments, and whether only another haproxy can read them again.

        The certificates are added to `stores`.
        """
        if self._follow:
            named = self._named_by(configurations)
            entries: dict[object, Named] = {}
            self._crt_lists = {}
            stores.update(dict.fromkeys(named.stores))
            for name in named.files:
                yield from self._with_companions(look, name, is_fixed=name in named.fixed)
            naming = [(path, context) for name, context in named.naming for path in look.matching(self.at(name))]
            for path, context in naming:
                content, _ = look.content_of(path)
                if content is not None and context.kind is Kind.CRT_LIST:
                    self._crt_lists[path] = content
                key = (sha256(content or b"").digest(), context)
                entries[key] = found = self._entries.get(key) or named_in(content or b"", context)
                stores.update(dict.fromkeys(found.stores))
                for entry in found.files:
                    yield from self._with_companions(look, entry, is_fixed=entry in found.fixed)
            self._entries = entries
            for name in reported:
                yield from self._with_companions(look, name, is_fixed=False)
        yield from ((self.at(name), False) for name in self._extra)

    def _named_by(self, configurations: Sequence[tuple[str, bytes, bytes]]) -> Named:
        """Return what the configurations (name, digest, content) name.

        The last result is kept, because large ones take a tenth of a second. The name counts for `default-path config`.
        """
        key = tuple((name, digest) for name, digest, _ in configurations)
        if self._names[0] != key:
            named = named_by([(name, content) for name, _, content in configurations], self._variables)
            self._names = (key, named)
        return self._names[1]

    def _with_companions(self, look: Look, name: str, *, is_fixed: bool) -> Iterator[tuple[str, bool]]:
        for path in look.matching(self.at(name)):
            yield path, is_fixed
            yield from ((companion, is_fixed) for companion in look.companions_of(path))
