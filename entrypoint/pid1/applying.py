"""Gives changed files to the current generation over its private CLI; runs in the reader process.

What haproxy says that it has loaded decides what a file is for. Before anything is sent there is a plan: every changed
file has its place in it, or there is a reload. After each file haproxy is asked what it has now.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from entrypoint.core.look import Outcome
from entrypoint.haproxy import file_updates as updates
from entrypoint.haproxy.config_text import mentioned
from entrypoint.haproxy.file_names import Store
from entrypoint.haproxy.file_updates import CannotError, Parts, RefusedError
from entrypoint.haproxy.key_pairs import has_key
from entrypoint.haproxy.loaded_files import LISTS, Loaded, escaped, loaded
from entrypoint.lean.hashing import sha256
from entrypoint.lean.one_line import one_line, reason
from entrypoint.lean.record import record, replace
from entrypoint.system.config_snapshot import ConfigFiles, ConfigSnapshot, digest_of_all
from entrypoint.system.config_snapshot.look import COMPANIONS
from entrypoint.system.haproxy_cli import CliChannel

_WITHIN = 8.0
"""Seconds for everything; less than `core.state.APPLY_WITHIN`."""
_MOST_CONTENT = 8 << 20
"""Bytes of a file. `show map` adds 17 to each line, and has to stay below `haproxy_cli.MOST_ANSWERED`."""
_KINDS = ("key", "issuer", "ocsp", "sctl")
"""The files of a certificate besides itself, and their extensions beside it."""
_SELECTS, _STRIPS = "ssl-load-extra-files", "ssl-load-extra-del-ext"
"""With the first one haproxy looks for fewer files beside a certificate; with the second for a.key beside a.crt."""
_DIFFERS = "haproxy has something else now than the file"
_UNDONE_WITHIN = 1.0
"""Seconds for each command that takes back what was begun."""
_AS_IT_IS = ("utf-8", "surrogateescape")
_PARTLY = b"partly taken"
"""In place of the digest of a file that not all have taken that use it."""


@record(frozen=True)
class _Job:
    """One transaction."""

    run: Callable[[], None]
    paths: tuple[str, ...]
    """The changed files that it is about."""


def reported(channel: CliChannel, disk: ConfigFiles, named: Collection[str]) -> Iterator[str]:
    """Yield the files that haproxy has loaded, as it says, and that are not among those that the configuration names.

    Raises:
        OSError: haproxy does not answer.

    """
    real: set[str] = set()
    for name in _loaded(channel, time.monotonic() + _WITHIN).names():
        path = disk.at(name)
        if path in named or not os.path.isfile(path):
            continue
        real = real or {*map(os.path.realpath, named)}
        if os.path.realpath(path) not in real:
            yield name


def _loaded(channel: CliChannel, until: float) -> Loaded:
    ask = {field: channel.call(command, until=until) for field, command in LISTS.items()}
    return loaded({field: answer.decode("utf-8", "surrogateescape") for field, answer in ask.items()})


def apply(
    channel: CliChannel, disk: ConfigFiles, before: ConfigSnapshot, now: ConfigSnapshot
) -> tuple[Outcome, ConfigSnapshot]:
    """Give haproxy what has changed.

    Args:
        channel: to haproxy's private CLI.
        disk: knows where the files are.
        before: what haproxy runs.
        now: what is on disk.

    Returns:
        What became of it, and what haproxy runs now.

    """
    began = time.monotonic()
    files = {**before.digests, **now.digests}
    changed = [path for path in files if before.digests.get(path) != now.digests.get(path)]
    begun: set[str] = set()
    """Files of which something was taken."""
    failed: set[str] = set()
    problem, refused = "", False
    try:
        for job in _Plan(channel, disk, before, now, began + _WITHIN).jobs(changed):
            failed = set(job.paths)
            job.run()
            begun |= failed
            failed = set()
    except RefusedError as error:
        problem, refused = str(error), True
    except CannotError as error:
        problem = str(error)
    except (OSError, ValueError, MemoryError) as error:
        problem = f"{reason(error) if isinstance(error, OSError) else error or 'there is not enough memory'}"
    if not begun:
        return Outcome(problem=one_line(problem), refused=refused), before
    taken = tuple(path for path in changed if path in begun) if not problem else ()
    runs = now
    if problem:
        # What comes after the one that failed was not begun.
        done = {path: now.digests.get(path) for path in begun - failed}
        digests = {path: digest for path, digest in {**before.digests, **done}.items() if digest is not None}
        digests.update(dict.fromkeys(begun & failed, _PARTLY))
        runs, taken = replace(before, digests=digests, digest=digest_of_all(digests)), tuple(done)
    seconds = time.monotonic() - began
    return Outcome(runs.digest, taken, seconds, one_line(problem), refused), runs


@record(frozen=True)
class _Certificate:
    """A certificate with the paths of its files."""

    store: Store
    beside: bool
    """haproxy has found the others beside it: they were not named."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths."""
        return self.store.crt, *(path for kind in _KINDS if (path := getattr(self.store, kind)))


class _Plan:
    """Makes the transactions for changed files."""

    def __init__(
        self, channel: CliChannel, disk: ConfigFiles, before: ConfigSnapshot, now: ConfigSnapshot, until: float
    ) -> None:
        self._channel = channel
        self._disk = disk
        self._before = before
        self._now = now
        self._until = until
        self._loaded = _loaded(channel, until)
        words = mentioned((text for _, text in now.texts), (_SELECTS, _STRIPS))
        self._selects, self._strips = _SELECTS in words, _STRIPS in words

    def jobs(self, changed: Sequence[str]) -> list[_Job]:
        """Return one for each transaction, in their order.

        Raises:
            CannotError: one of the files needs a reload.

        """
        lists = [self._crt_list(name, path) for name, path in self._named(self._loaded.crt_lists, changed)]
        of_lists = {path for job in lists for path in job.paths}
        jobs = [*self._certificates({*changed} - of_lists), *lists]
        for name, path in self._named(self._loaded.authorities, changed):
            jobs.append(_Job(lambda name=name, path=path: self._set_authorities(name, path), (path,)))  # type: ignore[misc]
        for name, path in self._named(self._loaded.revocations, changed):
            jobs.append(_Job(lambda name=name, path=path: self._set_revocations(name, path), (path,)))  # type: ignore[misc]
        for name, path in self._named(self._loaded.maps, changed):
            jobs.append(_Job(lambda name=name, path=path: self._set_patterns("map", name, path), (path,)))  # type: ignore[misc]
        for name, path in self._named(self._loaded.acls, changed):
            jobs.append(_Job(lambda name=name, path=path: self._set_patterns("acl", name, path), (path,)))  # type: ignore[misc]
        known = {path for job in jobs for path in job.paths}
        for path in changed:
            if path not in known:
                raise CannotError(f"{path} is nothing that haproxy can take while it runs")
        return jobs

    def _named(self, names: Iterable[str], changed: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the name and the path of each of these that has changed."""
        paths = set(changed)
        yield from ((name, path) for name in names if (path := self._disk.at(name)) in paths)

    # ---- the CLI and the disk ----------------------------------------------------------------------------------------

    def _call(self, command: str, payload: bytes = b"") -> str:
        answer = self._channel.call(command, payload, until=self._until)
        return answer.decode("utf-8", "surrogateescape").strip()

    def _content(self, path: str) -> bytes:
        """Return what the snapshot has of this file; empty if it has no such file.

        Raises:
            CannotError: it has changed since, or is too large.
            OSError: it cannot be read.

        """
        if path not in self._now.digests:
            return b""
        with open(path, "rb") as file:
            text = file.read(_MOST_CONTENT + 1)
        if len(text) > _MOST_CONTENT:
            raise CannotError(f"it has more than {_MOST_CONTENT >> 20} MiB")
        if sha256(text).digest() != self._now.digests[path]:
            raise CannotError("it has changed again")
        return text

    @contextlib.contextmanager
    def _transaction(self, path: str, *undo: str) -> Iterator[list[str]]:
        """Give a list of commands, which are sent if the block fails; errors name the file."""
        commands = [*undo]
        try:
            yield commands
        except BaseException as error:
            for command in reversed(commands):
                with contextlib.suppress(OSError):
                    self._channel.call(command, until=time.monotonic() + _UNDONE_WITHIN)
            if isinstance(error, RefusedError | CannotError):
                raise type(error)(f"{path}: {error}") from None
            raise

    # ---- certificates ------------------------------------------------------------------------------------------------

    def _certificates(self, changed: Collection[str]) -> Iterator[_Job]:
        names = {self._disk.at(name): name for name in self._loaded.certificates if not name.startswith("@")}
        found = {}
        for path in changed:
            bare = path.rpartition(".")[0] if path.endswith(COMPANIONS) else path
            for one in (path, bare, *([f"{bare}.crt"] if self._strips else [])):
                if one in names:
                    found[names[one]] = self._with_companions(names[one])
        # What names its files has no others.
        found.update({store.name: _Certificate(store, beside=False) for store in self._naming_others()})
        for certificate in found.values():
            concerned = tuple(path for path in certificate.paths if path in changed)
            if concerned:
                yield _Job(lambda it=certificate: self._set_certificate(it), concerned)  # type: ignore[misc]

    def _naming_others(self) -> Iterator[Store]:
        """Yield the certificates whose files are all named, with their paths."""
        found: dict[str, Store] = {}
        for store in self._now.stores:
            is_whole = store.names_others or store.name.startswith("@")
            if store.name in self._loaded.certificates and is_whole and found.setdefault(store.name, store) != store:
                raise CannotError(f"the configuration has two different certificates {store.name}")
        for store in found.values():
            others = {kind: self._disk.at(getattr(store, kind)) for kind in _KINDS if getattr(store, kind)}
            yield Store(store.name, self._disk.at(store.crt), **others)

    def _with_companions(self, name: str) -> _Certificate:
        """Return a certificate with what haproxy finds beside it."""
        path = self._disk.at(name)
        bare = path.removesuffix(".crt") if self._strips else path
        files = {**self._before.digests, **self._now.digests}
        others = {kind: f"{bare}.{kind}" for kind in _KINDS if f"{bare}.{kind}" in files}
        if others and self._selects:
            raise CannotError(f"{path} has files beside it, and the configuration has {_SELECTS}")
        return _Certificate(Store(name, path, **others), beside=True)

    def _set_certificate(self, certificate: _Certificate) -> None:
        store = certificate.store
        name = escaped(store.name)
        with self._transaction(store.crt, f"abort ssl cert {name}"):
            parts = Parts(self._content(store.crt), *(self._content(getattr(store, kind)) for kind in _KINDS))
            if certificate.beside:
                # haproxy opens these only if it needs them.
                key = b"" if has_key(parts.certificate) else parts.key
                parts = replace(parts, key=key, issuer=parts.issuer if parts.ocsp else b"")
            for command, payload in updates.set_certificate(name, parts):
                updates.has_taken(self._call(command, payload), refusable=True)
            updates.has_committed(self._call(f"commit ssl cert {name}"), refusable=True)
            shown = updates.shown_fingerprints(self._call(f"show ssl cert {name}"))
            if shown[:1] != [updates.fingerprint(parts.certificate)]:
                raise CannotError(_DIFFERS)

    # ---- crt-lists ---------------------------------------------------------------------------------------------------

    def _crt_list(self, name: str, path: str) -> _Job:
        before, now = self._before.crt_lists.get(path), self._now.crt_lists.get(path)
        if before is None or now is None:
            raise CannotError(f"{path} was not, or is not, a crt-list")
        try:
            change = updates.list_change(before, now)
            added = [(line, self._in_list(line, self._now)) for line in change.added]
            removed = [self._in_list(line, self._before) for line in change.removed]
        except CannotError as error:
            raise CannotError(f"{path}: {error}") from None
        paths = [path, *(one for _, certificate in added for one in certificate.paths)]
        paths += [one for certificate in removed for one in certificate.paths if one not in self._now.digests]
        return _Job(lambda: self._edit_crt_list(name, path, added, removed), tuple(paths))

    def _in_list(self, line: str, snapshot: ConfigSnapshot) -> _Certificate:
        """Return the certificate of a line of a crt-list."""
        word, _, _ = line.partition(" ")
        found = {store for store in snapshot.stores if store.name == word or store.name.endswith(f"/{word}")}
        if len(found) != 1 or word.startswith("@") or any(store.names_others for store in found):
            raise CannotError(f"{word} is not a file alone")
        return self._with_companions(found.pop().name)

    def _edit_crt_list(
        self, name: str, path: str, added: Sequence[tuple[str, _Certificate]], removed: Sequence[_Certificate]
    ) -> None:
        there, listed = {*self._loaded.certificates}, escaped(name)
        with self._transaction(path) as undo:
            for line, certificate in added:
                one = escaped(certificate.store.name)
                if certificate.store.name not in there:
                    there.add(certificate.store.name)
                    updates.has_said(self._call(f"new ssl cert {one}"), "New empty certificate store")
                    undo.append(f"del ssl cert {one}")
                    self._set_certificate(certificate)
                updates.has_said(self._call(f"add ssl crt-list {listed}", line.encode(*_AS_IT_IS)), "Success!")
                undo.append(f"del ssl crt-list {listed} {one}")
            undo.clear()
            for certificate in removed:
                one = escaped(certificate.store.name)
                updates.has_said(self._call(f"del ssl crt-list {listed} {one}"), "deleted in crtlist")
                # Another list may have it, too.
                self._call(f"del ssl cert {one}")
            shown = updates.shown_in_list(self._call(f"show ssl crt-list {listed}"))
            wanted = [self._in_list(line, self._now).store.name for line in updates.list_lines(self._content(path))]
            if shown != wanted:
                raise CannotError(_DIFFERS)

    # ---- CA and CRL files --------------------------------------------------------------------------------------------

    def _set_authorities(self, name: str, path: str) -> None:
        one = escaped(name)
        with self._transaction(path, f"abort ssl ca-file {one}"):
            text = self._content(path)
            first = True
            for payload in updates.in_payloads(updates.authorities(text)):
                answer = self._call(f"{'set' if first else 'add'} ssl ca-file {one}", payload)
                updates.has_taken(answer, refusable=False)
                first = False
            updates.has_committed(self._call(f"commit ssl ca-file {one}"), refusable=False)
            shown = updates.shown_fingerprints(self._call(f"show ssl ca-file {one}"))
            if {*shown} != {*updates.fingerprints(text)}:
                raise CannotError(_DIFFERS)

    def _set_revocations(self, name: str, path: str) -> None:
        one = escaped(name)
        with self._transaction(path, f"abort ssl crl-file {one}"):
            lists = updates.revocations(self._content(path))
            updates.has_taken(self._call(f"set ssl crl-file {one}", b"".join(lists)), refusable=False)
            wanted = updates.shown_revocations(self._call(f"show ssl crl-file *{one}"))
            updates.has_committed(self._call(f"commit ssl crl-file {one}"), refusable=False)
            shown = updates.shown_revocations(self._call(f"show ssl crl-file {one}"))
            if shown != wanted or len(shown) != len(lists):
                raise CannotError(_DIFFERS)

    # ---- maps and ACL files ------------------------------------------------------------------------------------------

    def _set_patterns(self, kind: str, name: str, path: str) -> None:
        if name in self._loaded.maps and name in self._loaded.acls:
            raise CannotError(f"{path} is a map and an ACL file at once")
        number = (self._loaded.maps if kind == "map" else self._loaded.acls)[name]
        with self._transaction(path) as undo:
            entries = updates.entries(kind, self._content(path))
            version = updates.new_version(self._call(f"prepare {kind} {number}"))
            undo.append(f"clear {kind} @{version} {number}")
            for command, payload in updates.add(kind, number, version, entries):
                updates.has_done(self._call(command, payload))
            updates.has_done(self._call(f"commit {kind} @{version} {number}"))
            undo.clear()
            if updates.shown_entries(self._channel.call(f"show {kind} {number}", until=self._until)) != entries:
                raise CannotError(_DIFFERS)
