"""What a reload does to HTTP/2 connections: RFC 9113, 6.8, as haproxy does it when it is told to finish."""

import socket

from tests.container.conftest import Balancer, Start, configuration
from tests.container.trouble import is_alone
from tests.waiting import eventually

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
END_STREAM, END_HEADERS = 1, 4
GET = b"\x82\x86\x84\x41\x01a"
"""GET, http, / and the authority `a` (RFC 7541, A and 6.2.1)."""
NO_ERROR_AND_ALL_STREAMS = (2**31 - 1).to_bytes(4, "big") + bytes(4)


class Connection:
    """A client's side of an HTTP/2 connection."""

    def __init__(self, connection: socket.socket) -> None:
        """Begin it."""
        self.socket = connection
        connection.sendall(PREFACE)
        self.send(SETTINGS, 0, 0)

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """Send a frame."""
        head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
        self.socket.sendall(head + payload)

    def receive(self) -> tuple[int, int, int, bytes]:
        """Return the next frame: its type, flags, stream and payload."""
        head = self._exactly(9)
        return head[3], head[4], int.from_bytes(head[5:], "big"), self._exactly(int.from_bytes(head[:3], "big"))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the connection ended"
            data += more
        return data

    def answer(self, stream: int) -> bytes:
        """Return the body of the answer on this stream, with which it ends."""
        body = b""
        while True:
            kind, flags, number, payload = self.receive()
            assert kind != GOAWAY
            if number == stream:
                body += payload if kind == DATA else b""
                if flags & END_STREAM:
                    return body

    def goaway(self) -> bytes:
        """Wait for a GOAWAY and return its payload."""
        while True:
            kind, _, _, payload = self.receive()
            if kind == GOAWAY:
                return payload


def _h2(mark: str) -> str:
    """Return a configuration for HTTP/2 in clear text, which answers when it has the whole request."""
    text = configuration(mark).replace('"fd@${FD_WEB}"', '"fd@${FD_WEB}" proto h2')
    return text.replace("    http-request return", "    http-request wait-for-body time 60s\n    http-request return")


def _idle(lb: Balancer) -> Connection:
    """Return a connection that has had one answer."""
    connection = Connection(lb.connect())
    connection.send(HEADERS, END_STREAM | END_HEADERS, 1, GET)
    assert connection.answer(1) == b"one"
    return connection


def test_no_http2_request_is_lost_in_a_reload_whether_it_has_arrived_or_crosses_the_goaway(
    start: Start, image: str
) -> None:
    """An old generation says GOAWAY with the highest number, answers what still comes, and lets the client close."""
    lb = start(image, text=_h2("one"))
    eventually(lambda: "is current" in lb.log)
    idle, busy, leaving = (_idle(lb) for _ in range(3))
    busy.send(HEADERS, END_HEADERS, 3, GET)  # and no END_STREAM: in flight
    lb.change(_h2("two"))

    for connection in (idle, busy, leaving):
        assert connection.goaway() == NO_ERROR_AND_ALL_STREAMS
    leaving.socket.close()  # as a client does that has nothing in flight
    # As haproxy sees it, these two crossed its GOAWAY.
    idle.send(HEADERS, END_STREAM | END_HEADERS, 3, GET)
    busy.send(HEADERS, END_STREAM | END_HEADERS, 5, GET)
    assert idle.answer(3) == b"one"
    assert busy.answer(5) == b"one"
    busy.send(DATA, END_STREAM, 3, b"x")
    assert busy.answer(3) == b"one"

    for connection in (idle, busy):
        connection.socket.close()
    eventually(lambda: is_alone(lb))
    new = Connection(lb.connect())
    new.send(HEADERS, END_STREAM | END_HEADERS, 1, GET)
    assert new.answer(1) == b"two"
    new.socket.close()
