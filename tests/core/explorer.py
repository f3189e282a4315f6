"""Visits every state that can be reached."""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from unittest import mock

from entrypoint.core import candidate, lifecycle, retiring, transfer
from entrypoint.core.effects import Effect
from entrypoint.core.events import Event
from entrypoint.core.state import State
from entrypoint.options.settings import Settings
from tests.core.world import RETRYING, SMALL, begin, canonical, possible

MOST_GENERATIONS = 3
"""Generations that will not die could pile up for ever; three show everything that more would."""
FEWER_GENERATIONS = 2
"""Enough for what does not depend on how many drain."""
FEW_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Transition:
    """One step that can be taken."""

    before: State
    event: Event
    after: State
    effects: tuple[Effect, ...]


@dataclass(slots=True)
class Exploration:
    """Everything that can be reached."""

    states: set[State] = field(default_factory=set)
    transitions: list[Transition] = field(default_factory=list)


def _key(state: State) -> tuple[object, ...]:
    """Return all of a state but the settings, which are the same in all and cost most of the comparison."""
    return tuple(value for name, value in state.__dict__.items() if name != "settings")


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Spare the collector millions of objects, of which none is garbage: it visits them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@cache
def explore(settings: Settings) -> Exploration:
    """Take every step from every state, until there is no new state. It takes many seconds, so it is done once."""
    found = Exploration()
    most_generations = MOST_GENERATIONS if settings == SMALL else FEWER_GENERATIONS
    with (
        _without_garbage_collection(),
        mock.patch.multiple(retiring, MOST_ROUNDS=FEW_ROUNDS, MOST_ROUNDS_OUT_OF_REACH=1, ROUNDS_FOR_CLIENTS=1),
        mock.patch.multiple(candidate, MOST_TRIES=1, MOST_RETRIES=int(settings == RETRYING)),
        mock.patch.object(transfer, "MOST_TRIES", 1),
    ):
        first = begin(settings)
        found.states.add(first)
        met = {_key(first)}
        unseen = [first]
        while unseen:
            state = unseen.pop()
            for event in possible(state):
                after, effects = lifecycle.step(state, event)
                found.transitions.append(Transition(state, event, after, effects))
                if len(after.generations) > most_generations:
                    continue
                known = canonical(after)
                key = _key(known)
                if key not in met:
                    met.add(key)
                    found.states.add(known)
                    unseen.append(known)
    return found
