"""PID 1's main loop: wait, turn what happened into events, ask the core, carry out the effects.

It makes no decisions. Once the first process has been started, it must not raise either: an expected failure becomes
an event or a log line, and an unexpected one is reported while serving goes on (`runtime`).
"""

from __future__ import annotations

import gc
import math
import time

from entrypoint import __version__
from entrypoint.core import effects, events, lifecycle, retiring
from entrypoint.core.log_lines import line_of
from entrypoint.core.notices import Notice, Promoted
from entrypoint.core.state import Candidate, Current, Ended, State, timers
from entrypoint.core.upgrade_state import UpgradeState, serialize
from entrypoint.haproxy import quic
from entrypoint.lean import signal
from entrypoint.lean.collections import Callable, Collection
from entrypoint.lean.json_text import json_text
from entrypoint.lean.level import Level
from entrypoint.lean.libc import libc_functions
from entrypoint.lean.one_line import one_line
from entrypoint.lean.typing import assert_never
from entrypoint.pid1 import upgrade
from entrypoint.pid1.children import Children
from entrypoint.pid1.config_store import ConfigStore
from entrypoint.pid1.datagram_turns import DatagramTurns
from entrypoint.pid1.front import Front
from entrypoint.pid1.launch import RefusedError, exporter_spec
from entrypoint.pid1.listener_transfer import ListenerTransfer, OrdinaryListeners
from entrypoint.pid1.outcomes import Outcomes
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.published_pid import PublishedPid
from entrypoint.pid1.reexec import Reexec
from entrypoint.pid1.refusing import Refusing
from entrypoint.pid1.runtime import Retries, Runtime, is_shortage, reason_of
from entrypoint.pid1.server_states import ServerStates
from entrypoint.pid1.status import status
from entrypoint.system.signals import Arrivals

_SIGCHLD = signal.SIGCHLD


def _trimming() -> Callable[[], object]:
    """Return what gives memory that was freed back to the kernel: after a start or a reload, 100 KiB."""
    try:
        malloc_trim, _ = libc_functions("malloc_trim")
    except OSError:
        # musl does not have this function.
        return gc.collect
    return lambda: (gc.collect(), malloc_trim(0))


class Supervisor:
    """Runs the core until it has ended; owns everything that lives as long."""

    def __init__(self, state: State, parts: Parts) -> None:
        """Begin with this state; nothing is started before `run`."""
        self.state = state
        """Changed by the core only."""
        self._parts = parts
        runtime = self._runtime = Runtime(parts.logger)
        self._deadlines: dict[events.Timer, float] = {}
        self._retries = Retries(runtime)
        self._refusing = Refusing(runtime.event_loop)
        self._children = children = Children(runtime, parts.processes, to_groups=parts.settings.kill_group)
        self._turns = DatagramTurns(parts.listeners, parts.adopted, runtime.log)
        self._ordinary = OrdinaryListeners(
            parts.adopted, self._vip_inodes, runtime.log, children.may_take, self._binds_of
        )
        self._transfer = ListenerTransfer(runtime.event_loop, children.channel_of, self._ordinary, runtime.submit)
        self._servers = servers = ServerStates(runtime, children, parts, lambda: self.state)
        children.tell(taken=self._ordinary.taken, gone=self._gone, servers_changed=servers.changed)
        self._store = ConfigStore(runtime, children, parts, lambda: self.state, servers.restored)
        servers.ask = lambda number: self._carry_out(effects.AskCandidate(number))
        servers.keep, servers.keep_table = self._store.keep_servers, self._store.keep_table
        self._outcomes = Outcomes(parts, runtime.log)
        self._pid = PublishedPid(runtime, children, parts.pid_file, parts.predecessor)
        self._arrivals = Arrivals()
        self._trim = _trimming()
        self._reexec = Reexec(runtime, children, self._arrivals, parts, self._serialize)
        self._front = Front(runtime, parts, children, self._outcomes, lambda: self.state, self._status)
        runtime.event_loop.add_reader(self._arrivals, self._signals_arrived)

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        runtime = self._runtime
        runtime.submit(self._begin())
        while True:
            try:
                self._settle()
                if isinstance(self.state.stage, Ended):
                    break
                self._wait()
            except Exception as error:  # noqa: BLE001  # PID 1 may not die of it
                runtime.unexpected(error)
        runtime.isolated(self._close)
        runtime.isolated(self._pid.close)
        runtime.isolated(self._parts.logger.close)
        return self.state.stage.status

    def rehearse(self) -> None:
        """Do everything that `run` does before its first wait, but carry out no effects."""
        self.state, _ = lifecycle.step(self.state, self._begin())
        self._set_timers()
        self._decided()

    def _close(self) -> None:
        self._runtime.isolated(self._front.update, self.state)
        self._front.close()
        self._store.reader.close()

    # ---- start -------------------------------------------------------------------------------------------------------

    def _begin(self) -> events.Event:
        """Begin to serve; return the first event."""
        parts = self._parts
        if parts.saved:
            return self._resume(parts.saved)
        self._store.read_state_files()
        return events.Began(parts.listeners.descriptors(), self._turns.vips)

    def _resume(self, saved: UpgradeState) -> events.Event:
        """Restore the previous program's state; the files may have changed since it stopped watching."""
        runtime = self._runtime
        self._turns.restore(saved.datagram_turns)
        self._children.restore(saved)
        self._parts.logger.restore(saved.log)
        self._front.open()
        self._outcomes.restore(saved)
        self._servers.restore(saved)
        self._front.restore(saved)
        what = f"safe_reload {__version__} has taken over"
        if self._parts.rehearses:
            self._front.answer_upgrade(saved, "")
            json_text(self._status({}))
            return events.Stirred()
        runtime.log(effects.Log(Level.INFO, "upgraded", what))
        runtime.isolated(self._store.reader.restore, saved.readers)
        runtime.isolated(self._store.reader.look, events.Why.POLLED, 0)
        runtime.isolated(self._store.resume)
        runtime.isolated(self._let_vips_accept)
        # After this the start cannot be retried, so everything that may fail comes before.
        runtime.isolated(upgrade.close_state, self._parts.environment)
        runtime.isolated(self._front.answer_upgrade, saved, f"Success=1\n--\n{what}\n\n")
        runtime.isolated(self._front.resume, saved)
        return events.Stirred()

    def _let_vips_accept(self) -> None:
        for listen in retiring.follow(self.state):
            self._listen(listen.tags, listen.doubtful)

    def _serialize(self, client: int, *, others: bool) -> UpgradeState:
        """Return the state for the new program: see `reexec.Serialize`."""
        parts = self._parts
        listeners, adopted = parts.listeners.serialize(), parts.adopted.serialize()
        front, of_front = self._front.serialize(client, others=others)
        configurations, texts = parts.configurations.serialize()
        children = self._children.serialize()
        turns, of_turns = self._turns.serialize()
        descriptors = [*(one[1] for one in listeners), *(one[0] for one in adopted), *of_turns, *of_front, *texts]
        descriptors += [parts.ticket_keys.current[0], *children["channels"].values()]
        descriptors += [descriptor for descriptor, *_ in children["stderr_pipes"].values()]
        return UpgradeState(
            state=serialize(self.state),
            listeners=listeners,
            datagram_turns=turns,
            adopted=adopted,
            configurations=configurations,
            ticket_keys=parts.ticket_keys.current,
            readers=self._store.reader.serialize(),
            log=parts.logger.serialize(),
            descriptors=tuple(descriptors),
            **children,
            **self._outcomes.serialize(),
            servers=self._servers.serialize(),
            **front,
        )

    # ---- events ------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let the core handle all events, and carry out its effects."""
        runtime = self._runtime
        while runtime.events:
            event = runtime.events.popleft()
            try:
                self.state, decided = lifecycle.step(self.state, event)
            except Exception as error:  # noqa: BLE001  # the event, such as an exit, is retried
                runtime.unexpected(error)
                self._retries.failed(event, lambda event=event: runtime.submit(event))  # type: ignore[misc]
                continue
            if self._retries.any:
                self._retries.succeeded(event)
            for effect in decided:
                self._carry_out(effect)
            self._set_timers()
            if not runtime.events:
                runtime.isolated(self._decided)
        self._children.forget_dead()

    def _decided(self) -> None:
        """Tell systemd the new state, and forget configurations that are no longer needed."""
        self._front.open_in_time()
        # The configuration of a draining generation is never started again.
        needed = [one.number for one in self.state.generations if isinstance(one.phase, Candidate | Current)]
        self._runtime.isolated(self._parts.configurations.retain, needed)
        self._runtime.isolated(self._front.update, self.state)
        self._find_lost()

    def _find_lost(self) -> None:
        """Submit exits that were lost through a bug; otherwise the core would wait for them for ever."""
        alive, pending = self._children.alive(), (*self._runtime.events, *self._retries)
        queued = {event.number for event in pending if isinstance(event, events.Exited)}
        for one in self.state.generations:
            if one.pid is not None and one.number not in alive and one.number not in queued:
                what = f"generation {one.number} (pid {one.pid}) has exited, and its exit was lost: that is a bug"
                self._runtime.log(effects.Log(Level.ERROR, "bug", what))
                self._runtime.submit(events.Exited(one.number, -signal.SIGKILL))

    def _set_timers(self) -> None:
        now = time.monotonic()
        self._deadlines = {
            timer: self._deadlines.get(timer, now + seconds) for timer, seconds in timers(self.state).items()
        }

    def _wait(self) -> None:
        """Wait for the event loop or the next timer, and submit what happened."""
        # Again: if this failed in `_settle`, a missing timer would never fire.
        self._set_timers()
        try:
            self._runtime.wait(min(self._deadlines.values(), default=math.inf))
        finally:
            now = time.monotonic()
            for timer, due in self._deadlines.items():
                if due <= now:
                    self._runtime.submit(events.Elapsed(timer))
                    self._deadlines[timer] = math.inf

    def _signals_arrived(self) -> None:
        try:
            for signum in self._arrivals.read():
                if signum != _SIGCHLD:
                    self._runtime.isolated(self._signalled, signum)
        finally:
            # After any signal: a SIGCHLD is lost if the pipe is full, and waitpid(2) is cheap.
            self._children.reap()

    def _signalled(self, signum: int) -> None:
        try:
            self._runtime.submit(events.Signalled(signum))
        except MemoryError:
            # It arrives once more: a stop must not be lost.
            signal.raise_signal(signum)
            raise

    # ---- effects -----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: effects.Effect) -> None:
        """Carry out an effect; never raises. A failure is answered as `core.effects` says."""
        try:
            self._do(effect)
            if self._retries.any:
                self._retries.succeeded(effects.lasting(effect))
        except Exception as error:  # noqa: BLE001  # the other effects of the step must follow
            self._runtime.isolated(self._failed, effect, error)

    def _failed(self, effect: effects.Effect, error: Exception) -> None:
        why = reason_of(error)
        event, what = effects.failure_of(effect, why), effects.lasting(effect)
        if event:
            self._runtime.submit(event)
        elif what:
            self._retries.failed(what, lambda: self._carry_out(effect))
        if isinstance(error, OSError) or is_shortage(error):
            self._runtime.log(effects.Log(Level.ERROR, "system_error", f"{type(effect).__name__.lower()}: {why}"))
        else:
            self._runtime.unexpected(error)

    def _do(self, effect: effects.Effect) -> None:
        parts = self._parts
        match effect:
            case effects.Spawn():
                self._spawn(effect)
            case effects.SpawnExporter():
                spec = exporter_spec(parts.settings, parts.name, parts.environment, upgrade.own_command)
                self._children.spawn_exporter(spec)
            case effects.Ask() | effects.AskHandshakes():
                self._ask(effect)
            case effects.NoteServers(number=number) | effects.AskCandidate(number=number):
                servers = self._servers
                (servers.note if isinstance(effect, effects.NoteServers) else servers.ask_candidate)(number)
            case effects.Send(number=number, signum=signum, line=line):
                self._children.send(number, signum, line, self._carry_out)
                self._turns.leaves(number)
            case effects.Poke(tags=tags):
                self._runtime.submit(events.Poked(parts.listeners.poke(tags)))
            case effects.Listen(tags=tags, doubtful=doubtful):
                self._listen(tags, doubtful)
            case effects.ReadDatagrams():
                self._turns.begin(effect)
            case effects.Publish(pid=pid):
                parts.ticket_keys.promoted()
                self._pid.publish(pid)
            case effects.Adopt(number=number, last=last):
                self._transfer.ask(number, last=last)
            case effects.Log():
                self._runtime.log(effect)
            case effects.Tell(notice=notice):
                self._tell(notice)
            case effects.CloseVips():
                self._refusing.refuse_at(())
                self._runtime.isolated(self._servers.end)
                for close in (self._turns.close, parts.listeners.close, self._ordinary.close):
                    self._runtime.isolated(close)
            case effects.Look(why=why, number=number):
                self._store.look(why, number, self._servers.backends_down())
            case effects.Apply(number=number) | effects.Keep(number=number):
                (self._store.apply if isinstance(effect, effects.Apply) else self._store.keep)(number)
            case effects.Reply():
                self._reply(effect)
            case effects.TakeOver():
                self._pid.take_over()
            case effects.Rehearse(client=client) | effects.Upgrade(client=client):
                replace = self._reexec.rehearse if isinstance(effect, effects.Rehearse) else self._reexec.execute
                replace(client)
            case _:
                assert_never(effect)

    def _spawn(self, spawn: effects.Spawn) -> None:
        number, kept = spawn.number, spawn.kept
        try:
            prelude = self._servers.prelude(number, kept=kept)
            turn = self._turns.prepare(number, beside=self.state.current is not None)
            self._children.spawn(number, self._parts.launch.of(number, kept=kept, prelude=prelude, turn=turn))
        except BaseException as error:
            self._turns.gone(number)
            if not isinstance(error, RefusedError):
                raise
            self._runtime.submit(events.NotSpawned(number, f"was not started: {error}", 1, refused=True))
        finally:
            self._servers.spawned()

    def _ask(self, effect: effects.Ask | effects.AskHandshakes) -> None:
        child = self._children.find(effect.number)
        if isinstance(effect, effects.Ask):
            commands = effect.commands
        else:
            commands = () if self._turns.has_unread(effect.number) else quic.of_handshakes()
        if child and commands:
            child.ask(commands)
        else:
            self._runtime.submit(events.Unanswered(effect.number))

    def _tell(self, notice: Notice) -> None:
        line, runtime = line_of(notice), self._runtime
        runtime.log(line)
        stderr = self._children.stderr_of(notice.number)
        message = self._outcomes.note(notice, line.message, stderr)
        self._front.note(notice, message, stderr)
        if isinstance(notice, Promoted) and self.state.current:
            self._servers.promoted(self.state.current)
            self._runtime.isolated(self._store.learn, self.state.current)
            self._trim()

    def _reply(self, reply: effects.Reply) -> None:
        """Answer the client that asked for a reload."""
        output, number = "", reply.number
        try:
            notes = self._outcomes.notes_for(failed=bool(number) and not reply.success)
            output = self._children.stderr_of(number) + notes
        except Exception as error:  # noqa: BLE001  # the result must be sent even without the details
            self._runtime.unexpected(error)
        text = f"Success={int(reply.success)}\n--\n{output}{one_line(reply.message)}\n\n"
        self._front.reply(reply.client, text)

    def _listen(self, tags: Collection[str], doubtful: Collection[str]) -> None:
        """Make exactly these VIPs listen."""
        try:
            self._parts.listeners.listen(tags, doubtful)
        finally:
            self._refusing.refuse_at(self._parts.listeners.unused())

    # ---- for other parts ---------------------------------------------------------------------------------------------

    def _status(self, connections: dict[int, int | None]) -> dict[str, object]:
        # A health check also finds lost exits.
        self._children.reap()
        self._find_lost()
        if self.state.current:
            self._servers.changed(self.state.current.number)
        return status(self._parts, self._outcomes, self._servers, self.state, connections)

    def _gone(self, number: int) -> None:
        self._transfer.forget(number)
        self._servers.gone(number)
        self._turns.gone(number)

    def _vip_inodes(self) -> frozenset[int]:
        return self._parts.listeners.inodes() | self._turns.inodes()

    def _binds_of(self, number: int) -> int | None:
        generation = self.state.find(number)
        return len(generation.binds) if generation else None
