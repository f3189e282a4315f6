"""PID 1: wait, turn what happened into events, ask the core, carry out the effects.

Nothing in here decides. After the first process has been started nothing in here may raise, either: an expected
failure is an event or a log line, and an unexpected one is reported, and serving goes on (`runtime`).
"""

import math
import signal
import time
from collections.abc import Collection

from entrypoint import __version__
from entrypoint.core import lifecycle, retiring
from entrypoint.core.effects import (
    Adopt,
    Ask,
    CloseVips,
    Effect,
    Keep,
    Listen,
    Log,
    Look,
    Poke,
    Publish,
    Rehearse,
    Reply,
    Send,
    Spawn,
    SpawnExporter,
    TakeOver,
    Tell,
    Upgrade,
    failure_of,
    lasting,
)
from entrypoint.core.events import (
    Began,
    Elapsed,
    Event,
    Exited,
    NotSpawned,
    Poked,
    Signalled,
    Stirred,
    Timer,
    Unanswered,
    Why,
)
from entrypoint.core.log_lines import line_of
from entrypoint.core.notices import Notice
from entrypoint.core.state import Candidate, Current, Ended, State, timers
from entrypoint.core.upgrade_state import UpgradeState, serialize
from entrypoint.lean.json_text import json_text
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import one_line
from entrypoint.lean.typing import assert_never
from entrypoint.pid1 import upgrade
from entrypoint.pid1.children import Children
from entrypoint.pid1.config_store import ConfigStore
from entrypoint.pid1.front import Front
from entrypoint.pid1.launch import RefusedError, exporter_spec
from entrypoint.pid1.listener_transfer import ListenerTransfer
from entrypoint.pid1.ordinary_listeners import OrdinaryListeners
from entrypoint.pid1.outcomes import Outcomes
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.published_pid import PublishedPid
from entrypoint.pid1.reexec import Reexec
from entrypoint.pid1.refusing import Refusing
from entrypoint.pid1.retries import Retries
from entrypoint.pid1.runtime import Runtime, is_shortage, reason_of
from entrypoint.pid1.status import status
from entrypoint.system.signals import Arrivals

_SIGCHLD = signal.SIGCHLD


class Supervisor:
    """Runs the core until it has ended; owns all that lives as long."""

    def __init__(self, begun: State, parts: Parts) -> None:
        """Begin with this state; nothing happens before `run`."""
        self.state = begun
        """Changed by the core only."""
        self._parts = parts
        runtime = self._runtime = Runtime(parts.logger)
        self._deadlines: dict[Timer, float] = {}
        self._retries = Retries(runtime)
        self._refusing = Refusing(runtime.event_loop)
        self._children = children = Children(runtime, parts.processes, to_groups=parts.settings.kill_group)
        self._ordinary = OrdinaryListeners(
            parts.adopted, parts.listeners.inodes, runtime.log, children.may_take, self._binds_of
        )
        self._transfer = ListenerTransfer(runtime.event_loop, children.channel_of, self._ordinary, runtime.submit)
        children.tell(taken=self._ordinary.taken, gone=self._transfer.forget)
        self._store = ConfigStore(runtime, children, parts, lambda number: bool(self.state.find(number)))
        self._outcomes = Outcomes(parts, runtime.log)
        self._pid = PublishedPid(runtime, children, parts.pid_file, parts.predecessor)
        self._arrivals = Arrivals()
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
        """Do all that `run` does before it waits for the first time, and carry nothing out."""
        self.state, _ = lifecycle.step(self.state, self._begin())
        self._set_timers()
        self._decided()

    def _close(self) -> None:
        """End: hang up on everybody who asks."""
        self._runtime.isolated(self._front.update, self.state)
        self._front.close()
        self._store.reader.close()

    # ---- the beginning ---------------------------------------------------------------------------------------------

    def _begin(self) -> Event:
        """Begin to serve; return what the core is told first."""
        parts = self._parts
        if parts.left:
            return self._go_on(parts.left)
        self._store.read_state_file()
        return Began(parts.listeners.descriptors())

    def _go_on(self, left: UpgradeState) -> Event:
        """Take up what our last life has handed down; the files may have changed while nobody watched."""
        runtime = self._runtime
        self._children.restore(left)
        self._parts.logger.restore(left.log)
        self._front.open()
        self._outcomes.restore(left)
        self._front.restore(left)
        what = f"safe_reload {__version__} has taken over"
        if self._parts.rehearses:
            self._front.tell_asker(left, "")
            json_text(self._status({}))
            return Stirred()
        runtime.log(Log(Level.INFO, "upgraded", what))
        runtime.isolated(self._store.reader.restore, left.readers)
        runtime.isolated(self._store.reader.look, Why.POLLED, 0)
        runtime.isolated(self._store.keep_again)
        runtime.isolated(self._let_vips_accept)
        # Last of all: whatever fails before is begun anew, and what follows could not be.
        runtime.isolated(upgrade.has_begun, self._parts.environment)
        runtime.isolated(self._front.tell_asker, left, f"Success=1\n--\n{what}\n\n")
        runtime.isolated(self._front.resume, left)
        return Stirred()

    def _let_vips_accept(self) -> None:
        for listen in retiring.follow(self.state):
            self._listen(listen.tags, listen.doubtful)

    def _serialize(self, client: int, *, others: bool) -> UpgradeState:
        """Return everything that the next life needs.

        Args:
            client: who has asked for it.
            others: with all other clients; a rehearsal would keep them from seeing that we have hung up.

        """
        parts = self._parts
        listeners, adopted = parts.listeners.serialize(), parts.adopted.serialize()
        front, of_front = self._front.serialize(client, others=others)
        configurations, texts = parts.configurations.serialize()
        children = self._children.serialize()
        descriptors = [*(one[1] for one in listeners), *(one[0] for one in adopted), *of_front, *texts]
        descriptors += children["channels"].values()
        descriptors += [descriptor for descriptor, *_ in children["stderr_pipes"].values()]
        return UpgradeState(
            state=serialize(self.state),
            listeners=listeners,
            adopted=adopted,
            configurations=configurations,
            readers=self._store.reader.serialize(),
            log=parts.logger.serialize(),
            descriptors=tuple(descriptors),
            **children,
            **self._outcomes.serialize(),
            **front,
        )

    # ---- what happens ----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Have the core decide until nothing more follows."""
        runtime = self._runtime
        while runtime.events:
            event = runtime.events.popleft()
            try:
                self.state, effects = lifecycle.step(self.state, event)
            except Exception as error:  # noqa: BLE001  # a death must not be forgotten for it
                runtime.unexpected(error)
                self._retries.failed(event, lambda event=event: runtime.submit(event))  # type: ignore[misc]
                continue
            if self._retries.any:
                self._retries.succeeded(event)
            for effect in effects:
                self._carry_out(effect)
            self._set_timers()
            if not runtime.events:
                runtime.isolated(self._decided)
        self._children.forget_buried()

    def _decided(self) -> None:
        """Tell systemd what has become true, and let go of what nobody needs any more."""
        self._front.open()
        # Nobody will ever start from what one that leaves was started from.
        needed = [one.number for one in self.state.generations if isinstance(one.phase, Candidate | Current)]
        self._runtime.isolated(self._parts.configurations.retain, needed)
        self._runtime.isolated(self._front.update, self.state)
        self._find_lost()

    def _find_lost(self) -> None:
        """Have the core told of deaths that it waits for and that were lost; nothing else would ever make them good."""
        alive = self._children.alive()
        for one in self.state.generations:
            if one.pid is not None and one.number not in alive and not self._will_be_told(one.number):
                what = f"generation {one.number} (pid {one.pid}) is gone, and nobody was told: that is a bug"
                self._runtime.log(Log(Level.ERROR, "bug", what))
                self._runtime.submit(Exited(one.number, -signal.SIGKILL))

    def _will_be_told(self, number: int) -> bool:
        """Tell whether the core is yet to be told of a death."""
        told = (*self._runtime.events, *self._retries)
        return any(isinstance(event, Exited) and event.number == number for event in told)

    def _set_timers(self) -> None:
        now = time.monotonic()
        self._deadlines = {
            timer: self._deadlines.get(timer, now + seconds) for timer, seconds in timers(self.state).items()
        }

    def _wait(self) -> None:
        """Wait for the world or for the next timer, and note what happened."""
        # Once more: where it failed after a decision, a timer that is not set would never run out.
        self._set_timers()
        try:
            self._runtime.wait(min(self._deadlines.values(), default=math.inf))
        finally:
            now = time.monotonic()
            for timer, due in self._deadlines.items():
                if due <= now:
                    self._runtime.submit(Elapsed(timer))
                    self._deadlines[timer] = math.inf

    def _signals_arrived(self) -> None:
        for signum in list(self._arrivals.read()):
            if signum != _SIGCHLD:
                self._runtime.submit(Signalled(signum))
        # Whatever arrived, for a SIGCHLD that found the pipe full is lost, and waitpid(2) costs nothing.
        self._children.reap()

    # ---- what is to be done ----------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        """Do it; never raises. Whatever fails, who awaits an answer gets one, as `core.effects` says."""
        try:
            self._do(effect)
            if self._retries.any:
                self._retries.succeeded(lasting(effect))
        except Exception as error:  # noqa: BLE001  # the rest of the step is to be carried out
            self._runtime.isolated(self._failed, effect, error)

    def _failed(self, effect: Effect, error: Exception) -> None:
        why = reason_of(error)
        event, what = failure_of(effect, why), lasting(effect)
        if event:
            self._runtime.submit(event)
        elif what:
            self._retries.failed(what, lambda: self._carry_out(effect))
        if isinstance(error, OSError) or is_shortage(error):
            self._runtime.log(Log(Level.ERROR, "system_error", f"{type(effect).__name__.lower()}: {why}"))
        else:
            self._runtime.unexpected(error)

    def _do(self, effect: Effect) -> None:
        parts = self._parts
        match effect:
            case Spawn(number=number, kept=kept):
                self._spawn(number, kept=kept)
            case SpawnExporter():
                spec = exporter_spec(parts.settings, parts.name, parts.environment, upgrade.own_command)
                self._children.spawn_exporter(spec)
            case Ask(number=number, commands=commands):
                self._ask(number, commands)
            case Send(number=number, signum=signum, line=line):
                self._children.send(number, signum, line, self._carry_out)
            case Poke(tags=tags):
                self._runtime.submit(Poked(parts.listeners.poke(tags)))
            case Listen(tags=tags, doubtful=doubtful):
                self._listen(tags, doubtful)
            case Publish(pid=pid):
                self._pid.publish(pid)
            case Adopt(number=number, last=last):
                self._transfer.ask(number, last=last)
            case Log():
                self._runtime.log(effect)
            case Tell(notice=notice):
                self._tell(notice)
            case CloseVips():
                self._refusing.refuse_at(())
                for close in (parts.listeners.close, self._ordinary.close):
                    self._runtime.isolated(close)
            case Look(why=why, number=number):
                self._store.reader.look(why, number)
            case Keep(number=number):
                self._store.keep(number)
            case Reply():
                self._reply(effect)
            case TakeOver():
                self._pid.take_over()
            case Rehearse(client=client):
                self._reexec.rehearse(client)
            case Upgrade(client=client):
                self._reexec.take_place(client)
            case _:
                assert_never(effect)

    def _spawn(self, number: int, *, kept: bool) -> None:
        """Start a generation.

        Raises:
            Exception: it has no process, and no line to one is left.

        """
        try:
            prepared = self._parts.launch.of(number, kept=kept)
        except RefusedError as error:
            self._runtime.submit(NotSpawned(number, f"was not started: {error}", 1, refused=True))
        else:
            self._children.spawn(number, prepared)

    def _ask(self, number: int, commands: tuple[str, ...]) -> None:
        child = self._children.find(number)
        if child:
            child.ask(commands)
        else:
            self._runtime.submit(Unanswered(number))

    def _tell(self, notice: Notice) -> None:
        line, runtime = line_of(notice), self._runtime
        runtime.log(line)
        stderr = self._children.stderr_of(notice.number)
        message = self._outcomes.note(notice, line.message, stderr)
        self._front.note(notice, message, stderr)

    def _reply(self, reply: Reply) -> None:
        """Answer who has asked for a reload."""
        words, number = "", reply.number
        try:
            beside = self._outcomes.beside(failed=bool(number) and not reply.success)
            words = self._children.stderr_of(number) + beside
        except Exception as error:  # noqa: BLE001  # who waits is told what became of it, if not all about it
            self._runtime.unexpected(error)
        text = f"Success={int(reply.success)}\n--\n{words}{one_line(reply.message)}\n\n"
        self._front.reply(reply.client, text)

    def _listen(self, tags: Collection[str], doubtful: Collection[str]) -> None:
        """Let these VIPs accept, and no others.

        Raises:
            OSError: the kernel refuses.

        """
        try:
            self._parts.listeners.listen(tags, doubtful)
        finally:
            self._refusing.refuse_at(self._parts.listeners.unused())

    # ---- what the parts want to know -------------------------------------------------------------------------------

    def _status(self, connections: dict[int, int | None]) -> dict[str, object]:
        # Who asks whether we live has us look.
        self._children.reap()
        self._find_lost()
        return status(self._parts, self._outcomes, self.state, connections)

    def _binds_of(self, number: int) -> int | None:
        generation = self.state.find(number)
        return len(generation.binds) if generation else None
