"""haproxy is killed under load: only what is in flight in it fails (contract 6.4)."""

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from tests.container.conftest import IMAGES, NEWEST_STABLE, Balancer, Start
from tests.container.trouble import (
    ORDINARY,
    Crowd,
    Death,
    Ends,
    current,
    end,
    halt,
    haproxies,
    is_alone,
    name_of,
    reload,
    say,
)
from tests.waiting import eventually

OFTEN = ("--restart-limit", "100000")
A_SECOND = 1.1
"""A generation that has served for a second is replaced at once; one that dies before, ever later."""


# ---- under load ----------------------------------------------------------------------------------------------------


def _killed_every_second(lb: Balancer, seconds: int, rate: int) -> tuple[Ends, list[Death]]:
    deaths = []
    with Crowd(lb, rate) as crowd:
        for _ in range(seconds):
            victim = current(lb)
            crowd.goes_on_for(A_SECOND)
            deaths.append(end(victim))
        current(lb)
        crowd.goes_on_for(A_SECOND)
    return crowd.ends, deaths


def _nobody_was_refused(ends: Ends, deaths: list[Death]) -> None:
    say(f"{len(deaths)} deaths; {ends}")

    assert ends.refused == 0
    assert ends.unexplained(deaths) == []
    assert ends.ok > 0
    say(f"{len(ends.failures)} requests were in flight in a haproxy that was killed")


def test_only_what_is_in_flight_dies_with_a_haproxy_that_is_killed_every_second(start: Start, image: str) -> None:
    """kill -9 every second for 6 s at 5,000 connections a second: nobody is refused, nobody reset in the queue."""
    lb = start(image, options=OFTEN).begins("one")
    _nobody_was_refused(*_killed_every_second(lb, 6, 5000))
    eventually(lambda: is_alone(lb))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_minute_of_deaths_beside_haproxy_s_own_master(start: Start, image: str) -> None:
    """The same for 60 s; and for comparison `haproxy -W` under tini, restarted at once, which refuses connections."""
    lb = start(image, options=OFTEN).begins("one")
    ends, deaths = _killed_every_second(lb, 60, 5000)
    lb.container.kill()
    beside = _beside(start, image)
    others, other_deaths = _master_s_workers_killed(beside, 60, 5000)
    say(f"safe_reload: {len(deaths)} deaths; {ends}")
    say(f"haproxy -W:  {len(other_deaths)} deaths; {others}")
    _nobody_was_refused(ends, deaths)
    assert others.refused > 0


def test_a_few_deaths_beside_haproxy_s_own_master(start: Start) -> None:
    """The comparison for 5 s: `haproxy -W` refuses connections where we refuse none."""
    lb = start(NEWEST_STABLE, options=OFTEN).begins("one")
    ends, deaths = _killed_every_second(lb, 5, 2000)
    lb.container.kill()
    others, other_deaths = _master_s_workers_killed(_beside(start, NEWEST_STABLE), 5, 2000)
    say(f"safe_reload: {len(deaths)} deaths; {ends}")
    say(f"haproxy -W:  {len(other_deaths)} deaths; {others}")
    _nobody_was_refused(ends, deaths)
    assert others.refused > 0


def _beside(start: Start, image: str) -> Balancer:
    """Start haproxy's own master under tini (`docker run --init`), started again whenever it ends."""
    loop = "while :; do haproxy -W -f /etc/lb/haproxy.cfg; done"
    return start(
        image, entrypoint="sh", operands=("-c", loop), text=ORDINARY.replace("MARK", "one"), init=True, vips=""
    ).serves("one")


def _worker(lb: Balancer) -> int:
    """Wait for a worker of haproxy's master; return its pid."""

    def found() -> int:
        for shell in lb.children():
            for master in _children(shell):
                for worker in _children(master):
                    if name_of(worker) == "haproxy":
                        return worker
        return 0

    return eventually(found)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _master_s_workers_killed(lb: Balancer, seconds: int, rate: int) -> tuple[Ends, list[Death]]:
    deaths = []
    with Crowd(lb, rate) as crowd:
        for _ in range(seconds):
            crowd.goes_on_for(1)
            deaths.append(end(_worker(lb)))
        crowd.goes_on_for(1)
    return crowd.ends, deaths


def test_clients_that_nobody_has_accepted_yet_are_all_served_after_a_death(start: Start, image: str) -> None:
    """A thousand connections wait in the queue while haproxy is stopped; it is killed; all of them get an answer."""
    lb = start(image).begins("one")
    pid = current(lb)
    halt(pid)
    clients = [lb.connect() for _ in range(1000)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    end(pid)
    answers = [client.recv(4096) for client in clients]
    for client in clients:
        client.close()

    assert sum(b" 200 " in answer for answer in answers) == 1000


def test_a_candidate_that_is_killed_at_any_time_closes_no_vip(start: Start, image: str) -> None:
    """Also while it says what it listens on: half of that answer is not taken for all of it."""
    lb = start(image, options=OFTEN).begins("one")
    order = random.Random(1)
    pid = lb.pid
    deaths = []
    with Crowd(lb, 500, 1) as crowd:
        for _ in range(150):
            before = set(haproxies(lb))
            os.kill(pid, signal.SIGUSR1)
            candidate = eventually(lambda: next(iter(set(haproxies(lb)) - before), 0))  # noqa: B023  # called before the loop goes on
            crowd.goes_on_for(order.uniform(0.0, 0.03))
            with contextlib.suppress(ProcessLookupError):
                deaths.append(end(candidate))
        reload(lb)
    say(f"{len(deaths)} deaths; {crowd.ends}")

    assert crowd.ends.refused == 0
    assert crowd.ends.unexplained(deaths) == []


@pytest.mark.parametrize("version", ["3.0", "3.2"])
@pytest.mark.parametrize(
    "seconds", [6, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(600)])], ids=["6 s", "a minute"]
)
def test_an_ordinary_configuration_refuses_nobody_either(start: Start, version: str, seconds: int) -> None:
    """Contract 6.8: `bind :8080`, kill -9 every second at 5,000 connections a second."""
    lb = start(IMAGES[version], options=OFTEN, text=ORDINARY.replace("MARK", "one"), vips="").begins("one")
    _nobody_was_refused(*_killed_every_second(lb, seconds, 5000))
    eventually(lambda: is_alone(lb))
