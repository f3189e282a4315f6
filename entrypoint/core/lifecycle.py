"""The life of generations: what safe_reload does about whatever happens in HAProxy mode.

Theory of operation
-------------------
A generation is one life of one haproxy process. It is a *candidate* until its own CLI has answered with its own
pid, then *current*, then *retiring* (it is made to let go of the VIPs), then *draining* (it finishes what it has),
then gone. There is at most one candidate, one current and one retiring generation.

A reload spawns a candidate and tells the current generation nothing. Only a candidate that has answered takes the
current one's place; one that fails leaves no trace but a log line. That is the whole guarantee.

Retiring is what keeps old generations free of charge. The kernel's epoll knows a listening socket by its open
file description, which we keep: a haproxy that merely closes its descriptor goes on being woken up for every
connection of its successor. So its frontends are paused first, then connections (the clients', or our own) are let
past until `show fd` says that no thread polls a VIP any more; only then it gets SIGUSR1.

Time is not in here. A phase or a stage implies which timers run (`timers`); one that runs out is an event like any
other. What the state does not mention does not exist: no clocks, no pids of the dead, no history.
"""

import signal
from collections.abc import Iterator
from typing import assert_never

from entrypoint.core import runtime_api
from entrypoint.core.events import (
    Answered,
    Ask,
    Began,
    Clock,
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
    Reaped,
    Send,
    Signalled,
    Spawn,
    Spawned,
    Timer,
    Unanswered,
)
from entrypoint.core.records import dataclass, replace
from entrypoint.core.settings import Restart, Settings

RELOAD_SIGNALS = frozenset({signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP})
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})

SERVED_AFTER = 1.0
PROVEN_AFTER = 10.0
FIRST_RESTART_DELAY = 0.1
LONGEST_RESTART_DELAY = 30.0
ASK_AGAIN_AFTER = 0.01
RETIRE_WITHIN = 5.0
KILL_AFTER = 5.0
ROUNDS_FOR_CLIENTS = 3
"""So many looks at a retiring generation before we connect ourselves: under load the clients do it."""
MOST_ROUNDS = 200
"""After so many looks a generation is told to leave as it is; all it costs is CPU."""


# ---- the phases of a generation ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """Started, and has not proved ready."""

    asked_by: tuple[str, ...]
    """The triggers of the reload it is for; none for a start or a restart."""
    given_up: bool = False
    """It was killed, and its death is awaited."""


@dataclass(frozen=True, slots=True)
class Current:
    """Serves."""

    served: bool = False
    """It has lived for SERVED_AFTER."""
    proven: bool = False
    """It has lived for PROVEN_AFTER."""


@dataclass(frozen=True, slots=True)
class Retiring:
    """Has a successor and is made to let go of the VIPs."""

    rounds: int = 0
    """How often it has been looked at in vain."""
    asked: bool = True
    """It was asked, and its answer is awaited."""


@dataclass(frozen=True, slots=True)
class Draining:
    """Was told to leave, and finishes what it has."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Was told to end at once."""

    killed: bool = False
    """It did not, and was killed."""


Phase = Candidate | Current | Retiring | Draining | Ending


@dataclass(frozen=True, slots=True)
class Generation:
    """One life of one haproxy process."""

    number: int
    phase: Phase
    pid: int | None = None
    """None until its process exists."""
    binds: tuple[runtime_api.Bind, ...] = ()
    """Its listeners on our VIPs, known once it is ready."""


# ---- the stages of safe_reload -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Serving:
    """Starts, serves, reloads."""


@dataclass(frozen=True, slots=True)
class BackingOff:
    """The current generation died, and the next one waits for its time."""


@dataclass(frozen=True, slots=True)
class Lingering:
    """A stop was asked for, and the VIPs still accept (`--stop-delay`)."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The VIPs are closed, and the generations leave."""

    status: int = 0
    """What to exit with."""
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing is left to do but to exit with this status."""

    status: int


Stage = Serving | BackingOff | Lingering | Stopping | Ended


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is known; `step` is the only writer."""

    settings: Settings
    vips: tuple[tuple[str, int], ...] = ()
    stage: Stage = Serving()
    generations: tuple[Generation, ...] = ()
    """Oldest first."""
    last_number: int = 0
    waiting: tuple[str, ...] = ()
    """The triggers of the reload that waits for the one that runs; none when none waits."""
    held: tuple[int, ...] = ()
    """Signals for the current generation that came before there was one."""
    deaths: int = 0
    """How many generations in a row died unasked before they were proven."""

    def find(self, number: int) -> Generation | None:
        """Return the generation of this number, while it lives."""
        return next((generation for generation in self.generations if generation.number == number), None)

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


Step = tuple[State, tuple[Effect, ...]]


# ---- time ----------------------------------------------------------------------------------------------------------


def timers(state: State) -> dict[Timer, float]:
    """Return the timers that run in this state, with their whole duration in seconds.

    The loop starts those that are new, drops those that are gone, and leaves the others alone.
    """
    running = dict(_stage_timers(state))
    for generation in state.generations:
        running.update(_generation_timers(generation, state.settings))
    return running


def _stage_timers(state: State) -> Iterator[tuple[Timer, float]]:
    match state.stage:
        case BackingOff():
            yield Timer(Clock.RESTART, state.deaths), restart_delay(state.deaths)
        case Lingering():
            yield Timer(Clock.STOP_DELAY), state.settings.stop_delay
        case Stopping(quick=False) if state.settings.stop_timeout:
            yield Timer(Clock.STOP_TIMEOUT), state.settings.stop_timeout
        case Serving() | Stopping() | Ended():
            pass
        case _:
            assert_never(state.stage)


def _generation_timers(generation: Generation, settings: Settings) -> Iterator[tuple[Timer, float]]:
    number = generation.number
    match generation.phase:
        case Candidate(given_up=given_up):
            if not given_up:
                yield Timer(Clock.READY, number), settings.ready_timeout
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
            pass
        case _:
            assert_never(generation.phase)


def restart_delay(deaths: int) -> float:
    """Return the delay in seconds before the generation after so many quick deaths: 0.1 s, doubling to 30 s."""
    return min(LONGEST_RESTART_DELAY, FIRST_RESTART_DELAY * 2.0 ** min(max(deaths - 1, 0), 20))


# ---- the decision --------------------------------------------------------------------------------------------------


def step(state: State, event: Event) -> Step:
    """Decide what follows from an event. Pure: the same arguments give the same answer."""
    if isinstance(state.stage, Ended):
        return state, ()
    match event:
        case Began(vips=vips):
            return _spawn(replace(state, vips=vips), ())
        case Signalled(signum=signum):
            return _signalled(state, signum)
        case Spawned(number=number, pid=pid):
            return _spawned(state, number, pid)
        case NotSpawned(number=number, reason=reason, status=status):
            return _not_spawned(state, number, reason, status)
        case Exited(number=number, status=status):
            return _exited(state, number, status)
        case Reaped(pid=pid):
            level = Level.WARNING if state.settings.warn_reaped else Level.DEBUG
            return state, (Log(level, "reaped", f"Reaped zombie process with pid={pid}"),)
        case Answered(number=number, text=text):
            return _answered(state, number, text)
        case Unanswered(number=number):
            return _unanswered(state, number)
        case Elapsed(timer=timer):
            return _elapsed(state, timer) if timer in timers(state) else (state, ())
        case _:
            assert_never(event)


def _then(first: Step, *effects: Effect) -> Step:
    """Add effects before those of a step that has been decided."""
    state, later = first
    return state, (*effects, *later)


def _update(state: State, generation: Generation) -> State:
    return replace(
        state,
        generations=tuple(generation if old.number == generation.number else old for old in state.generations),
    )


def _without(state: State, number: int) -> State:
    return replace(state, generations=tuple(old for old in state.generations if old.number != number))


def _say(generation: Generation | int, event: str, what: str, level: Level = Level.INFO, **fields: object) -> Log:
    """Write a line about a generation; its number follows it through its life."""
    number = generation if isinstance(generation, int) else generation.number
    pid = {} if isinstance(generation, int) or generation.pid is None else {"pid": generation.pid}
    who = f"generation {number}" + "".join(f" (pid {value})" for value in pid.values())
    return Log(level, event, f"{who} {what}", {"generation": number, **pid, **fields})


def _how_it_died(status: int) -> str:
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"exited with status {status}"


def shell_status(status: int) -> int:
    """Turn a process's end into an exit status as shells and tini do: 128 and the signal's number."""
    return 128 - status if status < 0 else status


# ---- signals -------------------------------------------------------------------------------------------------------


def _signalled(state: State, signum: int) -> Step:
    if signum in RELOAD_SIGNALS:
        return _reload(state, signal.Signals(signum).name)
    if signum in STOP_SIGNALS:
        return _stop(state, signal.Signals(signum).name)
    if signum == signal.SIGQUIT:
        return _stop_quickly(state, 0, "SIGQUIT")
    if state.current:
        return state, (Send(state.current.number, signum),)
    return replace(state, held=(*(other for other in state.held if other != signum), signum)), ()


def _reload(state: State, trigger: str) -> Step:
    if isinstance(state.stage, Lingering | Stopping):
        return state, _refuse((trigger,))
    if trigger in state.waiting:
        return state, ()
    return _next(replace(state, waiting=(*state.waiting, trigger)))


def _next(state: State) -> Step:
    """Begin the reload that waits, if one does and none runs."""
    if not state.waiting or state.candidate or state.retiring or not isinstance(state.stage, Serving | BackingOff):
        return state, ()
    return _spawn(replace(state, stage=Serving(), waiting=()), state.waiting)


def _spawn(state: State, asked_by: tuple[str, ...]) -> Step:
    number = state.last_number + 1
    generations = (*state.generations, Generation(number, Candidate(asked_by)))
    why = f"asked for by {', '.join(asked_by)}" if asked_by else "the first" if number == 1 else "to replace a dead one"
    return (
        replace(state, generations=generations, last_number=number),
        (_say(number, "starting", f"is starting: {why}", Level.DEBUG), Spawn(number)),
    )


# ---- a candidate ---------------------------------------------------------------------------------------------------


def _spawned(state: State, number: int, pid: int) -> Step:
    generation = state.find(number)
    if not generation:
        return state, ()
    generation = replace(generation, pid=pid)
    return _update(state, generation), (Ask(number, (runtime_api.WHO, runtime_api.DESCRIPTORS)),)


def _not_spawned(state: State, number: int, reason: str, status: int) -> Step:
    generation = state.find(number)
    if not generation:
        return state, ()
    state = _without(state, number)
    if isinstance(generation.phase, Candidate):
        return _candidate_gone(state, generation, reason, status)
    return _stopped_if_empty(state)


def _answered(state: State, number: int, text: str) -> Step:
    generation = state.find(number)
    match generation:
        case Generation(phase=Candidate(given_up=False)):
            return _candidate_answered(state, generation, text)
        case Generation(phase=Retiring()):
            return _retiring_answered(state, generation, text)
        case _:
            return state, ()


def _unanswered(state: State, number: int) -> Step:
    generation = state.find(number)
    match generation:
        case Generation(phase=Retiring()):
            return _drain_as_it_is(state, generation)
        case _:
            # A candidate that closes its CLI is about to die, or hangs: its exit or its timer decides.
            return state, ()


def _candidate_answered(state: State, candidate: Generation, text: str) -> Step:
    pid = runtime_api.pid(text)
    if pid != candidate.pid:
        return _give_up(state, candidate, f"answered with the pid {pid}, not its own")
    return _promote(state, candidate, text)


def _promote(state: State, candidate: Generation, text: str) -> Step:
    assert isinstance(candidate.phase, Candidate)
    assert candidate.pid is not None
    binds = runtime_api.binds_on(text, (descriptor for _, descriptor in state.vips))
    bound = {bind.descriptor for bind in binds}
    unused = [tag for tag, descriptor in state.vips if descriptor not in bound]
    old = state.current
    asked_by = ", ".join(candidate.phase.asked_by)
    effects: list[Effect] = [
        _say(
            candidate,
            "current",
            f"is current{f'; asked for by {asked_by}' if asked_by else ''}",
            trigger=asked_by or None,
            replaces=old.number if old else None,
        ),
        Publish(candidate.pid),
        *(Send(candidate.number, signum) for signum in state.held),
    ]
    if unused:
        what = f'has no bind "fd@${{TAG}}" for the VIPs {", ".join(unused)}: their clients are refused'
        effects.append(_say(candidate, "unused_vips", what, Level.WARNING))
    state = replace(_update(state, replace(candidate, phase=Current(), binds=binds)), held=())
    if old:
        state, later = _retire(state, old)
        effects += later
    if not state.retiring:
        effects += _follow(state)
    state, later = _next(state)
    return state, (*effects, *later)


def _give_up(state: State, candidate: Generation, what: str) -> Step:
    """Kill a candidate; it stays one until it is dead, so that its death is the end of its reload."""
    assert isinstance(candidate.phase, Candidate)
    phase = replace(candidate.phase, given_up=True)
    return (
        _update(state, replace(candidate, phase=phase)),
        (_say(candidate, "not_ready", f"{what}: it is killed", Level.ERROR), Send(candidate.number, signal.SIGKILL)),
    )


def _follow(state: State) -> tuple[Listen, ...]:
    """Have those VIPs accept that the current generation binds, and no other."""
    if not state.current:
        return ()
    bound = {bind.descriptor for bind in state.current.binds}
    return (Listen(tuple(tag for tag, descriptor in state.vips if descriptor in bound)),)


def _candidate_gone(state: State, candidate: Generation, what: str, status: int) -> Step:
    """Go on without a candidate: the state has lost it already."""
    assert isinstance(candidate.phase, Candidate)
    asked_by = ", ".join(candidate.phase.asked_by)
    if asked_by:
        goes_on = f", generation {state.current.number} (pid {state.current.pid}) goes on" if state.current else ""
        failed = f"{what}; the reload asked for by {asked_by} has failed{goes_on}"
        line = _say(candidate, "reload_failed", failed, Level.ERROR, trigger=asked_by)
    else:
        line = _say(candidate, "start_failed", what, Level.ERROR)
    if state.current:
        # haproxy may have listened before it failed, and on a VIP that the current one does not use nobody accepts.
        return _then(_next(state), line, *_follow(state))
    if candidate.number == 1:
        return _then(_leave(state, status), line)
    return _then(_replace_dead(state, status, proven=False, served=False), line)


# ---- retiring and draining -----------------------------------------------------------------------------------------


def _retire(state: State, old: Generation) -> Step:
    if not old.binds:
        return _drain(state, old)
    return (
        _update(state, replace(old, phase=Retiring())),
        (Ask(old.number, (*runtime_api.pause(old.binds), *runtime_api.look(old.binds))),),
    )


def _retiring_answered(state: State, old: Generation, text: str) -> Step:
    assert isinstance(old.phase, Retiring)
    polled = runtime_api.still_polled(text)
    # Idle, it is gone in a moment, and what its pollers hold with it.
    if not polled or runtime_api.is_idle(text):
        return _drain(state, old)
    rounds = old.phase.rounds + 1
    if rounds > MOST_ROUNDS:
        return _drain_as_it_is(state, old)
    state = _update(state, replace(old, phase=Retiring(rounds, asked=False)))
    if rounds <= ROUNDS_FOR_CLIENTS:
        return state, ()
    ours = {descriptor: tag for tag, descriptor in state.vips}
    frontends = {bind.frontend for bind in old.binds if bind.descriptor in polled}
    tags = (ours[bind.descriptor] for bind in old.binds if bind.frontend in frontends and bind.descriptor in ours)
    return state, (Poke(tuple(tags)),)


def _drain_as_it_is(state: State, old: Generation) -> Step:
    """Tell a generation to leave that still holds VIPs, or does not say."""
    what = "has not let go of the VIPs: until it is gone it wakes up for its successor's connections"
    return _then(_drain(state, old), _say(old, "still_polling", what, Level.WARNING))


def _drain(state: State, old: Generation) -> Step:
    """Tell a generation to leave when it has finished."""
    state = _update(state, replace(old, phase=Draining()))
    effects: list[Effect] = [_say(old, "draining", "drains"), Send(old.number, signal.SIGUSR1)]
    draining = [other for other in state.generations if isinstance(other.phase, Draining)]
    for oldest in draining[: -state.settings.max_draining]:
        line = _say(oldest, "too_many_draining", "is ended: more than --max-draining are draining", Level.WARNING)
        state, ending = _end(state, oldest, signal.SIGTERM)
        effects += (line, *ending)
    # Only now: until it had let go, a VIP that stops listening would have woken it up for ever.
    effects += _follow(state)
    state, later = _next(state)
    return state, (*effects, *later)


def _end(state: State, generation: Generation, signum: int) -> Step:
    """Tell a generation to end at once."""
    ending = Ending(killed=signum == signal.SIGKILL)
    return _update(state, replace(generation, phase=ending)), (Send(generation.number, signum),)


# ---- deaths --------------------------------------------------------------------------------------------------------


def _exited(state: State, number: int, status: int) -> Step:
    generation = state.find(number)
    if not generation:
        return state, ()
    state = _without(state, number)
    how = _how_it_died(status)
    match generation.phase:
        case Candidate():
            return _candidate_gone(state, generation, f"{how} before it was ready", shell_status(status))
        case Current(served=served, proven=proven) if not isinstance(state.stage, Stopping):
            line = _say(generation, "died", f"{how}, unasked", Level.ERROR, status=shell_status(status))
            return _then(_replace_dead(state, shell_status(status), served=served, proven=proven), line)
        case Current() | Retiring() | Draining() | Ending():
            line = _say(generation, "gone", f"is gone: it {how}", status=shell_status(status))
            state, effects = _stopped_if_empty(state) if isinstance(state.stage, Stopping) else _next(state)
            return state, (line, *effects)
        case _:
            assert_never(generation.phase)


def _replace_dead(state: State, status: int, *, served: bool, proven: bool) -> Step:
    """Follow the restart policy after a generation that served, or was to serve, died."""
    deaths = 0 if proven else min(state.deaths + 1, state.settings.restart_limit)
    state = replace(state, deaths=deaths)
    if state.candidate:
        return state, ()
    if state.settings.restart is Restart.NO:
        return _leave(state, status)
    if state.deaths >= state.settings.restart_limit:
        line = Log(
            Level.ERROR, "restart_limit", f"{state.deaths} deaths in a row are too many (--restart-limit): giving up"
        )
        return _then(_leave(state, status), line)
    if served or state.waiting:
        line = Log(Level.INFO, "restarting", "the VIPs stay open, and the next generation starts at once")
        return _then(_spawn(replace(state, waiting=()), state.waiting), line)
    if isinstance(state.stage, Lingering):
        return _stop_gracefully(state)
    delay = restart_delay(state.deaths)
    line = Log(Level.INFO, "backing_off", f"the VIPs stay open, and the next generation starts in {delay:g} s")
    return replace(state, stage=BackingOff()), (line,)


def _leave(state: State, status: int) -> Step:
    """Give up: end what is left, and exit with this status."""
    return _stop_quickly(state, status, None)


# ---- stopping ------------------------------------------------------------------------------------------------------


def _stop(state: State, trigger: str) -> Step:
    match state.stage:
        case Lingering() | Stopping():
            return _stop_quickly(state, 0, trigger)
        case Serving() | BackingOff() | Ended():
            line = Log(Level.INFO, "stopping", f"{trigger}: stopping gracefully", {"trigger": trigger})
            refused = _refuse(state.waiting)
            state = replace(state, waiting=(), stage=Lingering())
            if state.settings.stop_delay and state.current:
                return state, (line, *refused)
            return _then(_stop_gracefully(state), line, *refused)
        case _:
            assert_never(state.stage)


def _refuse(triggers: tuple[str, ...]) -> tuple[Log, ...]:
    """Answer those whose reload will not be."""
    if not triggers:
        return ()
    asked_by = ", ".join(triggers)
    return (
        Log(
            Level.WARNING,
            "reload_refused",
            f"no reload asked for by {asked_by}: safe_reload is stopping",
            {"trigger": asked_by},
        ),
    )


def _unfinished(state: State) -> tuple[str, ...]:
    """Return the triggers of the reload that runs and of the one that waits."""
    candidate = state.candidate
    running = candidate.phase.asked_by if candidate and isinstance(candidate.phase, Candidate) else ()
    return (*running, *state.waiting)


def _stop_gracefully(state: State) -> Step:
    effects: list[Effect] = [CloseVips(), *_refuse(_unfinished(state))]
    # A candidate that is not ready yet ends by this signal as well, before it has accepted anything.
    effects += [
        Send(generation.number, signum)
        for generation in state.generations
        if isinstance(generation.phase, Candidate | Current | Retiring)
        # One that Ctrl-Z has stopped would never see the first.
        for signum in (signal.SIGUSR1, signal.SIGCONT)
    ]
    generations = tuple(
        generation if isinstance(generation.phase, Ending) else replace(generation, phase=Draining())
        for generation in state.generations
    )
    return _then(_stopped_if_empty(replace(state, stage=Stopping(), generations=generations)), *effects)


def _stop_quickly(state: State, status: int, trigger: str | None) -> Step:
    effects: list[Effect] = [*_refuse(_unfinished(state))]
    if isinstance(state.stage, Stopping):
        status = state.stage.status
        if state.stage.quick:
            return state, ()
    else:
        effects.append(CloseVips())
    if trigger:
        effects.append(Log(Level.INFO, "stopping", f"{trigger}: stopping at once", {"trigger": trigger}))
    state = replace(state, stage=Stopping(status, quick=True), waiting=())
    for generation in state.generations:
        if not isinstance(generation.phase, Ending):
            state, ending = _end(state, generation, signal.SIGTERM)
            effects += ending
    return _then(_stopped_if_empty(state), *effects)


def _stopped_if_empty(state: State) -> Step:
    if state.generations or not isinstance(state.stage, Stopping):
        return state, ()
    status = state.stage.status
    line = Log(Level.INFO, "stopped", f"every generation is gone: exiting with {status}", {"status": status})
    return replace(state, stage=Ended(status)), (line,)


# ---- time runs out -------------------------------------------------------------------------------------------------


def _elapsed(state: State, timer: Timer) -> Step:
    """Follow a timer that ran in this state."""
    generation = state.find(timer.number)
    match timer.clock, generation:
        case Clock.RESTART, _:
            return _spawn(replace(state, stage=Serving()), ())
        case Clock.STOP_DELAY, _:
            return _stop_gracefully(state)
        case Clock.STOP_TIMEOUT, _:
            return _stop_quickly(state, 0, "--stop-timeout")
        case Clock.READY, Generation():
            return _give_up(state, generation, "is not ready within --ready-timeout")
        case Clock.SERVED, Generation(phase=Current() as phase):
            return _update(state, replace(generation, phase=replace(phase, served=True))), ()
        case Clock.PROVEN, Generation(phase=Current() as phase):
            return replace(_update(state, replace(generation, phase=replace(phase, proven=True))), deaths=0), ()
        case Clock.ASK_AGAIN, Generation(phase=Retiring(rounds=rounds)):
            state = _update(state, replace(generation, phase=Retiring(rounds)))
            return state, (Ask(generation.number, runtime_api.look(generation.binds)),)
        case Clock.RETIRE, Generation():
            return _drain_as_it_is(state, generation)
        case Clock.DRAIN, Generation():
            line = _say(generation, "drain_timeout", "is ended: --drain-timeout", Level.WARNING)
            return _then(_end(state, generation, signal.SIGTERM), line)
        case Clock.KILL, Generation():
            line = _say(generation, "killed", "is killed: it did not end", Level.WARNING)
            return _then(_end(state, generation, signal.SIGKILL), line)
        case _:
            return state, ()
