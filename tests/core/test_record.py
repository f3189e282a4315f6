"""Records: what the rest of the code relies on of `dataclasses`, held against `dataclasses`."""

import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.core.effects import Log
from entrypoint.core.events import Elapsed, Exited, Reaped, Signalled, Timer
from entrypoint.lean.level import Level
from entrypoint.lean.record import record, replace


@record(frozen=True)
class Point:
    """Two numbers, of which one need not be given."""

    x: int
    y: int = 5

    @property
    def length(self) -> int:
        """Something that is no field."""
        return self.x + self.y


@record(frozen=True)
class Other:
    """The same fields under another name."""

    x: int
    y: int = 5


@record()
class Box:
    """One that can be changed."""

    content: int


@dataclasses.dataclass(frozen=True)
class Standard:
    """What the standard library makes of the same."""

    x: int
    y: int = 5


@given(st.integers(), st.integers())
def test_values_are_given_by_place_or_by_name(x: int, y: int) -> None:
    """All ways to give the same values make equal records, in whatever order they are named."""
    assert Point(x, y) == Point(x, y=y) == Point(y=y, x=x)
    assert (Point(x, y).x, Point(x, y).y) == (x, y)
    assert Point(x) == Point(x, 5)


@given(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_equality_and_hash_are_those_of_the_values(one: tuple[int, int], two: tuple[int, int]) -> None:
    """Two records are equal when the standard library's would be, and then have one hash."""
    assert (Point(*one) == Point(*two)) == (Standard(*one) == Standard(*two))
    assert len({Point(*one), Point(*two)}) == len({one, two})


def test_a_record_is_never_equal_to_one_of_another_kind() -> None:
    """The same values in another class are something else, as an exit and a reaping are."""
    things: list[object] = [Point(1, 2), Other(1, 2), (1, 2), Signalled(1), Reaped(1)]
    for thing in things:
        assert [other == thing for other in things] == [other is thing for other in things]
    assert len(set(things)) == len(things)


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((), {"y": 1}), ((1, 2, 3), {}), ((1,), {"z": 2}), ((), {"x": 1, "z": 2})]
)
def test_a_value_too_many_or_too_few_is_an_error(values: tuple[int, ...], named: dict[str, int]) -> None:
    """A record is never made without all its values, or with one that it has not."""
    with pytest.raises((TypeError, AttributeError)):
        Point(*values, **named)


def test_a_frozen_record_cannot_be_changed() -> None:
    """No value of it can be set or deleted, and its hash stays what it was."""
    point = Point(1, 2)
    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(point, name, 2)
        with pytest.raises(AttributeError):
            delattr(point, name)
    assert point == Point(1, 2)


def test_one_that_is_not_frozen_can_be_changed_and_not_be_hashed() -> None:
    """What may change is no key."""
    box = Box(1)
    box.content = 2
    assert box == Box(2)
    with pytest.raises(TypeError):
        hash(box)


@given(st.integers(), st.integers(), st.integers())
def test_a_copy_has_the_changes_and_nothing_else(x: int, y: int, z: int) -> None:
    """`replace` leaves the original alone, and a copy without changes is equal."""
    point = Point(x, y)
    assert replace(point, y=z) == Point(x, z)
    assert replace(point) == point == Point(x, y)
    with pytest.raises(TypeError):
        replace(point, z=z)  # type: ignore[call-arg]  # that is the test


def test_a_copy_is_found_where_its_equal_is() -> None:
    """However a record came about, equal ones have one hash: sets of states and of timers rely on it."""
    assert {replace(Point(y=2, x=1), x=3)} == {Point(3, 2)}


def test_records_can_be_taken_apart_by_match() -> None:
    """Values are matched by place and by name, as in every decision of the core."""
    match Point(1, 2):
        case Point(1, y=found):
            assert found == 2
        case _:
            pytest.fail("no match")


def test_a_record_shows_its_values() -> None:
    """What a failed test or a log line prints of it is how it would be written."""
    assert repr(Point(1, 2)) == "Point(x=1, y=2)"
    assert Point(1, 2).length == 3


def test_a_record_can_be_sent_to_another_process() -> None:
    """The tests hand records over; what arrives is equal."""
    assert pickle.loads(pickle.dumps(Exited(1, -9))) == Exited(1, -9)


def test_the_vocabulary_is_made_of_them() -> None:
    """Events are keys, and a log line without fields has none."""
    from entrypoint.core.events import Clock

    assert {Elapsed(Timer(Clock.KILL, 1)), Elapsed(Timer(Clock.KILL, 1))} == {Elapsed(Timer(Clock.KILL, 1, 0))}
    assert Log(Level.INFO, "e", "m") == Log(Level.INFO, "e", "m", {})
