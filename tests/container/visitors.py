"""Clients of TLS listeners: old connections with HTTP/1.1 and HTTP/2, and new handshakes; what each has seen."""

import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from socket import create_connection
from threading import Event, Thread
from types import TracebackType
from typing import Self

from tests.container.conftest import Balancer
from tests.container.test_http2 import END_HEADERS, END_STREAM, GET, HEADERS, Connection

PAUSE = 0.02
"""Seconds between two requests of a client."""
WINDOW_UPDATE = 8
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"one"


def context_of(identity: Path | None = None, *protocols: str) -> ssl.SSLContext:
    """Return a context of a client that takes any certificate, and has the one in this file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if identity:
        context.load_cert_chain(identity)
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def certificate_at(lb: Balancer, port: int, name: str = "a", identity: Path | None = None) -> bytes:
    """Return the certificate of a new handshake, without which no handshake ends well."""
    with context_of(identity).wrap_socket(lb.connect(port), server_hostname=name) as tls:
        return tls.getpeercert(binary_form=True) or b""


def get(lb: Balancer, port: int, path: str = "/", identity: Path | None = None) -> str:
    """Return the body of an answer over TLS.

    Raises:
        OSError: the client is not let in.

    """
    with context_of(identity).wrap_socket(lb.connect(port), server_hostname="a") as tls:
        tls.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while data := tls.recv(65536):
            answer += data
    return answer.partition(b"\r\n\r\n")[2].decode()


class Visitors:
    """Three clients of each port; leave the `with` block and see that nothing has failed."""

    def __init__(self, lb: Balancer, ports: Mapping[int, Path | None], *, old_ones: bool = True) -> None:
        """Visit each port with the certificate in a file; without `old_ones`, only with new handshakes."""
        self.seen: dict[int, list[bytes]] = {port: [] for port in ports}
        """The certificates of all handshakes."""
        self.answers: Counter[tuple[int, str]] = Counter()
        self.failures: list[str] = []
        self._lb = lb
        self._over = Event()
        kinds = (self._handshakes, self._http1, self._http2) if old_ones else (self._handshakes,)
        self._threads = [
            Thread(target=self._visit, args=(kind, port, identity), daemon=True)
            for port, identity in ports.items()
            for kind in kinds
        ]

    def __enter__(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            assert self.failures == [], self.failures
            assert len(self.answers) == len(self._threads)

    def go_on_for(self, seconds: float) -> None:
        """Let them do their work for so long."""
        assert not self._over.wait(seconds)

    def _visit(self, kind: Callable[[int, Path | None], None], port: int, identity: Path | None) -> None:
        # A thread is in a network namespace of its own.
        try:
            with self._lb.network():
                kind(port, identity)
        except (OSError, AssertionError) as error:
            self.failures.append(f"{kind.__name__} on {port} after {self.answers}: {error!r}")

    def _connect(self, context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
        connection = create_connection(("127.0.0.1", port), timeout=30)
        tls = context.wrap_socket(connection, server_hostname="a")
        self.seen[port].append(tls.getpeercert(binary_form=True) or b"")
        return tls

    def _http1(self, port: int, identity: Path | None) -> None:
        with self._connect(context_of(identity), port) as tls:
            while not self._over.wait(PAUSE):
                self._ask(tls, port, "HTTP/1.1")

    def _handshakes(self, port: int, identity: Path | None) -> None:
        context = context_of(identity)
        while not self._over.wait(PAUSE):
            with self._connect(context, port) as tls:
                self._ask(tls, port, "a new connection")

    def _ask(self, tls: ssl.SSLSocket, port: int, kind: str) -> None:
        tls.sendall(REQUEST)
        answer = b""
        while not answer.endswith(b"\r\n\r\n" + ANSWER):
            data = tls.recv(65536)
            assert data, f"{kind}: the connection ended after {answer!r}"
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 ")
        self.answers[port, kind] += 1

    def _http2(self, port: int, identity: Path | None) -> None:
        with self._connect(context_of(identity, "h2"), port) as tls:
            connection, stream = Connection(tls), 1
            while not self._over.wait(PAUSE):
                connection.send(HEADERS, END_STREAM | END_HEADERS, stream, GET)
                body = connection.answer(stream)
                assert body == ANSWER
                connection.send(WINDOW_UPDATE, 0, 0, len(body).to_bytes(4, "big"))
                self.answers[port, "HTTP/2"] += 1
                stream += 2
