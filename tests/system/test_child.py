"""Everything that belongs to one process: it is told to leave once it can be followed, and closed whole."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest

from entrypoint.core.events import Event, Unanswered
from entrypoint.lean.level import Level
from entrypoint.pid1.child import Child
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.haproxy_cli import CliChannel
from entrypoint.system.log import Logger
from entrypoint.system.stderr_pipe import StderrPipe
from tests.descriptors import descriptors

INFO = b"Name: HAProxy\nJobs: 3\nCurrConns: 2\n\n> "


class Haproxy:
    """The loop, a child of it, and the other ends of its lines."""

    def __init__(self) -> None:
        """Begin with one that serves."""
        self.event_loop = EventLoop()
        self.submitted: list[Event] = []
        self.told = 0
        self.channel, self.words = CliChannel(), StderrPipe()
        theirs = os.dup(self.channel.inherited[0])
        self.theirs = socket.socket(fileno=theirs)
        self.theirs.setblocking(False)
        self.stderr = os.dup(self.words.writer)
        self.channel.spawned()
        self.child = Child(1, self.event_loop, Logger(Level.DEBUG), self.submitted.append, lambda: None, lambda _: None)
        self.child.connect(self.channel, self.words)

    def leave(self) -> None:
        """Note that it is told to."""
        self.told += 1

    def session(self) -> socket.socket | None:
        """Return the session that was begun with its CLI, if one was."""
        with contextlib.suppress(BlockingIOError):
            _, (descriptor, *_), _, _ = socket.recv_fds(self.theirs, 1, 1)
            return socket.socket(fileno=descriptor)
        return None

    def close(self) -> None:
        """End."""
        self.child.close()
        self.theirs.close()
        os.close(self.stderr)


@pytest.fixture
def haproxy() -> Iterator[Haproxy]:
    """Begin."""
    made = Haproxy()
    yield made
    made.close()


def test_a_second_request_to_leave_keeps_the_session(haproxy: Haproxy) -> None:
    """A stop tells a draining generation to leave again: a new session would not be accepted."""
    haproxy.child.soft_stop(haproxy.leave)
    session = haproxy.session()
    assert session
    with session:
        session.send(INFO)
        while haproxy.child.connections != 2:
            haproxy.event_loop.wait(time.monotonic() + 0.05)
        haproxy.child.soft_stop(haproxy.leave)
        assert haproxy.told == 2
        assert haproxy.session() is None
        assert haproxy.child.connections == 2


def test_its_last_stderr_output_is_kept_after_its_exit(haproxy: Haproxy) -> None:
    """The output may still be in the pipe."""
    os.write(haproxy.stderr, b"[ALERT] it was this")
    haproxy.child.close()
    assert haproxy.child.said() == "[ALERT] it was this\n"


def lines() -> list[str]:
    """Return the pipes and sockets that are open."""
    return sorted(one for one in descriptors(os.getpid()).values() if one.startswith(("pipe:", "socket:")))


def test_whatever_fails_of_its_end_all_lines_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortage at the worst moment leaves nothing open, and nobody untold."""
    before = lines()
    haproxy = Haproxy()
    haproxy.child.soft_stop(haproxy.leave)
    haproxy.child.ask(("show info",))

    def fails(_: StderrPipe) -> bytes:
        raise MemoryError

    monkeypatch.setattr(StderrPipe, "drain", fails)
    with pytest.raises(MemoryError):
        haproxy.child.close()
    assert haproxy.told == 1
    assert haproxy.child.session() is None
    haproxy.close()
    haproxy.child.ask(("show info",))
    assert haproxy.submitted == [Unanswered(1)]
    assert lines() == before
