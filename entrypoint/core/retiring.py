"""How a generation leaves: it lets go of the VIPs, finishes what it has, or is ended.

Retiring is what keeps old generations free of charge. The kernel's epoll knows a listening socket by its open
file description, which we keep: a haproxy that merely closes its descriptor goes on being woken up for every
connection of its successor. So its frontends are paused first, then connections (the clients', or our own) are let
past until `show fd` says that no thread polls a VIP any more; only then it gets SIGUSR1.
"""

import signal

from entrypoint.core.effects import Ask, Effect, Listen, Poke, Send
from entrypoint.core.log_lines import say
from entrypoint.core.state import Draining, Ending, Generation, Retiring, State, Step, then
from entrypoint.haproxy import runtime_api
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace

ROUNDS_FOR_CLIENTS = 3
"""So many looks at a retiring generation before we connect ourselves: under load the clients do it."""
MOST_ROUNDS = 200
"""After so many looks a generation is told to leave as it is; all it costs is CPU."""
MOST_ROUNDS_OUT_OF_REACH = 20
"""The same where only clients can help, because no connection of ours gets through."""


def retire(state: State, old: Generation) -> Step:
    """Have a generation let go of the VIPs, then leave."""
    binds = tuple(bind for bind in old.binds if runtime_api.can_pause(bind))
    if not binds:
        return drain(state, old)
    return (
        state.update(replace(old, phase=Retiring(), binds=binds)),
        (Ask(old.number, (*runtime_api.pause(binds), *runtime_api.look(binds))),),
    )


def answered(state: State, old: Generation, text: str) -> Step:
    """Follow what a retiring generation says of itself."""
    assert isinstance(old.phase, Retiring)
    # Idle, it is gone in a moment, and what its pollers hold with it.
    if runtime_api.is_idle(text):
        return drain(state, old)
    holding = runtime_api.holding(text, old.binds)
    # To those that were not paused each connection is one more client, not one fewer that polls.
    hopeless = runtime_api.not_paused(text, holding)
    waits_for = tuple(bind for bind in holding if bind not in hopeless)
    if not waits_for or runtime_api.never_says(text, waits_for):
        return drain_as_it_is(state, old) if holding else drain(state, old)
    tags = _tags(state, old, waits_for)
    rounds = old.phase.rounds + 1
    if rounds > (MOST_ROUNDS_OUT_OF_REACH if old.phase.out_of_reach.issuperset(tags) else MOST_ROUNDS):
        return drain_as_it_is(state, old)
    state = state.update(replace(old, phase=replace(old.phase, rounds=rounds, asked=False)))
    return state, (Poke(tags),) if rounds > ROUNDS_FOR_CLIENTS else ()


def _tags(state: State, old: Generation, binds: tuple[runtime_api.Bind, ...]) -> tuple[str, ...]:
    """Return the tags of the VIPs whose sockets these listeners share; of a copy those of its whole frontend."""
    vips = {descriptor for _, descriptor in state.vips}
    copied = {bind.frontend for bind in binds if bind.descriptor not in vips}
    shared = {bind.descriptor for bind in old.binds if bind in binds or bind.frontend in copied}
    return tuple(dict.fromkeys(tag for tag, descriptor in state.vips if descriptor in shared))


def poked(state: State, missed: tuple[str, ...]) -> Step:
    """Note which VIPs no connection of ours can reach."""
    old = state.retiring
    if not old:
        return state, ()
    assert isinstance(old.phase, Retiring)
    return state.update(replace(old, phase=replace(old.phase, out_of_reach=frozenset(missed)))), ()


def ask_again(state: State, old: Generation) -> Step:
    """Look again at whether a retiring generation has let go."""
    assert isinstance(old.phase, Retiring)
    state = state.update(replace(old, phase=replace(old.phase, asked=True)))
    return state, (Ask(old.number, runtime_api.look(old.binds)),)


def drain_as_it_is(state: State, old: Generation) -> Step:
    """Tell a generation to leave that still holds VIPs, or does not say."""
    what = "has not let go of the VIPs: until it is gone it wakes up for its successor's connections"
    return then(drain(state, old), say(old, "still_polling", what, Level.WARNING))


def drain(state: State, old: Generation) -> Step:
    """Tell a generation to leave when it has finished."""
    state = state.update(replace(old, phase=Draining()))
    effects: list[Effect] = [Send(old.number, signal.SIGUSR1, say(old, "draining", "drains"))]
    draining = [other for other in state.generations if isinstance(other.phase, Draining)]
    for oldest in draining[: -state.settings.max_draining]:
        line = say(oldest, "too_many_draining", "is ended: more than --max-draining are draining", Level.WARNING)
        state, ending = end(state, oldest, signal.SIGTERM)
        effects += (line, *ending)
    # Only now: until it had let go, a VIP that stops listening would have woken it up for ever.
    return state, (*effects, *follow(state))


def end(state: State, generation: Generation, signum: int) -> Step:
    """Tell a generation to end at once."""
    ending = Ending(killed=signum == signal.SIGKILL)
    effects = [Send(generation.number, signum)]
    if not ending.killed:
        # One that Ctrl-Z has stopped would not see it.
        effects.append(Send(generation.number, signal.SIGCONT))
    return state.update(replace(generation, phase=ending)), tuple(effects)


def follow(state: State) -> tuple[Listen, ...]:
    """Have those VIPs accept that the current generation binds, and no other, unless it may bind them unknown to us."""
    current = state.current
    if not current:
        return ()
    bound = {bind.descriptor for bind in current.binds}
    tags = dict.fromkeys(tag for tag, descriptor in state.vips if descriptor in bound)
    others = dict.fromkeys(tag for tag, _ in state.vips if tag not in tags) if current.doubt else ()
    return (Listen(tuple(tags), tuple(others)),)
