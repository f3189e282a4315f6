"""What is known: the phases of a generation, the stages of safe_reload, and which timers run in which state.

There is no time in here: a phase or a stage implies its timers. There are no clocks, no pids of dead processes and no
history.
"""

from __future__ import annotations

from entrypoint.core.effects import Effect, Reply
from entrypoint.core.events import Clock, Disk, Request, Timer
from entrypoint.haproxy import runtime_api
from entrypoint.lean.collections import Iterator
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import assert_never
from entrypoint.options.settings import Settings

SERVED_AFTER = 1.0
PROVEN_AFTER = 10.0
FIRST_RESTART_DELAY = 0.1
LONGEST_RESTART_DELAY = 30.0
ASK_AGAIN_AFTER = 0.01
ASK_CANDIDATE_AGAIN_AFTER = 1.0
HANDSHAKES_WITHIN = 1.0
"""Meanwhile the old generation still accepts TCP connections. A handshake takes two round trips."""
LONGEST_PAUSE_OF_HANDSHAKES = 0.16
RETIRE_WITHIN = 5.0
LOOK_WITHIN = 5.0
"""A slow disk must not hold up a start: after this long a generation starts without a look at the disk."""
MOST_POLL_DOUBLINGS = 5
"""The pause before the next try of a look that failed doubles, from --poll to 32 times that."""
KILL_AFTER = 5.0
ADOPT_WITHIN = 5.0
ADOPT_AGAIN_AFTER = 1.0
FIRST_EXPORTER_DELAY = 1.0
FIRST_RETRY_DELAY = 1.0
MOST_RETRIES = 6
"""After this many failures the delay is the longest one; more are not counted."""
APPLY_WITHIN = 10.0
"""`pid1.applying` gives up before; this is for an answer that is lost."""
INCOMPLETE_WITHIN = 10.0
"""Writing a configuration, or a certificate and its key, takes less than this."""
MOST_DEBOUNCES = 10
"""Files that never get quiet are read after this many times --debounce."""


# ---- the phases of a generation ------------------------------------------------------------------------------------


@record(frozen=True)
class Candidate:
    """Is to be started, or has started and is not ready yet."""

    asked_by: tuple[Request, ...] = ()
    """Who asked for the reload; nobody for a start or a restart."""
    tries: int = 0
    """How many candidates before it were dropped because files changed while they started."""
    answer: str = ""
    """Its answer, while the disk is read once more."""
    given_up: str = ""
    """Why it was killed, until it is dead."""
    asked: bool = True
    """Its CLI was asked; the answer is awaited, or there."""
    looked: bool = False
    """The look at the disk is over; until then it has no process."""

    @property
    def forgets(self) -> bool:
        """Whether it must not learn the states of servers."""
        return any(request.forget for request in self.asked_by)


@record(frozen=True)
class Current:
    """Serves."""

    served: bool = False
    """It has lived for SERVED_AFTER."""
    proven: bool = False
    """It has lived for PROVEN_AFTER."""


@record(frozen=True)
class Retiring:
    """Has a successor, and is made to let go of the VIPs."""

    rounds: int = 0
    """How often it was asked and still held VIPs."""
    asked: bool = True
    """It was asked, and its answer is awaited."""
    out_of_reach: frozenset[str] = frozenset()
    """Tags of the VIPs that safe_reload could not connect to at the last try."""
    handshakes: bool = False
    """It still accepts, and finishes its QUIC handshakes."""
    clean: bool = False
    """The last answer had no handshake."""


@record(frozen=True)
class Draining:
    """Was told to leave, and serves its remaining connections."""


@record(frozen=True)
class Ending:
    """Was told to end at once."""

    killed: bool = False
    """It did not end in time, and was killed."""


Phase = Candidate | Current | Retiring | Draining | Ending


@record(frozen=True)
class Generation:
    """One life of one haproxy process."""

    number: int
    phase: Phase
    pid: int | None = None
    """None until its process exists."""
    binds: tuple[runtime_api.Bind, ...] = ()
    """Its listeners on VIPs; known once it is ready."""
    doubt: str = ""
    """Why it may have more than these; empty if it has not."""
    datagrams: bool = False
    """It has QUIC or other datagram listeners, on VIPs or its own."""
    digest: str = ""
    """SHA-256 of the configuration that it was given; empty if that could not be read."""
    kept: bool = False
    """That is the last known good configuration."""
    incomplete: tuple[str, ...] = ()
    """What of it looked incomplete when it was started; safe_reload does not wait for that again."""


# ---- the stages of safe_reload -------------------------------------------------------------------------------------


@record(frozen=True)
class Serving:
    """Starts, serves, reloads."""


@record(frozen=True)
class BackingOff:
    """The current generation died, and the next one waits for its time."""

    digest: str = ""
    """What the dead one ran: finding this on disk is no reason to start early."""


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
    """Nothing is left to do but exit with this status."""

    status: int


Stage = Serving | BackingOff | Lingering | Stopping | Ended


@record(frozen=True)
class Transfer:
    """The current generation has not passed its ordinary listeners yet."""

    tries: int = 0
    """How often it was asked in vain."""
    asked: bool = True
    """Its answer is awaited; otherwise the next try is."""


@record(frozen=True)
class State:
    """Everything that is known; `step` is the only writer."""

    settings: Settings
    vips: tuple[tuple[str, int], ...] = ()
    taking_turns: frozenset[int] = frozenset()
    """See `Began`."""
    stage: Stage = Serving()
    generations: tuple[Generation, ...] = ()
    """Oldest first."""
    last_number: int = 0
    started: bool = False
    """There has been a current generation."""
    waiting: tuple[Request, ...] = ()
    """Who asked for the next reload, which waits until the running one is over."""
    owed: tuple[Reply, ...] = ()
    """Answers that wait until the retiring generation has let go of the VIPs."""
    held: tuple[int, ...] = ()
    """Signals to pass on to the first current generation."""
    deaths: int = 0
    """How many generations in a row died unasked before they were proven."""
    shortages: int = 0
    """How many starts in a row failed because the kernel had no process or descriptor left, while nobody served."""
    kept: str = ""
    """Digest of the last known good configuration; empty if there is none."""
    disk: Disk = Disk()
    """What the last look at the disk found."""
    failed: str = ""
    """Digest of the configuration that has failed; it is tried again only when asked for."""
    retried: str = ""
    """Digest of one whose reload failed for another reason; it is tried again, with growing pauses."""
    retries: int = 0
    """How often in a row."""
    patient: bool = False
    """Files look incomplete; safe_reload waits for the rest."""
    overdue: str = ""
    """Digest of the incomplete files that it has waited for long enough."""
    torn: int = 0
    """How many candidates in a row were ready but dropped, because files had changed while they read them."""
    applying: int = 0
    """The number of the generation that is given changed files; 0 for none."""
    settling: int = 0
    """How often files have changed since they were last quiet; 0 while they are."""
    polls: int = 0
    """How many polls there have been."""
    polling: bool = False
    """A poll is running."""
    unfinished: int = 0
    """How many polls in a row failed; MOST_POLL_DOUBLINGS at most are counted."""
    transfer: Transfer | None = None
    exporter: bool = False
    """The exporter runs."""
    exporters: int = 0
    """How many exporters in a row died within PROVEN_AFTER."""

    def find(self, number: int) -> Generation | None:
        """Return the generation of this number, while it lives."""
        return next((generation for generation in self.generations if generation.number == number), None)

    def update(self, generation: Generation) -> State:
        """Return the state with this generation in place of the one with its number."""
        others = (generation if old.number == generation.number else old for old in self.generations)
        return replace(self, generations=tuple(others))

    def without(self, number: int) -> State:
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
    """Put effects before those of a step."""
    state, later = first
    return state, (*effects, *later)


# ---- time ----------------------------------------------------------------------------------------------------------


def timers(state: State) -> dict[Timer, float]:
    """Return the timers that run in this state, with their whole duration in seconds.

    The supervisor starts new ones, drops those that are gone, and leaves the others alone.
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
    if state.applying:
        yield Timer(Clock.APPLY, state.applying), APPLY_WITHIN
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
        case Retiring(handshakes=True, rounds=rounds, asked=asked):
            yield Timer(Clock.HANDSHAKES, number), HANDSHAKES_WITHIN
            if not asked:
                pause = min(LONGEST_PAUSE_OF_HANDSHAKES, ASK_AGAIN_AFTER * 2.0**rounds)
                yield Timer(Clock.ASK_AGAIN, number, rounds), pause
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
    """Return the delay in seconds before the next start after this many deaths: it doubles, up to 30 s."""
    return min(LONGEST_RESTART_DELAY, first * 2.0 ** min(max(deaths - 1, 0), 20))
