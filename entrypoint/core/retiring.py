"""How a generation leaves: it finishes its handshakes, lets go of the VIPs, finishes what it has, or is ended.

A QUIC handshake that is under way at haproxy's soft stop is lost: haproxy goes on with it, but never accepts the
connection (docs/upstream-quic-handshake.md). When a generation gets a successor, it gets no new datagrams, and is asked
until it has no handshake left.

Retiring is why old generations cost no CPU. epoll(7) knows a listening socket by its open file description, which
safe_reload keeps open: a haproxy that only closes its descriptor is still woken up for every connection of its
successor. So its frontends are paused first. Then connections, of clients or of safe_reload, wake its threads until
`show fd` says that none polls a VIP any more. Only then it gets SIGUSR1.
"""

from __future__ import annotations

from entrypoint.core.effects import Ask, AskHandshakes, Effect, Listen, Poke, Send
from entrypoint.core.log_lines import say
from entrypoint.core.state import HANDSHAKES_WITHIN, Draining, Ending, Generation, Retiring, State, Step, then
from entrypoint.haproxy import quic, runtime_api
from entrypoint.lean import signal
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace

ROUNDS_FOR_CLIENTS = 3
"""After this many looks safe_reload connects itself; under load, clients have done it by then."""
MOST_ROUNDS = 200
"""After this many looks a generation is told to leave all the same; that costs CPU, and nothing else."""
MOST_ROUNDS_OUT_OF_REACH = 20
"""The same where safe_reload cannot connect, and only clients can help."""


def retire(state: State, old: Generation) -> Step:
    """Make a generation finish its handshakes, let go of the VIPs, and then leave.

    One that shares a datagram socket with its successor gets new handshakes until it is paused: it is not waited for.
    """
    if not old.datagrams or any(bind.datagrams and not _has_own_socket(state, bind) for bind in old.binds):
        return _let_go(state, old)
    return state.update(replace(old, phase=Retiring(handshakes=True))), (AskHandshakes(old.number),)


def _let_go(state: State, old: Generation) -> Step:
    binds = tuple(bind for bind in old.binds if runtime_api.can_pause(bind) and not _has_own_socket(state, bind))
    if not binds:
        return drain(state, old)
    return (
        state.update(replace(old, phase=Retiring(), binds=binds)),
        (Ask(old.number, (*runtime_api.pause(binds), *runtime_api.look(binds))),),
    )


def _has_own_socket(state: State, bind: runtime_api.Bind) -> bool:
    """Tell whether a listener's socket gets nothing that is for the next generation."""
    shared = {descriptor for _, descriptor in state.vips} - state.taking_turns
    return bind.datagrams and bind.descriptor not in shared


def answered(state: State, old: Generation, text: str) -> Step:
    """Follow the answer of a retiring generation."""
    assert isinstance(old.phase, Retiring)
    if old.phase.handshakes:
        clean = runtime_api.pid(text) is not None and not quic.handshakes(text)
        # Twice: haproxy may have read a handshake's first packet, or be about to accept it.
        return _let_go(state, old) if clean and old.phase.clean else _wait_for_handshakes(state, old, clean=clean)
    # It has no connections: it is gone in a moment, and its pollers with it.
    if runtime_api.is_idle(text):
        return drain(state, old)
    holding = runtime_api.holding(text, old.binds)
    # A listener that is not paused accepts each connection: connecting to it does not help.
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


def unanswered(state: State, old: Generation) -> Step:
    """Go on with a retiring generation that has not answered."""
    assert isinstance(old.phase, Retiring)
    return _wait_for_handshakes(state, old, clean=False) if old.phase.handshakes else drain_as_it_is(state, old)


def _wait_for_handshakes(state: State, old: Generation, *, clean: bool) -> Step:
    assert isinstance(old.phase, Retiring)
    phase = replace(old.phase, rounds=old.phase.rounds + 1, asked=False, clean=clean)
    return state.update(replace(old, phase=phase)), ()


def handshakes_elapsed(state: State, old: Generation) -> Step:
    """Wait no longer: most likely these clients have gone, or the old one does not answer."""
    what = f"has not finished its QUIC handshakes and datagrams within {HANDSHAKES_WITHIN:g} s: the rest is lost"
    return then(_let_go(state, old), say(old, "handshakes", what, Level.INFO))


def _tags(state: State, old: Generation, binds: tuple[runtime_api.Bind, ...]) -> tuple[str, ...]:
    """Return the tags of the VIPs of these listeners; for a copied descriptor, all of its frontend's."""
    vips = {descriptor for _, descriptor in state.vips}
    copied = {bind.frontend for bind in binds if bind.descriptor not in vips}
    shared = {bind.descriptor for bind in old.binds if bind in binds or bind.frontend in copied}
    return tuple(dict.fromkeys(tag for tag, descriptor in state.vips if descriptor in shared))


def poked(state: State, missed: tuple[str, ...]) -> Step:
    """Note which VIPs safe_reload cannot connect to."""
    old = state.retiring
    if not old:
        return state, ()
    assert isinstance(old.phase, Retiring)
    return state.update(replace(old, phase=replace(old.phase, out_of_reach=frozenset(missed)))), ()


def ask_again(state: State, old: Generation) -> Step:
    """Ask once more whether a retiring generation has let go."""
    assert isinstance(old.phase, Retiring)
    state = state.update(replace(old, phase=replace(old.phase, asked=True)))
    if old.phase.handshakes:
        return state, (AskHandshakes(old.number),)
    return state, (Ask(old.number, runtime_api.look(old.binds)),)


def drain_as_it_is(state: State, old: Generation) -> Step:
    """Tell a generation to leave although it still holds VIPs, or does not say."""
    what = "has not let go of the VIPs: until it is gone it wakes up for its successor's connections"
    return then(drain(state, old), say(old, "still_polling", what, Level.WARNING))


def drain(state: State, old: Generation) -> Step:
    """Tell a generation to leave when its connections are finished."""
    state = state.update(replace(old, phase=Draining()))
    effects: list[Effect] = [Send(old.number, signal.SIGUSR1, say(old, "draining", "drains"))]
    draining = [other for other in state.generations if isinstance(other.phase, Draining)]
    for oldest in draining[: -state.settings.max_draining]:
        line = say(oldest, "too_many_draining", "is ended: more than --max-draining are draining", Level.WARNING)
        state, ending = end(state, oldest, signal.SIGTERM)
        effects += (line, *ending)
    # Only now: a VIP that stops listening would wake up a generation that still polls it, for ever.
    return state, (*effects, *follow(state))


def end(state: State, generation: Generation, signum: int) -> Step:
    """Tell a generation to end at once."""
    ending = Ending(killed=signum == signal.SIGKILL)
    effects = [Send(generation.number, signum)]
    if not ending.killed:
        # A process that is stopped (Ctrl-Z) would not see the signal.
        effects.append(Send(generation.number, signal.SIGCONT))
    return state.update(replace(generation, phase=ending)), tuple(effects)


def follow(state: State) -> tuple[Listen, ...]:
    """Have the VIPs listen that the current generation binds, or may bind, and no others."""
    current = state.current
    if not current:
        return ()
    bound = {bind.descriptor for bind in current.binds}
    tags = dict.fromkeys(tag for tag, descriptor in state.vips if descriptor in bound)
    others = dict.fromkeys(tag for tag, _ in state.vips if tag not in tags) if current.doubt else ()
    return (Listen(tuple(tags), tuple(others)),)
