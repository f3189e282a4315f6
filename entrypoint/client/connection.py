"""The client side of a control socket, for the verbs and the exporter: one command, one answer, never blocking."""

from __future__ import annotations

import json
import socket

from entrypoint.client.status_fields import Status
from entrypoint.system.instances import NoInstanceError, doubt, peer, who_may_ask

MOST = 4 * 1024 * 1024
"""The most bytes of an answer. The status of 4,096 VIPs and as many files is 1 MiB."""
_PIECE = 65536
_DENIED = b"Permission denied"
"""How a refusal begins (system/control_socket.py)."""
_GONE = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class DeniedError(NoInstanceError):
    """Something listens, but refuses to answer us or is not trusted."""


class Connection:
    """Owns a socket and the part of the answer that has arrived."""

    def __init__(self, path: str) -> None:
        """Take the control socket's path; `connect` connects."""
        self.path = path
        self.pid = 0
        """The pid of the process that listens, in our pid namespace; 0 if it is in another one."""
        self.socket: socket.socket | None = None
        """Readable when there is something to `read`; None before there is a connection."""
        self._answer = bytearray()

    def connect(self) -> bool:
        """Connect unless connected. Return False if the listen queue is full: then try again in a moment.

        Raises:
            NoInstanceError: nothing listens, we may not connect, or what listens is not trusted.

        """
        if self.socket:
            return True
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            made.connect(self.path)
            why = doubt(made, self.path)
        except BlockingIOError:
            made.close()
            return False
        except OSError as error:
            made.close()
            raise self._no_instance(error) from None
        if why:
            made.close()
            raise DeniedError(why)
        self.socket, self.pid = made, peer(made)[0]
        return True

    def ask(self, command: str) -> None:
        """Send a command. It is short and the buffer is empty, so this does not block.

        Raises:
            NoInstanceError: the connection is broken.

        """
        assert self.socket
        try:
            self.socket.send(f"{command}\n".encode(), socket.MSG_NOSIGNAL)
        except BrokenPipeError:
            # The other side has refused us and closed the connection already; `read` returns the refusal.
            pass
        except OSError as error:
            raise self._no_instance(error) from None

    def read(self) -> bool:
        """Read what has arrived; return whether the answer is complete.

        Raises:
            NoInstanceError: there is no answer, or one of more than MOST bytes.

        """
        assert self.socket
        failure = None
        try:
            data = self.socket.recv(_PIECE)
        except BlockingIOError:
            return False
        except OSError as error:
            # The other side closed the connection before it read our command; what it sent before may say why.
            data, failure = b"", error
        self._answer += data
        if len(self._answer) > MOST:
            raise NoInstanceError(f"{self.path}: the answer does not end; this is not safe_reload")
        if data:
            return False
        if self._answer.startswith(_DENIED):
            raise DeniedError(f"{self.path}: permission denied; {who_may_ask(self.path)}")
        if failure:
            raise self._no_instance(failure)
        if not self._answer:
            raise NoInstanceError(f"{self.path}: it hung up without an answer; {who_may_ask(self.path)}")
        return True

    @property
    def answer(self) -> str:
        """The answer so far."""
        return self._answer.decode(errors="replace")

    def status(self) -> Status:
        """Return the answer to `status`.

        Raises:
            NoInstanceError: it is not a status.

        """
        try:
            # The status is the first line; ignore what may follow.
            status = json.loads(self._answer.partition(b"\n")[0])
        except (ValueError, RecursionError):
            status = None
        if not isinstance(status, dict):
            raise NoInstanceError(f"{self.path}: the answer is not a status; this is not safe_reload, or it has exited")
        return status

    def close(self) -> None:
        """Close the connection."""
        if self.socket:
            self.socket.close()
            self.socket = None

    def _no_instance(self, error: OSError) -> NoInstanceError:
        if isinstance(error, PermissionError):
            return NoInstanceError(f"{self.path}: permission denied; {who_may_ask(self.path)}")
        if isinstance(error, _GONE):
            hint = f"no instance answers: {error.strerror}; is it running, with this --name and --runtime-dir?"
            return NoInstanceError(f"{self.path}: {hint}")
        if error.errno is None:
            return NoInstanceError(f"{self.path}: {error}; take a shorter --runtime-dir")
        return NoInstanceError(f"{self.path}: it hung up: {error.strerror}; {who_may_ask(self.path)}")
