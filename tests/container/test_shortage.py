"""Memory, descriptors or disk run out: PID 1 goes on, the VIPs stay open, and afterwards all is as before."""

import contextlib
import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.container.trouble import (
    Crowd,
    current,
    end,
    haproxies,
    inner_pid,
    inside,
    is_alone,
    nothing_leaked,
    reload,
    say,
    traces,
)
from tests.waiting import eventually

OFTEN = ("--restart-limit", "100000")


# ---- memory --------------------------------------------------------------------------------------------------------


GLUTTON = """
local function eat()
    local eaten = {}
    for number = 1, 100000 do eaten[number] = string.rep("x", 1048576) .. number end
end
"""
LIMIT = {"mem_limit": "192m", "memswap_limit": "192m"}


def test_a_candidate_that_needs_more_memory_than_there_is_changes_nothing(start: Start, image: str) -> None:
    """The kernel kills it; the reload has failed, the current generation goes on, and so does PID 1."""
    lb = start(image, **LIMIT).begins("one")
    before = lb.pid, haproxies(lb)
    (lb.folder / "eats.lua").write_text(GLUTTON + "eat()\n")
    with Crowd(lb, 500, 1) as crowd:
        lb.change(configuration("two", "global\n  lua-load /etc/lb/eats.lua\n"))
        eventually(lambda: "has failed" in lb.log, timeout=120)
    assert crowd.ends.failures == []
    assert (lb.pid, haproxies(lb)) == before
    assert lb.get() == "one"


def test_a_haproxy_that_eats_all_memory_is_replaced(start: Start) -> None:
    """The kernel kills the one that serves; the next one serves at once, PID 1 is the same."""
    lb = start(NEWEST_STABLE, options=OFTEN, vips="127.0.0.1:8080:FD_WEB,127.0.0.1:8081:FD_EAT", **LIMIT).begins("one")
    (lb.folder / "eats.lua").write_text(GLUTTON + 'core.register_service("eat", "http", eat)\n')
    more = "global\n  lua-load /etc/lb/eats.lua\n  tune.lua.forced-yield 0\n"
    more += (
        '  tune.lua.service-timeout 120s\nfrontend eats\n  bind "fd@${FD_EAT}"\n  http-request use-service lua.eat\n'
    )
    lb.edit(configuration("two", more))
    pid, old = lb.pid, reload(lb)
    with lb.connect(8081) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        eventually(lambda: old not in haproxies(lb), timeout=120)
    lb.serves("two")

    assert lb.pid == pid
    assert "was killed by SIGKILL, unasked" in lb.log


# ---- descriptors ---------------------------------------------------------------------------------------------------


@contextmanager
def _no_descriptor_left(pid: int) -> Iterator[None]:
    """Allow a process none but those that it has."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    first_free = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, limits[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_pid_1_without_a_descriptor_goes_on_and_reloads_when_it_has_one(lb: Balancer) -> None:
    """A reload that cannot be begun has failed, with a reason; the next one, with descriptors, is done."""
    before = traces(lb)
    with Crowd(lb, 500, 1) as crowd:
        with _no_descriptor_left(lb.pid):
            lb.change(configuration("two"))
            eventually(lambda: "has failed" in lb.log)
            assert lb.get() == "one"
        lb.kill("USR1")
        lb.serves("two")

    assert crowd.ends.failures == []
    assert "a bug in safe_reload" not in lb.log
    eventually(lambda: is_alone(lb))
    nothing_leaked(lb, before)


def test_a_death_while_pid_1_has_no_descriptor_is_made_good_for_later(start: Start) -> None:
    """No haproxy can be started: clients wait, PID 1 tries again, and nobody is refused."""
    lb = start(NEWEST_STABLE, options=OFTEN).begins("one")
    with Crowd(lb, 200, 1) as crowd:
        with _no_descriptor_left(lb.pid):
            death = end(current(lb))
            eventually(lambda: lb.log.count("was not started") >= 2)
        lb.serves("one")
    say(crowd.ends)
    assert crowd.ends.unexplained([death]) == []
    eventually(lambda: is_alone(lb))


def test_a_haproxy_without_a_descriptor_lets_its_clients_wait(lb: Balancer) -> None:
    """It accepts nobody; who waits is served when it can again, or by the next generation."""
    with _no_descriptor_left(current(lb)):
        clients = [lb.connect() for _ in range(50)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        reload(lb)
        answers = [client.recv(4096) for client in clients]
    for client in clients:
        client.close()
    assert all(b" 200 " in answer for answer in answers)


# ---- disk ----------------------------------------------------------------------------------------------------------


SMALL = {"tmpfs": {"/small": "size=64k,nr_inodes=16"}}
ADMIN = "global\n  stats socket /small/admin.sock\n"


@contextmanager
def _full(disk: Path) -> Iterator[None]:
    """Leave neither a byte nor an inode."""
    made: list[Path] = []
    try:
        while True:
            path = disk / f"fill{len(made)}"
            with path.open("wb", buffering=0) as file:
                made.append(path)
                while file.write(bytes(4096)):
                    pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    try:
        while True:
            path = disk / f"fill{len(made)}"
            path.touch()
            made.append(path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    try:
        yield
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def test_a_full_disk_stops_neither_reloads_nor_restarts(start: Start, image: str) -> None:
    """The pid file cannot be written: a line says so, and everything else is done; later it is written again."""
    lb = start(image, options=("--pid-file", "/small/lb.pid", *OFTEN), **SMALL).begins("one")
    with _full(inside(lb, "/small")), Crowd(lb, 200, 1) as crowd:
        lb.edit(configuration("two"))
        death = end(reload(lb))
        current(lb)
        lb.serves("two")
    lb.becomes("three")

    assert crowd.ends.unexplained([death]) == []
    assert "No space left on device" in lb.log
    assert "a bug in safe_reload" not in lb.log
    eventually(lambda: inside(lb, "/small/lb.pid").read_text() == f"{inner_pid(current(lb))}\n")


def test_a_configuration_with_a_socket_on_a_full_disk_changes_nothing(start: Start, image: str) -> None:
    """haproxy cannot bind its own stats socket: a failed reload with haproxy's message; later it works."""
    lb = start(image, **SMALL).begins("one")
    before = haproxies(lb)
    lb.edit(configuration("two", ADMIN))
    with _full(inside(lb, "/small")):
        lb.kill("USR1")
        eventually(lambda: "has failed" in lb.log)

        assert haproxies(lb) == before
        assert lb.get() == "one"
    assert "/small/admin.sock" in lb.log
    lb.kill("USR1")
    lb.serves("two")


@pytest.mark.parametrize("what", ["stdout", "stderr"])
def test_a_log_that_nobody_reads_does_not_stop_reloads(start: Start, what: str) -> None:
    """haproxy and PID 1 write to a pipe that is full for ever; reloads and restarts go on."""
    number = {"stdout": 1, "stderr": 2}[what]
    # The reader of the pipe never reads, and the pipe is full before safe_reload starts.
    fill = f"timeout 2 dd if=/dev/zero bs=4096 count=100 status=none >&{number}"
    script = f"exec {number}> >(exec sleep infinity); {fill}; exec safe_reload -f /etc/lb/haproxy.cfg"
    lb = start(NEWEST_STABLE, entrypoint="bash", operands=("-c", script)).serves("one")
    for mark in ("two", "three"):
        lb.becomes(mark)
