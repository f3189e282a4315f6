"""The loop's list of what it waits for."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from entrypoint.system.event_loop import EventLoop
from tests.waiting import eventually


def test_what_was_removed_in_the_same_turn_is_not_called() -> None:
    """Two are ready, and the first to be called takes the other away."""
    event_loop = EventLoop()
    pairs = [socket.socketpair() for _ in range(2)]
    called = []

    def take(index: int) -> None:
        called.append(index)
        event_loop.remove(pairs[1 - index][0])

    for index, (ours, theirs) in enumerate(pairs):
        theirs.send(b"x")
        event_loop.add_reader(ours, lambda index=index: take(index))  # type: ignore[misc]
    event_loop.wait(math.inf)
    for pair in pairs:
        for end in pair:
            end.close()

    assert len(called) == 1


def test_one_that_was_not_waited_for_can_be_paused() -> None:
    """To wait for room to write needs no wait for something to read before it."""
    event_loop = EventLoop()
    ours, theirs = socket.socketpair()
    called = []
    event_loop.add_writer(ours, lambda: called.append("room"))
    event_loop.wait(math.inf)
    event_loop.add_reader(ours, lambda: called.append("read"))
    event_loop.wait(time.monotonic())
    theirs.send(b"x")
    event_loop.wait(math.inf)
    ours.close()
    theirs.close()

    assert called == ["room", "read"]


def test_what_has_happened_comes_before_the_time_that_was_up_since() -> None:
    """A process that was stopped while it waited is told of the time first: that is not the order of things."""
    program = """
import os, time
from entrypoint.system.event_loop import EventLoop
event_loop = EventLoop()
event_loop.add_reader(open(0, "rb", 0), lambda: print("news", flush=True))
event_loop.call_later("a", 2, lambda: print("late", flush=True))
print("waits", flush=True)
event_loop.wait(time.monotonic() + 2)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"waits\n"
        begun = time.monotonic()
        stat = Path(f"/proc/{process.pid}/stat")
        eventually(lambda: stat.read_text().split()[2] == "S")
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: stat.read_text().split()[2] == "T")
        process.stdin.write(b"x")
        process.stdin.flush()
        eventually(lambda: time.monotonic() > begun + 2.2)
        process.send_signal(signal.SIGCONT)
        said = process.stdout.read()

    assert said == b"news\nlate\n"


def test_an_alarm_rings_once_and_a_cancelled_one_never() -> None:
    """Also if it is cancelled, or set again, by one that rings in the same turn."""
    event_loop = EventLoop()
    rung = []

    def ring() -> None:
        rung.append("a")
        event_loop.cancel("b")
        event_loop.call_later("a", 0.0, lambda: rung.append("again"))

    event_loop.call_later("a", 0.0, ring)
    event_loop.call_later("b", 0.0, lambda: rung.append("b"))
    event_loop.wait(math.inf)
    assert rung == ["a"]
    event_loop.wait(math.inf)
    event_loop.wait(time.monotonic())

    assert rung == ["a", "again"]


def test_what_was_closed_first_can_be_removed() -> None:
    """No error, and its number may be another's by then."""
    event_loop = EventLoop()
    reader, writer = os.pipe()
    end = socket.socketpair()
    event_loop.add_reader(end[0], lambda: None)
    end[0].close()
    event_loop.remove(end[0])
    end[1].close()
    os.close(reader)
    os.close(writer)
