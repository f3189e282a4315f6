"""Storms of reloads and long lives: whatever number of them, PID 1 is as it was at the start."""

import os
import signal

import pytest

from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.container.trouble import Crowd, Traces, inside, is_alone, nothing_leaked, say, traces
from tests.waiting import eventually

IN_A_ROW = int(os.environ.get("TEST_RELOADS", "10000"))
STORM_SECONDS = float(os.environ.get("TEST_STORM_SECONDS", "600"))
WARM_UP = 100
"""So many reloads are made before memory is looked at first: until then the interpreter still grows."""


def test_a_thousand_signals_in_a_second_are_a_few_reloads(start: Start, image: str) -> None:
    """1,000 USR1: they coalesce, no connection fails, and what serves was read after the last one."""
    lb = start(image).begins("one")
    eventually(lambda: is_alone(lb))
    before = traces(lb)
    pid = lb.pid
    with Crowd(lb, 1000, 1) as crowd:
        for number in range(1000):
            if number == 999:
                lb.edit(configuration("two"))
            os.kill(pid, signal.SIGUSR1)
            if number % 20 == 0:
                crowd.goes_on_for(0.02)
        lb.serves("two")
    done = lb.log.count("is current; asked for by")
    say(f"{done} reloads; {crowd.ends}")

    assert crowd.ends.failures == []
    assert 0 < done < 500
    nothing_leaked(lb, before)


def _in_a_row(lb: Balancer, count: int) -> None:
    """Reload, each time after the last one is done."""
    pid = lb.pid
    pid_file = inside(lb, "/run/lb.pid")
    eventually(pid_file.exists)  # haproxy serves a moment before safe_reload knows
    for _ in range(count):
        old = pid_file.read_text()
        os.kill(pid, signal.SIGUSR1)
        eventually(lambda old=old: pid_file.read_text() != old)  # type: ignore[misc]


def _warm(start: Start, image: str) -> tuple[Balancer, Traces]:
    lb = start(image, options=("--pid-file", "/run/lb.pid")).begins("one")
    _in_a_row(lb, WARM_UP)
    eventually(lambda: is_alone(lb))
    return lb, traces(lb)


def test_reloads_in_a_row_leak_nothing(start: Start, image: str) -> None:
    """A hundred, after a hundred."""
    lb, before = _warm(start, image)
    _in_a_row(lb, 100)
    nothing_leaked(lb, before)


@pytest.mark.long
@pytest.mark.timeout(60 + IN_A_ROW)
def test_ten_thousand_reloads_in_a_row_leak_nothing(start: Start) -> None:
    """10,000, or TEST_RELOADS of them, under a little load: descriptors, memory, processes, threads."""
    lb, before = _warm(start, NEWEST_STABLE)
    with Crowd(lb, 100, 1) as crowd:
        _in_a_row(lb, IN_A_ROW)
    say(f"{IN_A_ROW} reloads; {crowd.ends}")
    assert crowd.ends.failures == []
    nothing_leaked(lb, before)


@pytest.mark.long
@pytest.mark.timeout(300 + 2 * STORM_SECONDS)
def test_a_reload_every_50_ms_for_ten_minutes_leaks_nothing(start: Start) -> None:
    """Asked for whether or not the last one is done, for TEST_STORM_SECONDS: as at the start afterwards."""
    lb, before = _warm(start, NEWEST_STABLE)
    pid = lb.pid
    with Crowd(lb, 500, 1) as crowd:
        for _ in range(int(STORM_SECONDS / 0.05)):
            os.kill(pid, signal.SIGUSR1)
            crowd.goes_on_for(0.05)
    lb.edit(configuration("two"))
    os.kill(pid, signal.SIGUSR1)
    lb.serves("two")
    say(f"{lb.log.count('is current; asked for by')} reloads; {crowd.ends}")

    assert crowd.ends.failures == []
    nothing_leaked(lb, before)
