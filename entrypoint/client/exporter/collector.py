"""Reads the counters of every generation of an instance.

A serving generation is asked through PID 1, as `@!PID show stat` on the control socket. One that drains has closed its
CLI: PID 1 lends a session with it just before its soft stop (`borrow sessions`). It is read when somebody scrapes, and
a last time when the generation has no connections left. Then it is closed: an open session keeps haproxy alive.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time

from entrypoint.client.connection import Connection
from entrypoint.client.exporter.counters import Table, Totals
from entrypoint.client.status_fields import Status, mappings
from entrypoint.haproxy import runtime_api
from entrypoint.system.instances import NoInstanceError

_TABLE = "show stat -1 7 -1"
"""All frontends, backends and servers, without listeners (management guide, section 9.3)."""
_GREETING = "prompt;set timeout cli 30;"
"""As PID 1 begins its own session with a generation that drains (pid1/drain_monitor.py): even an exporter that hangs
does not keep it alive for longer than 30 s."""
_IS_STOPPING = "\nStopping: 1\n"
_PROMPT = b"\n> "
_ROOM = 1 << 18
_MOST_LENT = 4096
"""Bytes of a message with a session."""
_ANSWER_WITHIN = 5.0
"""Seconds; after them the session is closed, so that it cannot keep the generation alive."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two questions, doubling; a drained generation exits at most so much later."""

Generation = tuple[int, int]
"""Its number and pid."""


class Source:
    """A socket that the event loop reads from. Owns it."""

    def __init__(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        """Wait for data."""
        self._selector = selector
        self._connection = connection
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, self)

    def read(self) -> None:
        """Read what has arrived, unless an earlier event of this turn has closed it."""
        if self._connection.fileno() < 0:
            return
        try:
            data = self._connection.recv(_ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.heard(data)

    def heard(self, data: bytes) -> None:
        """Take data; none if the other side has hung up."""
        raise NotImplementedError

    def send(self, text: str) -> None:
        """Send a command; an error shows as a closed connection in `heard`."""
        with contextlib.suppress(OSError):
            self._connection.send(f"{text}\n".encode(), socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Close the socket."""
        if self._connection.fileno() >= 0:
            self._selector.unregister(self._connection)
            self._connection.close()


class _Borrower(Source):
    """The connection on which PID 1 lends sessions."""

    def __init__(self, collector: Collector, connection: socket.socket) -> None:
        super().__init__(collector.selector, connection)
        self._collector = collector
        self.send("borrow sessions")

    def read(self) -> None:
        """Take one session: a message never has two (unix(7))."""
        lent: list[int] = []
        try:
            data, lent, _, _ = socket.recv_fds(self._connection, _MOST_LENT, 1, socket.MSG_CMSG_CLOEXEC)
            number, pid = map(int, data.split())
            session = socket.socket(fileno=lent.pop())
        except BlockingIOError:
            return
        except (OSError, ValueError, IndexError):
            for descriptor in lent:
                socket.close(descriptor)
            self._collector.hang_up()
        else:
            self._collector.drains((number, pid), session)


class _Reading(Source):
    """A question to a serving generation, through PID 1."""

    def __init__(self, collector: Collector, generation: Generation, connection: socket.socket) -> None:
        super().__init__(collector.selector, connection)
        self._collector = collector
        self._generation = generation
        self._table = Table()
        self.send(f"@!{generation[1]} {_TABLE};quit")

    def heard(self, data: bytes) -> None:
        if not data or not self._table.feed(data):
            self.give_up()

    def give_up(self) -> None:
        """Take what has arrived."""
        self._collector.has_read(self._generation, self._table)


class _Drain(Source):
    """A session with a generation that drains."""

    def __init__(self, collector: Collector, generation: Generation, session: socket.socket) -> None:
        super().__init__(collector.selector, session)
        self._collector = collector
        self._generation = generation
        self._answer = b""
        self._table: Table | None = None
        """The answer to `show stat`, while it arrives."""
        self._asks = True
        """A question is open; else it pauses."""
        self._is_wanted = False
        self._is_last = False
        """After this table the session is closed."""
        self._pause = _FIRST_PAUSE
        self.deadline = 0.0
        """On the monotonic clock."""
        self._ask(_GREETING + runtime_api.WHO)

    def _ask(self, question: str) -> None:
        self._answer, self._asks = b"", True
        self.deadline = time.monotonic() + _ANSWER_WITHIN
        self.send(question)

    def want(self) -> None:
        """Read the counters soon."""
        self._is_wanted = True
        if not self._asks:
            self._ask_for_table()

    def _ask_for_table(self) -> None:
        self._is_wanted, self._table = False, Table()
        self._ask(_TABLE)

    def late(self) -> None:
        """Go on after the deadline."""
        if self._asks:
            self._collector.has_drained(self._generation)
        else:
            self._ask(runtime_api.WHO)

    def heard(self, data: bytes) -> None:
        self._answer = (self._answer + data)[-_MOST_LENT * 4 :]
        if not data or (self._table and not self._table.feed(data)):
            if self._table:
                self._collector.has_read(self._generation, self._table)
            self._collector.has_drained(self._generation)
        elif self._answer.endswith(_PROMPT):
            self._answered()

    def _answered(self) -> None:
        if self._table:
            self._collector.has_read(self._generation, self._table)
            self._table = None
            if self._is_last:
                self._collector.has_drained(self._generation)
                return
        else:
            answer = self._answer.decode(errors="replace")
            # Until it is told to stop, a generation without connections may still get some.
            self._is_last = runtime_api.connections(answer) == 0 and _IS_STOPPING in answer
        if self._is_last or self._is_wanted:
            self._ask_for_table()
            return
        self._asks = False
        self.deadline = time.monotonic() + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)


class Collector:
    """Owns the connections to PID 1 and to the generations that drain, and the totals."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        """Begin unconnected; the selector's events have a `Source` as their data."""
        self.selector = selector
        self.totals = Totals()
        self._borrower: _Borrower | None = None
        self._readings: dict[Generation, _Reading] = {}
        self._drains: dict[Generation, _Drain] = {}
        self._awaited: set[Generation] = set()
        """Those whose counters the round waits for."""
        self._alive: set[Generation] = set()
        self._end = 0.0

    # ---- sessions with those that drain

    @property
    def borrows(self) -> bool:
        """Whether PID 1 lends sessions."""
        return self._borrower is not None

    def borrow(self, path: str) -> None:
        """Connect to the control socket unless connected, so that PID 1 lends sessions."""
        with contextlib.suppress(NoInstanceError):
            connection = None if self._borrower else _connect(path)
            if connection:
                self._borrower = _Borrower(self, connection)

    def hang_up(self) -> None:
        """Close the connection on which PID 1 lends."""
        if self._borrower:
            self._borrower.close()
            self._borrower = None

    def drains(self, generation: Generation, session: socket.socket) -> None:
        """Follow a generation until it has no connections."""
        if generation in self._drains:
            session.close()
            return
        # Its answer could arrive after a later one on the session, and be lower.
        reading = self._readings.pop(generation, None)
        if reading:
            reading.close()
        drain = self._drains[generation] = _Drain(self, generation, session)
        if generation in self._awaited:
            drain.want()

    def has_drained(self, generation: Generation) -> None:
        """Close the session with a generation."""
        self._drains.pop(generation).close()
        self._awaited.discard(generation)

    # ---- a round

    def begin(self, path: str, status: Status, seconds: float) -> None:
        """Ask all generations.

        Args:
            path: of the control socket.
            status: which generations there are.
            seconds: how long the round may take.

        """
        self._end = time.monotonic() + seconds
        found = {
            (one["number"], one["pid"]): one.get("state") == "current"
            for one in mappings(status.get("generations"))
            if isinstance(one.get("number"), int) and isinstance(one.get("pid"), int)
        }
        # One that drained before this process started cannot be read.
        self._alive = {one for one, is_current in found.items() if is_current or self.totals.knows(one)}
        self._awaited = self._alive | self._drains.keys()
        for generation in tuple(self._awaited):
            if generation in self._drains:
                self._drains[generation].want()
                continue
            with contextlib.suppress(NoInstanceError):
                connection = _connect(path)
                if connection:
                    self._readings[generation] = _Reading(self, generation, connection)
                    continue
            self._awaited.discard(generation)

    @property
    def is_over(self) -> bool:
        """Whether the round has ended."""
        return not self._end

    def has_read(self, generation: Generation, table: Table) -> None:
        """Take what a generation has answered."""
        if table.rows:
            self.totals.read(generation, table)
        self._awaited.discard(generation)
        reading = self._readings.pop(generation, None)
        if reading:
            reading.close()

    # ---- time

    def next_deadline(self) -> float:
        """Return when to call `proceed` at the latest; infinity for never."""
        round_ends = [self._end] if self._end else []
        return min((*round_ends, *(drain.deadline for drain in self._drains.values())), default=float("inf"))

    def proceed(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        for drain in list(self._drains.values()):
            if now >= drain.deadline:
                drain.late()
        if self._end and (now >= self._end or not self._awaited):
            self._end = 0.0
            for reading in list(self._readings.values()):
                reading.give_up()
            self._awaited.clear()
            # Those that began to drain since the status was asked for are not in it.
            self.totals.living(self._alive | self._drains.keys())


def _connect(path: str) -> socket.socket | None:
    """Return a connection to the control socket; None if its listen queue is full.

    Raises:
        NoInstanceError: nothing that we trust listens.

    """
    connection = Connection(path)
    connection.connect()
    return connection.socket
