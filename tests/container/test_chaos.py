"""Chaos under load: whatever is done to it, the VIPs refuse nobody, and in the end all is as it was."""

import itertools
import os
import random
import signal
import time

import pytest

from tests.container.chaos import ACTIONS, DISK, Ground, Step, steps
from tests.container.conftest import NEWEST_STABLE, Balancer, Start
from tests.container.trouble import Crowd, haproxies, is_alone, nothing_leaked, say, traces
from tests.waiting import eventually

SECONDS = float(os.environ.get("CHAOS_SECONDS") or (60 if os.environ.get("CI") else 30))
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(2**32))
RATE = 500
WARM_UP = 50


def test_a_seed_is_a_sequence_of_actions() -> None:
    """The same seed gives the same actions, another one others, and each action comes."""
    first = list(itertools.islice(steps(1), 500))
    assert first == list(itertools.islice(steps(1), 500))
    assert first != list(itertools.islice(steps(2), 500))
    assert {step.name for step in first} == set(ACTIONS)


def _outcomes(lb: Balancer) -> int:
    """Return how many reloads have ended."""
    return lb.log.count(" is current") + lb.log.count("has failed")


def _wait_for_more(lb: Balancer, outcomes: int) -> None:
    eventually(lambda: _outcomes(lb) > outcomes)


@pytest.mark.timeout(SECONDS + 600)
def test_chaos(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """CHAOS_SECONDS of it, from CHAOS_SEED: no refusal, no reset in a queue, no leak, one PID 1, the newest serves."""
    with capsys.disabled():
        say(f"\nchaos: CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}")
    options = ("--restart-limit", "100000", "--max-draining", "100", "--pid-file", f"{DISK}/lb.pid")
    lb = start(NEWEST_STABLE, options=options, watch="auto", tmpfs={DISK: "size=64k,nr_inodes=32"}).begins("one")
    ground = Ground(lb, lb.pid)
    for number in range(WARM_UP):
        ground.good(f"warm-up {number}")
        lb.kill("USR1")
        lb.serves(f"warm-up {number}")
    # What is only done now and then loads code and grows the heap once: that is no leak.
    for name in ("a bad configuration", "a huge configuration"):
        before_it = _outcomes(lb)
        ACTIONS[name][0](ground, Step(name, 0.99, 1, 0.0))
        _wait_for_more(lb, before_it)
    ground.good("warm")
    lb.kill("USR1")
    lb.serves("warm")
    eventually(lambda: is_alone(lb))
    before = traces(lb)
    done: list[Step] = []
    try:
        with Crowd(lb, RATE, 1, patience=200) as crowd:
            _harm(ground, crowd, done)
            ground.good("the end")
            os.kill(ground.pid, signal.SIGUSR1)
            lb.serves("the end")
        with capsys.disabled():
            say(f"chaos: {len(done)} actions, {len(ground.deaths)} deaths; {crowd.ends}")

        assert crowd.ends.refused == 0
        assert crowd.ends.unexplained(ground.deaths) == []
        eventually(lambda: is_alone(lb))
        assert lb.get() == "the end"
        assert "a bug in safe_reload" not in lb.log
        nothing_leaked(lb, before)
    except BaseException as error:
        error.add_note(f"again with CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}")
        with capsys.disabled():
            say("\nchaos: failed; the last actions were:")
            for step in done[-30:]:
                say(f"  {step}")
            say(*lb.log.splitlines()[-100:], f"haproxies: {haproxies(lb)}")
        raise


def _harm(ground: Ground, crowd: Crowd, done: list[Step]) -> None:
    """Do what the seed says until the time is over, then undo it."""
    over = time.monotonic() + SECONDS
    try:
        for step in steps(SEED):
            if time.monotonic() > over:
                return
            done.append(step)
            ACTIONS[step.name][0](ground, step)
            crowd.goes_on_for(step.pause)
            ground.time_passes()
    finally:
        ground.undo_all()
