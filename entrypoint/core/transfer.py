"""The transfer of ordinary listeners: the current generation is asked for what it has bound itself.

haproxy hangs up when it has none, but also when it dies or is out of descriptors. So only an unmistakable answer ends
this. After anything else it is asked again: a shortage may be over by then. Only the current generation is asked: the
listeners of older ones are out of date.
"""

from __future__ import annotations

from entrypoint.core.effects import Adopt
from entrypoint.core.events import Adopted, NotAdopted
from entrypoint.core.log_lines import say
from entrypoint.core.state import State, Step, Transfer
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace

MOST_TRIES = 5
"""How often it is asked again; the last answer is taken as it is."""


def begin(state: State, number: int) -> Step:
    """Ask the generation that has just become current."""
    return replace(state, transfer=Transfer()), (Adopt(number),)


def answered(state: State, event: Adopted | NotAdopted) -> Step:
    """Follow the answer of the current generation; ignore that of any other."""
    if not state.transfer or not state.current or state.current.number != event.number:
        return state, ()
    return (replace(state, transfer=None), ()) if isinstance(event, Adopted) else _failed(state, state.transfer.tries)


def elapsed(state: State, number: int) -> Step:
    """The answer has not come in time, or it is time to ask again."""
    assert state.transfer
    tries = state.transfer.tries
    if state.transfer.asked:
        return _failed(state, tries)
    return replace(state, transfer=Transfer(tries)), (Adopt(number, last=tries == MOST_TRIES),)


def _failed(state: State, tries: int) -> Step:
    """Ask again later, or give up and go on holding what was held before."""
    if tries < MOST_TRIES:
        return replace(state, transfer=Transfer(tries + 1, asked=False)), ()
    assert state.current
    what = "does not say which ordinary listeners it has: those it bound are not held"
    return replace(state, transfer=None), (say(state.current, "not_adopted", what, Level.WARNING),)
