"""An upgrade waits for events that the core has not decided about yet."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

from entrypoint.core.events import Event, Rehearsed, StopAsked
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean.level import Level
from entrypoint.pid1.children import Children
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.reexec import Reexec
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.log import Logger
from entrypoint.system.processes import SpawnSpec
from entrypoint.system.signals import Arrivals, Inherited
from tests.upgrades import left

CLIENT = 7


class NoRoom:
    """Children, where there is no room for a process."""

    def start_helper(self, number: int, spec: SpawnSpec, ended: Callable[[int], None]) -> None:  # noqa: ARG002
        """Have no room for it."""
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def kill(self, number: int) -> None:
        """Kill nobody."""


def begun(*events: Event) -> tuple[Runtime, Reexec]:
    """Return one that may take our place after what has happened and is not decided, and who runs it."""
    runtime = Runtime(Logger(Level.ERROR))
    runtime.events.extend(events)
    parts = SimpleNamespace(environment={}, inherited=Inherited(frozenset(), frozenset()))
    children, arrivals = cast("Children", NoRoom()), cast("Arrivals", None)
    return runtime, Reexec(runtime, children, arrivals, cast("Parts", parts), serialize)


def serialize(client: int, *, others: bool) -> UpgradeState:
    """Leave nothing but a descriptor that is none: whoever tries to exec with it fails."""
    return left(descriptors=(-1,))


def test_undecided_events_come_before_an_upgrade() -> None:
    """A death or a request that the core does not know yet would be lost by the exec."""
    waiting = StopAsked("somebody")
    runtime, reexec = begun(waiting)
    reexec.execute(CLIENT)
    assert [*runtime.events] == [waiting, Rehearsed(CLIENT, "")]


def test_a_rehearsal_that_cannot_be_started_is_answered_and_may_be_tried_again() -> None:
    """The client is told why, each time."""
    runtime, reexec = begun()
    for _ in range(2):
        reexec.rehearse(CLIENT)
        (outcome,) = runtime.events
        assert outcome == Rehearsed(CLIENT, "the new program cannot be tried: Resource temporarily unavailable")
        runtime.events.clear()


def test_a_rehearsal_is_not_begun_while_another_s_outcome_waits() -> None:
    """Of two that succeed each would let the other one go first, for ever."""
    first = Rehearsed(CLIENT, "")
    runtime, reexec = begun(first)
    reexec.rehearse(CLIENT + 1)
    assert [*runtime.events] == [first, Rehearsed(CLIENT + 1, "another upgrade is under way")]
