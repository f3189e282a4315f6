"""Changed files that the current generation takes while it runs, such as a renewed certificate.

This is tried only for what is not the configuration itself, and only for changes that nobody has asked a reload for: a
reload that is asked for may have a reason that files do not show. Whatever haproxy cannot take is a reload. The only
exception is a certificate that it calls bad: haproxy would start with a key that does not fit, where `key` names it.
"""

from __future__ import annotations

from entrypoint.core import candidate, watching
from entrypoint.core.effects import Apply, Effect, Log, Tell
from entrypoint.core.events import Applied, Disk, Learned
from entrypoint.core.notices import FilesApplied, FilesRefused
from entrypoint.core.state import APPLY_WITHIN, BackingOff, Generation, State, Step
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace
from entrypoint.options.settings import ApplyPolicy


def may_begin(state: State) -> bool:
    """Tell whether the current generation may take what has changed on disk."""
    current = state.current
    is_on = state.settings.apply is ApplyPolicy.AUTO and not state.torn
    return bool(is_on and current and current.digest and not current.kept and state.disk.applicable)


def begin(state: State) -> Step:
    """Give the changed files to the current generation, in place of a reload."""
    assert state.current
    number = state.current.number
    return replace(state, applying=number, waiting=()), (Apply(number),)


def follow(state: State, event: Applied | Learned) -> Step:
    """Follow what the current generation has taken, or has read."""
    return _answered(state, event) if isinstance(event, Applied) else _learned(state, event)


def is_under_way(state: State) -> bool:
    """Tell whether the current generation is being given files; a dead one's answer is awaited by nobody."""
    return bool(state.current and state.applying == state.current.number)


def _answered(state: State, event: Applied) -> Step:
    """Follow what became of it."""
    current, is_awaited = state.current, state.applying == event.number
    state = replace(state, applying=0 if is_awaited else state.applying)
    if not current or current.number != event.number:
        # It has died, or was replaced: its successor has read the files itself.
        return state, ()
    effects: list[Effect] = []
    disk = event.disk
    if is_awaited and disk.digest:
        state = replace(state, disk=disk)
    if event.digest or disk.unfinished:
        # It may have taken something before the answer was lost: then what it runs is not known.
        before, current = current, replace(current, digest=event.digest)
        if event.digest:
            current = replace(current, incomplete=disk.incomplete)
        state = state.update(current)
        if event.files:
            trigger = watching.FILES.trigger
            effects.append(Tell(FilesApplied(current.number, event.files, event.seconds, trigger, event.digest)))
        if state.kept == before.digest:
            state, later = candidate.keep(state, current)
            effects += later
    if not is_awaited:
        # It has taken too long, and a reload has followed.
        later = ()
    elif event.problem:
        state, later = _not_all(state, current, event)
    else:
        later = ()
        if event.files:
            state = replace(state, failed="", retried="", retries=0)
    return state, (*effects, *later)


def _not_all(state: State, current: Generation, event: Applied) -> Step:
    """Go on after a file that was not taken: with a reload, unless haproxy calls a certificate bad."""
    if event.refused:
        state = replace(state, failed=event.disk.digest, retried="", retries=0)
        return state, (Tell(FilesRefused(current.number, current.pid, event.problem, watching.FILES.trigger)),)
    line = Log(Level.INFO, "not_applied", f"this change is a reload: {event.problem}", {"generation": current.number})
    # Also where the disk could not be read: then this is all that is known of the change.
    return watching.follow_up(replace(state, disk=replace(state.disk, applicable=False))), (line,)


def elapsed(state: State) -> Step:
    """Go on with a reload: the current generation has not taken the files in time."""
    problem = f"haproxy has not taken it within {APPLY_WITHIN:g} s"
    return _answered(state, Applied(state.applying, Disk(unfinished=True), problem=problem))


def _learned(state: State, event: Learned) -> Step:
    """Give what is known another digest: more files count, and none of them has changed."""

    def now(digest: str) -> str:
        return event.after if digest == event.before else digest

    stage = state.stage
    return replace(
        state,
        generations=tuple(replace(one, digest=now(one.digest)) for one in state.generations),
        stage=BackingOff(now(stage.digest)) if isinstance(stage, BackingOff) else stage,
        disk=replace(state.disk, digest=now(state.disk.digest)),
        kept=now(state.kept),
        failed=now(state.failed),
        retried=now(state.retried),
        overdue=now(state.overdue),
    ), ()
