"""What a changed file means: when it is looked at, and whether it is a reload.

Only the content counts, and only once it has settled. A configuration that haproxy has refused is not tried again. One
that failed for another reason is tried again, with growing pauses. Going back to what runs clears an earlier failure.
Files that look incomplete are waited for, for a while, unless the current generation was started with them.
"""

from __future__ import annotations

from entrypoint.core.effects import Effect, Log, Look, Tell
from entrypoint.core.events import Clock, Disk, Request, Why
from entrypoint.core.notices import Recovered
from entrypoint.core.state import (
    INCOMPLETE_WITHIN,
    MOST_POLL_DOUBLINGS,
    BackingOff,
    Candidate,
    Lingering,
    Serving,
    State,
    Step,
)
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace

FILES = Request("files")
"""The trigger of a reload for changed files."""
RETRY = Request("retry")
"""The trigger of another try, after a failure that was not the configuration's."""


def stirred(state: State) -> Step:
    """Note that a file may have changed; the disk is read once files are quiet."""
    if not state.watches or not isinstance(state.stage, Serving | BackingOff | Lingering):
        return state, ()
    return replace(state, settling=state.settling + 1), ()


def elapsed(state: State, clock: Clock) -> Step:
    """Follow a timer that watching has started."""
    match clock:
        case Clock.POLL:
            return poll(state)
        case Clock.INCOMPLETE:
            return waited(state)
        case _:
            return quiet(state)


def quiet(state: State) -> Step:
    """Read the disk: files are quiet, or have been unquiet for too long."""
    return replace(state, settling=0), (Look(Why.SETTLED),)


def poll(state: State) -> Step:
    """Read the disk, where the kernel may not report all changes."""
    return replace(state, polls=state.polls + 1, polling=True), (Look(Why.POLLED),)


def seen(state: State, why: Why, disk: Disk) -> Step:
    """Follow what the disk holds. A look on behalf of a candidate only notes it."""
    before = state.disk
    state = replace(state, unfinished=_failed_polls(state, why, disk), polling=state.polling and why is not Why.POLLED)
    differs = (disk.digest, disk.unreadable) != (before.digest, before.unreadable)
    if why is Why.POLLED and differs and not disk.unfinished:
        # This may be half of a change: wait until it is quiet.
        return stirred(replace(state, disk=replace(disk, digest=before.digest, unreadable=before.unreadable)))
    effects: list[Effect] = []
    # Before the first generation serves nothing is waited for: haproxy says what is wrong.
    if disk.unreadable and disk.unreadable != before.unreadable and state.started:
        what = f"the configuration cannot be read, and is waited for: {disk.unreadable}"
        effects.append(Log(Level.WARNING, "unreadable", what))
    state = replace(state, disk=disk)
    if why is not Why.SETTLED or disk.unreadable:
        return state, tuple(effects)
    if state.overdue != disk.digest:
        state = replace(state, overdue="")
    current = state.current
    failed = state.failed or state.retried
    if current and disk.digest == current.digest and (failed not in {"", disk.digest} or current.kept):
        state = state.update(replace(current, kept=False))
        state = replace(state, failed="", retried="", retries=0, patient=False, waiting=_others(state.waiting))
        return state, (*effects, Tell(Recovered(current.number)))
    was_patient, state = state.patient, follow_up(state)
    if state.patient and not was_patient:
        what = f"{'; '.join(incomplete_files(state))}: waited for, for up to {INCOMPLETE_WITHIN:g} s"
        effects.append(Log(Level.WARNING, "incomplete", what))
    return state, tuple(effects)


def incomplete_files(state: State) -> tuple[str, ...]:
    """Return what looks incomplete and did not when the current generation was started, a line each."""
    if not state.current or state.overdue == state.disk.digest:
        return ()
    return tuple(line for line in state.disk.incomplete if line not in state.current.incomplete)


def waited(state: State) -> Step:
    """Use files as they are that have looked incomplete for too long."""
    state = replace(state, patient=False, overdue=state.disk.digest)
    what = f"after {INCOMPLETE_WITHIN:g} s nothing is waited for any more: {'; '.join(state.disk.incomplete)}"
    return follow_up(state), (Log(Level.WARNING, "incomplete", what),)


def _failed_polls(state: State, why: Why, disk: Disk) -> int:
    if not disk.unfinished:
        return 0
    return min(state.unfinished + 1, MOST_POLL_DOUBLINGS) if why is Why.POLLED else state.unfinished


def follow_up(state: State) -> State:
    """Ask for a reload if the disk holds something new, or wait for the rest of it."""
    state = replace(state, patient=bool(is_news(state) and incomplete_files(state)))
    if (
        is_news(state)
        and not state.patient
        and FILES not in state.waiting
        and isinstance(state.stage, Serving | BackingOff)
    ):
        return replace(state, waiting=(*state.waiting, FILES))
    return state


def is_news(state: State) -> bool:
    """Tell whether the disk holds what no generation runs, starts with, has died of or failed with."""
    tried = {generation.digest for generation in state.generations if isinstance(generation.phase, Candidate)}
    if state.current:
        tried.add(state.current.digest)
    if isinstance(state.stage, BackingOff):
        tried.add(state.stage.digest)
    return state.disk.digest not in {"", state.failed, state.retried, *tried}


def still_wanted(state: State) -> tuple[Request, ...]:
    """Return the waiting requests that still have a reason; files may have changed back, or been read since."""
    return state.waiting if is_news(state) and not state.patient else _others(state.waiting)


def _others(requests: tuple[Request, ...]) -> tuple[Request, ...]:
    return tuple(request for request in requests if request != FILES)
