"""A client of the control socket, with its pending commands and settings."""

import time
from collections import deque
from collections.abc import Mapping

from entrypoint.lean.typing import Any
from entrypoint.pid1 import master_cli
from entrypoint.pid1.worker_connection import WorkerConnection
from entrypoint.system.control_socket import Client

_PLAIN_FIELDS = ("target", "settings", "prompt", "spoke", "ends", "waits_for")
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
        self.worker: WorkerConnection | None = None
        """To the generation that is answering."""
        self.reader = master_cli.CommandReader()
        self.active_at = time.monotonic()
        """When it last sent or was sent something, on the monotonic clock."""

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
    def restore(cls, client: Client, saved: Mapping[str, Any]) -> "Session":
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
