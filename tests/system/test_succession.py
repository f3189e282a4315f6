"""What the next life has to know: what has happened, and what nobody has decided about yet."""

from collections.abc import Callable
from typing import Any

from entrypoint.core.events import Event, Log, Rehearsed, StopAsked
from entrypoint.sources import Sources
from entrypoint.succession import Succession
from entrypoint.system.processes import Birth

CLIENT = 7


class Loop:
    """Keeps what it is told; nothing is started."""

    def __init__(self, *events: Event) -> None:
        """Begin with what has happened and is not decided."""
        self.sources = Sources()
        self.events = [*events]

    @property
    def has_more(self) -> bool:
        """Whether there is something left to decide."""
        return bool(self.events)

    def is_to_be_decided(self, kind: type[Event]) -> bool:
        """Look for one of this kind."""
        return any(isinstance(event, kind) for event in self.events)

    def submit(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    def log(self, line: Log) -> None:
        """Say nothing."""

    def start_helper(self, number: int, birth: Birth, ended: Callable[[int], None]) -> None:  # noqa: ARG002
        """Have no room for a process."""
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def kill(self, number: int) -> None:
        """Kill nobody."""

    def unseen(self) -> list[int]:
        """Have seen everything."""
        return []


def hand_down(client: int, *, others: bool) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Leave nothing but who asked, and a descriptor that is none: whoever tries to exec with it fails."""
    return {"client": client}, (-1,)


def test_what_is_not_decided_comes_before_the_next_life() -> None:
    """A death, or a request, that the core does not know yet would be forgotten by the exec."""
    waiting = StopAsked("somebody")
    loop = Loop(waiting)
    Succession(loop, dict, hand_down).take_place(CLIENT)

    assert loop.events == [waiting, Rehearsed(CLIENT, "")]


def test_a_rehearsal_that_cannot_be_started_is_answered_and_may_be_tried_again() -> None:
    """Whoever asked is told why, each time."""
    loop = Loop()
    succession = Succession(loop, dict, hand_down)
    for _ in range(2):
        succession.rehearse(CLIENT)
        (outcome,) = loop.events
        assert outcome == Rehearsed(CLIENT, "the new program cannot be tried: Resource temporarily unavailable")
        loop.events.clear()


def test_a_rehearsal_is_not_begun_while_another_s_outcome_waits() -> None:
    """Of two that succeed each would let the other one go first, for ever."""
    first = Rehearsed(CLIENT, "")
    loop = Loop(first)
    Succession(loop, dict, hand_down).rehearse(CLIENT + 1)

    assert loop.events == [first, Rehearsed(CLIENT + 1, "another upgrade is under way")]
