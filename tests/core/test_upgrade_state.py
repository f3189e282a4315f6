"""What one life leaves to the next: every state in which an upgrade is allowed, whole."""

import marshal

import pytest

from entrypoint.core import lifecycle
from entrypoint.core.effects import Rehearse, Reply, Upgrade
from entrypoint.core.events import Rehearsed, UpgradeAsked
from entrypoint.core.state import Current, Draining, Ended, Ending, Serving, State
from entrypoint.core.upgrade_state import UpgradeStateError, as_plain, parse, restore, serialize
from entrypoint.lean.record import replace
from tests.core.explorer import explore
from tests.core.world import CLIENTS, settings
from tests.upgrades import NOTHING

pytestmark = pytest.mark.explores


@pytest.fixture
def states() -> set[State]:
    """Every reachable state."""
    return explore(CLIENTS).states


def at_rest(states: set[State]) -> list[State]:
    """Return those states in which an upgrade may begin."""
    return [state for state in states if Rehearse(7) in lifecycle.step(state, UpgradeAsked(7))[1]]


def test_an_upgrade_begins_only_when_nothing_is_under_way(states: set[State]) -> None:
    """While a generation starts or leaves, or safe_reload stops, whoever asks is told to try again."""
    allowed = at_rest(states)
    assert allowed
    for state in states:
        _, effects = lifecycle.step(state, UpgradeAsked(7))
        rests = isinstance(state.stage, Serving) and state.current and not (state.candidate or state.retiring)
        assert (Rehearse(7) in effects) == bool(rests), state
        if not rests and not isinstance(state.stage, Ended):
            (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
            assert reply.client == 7
            assert not reply.success
            assert "try again" in reply.message


def test_a_failed_rehearsal_changes_nothing_and_is_reported(states: set[State]) -> None:
    """The old program goes on, and the client gets the new program's error."""
    for state in at_rest(states)[:50]:
        after, effects = lifecycle.step(state, Rehearsed(7, "it exited with status 1: no such option"))
        assert after == state
        assert not any(isinstance(effect, Upgrade) for effect in effects)
        (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
        assert "no such option" in reply.message


def test_what_began_during_the_rehearsal_is_not_lost(states: set[State]) -> None:
    """The upgrade itself happens only if there is still nothing under way."""
    for state in states:
        _, effects = lifecycle.step(state, Rehearsed(7))
        assert (Upgrade(7) in effects) == (Rehearse(7) in lifecycle.step(state, UpgradeAsked(7))[1])


def test_the_new_program_continues_from_the_same_state(states: set[State]) -> None:
    """Every generation with its phase, pid and listeners, and every counter survives as plain values."""
    phases = set()
    found = at_rest(states)
    old = next(one for state in found for one in state.generations if isinstance(one.phase, Draining))
    found += [state.update(replace(old, phase=Ending())) for state in found if old in state.generations]
    for state in found:
        left = marshal.loads(marshal.dumps(serialize(state), 2))
        after = restore(state.settings, left)
        phases |= {type(one.phase) for one in after.generations}
        # Timers begin anew, what was looked at is looked at again, and a shortage that is not over is met again.
        expected = replace(
            state,
            generations=after.generations,
            disk=after.disk,
            settling=0,
            polls=0,
            shortages=0,
            deaths=min(state.deaths, state.settings.restart_limit - 1),
        )
        assert after == expected
        for was, new in zip(state.generations, after.generations, strict=True):
            assert (new.number, new.pid, new.binds, new.digest, new.kept, type(new.phase)) == (
                was.number,
                was.pid,
                was.binds,
                was.digest,
                was.kept,
                type(was.phase),
            )
    assert phases == {Current, Draining, Ending}


@pytest.mark.parametrize("damage", ["generations", "vips", "last_number"])
def test_what_cannot_be_read_is_refused(states: set[State], damage: str) -> None:
    """A program that does not understand what was left says so instead of starting with half of it."""
    left = serialize(at_rest(states)[0])
    del left[damage]
    with pytest.raises(UpgradeStateError, match="cannot be read"):
        restore(settings(), left)
    with pytest.raises(UpgradeStateError):
        restore(settings(), {**left, damage: "x"})


def test_a_state_without_a_current_generation_cannot_be_restored() -> None:
    """There is nothing to continue with."""
    with pytest.raises(UpgradeStateError, match="no current generation"):
        restore(settings(), serialize(State(settings())))


def test_what_is_left_is_parsed_whole_before_anything_is_built() -> None:
    """A value that is missing, or that nobody knows, is named; another version's format is refused."""
    plain = as_plain(NOTHING)
    assert parse(marshal.loads(marshal.dumps(plain, 2))) == parse(plain)
    for name in {*plain} - {"format"}:
        with pytest.raises(UpgradeStateError, match=name):
            parse({key: value for key, value in plain.items() if key != name})
    with pytest.raises(UpgradeStateError, match="because of more"):
        parse({**plain, "more": 1})
    others: list[object] = [{**plain, "format": 2}, {}, None, []]
    for other in others:
        with pytest.raises(UpgradeStateError, match="another format"):
            parse(other)
