"""Whose listeners are kept: those of the generation that has become current last."""

import socket
import time
from typing import cast

import pytest

from entrypoint.core.events import Adopted, Event, NotAdopted
from entrypoint.pid1.listener_transfer import ListenerTransfer, OrdinaryListeners
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.getsocks.request import SocketRequest
from entrypoint.system.haproxy_cli import CliChannel


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

    failure = ""

    def __init__(self, session: socket.socket) -> None:
        """Wait on this connection."""
        self._session = session
        self.answer = ""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._session.fileno()

    def read(self) -> bool:
        """Take what arrives; True at the end."""
        arrived = self._session.recv(4096)
        self.answer += arrived.decode()
        return not arrived

    def close(self) -> None:
        """Hang up."""
        self._session.close()


class Kept:
    """Counts what was passed."""

    def __init__(self, *, holds: bool = False, binds_itself: bool = False) -> None:
        """Begin with something of an older generation's, or nothing."""
        self.holds = holds
        self.passes: list[SocketRequest] = []
        self._binds_itself = binds_itself

    def binds_itself(self, number: int, answer: str) -> bool:  # noqa: ARG002
        """Tell whether the generation has ordinary listeners."""
        return self._binds_itself

    def passed(self, request: SocketRequest) -> None:
        """Count it."""
        self.passes.append(request)


class Asked:
    """Generations that are asked for their listeners."""

    def __init__(self, kept: Kept, *numbers: int) -> None:
        """Have a line to each of these."""
        self.event_loop = EventLoop()
        self.lines = {number: Line() for number in numbers}
        self.events: list[Event] = []
        lines = cast("dict[int, CliChannel]", self.lines)
        self.transfer = ListenerTransfer(
            self.event_loop, lines.get, cast("OrdinaryListeners", kept), self.events.append
        )

    def hang_up(self, number: int, first: bytes = b"") -> None:
        """Have a generation end the conversation, and follow that to its end."""
        with self.lines[number].theirs.pop() as theirs:
            if first:
                theirs.sendall(first)
        for _ in ("what it has said", "its end"):
            self.event_loop.wait(time.monotonic())


def test_what_an_older_generation_says_late_is_not_kept() -> None:
    """It was stopped when it was asked, and another one has become current since."""
    kept = Kept()
    asked = Asked(kept, 1, 2)
    asked.transfer.ask(1, last=False)
    asked.transfer.ask(2, last=False)
    asked.hang_up(1)
    assert (kept.passes, asked.events) == ([], [])
    asked.hang_up(2)
    assert (len(kept.passes), asked.events) == (1, [Adopted(2)])


SO_MANY_THAT_IT_CANNOT_BE = b"\xff\xff\xff\x7f"


def test_what_arrives_cut_off_is_kept_only_of_the_last_request() -> None:
    """Where there are no descriptors for what is passed; at last it is said that it is not held."""
    kept = Kept()
    asked = Asked(kept, 1)
    asked.transfer.ask(1, last=False)
    asked.hang_up(1, SO_MANY_THAT_IT_CANNOT_BE)
    assert (kept.passes, asked.events) == ([], [NotAdopted(1)])
    asked.transfer.ask(1, last=True)
    asked.hang_up(1, SO_MANY_THAT_IT_CANNOT_BE)
    assert [one.failure for one in kept.passes] == ["announces 2147483647 sockets"]
    assert asked.events == [NotAdopted(1), Adopted(1)]


@pytest.mark.parametrize("last", [False, True])
def test_one_who_says_nothing_at_all_has_passed_nothing(*, last: bool) -> None:
    """Neither its listeners nor who it is: it dies, or has no descriptors, and what was held is still held."""
    kept = Kept(holds=True)
    asked = Asked(kept, 1)
    asked.transfer.ask(1, last=last)
    asked.hang_up(1)
    asked.hang_up(1)
    assert (kept.passes, asked.events) == ([], [NotAdopted(1)])


@pytest.mark.parametrize("last", [False, True])
def test_one_who_binds_listeners_and_passes_none_is_asked_again(*, last: bool) -> None:
    """It has no descriptors for them; but not for ever, for it may never have them."""
    kept = Kept(holds=True, binds_itself=True)
    asked = Asked(kept, 1)
    asked.transfer.ask(1, last=last)
    asked.hang_up(1)
    asked.hang_up(1, b"Pid: 7\n\n")
    assert (len(kept.passes), asked.events) == ((1, [Adopted(1)]) if last else (0, [NotAdopted(1)]))


def test_one_that_is_gone_is_not_waited_for() -> None:
    """Its death tells the core all that there is to know."""
    kept = Kept()
    asked = Asked(kept, 1)
    asked.transfer.ask(1, last=False)
    asked.transfer.forget(1)
    asked.hang_up(1)
    assert (kept.passes, asked.events) == ([], [])
