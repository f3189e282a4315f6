"""The loop: wait, turn what happened into events, ask the core, carry out the effects.

Nothing in here decides. After the first process has been started nothing in here may raise, either: the death of
PID 1 is the death of the container, so an expected failure is an event or a log line, and an unexpected one is
logged with its traceback and serving goes on.
"""

import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping

from entrypoint.adoption import Adoption, Keeper
from entrypoint.births import Newborn, RefusedError
from entrypoint.child import Child
from entrypoint.core.endings import is_transient
from entrypoint.core.events import (
    EXPORTER,
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
    Reaped,
    Rehearse,
    Reply,
    Send,
    Signalled,
    Spawn,
    Spawned,
    SpawnExporter,
    TakeOver,
    Tell,
    Timer,
    Unanswered,
    Upgrade,
)
from entrypoint.core.failures import failure_of, lasting
from entrypoint.core.lines import line_of
from entrypoint.core.machine import Machine
from entrypoint.core.notices import Notice
from entrypoint.core.one_line import reason
from entrypoint.core.records import dataclass, replace
from entrypoint.core.types import Any, Protocol, assert_never
from entrypoint.refusing import Refusing
from entrypoint.sources import Sources
from entrypoint.system.cli_channel import CliChannel
from entrypoint.system.files import PidFile
from entrypoint.system.listeners import Listeners
from entrypoint.system.log import Logger
from entrypoint.system.processes import Birth, Processes
from entrypoint.system.signals import Arrivals, why_not_signalled
from entrypoint.system.words import Words

_SIGCHLD = signal.SIGCHLD
_SOFT_STOP = signal.SIGUSR1
_PUBLISH_AGAIN_AFTER = 5.0
"""Seconds."""
_PAUSE_AFTER_ERROR = 0.1
"""Seconds; bounds how much of a CPU what fails each time can use."""
_SILENCE = 60.0
"""Seconds in which the same error is not told again."""
_AGAIN_AFTER = 1.0
"""Seconds after which something that has failed is done once more; it doubles."""
_MOST_TRIES = 5


class Births(Protocol):
    """Says what a generation's process is made of."""

    def of(self, number: int, *, kept: bool) -> Newborn:
        """Return what to start and the lines to it; may raise RefusedError or OSError."""


class Service(Keeper, Protocol):
    """What serves haproxy beside the processes themselves: its configurations, its listeners, and who asks."""

    def begin(self, supervisor: "Supervisor") -> Event:
        """Begin to serve; return what the core is told first."""

    def offered(self, *, open_offers: bool) -> None:
        """A candidate has taken what it was offered, or never will."""

    def told(self, notice: Notice, message: str, words: str) -> None:
        """Something has happened, which the log has as this message; the words are those of its generation."""

    def decided(self) -> None:
        """The core has decided about an event, and its effects are carried out."""

    def carry_out(self, effect: Effect) -> None:
        """Carry out an effect that is not about processes."""

    def exporter(self) -> Birth:
        """Return how the exporter is started."""

    def close(self) -> None:
        """End."""


@dataclass(slots=True)
class World:
    """Everything outside the core that the loop works with; who made it closes it."""

    births: Births
    processes: Processes
    arrivals: Arrivals
    logger: Logger
    listeners: Listeners
    pid_file: PidFile | None = None
    signal_groups: bool = False
    service: Service | None = None


class Supervisor:
    """Runs a machine in a world until it has ended."""

    def __init__(self, machine: Machine[Any], world: World) -> None:
        """Begin; nothing happens before `run`."""
        self.machine = machine
        self.sources = Sources()
        self._refusing = Refusing(self.sources)
        self._world = world
        self._events: deque[Event] = deque()
        self._deadlines: dict[Timer, float] = {}
        self._children: dict[int, Child] = {}
        """By the number of their generation."""
        self._buried: dict[int, Child] = {}
        """Those of whose death the core is being told."""
        self._adoption = Adoption(self.sources, self._channel_of, world.service)
        self._helpers: dict[int, Callable[[int], None]] = {}
        self._tries: dict[object, int] = {}
        """How often each thing has failed that is done again."""
        self._reported = ""
        self._silent_until = 0.0
        self.sources.add(world.arrivals, self._signals_arrived)
        world.logger.open()

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        service = self._world.service
        self._events.append(service.begin(self) if service else Began())
        while True:
            try:
                self._settle()
                if self.machine.status is not None:
                    break
                self._wait()
            except Exception as error:  # noqa: BLE001  # PID 1 may not die of it
                self.unexpected(error)
        status = self.machine.status
        if service:
            self.isolated(service.close)
        if self._world.pid_file:
            self.isolated(self._world.pid_file.remove)
        self.isolated(self._world.logger.close)
        return status

    def rehearse(self) -> None:
        """Do all that `run` does before it waits for the first time, and carry nothing out."""
        assert self._world.service
        self.machine.feed(self._world.service.begin(self))
        self._set_timers()
        self._world.service.decided()

    def unexpected(self, error: Exception) -> None:
        """Report an exception that nobody has expected here, and go on; never raises."""
        try:
            self._report(error)
        except Exception as another:  # noqa: BLE001  # not even this may end PID 1
            with contextlib.suppress(Exception):
                self.log(Log(Level.ERROR, "bug", f"a bug could not be reported: {another!r}"))
        time.sleep(_PAUSE_AFTER_ERROR)  # noqa: TID251  # a loop that fails each time must not fill the disk

    def _report(self, error: Exception) -> None:
        now = time.monotonic()
        # What fails each time is told once a minute.
        if repr(error) == self._reported and now < self._silent_until:
            return
        self._reported, self._silent_until = repr(error), now + _SILENCE
        if _is_shortage(error):
            self.log(Log(Level.ERROR, "system_error", f"no memory was left ({_place(error)}); serving goes on"))
            return
        import traceback  # noqa: PLC0415  # half a MiB, for a day that should never come

        for line in "".join(traceback.format_exception(error)).splitlines():
            self.log(Log(Level.ERROR, "bug", line))
        self.log(Log(Level.ERROR, "bug", "a bug in safe_reload, please report it; serving goes on"))

    def isolated(self, action: Callable[[], object]) -> None:
        """Do it, and whatever fails of it keeps nothing else from being done."""
        try:
            action()
        except Exception as error:  # noqa: BLE001  # whatever it is
            self.unexpected(error)

    # ---- what happens ----------------------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        """Whether something has happened that the core does not know yet."""
        return bool(self._events)

    def is_to_be_decided(self, kind: type[Event]) -> bool:
        """Tell whether an event of this kind has happened that the core does not know yet."""
        return any(isinstance(event, kind) for event in self._events)

    def submit(self, event: Event) -> None:
        """Have the core decide about this, after what has happened before it."""
        self._events.append(event)

    def log(self, line: Log) -> None:
        """Write a line."""
        self._world.logger.write(line)

    def _settle(self) -> None:
        """Feed the machine until nothing more follows."""
        while self._events:
            event = self._events.popleft()
            try:
                effects = self.machine.feed(event)
            except Exception as error:  # noqa: BLE001  # a death must not be forgotten for it
                self.unexpected(error)
                self._try_again(event, lambda event=event: self.submit(event))  # type: ignore[misc]
                continue
            self._has_succeeded(event)
            for effect in effects:
                self._carry_out(effect)
            self._set_timers()
            if self._world.service:
                self.isolated(self._world.service.decided)
        self._buried.clear()

    def _try_again(self, what: object, action: Callable[[], None]) -> None:
        """Do later what has failed, and is not to be forgotten; but not for ever, for it may be our own mistake."""
        tries = self._tries.pop(what, 0) + 1
        if tries > _MOST_TRIES:
            self.log(Log(Level.ERROR, "given_up", f"has failed {tries} times, and is not tried again: {what!r}"))
            return
        self._tries[what] = tries
        self.sources.alarm(("again", what), _AGAIN_AFTER * 2 ** (tries - 1), action)

    def _has_succeeded(self, what: object) -> None:
        if self._tries and self._tries.pop(what, 0):
            self.sources.cancel(("again", what))

    def _set_timers(self) -> None:
        now = time.monotonic()
        self._deadlines = {
            timer: self._deadlines.get(timer, now + seconds) for timer, seconds in self.machine.running().items()
        }

    def _wait(self) -> None:
        """Wait for the world or for the next timer, and note what happened."""
        # Once more: where it failed after a decision, a timer that is not set would never run out.
        self._set_timers()
        if self._world.logger.waits:
            self.sources.pause(self._world.logger, self._flush_log)
        try:
            self.sources.wait(min(self._deadlines.values(), default=math.inf))
        finally:
            now = time.monotonic()
            for timer, due in self._deadlines.items():
                if due <= now:
                    self._events.append(Elapsed(timer))
                    self._deadlines[timer] = math.inf

    def _signals_arrived(self) -> None:
        signals = list(self._world.arrivals.read())
        self._events.extend(Signalled(signum) for signum in signals if signum != _SIGCHLD)
        # Whatever arrived, for a SIGCHLD that found the pipe full is lost, and waitpid(2) costs nothing.
        self.reap()

    def reap(self) -> None:
        """Note who has died."""
        for death in self._world.processes.reap():
            self.isolated(lambda death=death: self._bury(death))  # type: ignore[misc]

    def has_lost(self, number: int) -> bool:
        """Tell whether a process is gone of whose death the core will not be told any more: by a mistake of ours."""
        if number in self._world.processes.pids():
            return False
        told = (*self._events, *self._tries)
        return not any(isinstance(event, Exited) and event.number == number for event in told)

    def _bury(self, death: Exited | Reaped) -> None:
        if isinstance(death, Exited) and death.number in self._helpers:
            self._helpers.pop(death.number)(death.status)
            return
        try:
            if isinstance(death, Exited):
                self._forget(death.number)
                death = replace(death, transient=is_transient(death.status, self.words_of(death.number)))
        finally:
            # Whatever has failed, it is dead.
            self._events.append(death)

    def _forget(self, number: int) -> None:
        """Close every line to a process that is gone, and pass on its last words before anything is said about it."""
        child = self._children.pop(number, None)
        if child:
            self._buried[number] = child
            self.isolated(child.close)
        self.isolated(lambda: self._adoption.forget(number))

    # ---- what is to be done ----------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        """Do it; never raises. Whatever fails, who awaits an answer gets one, as `core.failures` says."""
        try:
            self._do(effect)
            self._has_succeeded(lasting(effect))
        except Exception as error:  # noqa: BLE001  # the rest of the step is to be carried out
            failure = error
            self.isolated(lambda: self._failed(effect, failure))

    def _failed(self, effect: Effect, error: Exception) -> None:
        why = _reason(error)
        event, what = failure_of(effect, why), lasting(effect)
        if event:
            self._events.append(event)
        elif what:
            self._try_again(what, lambda: self._carry_out(effect))
        if isinstance(error, OSError) or _is_shortage(error):
            self.log(Log(Level.ERROR, "system_error", f"{type(effect).__name__.lower()}: {why}"))
        elif not isinstance(error, RefusedError):
            self.unexpected(error)

    def _do(self, effect: Effect) -> None:
        world = self._world
        match effect:
            case Spawn(number=number, kept=kept):
                self._spawn(number, kept=kept)
            case SpawnExporter():
                self._spawn_exporter()
            case Ask(number=number, commands=commands):
                self._ask(number, commands)
            case Send(number=number, signum=signum, line=line):
                self._send(number, signum, line)
            case Poke(tags=tags):
                self._events.append(Poked(world.listeners.poke(tags)))
            case Listen(tags=tags, doubtful=doubtful):
                self.listen(tags, doubtful)
            case Publish(pid=pid):
                self._publish(pid)
            case Adopt(number=number):
                self._adoption.ask(number)
            case Log():
                world.logger.write(effect)
            case Tell(notice=notice):
                line = line_of(notice)
                world.logger.write(line)
                if world.service:
                    world.service.told(notice, line.message, self.words_of(notice.number))
            case CloseVips():
                self._refusing.refuse_at(())
                if world.service:
                    world.service.carry_out(effect)
            case Look() | Keep() | Reply() | Rehearse() | Upgrade() | TakeOver():
                if world.service:
                    world.service.carry_out(effect)
            case _:
                assert_never(effect)

    def _publish(self, pid: int, *, again: bool = False) -> None:
        """Write the pid file; where that cannot be done there is none, and it is tried again."""
        pid_file = self._world.pid_file
        if not pid_file or (again and pid not in self._world.processes.pids().values()):
            return
        self.sources.cancel(pid_file)
        try:
            pid_file.write(pid)
        except OSError as error:
            if not again:
                what = f"the pid file {pid_file.path} cannot be written, and is tried again: {error.strerror}"
                self.log(Log(Level.ERROR, "pid_file", what))
            self.sources.alarm(pid_file, _PUBLISH_AGAIN_AFTER, lambda: self._publish(pid, again=True))

    def listen(self, tags: Collection[str], doubtful: Collection[str] = ()) -> None:
        """Let these VIPs accept, and no others.

        Raises:
            OSError: the kernel refuses.

        """
        try:
            self._world.listeners.listen(tags, doubtful)
        finally:
            self._refusing.refuse_at(self._world.listeners.unused())

    def _spawn(self, number: int, *, kept: bool) -> None:
        """Start a generation.

        Raises:
            Exception: it has no process, and no line to one is left.

        """
        world = self._world
        try:
            newborn = world.births.of(number, kept=kept)
        except RefusedError as error:
            self._events.append(NotSpawned(number, f"was not started: {error}", 1, refused=True))
            return
        try:
            pid = world.processes.spawn(number, newborn.birth)
            self._events.append(Spawned(number, pid))
        except BaseException as error:
            newborn.spawned()
            newborn.close()
            # One that the core cannot be told of; most likely there is none.
            world.processes.send(number, signal.SIGKILL)
            if isinstance(error, OSError):
                raise OSError(f"fork: {error.strerror}") from None
            raise
        # Whatever fails from here on, there is a process.
        self.isolated(newborn.spawned)
        self.isolated(lambda: self._connect(number, newborn))

    def _connect(self, number: int, newborn: Newborn) -> None:
        """Wait for what a new process says."""
        self._new_child(number).connect(newborn.channel, newborn.words, newborn.offer)

    def _new_child(self, number: int) -> Child:
        child = Child(number, self.sources, self._world.logger, self.submit, self._taken)
        self._children[number] = child
        return child

    def _taken(self) -> None:
        if self._world.service:
            self._world.service.offered(open_offers=self.offers_open)

    def _send(self, number: int, signum: int, line: Log | None) -> None:
        """Send a signal; before a soft stop, which closes the CLI, a session is begun that outlives it."""

        def send() -> None:
            try:
                self._world.processes.send(number, signum, to_group=self._world.signal_groups)
            except PermissionError:
                self._say_denied(number)
            except OSError as error:
                self.log(Log(Level.ERROR, "system_error", f"send: {reason(error)}"))
            except MemoryError:
                self._try_again(Send(number, signum), send)
            else:
                if line:
                    self._carry_out(line)

        child = self._children.get(number)
        if child and signum == _SOFT_STOP:
            child.leave(send)
        else:
            send()

    def _say_denied(self, number: int) -> None:
        """Say once of each process that we may not signal it, and what follows."""
        child, pid = self._children.get(number), self._world.processes.pids().get(number)
        if not child or child.is_denied or pid is None:
            return
        child.is_denied = True
        if self._world.service:
            who, fields = f"generation {number} (pid {pid})", {"generation": number, "pid": pid}
            stays = "does not leave: it keeps its connections, and what it binds itself, until others end it"
        else:
            who, fields, stays = (
                f"the program (pid {pid})",
                {"pid": pid},
                "does not get the signals that are sent to us",
            )
        self.log(Log(Level.ERROR, "not_permitted", f"{who} {stays}; {why_not_signalled()}", fields))

    def _spawn_exporter(self) -> None:
        assert self._world.service
        self._events.append(Spawned(EXPORTER, self._world.processes.spawn(EXPORTER, self._world.service.exporter())))

    def start_helper(self, number: int, birth: Birth, ended: Callable[[int], None]) -> None:
        """Start a process that is no generation; tell its end, with its status as in Exited.

        Raises:
            OSError: there can be no new process now.

        """
        self._world.processes.spawn(number, birth)
        self._helpers[number] = ended

    def fork_helper(self, number: int, run: Callable[[], None], ended: Callable[[int], None]) -> None:
        """Start a copy of ourselves that runs this and ends; tell its end, with its status as in Exited.

        Raises:
            OSError: there can be no new process now.

        """
        self._world.processes.fork(number, run)
        self._helpers[number] = ended

    def adopt_helper(self, number: int, ended: Callable[[int], None]) -> None:
        """Tell the end of such a process that our last life has started."""
        self._helpers[number] = ended

    def kill(self, number: int) -> None:
        """Kill such a process."""
        self._world.processes.send(number, signal.SIGKILL)

    # ---- another program takes our place ---------------------------------------------------------------------------

    def hand_down(self) -> dict[str, Any]:
        """Return the children and our lines to them as plain values."""
        for child in self._children.values():
            child.tell_to_leave()
        pids = self._world.processes.pids()
        children = self._children.items()
        return {
            "pids": {number: pid for number, pid in pids.items() if number >= EXPORTER},
            "helpers": {number: pid for number, pid in pids.items() if number < EXPORTER},
            "channels": {number: child.channel.fileno() for number, child in children if child.channel},
            "words": {number: left for number, child in children if (left := child.words_left())},
            "versions": {number: child.version for number, child in children if child.version},
            "adopts": self._adoption.pending,
            "log": self._world.logger.hand_down(),
        }

    def inherit(self, left: Mapping[str, Any]) -> None:
        """Go on with the children that our last life has handed down.

        Raises:
            OSError: a descriptor is not there.

        """
        self._world.processes.inherit({**left["pids"], **left.get("helpers", {})})
        channels, words = left["channels"], left["words"]
        for number in filter(None, left["pids"]):
            child = self._new_child(number)
            child.version = left["versions"].get(number, "")
            child.connect(
                CliChannel(channels[number]) if number in channels else None,
                Words(*words[number]) if number in words else None,
            )
        if left.get("log"):
            self._world.logger.inherit(left["log"])

    def adopt(self, number: int) -> None:
        """Ask a generation for its ordinary listeners that our last life has asked in vain; 0 is none."""
        if number:
            self._adoption.ask(number)

    def unseen(self) -> list[int]:
        """Return the signals that have arrived and that nobody has seen to."""
        return list(self._world.arrivals.read())

    # ---- children -----------------------------------------------------------------------------------

    def child(self, number: int) -> Child | None:
        """Return the process of a generation; None when it is gone."""
        return self._children.get(number)

    def _channel_of(self, number: int) -> CliChannel | None:
        child = self._children.get(number)
        return child.channel if child else None

    def _ask(self, number: int, commands: tuple[str, ...]) -> None:
        child = self._children.get(number)
        if child:
            child.ask(commands)
        else:
            self._events.append(Unanswered(number))

    # ---- what is said ----------------------------------------------------------------------------------------------

    def words_of(self, number: int) -> str:
        """Return what is remembered of what a generation has said, also when it has just died."""
        child = self._children.get(number) or self._buried.get(number)
        return child.said() if child else ""

    @property
    def offers_open(self) -> bool:
        """Whether a candidate may still take what it was offered."""
        return any(child.may_take for child in self._children.values())

    def _flush_log(self) -> None:
        logger = self._world.logger
        logger.flush()
        if not logger.waits:
            self.sources.remove(logger)

    @property
    def lines_lost(self) -> int:
        """How many lines of the log nobody can read any more."""
        return self._world.logger.lines_lost


def _is_shortage(error: Exception) -> bool:
    """Tell whether there was no memory, and nothing else is wrong."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_shortage, error.exceptions))
    return isinstance(error, MemoryError)


def _place(error: BaseException) -> str:
    """Say where an exception was raised."""
    if isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"


def _reason(error: Exception) -> str:
    """Say in a few words what has failed."""
    if isinstance(error, MemoryError):
        return "no memory is left"
    return reason(error) if isinstance(error, OSError) else repr(error)


__all__ = ["Service", "Supervisor", "World"]
