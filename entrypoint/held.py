"""One session with the CLI of each generation that drains, begun before it was told to.

haproxy's soft stop closes the listener of the CLI with all others, so a generation that drains can be asked only by who
is connected already. But a session is one of the jobs that keep the process alive. So there is none to a generation
that serves: whoever else tells that one to stop would wait for us. And one that drains is asked again and again how
many clients are left, and when there are none, we hang up. That is never wrong: it ends nothing but our asking.
"""

import contextlib
import socket
from collections.abc import Callable

from entrypoint.core import runtime_api
from entrypoint.core.records import dataclass
from entrypoint.sources import Sources

_GREETING = f"prompt;set timeout cli 30;{runtime_api.WHO}\n".encode()
"""With a prompt haproxy does not hang up after an answer (management guide, section 9.3), but on who asks nothing for
30 seconds: not even a safe_reload that hangs keeps a generation for longer."""
_QUESTION = runtime_api.WHO.encode() + b"\n"
_PROMPT = b"\n> "
_ROOM = 65536
_TOLD_WITHIN = 0.2
"""Seconds; a generation that does not answer is told to leave all the same."""
_ANSWER_WITHIN = 2.0
"""Seconds; after them we hang up: what we do not understand must not keep it."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two questions; it doubles. What has drained is gone by so much later, at most."""


@dataclass(slots=True)
class _Held:
    """A session, and what is known through it."""

    session: socket.socket
    leave: Callable[[], None] | None
    """Tells the generation to leave; None once it has been told."""
    answer: bytes = b""
    pause: float = _FIRST_PAUSE
    connections: int | None = None


class HeldSessions:
    """Owns the sessions, by the number of the generation."""

    def __init__(self, sources: Sources) -> None:
        """Begin without any."""
        self._sources = sources
        self._held: dict[int, _Held] = {}

    def drain(self, number: int, session: socket.socket, leave: Callable[[], None]) -> None:
        """Follow a generation that is to leave.

        Args:
            number: of the generation.
            session: a new one, which is ours from now on.
            leave: tells it to; called once, as soon as haproxy has accepted the session, or does not.

        """
        if number in self._held:
            session.close()
            leave()
            return
        held = self._held[number] = _Held(session, leave)
        try:
            self._sources.add(session, lambda: self._hear(number, held))
        except OSError:
            self.close(number)
            return
        self._sources.alarm((session, "leave"), _TOLD_WITHIN, lambda: self._tell(held))
        self._ask(number, held, _GREETING)

    def connections(self, number: int) -> int | None:
        """Return how many connections a generation that drains had a second ago, or later; None if nobody knows."""
        held = self._held.get(number)
        return held.connections if held else None

    def tell_all(self) -> None:
        """Tell all that are to leave, now: who takes our place does not know of it."""
        for held in self._held.values():
            self._tell(held)

    def close(self, number: int) -> None:
        """Hang up; who was to be told to leave is told."""
        held = self._held.pop(number, None)
        if held:
            self._sources.cancel(held.session)
            self._sources.cancel((held.session, "leave"))
            self._sources.remove(held.session)
            held.session.close()
            self._tell(held)

    def _tell(self, held: _Held) -> None:
        leave, held.leave = held.leave, None
        if leave:
            leave()

    def _ask(self, number: int, held: _Held, question: bytes = _QUESTION) -> None:
        self._sources.alarm(held.session, _ANSWER_WITHIN, lambda: self.close(number))
        # That nobody listens shows as a closed connection.
        with contextlib.suppress(OSError):
            held.session.send(question)

    def _hear(self, number: int, held: _Held) -> None:
        try:
            data = held.session.recv(_ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        held.answer += data
        if not data or len(held.answer) > _ROOM:
            self.close(number)
            return
        connections = None
        if held.answer.endswith(_PROMPT):
            connections = runtime_api.connections(held.answer.decode(errors="replace"))
        if connections is None:
            return
        held.answer = b""
        if not connections:
            self.close(number)
            return
        held.connections = connections
        self._tell(held)
        self._sources.alarm(held.session, held.pause, lambda: self._ask(number, held))
        held.pause = min(_LONGEST_PAUSE, held.pause * 2)
