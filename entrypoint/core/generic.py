"""The life of one program that is not haproxy: what tini does about whatever happens, no more.

tini's behaviour is documented in its README and its source (`wait_and_forward_signal`, `reap_zombies`).
"""

import signal

from entrypoint.core.endings import shell_status
from entrypoint.core.events import (
    Began,
    Effect,
    Event,
    Exited,
    Level,
    Log,
    NotSpawned,
    Reaped,
    Send,
    Signalled,
    Spawn,
    Spawned,
    Timer,
)
from entrypoint.core.records import dataclass, replace
from entrypoint.core.settings import Settings
from entrypoint.core.state import Ended

ONLY = 1
"""The number of the one generation that there is."""


@dataclass(frozen=True, slots=True)
class Running:
    """The program has been started."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is known."""

    settings: Settings
    stage: Running | Ended = Running()


def timers(_: State) -> dict[Timer, float]:
    """Return the timers that run: none, ever."""
    return {}


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Decide what follows from an event. Pure: the same arguments give the same answer."""
    match event:
        case Began():
            return state, (Spawn(ONLY),)
        case Signalled(signum=signum):
            name = signal.Signals(signum).name if signum in set(signal.Signals) else f"signal {signum}"
            return state, (Log(Level.DEBUG, "forwarded", f"Passing {name} to child"), Send(ONLY, signum))
        case Spawned(pid=pid):
            return state, (Log(Level.INFO, "spawned", f"Spawned child process with pid {pid}", {"pid": pid}),)
        case NotSpawned(reason=reason, status=status):
            return replace(state, stage=Ended(status)), (Log(Level.ERROR, "not_spawned", reason),)
        case Exited(status=status):
            how = "signal" if status < 0 else "status"
            line = Log(Level.INFO, "exited", f"Main child exited with {how} {abs(status)}")
            return replace(state, stage=Ended(shell_status(status))), (line,)
        case Reaped(pid=pid):
            level = Level.WARNING if state.settings.warn_reaped else Level.DEBUG
            return state, (Log(level, "reaped", f"Reaped zombie process with pid={pid}"),)
        case _:
            # Nothing else is asked for, so nothing else is answered.
            return state, ()
