"""The life of generations: what safe_reload does about whatever happens in HAProxy mode.

Theory of operation
-------------------
A generation is one life of one haproxy process. It is a *candidate* until its own CLI has answered with its own
pid, then *current*, then *retiring* (it is made to let go of the VIPs), then *draining* (it finishes what it has),
then gone. There is at most one candidate, one current and one retiring generation.

A reload spawns a candidate and tells the current generation nothing. Only a candidate that has answered takes the
current one's place, and only if the files are still those that it was given; one that fails leaves no trace but a
log line and an answer. That is the whole guarantee.

When the current generation dies, the next one is started from the disk; if the disk holds what haproxy refuses,
from the last known good configuration.

The disk is looked at before a candidate is started and after it has answered, and nobody knows how long that takes: it
may be a network's. A candidate waits LOOK_WITHIN for it, and then goes on without: it is started from what is there,
and what that is counts as not known. Where nobody serves and nobody has asked, the last known good configuration is
at hand, and the better choice.
"""

import signal

from entrypoint.core import retiring, stopping, watching
from entrypoint.core.effects import (
    Adopt,
    Ask,
    Effect,
    Keep,
    Log,
    Look,
    Publish,
    Rehearse,
    Reply,
    Send,
    Spawn,
    SpawnExporter,
    TakeOver,
    Tell,
    Upgrade,
)
from entrypoint.core.events import (
    EXPORTER,
    Answered,
    Began,
    Clock,
    Disk,
    Elapsed,
    Event,
    Exited,
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
from entrypoint.core.log_lines import line_of, say
from entrypoint.core.notices import Died, Gone, Promoted, ReloadFailed, StartFailed, Starting
from entrypoint.core.state import (
    FIRST_EXPORTER_DELAY,
    FIRST_RETRY_DELAY,
    LOOK_WITHIN,
    MOST_RETRIES,
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
from entrypoint.haproxy import runtime_api
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace
from entrypoint.lean.typing import assert_never
from entrypoint.options.settings import Restart

RELOAD_SIGNALS = frozenset({signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP})
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
NOT_ITS_OWN = "not its own"
NOT_READY = "is not ready within --ready-timeout"
"""Of all reasons for which a candidate is killed the one that is not of the configuration."""
MOST_TRIES = 3
"""After so many candidates that found the files changed under them, the next one is taken as it is."""
_FAILED = 1
"""What safe_reload exits with where no process says something else."""


def step(state: State, event: Event) -> Step:
    """Decide what follows from an event. Pure: the same arguments give the same answer."""
    if isinstance(state.stage, Ended):
        return state, ()
    state, effects = _decide(state, event)
    state, later = _go_on(state)
    return _owe(state, (*effects, *later))


def _owe(state: State, effects: tuple[Effect, ...]) -> Step:
    """Tell nobody of a success before the old generation has let go: until then it may accept what comes after that."""
    if not state.retiring:
        return (replace(state, owed=()) if state.owed else state), (*effects, *state.owed)
    owed = tuple(effect for effect in effects if isinstance(effect, Reply) and effect.success)
    if not owed:
        return state, effects
    return replace(state, owed=(*state.owed, *owed)), tuple(effect for effect in effects if effect not in owed)


def _go_on(state: State) -> Step:
    """Do what has become possible, whatever made it so: end, or begin the reload that waits."""
    match state.stage:
        case Stopping(status=status) if not state.generations:
            return stopping.finish(state, status)
        case Serving() | BackingOff() if (state.waiting or state.torn) and not state.candidate and not state.retiring:
            wanted = watching.still_wanted(state)
            tries, state = state.torn, replace(state, waiting=(), torn=0)
            return _spawn(replace(state, stage=Serving()), wanted, tries=tries) if wanted else (state, ())
        case _:
            return state, ()


def _decide(state: State, event: Event) -> Step:
    match event:
        case Began(vips=vips):
            state = replace(state, vips=vips)
            return then(_spawn(state, ()), *((SpawnExporter(),) if state.settings.exporter else ()))
        case Restored(digest=digest):
            # One that has been found good since is newer.
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
        case Seen(why=Why.START):
            return _looked_for_start(state, event)
        case Seen():
            return _looked(state, event)
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
        case Elapsed(timer=timer):
            return _elapsed(state, timer) if timer in timers(state) else (state, ())
        case _:
            assert_never(event)


# ---- what is asked for ---------------------------------------------------------------------------------------------


def _signalled(state: State, signum: int) -> Step:
    if signum in RELOAD_SIGNALS:
        return _reload(state, Request(signal.Signals(signum).name))
    if signum in STOP_SIGNALS:
        return stopping.stop(state, signal.Signals(signum).name)
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
    """Tell whether there is nothing that another program could not go on with."""
    starts = state.candidate or state.retiring or not state.current
    return isinstance(state.stage, Serving) and not starts


def _not_at_rest(client: int) -> Reply:
    return Reply(client, False, "not while a generation starts or leaves, or safe_reload stops: try again in a moment")


# ---- a candidate ---------------------------------------------------------------------------------------------------


def _spawn(state: State, asked_by: tuple[Request, ...], *, tries: int = 0) -> Step:
    """Begin with a candidate: the disk is looked at, and its process is started after that."""
    state, candidate, starting = _begin(state, asked_by, tries)
    return state, (starting, Look(Why.START, candidate.number))


def _spawn_kept(state: State) -> Step:
    """Start a candidate from the last known good configuration, whatever the disk holds."""
    state, candidate, starting = _begin(state, (), 0)
    return then(_start_kept(state, candidate), starting)


def _begin(state: State, asked_by: tuple[Request, ...], tries: int) -> tuple[State, Generation, Tell]:
    candidate = Generation(state.last_number + 1, Candidate(asked_by, tries))
    starting = Tell(Starting(candidate.number, stopping.triggers(asked_by), replaces_dead=state.started))
    state = replace(state, generations=(*state.generations, candidate), last_number=candidate.number, torn=0)
    return state, candidate, starting


def _start(state: State, candidate: Generation, disk: Disk) -> Step:
    """Start the process of a candidate from the disk, of which this is known."""
    assert isinstance(candidate.phase, Candidate)
    phase = replace(candidate.phase, looked=True)
    candidate = replace(candidate, phase=phase, digest=disk.digest, incomplete=disk.incomplete)
    return state.update(candidate), (Spawn(candidate.number),)


def _start_kept(state: State, candidate: Generation) -> Step:
    """Start the process of a candidate from the last known good configuration."""
    assert isinstance(candidate.phase, Candidate)
    phase = replace(candidate.phase, looked=True)
    candidate = replace(candidate, phase=phase, digest=state.kept, kept=True)
    return state.update(candidate), (Spawn(candidate.number, kept=True),)


def _looked_for_start(state: State, event: Seen) -> Step:
    """Start a candidate from what the disk holds, unless that has failed already and there is something better."""
    disk, generation = event.disk, state.find(event.number)
    match generation:
        case Generation(phase=Candidate(looked=False, asked_by=asked_by)):
            state, effects = watching.seen(state, event.why, disk)
            if state.started and not asked_by and state.kept and disk.digest and disk.digest == state.failed:
                return then(_start_kept(state, generation), *effects)
            return then(_start(state, generation, disk), *effects)
        case Generation(phase=Candidate() | Current(), digest="", kept=False):
            # It did not wait for this. What was there when it was started is all that anybody can know.
            state = state.update(replace(generation, digest=disk.digest, incomplete=disk.incomplete))
        case _:
            pass
    return watching.seen(state, Why.SETTLED if state.watches else event.why, disk)


def _waited_for_look(state: State, candidate: Generation) -> Step:
    """Go on with a candidate for which the disk could not be looked at in time."""
    phase = candidate.phase
    assert isinstance(phase, Candidate)
    late = f"the files could not be read within {LOOK_WITHIN:g} s"
    if phase.looked:
        what = f"is used although {late}: they may have changed while it read them"
        return then(_promote(state, candidate), say(candidate, "look_late", what, Level.WARNING))
    if not state.current and not phase.asked_by and state.kept:
        what = f"starts with the last known good configuration: {late}"
        return then(_start_kept(state, candidate), say(candidate, "look_late", what, Level.WARNING))
    what = f"starts although {late}: haproxy reads them itself"
    return then(_start(state, candidate, Disk()), say(candidate, "look_late", what, Level.WARNING))


def _spawned(state: State, event: Spawned) -> Step:
    generation = state.find(event.number)
    if not generation:
        # Its process has come after it was given up.
        return state, (Send(event.number, signal.SIGKILL),)
    generation = replace(generation, pid=event.pid)
    state = replace(state.update(generation), shortages=0)
    match generation.phase:
        case Candidate(given_up=""):
            return state, (Ask(event.number, runtime_api.OF_A_CANDIDATE),)
        case Draining():
            # What it was told while there was no process, nobody has heard.
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
        return _candidate_gone(state, generation, event.reason, event.status, blamed=not transient, transient=transient)
    return state, ()


def _answered(state: State, number: int, text: str) -> Step:
    generation = state.find(number)
    match generation:
        case Generation(phase=Candidate(given_up="")):
            return _candidate_answered(state, generation, text)
        case Generation(phase=Retiring()):
            return retiring.answered(state, generation, text)
        case _:
            return state, ()


def _unanswered(state: State, number: int, failure: str = "") -> Step:
    generation = state.find(number)
    match generation:
        case Generation(phase=Candidate(given_up="", answer="")) if failure:
            return _give_up(state, generation, failure)
        case Generation(phase=Retiring()):
            return retiring.drain_as_it_is(state, generation)
        case Generation(phase=Candidate(given_up="", answer="") as phase):
            # Most likely it is about to die. Or there were no descriptors for the question, and then it serves already.
            return state.update(replace(generation, phase=replace(phase, asked=False))), ()
        case _:
            return state, ()


def _candidate_answered(state: State, candidate: Generation, text: str) -> Step:
    assert isinstance(candidate.phase, Candidate)
    pid = runtime_api.pid(text)
    if pid is None:
        # It hung up before the end, as who dies does.
        return _unanswered(state, candidate.number)
    if pid != candidate.pid:
        return _give_up(state, candidate, f"answered with the pid {pid}, {NOT_ITS_OWN}")
    if runtime_api.serves_nobody(text):
        return _give_up(state, candidate, "listens on nothing: the configuration has no `bind` line")
    candidate = replace(candidate, phase=replace(candidate.phase, answer=text))
    state = state.update(candidate)
    if candidate.kept or not candidate.digest:
        # There is nothing that the files could be compared with.
        return _promote(state, candidate)
    return state, (Look(Why.CANDIDATE, candidate.number),)


def _looked(state: State, event: Seen) -> Step:
    """Follow a look at the disk; a candidate takes a current one's place only if that is still what it was given.

    Where nobody serves it is better than nobody, and one more reload follows.
    """
    state, effects = watching.seen(state, event.why, event.disk)
    candidate = state.find(event.number)
    if not candidate or not isinstance(candidate.phase, Candidate) or not candidate.phase.answer:
        return state, effects
    if candidate.digest == event.disk.digest or event.disk.unfinished or candidate.phase.tries >= MOST_TRIES:
        return then(_promote(state, candidate), *effects)
    if not state.current:
        state, later = _promote(state, candidate)
        return watching.follow_up(state), (*effects, *later)
    return then(_pass_over(state, candidate), *effects)


def _pass_over(state: State, candidate: Generation) -> Step:
    """Have another candidate take the place of one that may have read a mixture, and is ready.

    It leaves like one that has served, because it has: since it listens, clients have come to it.
    """
    phase = candidate.phase
    assert isinstance(phase, Candidate)
    line = say(candidate, "torn", "is not used: the files changed while it read them; another one follows")
    passed_over = _with_binds(state, candidate, phase.answer)
    leave = retiring.drain_as_it_is if state.retiring else retiring.retire
    state, effects = leave(state, passed_over)
    asked_by, tries = (*phase.asked_by, *state.waiting), phase.tries + 1
    if isinstance(state.stage, Serving):
        return replace(state, waiting=asked_by, torn=tries), (line, *effects)
    return state, (line, *effects, *stopping.refuse(asked_by))


def _with_binds(state: State, candidate: Generation, answer: str) -> Generation:
    vips = [descriptor for _, descriptor in state.vips]
    return replace(candidate, binds=runtime_api.binds_on(answer, vips), doubt=runtime_api.doubt(answer, vips))


def _promote(state: State, candidate: Generation) -> Step:
    phase = candidate.phase
    pid = candidate.pid
    assert isinstance(phase, Candidate)
    assert pid is not None
    candidate = _with_binds(state, candidate, phase.answer)
    bound = {bind.descriptor for bind in candidate.binds}
    unused = dict.fromkeys(tag for tag, descriptor in state.vips if descriptor not in bound)
    old = state.current
    trigger, replaces = stopping.triggers(phase.asked_by), old.number if old else None
    effects: list[Effect] = [
        Tell(Promoted(candidate.number, pid, trigger, replaces, candidate.digest, candidate.kept)),
        Publish(pid),
        *(Send(candidate.number, signum) for signum in state.held),
    ]
    if not state.started:
        effects.append(TakeOver())
    if candidate.kept:
        what = f"runs the LAST KNOWN GOOD configuration: {_why_kept(state)}"
        effects.append(say(candidate, "last_known_good", what, Level.WARNING))
    if unused and candidate.doubt:
        what = (
            f"{candidate.doubt}: whether it binds the VIPs {', '.join(unused)} is not known, and they go on listening"
        )
        effects.append(say(candidate, "doubtful_vips", what, Level.WARNING))
    elif unused:
        what = f'has no bind "fd@${{TAG}}" for the VIPs {", ".join(unused)}: their clients are refused'
        effects.append(say(candidate, "unused_vips", what, Level.WARNING))
    message = f"generation {candidate.number} (pid {candidate.pid}) serves"
    effects += (Reply(r.client, True, message, candidate.number) for r in phase.asked_by if r.client)
    state = replace(state.update(replace(candidate, phase=Current())), held=(), started=True)
    if not candidate.kept:
        state = replace(state, failed="", retried="", retries=0)
        if not state.kept and candidate.digest == state.disk.digest:
            state, later = _keep(state, candidate)
            effects += later
    if old:
        state, later = retiring.retire(state, old)
        effects += later
    if not state.retiring:
        effects += retiring.follow(state)
    # Last, because until the old one is paused it goes on answering.
    return state, (*effects, Adopt(candidate.number))


def _why_kept(state: State) -> str:
    """Say why the configuration on disk is not the one that runs, and what ends that."""
    disk = state.disk
    if disk.unreadable:
        return f"the one on disk cannot be used: {disk.unreadable}"
    if state.retries:
        return "the one on disk could not be started, for a reason other than what is in it; it is tried again"
    if not disk.digest or disk.digest != state.failed:
        return "the one on disk could not be read in time"
    return (
        f"the one on disk is bad; {'once it is corrected it is loaded' if state.watches else 'correct it and reload'}"
    )


def _keep(state: State, generation: Generation) -> Step:
    """Make what a generation runs the last known good configuration, unless it is already."""
    if generation.kept or generation.digest in {"", state.kept}:
        return state, ()
    return replace(state, kept=generation.digest), (Keep(generation.number),)


def _give_up(state: State, candidate: Generation, what: str) -> Step:
    """Kill a candidate; it stays one until it is dead, so that its death is the end of its reload."""
    assert isinstance(candidate.phase, Candidate)
    phase = replace(candidate.phase, given_up=what, answer="")
    return (
        state.update(replace(candidate, phase=phase)),
        (say(candidate, "not_ready", f"{what}: it is killed", Level.ERROR), Send(candidate.number, signal.SIGKILL)),
    )


def _outlives_its_kill(state: State, candidate: Generation) -> Step:
    """Go on without a candidate that was killed and is not dead, or that never had a process: its reload has failed."""
    assert isinstance(candidate.phase, Candidate)
    why = candidate.phase.given_up
    effects: tuple[Effect, ...] = ()
    if candidate.pid is None:
        state = state.without(candidate.number)
        transient, what = True, f"{why}: it has no process"
    else:
        state, effects = retiring.end(state, candidate, signal.SIGKILL)
        transient, what = why == NOT_READY, f"{why}: it was killed, and has not ended yet"
    return then(_candidate_gone(state, candidate, what, _FAILED, blamed=not transient, transient=transient), *effects)


def _candidate_gone(
    state: State, candidate: Generation, what: str, status: int, *, blamed: bool = True, transient: bool = False
) -> Step:
    """Go on without a candidate: the state has lost it already.

    Args:
        state: without the candidate.
        candidate: the one that is gone.
        what: became of it.
        status: its exit status, as a shell would say it.
        blamed: the configuration may be why; else there was no process at all.
        transient: with the same configuration it may go otherwise when it is tried again.

    """
    phase = candidate.phase
    assert isinstance(phase, Candidate)
    digest = candidate.digest
    if transient and not candidate.kept:
        state = replace(state, retried=digest, retries=min(state.retries + 1, MOST_RETRIES))
    elif blamed and not candidate.kept:
        state = replace(state, failed=digest or state.failed, retried="", retries=0)
    falls_back = (
        blamed
        and not state.current
        and isinstance(state.stage, Serving)
        and not candidate.kept
        and state.kept not in {"", digest}
    )
    forked = phase.given_up.endswith(NOT_ITS_OWN)
    effects: list[Effect] = []
    if phase.asked_by:
        current = state.current
        failed = ReloadFailed(
            candidate.number,
            candidate.pid,
            stopping.triggers(phase.asked_by),
            what,
            forked,
            goes_on=(current.number, current.pid) if current and current.pid is not None else None,
            again_in=restart_delay(state.retries, FIRST_RETRY_DELAY) if current and state.retries else 0.0,
            falls_back=falls_back,
        )
        message = line_of(failed).message
        replies = (Reply(r.client, False, message, candidate.number) for r in phase.asked_by if r.client)
        effects = [Tell(failed), *replies]
    else:
        effects = [Tell(StartFailed(candidate.number, candidate.pid, what, forked, falls_back))]
    if state.current:
        # haproxy may have listened before it failed, and on a VIP that the current one does not use nobody accepts.
        return state, (*effects, *retiring.follow(state))
    if falls_back:
        return then(_spawn_kept(state), *effects)
    if not state.started:
        return then(stopping.stop_quickly(state, status, None), *effects)
    counts = blamed and not phase.asked_by
    return then(_replace_dead(state, status, proven=False, served=False, counts=counts), *effects)


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
            transient = why == NOT_READY if why else event.transient
            # That we have killed it is no exit status of its own: 137 would read like a shortage of memory.
            said = _FAILED if why else shell_status(status)
            return _candidate_gone(state, generation, what, said, transient=transient)
        case Current(served=served, proven=proven) if not isinstance(state.stage, Stopping):
            died, ran = Tell(Died(number, generation.pid, status)), generation.digest
            return then(_replace_dead(state, shell_status(status), served=served, proven=proven, ran=ran), died)
        case Current() | Retiring() | Draining() | Ending() as phase:
            gone = Tell(Gone(number, generation.pid, status))
            return state, (gone, *(retiring.follow(state) if isinstance(phase, Retiring) else ()))
        case _:
            assert_never(generation.phase)


def _replace_dead(state: State, status: int, *, served: bool, proven: bool, counts: bool = True, ran: str = "") -> Step:
    """Follow the restart policy after a generation that served, or was to serve, died.

    Args:
        state: without the dead one.
        status: its exit status, as a shell would say it.
        served: it had lived for SERVED_AFTER.
        proven: it had lived for PROVEN_AFTER.
        counts: it is one of --restart-limit's deaths; one that somebody asked for, or that never lived, is not.
        ran: the digest of what it served with; empty when it never served.

    """
    deaths = 0 if proven else min(state.deaths + counts, state.settings.restart_limit)
    state = replace(state, deaths=deaths)
    if state.candidate:
        return state, ()
    if state.settings.restart is Restart.NO:
        what = f"haproxy is not started again (--restart no): safe_reload ends with its exit status, {status}"
        return then(stopping.stop_quickly(state, status, None), Log(Level.ERROR, "no_restart", what))
    if state.deaths >= state.settings.restart_limit:
        line = Log(
            Level.ERROR, "restart_limit", f"{state.deaths} deaths in a row are too many (--restart-limit): giving up"
        )
        return then(stopping.stop_quickly(state, status, None), line)
    # What haproxy bound itself is held where that was possible, which only the shell knows.
    still = f"{'the VIPs' if state.vips else 'the listeners that safe_reload holds'} stay open"
    if served or state.waiting:
        line = Log(Level.INFO, "restarting", f"{still}, and the next generation starts at once")
        return then(_spawn(replace(state, waiting=()), state.waiting), line)
    if isinstance(state.stage, Lingering):
        return stopping.stop_gracefully(state)
    delay = restart_delay(state.deaths + state.shortages)
    line = Log(Level.INFO, "backing_off", f"{still}, and the next generation starts in {delay:g} s")
    return replace(state, stage=BackingOff(ran)), (line,)


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
            return _spawn(replace(state, stage=Serving()), ())
        case Clock.STOP_DELAY, _:
            return stopping.accept_no_more(state)
        case Clock.STOP_TIMEOUT, _:
            return stopping.stop_quickly(state, 0, "--stop-timeout")
        case ((Clock.QUIET | Clock.SETTLE), _):
            return watching.quiet(state)
        case Clock.POLL, _:
            return watching.poll(state)
        case Clock.INCOMPLETE, _:
            return watching.waited(state)
        case Clock.RETRY, _:
            return _reload(state, watching.RETRY)
        case Clock.EXPORTER, _:
            return state, (SpawnExporter(),)
        case Clock.EXPORTS, _:
            return replace(state, exporters=0), ()
        case Clock.LOOK, Generation():
            return _waited_for_look(state, generation)
        case Clock.READY, Generation():
            return _give_up(state, generation, NOT_READY)
        case Clock.SERVED, Generation(phase=Current() as phase):
            return state.update(replace(generation, phase=replace(phase, served=True))), ()
        case Clock.PROVEN, Generation(phase=Current() as phase):
            proven = replace(generation, phase=replace(phase, proven=True))
            return _keep(replace(state.update(proven), deaths=0), proven)
        case Clock.ASK_AGAIN, Generation(phase=Retiring()):
            return retiring.ask_again(state, generation)
        case Clock.ASK_AGAIN, Generation(phase=Candidate() as phase):
            asked = replace(generation, phase=replace(phase, asked=True))
            return state.update(asked), (Ask(generation.number, runtime_api.OF_A_CANDIDATE),)
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
    """Go on without a death that should have come by now."""
    match generation.phase:
        case Candidate():
            return _outlives_its_kill(state, generation)
        case Ending(killed=True):
            return stopping.leave_behind(state, generation)
        case _:
            line = say(generation, "killed", "is killed: it did not end", Level.WARNING)
            return then(retiring.end(state, generation, signal.SIGKILL), line)
