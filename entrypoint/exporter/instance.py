"""A running instance, asked through its control socket without ever waiting for it."""

import errno
import json
import socket
from collections.abc import Mapping
from typing import Any

from entrypoint.system.instances import NoInstanceError, doubt, find, peer

_QUESTION = b"status\n"
_MOST = 4 * 1024 * 1024
"""Bytes of an answer: 4,096 VIPs and as many files are some 1 MiB."""
_LEAVING = frozenset({"lingering", "stopping"})

Status = Mapping[str, Any]


class Instance:
    """Which instance is meant. Without a name it is found at each question, because it may start after us."""

    def __init__(self, runtime_dir: str, name: str | None) -> None:
        """Remember; nothing is looked for yet."""
        self._runtime_dir = runtime_dir
        self._name = name

    def ask(self) -> "Question":
        """Begin a question."""
        try:
            return Question(find(self._runtime_dir, self._name))
        except NoInstanceError as error:
            return Question(None, str(error))


class Question:
    """One question to PID 1, in progress.

    Owns one connection until it is closed. Every system call in it returns at once, so that a PID 1 that does not
    answer costs the other clients nothing.
    """

    def __init__(self, path: str | None, problem: str = "") -> None:
        """Ask, or, without a path, have failed already."""
        self._path = path
        self._socket: socket.socket | None = None
        self._pieces: list[bytes] = []
        self._length = 0
        self.problem = problem
        """Why there is no answer, one line; empty while there may be one."""
        self.asked_of: int | None = None
        """The pid of the process that listens, as soon as it is known."""
        self.over = path is None
        if path is not None:
            self.connect()

    def connect(self) -> None:
        """Connect, unless that has happened; while the queue of the listening socket is full it is worth repeating."""
        if self.over or self._socket or self._path is None:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connection.connect(self._path)
            # Eleven bytes into an empty buffer.
            connection.send(_QUESTION)
            why = doubt(connection, self._path)
            self.asked_of = peer(connection)[0]
        except OSError as error:
            connection.close()
            if error.errno != errno.EAGAIN:
                self._end(f"no instance answers on {self._path}: {error.strerror or error}")
            return
        if why:
            connection.close()
            self._end(why)
            return
        self._socket = connection

    @property
    def socket(self) -> socket.socket | None:
        """The connection to wait for; None before there is one, and when it is closed."""
        return self._socket

    def read(self) -> None:
        """Take what has arrived."""
        if self._socket is None or self.over:
            return
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"PID 1 hung up: {error.strerror or error}")
            return
        self._pieces.append(data)
        self._length += len(data)
        if self._length > _MOST:
            self._end("PID 1's answer does not end")
        elif not data:
            self._end("" if self._length else "PID 1 hung up without an answer: it speaks to root and its own uid only")

    def give_up(self, problem: str) -> None:
        """End it without an answer."""
        self._end(problem)

    def status(self) -> Status | None:
        """Return what PID 1 said, when all is over; None where it said nothing that can be understood."""
        if self.problem:
            return None
        try:
            # The one line; what may follow is not for us.
            status = json.loads(b"".join(self._pieces).partition(b"\n")[0])
        except (ValueError, RecursionError):
            return None
        return status if isinstance(status, dict) else None

    def _end(self, problem: str) -> None:
        self.problem = problem
        self.over = True
        if problem:
            self._pieces.clear()

    def close(self) -> None:
        """Hang up. Not at the end of the answer: its descriptor may not be another's while somebody waits for it."""
        if self._socket:
            self._socket.close()
            self._socket = None


def not_ready(status: Status | None) -> str:
    """Return why this instance should get no traffic, one line; empty where it should.

    A failed reload is no reason: the current generation serves as before. Neither is a crash that is being made good,
    as long as a generation is current.
    """
    if status is None:
        return "PID 1's answer cannot be understood"
    stage = status.get("stage")
    if stage in _LEAVING:
        return f"the instance is {stage}"
    generations = status.get("generations")
    if isinstance(generations, list) and any(isinstance(g, dict) and g.get("state") == "current" for g in generations):
        return ""
    return f"no generation of haproxy is current; the instance is {stage if isinstance(stage, str) else 'starting'}"
