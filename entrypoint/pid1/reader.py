"""PID 1's side of the reader: sends requests, and handles missing answers.

`pid1/reading.py` does all work on configuration files, because its duration depends on their authors. PID 1 never
blocks on it: each request is answered by an event, if only by a failure. A slow reader is killed; one that cannot be
killed, because a disk hangs, is left alone.
"""

from __future__ import annotations

import os
import select
import time

from entrypoint.core import look
from entrypoint.core.events import Why
from entrypoint.core.exit_status import how_it_died
from entrypoint.core.outcome import Outcome, outcome_from_message
from entrypoint.lean import contextlib
from entrypoint.lean.collections import Callable, Collection, Iterable, deque
from entrypoint.lean.record import record
from entrypoint.lean.typing import Protocol
from entrypoint.pid1.children import Children
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.packets import PacketSocket, pair
from entrypoint.system.state_file import is_sealed

READ_WITHIN = 30.0
"""Seconds. A million files take ten; candidates wait for a shorter time."""
MOST_READERS = 4
"""At once: those that cannot be killed, and one that answers."""
_DIES_WITHIN = 1.0
"""Seconds from EOF until the reader must have exited; then it is killed."""
_WRITES_WITHIN = 1.0
"""Seconds that the end waits for what is being written."""
_FIRST_NUMBER = -2
"""Readers have this process number, and those below."""
_NO_READER = _FIRST_NUMBER - MOST_READERS
"""No process has this number; 0 is the exporter."""
_ALARM = "reader"

_ANSWERS = {
    look.LOOK: look.FOUND,
    look.LOOK_WITH_TEXTS: look.FOUND,
    look.KEEP: look.KEPT,
    look.KEEP_SERVERS: look.KEPT,
    look.KEEP_TABLE: look.KEPT,
    look.RESTORE: look.RESTORED,
    look.RESTORE_SERVERS: look.RESTORED,
    look.APPLY: look.APPLIED,
    look.LEARN: look.LEARNED,
}
_OF_STATE_FILES = {look.KEPT, look.RESTORED}

Asked = tuple[Why, int]
"""Why to look at the disk, and for which generation."""


class Listener(Protocol):
    """Gets the answers: `ConfigStore`, which owns the reader."""

    def found(self, found: look.Found, texts: int | None, asked: tuple[Asked, ...]) -> None:
        """A look has ended; the caller closes the descriptor `texts` afterwards."""

    def known(self) -> look.Known:
        """Return what is known of the current generation."""

    def applied(self, number: int, outcome: Outcome, found: look.Found, texts: int | None) -> None:
        """A generation was given changed files; the caller closes the descriptor `texts` afterwards."""

    def learned(self, before: look.Known, after: look.Known) -> None:
        """The current generation was asked which files it has read."""

    def restored(self, kind: bytes, problem: str, content: int | None) -> None:
        """A file in the state directory was read; the caller closes the descriptor `content` afterwards."""

    def not_kept(self, kind: bytes, problem: str) -> None:
        """A file in the state directory could not be written."""

    def stirred(self) -> None:
        """A file may have changed."""

    def polling(self, why: str) -> None:
        """Why not every change is reported; empty when all are."""


@record()
class _Request:
    kind: bytes
    asked: list[Asked]
    content: int | None = None
    backends: tuple[str, ...] = ()
    known: look.Known = look.Known()
    """As it was sent."""
    number: int = 0
    """The generation that is to take changed files."""
    again: bool = False
    """It was sent to a reader that has died."""


class Reader:
    """Owns the socket to the reader, and the requests without an answer."""

    def __init__(
        self, runtime: Runtime, children: Children, run: Callable[[PacketSocket], None], listener: Listener
    ) -> None:
        """Begin without a process; `run` is called in the forked one, with its end of the socket."""
        self._runtime = runtime
        self._children = children
        self._run = run
        self._listener = listener
        self._line: PacketSocket | None = None
        self._number = _NO_READER
        self._alive: set[int] = set()
        self._sent: _Request | None = None
        self._waiting: deque[_Request] = deque()

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self) -> list[int]:
        """Return the numbers of all living readers."""
        return sorted(self._alive)

    def restore(self, saved: Iterable[int]) -> None:
        """Kill the previous program's readers: their sockets are closed, and their requests are repeated.

        A hanging one must not write the state directory after newer readers.
        """
        for number in saved:
            self._alive.add(number)
            self._children.restore_helper(number, lambda status, number=number: self._ended(number, status))  # type: ignore[misc]
            self._children.kill(number)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def look(self, why: Why, number: int, backends: Collection[str] = (), texts: int | None = None) -> None:
        """Look at the disk as it is from now on: a look that has begun does not count.

        Args:
            why: what it is for.
            number: of the generation that it is about.
            backends: whose health checks are compared with those in `texts`.
            texts: of the current generation; the descriptor is taken over.

        """
        kind = look.LOOK_WITH_TEXTS if why is Why.START else look.LOOK
        for request in self._waiting:
            if _ANSWERS[request.kind] == look.FOUND:
                if kind == look.LOOK_WITH_TEXTS:
                    request.kind = kind
                    _close(request.content)
                    request.content, request.backends = texts, tuple(backends)
                if (why, number) not in request.asked:
                    request.asked.append((why, number))
                self._proceed()
                return
        self._ask(_Request(kind, [(why, number)], texts, tuple(backends)))

    def apply(self, number: int, channel: int) -> None:
        """Give the current generation what has changed on disk; the descriptor of its channel is taken over."""
        self._ask(_Request(look.APPLY, [], channel, number=number))

    def learn(self, channel: int) -> None:
        """Ask the current generation which files it has read; the descriptor of its channel is taken over."""
        self._ask(_Request(look.LEARN, [], channel))

    def write_state_file(self, kind: bytes, content: int) -> None:
        """Write a file, most of them in the state directory; takes over the descriptor. `kind` begins with KEEP."""
        for request in [request for request in self._waiting if request.kind == kind]:
            self._waiting.remove(request)
            _close(request.content)
        self._ask(_Request(kind, [], content))

    def read_state_file(self, kind: bytes) -> None:
        """Read a file in the state directory; `kind` is RESTORE or RESTORE_SERVERS."""
        self._ask(_Request(kind, []))

    def _ask(self, request: _Request) -> None:
        self._waiting.append(request)
        self._proceed()

    def _proceed(self) -> None:
        """Send the next request, unless one is pending."""
        if self._sent or not self._waiting:
            return
        try:
            line = self._line or self._start()
            self._sent = request = self._waiting.popleft()
            message = request.kind
            if _ANSWERS[request.kind] not in _OF_STATE_FILES:
                request.known = self._listener.known()
                message += b"\0" + look.known_to_message(request.known, request.backends)
            line.send(message, request.content)
        except BrokenPipeError:
            # It has just died, and `_ended` will follow.
            pass
        except (OSError, MemoryError) as error:
            self._give_up(f"no process to read it with: {getattr(error, 'strerror', None) or error or 'no memory'}")
            return
        late = f"reading it takes longer than {READ_WITHIN:g} s"
        self._runtime.event_loop.call_later(_ALARM, READ_WITHIN, lambda: self._give_up(late))

    def _start(self) -> PacketSocket:
        free = [
            number for number in range(_FIRST_NUMBER, _FIRST_NUMBER - MOST_READERS, -1) if number not in self._alive
        ]
        if not free:
            raise OSError(f"{MOST_READERS} hang already, and cannot be killed")
        number = free[0]
        ours, theirs = pair(look.MOST_BYTES)
        try:
            self._children.fork_helper(number, lambda: self._run(theirs), lambda status: self._ended(number, status))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._alive.add(number)
        self._line, self._number = ours, number
        self._runtime.event_loop.add_reader(ours, lambda: self._hear(ours))
        return ours

    # ---- answers -----------------------------------------------------------------------------------------------------

    def _hear(self, line: PacketSocket) -> None:
        try:
            message, descriptor = line.receive(look.MOST_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # EOF from a reader that has not read all requests.
            message, descriptor = b"", None
        except (OSError, ValueError) as error:
            self._give_up(f"the process that reads it cannot be understood: {error}")
            return
        if not message:
            # Wait for its exit status, which says more than EOF.
            self._runtime.event_loop.remove(line)
            why = "the process that reads it hung up"
            self._runtime.event_loop.call_later(_ALARM, _DIES_WITHIN, lambda: self._give_up(why))
            return
        try:
            self._understand(message, descriptor)
        except ValueError as error:
            self._give_up(f"the process that reads it cannot be understood: {error}")
        finally:
            _close(descriptor)

    def _understand(self, message: bytes, descriptor: int | None) -> None:
        kind, _, text = message.partition(b"\0")
        if descriptor is not None and not (kind in {look.FOUND, look.RESTORED, look.APPLIED} and is_sealed(descriptor)):
            raise ValueError("a descriptor that it did not make")
        if kind == look.STIRRED:
            self._listener.stirred()
            return
        problem = text.decode("utf-8", "replace")
        if kind == look.POLLING:
            self._listener.polling(problem)
            return
        request = self._sent
        if not request or kind != _ANSWERS[request.kind]:
            raise ValueError("an answer without a request")
        found = look.from_message(text) if kind == look.FOUND else None
        applied = outcome_from_message(text) if kind == look.APPLIED else None
        learned = look.known_from(text.split(b"\0"))[0] if kind == look.LEARNED else None
        self._done()
        try:
            if found:
                self._listener.found(found, descriptor, tuple(request.asked))
            elif applied:
                self._listener.applied(request.number, *applied, descriptor)
            elif learned:
                self._listener.learned(request.known, learned)
            elif kind == look.RESTORED:
                self._listener.restored(request.kind, problem, descriptor)
            elif problem:
                self._listener.not_kept(request.kind, problem)
        finally:
            self._proceed()

    def _done(self) -> None:
        self._runtime.event_loop.cancel(_ALARM)
        if self._sent:
            _close(self._sent.content)
            self._sent = None

    # ---- failures ----------------------------------------------------------------------------------------------------

    def _give_up(self, why: str) -> None:
        """Kill the reader, and do not wait: the kill is delayed while a disk hangs."""
        self._children.kill(self._number)
        self._fail(why)

    def _ended(self, number: int, status: int) -> None:
        self._alive.discard(number)
        if number != self._number:
            return
        request, self._sent = self._sent, None
        self._let_go()
        if not request:
            # Nothing watches the files now: the next look starts another reader.
            self._listener.stirred()
            return
        try:
            if request.again or request.kind in {look.APPLY, look.LEARN}:
                self._tell_failure(request, f"the process that reads it {how_it_died(status)}")
            else:
                request.again = True
                self._waiting.appendleft(request)
        finally:
            # What waits was not sent to it: it goes to the next reader.
            self._proceed()

    def _fail(self, why: str) -> None:
        """Drop the reader, and fail all requests; the next request starts another reader."""
        self._let_go()
        requests = [*([self._sent] if self._sent else ()), *self._waiting]
        self._sent = None
        self._waiting.clear()
        with contextlib.ExitStack() as stack:
            # All of them, even if one callback raises.
            for request in reversed(requests):
                stack.callback(self._tell_failure, request, why)

    def _tell_failure(self, request: _Request, why: str) -> None:
        _close(request.content)
        answer = _ANSWERS[request.kind]
        if answer == look.KEPT:
            self._listener.not_kept(request.kind, why)
        elif answer == look.RESTORED:
            self._listener.restored(request.kind, why, None)
        elif answer == look.LEARNED:
            self._listener.learned(request.known, request.known)
        else:
            found = look.Found(unreadable=why, unfinished=True, polled=True)
            if answer == look.APPLIED:
                self._listener.applied(request.number, Outcome(problem=why), found, None)
            else:
                self._listener.found(found, None, tuple(request.asked))

    def _let_go(self) -> None:
        self._runtime.event_loop.cancel(_ALARM)
        if self._line:
            self._runtime.event_loop.remove(self._line)
            self._line.close()
            self._line, self._number = None, _NO_READER

    def _is_writing(self) -> bool:
        requests = (*((self._sent,) if self._sent else ()), *self._waiting)
        return any(_ANSWERS[request.kind] == look.KEPT for request in requests)

    def close(self) -> None:
        """Kill the reader, once it has written what it was given, or has not in time."""
        deadline = time.monotonic() + _WRITES_WITHIN
        while self._line and self._is_writing() and time.monotonic() < deadline:
            poller = select.poll()
            poller.register(self._line, select.POLLIN)
            if poller.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                self._hear(self._line)
        if self._line:
            self._children.kill(self._number)
        self._let_go()


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
