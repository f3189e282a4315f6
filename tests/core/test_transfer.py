"""When a generation is asked for its ordinary listeners, how often, and when that is given up."""

import pytest

from entrypoint.core import lifecycle, transfer
from entrypoint.core.effects import Adopt, Effect
from entrypoint.core.events import Adopted, Answered, Clock, Elapsed, Event, Exited, NotAdopted, Timer
from entrypoint.core.state import State, Transfer, timers
from entrypoint.lean.record import replace
from tests.core.explorer import explore
from tests.core.world import ORDINARY, begin, listening, logged, pid_of, starts


def _serving() -> tuple[State, tuple[Effect, ...]]:
    state = starts(begin(ORDINARY), 1)
    return lifecycle.step(state, Answered(1, listening(pid_of(1))))


def _step(state: State, event: Event) -> tuple[State, list[Adopt], list[str]]:
    state, effects = lifecycle.step(state, event)
    return state, [one for one in effects if isinstance(one, Adopt)], [line.event for line in logged(effects)]


def test_a_generation_is_asked_last_of_all_that_follows_from_its_promotion() -> None:
    """Until the old one is paused it goes on answering with the configuration that was."""
    state, effects = _serving()

    assert effects[-1] == Adopt(1)
    assert state.transfer == Transfer()


@pytest.mark.parametrize("silent", [False, True])
def test_it_is_asked_six_times_and_the_last_time_any_answer_will_do(*, silent: bool) -> None:
    """Whether it hangs up each time, or does not answer within the time limit; and then it is said that it does not."""
    state, _ = _serving()
    asked: list[Adopt] = []
    for tries in range(transfer.MOST_TRIES + 1):
        waits = Timer(Clock.ADOPT, 1, tries)
        assert waits in timers(state)
        state, none, said = _step(state, Elapsed(waits) if silent else NotAdopted(1))
        assert not none
        if tries < transfer.MOST_TRIES:
            state, again, said = _step(state, Elapsed(Timer(Clock.ADOPT_AGAIN, 1, tries + 1)))
            asked += again
            assert not said

    assert asked == [*[Adopt(1)] * (transfer.MOST_TRIES - 1), Adopt(1, last=True)]
    assert said == ["not_adopted"]
    assert state.transfer is None


def test_an_answer_that_comes_after_its_time_is_an_answer() -> None:
    """Nobody is asked again for what is there."""
    state, _ = _serving()
    state, _, _ = _step(state, NotAdopted(1))
    state, _, _ = _step(state, Adopted(1))

    assert state.transfer is None


@pytest.mark.explores
def test_nobody_is_asked_but_the_current_generation() -> None:
    """Listeners of an older one are out of date, and one that is gone has none."""
    seen = 0
    for taken in explore(ORDINARY).transitions:
        for effect in taken.effects:
            if isinstance(effect, Adopt):
                seen += 1
                assert taken.after.current is not None
                assert taken.after.current.number == effect.number
                assert taken.after.transfer is not None
                assert taken.after.transfer.asked
        if not taken.after.current:
            assert taken.after.transfer is None, taken
    assert seen


@pytest.mark.explores
def test_what_others_say_ends_no_request() -> None:
    """An answer is about the generation that gave it."""
    seen = 0
    for state in explore(ORDINARY).states:
        if state.transfer and state.current:
            seen += 1
            for event in (Adopted(99), NotAdopted(99)):
                assert lifecycle.step(state, event) == (state, ())
            after, _ = lifecycle.step(state, Exited(state.current.number, 1))
            assert after.transfer is None
            assert replace(state, transfer=None) != state
    assert seen
