"""Asks all generations at once for their number of connections, with a timeout.

Draining generations are not asked: their count is known, and their CLI is closed (see `drain_monitor`).
"""

from __future__ import annotations

from entrypoint.haproxy import runtime_api
from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Callable, Iterable
from entrypoint.pid1.child import Child
from entrypoint.system.event_loop import EventLoop

_TIMEOUT = 0.5
"""Seconds; a stopped or hanging generation does not answer."""
_MOST = 65536


class ConnectionCounts:
    """Runs one round at a time."""

    def __init__(self, event_loop: EventLoop, child_of: Callable[[int], Child | None]) -> None:
        """Begin idle; `child_of` returns None after the exit of a generation."""
        self._event_loop = event_loop
        self._child_of = child_of
        self._open: dict[int, tuple[socket.socket, bytearray]] = {}
        self._found: dict[int, int | None] = {}
        self._tell: Callable[[dict[int, int | None]], None] = lambda _: None
        self.is_running = False
        """A round runs; more callers can share its result."""

    def ask(self, numbers: Iterable[int], tell: Callable[[dict[int, int | None]], None]) -> None:
        """Ask these generations; a running round is dropped.

        Args:
            numbers: of the generations.
            tell: gets the number of connections of each; None if it did not answer.

        """
        self._hang_up_all()
        self._tell, self._found, self.is_running = tell, {}, True
        # First of all: the round must end whatever fails.
        self._event_loop.call_later(self, _TIMEOUT, self._end)
        for number in numbers:
            child = self._child_of(number)
            self._found[number] = child.connections if child else None
            if child and self._found[number] is None:
                self._ask(number, child)
        if not self._open:
            self._end()

    def _ask(self, number: int, child: Child) -> None:
        try:
            session = child.session()
        except OSError:
            return
        if session:
            with contextlib.suppress(OSError):
                session.send(runtime_api.WHO.encode() + b"\n")
            self._open[number] = (session, bytearray())
            try:
                self._event_loop.add_reader(session, lambda: self._hear(number))
            except OSError:
                self._hang_up(number)

    def _hear(self, number: int) -> None:
        session, answer = self._open[number]
        try:
            data = session.recv(_MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        answer += data
        if data and len(answer) < _MOST:
            return
        self._found[number] = runtime_api.connections(answer.decode(errors="replace"))
        self._hang_up(number)
        if not self._open:
            self._end()

    def _hang_up(self, number: int) -> None:
        session, _ = self._open.pop(number)
        self._event_loop.remove(session)
        session.close()

    def _hang_up_all(self) -> None:
        for number in list(self._open):
            self._hang_up(number)

    def _end(self) -> None:
        self._event_loop.cancel(self)
        self._hang_up_all()
        self.is_running = False
        self._tell(self._found)
