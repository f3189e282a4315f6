"""The loop: wait, turn what happened into events, ask the core, carry out the effects.

Nothing in here decides. After the first process has been started nothing in here may raise, either: the death of
PID 1 is the death of the container, so an expected failure is an event or a log line, and an unexpected one is
logged with its traceback and serving goes on.
"""

import contextlib
import math
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping

from entrypoint.adoption import Adoption, Keeper
from entrypoint.births import Newborn, RefusedError
from entrypoint.core.endings import is_transient
from entrypoint.core.events import (
    EXPORTER,
    Adopt,
    Answered,
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
    Spawned,
    SpawnExporter,
    TakeOver,
    Timer,
    Unanswered,
    Upgrade,
)
from entrypoint.core.machine import Machine
from entrypoint.core.records import dataclass, replace
from entrypoint.core.types import Any, Protocol, assert_never
from entrypoint.held import HeldSessions
from entrypoint.sources import Sources
from entrypoint.system.cli_channel import CliChannel, Conversation
from entrypoint.system.files import PidFile
from entrypoint.system.handover import Offer
from entrypoint.system.listeners import Listeners
from entrypoint.system.log import Logger
from entrypoint.system.processes import Birth, Processes
from entrypoint.system.signals import Arrivals
from entrypoint.system.words import Words

_SIGCHLD = signal.SIGCHLD
_SOFT_STOP = signal.SIGUSR1
_PUBLISH_AGAIN_AFTER = 5.0
"""Seconds."""
_PAUSE_AFTER_ERROR = 0.1
"""Seconds; bounds how often an unexpected error can be logged."""


class Births(Protocol):
    """Says what a generation's process is made of."""

    def of(self, number: int, *, kept: bool, bad: str) -> Newborn:
        """Return what to start and the lines to it; may raise RefusedError or OSError."""


class Service(Keeper, Protocol):
    """What serves haproxy beside the processes themselves: its configurations, its listeners, and who asks."""

    def begin(self, supervisor: "Supervisor") -> Event:
        """Begin to serve; return what the core is told first."""

    def spawned(self, number: int) -> None:
        """A generation has been started from what was read of the disk."""

    def gone(self, number: int) -> None:
        """A generation is no more."""

    def offered(self, *, open_offers: bool) -> None:
        """A candidate has taken what it was offered, or never will."""

    def answered(self, number: int, text: str) -> None:
        """The CLI of a generation has answered."""

    def said(self, line: Log, words: str) -> None:
        """A line was logged; the words are those of the generation that it is about."""

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
        self._held = HeldSessions(self.sources)
        self._world = world
        self._events: deque[Event] = deque()
        self._deadlines: dict[Timer, float] = {}
        self._channels: dict[int, CliChannel] = {}
        self._conversations: dict[int, Conversation] = {}
        self._words: dict[int, Words] = {}
        self._offers: dict[int, Offer] = {}
        self._adoption = Adoption(self.sources, self._channels, world.service)
        self._last_words: dict[int, str] = {}
        self._helpers: dict[int, Callable[[int], None]] = {}
        self.sources.add(world.arrivals, self._signals_arrived)
        world.logger.open()

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        service = self._world.service
        self._events.append(service.begin(self) if service else Began())
        while True:
            try:
                self._settle()
                status = self.machine.status
                if status is not None:
                    break
                self._wait()
            except Exception:  # noqa: BLE001  # PID 1 may not die of it
                self.unexpected()
        if service:
            service.close()
        if self._world.pid_file:
            self._world.pid_file.remove()
        self._world.logger.close()
        return status

    def unexpected(self) -> None:
        """Report the exception that is being handled, and go on."""
        try:
            self._report()
        except Exception as error:  # noqa: BLE001  # not even this may end PID 1
            self._world.logger.write(Log(Level.ERROR, "bug", f"a bug could not be reported: {error!r}"))
        time.sleep(_PAUSE_AFTER_ERROR)  # noqa: TID251  # a loop that fails each time must not fill the disk

    def _report(self) -> None:
        import traceback  # noqa: PLC0415  # half a MiB, for a day that should never come

        for line in traceback.format_exc().splitlines():
            self._world.logger.write(Log(Level.ERROR, "bug", line))
        self._world.logger.write(Log(Level.ERROR, "bug", "a bug in safe_reload, please report it; serving goes on"))

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
            for effect in self.machine.feed(self._events.popleft()):
                self._carry_out(effect)
            self._set_timers()
            if self._world.service:
                self._world.service.decided()
        self._last_words.clear()

    def _set_timers(self) -> None:
        now = time.monotonic()
        self._deadlines = {
            timer: self._deadlines.get(timer, now + seconds) for timer, seconds in self.machine.running().items()
        }

    def _wait(self) -> None:
        """Wait for the world or for the next timer, and note what happened."""
        if self._world.logger.waits:
            self.sources.pause(self._world.logger, self._flush_log)
        self.sources.wait(min(self._deadlines.values(), default=math.inf))
        now = time.monotonic()
        for timer, due in self._deadlines.items():
            if due <= now:
                self._deadlines[timer] = math.inf
                self._events.append(Elapsed(timer))

    def _signals_arrived(self) -> None:
        signals = list(self._world.arrivals.read())
        self._events.extend(Signalled(signum) for signum in signals if signum != _SIGCHLD)
        # Whatever arrived, for a SIGCHLD that found the pipe full is lost, and waitpid(2) costs nothing.
        self.reap()

    def reap(self) -> None:
        """Note who has died."""
        for death in self._world.processes.reap():
            if isinstance(death, Exited) and death.number in self._helpers:
                self._helpers.pop(death.number)(death.status)
                continue
            if isinstance(death, Exited):
                self._forget(death.number)
                words = self._last_words.get(death.number, "")
                death = replace(death, transient=is_transient(death.status, words))  # noqa: PLW2901  # with more of it
            self._events.append(death)

    def _forget(self, number: int) -> None:
        """Close every line to a process that is gone, and pass on its last words before anything is said about it."""
        self._end_conversation(number)
        self._held.close(number)
        words = self._words.pop(number, None)
        if words:
            self.sources.remove(words)
            self.sources.cancel(words)
            self._world.logger.pass_on(words.drain(), number)
            self._last_words[number] = words.text
            words.close()
        self._end_offer(number)
        self._adoption.forget(number)
        channel = self._channels.pop(number, None)
        if channel:
            channel.close()
        if self._world.service:
            self._world.service.gone(number)

    # ---- what is to be done ----------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        """Do it; a system error is a log line, and what follows from the effect's absence is the timers' job."""
        try:
            self._do(effect)
        except OSError as error:
            self._world.logger.write(Log(Level.ERROR, "system_error", f"{type(effect).__name__.lower()}: {error}"))

    def _do(self, effect: Effect) -> None:
        world = self._world
        match effect:
            case Spawn(number=number, kept=kept, bad=bad):
                self._spawn(number, kept=kept, bad=bad)
            case SpawnExporter():
                self._spawn_exporter()
            case Ask(number=number, commands=commands):
                self._ask(number, commands)
            case Send(number=number, signum=signum):
                self._send(number, signum)
            case Poke(tags=tags):
                self._events.append(Poked(world.listeners.poke(tags)))
            case Listen(tags=tags, doubtful=doubtful):
                world.listeners.listen(tags, doubtful)
            case Publish(pid=pid):
                self._publish(pid)
            case Adopt(number=number):
                self._adoption.ask(number)
            case Log():
                world.logger.write(effect)
                if world.service:
                    world.service.said(effect, self.words_of(effect.fields.get("generation")))
            case CloseVips() | Look() | Keep() | Reply() | Rehearse() | Upgrade() | TakeOver():
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

    def _spawn(self, number: int, *, kept: bool, bad: str) -> None:
        world = self._world
        try:
            newborn = world.births.of(number, kept=kept, bad=bad)
        except (RefusedError, OSError) as error:
            refused = isinstance(error, RefusedError)
            self._events.append(NotSpawned(number, f"was not started: {error}", 1, refused))
            return
        try:
            pid = world.processes.spawn(number, newborn.birth)
        except OSError as error:
            newborn.spawned()
            newborn.close()
            if world.service:
                world.service.gone(number)
            self._events.append(NotSpawned(number, f"was not started: fork: {error.strerror}", 1))
            return
        newborn.spawned()
        if newborn.channel:
            self._channels[number] = newborn.channel
        if newborn.words:
            self._listen_to_words(number, newborn.words)
        if newborn.offer:
            self._offers[number] = newborn.offer
            self._wait_for_offer(number, newborn.offer)
        self._events.append(Spawned(number, pid, newborn.digest, newborn.kept, newborn.disk))
        if world.service:
            world.service.spawned(number)

    def _send(self, number: int, signum: int) -> None:
        """Send a signal; before a soft stop, which closes the CLI, a session is begun that outlives it."""

        def send() -> None:
            try:
                self._world.processes.send(number, signum, to_group=self._world.signal_groups)
            except OSError as error:
                self.log(Log(Level.ERROR, "system_error", f"send: {error}"))

        session = None
        if signum == _SOFT_STOP:
            # Without descriptors left nobody will know how many connections it has; that is all.
            with contextlib.suppress(OSError):
                session = self.session(number)
        if session:
            self._held.drain(number, session, send)
        else:
            send()

    def _spawn_exporter(self) -> None:
        assert self._world.service
        try:
            pid = self._world.processes.spawn(EXPORTER, self._world.service.exporter())
        except OSError as error:
            self._events.append(NotSpawned(EXPORTER, f"was not started: fork: {error.strerror}", 1))
        else:
            self._events.append(Spawned(EXPORTER, pid))

    def start_helper(self, number: int, birth: Birth, ended: Callable[[int], None]) -> None:
        """Start a process that is no generation; tell its end, with its status as in Exited.

        Raises:
            OSError: there can be no new process now.

        """
        self._world.processes.spawn(number, birth)
        self._helpers[number] = ended

    def kill(self, number: int) -> None:
        """Kill such a process."""
        self._world.processes.send(number, signal.SIGKILL)

    # ---- another program takes our place ---------------------------------------------------------------------------

    def hand_down(self) -> dict[str, Any]:
        """Return the children and our lines to them as plain values."""
        self._held.tell_all()
        return {
            "pids": {number: pid for number, pid in self._world.processes.pids().items() if number >= EXPORTER},
            "channels": {number: channel.fileno() for number, channel in self._channels.items()},
            "words": {number: (words.fileno(), words.text) for number, words in self._words.items()},
            "adopts": self._adoption.pending,
            "log": self._world.logger.hand_down(),
        }

    def inherit(self, left: Mapping[str, Any]) -> None:
        """Go on with the children that our last life has handed down.

        Raises:
            OSError: a descriptor is not there.

        """
        self._world.processes.inherit(left["pids"])
        for number, descriptor in left["channels"].items():
            self._channels[number] = CliChannel(descriptor)
        for number, (descriptor, text) in left["words"].items():
            self._listen_to_words(number, Words(descriptor, text))
        if left.get("log"):
            self._world.logger.inherit(left["log"])
        if left.get("adopts"):
            self._adoption.ask(left["adopts"])

    def unseen(self) -> list[int]:
        """Return the signals that have arrived and that nobody has seen to."""
        return list(self._world.arrivals.read())

    # ---- the CLI of a generation -----------------------------------------------------------------------------------

    def session(self, number: int) -> socket.socket | None:
        """Open a connection to the CLI of a generation, if there is one."""
        channel = self._channels.get(number)
        return channel.session() if channel else None

    def connections(self, number: int) -> int | None:
        """Return how many connections a generation has that drains; None if nobody knows."""
        return self._held.connections(number)

    def _ask(self, number: int, commands: tuple[str, ...]) -> None:
        self._end_conversation(number)
        channel = self._channels.get(number)
        if channel is None:
            self._events.append(Unanswered(number))
            return
        try:
            self._listen_to(number, channel.ask(commands))
        except OSError as error:
            self._events.append(Unanswered(number))
            self.log(Log(Level.ERROR, "system_error", f"ask: {error}"))

    def _listen_to(self, number: int, conversation: Conversation) -> None:
        self._conversations[number] = conversation
        self.sources.add(conversation, lambda: self._hear(number, conversation))

    def _hear(self, number: int, conversation: Conversation) -> None:
        if not conversation.read():
            return
        self.sources.remove(conversation)
        del self._conversations[number]
        if conversation.failure:
            conversation.close()
            self._events.append(Unanswered(number, conversation.failure))
            return
        try:
            goes_on = conversation.proceed()
        except OSError:
            # No descriptors are left for its next line, and half an answer is none.
            self._events.append(Unanswered(number))
            return
        if goes_on:
            self._listen_to(number, conversation)
        elif conversation.answer:
            # Now it listens, so it may have clients.
            words = self._words.get(number)
            if words:
                words.started()
            if self._world.service:
                self._world.service.answered(number, conversation.answer)
            self._events.append(Answered(number, conversation.answer))
        else:
            self._events.append(Unanswered(number))

    def _end_conversation(self, number: int) -> None:
        conversation = self._conversations.pop(number, None)
        if conversation:
            self.sources.remove(conversation)
            conversation.close()

    # ---- the stderr of a generation --------------------------------------------------------------------------------

    def _listen_to_words(self, number: int, words: Words) -> None:
        self._words[number] = words
        self.sources.add(words, lambda: self._overhear(number, words))

    def _overhear(self, number: int, words: Words) -> None:
        """Pass on what a generation has said, and then let some more come.

        Lines come one by one, such as those of an access log: waking up for each would cost more than they do.
        """
        logger, began = self._world.logger, time.monotonic()
        self._pass_on(number, words, words.share(full=logger.waits))
        self.sources.remove(words)
        if not words.ended:
            # One that never stops has half of our time at most.
            pause = words.pause if logger.waits or not words.unread else time.monotonic() - began
            self.sources.alarm(words, pause, lambda: self._listen_to_words(number, words))

    def _pass_on(self, number: int, words: Words, most: int) -> None:
        overrun = words.overrun
        self._world.logger.pass_on(words.read(most), number)
        if words.overrun and not overrun:
            what = f"generation {number} may have lost lines: it has written to its stderr faster than they were read"
            self._world.logger.write(Log(Level.WARNING, "stderr_overrun", what, {"generation": number}), kept=True)

    def _flush_log(self) -> None:
        logger = self._world.logger
        logger.flush()
        if not logger.waits:
            self.sources.remove(logger)

    @property
    def lines_lost(self) -> int:
        """How many lines of the log nobody can read any more."""
        return self._world.logger.lines_lost

    def words_of(self, number: object) -> str:
        """Return what is remembered of what a generation has said, also when it has just died."""
        if not isinstance(number, int):
            return ""
        words = self._words.get(number)
        if words:
            # What it said before it answered may still be in the pipe.
            self._pass_on(number, words, words.unread)
            return words.text
        return self._last_words.get(number, "")

    # ---- what a candidate is offered of the ordinary listeners ------------------------------------------------------

    def _wait_for_offer(self, number: int, offer: Offer) -> None:
        self.sources.add(offer, lambda: self._offer(number, offer))

    def _offer(self, number: int, offer: Offer) -> None:
        self.sources.remove(offer)
        if offer.proceed():
            self._end_offer(number)
        else:
            self._wait_for_offer(number, offer)

    def _end_offer(self, number: int) -> None:
        offer = self._offers.pop(number, None)
        if offer:
            self.sources.remove(offer)
            offer.close()
            if self._world.service:
                self._world.service.offered(open_offers=bool(self._offers))

    @property
    def offers_open(self) -> bool:
        """Whether a candidate may still take what it was offered."""
        return bool(self._offers)


__all__ = ["Service", "Supervisor", "World"]
