"""PID 1's side of the reader: what it is asked, and what becomes of that where it does not answer.

Everything about files is the work of `pid1/reading.py`, because its length is decided by who writes them. So it is
never waited for: an answer is an event, and there is one for each question, if only that there is none. A reader that
takes too long is killed; one that cannot even be killed, because a disk hangs, is left alone.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable

from entrypoint.core.events import Why
from entrypoint.core.exit_status import how_it_died
from entrypoint.core.look import (
    FOUND,
    KEEP,
    KEPT,
    LOOK,
    LOOK_WITH_TEXTS,
    MOST_BYTES,
    POLLING,
    RESTORE,
    RESTORED,
    STIRRED,
    Found,
    from_message,
)
from entrypoint.lean.record import record
from entrypoint.lean.typing import Protocol
from entrypoint.pid1.children import Children
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.packets import PacketSocket, pair
from entrypoint.system.state_file import is_sealed

READ_WITHIN = 30.0
"""Seconds. A million files take ten; and who needs an answer soon does not wait so long."""
MOST_READERS = 4
"""That live at once: those that cannot be killed, and one that answers."""
_DIES_WITHIN = 1.0
"""Seconds from the end of the line to a reader until it is dead; else it is killed."""
_FIRST_NUMBER = -2
"""Stands for the readers where generations have numbers: this, and those below."""
_NO_READER = _FIRST_NUMBER - MOST_READERS
"""Nobody's number: 0 is the exporter's."""
_ALARM = "reader"

_ANSWERS = {LOOK: FOUND, LOOK_WITH_TEXTS: FOUND, KEEP: KEPT, RESTORE: RESTORED}

Asked = tuple[Why, int]
"""What a look is for, and the generation that it is about."""


class Listener(Protocol):
    """Whom the reader tells: `ConfigStore`, which owns it."""

    def found(self, found: Found, texts: int | None, asked: tuple[Asked, ...]) -> None:
        """A look has ended; the texts are a descriptor that is closed afterwards."""

    def restored(self, problem: str, texts: int | None) -> None:
        """The state directory was read; the texts are a descriptor that is closed afterwards."""

    def not_kept(self, problem: str) -> None:
        """The state directory could not be written."""

    def stirred(self) -> None:
        """A file may have changed."""

    def polling(self, why: str) -> None:
        """Not every change will be reported, and why; empty when every one will be."""


@record()
class _Request:
    kind: bytes
    asked: list[Asked]
    texts: int | None = None
    again: bool = False
    """It was sent once already, to a reader that died."""


class Reader:
    """Owns the line to the reader, and what has been asked and not answered."""

    def __init__(
        self, runtime: Runtime, children: Children, run: Callable[[PacketSocket], None], listener: Listener
    ) -> None:
        """Take what is needed; nothing is started.

        Args:
            runtime: what it is waited for with.
            children: where it is born.
            run: what the reader does; called in the forked process with its end of the line.
            listener: who is told.

        """
        self._runtime = runtime
        self._children = children
        self._run = run
        self._listener = listener
        self._line: PacketSocket | None = None
        self._number = _NO_READER
        self._alive: set[int] = set()
        self._sent: _Request | None = None
        self._waiting: deque[_Request] = deque()

    # ---- another program takes our place ---------------------------------------------------------------------------

    def serialize(self) -> list[int]:
        """Return the numbers of all that live."""
        return sorted(self._alive)

    def restore(self, left: Iterable[int]) -> None:
        """End the readers of our last life, to which the line has gone; what they were asked is to be asked again.

        One that hangs must not write the state directory when others have written it since.
        """
        for number in left:
            self._alive.add(number)
            self._children.adopt_helper(number, lambda status, number=number: self._ended(number, status))  # type: ignore[misc]
            self._children.kill(number)

    # ---- what is asked ---------------------------------------------------------------------------------------------

    def look(self, why: Why, number: int) -> None:
        """Have the disk looked at, from now on: by the next look, and not by one that has begun."""
        kind = LOOK_WITH_TEXTS if why is Why.START else LOOK
        for request in self._waiting:
            if _ANSWERS[request.kind] == FOUND:
                if kind == LOOK_WITH_TEXTS:
                    request.kind = kind
                if (why, number) not in request.asked:
                    request.asked.append((why, number))
                self._proceed()
                return
        self._ask(_Request(kind, [(why, number)]))

    def write_state_file(self, texts: int) -> None:
        """Have the state directory written; the descriptor is taken over."""
        for request in [request for request in self._waiting if request.kind == KEEP]:
            self._waiting.remove(request)
            _close(request.texts)
        self._ask(_Request(KEEP, [], texts))

    def read_state_file(self) -> None:
        """Have the state directory read."""
        self._ask(_Request(RESTORE, []))

    def _ask(self, request: _Request) -> None:
        self._waiting.append(request)
        self._proceed()

    def _proceed(self) -> None:
        """Send the next request, if none is being answered."""
        if self._sent or not self._waiting:
            return
        try:
            line = self._line or self._start()
            self._sent = request = self._waiting.popleft()
            line.send(request.kind, request.texts)
        except BrokenPipeError:
            # It has just died, and that it did is about to be told.
            pass
        except (OSError, MemoryError) as error:
            self._give_up(f"no process to read it with: {getattr(error, 'strerror', None) or error or 'no memory'}")
            return
        self._runtime.event_loop.call_later(_ALARM, READ_WITHIN, self._late)

    def _start(self) -> PacketSocket:
        free = [
            number for number in range(_FIRST_NUMBER, _FIRST_NUMBER - MOST_READERS, -1) if number not in self._alive
        ]
        if not free:
            raise OSError(f"{MOST_READERS} hang already, and cannot be killed")
        number = free[0]
        ours, theirs = pair(MOST_BYTES)
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

    # ---- what it says ----------------------------------------------------------------------------------------------

    def _hear(self, line: PacketSocket) -> None:
        try:
            message, descriptor = line.receive(MOST_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # The same end, of one that has not read all that it was asked.
            message, descriptor = b"", None
        except (OSError, ValueError) as error:
            self._give_up(f"the process that reads it cannot be understood: {error}")
            return
        if not message:
            # Its end says more than that of the line.
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
        if descriptor is not None and not (kind in {FOUND, RESTORED} and is_sealed(descriptor)):
            raise ValueError("a descriptor that is none of ours")
        if kind == STIRRED:
            self._listener.stirred()
            return
        words = text.decode("utf-8", "replace")
        if kind == POLLING:
            self._listener.polling(words)
            return
        request = self._sent
        if not request or kind != _ANSWERS[request.kind]:
            raise ValueError("an answer that nobody has asked for")
        found = from_message(text) if kind == FOUND else None
        self._done()
        try:
            if found:
                self._listener.found(found, descriptor, tuple(request.asked))
            elif kind == RESTORED:
                self._listener.restored(words, descriptor)
            elif words:
                self._listener.not_kept(words)
        finally:
            self._proceed()

    def _done(self) -> None:
        self._runtime.event_loop.cancel(_ALARM)
        if self._sent:
            _close(self._sent.texts)
            self._sent = None

    # ---- what it does not say --------------------------------------------------------------------------------------

    def _late(self) -> None:
        self._give_up(f"reading it takes longer than {READ_WITHIN:g} s")

    def _give_up(self, why: str) -> None:
        """Kill the reader; where a disk hangs that takes until it does not any more, and nobody waits for it."""
        self._children.kill(self._number)
        self._fail(why)

    def _ended(self, number: int, status: int) -> None:
        self._alive.discard(number)
        if number != self._number:
            return
        request = self._sent
        if request and not request.again:
            # Whoever killed it, what was asked is still to be answered.
            request.again = True
            self._waiting.appendleft(request)
            self._sent = None
            self._let_go()
            self._proceed()
            return
        self._fail(f"the process that reads it {how_it_died(status)}")
        if not request:
            # Nobody watches any more: the next look starts another one.
            self._listener.stirred()

    def _fail(self, why: str) -> None:
        """Let go of the reader, and answer everybody who waits for it; the next question starts another one."""
        self._let_go()
        requests = [*([self._sent] if self._sent else ()), *self._waiting]
        self._sent = None
        self._waiting.clear()
        with contextlib.ExitStack() as stack:
            # Each of them, whatever happens to another one.
            for request in reversed(requests):
                stack.callback(self._tell_failure, request, why)

    def _tell_failure(self, request: _Request, why: str) -> None:
        _close(request.texts)
        if request.kind == KEEP:
            self._listener.not_kept(why)
        elif request.kind == RESTORE:
            self._listener.restored(why, None)
        else:
            found = Found(unreadable=why, unfinished=True, polled=True)
            self._listener.found(found, None, tuple(request.asked))

    def _let_go(self) -> None:
        self._runtime.event_loop.cancel(_ALARM)
        if self._line:
            self._runtime.event_loop.remove(self._line)
            self._line.close()
            self._line, self._number = None, _NO_READER

    def close(self) -> None:
        """End the reader."""
        if self._line:
            self._children.kill(self._number)
        self._let_go()


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


__all__ = ["Asked", "Reader"]
