"""What is known: the phases of a generation, the stages of safe_reload, and which timers run in which state.

Time is not in here. A phase or a stage implies its timers; what the state does not mention does not exist: no clocks,
no pids of the dead, no history.
"""

from collections.abc import Iterator

from entrypoint.core.effects import Effect, Reply
from entrypoint.core.events import Clock, Disk, Request, Timer
from entrypoint.haproxy import runtime_api
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import assert_never
from entrypoint.options.settings import Settings

SERVED_AFTER = 1.0
PROVEN_AFTER = 10.0
FIRST_RESTART_DELAY = 0.1
LONGEST_RESTART_DELAY = 30.0
ASK_AGAIN_AFTER = 0.01
ASK_CANDIDATE_AGAIN_AFTER = 1.0
RETIRE_WITHIN = 5.0
LOOK_WITHIN = 5.0
"""A disk that is slower than this, or hangs, holds up nobody: a generation starts without having been looked for."""
MOST_POLL_DOUBLINGS = 5
"""A disk that cannot be looked at is looked at after --poll, twice that, and so on: after 32 times that at most."""
KILL_AFTER = 5.0
ADOPT_WITHIN = 5.0
ADOPT_AGAIN_AFTER = 1.0
FIRST_EXPORTER_DELAY = 1.0
FIRST_RETRY_DELAY = 1.0
MOST_RETRIES = 6
"""After so many failures the delay is the longest one; more are not counted."""
INCOMPLETE_WITHIN = 10.0
"""Whoever writes a configuration, or a certificate and its key, has done so by then."""
MOST_DEBOUNCES = 10
"""Files that never are quiet are looked at after so many times --debounce."""


# ---- the phases of a generation ------------------------------------------------------------------------------------


@record(frozen=True)
class Candidate:
    """To be started, or started, and has not proved ready."""

    asked_by: tuple[Request, ...] = ()
    """Those who asked for the reload it is for; none for a start or a restart."""
    tries: int = 0
    """How many candidates before it were started in vain because the files changed meanwhile."""
    answer: str = ""
    """What it has answered, while the disk is looked at once more."""
    given_up: str = ""
    """Why it was killed, while its death is awaited."""
    asked: bool = True
    """It was asked, and its answer is awaited, or there."""
    looked: bool = False
    """The disk was looked at for it, or that took too long; before, it has no process."""


@record(frozen=True)
class Current:
    """Serves."""

    served: bool = False
    """It has lived for SERVED_AFTER."""
    proven: bool = False
    """It has lived for PROVEN_AFTER."""


@record(frozen=True)
class Retiring:
    """Has a successor and is made to let go of the VIPs."""

    rounds: int = 0
    """How often it has been looked at in vain."""
    asked: bool = True
    """It was asked, and its answer is awaited."""
    out_of_reach: frozenset[str] = frozenset()
    """The tags of VIPs to which no connection of ours got through when we last tried."""


@record(frozen=True)
class Draining:
    """Was told to leave, and finishes what it has."""


@record(frozen=True)
class Ending:
    """Was told to end at once."""

    killed: bool = False
    """It did not, and was killed."""


Phase = Candidate | Current | Retiring | Draining | Ending


@record(frozen=True)
class Generation:
    """One life of one haproxy process."""

    number: int
    phase: Phase
    pid: int | None = None
    """None until its process exists."""
    binds: tuple[runtime_api.Bind, ...] = ()
    """Its listeners on our VIPs, known once it is ready."""
    doubt: str = ""
    """Why it may have others as well; empty where it has none."""
    digest: str = ""
    """Of the configuration that it was given; empty where it could not be read."""
    kept: bool = False
    """That is the last known good one."""
    incomplete: tuple[str, ...] = ()
    """What of it looked incomplete: since it was started with that, it is not waited for."""


# ---- the stages of safe_reload -------------------------------------------------------------------------------------


@record(frozen=True)
class Serving:
    """Starts, serves, reloads."""


@record(frozen=True)
class BackingOff:
    """The current generation died, and the next one waits for its time."""

    digest: str = ""
    """What it ran: that the disk still holds this is no reason to start it before its time."""


@record(frozen=True)
class Lingering:
    """A stop was asked for, and the VIPs still accept (`--stop-delay`)."""


@record(frozen=True)
class Stopping:
    """The VIPs are closed, and the generations leave."""

    status: int = 0
    """What to exit with."""
    quick: bool = False


@record(frozen=True)
class Ended:
    """Nothing is left to do but to exit with this status."""

    status: int


Stage = Serving | BackingOff | Lingering | Stopping | Ended


@record(frozen=True)
class Transfer:
    """The current generation is yet to pass its ordinary listeners."""

    tries: int = 0
    """How often it was asked in vain."""
    asked: bool = True
    """It was asked, and its answer is awaited."""


@record(frozen=True)
class State:
    """Everything that is known; `step` is the only writer."""

    settings: Settings
    vips: tuple[tuple[str, int], ...] = ()
    stage: Stage = Serving()
    generations: tuple[Generation, ...] = ()
    """Oldest first."""
    last_number: int = 0
    started: bool = False
    """There has been a current generation."""
    waiting: tuple[Request, ...] = ()
    """Those who asked for the reload that waits for the one that runs; none when none waits."""
    owed: tuple[Reply, ...] = ()
    """What is said once the generation that retires has let go of the VIPs."""
    held: tuple[int, ...] = ()
    """Signals for the current generation that came before there was one."""
    deaths: int = 0
    """How many generations in a row died unasked before they were proven."""
    shortages: int = 0
    """How many in a row could not be started because the kernel had no room, while nobody served."""
    kept: str = ""
    """The digest of the last known good configuration; empty while there is none."""
    disk: Disk = Disk()
    """What the disk held when it was last looked at."""
    failed: str = ""
    """The digest of the configuration on disk that has failed: not tried again unasked."""
    retried: str = ""
    """The digest of one whose reload failed for another reason: tried again, later and later."""
    retries: int = 0
    """How often in a row."""
    patient: bool = False
    """Files look incomplete, and are waited for."""
    overdue: str = ""
    """The digest of those that have been waited for long enough."""
    torn: int = 0
    """How many candidates in a row were ready and passed over, because the files had changed while they read them."""
    settling: int = 0
    """How often files have changed since they were quiet; 0 while they are."""
    polls: int = 0
    """How often the disk was looked at because it was time to."""
    polling: bool = False
    """It is being looked at because it was time to."""
    unfinished: int = 0
    """How many of these looks in a row could not be finished; no more than MOST_POLL_DOUBLINGS are counted."""
    transfer: Transfer | None = None
    exporter: bool = False
    """The exporter lives."""
    exporters: int = 0
    """How many in a row died before they had lived for PROVEN_AFTER."""

    def find(self, number: int) -> Generation | None:
        """Return the generation of this number, while it lives."""
        return next((generation for generation in self.generations if generation.number == number), None)

    def update(self, generation: Generation) -> "State":
        """Return the state with this generation in the place of the one that has its number."""
        others = (generation if old.number == generation.number else old for old in self.generations)
        return replace(self, generations=tuple(others))

    def without(self, number: int) -> "State":
        """Return the state without the generation of this number."""
        return replace(self, generations=tuple(old for old in self.generations if old.number != number))

    def _in_phase(self, phase: type[Phase]) -> Generation | None:
        return next((generation for generation in self.generations if isinstance(generation.phase, phase)), None)

    @property
    def candidate(self) -> Generation | None:
        """The generation that is to become current."""
        return self._in_phase(Candidate)

    @property
    def current(self) -> Generation | None:
        """The generation that serves."""
        return self._in_phase(Current)

    @property
    def retiring(self) -> Generation | None:
        """The generation that is made to let go of the VIPs."""
        return self._in_phase(Retiring)

    @property
    def watches(self) -> bool:
        """Whether a changed file is a reload."""
        return self.settings.watch != ("off",)


Step = tuple[State, tuple[Effect, ...]]


def then(first: Step, *effects: Effect) -> Step:
    """Add effects before those of a step that has been decided."""
    state, later = first
    return state, (*effects, *later)


# ---- time ----------------------------------------------------------------------------------------------------------


def timers(state: State) -> dict[Timer, float]:
    """Return the timers that run in this state, with their whole duration in seconds.

    The loop starts those that are new, drops those that are gone, and leaves the others alone.
    """
    running = dict(_stage_timers(state))
    if isinstance(state.stage, Serving | BackingOff):
        running.update(_watch_timers(state))
    if isinstance(state.stage, Serving) and state.retries and state.current and not (state.candidate or state.waiting):
        running[Timer(Clock.RETRY, 0, state.retries)] = restart_delay(state.retries, FIRST_RETRY_DELAY)
    if state.settings.exporter and not isinstance(state.stage, Stopping | Ended):
        running.update(_exporter_timers(state))
    if state.transfer and state.current:
        clock, seconds = (Clock.ADOPT, ADOPT_WITHIN) if state.transfer.asked else (Clock.ADOPT_AGAIN, ADOPT_AGAIN_AFTER)
        running[Timer(clock, state.current.number, state.transfer.tries)] = seconds
    for generation in state.generations:
        running.update(_generation_timers(generation, state))
    return running


def _stage_timers(state: State) -> Iterator[tuple[Timer, float]]:
    match state.stage:
        case BackingOff():
            failures = state.deaths + state.shortages
            yield Timer(Clock.RESTART, failures), restart_delay(failures)
        case Lingering():
            yield Timer(Clock.STOP_DELAY), state.settings.stop_delay
        case Stopping(quick=False) if state.settings.stop_timeout:
            yield Timer(Clock.STOP_TIMEOUT), state.settings.stop_timeout
        case Serving() | Stopping() | Ended():
            pass
        case _:
            assert_never(state.stage)


def _watch_timers(state: State) -> Iterator[tuple[Timer, float]]:
    if not state.watches:
        return
    if state.patient:
        yield Timer(Clock.INCOMPLETE), INCOMPLETE_WITHIN
    if state.settling:
        yield Timer(Clock.QUIET, 0, state.settling), state.settings.debounce
        yield Timer(Clock.SETTLE), MOST_DEBOUNCES * state.settings.debounce
    elif state.started and (state.disk.polled or state.disk.unreadable) and not state.polling:
        yield Timer(Clock.POLL, 0, state.polls), state.settings.poll * 2.0 ** max(state.unfinished - 1, 0)


def _exporter_timers(state: State) -> Iterator[tuple[Timer, float]]:
    if not state.exporter:
        yield Timer(Clock.EXPORTER, 0, state.exporters), restart_delay(state.exporters, FIRST_EXPORTER_DELAY)
    elif state.exporters:
        yield Timer(Clock.EXPORTS), PROVEN_AFTER


def _generation_timers(generation: Generation, state: State) -> Iterator[tuple[Timer, float]]:
    number, settings = generation.number, state.settings
    match generation.phase:
        case Candidate(looked=False):
            yield Timer(Clock.LOOK, number), LOOK_WITHIN
        case Candidate(answer=answer) if answer:
            yield Timer(Clock.LOOK, number, 1), LOOK_WITHIN
        case Candidate(given_up="", asked=asked):
            yield Timer(Clock.READY, number), settings.ready_timeout
            if not asked:
                yield Timer(Clock.ASK_AGAIN, number), ASK_CANDIDATE_AGAIN_AFTER
        case Candidate():
            yield Timer(Clock.KILL, number), KILL_AFTER
        case Current(served=served, proven=proven):
            if not served:
                yield Timer(Clock.SERVED, number), SERVED_AFTER
            if not proven:
                yield Timer(Clock.PROVEN, number), PROVEN_AFTER
        case Retiring(rounds=rounds, asked=asked):
            yield Timer(Clock.RETIRE, number), RETIRE_WITHIN
            if not asked:
                yield Timer(Clock.ASK_AGAIN, number, rounds), ASK_AGAIN_AFTER
        case Draining():
            if settings.drain_timeout:
                yield Timer(Clock.DRAIN, number), settings.drain_timeout
        case Ending(killed=False):
            yield Timer(Clock.KILL, number), KILL_AFTER
        case Ending():
            if isinstance(state.stage, Stopping):
                yield Timer(Clock.KILL, number, 1), KILL_AFTER
        case _:
            assert_never(generation.phase)


def restart_delay(deaths: int, first: float = FIRST_RESTART_DELAY) -> float:
    """Return the delay in seconds before the next start after so many quick deaths: the first, doubling to 30 s."""
    return min(LONGEST_RESTART_DELAY, first * 2.0 ** min(max(deaths - 1, 0), 20))
