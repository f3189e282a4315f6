"""A connection to a generation's CLI for a client of the control socket: one command, and its answer."""

import contextlib
import socket
from collections.abc import Callable, Iterable

from entrypoint.system.event_loop import EventLoop

_ROOM = 65536


class WorkerConnection:
    """Owns the connection, and passes on the answer until `close`."""

    def __init__(
        self, event_loop: EventLoop, connection: socket.socket, heard: Callable[[bytes], None], empty_lines: int = 0
    ) -> None:
        """Take over a connection; nothing is read before `resume`.

        Args:
            event_loop: watches the connection.
            connection: to the CLI.
            heard: gets each part of the answer, and an empty one at its end.
            empty_lines: how many to skip first: the answers to settings.

        """
        self._event_loop = event_loop
        connection.set_inheritable(False)
        connection.setblocking(False)
        self._connection = connection
        self._heard = heard
        self.empty_lines = empty_lines

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self._connection.fileno()

    def ask(self, settings: Iterable[str], command: str) -> None:
        """Send a command after these settings, and wait for the answer.

        Raises:
            OSError: no more descriptors can be watched.

        """
        before = [setting for setting in settings if setting]
        self.empty_lines = len(before)
        with contextlib.suppress(OSError):
            self._connection.send(";".join([*before, command]).encode(errors="surrogateescape") + b"\n")
            # This ends an incomplete command, such as a payload without an end; an open connection would keep the
            # generation alive.
            self._connection.shutdown(socket.SHUT_WR)
        self.resume()

    def resume(self) -> None:
        """Read the answer.

        Raises:
            OSError: no more descriptors can be watched.

        """
        self._event_loop.add_reader(self._connection, self._read)

    def pause(self) -> None:
        """Stop reading, so that the answer waits in the generation."""
        self._event_loop.remove(self._connection)

    def _read(self) -> None:
        try:
            data = self._connection.recv(_ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        at_end = not data
        while self.empty_lines and data.startswith(b"\n"):
            self.empty_lines -= 1
            data = data[1:]
        if data:
            self.empty_lines = 0
        if data or at_end:
            self._heard(data)

    def close(self) -> None:
        """Close the connection."""
        self._event_loop.remove(self._connection)
        self._connection.close()
