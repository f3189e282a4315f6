"""The client's end of a control socket, for the verbs and the exporter: one line, one answer, no call that waits."""

import json
import socket

from entrypoint.client.status_fields import Status
from entrypoint.system.instances import NoInstanceError, doubt, peer, who_may_ask

MOST = 4 * 1024 * 1024
"""Bytes of an answer: 4,096 VIPs and as many files are 1 MiB."""
_PIECE = 65536
_DENIED = b"Permission denied"
"""How an answer begins that is none (system/control.py)."""
_GONE = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class DeniedError(NoInstanceError):
    """There is one, and it does not answer us, or is not believed."""


class Connection:
    """Owns a socket, and what has come of the answer."""

    def __init__(self, path: str) -> None:
        """Remember where; nobody is asked yet."""
        self.path = path
        self.pid = 0
        """Of the process that listens, as this pid namespace numbers it; 0 where it cannot be seen."""
        self.socket: socket.socket | None = None
        """What to wait for until it is readable; None before there is a connection."""
        self._answer = bytearray()

    def connect(self) -> bool:
        """Connect, unless that has happened; False while the queue of who listens is full: try again in a moment.

        Raises:
            NoInstanceError: nobody is there, or nobody who speaks to us, or one who is not believed.

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
        """Send a line; it is short, and the buffer empty.

        Raises:
            NoInstanceError: nobody is there any more.

        """
        assert self.socket
        try:
            self.socket.send(f"{command}\n".encode(), socket.MSG_NOSIGNAL)
        except BrokenPipeError:
            # Who may not ask is told so before it has asked.
            pass
        except OSError as error:
            raise self._no_instance(error) from None

    def read(self) -> bool:
        """Take what has come; True when that is the whole answer.

        Raises:
            NoInstanceError: there is no answer, or none that ends.

        """
        assert self.socket
        failure = None
        try:
            data = self.socket.recv(_PIECE)
        except BlockingIOError:
            return False
        except OSError as error:
            # Who hangs up on us has not read our question, and may have said why.
            data, failure = b"", error
        self._answer += data
        if len(self._answer) > MOST:
            raise NoInstanceError(f"{self.path}: the answer does not end; this is no safe_reload")
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
        """Everything that was answered."""
        return self._answer.decode(errors="replace")

    def status(self) -> Status:
        """Return the answer to `status`.

        Raises:
            NoInstanceError: it is none.

        """
        try:
            # The one line; what may follow is not for us.
            status = json.loads(self._answer.partition(b"\n")[0])
        except (ValueError, RecursionError):
            status = None
        if not isinstance(status, dict):
            what = "the answer is no status; this is no safe_reload, or it ended meanwhile"
            raise NoInstanceError(f"{self.path}: {what}")
        return status

    def close(self) -> None:
        """Hang up."""
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
