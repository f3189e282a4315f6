"""The haproxy that served before safe_reload was there: it leaves when somebody else serves, and not before."""

import os
import signal
from pathlib import Path

import pytest

from tests.connections import http_get
from tests.container import client
from tests.container.conftest import Balancer, Start, configuration
from tests.container.trouble import Crowd, halt, haproxies, inner_pid, inside
from tests.waiting import eventually

PID_FILE = "/run/lb.pid"
BEFORE = f"haproxy -D -p {PID_FILE} -f /etc/lb/before.cfg"
AFTER = f"exec safe_reload --pid-file {PID_FILE} -f /etc/lb/haproxy.cfg"
ADDRESS = "127.0.0.1:8080"
MIGRATE = {"net.ipv4.tcp_migrate_req": "1"}
"""What moves who waits in the old haproxy's own queue to our socket; without it the kernel resets them."""


def begin(start: Start, image: str, before: str, prepare: str = ":") -> Balancer:
    """Start a shell as PID 1 that starts a haproxy, prepares, waits for a word, and becomes safe_reload."""
    script = f"mkfifo /tmp/go; cat > /etc/before.cfg <<E\n{before}\nE\n{BEFORE.replace('/etc/lb/', '/etc/')}\n"
    script += f"{prepare}\nread word < /tmp/go\n{AFTER}"
    return start(image, entrypoint=["sh", "-c", script], operands=(), text=configuration("after"), sysctls=MIGRATE)


def go(lb: Balancer) -> None:
    """Have the shell become safe_reload."""
    lb.sh("echo > /tmp/go")


def before(bind: str) -> str:
    """Return the configuration of the haproxy that was there."""
    return configuration("before").replace('"fd@${FD_WEB}"', bind)


def daemons(lb: Balancer) -> list[str]:
    """Return the words of every haproxy in the container that is a daemon."""
    return [word for word in lb.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").split() if word == "-D"]


def daemon(lb: Balancer) -> int:
    """Wait until the haproxy that the pid file names is on its own; return its pid."""
    named = eventually(inside(lb, PID_FILE).read_text)
    return eventually(lambda: next((pid for pid in haproxies(lb) if inner_pid(pid) == int(named)), 0))


def test_the_predecessor_is_told_to_leave_when_the_first_generation_serves(start: Start, image: str) -> None:
    """Under load: nobody is refused, late or cut off, and the pid file is ours afterwards.

    Reset may be whose handshake ends while the old one closes; who waits is the next test's matter.
    """
    lb = begin(start, image, before(ADDRESS))
    lb.serves("before")
    with Crowd(lb, 500, 1) as crowd:
        go(lb)
        lb.serves("after")
        eventually(lambda: "is told to leave" in lb.log)
        eventually(lambda: len(lb.children()) == 1)

    assert {kind for kind, *_ in crowd.ends.failures} <= {client.RESET_UNSENT, client.RESET_SENT}
    assert lb.get() == "after"
    assert inside(lb, PID_FILE).read_text().strip().isdigit()


def test_clients_in_the_predecessor_s_queue_are_answered_where_requests_migrate(start: Start, image: str) -> None:
    """By either one. No client connects meanwhile: the kernel cannot move a handshake that ends while it closes."""
    lb = begin(start, image, before(ADDRESS))
    lb.serves("before")
    old = daemon(lb)
    halt(old)
    clients = [lb.connect() for _ in range(20)]
    eventually(lambda: lb.in_queues() == len(clients))
    go(lb)
    eventually(lambda: "is told to leave" in lb.log)
    os.kill(old, signal.SIGCONT)
    assert {http_get(one)[1] for one in clients} <= {"before", "after"}


@pytest.mark.parametrize("bind", ["127.0.0.2:8080", "127.0.0.1:8081"], ids=["another address", "another port"])
def test_a_haproxy_that_serves_something_else_is_not_signalled(start: Start, image: str, bind: str) -> None:
    """The pid file is stale then."""
    lb = begin(start, image, before(bind))
    eventually(lambda: daemons(lb))
    go(lb)
    lb.serves("after")
    assert "told to leave" not in lb.log
    assert daemons(lb)


def test_a_reused_pid_is_not_signalled(start: Start, image: str) -> None:
    """Neither a program that is no haproxy, nor a haproxy that the file does not name."""
    lb = begin(start, image, before(ADDRESS), f"sleep 1000 & echo $! > {PID_FILE}")
    lb.serves("before")
    go(lb)
    eventually(lambda: "is current" in lb.log)
    assert "told to leave" not in lb.log
    assert daemons(lb)
    assert "sleep" in {Path(f"/proc/{pid}/comm").read_text().strip() for pid in lb.children()}
