"""Nothing is waited for that may never come: whatever fails, QUIT is the end, and a death is followed by a start."""

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

import pytest

from entrypoint.core import lifecycle
from entrypoint.core.effects import (
    Adopt,
    Apply,
    Ask,
    AskCandidate,
    AskHandshakes,
    CloseVips,
    Effect,
    Listen,
    Look,
    Poke,
    ReadDatagrams,
    Rehearse,
    Send,
    Spawn,
    SpawnExporter,
    Upgrade,
    failure_of,
    lasting,
)
from entrypoint.core.events import Clock, Elapsed, Event, Exited, Signalled, Timer
from entrypoint.core.state import Candidate, Ended, State, Stopping, timers
from tests.core.explorer import explore
from tests.core.world import VARIANTS, owed, success_of

pytestmark = pytest.mark.explores

AWAITED = (Spawn, SpawnExporter, Look, Apply, Ask, AskHandshakes, AskCandidate, Adopt, Poke, Rehearse, Upgrade)
"""What the core, or who asked, waits for the answer of (core/events.py says which events answer which effects)."""
ENOUGH = 1000
"""Steps; no way to the end is nearly as long."""
STARTS = 2
"""A second one shows that there will always be another."""


@pytest.fixture(params=VARIANTS)
def states(request: pytest.FixtureRequest) -> list[State]:
    """Every reachable state, with each variant of the settings; of those that wait for the same, one."""
    return list({_waits_for(state): state for state in explore(VARIANTS[request.param]).states}.values())


def _waits_for(state: State) -> tuple[object, ...]:
    """Return all of a state but its names and digests: on these no timer, and no answer, depends."""
    generations = [
        (type(one.phase), one.pid is None, bool(one.binds), *map(bool, one.phase.__dict__.values()))
        for one in state.generations
    ]
    others = (bool(state.waiting), bool(state.torn), bool(state.kept), bool(state.settling), state.exporter)
    return type(state.stage), state.started, state.deaths, *generations, *others


def _fails(effect: Effect, _: State) -> Event | None:
    return failure_of(effect, "for this test")


def _is_lost(_: Effect, __: State) -> Event | None:
    return None


@dataclass
class Course:
    """What comes of a state where nobody asks for anything more."""

    state: State
    answer: Callable[[Effect, State], Event | None]
    """What becomes of an effect that somebody awaits the answer of."""
    kills: frozenset[int]
    """The signals that end a process: none where no signal is sent, or where the process cannot die."""
    now: float = 0.0
    events: list[Event] = field(default_factory=list)
    deadlines: dict[Timer, float] = field(default_factory=dict)
    starts: int = 0
    """How often the process of a generation was to be started."""
    elapsed: list[tuple[Timer, State]] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Let something happen, and set about what follows."""
        before = {one.number for one in self.state.generations}
        self.state, effects = lifecycle.step(self.state, event)
        for effect in effects:
            self.carry_out(effect)
        assert {one.number for one in self.state.generations} <= before | {self.state.last_number}
        running = timers(self.state)
        self.deadlines = {timer: self.deadlines.get(timer, self.now + running[timer]) for timer in running}

    def carry_out(self, effect: Effect) -> None:
        """Answer an effect, or let a signal have its effect."""
        if isinstance(effect, Send) and effect.signum in self.kills:
            self.events.append(Exited(effect.number, -effect.signum))
        self.starts += isinstance(effect, Spawn)
        if isinstance(effect, AWAITED):
            answer = self.answer(effect, self.state)
            if answer:
                self.events.append(answer)

    def has_ended(self) -> bool:
        """Tell whether safe_reload exits."""
        return isinstance(self.state.stage, Ended)

    def leads_to(self, goal: Callable[[], bool]) -> bool:
        """Tell whether it comes to this by itself."""
        return any(goal() or not self.go_on() for _ in range(ENOUGH)) and goal()

    def go_on(self) -> bool:
        """Take what happens next; False where nothing ever will."""
        if self.events:
            self.take(self.events.pop(0))
            return True
        timer = min(self.deadlines, key=lambda one: (self.deadlines[one], repr(one)), default=None)
        if timer is None or self.deadlines[timer] == math.inf:
            return False
        self.now = self.deadlines[timer]
        self.deadlines[timer] = math.inf
        self.elapsed.append((timer, self.state))
        self.take(Elapsed(timer))
        return True


def _course(
    state: State, event: Event, answer: Callable[[Effect, State], Event | None], kills: frozenset[int]
) -> Course:
    course = Course(state, answer, kills)
    for effect in owed(state):
        course.carry_out(effect)
    course.starts = 0
    running = timers(state)
    course.deadlines = dict(running)
    course.events.insert(0, event)
    return course


EVERY_WAY = frozenset({int(signal.SIGUSR1), int(signal.SIGTERM), int(signal.SIGKILL)})
STUBBORN = frozenset({int(signal.SIGKILL)})
NO_WAY: frozenset[int] = frozenset()
HARM = {
    "every effect fails, and processes die": (_fails, EVERY_WAY),
    "every effect fails, and only SIGKILL ends a process": (_fails, STUBBORN),
    "every effect succeeds, and no signal arrives": (success_of, NO_WAY),
    "every answer is lost, and every signal": (_is_lost, NO_WAY),
}


@pytest.mark.parametrize("harm", HARM)
def test_quit_is_the_end_from_every_state(states: list[State], harm: str) -> None:
    """Whatever fails, and whoever does not die."""
    for state in states:
        course = _course(state, Signalled(signal.SIGQUIT), *HARM[harm])
        assert course.leads_to(course.has_ended), (state, course.state)


@pytest.mark.parametrize("harm", HARM)
def test_a_death_is_followed_by_a_start_or_by_the_documented_end(states: list[State], harm: str) -> None:
    """Again and again, as long as nobody serves; and what fails with a word is never waited for in vain."""
    seen = 0
    for state in states:
        if not state.current:
            continue
        seen += 1
        dead = state.current.number
        course = _course(state, Exited(dead, -signal.SIGSEGV), *HARM[harm])
        is_replaced = partial(_is_replaced, course, dead)
        assert course.leads_to(is_replaced), (state, course.state)
        if HARM[harm][0] is _fails:
            assert not [one for one in course.elapsed if _stands_in(*one)], (state, course.elapsed)
    assert seen


def _is_replaced(course: Course, dead: int) -> bool:
    current, ends = course.state.current, isinstance(course.state.stage, Stopping | Ended)
    return ends or course.starts >= STARTS or bool(current and current.number != dead)


def _stands_in(timer: Timer, state: State) -> bool:
    """Tell whether a timer ran out that is there for what gets lost, and for nothing else."""
    generation = state.find(timer.number)
    unborn = generation is not None and generation.pid is None and isinstance(generation.phase, Candidate)
    return timer.clock is Clock.LOOK or (timer.clock is Clock.READY and unborn)


@pytest.mark.parametrize("kind", get_args(Effect), ids=lambda kind: kind.__name__)
def test_a_failed_effect_is_answered_if_somebody_waits(kind: type) -> None:
    """Every effect has its rule: an event, a retry, or nobody waits."""
    names = kind.__match_args__  # type: ignore[attr-defined]
    effect = kind(*(7 for _ in names))
    event = failure_of(effect, "it is broken")
    assert (event is not None) == (kind in AWAITED)
    if event and not isinstance(effect, Ask | AskHandshakes | AskCandidate | Adopt | Poke):
        assert "it is broken" in repr(event)
    if "number" in names and event and not isinstance(effect, Poke):
        assert event.number == 7  # type: ignore[union-attr]
    assert event is None or lasting(effect) is None


@pytest.mark.parametrize("kind", [Listen, ReadDatagrams, CloseVips])
def test_where_clients_arrive_is_put_right_until_it_is(kind: type) -> None:
    """A later one replaces one that has failed."""
    names = kind.__match_args__  # type: ignore[attr-defined]
    assert lasting(kind(*(7 for _ in names))) is lasting(kind(*(8 for _ in names))) is kind
