"""The exporter's HTTP server. It resists hostile clients: one event loop, with limits on number, size and time.

It does not use `http.server`, which limits the time of each read but not of a request, accepts 100 headers of 64 KiB
each, and lets silent clients delay the probes. Here a client with an unfinished request is the first to be disconnected
when there are too many, so clients that send their request at once always get an answer.

It implements what probes and scrapes need of RFC 9112: one request per connection, GET and HEAD, no body.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterable

from entrypoint.client.exporter.collector import Collector, Source
from entrypoint.client.exporter.counters import Totals
from entrypoint.client.exporter.metrics import OPENMETRICS, TEXT, render
from entrypoint.client.exporter.question import Question
from entrypoint.client.exporter.request import (
    CLIENT_SECONDS,
    MOST_HEADER,
    Client,
    Doing,
    RefusedError,
    read_request,
    wants_openmetrics,
)
from entrypoint.client.status_fields import Status, not_ready
from entrypoint.system import signals

ANSWER_SECONDS = 2.0
"""How long PID 1 may take to answer; a probe's own timeout should be longer."""
_COUNTING_SECONDS = 5.0
"""How long the generations may take to send their counters; after that the last ones are served."""
_BORROW_AFTER = 1.0
"""Seconds between two attempts to reach an instance, so that it can lend sessions before anybody scrapes."""
_SILENT = f"PID 1 does not answer within {ANSWER_SECONDS:g} s"
_RETRY_SECONDS = 0.05
_LINGER_SECONDS = 1.0
"""How long further data of a client is discarded. Closing at once would send a reset, which may overtake the answer."""
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


class Server:
    """The event loop. Owns the listening socket, the clients, and at most one question to PID 1.

    PID 1 gets one question at a time. Its answer is for all clients that were waiting when it was asked; clients that
    come later share the answer to the next question.
    """

    def __init__(
        self,
        listener: socket.socket,
        arrivals: signals.Arrivals,
        runtime_dir: str,
        name: str | None,
        *,
        counters: bool = False,
    ) -> None:
        """Begin; nobody is answered before `run`.

        Args:
            listener: accepts the clients; non-blocking.
            arrivals: the signals that may end the loop.
            runtime_dir: where the instance's control socket is.
            name: the instance's; None for the only one.
            counters: haproxy's own are in /metrics.

        """
        self._listener = listener
        self._arrivals = arrivals
        self._runtime_dir = runtime_dir
        self._name = name
        self._clients: dict[int, Client] = {}
        self._question: Question | None = None
        self._asked_at = 0.0
        self._question_fd: int | None = None
        self._paused_until = 0.0
        self._parent = os.getppid()
        self._supervised = False
        self._selector = selectors.DefaultSelector()
        self._collector = Collector(self._selector) if counters else None
        self._status: Status | None = None
        """The latest, for clients that wait for counters."""

    def run(self) -> None:
        """Serve until a signal of _STOPS arrives, or the PID 1 that started this process has exited."""
        self._selector.register(self._arrivals, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        # Ask before any client does, to learn whether the instance is our parent and we must die with it.
        self._ask()
        while not self._supervised or os.getppid() == self._parent:
            events = self._selector.select(self._time_left())
            for key, mask in events:
                if key.fileobj is self._arrivals:
                    if not _STOPS.isdisjoint(self._arrivals.read()):
                        return
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, Client):
                    # An earlier event of this round may have disconnected it.
                    if self._clients.get(key.fd) is key.data:
                        self._progress(key.data, mask)
                elif isinstance(key.data, Source):
                    key.data.read()
                elif self._question and key.data is self._question:
                    self._question.read()
            self._handle_question()
            if self._collector:
                self._handle_counters(self._collector)
            self._handle_timeouts()

    def _time_left(self) -> float | None:
        deadlines = [client.deadline for client in self._clients.values()]
        if self._question:
            deadlines.append(self._asked_at + ANSWER_SECONDS)
            if not self._question.socket:
                deadlines.append(time.monotonic() + _RETRY_SECONDS)
        if self._paused_until:
            deadlines.append(self._paused_until)
        if self._collector:
            deadlines.append(self._collector.next_deadline())
            if not self._collector.borrows and not self._question:
                deadlines.append(self._asked_at + _BORROW_AFTER)
        deadlines = [one for one in deadlines if one < math.inf]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _handle_timeouts(self) -> None:
        now = time.monotonic()
        if self._paused_until and now >= self._paused_until:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._paused_until = 0.0
        for client in list(self._clients.values()):
            if now < client.deadline:
                continue
            if client.doing is Doing.WAITING:
                self._tell((client,), _SILENT, None)
            else:
                self._hang_up(client)

    # ---- connections

    def _accept(self) -> None:
        # At most 16, so that clients with a complete request are answered in between.
        for _ in range(16):
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_RESOURCES:
                    self._make_room()
                    self._selector.unregister(self._listener)
                    self._paused_until = time.monotonic() + _RETRY_SECONDS
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
            # The request has often arrived already.
            self._progress(client, selectors.EVENT_READ)

    def _make_room(self) -> None:
        """Disconnect one client: the oldest of those that have got least far."""
        if self._clients:
            self._hang_up(min(self._clients.values(), key=lambda client: (client.doing, client.deadline)))

    def _hang_up(self, client: Client) -> None:
        descriptor = client.connection.fileno()
        if self._clients.pop(descriptor, None):
            if client.doing < Doing.WAITING:
                self._selector.unregister(client.connection)
            client.connection.close()

    # ---- requests

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
        # A client that has hung up would stay readable and wake the loop again and again.
        self._selector.unregister(client.connection)
        self._ask()

    def _ask(self) -> None:
        if not self._question:
            self._question = Question(self._runtime_dir, self._name)
            self._asked_at = time.monotonic()
            self._question_fd = None

    def _handle_question(self) -> None:
        now = time.monotonic()
        if self._collector and not self._collector.borrows and now >= self._asked_at + _BORROW_AFTER:
            self._ask()
        while question := self._question:
            question.connect()
            if question.socket and self._question_fd is None:
                self._question_fd = question.socket.fileno()
                self._selector.register(self._question_fd, selectors.EVENT_READ, question)
                self._follow(question.pid)
            if not question.over and now >= self._asked_at + ANSWER_SECONDS:
                question.give_up(_SILENT)
            if not question.over:
                return
            if self._question_fd is not None:
                self._selector.unregister(self._question_fd)
            question.close()
            self._question = None
            # For a client that asked after the question, the answer may be outdated; a failure is for all of them.
            waiting = [client for client in self._clients.values() if client.doing is Doing.WAITING]
            served = [client for client in waiting if question.problem or client.asked_at <= self._asked_at]
            status = question.status()
            if self._collector and status is not None:
                self._begin_to_count(self._collector, question.path, status, served)
                served = [client for client in served if client.doing is Doing.WAITING]
            self._tell(served, question.problem, status)
            if len(served) < len(waiting):
                self._ask()

    def _begin_to_count(self, collector: Collector, path: str, status: Status, clients: Iterable[Client]) -> None:
        """Let those that scrape wait for the counters, which may take longer than a probe can wait."""
        self._status = status
        collector.borrow(path)
        for client in clients:
            if client.path == "/metrics":
                client.doing, client.deadline = Doing.COUNTING, math.inf
                # Who asks during a round shares its result.
                if collector.is_over:
                    collector.begin(path, status, _COUNTING_SECONDS)

    def _handle_counters(self, collector: Collector) -> None:
        collector.proceed()
        counting = [client for client in self._clients.values() if client.doing is Doing.COUNTING]
        if counting and collector.is_over:
            self._tell(counting, "", self._status)

    def _follow(self, pid: int) -> None:
        """Die with our parent if it is the instance; `run` notices a parent that died before this call."""
        if not self._supervised and pid == self._parent:
            self._supervised = True
            with contextlib.suppress(signals.PrctlError):
                signals.set_parent_death_signal(signal.SIGTERM)

    # ---- answers

    def _tell(self, clients: Iterable[Client], problem: str, status: Status | None) -> None:
        answers: dict[tuple[str, bool], tuple[int, bytes]] = {}
        for client in clients:
            openmetrics = client.path == "/metrics" and wants_openmetrics(client.accept)
            key = (client.path, openmetrics)
            if key not in answers:
                totals = self._collector.totals if self._collector and client.doing is Doing.COUNTING else None
                answers[key] = _answer_to(client.path, problem, status, totals, openmetrics=openmetrics)
            kind = OPENMETRICS if openmetrics else TEXT
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


def _answer_to(
    path: str, problem: str, status: Status | None, totals: Totals | None, *, openmetrics: bool
) -> tuple[int, bytes]:
    if path == "/metrics":
        try:
            return 200, render(status, openmetrics, totals)
        except (ValueError, TypeError, OverflowError) as error:
            return 500, f"PID 1's status cannot be shown: {error}\n".encode(errors="replace")
    if path == "/readyz":
        problem = problem or not_ready(status)
    return (503, f"{problem}\n".encode(errors="replace")) if problem else (200, b"ok\n")
