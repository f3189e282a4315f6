"""A small HTTP server that hostile clients cannot hurt: one loop, everything bounded in number, size and time.

Not `http.server`: its limit of time holds for one read and not for one request, it takes 100 headers of 64 KiB each,
and a thread for each client that says nothing keeps the probes waiting. Here a client that has not finished its
request is the first to be hung up on when others come, so that whoever asks at once is always answered.

It speaks as much of RFC 9112 as probes and scrapes need: one request a connection, GET and HEAD, no body.
"""

import errno
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterable

from entrypoint.client.exporter.collector import OPENMETRICS, TEXT, render
from entrypoint.client.exporter.instance import Instance, Question, not_ready
from entrypoint.client.exporter.request import (
    CLIENT_SECONDS,
    MOST_HEADER,
    Client,
    Doing,
    RefusedError,
    read_request,
    wants_openmetrics,
)
from entrypoint.client.status_fields import Status
from entrypoint.system import signals

ANSWER_SECONDS = 2.0
"""How long PID 1 may take; a probe's own limit should be longer."""
_SILENT = f"PID 1 does not answer within {ANSWER_SECONDS:g} s"
_RETRY_SECONDS = 0.05
_LINGER_SECONDS = 1.0
"""For how long what a client still sends is thrown away, so that a reset does not overtake the answer."""
MOST_CLIENTS = 256
_STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


# ---- the address ---------------------------------------------------------------------------------------------------


# ---- clients -------------------------------------------------------------------------------------------------------


# ---- the loop ------------------------------------------------------------------------------------------------------


class Server:
    """The loop. Owns the listening socket, the clients, and at most one question to PID 1.

    However many ask, PID 1 has one question at a time: whoever has asked before it shares its answer, the others the
    answer to the next one.
    """

    def __init__(self, listener: socket.socket, arrivals: signals.Arrivals, instance: Instance) -> None:
        """Begin; nobody is answered before `run`."""
        self._listener = listener
        self._arrivals = arrivals
        self._instance = instance
        self._clients: dict[int, Client] = {}
        self._question: Question | None = None
        self._asked_at = 0.0
        self._listening_at: int | None = None
        self._deaf_until = 0.0
        self._parent = os.getppid()
        self._supervised = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve until a signal says that it is enough, or the PID 1 that started us is gone."""
        self._selector.register(self._arrivals, selectors.EVENT_READ)
        self._hear(True)
        # Before anyone asks: the answer's sender may be our parent, and then we are to follow it.
        self._ask()
        while not self._supervised or os.getppid() == self._parent:
            events = self._selector.select(self._patience())
            for key, mask in events:
                if key.fileobj is self._arrivals:
                    if not _STOPS.isdisjoint(self._arrivals.read()):
                        return
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, Client):
                    # An earlier event of this round may have ended it.
                    if self._clients.get(key.fd) is key.data:
                        self._progress(key.data, mask)
                elif self._question and key.data is self._question:
                    self._question.read()
            self._look_at_the_question()
            self._look_at_the_clock()

    def _patience(self) -> float | None:
        deadlines = [client.deadline for client in self._clients.values()]
        if self._question:
            deadlines.append(self._asked_at + ANSWER_SECONDS)
            if not self._question.socket:
                deadlines.append(time.monotonic() + _RETRY_SECONDS)
        if self._deaf_until:
            deadlines.append(self._deaf_until)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if self._deaf_until and now >= self._deaf_until:
            self._hear(True)
        for client in list(self._clients.values()):
            if now < client.deadline:
                continue
            if client.doing is Doing.WAITING:
                self._tell((client,), _SILENT, None)
            else:
                self._hang_up(client)

    # ---- who comes

    def _hear(self, willing: bool) -> None:
        if willing:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._deaf_until = 0.0
        else:
            self._selector.unregister(self._listener)
            self._deaf_until = time.monotonic() + _RETRY_SECONDS

    def _accept(self) -> None:
        # Not all that wait: between two rounds those who have asked are answered.
        for _ in range(16):
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_RESOURCES:
                    self._make_room()
                    self._hear(False)
                    return
                if error.errno == errno.EAGAIN:
                    return
                continue
            if len(self._clients) >= MOST_CLIENTS:
                self._make_room()
            connection.setblocking(False)
            client = Client(connection, time.monotonic())
            self._clients[connection.fileno()] = client
            self._selector.register(connection, selectors.EVENT_READ, client)
            # The request has often arrived by now.
            self._progress(client, selectors.EVENT_READ)

    def _make_room(self) -> None:
        """Hang up on one: the oldest of those who have got furthest the least."""
        if self._clients:
            self._hang_up(min(self._clients.values(), key=lambda client: (client.doing, client.deadline)))

    def _hang_up(self, client: Client) -> None:
        descriptor = client.connection.fileno()
        if self._clients.pop(descriptor, None):
            if client.doing is not Doing.WAITING:
                self._selector.unregister(client.connection)
            client.connection.close()

    # ---- who asks

    def _progress(self, client: Client, mask: int) -> None:
        try:
            match client.doing:
                case Doing.ASKING if mask & selectors.EVENT_READ:
                    self._read(client)
                case Doing.TAKING if mask & selectors.EVENT_WRITE:
                    self._write(client)
                case Doing.LEAVING if mask & selectors.EVENT_READ and not client.connection.recv(65536):
                    self._hang_up(client)
        except BlockingIOError:
            return
        except OSError:
            self._hang_up(client)

    def _read(self, client: Client) -> None:
        data = client.connection.recv(MOST_HEADER + 1)
        client.received += data
        if not data:
            self._hang_up(client)
            return
        try:
            if not read_request(client):
                return
        except RefusedError as refusal:
            self._answer(client, refusal.status, f"{refusal}\n".encode())
            return
        client.received.clear()
        client.doing = Doing.WAITING
        client.asked_at = time.monotonic()
        client.deadline = client.asked_at + ANSWER_SECONDS
        # Deaf to it meanwhile: a client that has hung up would wake us again and again.
        self._selector.unregister(client.connection)
        self._ask()

    def _ask(self) -> None:
        if not self._question:
            self._question = self._instance.ask()
            self._asked_at = time.monotonic()
            self._listening_at = None

    def _look_at_the_question(self) -> None:
        now = time.monotonic()
        while question := self._question:
            question.connect()
            if question.socket and self._listening_at is None:
                self._listening_at = question.socket.fileno()
                self._selector.register(self._listening_at, selectors.EVENT_READ, question)
                self._follow(question.asked_of)
            if not question.over and now >= self._asked_at + ANSWER_SECONDS:
                question.give_up(_SILENT)
            if not question.over:
                return
            if self._listening_at is not None:
                self._selector.unregister(self._listening_at)
            question.close()
            self._question = None
            # An answer that was on its way before a client asked may be old. That there is none concerns everyone.
            waiting = [client for client in self._clients.values() if client.doing is Doing.WAITING]
            served = [client for client in waiting if question.problem or client.asked_at <= self._asked_at]
            self._tell(served, question.problem, question.status())
            if len(served) < len(waiting):
                self._ask()

    def _follow(self, instance: int | None) -> None:
        """Die with our parent, when it is the instance; the loop sees a parent that died before this call."""
        if not self._supervised and instance == self._parent:
            self._supervised = True
            try:
                signals.set_parent_death_signal(signal.SIGTERM)
            except signals.PrctlError:
                return

    # ---- who is answered

    def _tell(self, clients: Iterable[Client], problem: str, status: Status | None) -> None:
        answers: dict[tuple[str, bool], tuple[int, bytes]] = {}
        for client in clients:
            openmetrics = client.path == "/metrics" and wants_openmetrics(client.accept)
            key = (client.path, openmetrics)
            if key not in answers:
                answers[key] = _answer_to(client.path, problem, status, openmetrics=openmetrics)
            kind = TEXT if client.path != "/metrics" else OPENMETRICS if openmetrics else TEXT
            self._selector.register(client.connection, selectors.EVENT_READ, client)
            try:
                self._answer(client, *answers[key], kind)
            except BlockingIOError:
                continue
            except OSError:
                self._hang_up(client)

    def _answer(self, client: Client, status: int, body: bytes, kind: str = TEXT) -> None:
        lines = [
            f"HTTP/1.1 {status} {_PHRASES[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
            *(["Allow: GET, HEAD"] if status == 405 else []),
        ]
        head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
        client.received.clear()
        client.to_send = memoryview(head if client.head_only else head + body)
        client.doing = Doing.TAKING
        client.deadline = time.monotonic() + CLIENT_SECONDS
        self._selector.modify(client.connection, selectors.EVENT_WRITE, client)
        self._write(client)

    def _write(self, client: Client) -> None:
        client.to_send = client.to_send[client.connection.send(client.to_send) :]
        if not client.to_send:
            client.doing = Doing.LEAVING
            client.deadline = time.monotonic() + _LINGER_SECONDS
            client.connection.shutdown(socket.SHUT_WR)
            self._selector.modify(client.connection, selectors.EVENT_READ, client)


def _answer_to(path: str, problem: str, status: Status | None, *, openmetrics: bool) -> tuple[int, bytes]:
    if path == "/metrics":
        try:
            return 200, render(status, openmetrics)
        except (ValueError, TypeError, OverflowError) as error:
            return 500, f"PID 1's status cannot be shown: {error}\n".encode(errors="replace")
    if path == "/readyz":
        problem = problem or not_ready(status)
    return (503, f"{problem}\n".encode(errors="replace")) if problem else (200, b"ok\n")
