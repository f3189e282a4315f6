"""Many clients at a bounded rate, each with one request on a connection of its own; how each ends is counted by kind.

A program for the network namespace of what is tested, without anything but the standard library. It prints `begun`
after the first answer, goes on until its stdin is closed, waits for what is still open, and prints one JSON object.
Times are CLOCK_MONOTONIC in seconds, which all processes of a machine share.
"""

import argparse
import errno
import json
import resource
import select
import socket
import sys
import time
from collections import Counter

REQUEST = b"GET / HTTP/1.0\r\n\r\n"
REFUSED = "refused"
RESET_UNSENT = "reset before the request"
RESET_SENT = "reset after the request"
CUT = "closed without a whole answer"
BAD = "answered otherwise"
LATE = "timed out"
LOCAL = "not the server's fault"

BURST = 64
"""So many connections are begun between two looks at the others."""
PAUSE = 0.002
"""Seconds; how finely the rate is kept."""


class Attempt:
    """One connection."""

    __slots__ = ("answer", "began", "sent", "socket")

    def __init__(self) -> None:
        """Make a socket; nothing is sent yet."""
        self.began = time.monotonic()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.sent = False
        self.answer = b""


class Crowd:
    """All connections, and what has become of those that have ended."""

    def __init__(self, address: tuple[str, int], rate: float, most_open: int, patience: float) -> None:
        """Begin `rate` connections a second, but never have more than `most_open`, each for `patience` seconds."""
        self._address = address
        self._rate = rate
        self._most_open = most_open
        self._patience = patience
        self._open: dict[int, Attempt] = {}
        self._poll = select.epoll()
        self.ends: Counter[str] = Counter()
        self.failures: list[tuple[str, float, float]] = []
        self.slowest = 0.0

    def run(self) -> float:
        """Go on until stdin is closed and every connection has ended; return for how long connections were begun."""
        self._poll.register(sys.stdin, select.EPOLLIN)
        began = due_since = time.monotonic()
        done = 0
        ended: float | None = None
        said = False
        while ended is None or self._open:
            now = time.monotonic()
            if ended is None:
                due = int((now - due_since) * self._rate) - done
                room = self._most_open - len(self._open)
                for _ in range(min(due, room, BURST)):
                    self._begin()
                    done += 1
                if due > self._rate:
                    # What could not be begun for a second is forgiven: a rate is bounded, not made good for.
                    due_since, done = now, 0
            if self._look() and ended is None:
                ended = time.monotonic()
                self._poll.unregister(sys.stdin)
            self._give_up()
            if not said and self.ends["ok"]:
                said = True
                print("begun", flush=True)  # noqa: T201
        return ended - began

    def _begin(self) -> None:
        attempt = Attempt()
        number = attempt.socket.fileno()
        error = attempt.socket.connect_ex(self._address)
        if error not in {0, errno.EINPROGRESS}:
            self._failed(attempt, error)
            return
        self._open[number] = attempt
        self._poll.register(number, select.EPOLLIN | select.EPOLLOUT)
        self._send(number, attempt)

    def _look(self) -> bool:
        """See what has happened within PAUSE; return whether stdin was closed."""
        closed = False
        for number, _ in self._poll.poll(PAUSE):
            attempt = self._open.get(number)
            if attempt is None:
                closed = True
            elif attempt.sent:
                self._receive(number, attempt)
            else:
                self._send(number, attempt)
        return closed

    def _send(self, number: int, attempt: Attempt) -> None:
        try:
            attempt.socket.send(REQUEST)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(number, attempt)
            self._failed(attempt, error.errno)
            return
        attempt.sent = True
        self._poll.modify(number, select.EPOLLIN)

    def _receive(self, number: int, attempt: Attempt) -> None:
        try:
            data = attempt.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(number, attempt)
            self._failed(attempt, error.errno)
            return
        if data:
            attempt.answer += data
            return
        self._close(number, attempt)
        kind = kind_of(attempt.answer)
        self._count(kind, attempt)

    def _close(self, number: int, attempt: Attempt) -> None:
        del self._open[number]
        attempt.socket.close()

    def _failed(self, attempt: Attempt, error: int | None) -> None:
        attempt.socket.close()
        if error == errno.ECONNREFUSED:
            kind = REFUSED
        elif error in {errno.ECONNRESET, errno.EPIPE}:
            kind = RESET_SENT if attempt.sent else RESET_UNSENT
        elif error == errno.ETIMEDOUT:
            kind = LATE
        else:
            kind = LOCAL
        self._count(kind, attempt)

    def _count(self, kind: str, attempt: Attempt) -> None:
        now = time.monotonic()
        self.ends[kind] += 1
        self.slowest = max(self.slowest, now - attempt.began)
        if kind != "ok":
            self.failures.append((kind, attempt.began, now))

    def _give_up(self) -> None:
        late = time.monotonic() - self._patience
        while self._open:
            number, oldest = next(iter(self._open.items()))
            if oldest.began > late:
                return
            self._close(number, oldest)
            self._count(LATE, oldest)


def kind_of(answer: bytes) -> str:
    """Return how a connection has ended on which this was the whole answer."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return CUT
    status, *fields = head.split(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        return BAD
    lengths = [int(field.partition(b":")[2]) for field in fields if field.lower().startswith(b"content-length:")]
    return CUT if lengths and lengths[0] != len(body) else "ok"


def main() -> None:
    """Read the command line, run, and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=2500.0)
    parser.add_argument("--most-open", type=int, default=1500)
    parser.add_argument("--patience", type=float, default=100.0)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, options.most_open + 64), hard))
    crowd = Crowd((options.address, options.port), options.rate, options.most_open, options.patience)
    seconds = crowd.run()
    report = {"ends": crowd.ends, "failures": crowd.failures, "seconds": seconds, "slowest": crowd.slowest}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
