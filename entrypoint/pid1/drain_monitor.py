"""One session with the CLI of each draining generation, opened just before its soft stop.

haproxy's soft stop closes the CLI's listener with all others, so only a session opened before can count connections.
But each session is a job that keeps the process alive. So a serving generation has none: others can stop it without
waiting for us. A draining one is asked for its connections repeatedly, and the session is closed at zero.
"""

from __future__ import annotations

from entrypoint.haproxy import runtime_api
from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Callable
from entrypoint.system.event_loop import EventLoop

_GREETING = f"prompt;set timeout cli 30;{runtime_api.WHO}\n".encode()
"""In prompt mode haproxy closes a session only after 30 idle seconds (management guide, section 9.3), so even a hanging
safe_reload does not keep a generation alive for longer."""
_QUESTION = runtime_api.WHO.encode() + b"\n"
_PROMPT = b"\n> "
_ROOM = 65536
_STOP_WITHIN = 0.2
"""Seconds; after them the soft stop is sent without an answer."""
_ANSWER_WITHIN = 2.0
"""Seconds; after them the session is closed, so that it cannot keep the generation alive."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two questions, doubling; a drained generation exits at most so much later."""


class DrainMonitor:
    """Owns the session with one generation until it has no clients, or stops answering."""

    def __init__(self, event_loop: EventLoop, session: socket.socket, send: Callable[[], None]) -> None:
        """Ask the first question.

        Args:
            event_loop: watches the session.
            session: a new one, now owned by this monitor.
            send: sends the soft stop; called once, as soon as haproxy has accepted the session or failed to.

        """
        self._event_loop = event_loop
        self._session = session
        self._send: Callable[[], None] | None = send
        """None once it has been called."""
        self._answer = b""
        self._pause = _FIRST_PAUSE
        self.is_open = True
        self.connections: int | None = None
        """How many it had at most a second ago; None if unknown."""
        try:
            event_loop.add_reader(session, self._hear)
        except OSError:
            self.close()
            return
        event_loop.call_later((session, "stop"), _STOP_WITHIN, self.soft_stop)
        self._ask(_GREETING)

    def soft_stop(self) -> None:
        """Send the soft stop now, unless it has been sent."""
        send, self._send = self._send, None
        if send:
            send()

    def close(self) -> None:
        """Close the session, and send the soft stop if it is pending."""
        if self.is_open:
            self.is_open, self.connections = False, None
            self._event_loop.cancel(self._session)
            self._event_loop.cancel((self._session, "stop"))
            self._event_loop.remove(self._session)
            self._session.close()
            self.soft_stop()

    def _ask(self, question: bytes = _QUESTION) -> None:
        self._event_loop.call_later(self._session, _ANSWER_WITHIN, self.close)
        # An error shows as a closed connection in `_hear`.
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
        self.soft_stop()
        self._event_loop.call_later(self._session, self._pause, self._ask)
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)
