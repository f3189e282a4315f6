"""Clients of a passed socket that no `bind` uses: they are let go at once, and the loop goes on."""

import socket
import time

from entrypoint.pid1.refusing import Refusing
from entrypoint.system.event_loop import EventLoop
from tests.waiting import eventually

MANY = 200


def turn(event_loop: EventLoop) -> None:
    """Do what the loop does, once."""
    event_loop.wait(time.monotonic() + 0.05)


def test_its_clients_are_reset_until_somebody_uses_it() -> None:
    """All of them, more than are refused at once; afterwards they wait for who accepts them."""
    event_loop = EventLoop()
    refusing = Refusing(event_loop)
    with socket.create_server(("127.0.0.1", 0), backlog=2 * MANY) as listener:
        listener.setblocking(False)
        where = listener.getsockname()
        clients = [socket.create_connection(where) for _ in range(MANY)]
        refusing.refuse_at([listener])

        def gone() -> bool:
            turn(event_loop)
            return all(is_over(client) for client in clients)

        eventually(gone)
        refusing.refuse_at([])
        late = socket.create_connection(where)
        for _ in range(5):
            turn(event_loop)
        assert not is_over(late)
        for client in (*clients, late):
            client.close()


def test_the_loop_goes_on_between_two_handfuls() -> None:
    """However many come: one turn refuses a few, and the next ones have to wait for another turn."""
    event_loop = EventLoop()
    with socket.create_server(("127.0.0.1", 0), backlog=2 * MANY) as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(MANY)]
        Refusing(event_loop).refuse_at([listener])
        turn(event_loop)
        assert 0 < sum(is_over(client) for client in clients) < MANY
        for client in clients:
            client.close()


def is_over(client: socket.socket) -> bool:
    """Tell whether a connection has been closed or reset by its peer."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
