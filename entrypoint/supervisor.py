"""PID 1: wait, turn what happened into events, ask the core, carry out the effects.

Nothing in here decides. After the first process has been started nothing in here may raise, either: an expected
failure is an event or a log line, and an unexpected one is reported, and serving goes on (`loop`).
"""

import math
import signal
import time
from collections.abc import Callable, Collection, Mapping

from entrypoint import __version__, upgrade
from entrypoint.adoption import Adoption
from entrypoint.births import HaproxyBirth, RefusedError, exporter_birth
from entrypoint.children import Children
from entrypoint.config_store import ConfigStore
from entrypoint.configurations import Configurations
from entrypoint.core import lifecycle, retiring
from entrypoint.core.events import (
    Adopt,
    Ask,
    Began,
    CloseVips,
    Effect,
    Elapsed,
    Event,
    Exited,
    Keep,
    Level,
    Listen,
    Log,
    Look,
    NotSpawned,
    Poke,
    Poked,
    Publish,
    Rehearse,
    Reply,
    Send,
    Signalled,
    Spawn,
    SpawnExporter,
    Stirred,
    TakeOver,
    Tell,
    Timer,
    Unanswered,
    Upgrade,
    Why,
)
from entrypoint.core.failures import failure_of, lasting
from entrypoint.core.heritage import to_plain
from entrypoint.core.json_text import json_text
from entrypoint.core.lines import line_of
from entrypoint.core.notices import Notice
from entrypoint.core.one_line import one_line, reason
from entrypoint.core.records import dataclass
from entrypoint.core.settings import Settings
from entrypoint.core.state import Ended, State, timers
from entrypoint.core.types import TYPE_CHECKING, Any, assert_never
from entrypoint.loop import Loop, is_shortage
from entrypoint.ordinary_listeners import OrdinaryListeners
from entrypoint.outcomes import Outcomes
from entrypoint.refusing import Refusing
from entrypoint.status import Sight
from entrypoint.succession import Succession
from entrypoint.system.files import PidFile
from entrypoint.system.handover import Adopted
from entrypoint.system.listeners import Listeners
from entrypoint.system.log import Logger
from entrypoint.system.notify import Notifier
from entrypoint.system.packets import PacketSocket
from entrypoint.system.predecessor import Predecessor
from entrypoint.system.processes import Processes
from entrypoint.system.signals import Arrivals, Inherited, why_not_signalled

if TYPE_CHECKING:
    from entrypoint.desk import Desk
    from entrypoint.notices import Notices
    from entrypoint.presence import Presence
    from entrypoint.system.control import Control

_SIGCHLD = signal.SIGCHLD
_PUBLISH_AGAIN_AFTER = 5.0
"""Seconds."""
_AGAIN_AFTER = 1.0
"""Seconds after which something that has failed is done once more; it doubles."""
_MOST_TRIES = 5


@dataclass(slots=True)
class Parts:
    """What was made before the first process is started; who made it closes nothing of it."""

    settings: Settings
    name: str
    environment: Mapping[str, str]
    logger: Logger
    processes: Processes
    listeners: Listeners
    adopted: Adopted
    configurations: Configurations
    births: HaproxyBirth
    notifier: Notifier
    read: Callable[[PacketSocket], None]
    """What the process does that reads files."""
    predecessor: Predecessor | None
    pid_file: PidFile | None
    inherited: Inherited
    left: dict[str, Any] | None = None
    """What our last life has handed down, if this one is the next."""
    rehearses: bool = False
    """This is but the rehearsal of that: nobody else may notice."""


class Supervisor:
    """Runs the core until it has ended; owns all that lives as long."""

    def __init__(self, begun: State, parts: Parts) -> None:
        """Begin with this state; nothing happens before `run`."""
        self.state = begun
        """Changed by the core only."""
        self._parts = parts
        settings = parts.settings
        loop = self._loop = Loop(parts.logger)
        self._deadlines: dict[Timer, float] = {}
        self._tries: dict[object, int] = {}
        """How often each thing has failed that is done again."""
        self._refusing = Refusing(loop.sources)
        self._children = children = Children(loop, parts.processes, to_groups=settings.kill_group)
        self._ordinary = OrdinaryListeners(
            parts.adopted, parts.listeners.inodes, loop.log, children.may_take, self._binds_of
        )
        self._adoption = Adoption(loop.sources, children.channel_of, self._ordinary)
        children.tell(taken=self._ordinary.taken, gone=self._adoption.forget)
        self._store = ConfigStore(
            loop,
            children,
            parts.configurations,
            parts.read,
            lambda number: bool(self.state.find(number)),
            has_state_dir=bool(settings.state_dir),
        )
        self._outcomes = Outcomes(parts.configurations, self._known, loop.log)
        pid_file = parts.pid_file.path if parts.pid_file else None
        self._sight = Sight(parts.name, pid_file, parts.listeners, parts.adopted, parts.configurations, self._outcomes)
        self._arrivals = Arrivals()
        self._succession = Succession(
            loop, self._children, self._arrivals, parts.environment, parts.inherited, self._hand_down
        )
        self._desk: Desk | None = None
        self._notices: Notices | None = None
        self._presence: Presence | None = None
        loop.sources.add(self._arrivals, self._signals_arrived)

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        loop = self._loop
        loop.submit(self._begin())
        while True:
            try:
                self._settle()
                if isinstance(self.state.stage, Ended):
                    break
                self._wait()
            except Exception as error:  # noqa: BLE001  # PID 1 may not die of it
                loop.unexpected(error)
        loop.isolated(self._close)
        if self._parts.pid_file:
            loop.isolated(self._parts.pid_file.remove)
        loop.isolated(self._parts.logger.close)
        return self.state.stage.status

    def rehearse(self) -> None:
        """Do all that `run` does before it waits for the first time, and carry nothing out."""
        self.state, _ = lifecycle.step(self.state, self._begin())
        self._set_timers()
        self._decided()

    def _close(self) -> None:
        """End: hang up on everybody who asks."""
        if self._notices:
            notices = self._notices
            self._loop.isolated(lambda: notices.update(self.state))
        for one in (self._notices, self._presence, self._desk):
            if one:
                self._loop.isolated(one.close)
        self._store.reader.close()

    # ---- the beginning ---------------------------------------------------------------------------------------------

    def _begin(self) -> Event:
        """Begin to serve; return what the core is told first."""
        parts = self._parts
        if parts.left:
            return self._go_on(parts.left)
        self._store.restore()
        return Began(parts.listeners.descriptors())

    def _open(self) -> None:
        """Begin to answer and to tell, once the first haproxy has been started: it need not wait for this."""
        from entrypoint.desk import Desk  # noqa: PLC0415  # see above
        from entrypoint.notices import Notices  # noqa: PLC0415
        from entrypoint.presence import Presence  # noqa: PLC0415

        parts, loop = self._parts, self._loop

        def opened(control: "Control") -> None:
            if self._desk:
                self._desk.move_to(control)
            else:
                self._desk = Desk(control, loop, self._children, self._outcomes, lambda: self.state, self._status)

        left = parts.left and parts.left["control"]
        settings = parts.settings
        self._presence = Presence(settings.runtime_dir, parts.name, settings.poll, loop.sources, loop.log)
        self._presence.begin(opened, left[:2] if left else None, rehearses=parts.rehearses)
        # Last: as long as they are missing, all of this is tried again.
        notices = Notices(parts.notifier, loop.sources, self._children.find, loop.log)
        listeners = parts.listeners
        notices.store(listeners.forgotten(), listeners.to_store(), listeners.stored())
        self._notices = notices

    def _go_on(self, left: dict[str, Any]) -> Event:
        """Take up what our last life has handed down; the files may have changed while nobody watched."""
        loop = self._loop
        self._children.inherit(left)
        if left.get("log"):
            self._parts.logger.inherit(left["log"])
        self._open()
        assert self._notices
        self._outcomes.inherit(left)
        self._notices.resume(left["notices"])
        adopts, client = left["adopts"], left["control"] and left["control"][2]
        what = f"safe_reload {__version__} has taken over"
        if self._parts.rehearses:
            self._tell_asker(client, "")
            json_text(self._status({}))
            return Stirred()
        loop.log(Log(Level.INFO, "upgraded", what))
        if adopts:
            loop.isolated(lambda: self._adoption.ask(adopts))
        loop.isolated(lambda: self._store.reader.inherit(left.get("readers", ())))
        loop.isolated(lambda: self._store.reader.look(Why.POLLED, 0))
        loop.isolated(self._store.keep_again)
        loop.isolated(self._let_vips_accept)
        # Last of all: whatever fails before is begun anew, and what follows could not be.
        loop.isolated(lambda: upgrade.has_begun(self._parts.environment))
        loop.isolated(lambda: self._tell_asker(client, f"Success=1\n--\n{what}\n\n"))
        if self._desk:
            desk, visits = self._desk, left.get("visits", ())
            loop.isolated(lambda: desk.resume(visits))
        return Stirred()

    def _tell_asker(self, client: int | None, answer: str) -> None:
        if self._desk and client is not None and client >= 0:
            self._desk.take_in(client, answer)

    def _let_vips_accept(self) -> None:
        for listen in retiring.follow(self.state):
            self._listen(listen.tags, listen.doubtful)

    def _hand_down(self, client: int, *, others: bool) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return everything that the next life needs, and the descriptors among it.

        Args:
            client: who has asked for it.
            others: with all other clients; a rehearsal would keep them from seeing that we have hung up.

        """
        parts = self._parts
        assert self._notices
        listeners = parts.listeners.hand_down()
        adopted = parts.adopted.hand_down()
        control = self._desk.hand_down(client) if self._desk else None
        visits, of_visits = self._desk.hand_down_others(client) if self._desk and others else ([], [])
        configurations, texts = parts.configurations.hand_down()
        left = {
            **self._children.hand_down(),
            **self._outcomes.hand_down(),
            "adopts": self._adoption.pending,
            "log": parts.logger.hand_down(),
            "state": to_plain(self.state),
            "listeners": listeners,
            "adopted": adopted,
            "control": control,
            "visits": visits,
            "configurations": configurations,
            "readers": self._store.reader.hand_down(),
            "notices": self._notices.hand_down(),
        }
        descriptors = [one[1] for one in listeners]
        descriptors += [one[0] for one in adopted]
        descriptors += [descriptor for descriptor in control[1:] if descriptor >= 0] if control else []
        descriptors += texts
        descriptors += left["channels"].values()
        descriptors += [descriptor for descriptor, *_ in left["words"].values()]
        return left, (*descriptors, *of_visits)

    # ---- what happens ----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Have the core decide until nothing more follows."""
        loop = self._loop
        while loop.events:
            event = loop.events.popleft()
            try:
                self.state, effects = lifecycle.step(self.state, event)
            except Exception as error:  # noqa: BLE001  # a death must not be forgotten for it
                loop.unexpected(error)
                self._try_again(event, lambda event=event: loop.submit(event))  # type: ignore[misc]
                continue
            self._has_succeeded(event)
            for effect in effects:
                self._carry_out(effect)
            self._set_timers()
            loop.isolated(self._decided)
        self._children.forget_buried()

    def _decided(self) -> None:
        """Tell systemd what has become true, and let go of what nobody needs any more."""
        if not self._notices:
            self._open()
        assert self._notices
        notices, state = self._notices, self.state
        # Nobody will ever start from what one that leaves was started from.
        needed = [one.number for one in (state.candidate, state.current) if one]
        self._loop.isolated(lambda: self._parts.configurations.retain(needed))
        self._loop.isolated(lambda: notices.update(state))
        self._find_lost()

    def _find_lost(self) -> None:
        """Have the core told of deaths that it waits for and that were lost; nothing else would ever make them good."""
        for one in self.state.generations:
            if one.pid is not None and self._has_lost(one.number):
                what = f"generation {one.number} (pid {one.pid}) is gone, and nobody was told: that is a bug"
                self._loop.log(Log(Level.ERROR, "bug", what))
                self._loop.submit(Exited(one.number, -signal.SIGKILL))

    def _has_lost(self, number: int) -> bool:
        """Tell whether a process is gone of whose death the core will not be told any more: by a mistake of ours."""
        if self._children.is_alive(number):
            return False
        told = (*self._loop.events, *self._tries)
        return not any(isinstance(event, Exited) and event.number == number for event in told)

    def _try_again(self, what: object, action: Callable[[], None]) -> None:
        """Do later what has failed, and is not to be forgotten; but not for ever, for it may be our own mistake."""
        tries = self._tries.pop(what, 0) + 1
        if tries > _MOST_TRIES:
            line = f"has failed {tries} times, and is not tried again: {what!r}"
            self._loop.log(Log(Level.ERROR, "given_up", line))
            return
        self._tries[what] = tries
        self._loop.sources.alarm(("again", what), _AGAIN_AFTER * 2 ** (tries - 1), action)

    def _has_succeeded(self, what: object) -> None:
        if self._tries and self._tries.pop(what, 0):
            self._loop.sources.cancel(("again", what))

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
            self._loop.wait(min(self._deadlines.values(), default=math.inf))
        finally:
            now = time.monotonic()
            for timer, due in self._deadlines.items():
                if due <= now:
                    self._loop.submit(Elapsed(timer))
                    self._deadlines[timer] = math.inf

    def _signals_arrived(self) -> None:
        for signum in list(self._arrivals.read()):
            if signum != _SIGCHLD:
                self._loop.submit(Signalled(signum))
        # Whatever arrived, for a SIGCHLD that found the pipe full is lost, and waitpid(2) costs nothing.
        self._children.reap()

    # ---- what is to be done ----------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        """Do it; never raises. Whatever fails, who awaits an answer gets one, as `core.failures` says."""
        try:
            self._do(effect)
            self._has_succeeded(lasting(effect))
        except Exception as error:  # noqa: BLE001  # the rest of the step is to be carried out
            failure = error
            self._loop.isolated(lambda: self._failed(effect, failure))

    def _failed(self, effect: Effect, error: Exception) -> None:
        why = _reason(error)
        event, what = failure_of(effect, why), lasting(effect)
        if event:
            self._loop.submit(event)
        elif what:
            self._try_again(what, lambda: self._carry_out(effect))
        if isinstance(error, OSError) or is_shortage(error):
            self._loop.log(Log(Level.ERROR, "system_error", f"{type(effect).__name__.lower()}: {why}"))
        else:
            self._loop.unexpected(error)

    def _do(self, effect: Effect) -> None:
        parts = self._parts
        match effect:
            case Spawn(number=number, kept=kept):
                self._spawn(number, kept=kept)
            case SpawnExporter():
                birth = exporter_birth(parts.settings, parts.name, parts.environment, upgrade.own_words)
                self._children.spawn_exporter(birth)
            case Ask(number=number, commands=commands):
                self._ask(number, commands)
            case Send(number=number, signum=signum, line=line):
                self._children.send(number, signum, line, self._carry_out)
            case Poke(tags=tags):
                self._loop.submit(Poked(parts.listeners.poke(tags)))
            case Listen(tags=tags, doubtful=doubtful):
                self._listen(tags, doubtful)
            case Publish(pid=pid):
                self._publish(pid)
            case Adopt(number=number):
                self._adoption.ask(number)
            case Log():
                self._loop.log(effect)
            case Tell(notice=notice):
                self._tell(notice)
            case CloseVips():
                self._refusing.refuse_at(())
                for close in (parts.listeners.close, self._ordinary.close):
                    self._loop.isolated(close)
            case Look(why=why, number=number):
                self._store.reader.look(why, number)
            case Keep(number=number):
                self._store.keep(number)
            case Reply():
                self._reply(effect)
            case TakeOver():
                self._take_over()
            case Rehearse(client=client):
                self._succession.rehearse(client)
            case Upgrade(client=client):
                self._succession.take_place(client)
            case _:
                assert_never(effect)

    def _spawn(self, number: int, *, kept: bool) -> None:
        """Start a generation.

        Raises:
            Exception: it has no process, and no line to one is left.

        """
        try:
            newborn = self._parts.births.of(number, kept=kept)
        except RefusedError as error:
            self._loop.submit(NotSpawned(number, f"was not started: {error}", 1, refused=True))
        else:
            self._children.spawn(number, newborn)

    def _ask(self, number: int, commands: tuple[str, ...]) -> None:
        child = self._children.find(number)
        if child:
            child.ask(commands)
        else:
            self._loop.submit(Unanswered(number))

    def _tell(self, notice: Notice) -> None:
        line, loop = line_of(notice), self._loop
        loop.log(line)
        words = self._children.words_of(notice.number)
        message = self._outcomes.note(notice, line.message, words)
        if self._notices:
            self._notices.note(notice, message, words)

    def _reply(self, reply: Reply) -> None:
        """Answer who has asked for a reload."""
        words, number = "", reply.number
        try:
            beside = self._outcomes.beside(failed=bool(number) and not reply.success)
            words = self._children.words_of(number) + beside
        except Exception as error:  # noqa: BLE001  # who waits is told what became of it, if not all about it
            self._loop.unexpected(error)
        if self._desk:
            self._desk.reply(reply.client, f"Success={int(reply.success)}\n--\n{words}{one_line(reply.message)}\n\n")

    def _take_over(self) -> None:
        """Tell the haproxy that served before to leave, if there is one."""
        predecessor = self._parts.predecessor
        if not predecessor:
            return
        who = f"the haproxy that served before (pid {predecessor.pid})"
        try:
            predecessor.retire()
        except PermissionError:
            what = f"{who} does not leave, and shares the clients with us: {why_not_signalled()}; or stop it yourself"
            self._loop.log(Log(Level.ERROR, "not_permitted", what))
        else:
            self._loop.log(Log(Level.INFO, "taken_over", f"{who} is told to leave"))

    def _publish(self, pid: int, *, again: bool = False) -> None:
        """Write the pid file; where that cannot be done there is none, and it is tried again."""
        pid_file, sources = self._parts.pid_file, self._loop.sources
        if not pid_file or (again and not self._children.has_pid(pid)):
            return
        sources.cancel(pid_file)
        try:
            pid_file.write(pid)
        except OSError as error:
            if not again:
                what = f"the pid file {pid_file.path} cannot be written, and is tried again: {error.strerror}"
                self._loop.log(Log(Level.ERROR, "pid_file", what))
            sources.alarm(pid_file, _PUBLISH_AGAIN_AFTER, lambda: self._publish(pid, again=True))

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
        return self._sight.status(self.state, connections, self._parts.logger.lines_lost)

    def _known(self) -> frozenset[str]:
        """Return the variables that a configuration can use for a descriptor."""
        return frozenset({*self._parts.listeners.tags(), *self._parts.environment})

    def _binds_of(self, number: int) -> int | None:
        generation = self.state.find(number)
        return len(generation.binds) if generation else None


def _reason(error: Exception) -> str:
    """Say in a few words what has failed."""
    if isinstance(error, MemoryError):
        return "no memory is left"
    return reason(error) if isinstance(error, OSError) else repr(error)
