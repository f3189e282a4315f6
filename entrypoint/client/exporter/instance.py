"""A running instance, asked through its control socket without ever waiting for it."""

import contextlib
import socket
from collections.abc import Iterator

from entrypoint.client.connection import Connection
from entrypoint.client.status_fields import Status, has_current
from entrypoint.system.instances import NoInstanceError, find

_LEAVING = frozenset({"lingering", "stopping"})


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
    """One question to PID 1, in progress, and whatever becomes of it.

    Owns one connection until it is closed. No call in it waits, so that a PID 1 that does not answer costs the other
    clients nothing.
    """

    def __init__(self, path: str | None, problem: str = "") -> None:
        """Ask, or, without a path, have failed already."""
        self._connection = Connection(path or "")
        self.problem = problem
        """Why there is no answer, one line; empty while there may be one."""
        self.over = path is None
        self.connect()

    def connect(self) -> None:
        """Connect, unless that has happened; while the queue of the listening socket is full it is worth repeating."""
        if not self.over and not self.socket:
            with self._noting():
                if self._connection.connect():
                    self._connection.ask("status")

    @property
    def socket(self) -> socket.socket | None:
        """The connection to wait for; None before there is one, and when it is closed."""
        return self._connection.socket

    @property
    def asked_of(self) -> int:
        """The pid of the process that listens, as soon as it is known; 0 until then."""
        return self._connection.pid

    def read(self) -> None:
        """Take what has arrived."""
        if self.socket and not self.over:
            with self._noting():
                self.over = self._connection.read()

    def give_up(self, problem: str) -> None:
        """End it without an answer."""
        self.problem, self.over = problem, True

    def status(self) -> Status | None:
        """Return what PID 1 said, when all is over; None where it said nothing that can be understood."""
        if self.problem:
            return None
        with contextlib.suppress(NoInstanceError):
            return self._connection.status()
        return None

    def close(self) -> None:
        """Hang up. Not at the end of the answer: its descriptor may not be another's while somebody waits for it."""
        self._connection.close()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except NoInstanceError as error:
            self.give_up(str(error))


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
    if has_current(status):
        return ""
    return f"no generation of haproxy is current; the instance is {stage if isinstance(stage, str) else 'starting'}"
