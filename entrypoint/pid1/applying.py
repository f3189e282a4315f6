"""Gives changed files to the current generation over its private CLI; runs in the reader process.

What haproxy says that it has loaded decides what a file is for. Before anything is sent there is a plan: every changed
file has its place in it, or there is a reload.
"""

from __future__ import annotations

import os
import time
from functools import partial

from entrypoint.core.look import Known
from entrypoint.core.outcome import Outcome
from entrypoint.haproxy import file_updates as updates
from entrypoint.haproxy import runtime_api
from entrypoint.haproxy.config_text import mentioned
from entrypoint.haproxy.file_names import Store
from entrypoint.haproxy.file_updates import CannotError, RefusedError
from entrypoint.haproxy.loaded_files import LISTS, Loaded, loaded
from entrypoint.lean.collections import Callable, Collection, Iterable, Iterator, Sequence
from entrypoint.lean.hashing import sha256
from entrypoint.lean.one_line import one_line, reason
from entrypoint.lean.record import record, replace
from entrypoint.pid1.transactions import Certificate, Transactions
from entrypoint.system.config_snapshot import ConfigFiles, ConfigSnapshot, changed_files, digest_of_all
from entrypoint.system.config_snapshot.look import COMPANIONS
from entrypoint.system.haproxy_cli import CliChannel

_WITHIN = 8.0
"""Seconds for everything; less than `core.state.APPLY_WITHIN`."""
_MOST_CONTENT = 8 << 20
"""Bytes of a file: `show map` says more than it has, and has to stay below `haproxy_cli.MOST_ANSWERED`."""
_KINDS = ("key", "issuer", "ocsp", "sctl")
"""The files of a certificate besides itself, and their extensions beside it."""
_SELECTS, _STRIPS, _MOVES = "ssl-load-extra-files", "ssl-load-extra-del-ext", "default-path"
"""With the first haproxy looks for fewer files beside a certificate; with the second for a.key beside a.crt; with the
third relative names are not relative to its working directory."""
_PARTLY = b"partly taken"
"""In place of the digest of a file that not all have taken that use it, or that may have been taken."""
_RELINKS = (3, 2, 8)
"""From this version on, a certificate reaches every `bind` also after a CA or CRL file was set. Before, haproxy says
"Success!", but some go on with the old one, and the next CA file may end haproxy (haproxy/haproxy#3165; seen with 2.6
and 3.0.11, not with 3.2.26)."""


@record(frozen=True)
class _Job:
    """One transaction."""

    run: Callable[[], None]
    paths: tuple[str, ...]
    """The changed files that it is about."""
    is_certificate: bool = False
    is_authority: bool = False


def reported(channel: CliChannel, disk: ConfigFiles, named: ConfigSnapshot) -> Iterator[str]:
    """Yield the files that haproxy has loaded, as it says, and that are not among those that the configuration names.

    A folder stands for its files.

    Raises:
        OSError: haproxy does not answer.

    """
    moves = mentioned((text for _, text in named.texts), (_MOVES,))
    real: set[str] = set()
    for name in _loaded(channel, time.monotonic() + _WITHIN).names():
        path = disk.at(name)
        if path in named.digests or (moves and not name.startswith("/")):
            continue
        real = real or {*map(os.path.realpath, named.digests)}
        if any(os.path.realpath(file) not in real for file in _regular_files(path)):
            yield name


def _regular_files(path: str) -> Iterator[str]:
    files = [path]
    if os.path.isdir(path):
        files = [os.path.join(path, name) for name in os.listdir(path) if not name.startswith(".")]
    yield from filter(os.path.isfile, files)


def _loaded(channel: CliChannel, until: float) -> Loaded:
    answers = {field: channel.call(command, until=until) for field, command in LISTS.items()}
    return loaded({field: answer.decode("utf-8", "surrogateescape") for field, answer in answers.items()})


def _version(channel: CliChannel, until: float) -> tuple[int, ...]:
    """Return haproxy's version; without a development version's number."""
    text = runtime_api.version(channel.call(runtime_api.WHO, until=until).decode(errors="replace"))
    numbers = text.partition("-")[0].split(".")
    return tuple(int(number) for number in numbers if number.isdigit())


def apply(
    channel: CliChannel, disk: ConfigFiles, known: Known, before: ConfigSnapshot, now: ConfigSnapshot
) -> tuple[Outcome, ConfigSnapshot]:
    """Give haproxy what has changed.

    Args:
        channel: to haproxy's private CLI.
        disk: knows where the files are.
        known: what is known of this haproxy.
        before: what it runs.
        now: what is on disk.

    Returns:
        What became of it, and what haproxy runs now.

    """
    began = time.monotonic()
    changed = changed_files(before, now)
    begun: set[str] = set()
    """Files of which something was taken."""
    failed: set[str] = set()
    problem, refused, authorities = "", False, known.has_authorities
    plan: _Plan | None = None
    try:
        plan = _Plan(channel, disk, before, now, began + _WITHIN)
        for job in plan.jobs(changed, known):
            failed = {*job.paths}
            authorities |= job.is_authority
            job.run()
            begun |= failed
            failed = set()
    except RefusedError as error:
        problem, refused = str(error), True
    except CannotError as error:
        problem = str(error)
    except (OSError, ValueError, MemoryError) as error:
        problem = (reason(error) if isinstance(error, OSError) else str(error)) or "there is not enough memory"
    problem = one_line(problem)
    if plan and plan.is_unsure:
        begun |= failed
    if not begun:
        return Outcome(problem=problem, refused=refused, has_authorities=authorities), before
    runs, taken = now, changed
    if problem:
        taken = tuple(path for path in changed if path in begun - failed)
        digests = {**before.digests, **{path: now.digests.get(path, b"") for path in taken}}
        digests.update(dict.fromkeys(begun & failed, _PARTLY))
        digests = {path: digest for path, digest in digests.items() if digest}
        lists = {path: now.crt_lists[path] for path in taken if path in now.crt_lists}
        runs = replace(
            before,
            digests=digests,
            digest=digest_of_all(digests),
            crt_lists={**before.crt_lists, **lists},
            stores=tuple(dict.fromkeys((*before.stores, *now.stores))),
        )
    return Outcome(runs.digest, taken, time.monotonic() - began, problem, refused, authorities), runs


class _Plan:
    """Makes the transactions for changed files."""

    def __init__(
        self, channel: CliChannel, disk: ConfigFiles, before: ConfigSnapshot, now: ConfigSnapshot, until: float
    ) -> None:
        self._disk = disk
        self._before = before
        self._now = now
        self._loaded = _loaded(channel, until)
        self._is_sound = _version(channel, until) >= _RELINKS
        texts = [text for _, text in now.texts]
        words = mentioned(texts, (_SELECTS, _STRIPS, _MOVES))
        self._selects, self._strips, self._moves = _SELECTS in words, _STRIPS in words, _MOVES in words
        self._do = Transactions(channel, self._content, updates.most_of_a_payload(texts), until)

    @property
    def is_unsure(self) -> bool:
        """Whether the job that has failed may have changed what haproxy serves with."""
        return self._do.is_unsure

    def _content(self, path: str) -> bytes | None:
        """Return what the snapshot has of this file; None if it has no such file.

        Raises:
            CannotError: it has changed since, or is too large.
            OSError: it cannot be read.

        """
        if path not in self._now.digests:
            return None
        with open(path, "rb") as file:
            text = file.read(_MOST_CONTENT + 1)
        if len(text) > _MOST_CONTENT:
            raise CannotError(f"it has more than {_MOST_CONTENT >> 20} MiB")
        if sha256(text).digest() != self._now.digests[path]:
            raise CannotError("it has changed again")
        return text

    def jobs(self, changed: Sequence[str], known: Known) -> list[_Job]:
        """Return one for each transaction, in their order.

        Raises:
            CannotError: one of the files needs a reload.

        """
        has, do = self._loaded, self._do
        lists = [self._crt_list(name, path) for name, path in self._named(has.crt_lists, changed)]
        of_lists = {path for job in lists for path in job.paths}
        jobs = [*self._certificates({*changed} - of_lists), *lists]
        for names, run in ((has.authorities, do.set_authorities), (has.revocations, do.set_revocations)):
            for name, path in self._named(names, changed):
                jobs.append(_Job(partial(run, name, path), (path,), is_authority=True))
        for kind, names in (("map", has.maps), ("acl", has.acls)):
            for name, path in self._named(names, changed):
                if name in has.maps and name in has.acls:
                    raise CannotError(f"{path} is a map and an ACL file at once")
                jobs.append(_Job(partial(do.set_patterns, kind, names[name], path), (path,)))
        missing = {*changed}.difference(*(job.paths for job in jobs))
        if missing:
            raise CannotError(f"{min(missing)} is nothing that haproxy can take while it runs")
        if has.busy and any(job.is_certificate or job.is_authority for job in jobs):
            raise CannotError(f"somebody else has a transaction for {has.busy}")
        if known.has_authorities and not self._is_sound and any(job.is_certificate for job in jobs):
            raise CannotError("before HAProxy 3.2.8 a certificate set after a CA or CRL file may not reach every bind")
        return jobs

    def _named(self, names: Iterable[str], changed: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield the name and the path of each of these that has changed."""
        paths = {*changed}
        for name in names:
            path = self._disk.at(name)
            if path in paths and not (self._moves and not name.startswith("/")):
                yield name, path

    # ---- certificates ------------------------------------------------------------------------------------------------

    def _certificates(self, changed: Collection[str]) -> Iterator[_Job]:
        maybe = {*changed}
        for path in changed:
            if path.endswith(COMPANIONS):
                bare = path.rpartition(".")[0]
                maybe |= {bare, f"{bare}.crt"} if self._strips else {bare}
        found = {name: self._with_companions(name) for name, _ in self._named(self._loaded.certificates, maybe)}
        # What names its files has no others.
        found.update({store.name: Certificate(store, beside=False) for store in self._whole()})
        for one in found.values():
            concerned = tuple(path for path in one.paths if path in changed)
            if concerned:
                only_ocsp = concerned == (one.store.ocsp,) and one.store.ocsp in self._now.digests
                run = partial(self._do.set_certificate, one, only_ocsp=only_ocsp)
                yield _Job(run, concerned, is_certificate=True)

    def _whole(self) -> Iterator[Store]:
        """Yield the certificates whose files are all named, with their paths."""
        found: dict[str, Store] = {}
        for store in self._now.stores:
            is_whole = store.names_others or store.name.startswith("@")
            if store.name in self._loaded.certificates and is_whole and found.setdefault(store.name, store) != store:
                raise CannotError(f"the configuration has two different certificates {store.name}")
        for store in found.values():
            others = {kind: self._disk.at(getattr(store, kind)) for kind in _KINDS if getattr(store, kind)}
            yield Store(store.name, self._disk.at(store.crt), **others)

    def _with_companions(self, name: str) -> Certificate:
        """Return a certificate with what haproxy finds beside it."""
        path = self._disk.at(name)
        bare = path.removesuffix(".crt") if self._strips else path
        files = {**self._before.digests, **self._now.digests}
        others = {kind: f"{bare}.{kind}" for kind in _KINDS if f"{bare}.{kind}" in files}
        if others and self._selects:
            raise CannotError(f"{path} has files beside it, and the configuration has {_SELECTS}")
        return Certificate(Store(name, path, **others), beside=True)

    # ---- crt-lists ---------------------------------------------------------------------------------------------------

    def _crt_list(self, name: str, path: str) -> _Job:
        before, now = self._before.crt_lists.get(path), self._now.crt_lists.get(path)
        if before is None or now is None:
            raise CannotError(f"{path} was not, or is not, a crt-list")
        try:
            change = updates.list_change(before, now)
            added = [(line, self._in_list(line, self._now)) for line in change.added]
            removed = [self._in_list(line, self._before) for line in change.removed]
            names = [self._in_list(line, self._now).store.name for line in updates.list_lines(now)]
        except CannotError as error:
            raise CannotError(f"{path}: {error}") from None
        there, still = {*self._loaded.certificates}, {store.name for store in self._now.stores}
        new = [(line, one, one.store.name not in there) for line, one in added]
        gone = [(one.store.name, one.store.name not in still) for one in removed]
        paths = [path, *(file for _, one, is_new in new if is_new for file in one.paths)]
        paths += [file for one in removed for file in one.paths if file not in self._now.digests]
        run = partial(self._do.edit_crt_list, name, path, new, gone, names)
        return _Job(run, tuple(paths), is_certificate=True)

    def _in_list(self, line: str, snapshot: ConfigSnapshot) -> Certificate:
        """Return the certificate of a line of a crt-list."""
        word, _, _ = line.partition(" ")
        found = {store.name for store in snapshot.stores if store.name == word or store.name.endswith(f"/{word}")}
        if len(found) != 1 or any(store.names_others for store in snapshot.stores if store.name in found):
            raise CannotError(f"{word} is not one file, or names others")
        return self._with_companions(found.pop())
