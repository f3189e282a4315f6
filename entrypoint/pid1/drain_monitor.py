"""One session with the CLI of each generation that drains, begun before it was told to.

haproxy's soft stop closes the listener of the CLI with all others, so a generation that drains can be asked only by who
is connected already. But a session is one of the jobs that keep the process alive. So there is none to a generation
that serves: whoever else tells that one to stop would wait for us. And one that drains is asked again and again how
many clients are left, and when there are none, we hang up. That is never wrong: it ends nothing but our asking.
"""

import contextlib
import socket
from collections.abc import Callable

from entrypoint.haproxy import runtime_api
from entrypoint.system.event_loop import EventLoop

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


class DrainMonitor:
    """Owns the session with one generation, and follows it until it has no clients, or says no more."""

    def __init__(self, event_loop: EventLoop, session: socket.socket, leave: Callable[[], None]) -> None:
        """Follow a generation that is to leave.

        Args:
            event_loop: where to wait for its answers.
            session: a new one, which is ours from now on.
            leave: tells it to; called once, as soon as haproxy has accepted the session, or does not.

        """
        self._event_loop = event_loop
        self._session = session
        self._leave: Callable[[], None] | None = leave
        """None once it has been told."""
        self._answer = b""
        self._pause = _FIRST_PAUSE
        self.is_open = True
        self.connections: int | None = None
        """How many it had a second ago, or later; None if nobody knows."""
        try:
            event_loop.add_reader(session, self._hear)
        except OSError:
            self.close()
            return
        event_loop.call_later((session, "leave"), _TOLD_WITHIN, self.tell)
        self._ask(_GREETING)

    def tell(self) -> None:
        """Tell it to leave, now, unless it has been told."""
        leave, self._leave = self._leave, None
        if leave:
            leave()

    def close(self) -> None:
        """Hang up; who was to be told to leave is told."""
        if self.is_open:
            self.is_open, self.connections = False, None
            self._event_loop.cancel(self._session)
            self._event_loop.cancel((self._session, "leave"))
            self._event_loop.remove(self._session)
            self._session.close()
            self.tell()

    def _ask(self, question: bytes = _QUESTION) -> None:
        self._event_loop.call_later(self._session, _ANSWER_WITHIN, self.close)
        # That nobody listens shows as a closed connection.
        with contextlib.suppress(OSError):
            self._session.send(question)

    def _hear(self) -> None:
        try:
            data = self._session.recv(_ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._answer += data
        if not data or len(self._answer) > _ROOM:
            self.close()
            return
        connections = None
        if self._answer.endswith(_PROMPT):
            connections = runtime_api.connections(self._answer.decode(errors="replace"))
        if connections is None:
            return
        self._answer = b""
        if not connections:
            self.close()
            return
        self.connections = connections
        self.tell()
        self._event_loop.call_later(self._session, self._pause, self._ask)
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)
