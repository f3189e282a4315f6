"""Old generations finish what they have, as long as they may: downloads, web sockets, idle connections."""

import select
import socket
from collections.abc import Iterator

import pytest

from tests.connections import read_until
from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.container.trouble import current, haproxies, inner_pid, is_alone, reload, say, status
from tests.waiting import eventually

BACKEND = """
frontend long
    bind "fd@${FD_LONG}"
    default_backend far
backend far
    timeout tunnel 1h
    server far 127.0.0.1:9000
"""
VIPS = "127.0.0.1:8080:FD_WEB,127.0.0.1:8081:FD_LONG"


@pytest.fixture
def far(start: Start, image: str) -> Iterator[tuple[Balancer, socket.socket]]:
    """A container, and the listener of the server behind it, which is the test."""
    lb = start(image, options=("--max-draining", "1000"), text=configuration("0", BACKEND), vips=VIPS)
    with lb.network():
        listener = socket.create_server(("127.0.0.1", 9000), backlog=1000)
    with listener:
        listener.settimeout(60)
        lb.serves("0")
        yield lb, listener


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(65536)
        assert more, f"{len(data)} of {size} bytes"
        data += more
    return data


UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def _web_socket(lb: Balancer, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection that has been upgraded."""
    near = lb.connect(8081)
    near.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + UPGRADE)
    end, _ = listener.accept()
    end.settimeout(60)
    read_until(end, b"\r\n\r\n")
    end.sendall(b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" + UPGRADE)
    assert read_until(near, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    return near, end


PIECE = b"x" * 65536


def test_web_sockets_and_a_download_survive_a_hundred_reloads(far: tuple[Balancer, socket.socket]) -> None:
    """A download that began before the first reload, and a web socket from each generation, all to their ends."""
    lb, listener = far
    download = lb.connect(8081)
    download.sendall(b"GET / HTTP/1.0\r\n\r\n")
    source, _ = listener.accept()
    source.settimeout(60)
    read_until(source, b"\r\n\r\n")
    source.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (101 * len(PIECE)))
    read_until(download, b"\r\n\r\n")
    pairs = []
    for number in range(1, 101):
        pairs.append(_web_socket(lb, listener))
        lb.change(configuration(str(number), BACKEND))
        lb.serves(str(number))
        source.sendall(PIECE)
        assert _exactly(download, len(PIECE)) == PIECE
    alive = len(haproxies(lb))
    for number, (near, end) in enumerate(pairs):
        near.sendall(b"to %d\n" % number)
        assert read_until(end, b"\n") == b"to %d\n" % number
        end.sendall(b"from %d\n" % number)
        assert read_until(near, b"\n") == b"from %d\n" % number
    source.sendall(PIECE)
    assert _exactly(download, len(PIECE)) == PIECE
    say(f"{alive} haproxies lived at once")

    # A web socket may still find the generation before, when the new one serves already.
    assert alive > 50
    for one in (download, source, listener, *(one for pair in pairs for one in pair)):
        one.close()
    eventually(lambda: is_alone(lb))


def _connections(lb: Balancer) -> list[tuple[str, int | None]]:
    """Return each generation's state, and how many connections it has."""
    return [(one["state"], one["connections"]) for one in status(lb)["generations"]]


def test_a_generation_that_drains_says_how_many_connections_it_has(lb: Balancer) -> None:
    """Although haproxy's soft stop closes its CLI; and with the last of them it is gone, not kept by who asks."""
    clients = [_hold(lb) for _ in range(3)]
    eventually(lambda: _connections(lb) == [("current", 3)])
    reload(lb)
    eventually(lambda: _connections(lb) == [("draining", 3), ("current", 0)])
    clients.pop().close()
    eventually(lambda: _connections(lb) == [("draining", 2), ("current", 0)])
    for client in clients:
        client.close()
    eventually(lambda: is_alone(lb))


def test_idle_keep_alive_connections_get_one_more_answer_after_a_reload(lb: Balancer) -> None:
    """With `option idle-close-on-response` no client ever writes into a connection that is being closed."""
    clients = [lb.connect() for _ in range(50)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_until(client, b"one").startswith(b"HTTP/1.1 200 ")
    lb.becomes("two")
    eventually(lambda: "Proxy web stopped" in lb.log)
    for client in clients:
        assert not select.select([client], [], [], 0)[0], "closed while it was idle"
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = read_until(client, b"one")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
        assert client.recv(1) == b""
        client.close()
    eventually(lambda: is_alone(lb))


def _hold(lb: Balancer) -> socket.socket:
    """Begin a request that is never finished."""
    client = lb.connect()
    client.sendall(b"GET / HTTP/1.0\r\n")
    return client


def _is_cut(client: socket.socket) -> bool:
    """Tell whether a held connection was closed without an answer."""
    try:
        return client.recv(4096) == b""
    except ConnectionResetError:
        return True


def test_hard_stop_after_ends_an_old_generation(lb: Balancer) -> None:
    """haproxy's own limit for a drain, from the configuration with which the old one was started."""
    limited = "global\n  hard-stop-after 1s\n"
    lb.edit(configuration("two", limited))
    reload(lb)
    eventually(lambda: is_alone(lb))
    with _hold(lb) as held:
        old = current(lb)
        lb.edit(configuration("three"))
        reload(lb)
        eventually(lambda: old not in haproxies(lb))

        assert _hears_the_end(held)
    assert lb.get() == "three"
    assert ", unasked" not in lb.log


def _hears_the_end(client: socket.socket) -> bool:
    """Tell whether the connection is over, with or without haproxy's own words about it."""
    while True:
        try:
            if not client.recv(4096):
                return True
        except ConnectionResetError:
            return True


def test_drain_timeout_ends_an_old_generation(start: Start, image: str) -> None:
    """safe_reload's own limit for a drain."""
    lb = start(image, options=("--drain-timeout", "1")).begins("one")
    with _hold(lb) as held:
        old = current(lb)
        reload(lb)
        eventually(lambda: old not in haproxies(lb))

        assert _is_cut(held)
    assert "is ended: --drain-timeout" in lb.log
    assert lb.get() == "one"


def test_without_a_limit_an_old_generation_drains_as_long_as_it_has_to(lb: Balancer) -> None:
    """Neither later reloads nor a crash of the current generation touch a connection of an old one."""
    with _hold(lb) as held:
        old = current(lb)
        for _ in range(5):
            reload(lb)
        held.sendall(b"\r\n")

        assert b" 200 " in held.recv(4096)
    eventually(lambda: old not in haproxies(lb))
    eventually(lambda: is_alone(lb))


def test_beyond_max_draining_the_oldest_is_ended(start: Start) -> None:
    """Of four that are held two may drain; the younger ones keep their connections."""
    lb = start(NEWEST_STABLE, options=("--max-draining", "2")).begins("one")
    held = []
    for _ in range(4):
        held.append(_hold(lb))
        old = current(lb)
        reload(lb)
        eventually(lambda old=old: _drains(lb, old))  # type: ignore[misc]
    eventually(lambda: len(haproxies(lb)) == 3)

    assert _is_cut(held[0])
    assert _is_cut(held[1])
    for client in held[2:]:
        client.sendall(b"\r\n")
        assert b" 200 " in client.recv(4096)
    for client in held:
        client.close()
    assert lb.log.count("more than --max-draining are draining") == 2
    eventually(lambda: is_alone(lb))


def _drains(lb: Balancer, pid: int) -> bool:
    return pid not in haproxies(lb) or f"(pid {inner_pid(pid)}) drains" in lb.log
