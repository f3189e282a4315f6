"""What haproxy can die of, and when: each death is named, and the VIPs stay open."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.container.gate import GATE, make_gate, open_gate, who_waits
from tests.container.trouble import Crowd, current, end, haproxies, is_alone, reload, say
from tests.waiting import eventually

OFTEN = ("--restart-limit", "100000")


# ---- of what -------------------------------------------------------------------------------------------------------


DEADLY = ("SIGINT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGSEGV", "SIGTERM", "SIGUSR1")
"""SIGUSR1 is haproxy's soft stop: it exits with 0, but nobody has asked safe_reload for it."""


@pytest.mark.parametrize("name", DEADLY)
def test_it_is_replaced_whatever_signal_has_ended_it(start: Start, name: str) -> None:
    """The death is logged as unasked, the next generation serves, nobody is refused."""
    lb = start(NEWEST_STABLE, options=OFTEN).begins("one")
    with Crowd(lb, 500, 1) as crowd:
        death = end(current(lb), signal.Signals[name])
        current(lb)
    say(name, crowd.ends)
    assert crowd.ends.unexplained([death]) == []
    assert lb.log.count(", unasked") == 1
    if name in {"SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS"}:
        assert f"was killed by {name}, unasked" in lb.log


DIES = """
core.register_service("die", "http", function(applet)
    os.exit(tonumber(applet.headers["x-status"][0]))
end)
"""


def test_it_is_replaced_whatever_status_it_has_ended_with(start: Start, image: str) -> None:
    """Statuses 0, 1, 7, 143 and 255, unasked, are deaths like any other."""
    lb = start(image, options=OFTEN, vips="127.0.0.1:8080:FD_WEB,127.0.0.1:8081:FD_DEATH").begins("one")
    (lb.folder / "dies.lua").write_text(DIES)
    more = 'global\n  lua-load /etc/lb/dies.lua\nfrontend death\n  bind "fd@${FD_DEATH}"\n'
    lb.edit(configuration("two", more + "  http-request use-service lua.die\n"))
    reload(lb)
    for status in (0, 1, 7, 143, 255):
        with lb.connect(8081) as client:
            client.sendall(b"GET / HTTP/1.0\r\nX-Status: %d\r\n\r\n" % status)
            assert _hears_nothing(client)
        eventually(lambda status=status: f"exited with status {status}, unasked" in lb.log)  # type: ignore[misc]
        current(lb)
        lb.serves("two")
    eventually(lambda: is_alone(lb))


def _hears_nothing(client: socket.socket) -> bool:
    try:
        return client.recv(4096) == b""
    except ConnectionResetError:
        return True


# ---- during a reload -----------------------------------------------------------------------------------------------


@contextmanager
def _a_candidate_that_waits(lb: Balancer) -> Iterator[tuple[int, int]]:
    """Have a reload to configuration "two" that does not get ready; give the pids of the current and the candidate."""
    old = current(lb)
    make_gate(lb)
    lb.change(configuration("two", GATE))
    candidate = who_waits(lb)
    yield old, candidate


def test_the_candidate_dies_during_a_reload(lb: Balancer) -> None:
    """The reload has failed, and the current generation goes on; no connection fails."""
    with _a_candidate_that_waits(lb) as (old, candidate), Crowd(lb, 500, 1) as crowd:
        end(candidate)
        eventually(lambda: "has failed" in lb.log)
    assert crowd.ends.failures == []
    assert haproxies(lb) == [old]
    assert "was killed by SIGKILL before it was ready; the reload asked for by SIGUSR1 has failed" in lb.log
    assert lb.get() == "one"


def test_the_current_one_dies_during_a_reload(lb: Balancer) -> None:
    """Clients wait for the candidate, or for somebody else; nobody is refused."""
    with _a_candidate_that_waits(lb) as (old, _), Crowd(lb, 500, 1) as crowd:
        death = end(old)
        crowd.goes_on_for(0.2)
        open_gate(lb)
        lb.serves("two")
    say(crowd.ends)
    assert crowd.ends.unexplained([death]) == []
    eventually(lambda: is_alone(lb))


@pytest.mark.parametrize("first", ["current", "candidate"])
def test_both_die_during_a_reload(start: Start, image: str, first: str) -> None:
    """Whichever dies first: what is on the disk serves in the end, and nobody is refused."""
    lb = start(image, watch="auto").begins("one")
    with _a_candidate_that_waits(lb) as (old, candidate), Crowd(lb, 500, 1) as crowd:
        lb.edit(configuration("three"))
        order = (old, candidate) if first == "current" else (candidate, old)
        deaths = [end(pid) for pid in order]
        lb.serves("three")
    say(crowd.ends)
    assert crowd.ends.unexplained(deaths) == []
    eventually(lambda: is_alone(lb))


def test_a_draining_one_dies(lb: Balancer) -> None:
    """Only its own connections die with it."""
    with lb.connect() as held, Crowd(lb, 500, 1) as crowd:
        held.sendall(b"GET / HTTP/1.0\r\n")
        old = current(lb)
        lb.becomes("two")
        eventually(lambda: "drains" in lb.log)
        death = end(old)
        assert _hears_nothing(held)
    assert crowd.ends.unexplained([death]) == []
    assert ", unasked" not in lb.log
    eventually(lambda: is_alone(lb))


# ---- while it stops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_one_that_dies_while_it_stops_is_not_replaced(lb: Balancer, name: str) -> None:
    """The stop was asked for: it is over, and its status is that of a stop."""
    with lb.connect() as held:
        held.sendall(b"GET / HTTP/1.0\r\n")
        pid = current(lb)
        lb.kill("TERM")
        eventually(lambda: "stopping gracefully" in lb.log)
        end(pid, signal.Signals[name])
        status = lb.container.wait(timeout=60)["StatusCode"]
    assert status == 0
    assert lb.log.count("is current") == 1
    assert f"was killed by {name}" in lb.log
