"""Whose listeners are kept: those of the generation that has become current last."""

import socket
import time
from collections.abc import Callable
from typing import cast

import pytest

from entrypoint.pid1 import listener_transfer
from entrypoint.pid1.listener_transfer import ListenerTransfer
from entrypoint.pid1.ordinary_listeners import OrdinaryListeners
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.getsocks.request import SocketRequest
from entrypoint.system.haproxy_cli import CliChannel
from tests.waiting import eventually


class Line:
    """The line to a generation that answers when it is told to."""

    def __init__(self) -> None:
        """Begin unasked."""
        self.theirs: list[socket.socket] = []

    def session(self) -> socket.socket:
        """Return a new connection."""
        ours, theirs = socket.socketpair()
        self.theirs.append(theirs)
        return ours

    def ask(self, commands: tuple[str, ...]) -> "Witness":  # noqa: ARG002
        """Put a question on a new connection."""
        return Witness(self.session())


class Witness:
    """A question to a generation that hangs up."""

    answer = failure = ""

    def __init__(self, session: socket.socket) -> None:
        """Wait on this connection."""
        self._session = session

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._session.fileno()

    def read(self) -> bool:
        """Take the end."""
        return not self._session.recv(1)

    def close(self) -> None:
        """Hang up."""
        self._session.close()


class Kept:
    """Counts what was passed."""

    def __init__(self, *, holds: bool = False) -> None:
        """Begin with something of an older generation's, or nothing."""
        self.holds = holds
        self.takings: list[SocketRequest] = []
        self.silent: list[int] = []

    def binds_itself(self, number: int, answer: str) -> bool:  # noqa: ARG002
        """Never ask for more."""
        return False

    def passed(self, taking: SocketRequest) -> None:
        """Count it."""
        self.takings.append(taking)

    def unanswered(self, number: int) -> None:
        """Note who it was."""
        self.silent.append(number)


def test_what_an_older_generation_says_late_is_not_kept() -> None:
    """It was stopped when it was asked, and another one has become current since."""
    event_loop, kept, lines = EventLoop(), Kept(), {1: Line(), 2: Line()}
    asked = ListenerTransfer(event_loop, cast("dict[int, CliChannel]", lines).get, cast("OrdinaryListeners", kept))
    asked.ask(1)
    asked.ask(2)
    for line, passed in ((lines[1], 0), (lines[2], 1)):
        (theirs,) = line.theirs
        theirs.close()
        event_loop.wait(time.monotonic())
        assert len(kept.takings) == passed


def begun(kept: Kept, line: Line) -> tuple[EventLoop, ListenerTransfer]:
    """Ask a generation for its listeners."""
    event_loop = EventLoop()
    asked = ListenerTransfer(event_loop, cast("dict[int, CliChannel]", {1: line}).get, cast("OrdinaryListeners", kept))
    asked.ask(1)
    return event_loop, asked


def until(event_loop: EventLoop, condition: Callable[[], bool]) -> None:
    """Wait for what is to happen."""

    def happened() -> bool:
        event_loop.wait(time.monotonic())
        return condition()

    eventually(happened)


def test_what_arrives_cut_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no descriptors for what is passed; at last it is said that it is not held."""
    monkeypatch.setattr(listener_transfer, "_AGAIN_AFTER", 0.0)
    kept, line = Kept(), Line()
    event_loop, asked = begun(kept, line)
    for _ in range(6):
        until(event_loop, lambda: bool(line.theirs))
        assert asked.pending == 1
        assert kept.takings == []
        with line.theirs.pop() as theirs:
            theirs.sendall(b"\xff\xff\xff\x7f")  # so many that it cannot be
    until(event_loop, lambda: bool(kept.takings))
    assert kept.takings[0].failure
    assert asked.pending == 0


def test_one_who_says_nothing_at_all_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its listeners nor who it is: it dies, or has no descriptors, and what was held is still held."""
    monkeypatch.setattr(listener_transfer, "_AGAIN_AFTER", 0.0)
    kept, line = Kept(holds=True), Line()
    event_loop, asked = begun(kept, line)
    line.theirs.pop().close()
    until(event_loop, lambda: bool(line.theirs))
    line.theirs.pop().close()
    until(event_loop, lambda: bool(line.theirs))
    assert asked.pending == 1
    assert kept.takings == []
    asked.forget(1)
    assert asked.pending == 0
    line.theirs.pop().close()


def test_one_who_never_answers_is_named_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped, say: what it has bound dies with it, and somebody should know."""
    monkeypatch.setattr(listener_transfer, "_AGAIN_AFTER", 0.0)
    monkeypatch.setattr(listener_transfer, "_WITHIN", 0.0)
    kept, line = Kept(), Line()
    event_loop, asked = begun(kept, line)
    until(event_loop, lambda: bool(kept.silent))
    assert kept.silent == [1]
    assert len(line.theirs) == 6
    assert kept.takings == []
    assert asked.pending == 0
    for theirs in line.theirs:
        theirs.close()
