"""A client of the control socket, and where it is in its questions."""

import time
from collections import deque
from collections.abc import Mapping

from entrypoint.lean.typing import Any
from entrypoint.pid1 import master_cli
from entrypoint.pid1.worker_connection import WorkerConnection
from entrypoint.system.control_socket import Client

_HANDED_DOWN = ("target", "settings", "prompt", "spoke", "ends", "waits_for")
"""Of a session, what is a plain value."""


class Session:
    """A client, and where it is in its questions."""

    def __init__(self, client: Client) -> None:
        """Begin with a client that has said nothing."""
        self.client = client
        self.commands: deque[str] = deque()
        self.target = ""
        """The generation that its commands without a prefix are for; empty for us."""
        self.settings: dict[str, str] = {}
        """What is said to a generation before each command."""
        self.prompt = False
        self.spoke = False
        self.ends = False
        """It is over when everything has been answered."""
        self.waits_for = ""
        """What it awaits: reload, upgrade, status, or a generation; nothing while its next command can be taken."""
        self.worker: WorkerConnection | None = None
        """To the generation whose answer is copied."""
        self.reader = master_cli.CommandReader()
        self.stirred_at = time.monotonic()
        """When it last said something, or was given something."""

    def serialize(self) -> dict[str, Any]:
        """Return everything about it as plain values."""
        return {
            "client": self.client.fileno(),
            "unsent": self.client.unsent,
            "worker": self.worker.fileno() if self.worker else -1,
            "empty_lines": self.worker.empty_lines if self.worker else 0,
            "commands": list(self.commands),
            "reader": self.reader.serialize(),
            **{name: getattr(self, name) for name in _HANDED_DOWN},
        }

    @classmethod
    def restore(cls, client: Client, left: Mapping[str, Any]) -> "Session":
        """Go on with a client where our last life has left it."""
        session = cls(client)
        session.commands.extend(left["commands"])
        session.reader = master_cli.CommandReader.restore(left["reader"])
        for name in _HANDED_DOWN:
            setattr(session, name, left[name])
        return session

    @property
    def patience(self) -> int:
        """How much harm it would do to hang up."""
        if self.waits_for in {"reload", "upgrade"}:
            return 3
        return 2 if self.waits_for else int(self.spoke)
