"""The transfer of ordinary listeners: the current generation is asked for what it has bound itself, until it answers.

haproxy says "none" by hanging up, and hangs up as well when it dies or is out of descriptors. So only an answer that
cannot be mistaken ends this; whatever else comes is tried again, a shortage may be over by then. Only the current
generation is asked: the listeners of older ones are out of date.
"""

from entrypoint.core.effects import Adopt
from entrypoint.core.events import Adopted, NotAdopted
from entrypoint.core.log_lines import say
from entrypoint.core.state import State, Step, Transfer
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace

MOST_TRIES = 5
"""After so many tries in vain the next one is the last, and its answer is taken as it is."""


def begin(state: State, number: int) -> Step:
    """Ask the generation that has just become current."""
    return replace(state, transfer=Transfer()), (Adopt(number),)


def answered(state: State, event: Adopted | NotAdopted) -> Step:
    """Follow what the current generation has answered; what another one says is of no use."""
    if not state.transfer or not state.current or state.current.number != event.number:
        return state, ()
    return (replace(state, transfer=None), ()) if isinstance(event, Adopted) else _failed(state, state.transfer.tries)


def elapsed(state: State, number: int) -> Step:
    """Go on without an answer that has not come in time, or ask once more."""
    assert state.transfer
    tries = state.transfer.tries
    if state.transfer.asked:
        return _failed(state, tries)
    return replace(state, transfer=Transfer(tries)), (Adopt(number, last=tries == MOST_TRIES),)


def _failed(state: State, tries: int) -> Step:
    """Ask again later, or give up: what was held before is still held."""
    if tries < MOST_TRIES:
        return replace(state, transfer=Transfer(tries + 1, asked=False)), ()
    assert state.current
    what = "does not say which ordinary listeners it has: those it bound are not held"
    return replace(state, transfer=None), (say(state.current, "not_adopted", what, Level.WARNING),)
