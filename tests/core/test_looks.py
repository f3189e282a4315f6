"""Looks at the disk that take long or never end: who waits for them, for how long, and what happens then."""

from collections.abc import Sequence

import pytest

from entrypoint.core.effects import Keep, Look, Reply, Spawn
from entrypoint.core.events import (
    Answered,
    Clock,
    Disk,
    Elapsed,
    Event,
    Exited,
    ReloadAsked,
    Request,
    Restored,
    Seen,
    Spawned,
    StopAsked,
    Timer,
    Why,
)
from entrypoint.core.state import LOOK_WITHIN, MOST_POLL_DOUBLINGS, Ended, State, Stopping, timers
from tests.core.world import HANGS, begin, happens, listening, logged, pid_of, settings

POLL = 7.0
WATCHING = settings(poll=POLL)


def answers(number: int) -> Sequence[Event]:
    """Return what a candidate does once its process is to be started."""
    return Spawned(number, pid_of(number)), Answered(number, listening(pid_of(number), bound=(), others=1))


def serving(chosen: State | None = None) -> State:
    """Return a state in which generation 1 serves "a"."""
    state = chosen or begin(WATCHING)
    return happens(state, Seen(Why.START, Disk("a"), 1), *answers(1), Seen(Why.CANDIDATE, Disk("a"), 1))[0]


def late(number: int, times: int = 0) -> Elapsed:
    """Return the end of a candidate's patience."""
    return Elapsed(Timer(Clock.LOOK, number, times))


def test_a_candidate_waits_for_a_look_and_for_nothing_else() -> None:
    """Without a process it is not late, however long the disk takes; and not longer than a few seconds."""
    state = begin(WATCHING)
    assert timers(state) == {Timer(Clock.LOOK, 1): LOOK_WITHIN}
    state, effects = happens(state, Seen(Why.START, Disk("a"), 1))
    assert effects == (Spawn(1),)
    assert timers(state) == {Timer(Clock.READY, 1): WATCHING.ready_timeout}
    assert state.candidate
    assert state.candidate.digest == "a"


def test_a_requested_reload_does_not_wait_for_a_hanging_disk() -> None:
    """The candidate becomes current at once: there is nothing to compare. What it runs is unknown, and not kept."""
    state, effects = happens(serving(), ReloadAsked(Request("a client", 7)))
    assert effects == (effects[0], Look(Why.START, 2))
    state, effects = happens(state, late(2))
    assert Spawn(2) in effects
    assert [one.event for one in logged(effects)] == ["look_late"]
    state, effects = happens(state, *answers(2))
    assert [one.success for one in effects if isinstance(one, Reply)] == [True]
    assert not any(isinstance(one, Look | Keep) for one in effects)
    assert state.current
    assert (state.current.number, state.current.digest) == (2, "")
    assert state.kept == "a"


def test_what_comes_late_is_still_of_use() -> None:
    """It is what the generation was started from, and no reason for another one."""
    state, _ = happens(serving(), ReloadAsked(Request("a client", 7)), late(2), *answers(2))
    state, effects = happens(state, Seen(Why.START, Disk("b"), 2))
    assert not any(isinstance(one, Spawn | Look) for one in effects)
    assert state.current
    assert state.current.digest == "b"
    _, effects = happens(state, Elapsed(Timer(Clock.PROVEN, 2)))
    assert Keep(2) in effects


def test_a_crash_is_repaired_from_what_is_at_hand() -> None:
    """Nobody has asked, nobody serves: the last known good one is better than to wait for the disk once more."""
    state, effects = happens(serving(), Elapsed(Timer(Clock.SERVED, 1)), Exited(1, -11), late(2))
    assert Spawn(2, kept=True) in effects
    state, _ = happens(state, *answers(2))
    assert state.current
    assert (state.current.number, state.current.kept, state.current.digest) == (2, True, "a")

    # The disk can be read again: what it holds by now is a reload, or the end of the failure.
    _, effects = happens(state, Seen(Why.START, Disk("b"), 2))
    assert Look(Why.START, 3) in effects
    state, effects = happens(state, Seen(Why.START, Disk("a"), 2))
    assert [one.event for one in logged(effects)] == ["back"]
    assert state.current
    assert not state.current.kept


@pytest.mark.parametrize("event", [late(1), Seen(Why.START, HANGS, 1)], ids=["late", "given up"])
def test_a_first_start_is_from_the_disk_where_there_is_nothing_else(event: Event) -> None:
    """haproxy may be able to read what we are not."""
    _, effects = happens(begin(WATCHING), event)
    assert Spawn(1) in effects


def test_a_first_start_may_be_from_the_state_directory() -> None:
    """It has been read already when the disk hangs."""
    state, effects = happens(begin(WATCHING), Restored("a"), late(1))
    assert Spawn(1, kept=True) in effects
    state, _ = happens(state, *answers(1))
    assert state.current
    assert state.current.kept


def test_what_was_restored_is_older_than_what_was_found_good() -> None:
    """The state directory may hang for longer than the disk."""
    state, _ = happens(serving(), Restored("old"))
    assert state.kept == "a"


@pytest.mark.parametrize("event", [late(2, 1), Seen(Why.CANDIDATE, HANGS, 2)], ids=["late", "given up"])
def test_a_candidate_that_is_ready_does_not_wait_for_ever_for_a_second_look(event: Event) -> None:
    """It serves, with what it was given; a change in between is seen when the disk can be."""
    state, _ = happens(serving(), ReloadAsked(Request("a client", 7)), Seen(Why.START, Disk("b"), 2), *answers(2))
    assert state.current
    assert state.current.number == 1
    assert timers(state)[Timer(Clock.LOOK, 2, 1)] == LOOK_WITHIN
    state, effects = happens(state, event)
    assert [one.success for one in effects if isinstance(one, Reply)] == [True]
    assert state.current
    assert (state.current.number, state.current.digest) == (2, "b")


@pytest.mark.parametrize("quick", [False, True])
def test_a_stop_does_not_wait_for_a_look(quick: bool) -> None:
    """A candidate without a process is no reason to stay; whoever asked for it is told."""
    state, effects = happens(begin(WATCHING), StopAsked("somebody", quick))
    assert state.stage == Ended(0)
    state, effects = happens(serving(), ReloadAsked(Request("a client", 7)), StopAsked("somebody", quick))
    assert isinstance(state.stage, Stopping)
    assert [one.success for one in effects if isinstance(one, Reply)] == [False]
    state, _ = happens(state, Seen(Why.START, Disk("b"), 2), Exited(1, 0))
    assert isinstance(state.stage, Ended)


def test_a_disk_that_cannot_be_looked_at_is_looked_at_less_and_less_often() -> None:
    """It is said once; one look at a time is under way, and one that ends well is the end of it."""
    state, effects = happens(serving(), Seen(Why.SETTLED, HANGS))
    assert [one.event for one in logged(effects)] == ["unreadable"]
    delays = []
    for polls in range(MOST_POLL_DOUBLINGS + 3):
        timer = Timer(Clock.POLL, 0, polls)
        delays.append(timers(state)[timer])
        state, effects = happens(state, Elapsed(timer))
        assert effects == (Look(Why.POLLED),)
        assert not any(one.clock is Clock.POLL for one in timers(state))
        state, effects = happens(state, Seen(Why.POLLED, HANGS))
        assert effects == ()
    assert delays == [POLL, *(POLL * 2**n for n in range(MOST_POLL_DOUBLINGS)), *[POLL * 16] * 2]

    state, _ = happens(state, Elapsed(Timer(Clock.POLL, 0, state.polls)), Seen(Why.POLLED, Disk("b")))
    assert any(one.clock is Clock.QUIET for one in timers(state))
    state, effects = happens(state, Seen(Why.SETTLED, Disk("b")))
    assert Look(Why.START, 2) in effects


def test_a_failure_of_an_unknown_configuration_blames_no_content() -> None:
    """The content that was last read from the disk may be good."""
    state, _ = happens(serving(), ReloadAsked(Request("a client", 7)), late(2))
    state, effects = happens(state, Spawned(2, pid_of(2)), Exited(2, 1))
    assert [one.success for one in effects if isinstance(one, Reply)] == [False]
    assert state.failed == ""
    assert state.current
    assert state.current.number == 1
