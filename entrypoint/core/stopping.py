"""How safe_reload ends: gracefully, at once, or because it gives up."""

from __future__ import annotations

from entrypoint.core.effects import CloseVips, Effect, Log, Reply, Send
from entrypoint.core.events import EXPORTER, Request
from entrypoint.core.log_lines import say
from entrypoint.core.retiring import end
from entrypoint.core.state import (
    KILL_AFTER,
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
    then,
)
from entrypoint.lean import signal
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace
from entrypoint.lean.typing import assert_never


def stop(state: State, trigger: str) -> Step:
    """Begin a graceful stop; a second one is quick."""
    match state.stage:
        case Lingering() | Stopping():
            return stop_quickly(state, 0, trigger)
        case Serving() | BackingOff() | Ended():
            waits = bool(state.settings.stop_delay and state.current)
            how = f"; {_may_finish(state)}"
            if waits:
                delay = f"{state.settings.stop_delay:g} s (--stop-delay)"
                how = f" in {delay}: until then new connections are accepted; a second stop ends all at once"
            line = Log(Level.INFO, "stopping", f"{trigger}: stopping gracefully{how}", {"trigger": trigger})
            refused = refuse(state.waiting)
            state = replace(state, waiting=(), stage=Lingering(), settling=0)
            return (state, (line, *refused)) if waits else then(stop_gracefully(state), line, *refused)
        case _:
            assert_never(state.stage)


def _may_finish(state: State) -> str:
    timeout = state.settings.stop_timeout
    within = f" within {timeout:g} s (--stop-timeout)" if timeout else ""
    return f"open connections may finish{within}, and a second stop ends them"


def accept_no_more(state: State) -> Step:
    """Go on with a graceful stop when --stop-delay is over."""
    line = Log(Level.INFO, "stop_delay_over", f"--stop-delay is over: {_may_finish(state)}")
    return then(stop_gracefully(state), line)


def refuse(requests: tuple[Request, ...]) -> tuple[Effect, ...]:
    """Refuse these requests for a reload."""
    if not requests:
        return ()
    asked_by = triggers(requests)
    what = f"the reload asked for by {asked_by} is refused: safe_reload is stopping"
    replies = (Reply(request.client, False, what) for request in requests if request.client)
    return (Log(Level.WARNING, "reload_refused", what, {"trigger": asked_by}), *replies)


def triggers(requests: tuple[Request, ...]) -> str:
    """Return the names of the triggers, each once."""
    return ", ".join(dict.fromkeys(request.trigger for request in requests))


def _open_requests(state: State) -> tuple[Request, ...]:
    """Return the requests for the running reload and for the next one."""
    candidate = state.candidate
    running = candidate.phase.asked_by if candidate and isinstance(candidate.phase, Candidate) else ()
    return (*running, *state.waiting)


def _without_unborn(state: State) -> State:
    """Drop a candidate that waits for a look at the disk: it has no process."""
    candidate = state.candidate
    if candidate and isinstance(candidate.phase, Candidate) and not candidate.phase.looked:
        return state.without(candidate.number)
    return state


def stop_gracefully(state: State) -> Step:
    """Close the VIPs, and have every generation finish its connections."""
    effects: list[Effect] = [CloseVips(), *refuse(_open_requests(state))]
    state = _without_unborn(state)
    # This signal also ends a candidate that is not ready; it has accepted nothing yet.
    for generation in state.generations:
        if isinstance(generation.phase, Candidate | Current | Retiring):
            effects.append(Send(generation.number, signal.SIGUSR1))
        # A process that is stopped (Ctrl-Z) would not see it.
        effects.append(Send(generation.number, signal.SIGCONT))
    generations = tuple(
        generation if isinstance(generation.phase, Ending) else replace(generation, phase=Draining())
        for generation in state.generations
    )
    return replace(state, stage=Stopping(), generations=generations, waiting=(), transfer=None), tuple(effects)


def stop_quickly(state: State, status: int, trigger: str | None) -> Step:
    """End every generation at once."""
    effects: list[Effect] = [*refuse(_open_requests(state))]
    state = _without_unborn(state)
    if isinstance(state.stage, Stopping):
        status = state.stage.status
        if state.stage.quick:
            return state, ()
    else:
        effects.append(CloseVips())
    if trigger:
        effects.append(Log(Level.INFO, "stopping", f"{trigger}: stopping at once", {"trigger": trigger}))
    state = replace(state, stage=Stopping(status, quick=True), waiting=(), transfer=None)
    for generation in state.generations:
        if not isinstance(generation.phase, Ending):
            state, ending = end(state, generation, signal.SIGTERM)
            effects += ending
    return state, tuple(effects)


def leave_behind(state: State, generation: Generation) -> Step:
    """Stop waiting for a process that SIGKILL does not end: in a container the kernel ends it with PID 1."""
    what = f"has not ended within {KILL_AFTER:g} s of SIGKILL: safe_reload ends without it"
    line = say(generation, "left_behind", what, Level.ERROR)
    return state.without(generation.number), (Send(generation.number, signal.SIGKILL), line)


def finish(state: State, status: int) -> Step:
    """Exit: nothing is left to wait for."""
    line = Log(Level.INFO, "stopped", f"every generation is gone: exiting with {status}", {"status": status})
    exporter = (Send(EXPORTER, signal.SIGTERM),) if state.exporter else ()
    return replace(state, stage=Ended(status)), (line, *exporter)
