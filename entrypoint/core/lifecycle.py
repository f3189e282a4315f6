"""The life of generations: what safe_reload does about each event in HAProxy mode.

Theory of operation
-------------------
A generation is one haproxy process. It is a *candidate* until its CLI has answered with its pid, then *current*, then
*retiring* (it finishes its QUIC handshakes and is made to let go of the VIPs), then *draining* (it serves its remaining
connections), then gone. There is at most one candidate, one current and one retiring generation.

A reload spawns a candidate and does not touch the current generation. A candidate replaces the current one only if it
has answered, and only if the files are still those that it was given. One that fails leaves a log line and an answer,
and nothing else. That is the whole guarantee.

When the current generation dies, the next one is started from the disk, or from the last known good configuration if
haproxy refuses what is on disk.

The disk is read before a candidate is started and again after it has answered. That can take any time: it may be a
network file system. A candidate waits LOOK_WITHIN for it, then is started from whatever is there, and its digest counts
as unknown. If nobody serves and nobody has asked for a reload, it is started from the last known good configuration
instead.
"""

from __future__ import annotations

from entrypoint.core import applying, candidate, retiring, stopping, transfer, watching
from entrypoint.core.effects import (
    FAILED,
    Effect,
    Log,
    Rehearse,
    Reply,
    Send,
    SpawnExporter,
    Tell,
    Upgrade,
)
from entrypoint.core.events import (
    EXPORTER,
    Adopted,
    Answered,
    Applied,
    Began,
    Clock,
    Elapsed,
    Event,
    Exited,
    Learned,
    NotAdopted,
    NotSpawned,
    Poked,
    Reaped,
    Rehearsed,
    ReloadAsked,
    Request,
    Restored,
    Seen,
    Signalled,
    Spawned,
    Stirred,
    StopAsked,
    Timer,
    Unanswered,
    UpgradeAsked,
    Why,
)
from entrypoint.core.exit_status import how_it_died, shell_status
from entrypoint.core.log_lines import say
from entrypoint.core.notices import Died, Gone
from entrypoint.core.state import (
    FIRST_EXPORTER_DELAY,
    BackingOff,
    Candidate,
    Current,
    Draining,
    Ended,
    Ending,
    Generation,
    Lingering,
    Retiring,
    Serving,
    State,
    Step,
    Stopping,
    restart_delay,
    then,
    timers,
)
from entrypoint.lean import signal
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace
from entrypoint.lean.typing import assert_never

RELOAD_SIGNALS = frozenset({signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP})
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def step(state: State, event: Event) -> Step:
    """Return the state after an event, and what is to be done. Pure."""
    if isinstance(state.stage, Ended):
        return state, ()
    state, effects = _decide(state, event)
    state, later = _go_on(state)
    return _owe(state, (*effects, *later))


def _owe(state: State, effects: tuple[Effect, ...]) -> Step:
    """Hold successes back until the old generation has let go of the VIPs: until then it may accept new connections."""
    if not state.retiring:
        return (replace(state, owed=()) if state.owed else state), (*effects, *state.owed)
    owed = tuple(effect for effect in effects if isinstance(effect, Reply) and effect.success)
    if not owed:
        return state, effects
    return replace(state, owed=(*state.owed, *owed)), tuple(effect for effect in effects if effect not in owed)


def _go_on(state: State) -> Step:
    """Do what has become possible: exit, or begin the reload that waits."""
    match state.stage:
        case Stopping(status=status) if not state.generations:
            return stopping.finish(state, status)
        case Serving() | BackingOff() if (state.waiting or state.torn) and not state.candidate and not state.retiring:
            wanted = watching.still_wanted(state)
            if wanted == (watching.FILES,) and applying.is_under_way(state):
                # Most of what has changed since is part of what is being applied.
                return state, ()
            if wanted == (watching.FILES,) and applying.may_begin(state):
                return applying.begin(state)
            tries, state = state.torn, replace(state, waiting=(), torn=0)
            return candidate.spawn(replace(state, stage=Serving()), wanted, tries=tries) if wanted else (state, ())
        case _:
            return state, ()


def _decide(state: State, event: Event) -> Step:
    match event:
        case Began(vips=vips, taking_turns=taking_turns):
            state = replace(state, vips=vips, taking_turns=taking_turns)
            return then(candidate.spawn(state, ()), *((SpawnExporter(),) if state.settings.exporter else ()))
        case Restored(digest=digest):
            # A configuration that has proved good since then is newer.
            return replace(state, kept=state.kept or digest), ()
        case Signalled(signum=signum):
            return _signalled(state, signum)
        case ReloadAsked(request=request):
            return _reload(state, request)
        case StopAsked(trigger=trigger, quick=quick):
            return stopping.stop_quickly(state, 0, trigger) if quick else stopping.stop(state, trigger)
        case UpgradeAsked(client=client):
            return _upgrade(state, client)
        case Rehearsed(client=client, failure=failure):
            return _rehearsed(state, client, failure)
        case Stirred():
            return watching.stirred(state)
        case Seen(why=why):
            return (candidate.looked_for_start if why is Why.START else candidate.looked)(state, event)
        case Applied() | Learned():
            return applying.follow(state, event)
        case Spawned(number=number):
            return _exporter_spawned(state) if number == EXPORTER else _spawned(state, event)
        case NotSpawned(number=number, reason=reason):
            return _exporter_gone(state, reason) if number == EXPORTER else _not_spawned(state, event)
        case Exited(number=number, status=status):
            return _exporter_gone(state, how_it_died(status)) if number == EXPORTER else _exited(state, event)
        case Reaped(pid=pid):
            level = Level.WARNING if state.settings.warn_reaped else Level.DEBUG
            return state, (Log(level, "reaped", f"Reaped zombie process with pid={pid}"),)
        case Answered(number=number, text=text):
            return _answered(state, number, text)
        case Unanswered(number=number, failure=failure):
            return _unanswered(state, number, failure)
        case Poked(missed=missed):
            return retiring.poked(state, missed)
        case Adopted() | NotAdopted():
            return transfer.answered(state, event)
        case Elapsed(timer=timer):
            return _elapsed(state, timer) if timer in timers(state) else (state, ())
        case _:
            assert_never(event)


# ---- what is asked for ---------------------------------------------------------------------------------------------


def _signalled(state: State, signum: int) -> Step:
    if signum in RELOAD_SIGNALS:
        return _reload(state, Request(signal.name_of(signum)))
    if signum in STOP_SIGNALS:
        return stopping.stop(state, signal.name_of(signum))
    if signum == signal.SIGQUIT:
        return stopping.stop_quickly(state, 0, "SIGQUIT")
    if state.current:
        return state, (Send(state.current.number, signum),)
    return replace(state, held=(*(other for other in state.held if other != signum), signum)), ()


def _reload(state: State, request: Request) -> Step:
    if isinstance(state.stage, Lingering | Stopping):
        return state, stopping.refuse((request,))
    if request in state.waiting:
        return state, ()
    return replace(state, waiting=(*state.waiting, request)), ()


def _upgrade(state: State, client: int) -> Step:
    return state, (Rehearse(client) if _is_at_rest(state) else _not_at_rest(client),)


def _rehearsed(state: State, client: int, failure: str) -> Step:
    if failure:
        what = f"safe_reload is not replaced, and goes on: {failure}"
        return state, (Log(Level.ERROR, "upgrade_failed", what), Reply(client, False, what))
    return state, (Upgrade(client) if _is_at_rest(state) else _not_at_rest(client),)


def _is_at_rest(state: State) -> bool:
    """Tell whether another program could go on from this state."""
    starts = state.candidate or state.retiring or not state.current
    return isinstance(state.stage, Serving) and not starts and not state.applying


def _not_at_rest(client: int) -> Reply:
    return Reply(client, False, "not while a generation starts or leaves, or safe_reload stops: try again in a moment")


# ---- generations ----------------------------------------------------------------------------------------------------


def _spawned(state: State, event: Spawned) -> Step:
    generation = state.find(event.number)
    if not generation:
        # It was given up before its process existed.
        return state, (Send(event.number, signal.SIGKILL),)
    generation = replace(generation, pid=event.pid)
    state = replace(state.update(generation), shortages=0)
    match generation.phase:
        case Candidate(given_up=""):
            return candidate.ask(state, generation)
        case Draining():
            # It had no process when it was told to leave.
            return state, (Send(event.number, signal.SIGUSR1),)
        case Ending(killed=False):
            return state, (Send(event.number, signal.SIGTERM),)
        case _:
            return state, (Send(event.number, signal.SIGKILL),)


def _not_spawned(state: State, event: NotSpawned) -> Step:
    generation = state.find(event.number)
    if not generation:
        return state, ()
    state = state.without(event.number)
    if not event.refused and not state.current:
        state = replace(state, shortages=state.shortages + 1)
    if isinstance(generation.phase, Candidate):
        transient = not event.refused
        return candidate.gone(state, generation, event.reason, event.status, blamed=not transient, transient=transient)
    return state, ()


def _answered(state: State, number: int, text: str) -> Step:
    generation = state.find(number)
    match generation:
        case Generation(phase=Candidate(given_up="")):
            return candidate.answered(state, generation, text)
        case Generation(phase=Retiring()):
            return retiring.answered(state, generation, text)
        case _:
            return state, ()


def _unanswered(state: State, number: int, failure: str = "") -> Step:
    generation = state.find(number)
    match generation:
        case Generation(phase=Candidate(given_up="", answer="")) if failure:
            return candidate.give_up(state, generation, failure)
        case Generation(phase=Retiring()):
            return retiring.unanswered(state, generation)
        case Generation(phase=Candidate(given_up="", answer="")):
            return candidate.unanswered(state, generation)
        case _:
            return state, ()


# ---- deaths --------------------------------------------------------------------------------------------------------


def _exited(state: State, event: Exited) -> Step:
    number, status = event.number, event.status
    generation = state.find(number)
    if not generation:
        return state, ()
    state = state.without(number)
    match generation.phase:
        case Candidate(given_up=why):
            what = f"{why}: it was killed" if why else f"{how_it_died(status)} before it was ready"
            transient = why == candidate.NOT_READY if why else event.transient
            # safe_reload has killed it. Its status, 137, would read like the OOM killer's work.
            said = FAILED if why else shell_status(status)
            return candidate.gone(state, generation, what, said, transient=transient)
        case Current(served=served, proven=proven) if not isinstance(state.stage, Stopping):
            state = replace(state, transfer=None)
            died, ran = Tell(Died(number, generation.pid, status)), generation.digest
            return then(
                candidate.replace_dead(state, shell_status(status), served=served, proven=proven, ran=ran), died
            )
        case Current() | Retiring() | Draining() | Ending() as phase:
            gone = Tell(Gone(number, generation.pid, status))
            return state, (gone, *(retiring.follow(state) if isinstance(phase, Retiring) else ()))
        case _:
            assert_never(generation.phase)


# ---- the exporter --------------------------------------------------------------------------------------------------


def _exporter_spawned(state: State) -> Step:
    return replace(state, exporter=True), ()


def _exporter_gone(state: State, how: str) -> Step:
    state = replace(state, exporter=False, exporters=state.exporters + 1)
    if isinstance(state.stage, Stopping):
        return state, ()
    delay = restart_delay(state.exporters, FIRST_EXPORTER_DELAY)
    what = f"the exporter {how}: it is started again in {delay:g} s (--exporter {state.settings.exporter})"
    return state, (Log(Level.WARNING, "exporter_died", what),)


# ---- time runs out -------------------------------------------------------------------------------------------------


def _elapsed(state: State, timer: Timer) -> Step:
    """Follow a timer that ran in this state."""
    generation = state.find(timer.number)
    match timer.clock, generation:
        case Clock.RESTART, _:
            return candidate.spawn(replace(state, stage=Serving()), ())
        case Clock.STOP_DELAY, _:
            return stopping.accept_no_more(state)
        case Clock.STOP_TIMEOUT, _:
            return stopping.stop_quickly(state, 0, "--stop-timeout")
        case ((Clock.QUIET | Clock.SETTLE | Clock.POLL | Clock.INCOMPLETE), _):
            return watching.elapsed(state, timer.clock)
        case Clock.APPLY, _:
            return applying.elapsed(state)
        case Clock.RETRY, _:
            return _reload(state, watching.RETRY)
        case ((Clock.ADOPT | Clock.ADOPT_AGAIN), _):
            return transfer.elapsed(state, timer.number)
        case Clock.EXPORTER, _:
            return state, (SpawnExporter(),)
        case Clock.EXPORTS, _:
            return replace(state, exporters=0), ()
        case Clock.LOOK, Generation():
            return candidate.waited_for_look(state, generation)
        case Clock.READY, Generation():
            return candidate.give_up(state, generation, candidate.NOT_READY)
        case Clock.SERVED, Generation(phase=Current() as phase):
            return state.update(replace(generation, phase=replace(phase, served=True))), ()
        case Clock.PROVEN, Generation(phase=Current() as phase):
            proven = replace(generation, phase=replace(phase, proven=True))
            return candidate.keep(replace(state.update(proven), deaths=0), proven)
        case Clock.ASK_AGAIN, Generation(phase=Retiring()):
            return retiring.ask_again(state, generation)
        case Clock.ASK_AGAIN, Generation(phase=Candidate()):
            return candidate.ask(state, generation)
        case Clock.HANDSHAKES, Generation():
            return retiring.handshakes_elapsed(state, generation)
        case Clock.RETIRE, Generation():
            return retiring.drain_as_it_is(state, generation)
        case Clock.DRAIN, Generation():
            line = say(generation, "drain_timeout", "is ended: --drain-timeout", Level.WARNING)
            return then(retiring.end(state, generation, signal.SIGTERM), line)
        case Clock.KILL, Generation():
            return _overdue(state, generation)
        case _:
            return state, ()


def _overdue(state: State, generation: Generation) -> Step:
    """Follow a process that should have died by now."""
    match generation.phase:
        case Candidate():
            return candidate.outlives_its_kill(state, generation)
        case Ending(killed=True):
            return stopping.leave_behind(state, generation)
        case _:
            line = say(generation, "killed", "is killed: it did not end", Level.WARNING)
            return then(retiring.end(state, generation, signal.SIGKILL), line)
