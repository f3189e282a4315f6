"""The reader process: reads, hashes, watches and parses the configuration files for PID 1.

How much time and memory that takes depends on the authors of the files. So this process may be killed at any moment,
and PID 1 starts another one: its state only saves time. It answers one request after the other over a socket, reports
between them that a file may have changed, and exits when the socket is closed.
"""

from __future__ import annotations

import errno
import os
import select
import time

from entrypoint.core import look
from entrypoint.haproxy import quic
from entrypoint.haproxy.config_text import (
    in_use,
    line_of_master_worker,
    mentioned,
    server_state_file,
    sharing_ticket_keys,
    tags,
)
from entrypoint.haproxy.health_checks import changed
from entrypoint.haproxy.server_state import MENTIONS
from entrypoint.lean import contextlib, signal
from entrypoint.lean.collections import Collection, Mapping
from entrypoint.lean.one_line import reason
from entrypoint.lean.record import record, replace
from entrypoint.system.config_snapshot import MOST_TEXT, ConfigFiles, ConfigSnapshot, changed_files
from entrypoint.system.confinement import confine
from entrypoint.system.files import make_folder, replace_file
from entrypoint.system.haproxy_cli import CliChannel
from entrypoint.system.inotify import Inotify
from entrypoint.system.packets import PacketSocket
from entrypoint.system.signals import PrctlError, set_parent_death_signal
from entrypoint.system.state_file import DamagedError, StateFile, contents_of, in_memory

NAME = "sr-reader"
"""The name in `ps` and `top`; not safe_reload, because `pkill safe_reload` must mean PID 1 only."""
MOST_MEMORY = 256 << 20
"""Bytes, if the control group has at least four times that."""
_SHARE_OF_TEXTS = 8
"""The -f files may use 1/8 of that memory together, because parsing takes several times their size."""

_MOST_SNAPSHOTS = 4
_BETWEEN_STIRS = 0.02
"""Seconds. A busy writer causes ten thousand events a second, and PID 1 needs one."""


@record(frozen=True)
class Task:
    """What to read."""

    disk: ConfigFiles
    state_files: Mapping[bytes, StateFile]
    """By the requests that write and read them; empty without a state directory."""
    known: Collection[str]
    """The variables that a `bind` can use, including those of VIPs."""
    watches: bool
    """Whether to watch for changes."""
    variables: Mapping[str, str]
    """haproxy's environment."""
    folder: str
    """haproxy's -C, for relative paths; empty for the working directory."""


def run(line: PacketSocket, task: Task) -> None:
    """Serve until the other end is closed."""
    most = confine(NAME, line.fileno(), MOST_MEMORY)
    with contextlib.suppress(PrctlError):
        set_parent_death_signal(signal.SIGKILL)
    _Reader(line, task, most).serve()


class _Reader:
    def __init__(self, line: PacketSocket, task: Task, most: int) -> None:
        self._line = line
        self._task = task
        self._most = most
        self._disk = task.disk
        self._disk.most_text = min(MOST_TEXT, most // _SHARE_OF_TEXTS)
        self._inotify: Inotify | None = None
        self._polling = ""
        self._server_state_file = ""
        self._snapshots: dict[str, ConfigSnapshot] = {}
        """Those that may be what the current generation runs, by digest; without texts."""

    def serve(self) -> None:
        """Answer requests, and report changes, until EOF."""
        silent_until = 0.0
        while True:
            waiting = silent_until - time.monotonic()
            ready = self._wait(waiting if waiting > 0 else None)
            if self._line.fileno() in ready:
                request, descriptor = self._line.receive(look.MOST_BYTES)
                if not request:
                    return
                self._answer(request, descriptor)
            elif ready and self._inotify and self._inotify.read():
                self._say(look.STIRRED)
                silent_until = time.monotonic() + _BETWEEN_STIRS

    def _wait(self, silent: float | None) -> set[int]:
        """Return the readable descriptors; given a number of seconds, wait for requests only, and at most so long."""
        poll = select.poll()
        poll.register(self._line.fileno(), select.POLLIN)
        if self._inotify and silent is None:
            poll.register(self._inotify.fileno(), select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(None if silent is None else silent * 1000 + 1)}

    def _say(self, kind: bytes, text: bytes = b"", descriptor: int | None = None) -> None:
        self._line.send(kind + b"\0" + text, descriptor)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _answer(self, request: bytes, descriptor: int | None) -> None:
        kind, *fields = request.split(b"\0")
        if kind == look.LOOK:
            self._look(look.known_from(fields)[0])
        elif kind == look.LOOK_WITH_TEXTS:
            known, backends = look.known_from(fields)
            self._look(known, with_texts=True, compare=(descriptor, backends))
        elif kind in {look.APPLY, look.LEARN} and descriptor is not None:
            known, _ = look.known_from(fields)
            with contextlib.closing(CliChannel(descriptor)) as channel:
                (self._apply if kind == look.APPLY else self._learn)(known, channel)
        elif request in {look.KEEP, look.KEEP_SERVERS} and descriptor is not None:
            self._keep(self._task.state_files[request], descriptor)
        elif request == look.KEEP_TABLE and descriptor is not None:
            self._keep_table(descriptor)
        elif request in {look.RESTORE, look.RESTORE_SERVERS}:
            self._restore(self._task.state_files[request])

    def _look(
        self,
        known: look.Known,
        *,
        with_texts: bool = False,
        compare: tuple[int | None, Collection[str]] = (None, ()),
    ) -> None:
        found, contents = self._read(known, compare)
        texts = in_memory(found.digest, contents.texts) if contents and with_texts and found.digest else None
        self._say(look.FOUND, look.to_message(found), texts)
        if texts is not None:
            os.close(texts)
        if compare[0] is not None:
            os.close(compare[0])
        self._watch()

    def _read(
        self, known: look.Known, compare: tuple[int | None, Collection[str]] = (None, ())
    ) -> tuple[look.Found, ConfigSnapshot | None]:
        """Read what is on disk; for the arguments see `look.LOOK_WITH_TEXTS`."""
        before = self._snapshots.get(known.digest)
        try:
            contents = self._disk.read(known.reported, before.digests if before else None)
            self._remember(known, contents)
            return self._found(contents, compare, before), contents
        except MemoryError:
            return _given_up(f"reading it takes more than {self._most >> 20} MiB of memory"), None
        except OSError as error:
            return _given_up(f"reading it: {error.strerror or error}"), None
        except Exception as error:  # noqa: BLE001  # a bug must not keep a reload waiting
            return _given_up(f"a bug in safe_reload, please report it: {error!r}"), None

    def _remember(self, known: look.Known, contents: ConfigSnapshot) -> None:
        """Remember what was there: it may become what the current generation runs."""
        if not contents.unreadable:
            self._snapshots.pop(contents.digest, None)
            self._snapshots[contents.digest] = replace(contents, texts=())
        others = [digest for digest in self._snapshots if digest != known.digest]
        for digest in others[:-_MOST_SNAPSHOTS]:
            del self._snapshots[digest]

    def _apply(self, known: look.Known, channel: CliChannel) -> None:
        """Give the current generation what has changed on disk since it has read it."""
        from entrypoint.core.outcome import Outcome, outcome_to_message  # noqa: PLC0415  # the first look does not wait
        from entrypoint.pid1 import applying  # noqa: PLC0415

        found, contents = self._read(known)
        before, texts = self._snapshots.get(known.digest), None
        if not contents or not found.digest:
            outcome = Outcome(problem=found.unreadable)
        elif found.digest == known.digest:
            # It is again what it was.
            outcome = Outcome()
        elif not before:
            outcome = Outcome(problem="what the current generation has read is not known")
        elif not found.applicable:
            outcome = Outcome(problem="more has changed meanwhile")
        else:
            outcome, runs = applying.apply(channel, self._disk, known, before, contents)
            if outcome.digest:
                self._remember(replace(known, digest=outcome.digest), runs)
                texts = in_memory(outcome.digest, contents.texts)
        self._say(look.APPLIED, outcome_to_message(outcome, found), texts)
        if texts is not None:
            os.close(texts)
        self._watch()

    def _learn(self, known: look.Known, channel: CliChannel) -> None:
        """Ask the current generation which files it has read: those that the configuration does not name count, too."""
        from entrypoint.pid1 import applying  # noqa: PLC0415  # see above

        learned = known
        try:
            named = self._disk.read() if known.reported else None
            # After that one, because the last look decides what is watched.
            _, now = self._read(known)
            if now and now.digest == known.digest:
                reported = look.first(sorted(applying.reported(channel, self._disk, named or now)))
                if reported != known.reported:
                    _, contents = self._read(replace(known, reported=reported))
                    # If anything has changed meanwhile, that is a reload.
                    if contents and not {*changed_files(now, contents)}.intersection(now.digests, contents.digests):
                        learned = replace(known, digest=contents.digest, reported=reported)
        except (OSError, MemoryError):
            # It has died, or the next look says more.
            pass
        self._say(look.LEARNED, look.known_to_message(learned))
        self._watch()

    def _found(
        self, contents: ConfigSnapshot, compare: tuple[int | None, Collection[str]], before: ConfigSnapshot | None
    ) -> look.Found:
        unreadable = contents.unreadable or ""
        texts = [text for _, text in contents.texts]
        self._server_state_file = server_state_file(texts, self._task.variables)
        unknown = {tag: None for _, text in contents.texts for tag in tags(text) if tag not in self._task.known}
        return look.Found(
            "" if unreadable else contents.digest,
            unreadable,
            polled=contents.polled,
            applicable=bool(before and not unreadable and _is_applicable(before, contents)),
            master_worker=_master_worker(contents),
            conditional_master_worker=_master_worker(contents, in_block=True),
            shared_ticket_keys=sharing_ticket_keys(contents.texts),
            count=len(contents.files),
            files=contents.files,
            stale=contents.stale,
            tags=tuple(unknown),
            incomplete=contents.incomplete,
            changed_checks=()
            if compare[0] is None
            else changed(contents_of(compare[0]), (text for _, text in contents.texts), compare[1]),
            server_state_file=self._server_state_file,
            mentions=(*mentioned(texts, MENTIONS), *in_use(texts, quic.MENTIONS)),
        )

    def _keep(self, state_file: StateFile, descriptor: int) -> None:
        problem = ""
        try:
            make_folder(state_file.folder, 0o700)
            state_file.write(descriptor)
        except OSError as error:
            problem = _unwritable(state_file.folder, error)
        finally:
            os.close(descriptor)
        self._say(look.KEPT, problem.encode("utf-8", "surrogateescape")[:1024])

    def _keep_table(self, descriptor: int) -> None:
        """Replace the file from which haproxy loads the states of servers."""
        problem, path = "", self._server_state_file
        try:
            if path:
                replace_file(os.path.join(self._task.folder, path), next(contents_of(descriptor)))
        except OSError as error:
            problem = f"{path}: {error.strerror or error}"
        finally:
            os.close(descriptor)
        self._say(look.KEPT, problem.encode("utf-8", "surrogateescape")[:1024])

    def _restore(self, state_file: StateFile) -> None:
        problem, descriptor = "", None
        try:
            descriptor = state_file.read()
        except (DamagedError, OSError, MemoryError) as error:
            problem = str(error) or "there is not enough memory to read it"
        self._say(look.RESTORED, problem.encode("utf-8", "surrogateescape")[:1024], descriptor)
        if descriptor is not None:
            os.close(descriptor)

    # ---- changes -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Watch what was read; report files that may have changed in between, or cannot be watched."""
        if not self._task.watches:
            return
        polling = ""
        try:
            if not self._inotify:
                self._inotify = Inotify()
            if not self._inotify.watch(self._disk.watched):
                polling = "not every file can be watched: --poll looks for changes as well"
            fresh = self._inotify.fresh
        except (OSError, MemoryError) as error:
            polling, fresh = f"files are checked for changes every --poll seconds: {reason(error)}", False
        if polling != self._polling:
            self._polling = polling
            self._say(look.POLLING, polling.encode("utf-8", "surrogateescape")[:1024])
        if fresh:
            self._say(look.STIRRED)


def _is_applicable(before: ConfigSnapshot, now: ConfigSnapshot) -> bool:
    files = changed_files(before, now)
    return bool(files) and not (before.fixed | now.fixed).intersection(files)


def _master_worker(contents: ConfigSnapshot, *, in_block: bool = False) -> str:
    lines = ((path, line_of_master_worker(text, in_block=in_block)) for path, text in contents.texts)
    return next((f"{path}:{line}" for path, line in lines if line), "")


def _unwritable(folder: str, error: OSError) -> str:
    """Say why the state directory cannot be written, and how to fix it."""
    what = "it is not a folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    advice = "make room there" if full else f"give a folder that uid {os.geteuid()} can write to"
    return f"{folder}: {what or error}; {advice}"


def _given_up(why: str) -> look.Found:
    return look.Found(unreadable=why, unfinished=True, polled=True)
