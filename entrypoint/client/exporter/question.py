"""Asks an instance for its status without blocking: a PID 1 that does not answer must not delay other clients."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from entrypoint.client.connection import Connection
from entrypoint.client.status_fields import Status
from entrypoint.system.instances import NoInstanceError, find


class Question:
    """One `status` request and its outcome. Owns one connection until `close`."""

    def __init__(self, runtime_dir: str, name: str | None) -> None:
        """Find the instance and begin to connect.

        Args:
            runtime_dir: where its control socket is.
            name: the instance's; None for the only one, which may have started after this process.

        """
        self.problem = ""
        """Why there is no answer, in one line; empty while there may be one."""
        self.over = False
        self._connection = Connection("")
        with self._noting():
            self._connection = Connection(find(runtime_dir, name))
        self.connect()

    def connect(self) -> None:
        """Connect unless connected; call it again while `socket` is None, because the listen queue may be full."""
        if not self.over and not self.socket:
            with self._noting():
                if self._connection.connect():
                    self._connection.ask("status")

    @property
    def socket(self) -> socket.socket | None:
        """The connection to wait for; None before there is one, and after `close`."""
        return self._connection.socket

    @property
    def pid(self) -> int:
        """The pid of the process that listens; 0 before the connection is made."""
        return self._connection.pid

    @property
    def path(self) -> str:
        """The path of the control socket."""
        return self._connection.path

    def read(self) -> None:
        """Read what has arrived."""
        if self.socket and not self.over:
            with self._noting():
                self.over = self._connection.read()

    def give_up(self, problem: str) -> None:
        """End it without an answer."""
        self.problem, self.over = problem, True

    def status(self) -> Status | None:
        """Return the status once it is over; None if there is no answer, or one that cannot be understood."""
        if not self.problem:
            with contextlib.suppress(NoInstanceError):
                return self._connection.status()
        return None

    def close(self) -> None:
        """Close the connection. Not done by `read`: the selector must forget the descriptor before it is reused."""
        self._connection.close()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except NoInstanceError as error:
            self.give_up(str(error))
