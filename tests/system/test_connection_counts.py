"""A round of questions ends, whoever cannot be asked."""

import os
import socket
from typing import cast

from entrypoint.pid1.child import Child
from entrypoint.pid1.connection_counts import ConnectionCounts
from entrypoint.system.event_loop import EventLoop


class Unwaitable(socket.socket):
    """A socket that epoll(7) refuses as it refuses regular files, with EPERM; it could as well be ENOSPC or ENOMEM."""

    def __init__(self) -> None:
        """Open a file beside it."""
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.file = os.memfd_create("no socket")

    def fileno(self) -> int:
        """Return the file's descriptor, until it is closed."""
        return self.file

    def close(self) -> None:
        """Close both."""
        super().close()
        os.close(self.file)
        self.file = -1


class Process:
    """A generation that cannot be connected to, or has a session that epoll refuses."""

    connections: int | None = None

    def __init__(self, *, reachable: bool = True) -> None:
        """Begin without a session."""
        self.sessions: list[Unwaitable] = []
        self._reachable = reachable

    def session(self) -> socket.socket:
        """Open what cannot be waited for."""
        if not self._reachable:
            raise OSError(24, "Too many open files")
        self.sessions.append(Unwaitable())
        return self.sessions[-1]


class Draining(Process):
    """One of which it is known without asking it."""

    connections = 5


def test_a_session_that_epoll_refuses_is_not_waited_for() -> None:
    """The answer comes all the same, and no descriptor stays open."""
    told: list[dict[int, int | None]] = []
    children = {1: Process(), 2: Process(), 3: Process(reachable=False), 4: Draining()}
    ConnectionCounts(EventLoop(), cast("dict[int, Child]", children).get).ask([1, 2, 3, 4, 5], told.append)
    assert told == [{1: None, 2: None, 3: None, 4: 5, 5: None}]
    assert [one.file for child in children.values() for one in child.sessions] == [-1, -1]
