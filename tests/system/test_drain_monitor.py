"""Held sessions: a generation that drains is asked while it has clients, and is never kept alive for the asking."""

import os
import socket
import time
from collections.abc import Iterator

import pytest

from entrypoint.pid1 import drain_monitor
from entrypoint.pid1.drain_monitor import DrainMonitor
from entrypoint.system.event_loop import EventLoop

GREETING = b"prompt;set timeout cli 30;show info\n"
QUESTION = b"show info\n"


def info(connections: int) -> bytes:
    """Answer as haproxy does in a session with a prompt."""
    return f"Name: HAProxy\nJobs: {connections + 1}\nCurrConns: {connections}\n\n> ".encode()


class Peer:
    """The loop, and a generation's end of the session."""

    def __init__(self) -> None:
        """Begin with a generation that is to leave."""
        self.event_loop = EventLoop()
        self.told = 0
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.theirs.setblocking(False)
        self.held = DrainMonitor(self.event_loop, ours, self.leave)

    def leave(self) -> None:
        """Note that it is told to."""
        self.told += 1

    def turn(self) -> None:
        """Let the loop run for a turn."""
        self.event_loop.wait(time.monotonic() + 0.05)

    def asked(self) -> bytes:
        """Let the loop run until something arrives here; nothing is a hang-up."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return self.theirs.recv(100)
            except BlockingIOError:
                assert time.monotonic() < deadline
                self.turn()

    def until(self, connections: int | None) -> None:
        """Let the loop run until this number is known."""
        deadline = time.monotonic() + 20
        while self.held.connections != connections:
            assert time.monotonic() < deadline
            self.turn()


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Begin."""
    made = Peer()
    yield made
    made.held.close()
    made.theirs.close()


def test_it_is_told_to_leave_once_the_session_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before that its CLI would close with the session in the queue; the answer may come in pieces."""
    monkeypatch.setattr(drain_monitor, "_STOP_WITHIN", 3600)
    peer = Peer()
    assert peer.asked() == GREETING
    assert peer.told == 0
    answer = b"\n> \n> " + info(3)
    peer.theirs.send(answer[:40])
    peer.event_loop.wait(0)
    assert peer.told == 0
    peer.theirs.send(answer[40:])
    peer.until(3)
    assert peer.told == 1
    peer.held.close()
    peer.theirs.close()


def test_it_is_asked_until_nobody_is_left(peer: Peer) -> None:
    """The number follows; with the last client we hang up, or it would never end."""
    question = GREETING
    for connections in (3, 1, 0):
        assert peer.asked() == question
        peer.theirs.send(info(connections))
        question = QUESTION
    assert peer.asked() == b""
    assert peer.held.connections is None
    assert peer.told == 1


def test_one_without_clients_is_left_alone(peer: Peer) -> None:
    """There is nothing to ask, and a session would only keep it."""
    peer.theirs.send(info(0))
    assert peer.asked() == GREETING
    assert peer.asked() == b""
    assert peer.told == 1


def test_a_generation_that_does_not_answer_is_told_to_leave(peer: Peer) -> None:
    """A haproxy that is stopped, or does not listen yet, accepts no session."""
    while not peer.told:
        peer.turn()
    assert peer.asked() == GREETING
    peer.theirs.send(info(2))
    peer.until(2)
    assert peer.told == 1


@pytest.mark.parametrize("flood", [b"", b"x" * 100_000], ids=["hangs up", "never ends"])
@pytest.mark.parametrize("known", [False, True])
def test_one_that_does_not_speak_is_not_known(peer: Peer, known: bool, flood: bytes) -> None:
    """A generation that hangs up, or answers without end, has nothing more to say; it is told to leave, once."""
    if known:
        peer.theirs.send(info(2))
        peer.until(2)
    if flood:
        peer.theirs.setblocking(True)
        peer.theirs.send(flood)
    else:
        peer.theirs.shutdown(socket.SHUT_WR)
    peer.until(None)
    while not peer.told:
        peer.turn()
    assert peer.told == 1


def test_one_that_is_not_understood_is_left_alone(peer: Peer) -> None:
    """A prompt, or a field, of a version to come: the session must not keep it."""
    peer.theirs.send(info(2).replace(b"> ", b"haproxy: "))
    assert peer.asked() == GREETING
    assert peer.asked() == b""
    assert peer.told == 1


def test_an_upgrade_tells_a_draining_generation_to_leave(peer: Peer) -> None:
    """A safe_reload that is replaced does not wait for the answer."""
    peer.held.soft_stop()
    peer.held.soft_stop()
    assert peer.told == 1


def test_one_that_is_gone_is_forgotten(peer: Peer) -> None:
    """It dies while it is being told; closed twice it is told once."""
    peer.held.close()
    peer.held.close()
    assert peer.told == 1
    assert peer.held.connections is None


def test_a_generation_is_told_to_leave_even_if_epoll_refuses_its_session() -> None:
    """epoll refuses a regular file, as here; then no answer is waited for."""
    told: list[int] = []
    ours, theirs = socket.socketpair()
    with theirs, open(__file__) as file:
        os.dup2(file.fileno(), ours.fileno())
        held = DrainMonitor(EventLoop(), ours, lambda: told.append(1))
    assert told == [1]
    assert held.connections is None
