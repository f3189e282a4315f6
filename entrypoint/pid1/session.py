"""A client of the control socket: its pending commands and settings, and its connection to a generation's CLI."""

from __future__ import annotations

import time

from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Callable, Iterable, Mapping, deque
from entrypoint.lean.typing import Any
from entrypoint.pid1 import master_cli
from entrypoint.pid1.child import Child
from entrypoint.system.control_socket import Client
from entrypoint.system.event_loop import EventLoop

_ROOM = 65536


class WorkerConnection:
    """Owns a connection to a generation's CLI for one client's command, and passes on the answer."""

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


_PLAIN_FIELDS = ("target", "settings", "prompt", "spoke", "ends", "waits_for", "borrows")
"""The attributes of a session that are plain values."""


class Session:
    """A client, with its pending commands and settings."""

    def __init__(self, client: Client) -> None:
        """Begin with a client that has sent nothing."""
        self.client = client
        self.commands: deque[str] = deque()
        self.target = ""
        """The target of its commands without a prefix; empty for safe_reload."""
        self.settings: dict[str, str] = {}
        """By name, the commands that are sent to a generation before each forwarded one."""
        self.prompt = False
        self.spoke = False
        self.ends = False
        """It is closed when everything has been answered."""
        self.waits_for = ""
        """What it waits for: reload, upgrade, status, or a generation; empty if its next command may run."""
        self.told = 0
        """The generation that is told something; 0 if it is only asked."""
        self.borrows = False
        """It gets a session with the CLI of each generation that is about to drain."""
        self.worker: WorkerConnection | None = None
        """To the generation that is answering."""
        self.reader = master_cli.CommandReader()
        self.active_at = time.monotonic()
        """When it last sent or was sent something, on the monotonic clock."""

    def lend(self, child: Child, pid: int) -> bool:
        """Send a session with a CLI that is about to close, after a line with the generation's number and its pid.

        Returns:
            False if the client cannot take it; without descriptors it gets none.

        """
        try:
            lent = child.session()
        except OSError:
            return True
        if not lent:
            return True
        with lent:
            return self.client.lend(f"{child.number} {pid}\n", lent)

    def serialize(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "client": self.client.fileno(),
            "unsent": self.client.unsent,
            "worker": self.worker.fileno() if self.worker else -1,
            "empty_lines": self.worker.empty_lines if self.worker else 0,
            "commands": list(self.commands),
            "reader": self.reader.serialize(),
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
        }

    @classmethod
    def restore(cls, client: Client, saved: Mapping[str, Any]) -> Session:
        """Restore a session of the previous program."""
        session = cls(client)
        session.commands.extend(saved["commands"])
        session.reader = master_cli.CommandReader.restore(saved["reader"])
        for name in _PLAIN_FIELDS:
            setattr(session, name, saved[name])
        return session

    @property
    def priority(self) -> int:
        """How important it is to keep the connection: 3 is never dropped."""
        if self.waits_for in {"reload", "upgrade"}:
            return 3
        return 2 if self.waits_for else int(self.spoke)
