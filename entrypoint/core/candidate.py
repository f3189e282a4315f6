"""The life of a candidate: from the look at the disk to its promotion, or to its failure and what follows."""

from __future__ import annotations

from entrypoint.core import retiring, stopping, transfer, watching
from entrypoint.core.effects import (
    FAILED,
    AskCandidate,
    Effect,
    Keep,
    Log,
    Look,
    NoteServers,
    Publish,
    ReadDatagrams,
    Reply,
    Send,
    Spawn,
    TakeOver,
    Tell,
)
from entrypoint.core.events import (
    Disk,
    Request,
    Seen,
    Why,
)
from entrypoint.core.log_lines import line_of, say
from entrypoint.core.notices import Promoted, ReloadFailed, StartFailed, Starting
from entrypoint.core.state import (
    FIRST_RETRY_DELAY,
    LOOK_WITHIN,
    MOST_RETRIES,
    BackingOff,
    Candidate,
    Current,
    Generation,
    Lingering,
    Serving,
    State,
    Step,
    restart_delay,
    then,
)
from entrypoint.haproxy import runtime_api
from entrypoint.lean import signal
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace
from entrypoint.options.settings import Restart

NOT_ITS_OWN = "not its own"
NOT_READY = "is not ready within --ready-timeout"
"""The only reason for killing a candidate that says nothing about its configuration."""
MOST_TRIES = 3
"""After this many candidates whose files changed while they started, the next one is used as it is."""


def spawn(state: State, asked_by: tuple[Request, ...], *, tries: int = 0) -> Step:
    """Begin a candidate: read the disk, then start its process."""
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
    """Start a candidate's process from the disk."""
    assert isinstance(candidate.phase, Candidate)
    phase = replace(candidate.phase, looked=True)
    candidate = replace(candidate, phase=phase, digest=disk.digest, incomplete=disk.incomplete)
    # The current generation answers while the candidate reads its configuration.
    note = (NoteServers(state.current.number),) if state.current else ()
    return state.update(candidate), (*note, Spawn(candidate.number))


def _start_kept(state: State, candidate: Generation) -> Step:
    """Start a candidate's process from the last known good configuration."""
    assert isinstance(candidate.phase, Candidate)
    phase = replace(candidate.phase, looked=True)
    candidate = replace(candidate, phase=phase, digest=state.kept, kept=True)
    return state.update(candidate), (Spawn(candidate.number, kept=True),)


def looked_for_start(state: State, event: Seen) -> Step:
    """Start a candidate from the disk, or from the last known good configuration if the disk holds what has failed."""
    disk, generation = event.disk, state.find(event.number)
    match generation:
        case Generation(phase=Candidate(looked=False, asked_by=asked_by)):
            state, effects = watching.seen(state, event.why, disk)
            if state.started and not asked_by and state.kept and disk.digest and disk.digest == state.failed:
                return then(_start_kept(state, generation), *effects)
            return then(_start(state, generation, disk), *effects)
        case Generation(phase=Candidate() | Current(), digest="", kept=False):
            # It was started without waiting for this look, which is the best that is known about its files.
            state = state.update(replace(generation, digest=disk.digest, incomplete=disk.incomplete))
        case _:
            pass
    return watching.seen(state, Why.SETTLED if state.watches else event.why, disk)


def waited_for_look(state: State, candidate: Generation) -> Step:
    """Go on with a candidate whose look at the disk takes too long."""
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


def answered(state: State, candidate: Generation, text: str) -> Step:
    """Follow a candidate's answer."""
    assert isinstance(candidate.phase, Candidate)
    pid = runtime_api.pid(text)
    if pid is None:
        # The answer is cut off, as when a process dies.
        return unanswered(state, candidate)
    if pid != candidate.pid:
        return give_up(state, candidate, f"answered with the pid {pid}, {NOT_ITS_OWN}")
    if runtime_api.serves_nobody(text):
        return give_up(state, candidate, "listens on nothing: the configuration has no `bind` line")
    candidate = replace(candidate, phase=replace(candidate.phase, answer=text))
    state = state.update(candidate)
    if candidate.kept or not candidate.digest:
        # There is no digest to compare the files with.
        return _promote(state, candidate)
    return state, (Look(Why.CANDIDATE, candidate.number),)


def ask(state: State, candidate: Generation) -> Step:
    """Ask a candidate whether it is ready."""
    phase = candidate.phase
    assert isinstance(phase, Candidate)
    return state.update(replace(candidate, phase=replace(phase, asked=True))), (AskCandidate(candidate.number),)


def unanswered(state: State, candidate: Generation) -> Step:
    """Have a candidate asked again that has not answered."""
    assert isinstance(candidate.phase, Candidate)
    # Most likely it is dying. Or safe_reload had no descriptor for the question, and it may serve already.
    return state.update(replace(candidate, phase=replace(candidate.phase, asked=False))), ()


def looked(state: State, event: Seen) -> Step:
    """Promote a candidate if the disk still holds what it was given.

    If it does not, it is promoted only where nobody serves, and one more reload follows.
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
    """Replace a ready candidate that may have read a mixture of old and new files with another one.

    It retires like a current one: since it listens, it may have accepted clients.
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
    return replace(
        candidate,
        binds=runtime_api.binds_on(answer, vips),
        doubt=runtime_api.doubt(answer, vips),
        datagrams=runtime_api.has_datagrams(answer),
    )


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
    reads = tuple(dict.fromkeys(tag for tag, _ in state.vips if candidate.doubt or tag not in unused))
    effects: list[Effect] = [
        Tell(Promoted(candidate.number, pid, trigger, replaces, candidate.digest, candidate.kept)),
        ReadDatagrams(candidate.number, pid, reads, runtime_api.quic_ports(phase.answer), replaces or 0),
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
            state, later = keep(state, candidate)
            effects += later
    if old:
        state, later = retiring.retire(state, old)
        effects += later
    if not state.retiring:
        effects += retiring.follow(state)
    # Last: until the old one is paused, it goes on answering with the old configuration.
    state, later = transfer.begin(state, candidate.number)
    return state, (*effects, *later)


def _why_kept(state: State) -> str:
    """Say why the last known good configuration runs, and what ends that."""
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


def keep(state: State, generation: Generation) -> Step:
    """Keep what a generation runs as the last known good configuration, unless it is already."""
    if generation.kept or generation.digest in {"", state.kept}:
        return state, ()
    return replace(state, kept=generation.digest), (Keep(generation.number),)


def give_up(state: State, candidate: Generation, what: str) -> Step:
    """Kill a candidate. It stays one until it is dead: its death ends its reload."""
    assert isinstance(candidate.phase, Candidate)
    phase = replace(candidate.phase, given_up=what, answer="")
    return (
        state.update(replace(candidate, phase=phase)),
        (say(candidate, "not_ready", f"{what}: it is killed", Level.ERROR), Send(candidate.number, signal.SIGKILL)),
    )


def outlives_its_kill(state: State, candidate: Generation) -> Step:
    """Fail the reload of a candidate that was killed but is not dead, or never had a process."""
    assert isinstance(candidate.phase, Candidate)
    why = candidate.phase.given_up
    effects: tuple[Effect, ...] = ()
    if candidate.pid is None:
        state = state.without(candidate.number)
        transient, what = True, f"{why}: it has no process"
    else:
        state, effects = retiring.end(state, candidate, signal.SIGKILL)
        transient, what = why == NOT_READY, f"{why}: it was killed, and has not ended yet"
    return then(gone(state, candidate, what, FAILED, blamed=not transient, transient=transient), *effects)


def gone(
    state: State, candidate: Generation, what: str, status: int, *, blamed: bool = True, transient: bool = False
) -> Step:
    """Go on without a candidate that has failed.

    Args:
        state: the candidate is not in it any more.
        candidate: the one that is gone.
        what: what became of it, for the log.
        status: its exit status, as a shell would say it.
        blamed: its configuration may be the cause.
        transient: another try with the same configuration may succeed.

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
        # The candidate may have listened on a VIP that the current one does not use.
        return state, (*effects, *retiring.follow(state))
    if falls_back:
        return then(_spawn_kept(state), *effects)
    if not state.started:
        return then(stopping.stop_quickly(state, status, None), *effects)
    counts = blamed and not phase.asked_by
    return then(replace_dead(state, status, proven=False, served=False, counts=counts), *effects)


def replace_dead(state: State, status: int, *, served: bool, proven: bool, counts: bool = True, ran: str = "") -> Step:
    """Apply the restart policy after the generation that served, or was to serve, has died.

    Args:
        state: the dead one is not in it any more.
        status: its exit status, as a shell would say it.
        served: it had lived for SERVED_AFTER.
        proven: it had lived for PROVEN_AFTER.
        counts: its death counts for --restart-limit; not if its start was asked for, or it never ran.
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
    # Whether the ordinary listeners are held is known outside the core only.
    still = f"{'the VIPs' if state.vips else 'the listeners that safe_reload holds'} stay open"
    if served or state.waiting:
        line = Log(Level.INFO, "restarting", f"{still}, and the next generation starts at once")
        return then(spawn(replace(state, waiting=()), state.waiting), line)
    if isinstance(state.stage, Lingering):
        return stopping.stop_gracefully(state)
    delay = restart_delay(state.deaths + state.shortages)
    line = Log(Level.INFO, "backing_off", f"{still}, and the next generation starts in {delay:g} s")
    return replace(state, stage=BackingOff(ran)), (line,)
