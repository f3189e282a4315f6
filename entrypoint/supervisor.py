"""The loop: wait, turn what happened into events, ask the core, carry out the effects.

Nothing in here decides. After the first process has been started nothing in here may raise, either: the death of
PID 1 is the death of the container, so an expected failure is an event or a log line, and an unexpected one is
logged with its traceback and serving goes on.
"""

import math
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, assert_never

from entrypoint.births import RefusedError
from entrypoint.core.events import (
    Answered,
    Ask,
    Began,
    CloseVips,
    Effect,
    Elapsed,
    Event,
    Exited,
    Level,
    Listen,
    Log,
    NotSpawned,
    Poke,
    Publish,
    Send,
    Signalled,
    Spawn,
    Spawned,
    Timer,
    Unanswered,
)
from entrypoint.core.machine import Machine
from entrypoint.core.records import dataclass
from entrypoint.system.cli_channel import CliChannel, Conversation
from entrypoint.system.files import PidFile
from entrypoint.system.listeners import Listeners
from entrypoint.system.log import Logger
from entrypoint.system.processes import Birth, Processes
from entrypoint.system.signals import Arrivals

_SIGCHLD = signal.SIGCHLD
_LONGEST_WAIT = 86400.0
"""Seconds; epoll_wait(2) takes no more than 24 days."""
_PAUSE_AFTER_ERROR = 0.1
"""Seconds; bounds how often an unexpected error can be logged."""


class Births(Protocol):
    """Says what a generation's process is made of."""

    def of(self, number: int) -> tuple[Birth, CliChannel | None]:
        """Return what to start and the line to its CLI; may raise RefusedError or OSError."""


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


class Supervisor:
    """Runs a machine in a world until it has ended."""

    def __init__(self, machine: Machine[Any], world: World) -> None:
        """Begin; nothing happens before `run`."""
        self._machine = machine
        self._world = world
        self._events: deque[Event] = deque()
        self._deadlines: dict[Timer, float] = {}
        self._channels: dict[int, CliChannel] = {}
        self._conversations: dict[int, Conversation] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(world.arrivals, selectors.EVENT_READ, self._signals_arrived)

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        self._events.append(Began(tuple(self._world.listeners.tags().items())))
        while True:
            try:
                self._settle()
                status = self._machine.status
                if status is not None:
                    break
                self._wait()
            except Exception:  # noqa: BLE001  # PID 1 may not die of it
                self._unexpected()
        if self._world.pid_file:
            self._world.pid_file.remove()
        return status

    def _unexpected(self) -> None:
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

    def _settle(self) -> None:
        """Feed the machine until nothing more follows."""
        while self._events:
            for effect in self._machine.feed(self._events.popleft()):
                self._carry_out(effect)
            self._set_timers()

    def _set_timers(self) -> None:
        now = time.monotonic()
        self._deadlines = {
            timer: self._deadlines.get(timer, now + seconds) for timer, seconds in self._machine.running().items()
        }

    def _wait(self) -> None:
        """Wait for the world or for the next timer, and note what happened."""
        deadline = min(self._deadlines.values(), default=math.inf)
        timeout = None if deadline == math.inf else min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT)
        for key, _ in self._selector.select(timeout):
            happened: Callable[[], None] = key.data
            happened()
        now = time.monotonic()
        for timer, due in self._deadlines.items():
            if due <= now:
                self._deadlines[timer] = math.inf
                self._events.append(Elapsed(timer))

    def _signals_arrived(self) -> None:
        signals = list(self._world.arrivals.read())
        self._events.extend(Signalled(signum) for signum in signals if signum != _SIGCHLD)
        # Whatever arrived, for a SIGCHLD that found the pipe full is lost, and waitpid(2) costs nothing.
        for death in self._world.processes.reap():
            if isinstance(death, Exited):
                self._forget(death.number)
            self._events.append(death)

    def _forget(self, number: int) -> None:
        self._end_conversation(number)
        channel = self._channels.pop(number, None)
        if channel:
            channel.close()

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
            case Spawn(number=number):
                self._spawn(number)
            case Ask(number=number, commands=commands):
                self._ask(number, commands)
            case Send(number=number, signum=signum):
                world.processes.send(number, signum, to_group=world.signal_groups)
            case Poke(tags=tags):
                world.listeners.poke(tags)
            case Listen(tags=tags):
                world.listeners.listen(tags)
            case CloseVips():
                world.listeners.close()
            case Publish(pid=pid):
                if world.pid_file:
                    world.pid_file.write(pid)
            case Log():
                world.logger.write(effect)
            case _:
                assert_never(effect)

    def _spawn(self, number: int) -> None:
        try:
            birth, channel = self._world.births.of(number)
        except (RefusedError, OSError) as error:
            self._events.append(NotSpawned(number, f"was not started: {error}", 1))
            return
        try:
            pid = self._world.processes.spawn(number, birth)
        except OSError as error:
            if channel:
                channel.close()
            self._events.append(NotSpawned(number, f"was not started: fork: {error.strerror}", 1))
            return
        finally:
            if channel:
                channel.spawned()
        if channel:
            self._channels[number] = channel
        self._events.append(Spawned(number, pid))

    def _ask(self, number: int, commands: tuple[str, ...]) -> None:
        self._end_conversation(number)
        channel = self._channels.get(number)
        if channel is None:
            self._events.append(Unanswered(number))
            return
        self._listen_to(number, channel.ask(commands))

    def _listen_to(self, number: int, conversation: Conversation) -> None:
        self._conversations[number] = conversation
        self._selector.register(conversation, selectors.EVENT_READ, lambda: self._hear(number, conversation))

    def _hear(self, number: int, conversation: Conversation) -> None:
        if self._conversations.get(number) is not conversation or not conversation.read():
            return
        self._selector.unregister(conversation)
        del self._conversations[number]
        if conversation.proceed():
            self._listen_to(number, conversation)
        elif conversation.answer:
            self._events.append(Answered(number, conversation.answer))
        else:
            self._events.append(Unanswered(number))

    def _end_conversation(self, number: int) -> None:
        conversation = self._conversations.pop(number, None)
        if conversation:
            self._selector.unregister(conversation)
            conversation.close()
