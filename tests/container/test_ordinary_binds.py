"""Ordinary `bind` lines of unmodified configurations: what VIPs have, they have too; docs/ordinary-binds.md."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.connections import http_get
from tests.container.conftest import ANSWER, HEAD, IMAGES, IPV6, Balancer, Start, every, result
from tests.container.trouble import current, end, halt
from tests.descriptors import sockets
from tests.waiting import eventually

OFTEN = ("--restart-limit", "100")

BINDS = {
    "tcp": "bind 127.0.0.1:8080",
    "any address": "bind :8080",
    "both families": "bind [::]:8080 v4v6",
    "several addresses": "bind 127.0.0.2:8080,127.0.0.1:8080",
    "a port range": "bind 127.0.0.1:8080-8089",
    "shards": "bind 127.0.0.1:8080 shards 2",
    "shards by-thread": "bind 127.0.0.1:8080 shards by-thread",
    "one thread": "bind 127.0.0.1:8080 thread 1",
    "an interface": "bind 127.0.0.1:8080 interface lo",
    "socket options": "bind 127.0.0.1:8080 defer-accept mss 1400 tfo backlog 200",
    "among others": "bind unix@/run/x.sock\n    bind abns@x\n    bind 127.0.0.1:8080",
}


def ordinary(mark: str, bind: str = BINDS["tcp"], more: str = "") -> str:
    """Return a configuration without a VIP."""
    return f"{HEAD}frontend web\n    {bind}\n{ANSWER.replace('MARK', mark)}{more}"


def begin(start: Start, image: str, text: str, *, migrate: bool = False, **more: object) -> Balancer:
    """Start a container without VIPs that serves, and wait until safe_reload holds what its haproxy listens on."""
    sysctls = {**IPV6, "net.ipv4.tcp_migrate_req": "1"} if migrate else IPV6
    lb = start(image, text=text, vips="", sysctls=sysctls, **more)
    eventually(lambda: adopted(lb))
    return lb


def listening(lb: Balancer) -> set[str]:
    """Return the inodes of all TCP sockets that listen."""
    table = Path(f"/proc/{lb.pid}/net/tcp").read_text() + Path(f"/proc/{lb.pid}/net/tcp6").read_text()
    rows = (line.split() for line in table.splitlines() if ":" in line)
    return {row[9] for row in rows if row[3] == "0A"}


def ports(lb: Balancer) -> set[int]:
    """Return the ports that anybody listens on."""
    table = Path(f"/proc/{lb.pid}/net/tcp").read_text() + Path(f"/proc/{lb.pid}/net/tcp6").read_text()
    rows = (line.split() for line in table.splitlines() if ":" in line)
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


def adopted(lb: Balancer) -> bool:
    """Tell whether PID 1 has every listening socket."""
    return bool(listening(lb)) and listening(lb) <= sockets(lb.pid)


def reload(lb: Balancer) -> Callable[[], None]:
    """Return a function that reloads."""
    return lambda: lb.kill("USR1")


def under_reloads(lb: Balancer, load: Callable[[], subprocess.Popen[str]]) -> None:
    """Put load on it while it is reloaded, and see no request fail."""
    before = lb.reloads
    for client in every(200, reload(lb), load, lambda: lb.reloads > before):
        assert result(client).failed == 0


@pytest.mark.parametrize("bind", BINDS.values(), ids=BINDS)
def test_a_reload_loses_no_connection(start: Start, image: str, bind: str) -> None:
    """Under load, whatever the `bind` says, and the sockets stay the same."""
    lb = begin(start, image, ordinary("one", bind))
    before = listening(lb)
    under_reloads(lb, lambda: lb.load(50, 10_000))
    assert listening(lb) == before


@pytest.mark.parametrize("bind", BINDS.values(), ids=BINDS)
def test_a_crash_refuses_nobody(start: Start, image: str, bind: str) -> None:
    """The socket is held, so clients wait in its queue until the next haproxy accepts them, however early it dies."""
    lb = begin(start, image, ordinary("one", bind), options=OFTEN)
    before = listening(lb)
    for _ in range(3):
        end(lb.children()[-1])
        assert lb.get() == "one"
    assert listening(lb) == before


def test_one_ipv6_address_is_kept_if_its_bind_says_v6only(start: Start, image: str) -> None:
    """Without the word haproxy does not recognise its own socket, and binds another one."""
    lb = begin(start, image, ordinary("one", "bind [::1]:8080 v6only"), options=OFTEN)
    before = listening(lb)
    assert f"without v6only in its `bind` each generation binds its own instead: [::1]:{lb.port}" in lb.log
    end(current(lb))
    assert http_get(connect_6(lb))[1] == "one"
    under_reloads(lb, lambda: load_6(lb))
    assert listening(lb) == before


@pytest.mark.parametrize("by", ["reload", "crash"])
def test_one_ipv6_address_without_v6only_moves_its_queue_where_requests_migrate(
    start: Start, image: str, by: str
) -> None:
    """With net.ipv4.tcp_migrate_req=1 who waits in the old socket is answered from the new one.

    Nobody connects meanwhile: the kernel cannot move a handshake that ends while the socket closes.
    """
    lb = begin(start, image, ordinary("one", "bind [::1]:8080"), migrate=True, options=OFTEN)
    before = listening(lb)
    old = current(lb)
    halt(old)
    clients = [connect_6(lb) for _ in range(20)]
    eventually(lambda: lb.in_queues() == len(clients))
    if by == "reload":
        lb.kill("USR1")
        eventually(lambda: lb.reloads == 1)
        os.kill(old, signal.SIGCONT)
    else:
        end(old)

    assert [http_get(client)[1] for client in clients] == ["one"] * len(clients)
    eventually(lambda: listening(lb) and not listening(lb) & before)


def connect_6(lb: Balancer) -> socket.socket:
    """Connect to the port of ::1."""
    with lb.network():
        return socket.create_connection(("::1", lb.port), timeout=30)


def load_6(lb: Balancer) -> subprocess.Popen[str]:
    """Put load on the port of ::1."""
    return lb.inside("ab", "-q", "-s", "60", "-c", "50", "-n", "10000", f"http://[::1]:{lb.port}/")


def test_a_reload_changes_what_is_bound(start: Start, image: str) -> None:
    """A new address is served and kept, one that is gone is refused and let go of."""
    lb = begin(start, image, ordinary("one"))
    lb.change(ordinary("two", "bind 127.0.0.1:8081"))
    eventually(lambda: ports(lb) == {8081})
    eventually(lambda: adopted(lb))
    assert _get(lb, 8080) is None


def test_a_reload_that_takes_an_address_away_loses_nobody_on_the_others(start: Start, image: str) -> None:
    """One of two addresses comes and goes under load on the other."""
    both = "bind 127.0.0.1:8080\n    bind 127.0.0.1:8081"
    lb = begin(start, image, ordinary("one", both))
    texts = [ordinary("one"), ordinary("one", both)]

    def change() -> None:
        lb.edit(texts[0])
        texts.reverse()
        lb.kill("USR1")

    for client in every(300, change, lambda: lb.load(50, 10_000), lambda: lb.reloads > 1):
        assert result(client).failed == 0


def test_a_refused_candidate_does_no_harm(start: Start, image: str) -> None:
    """It takes the sockets over and fails: the current generation and its clients do not notice."""
    lb = begin(start, image, ordinary("one"))
    eventually(lambda: adopted(lb))
    before = listening(lb)
    lb.edit(ordinary("two", more="global\n    chroot /nowhere\n"))
    for client in every(200, reload(lb), lambda: lb.load(50, 10_000), lambda: "has failed" in lb.log):
        assert result(client).failed == 0
    assert listening(lb) == before
    assert lb.get() == "one"


MIXED = ordinary("one", 'bind "fd@${FD_VIP}"\n    bind 127.0.0.1:8080')


def test_a_vip_and_an_ordinary_bind_in_one_frontend(start: Start, image: str) -> None:
    """Both lose nothing under reloads and deaths, and both sockets stay the same."""
    lb = start(image, text=MIXED, vips="127.0.0.1:8090:FD_VIP", options=OFTEN).begins("one")
    eventually(lambda: adopted(lb))
    before = listening(lb)
    for port in (8080, 8090):
        words = ("ab", "-q", "-s", "60", "-c", "50", "-n", "10000", f"http://127.0.0.1:{port}/")
        under_reloads(lb, partial(lb.inside, *words))
    for port in (8080, 8090):
        end(current(lb))
        assert lb.get(port) == "one"
    assert listening(lb) == before


KINDS = {"ordinary": (ordinary("one"), ""), "mixed": (MIXED, "127.0.0.1:8090:FD_VIP")}


def cost_of_draining(start: Start, image: str, kind: str) -> tuple[int, int]:
    """Return the CPU ticks of a draining generation and of its successor while 20,000 clients come."""
    text, vips = KINDS[kind]
    lb = start(image, text=text, vips=vips)
    old = current(lb)
    eventually(lambda: adopted(lb))
    with lb.connect() as held:
        held.sendall(b"GET / HTTP/1.1\r\n")
        lb.kill("USR1")
        eventually(lambda: "drains" in lb.log)
        new = current(lb)
        before = lb.cpu(old), lb.cpu(new)
        for port in (8080, 8090) if vips else (8080, 8080):
            words = ("ab", "-q", "-s", "60", "-c", "50", "-n", "10000", f"http://127.0.0.1:{port}/")
            assert result(lb.inside(*words)).failed == 0
        return lb.cpu(old) - before[0], lb.cpu(new) - before[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_a_generation_that_drains_costs_nothing(start: Start, version: str, kind: str) -> None:
    """Its successor's clients do not wake it up."""
    old, new = cost_of_draining(start, IMAGES[version], kind)
    assert new > 20
    assert old <= max(2, 0.05 * new)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generation_of_2_6_that_drains_loses_nobody(start: Start, kind: str) -> None:
    """It wakes up for its successor's clients, which costs CPU, and takes none of them."""
    _, new = cost_of_draining(start, IMAGES["2.6"], kind)
    assert new > 2


def test_three_hundred_sockets_are_kept(start: Start, image: str) -> None:
    """More than one message can carry."""
    lb = begin(start, image, ordinary("one", "bind 127.0.0.1:8080-8379"))
    before = listening(lb)
    end(current(lb))
    assert lb.get(8379) == "one"
    assert lb.get() == "one"
    assert len(before) == 300
    assert listening(lb) == before


def test_a_unix_socket_keeps_its_path(start: Start, image: str) -> None:
    """Through reload and crash it is the same file; once somebody removed it a reload makes a new one."""
    lb = begin(start, image, ordinary("one", BINDS["among others"]))
    inode = lb.sh("stat -c %i /run/x.sock")
    lb.change(ordinary("two", BINDS["among others"]))
    lb.serves("two")
    end(current(lb))
    assert lb.get() == "two"
    assert lb.sh("stat -c %i /run/x.sock") == inode
    lb.sh("rm /run/x.sock")
    lb.change(ordinary("three", BINDS["among others"]))
    lb.serves("three")
    eventually(lambda: lb.sh("test -S /run/x.sock && echo yes") == "yes\n")


def test_a_reload_of_a_read_only_container_works(start: Start, image: str) -> None:
    """Nothing of it needs a path."""
    lb = begin(start, image, ordinary("one"), read_only=True)
    before = listening(lb)
    lb.change(ordinary("two"))
    lb.serves("two")
    assert listening(lb) == before


def test_datagrams_wait_for_the_next_haproxy(start: Start, image: str) -> None:
    """log-forward's UDP socket is the same after a crash."""
    more = "ring r\n    size 65536\nlog-forward logs\n    dgram-bind 127.0.0.1:5514\n    log ring@r local0\n"
    lb = begin(start, image, ordinary("one", more=more))

    def sockets() -> set[str]:
        table = Path(f"/proc/{lb.pid}/net/udp").read_text().splitlines()[1:]
        return {row.split()[9] for row in table if row.split()[1].endswith(f":{5514:04X}")}

    before = sockets()
    end(current(lb))
    assert lb.get() == "one"
    assert sockets() == before
    assert before


def _get(lb: Balancer, port: int) -> str | None:
    try:
        return lb.get(port)
    except (TimeoutError, OSError):
        return None
