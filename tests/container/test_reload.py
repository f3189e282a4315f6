"""The main job: haproxy is reloaded by a signal, and nobody notices."""

import subprocess
import sys
import time
from statistics import median

import pytest

from tests.container.conftest import Balancer, Start, configuration, every, result
from tests.waiting import eventually


def _alive(lb: Balancer) -> int:
    return len(lb.children())


def test_the_new_configuration_answers_after_an_edit_and_usr1(lb: Balancer) -> None:
    """`docker kill -s USR1` makes an edited configuration the one that serves; so do USR2 and HUP."""
    for number, name in enumerate(("USR1", "USR2", "HUP")):
        lb.edit(configuration(f"new {number}"))
        lb.kill(name)

        lb.serves(f"new {number}")
    eventually(lambda: _alive(lb) == 1)


def _reload_under_load(lb: Balancer, requests: int, milliseconds: int, clients: int) -> None:
    alive: list[int] = []

    def reload() -> None:
        lb.kill("USR1")
        alive.append(_alive(lb))

    for client in every(milliseconds, reload, lambda: lb.load(clients, requests), lambda: lb.reloads > 3):
        load = result(client)
        assert (load.complete, load.failed) == (requests, 0), load.text

    sys.stdout.write(f"{len(alive)} reloads asked for, {lb.reloads} done\n")
    lb.becomes("two")
    eventually(lambda: _alive(lb) == 1)
    # A candidate, the current one, one that drains. A client that is forgotten for a while keeps its generation.
    assert median(alive) <= 3, alive


def test_no_request_is_lost_under_a_reload_every_300_ms(lb: Balancer) -> None:
    """Contract 6.1, with 1,000 clients that connect anew for each request."""
    _reload_under_load(lb, 100_000, 300, 1000)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_no_request_of_a_million_is_lost_under_a_reload_every_300_ms(lb: Balancer) -> None:
    """The same with `ab -c 1000 -n 1000000`."""
    _reload_under_load(lb, 1_000_000, 300, 1000)


def _storm(lb: Balancer, seconds: float) -> None:
    end = time.monotonic() + seconds
    sent = 0

    def reload() -> None:
        nonlocal sent
        lb.kill("USR1")
        sent += 1

    for client in every(20, reload, lambda: lb.load(500, 20_000), lambda: sent > 20 and time.monotonic() > end):
        load = result(client)
        assert (load.complete, load.failed) == (20_000, 0), load.text

    sys.stdout.write(f"{sent} reloads asked for, {lb.reloads} done\n")
    eventually(lambda: _alive(lb) == 1)
    assert lb.get() == "one"


def test_no_request_is_lost_under_a_reload_every_20_ms(lb: Balancer) -> None:
    """Requests for a reload coalesce; no haproxy is left behind."""
    _storm(lb, 5)


@pytest.mark.long
def test_a_storm_of_half_a_minute_leaves_one_haproxy(lb: Balancer) -> None:
    """The same for 30 s."""
    _storm(lb, 30)


def test_a_draining_generation_costs_no_cpu(lb: Balancer) -> None:
    """An old generation, held by one long connection, sleeps through thousands of its successor's connections."""
    with lb.connect() as held:
        held.sendall(b"GET / HTTP/1.0\r\n")
        old = lb.children()[0]
        lb.becomes("two")
        eventually(lambda: "drains" in lb.log)
        new = next(pid for pid in lb.children() if pid != old)
        before = lb.cpu(old), lb.cpu(new)
        load = result(lb.load(50, 60_000))
        used_by_old, used_by_new = lb.cpu(old) - before[0], lb.cpu(new) - before[1]
        sys.stdout.write(f"CPU ticks: draining {used_by_old}, current {used_by_new}\n")

        assert load.failed == 0
        assert used_by_new > 50
        assert used_by_old < 0.05 * used_by_new, (used_by_old, used_by_new)
        held.sendall(b"\r\n")
        assert b"200 OK" in held.recv(4096)
    eventually(lambda: _alive(lb) == 1)


def test_keep_alive_clients_see_no_error(lb: Balancer) -> None:
    """With `option idle-close-on-response`, idle connections outlive reloads, too."""

    def load() -> subprocess.Popen[str]:
        return lb.inside("wrk", "-t1", "-c50", "-d5s", "--timeout", "60s", f"http://127.0.0.1:{lb.port}/")

    for client in every(300, lambda: lb.kill("USR1"), load, lambda: lb.reloads > 5):
        text = client.communicate()[0]
        assert "Requests/sec" in text
        assert "Socket errors" not in text, text


def test_a_new_process_takes_over_with_a_new_pid_file(start: Start, image: str) -> None:
    """The pid file names the current haproxy, always."""
    lb = start(image, options=("--pid-file", "/run/safe_reload/lb.pid")).begins("one")

    def named() -> str:
        text = lb.container.exec_run(["cat", "/run/safe_reload/lb.pid"]).output
        assert isinstance(text, bytes)
        return text.decode().strip()

    first = named()
    lb.becomes("two")

    assert first.isdigit()
    eventually(lambda: named() != first)
