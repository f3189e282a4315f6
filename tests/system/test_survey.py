"""A round of questions ends, whoever cannot be asked."""

import os
import socket

from entrypoint.sources import Sources
from entrypoint.survey import Survey


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


class Generations:
    """Some whose sessions the kernel will not wait for, and one that cannot even be connected to."""

    def __init__(self) -> None:
        """Begin without a session."""
        self.sessions: list[Unwaitable] = []

    def session(self, number: int) -> socket.socket | None:
        """Open what cannot be waited for."""
        if number == 3:
            raise OSError(24, "Too many open files")
        self.sessions.append(Unwaitable())
        return self.sessions[-1]

    def connections(self, number: int) -> int | None:
        """Know of one without asking it."""
        return 5 if number == 4 else None


def test_who_cannot_be_waited_for_is_not_waited_for() -> None:
    """The answer comes all the same, and nothing is left open."""
    told: list[dict[int, int | None]] = []
    generations = Generations()
    Survey(Sources(), generations).ask([1, 2, 3, 4], told.append)
    assert told == [{1: None, 2: None, 3: None, 4: 5}]
    assert [one.file for one in generations.sessions] == [-1, -1]
