"""Refuses the clients of passed sockets that no `bind` uses.

Such a socket listens as long as systemd or podman hold it, so the kernel completes handshakes although nobody accepts.
Here its clients are accepted and reset at once, instead of waiting for nothing.
"""

from __future__ import annotations

from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Collection
from entrypoint.system.event_loop import EventLoop

_AT_ONCE = 64
"""At most so many in one turn of the event loop."""
_PAUSE = 0.01
"""Seconds between two turns: this bounds the CPU use."""
_RESET_ON_CLOSE = bytes((1, 0, 0, 0, 0, 0, 0, 0))


class Refusing:
    """Owns no socket; it only watches them."""

    def __init__(self, event_loop: EventLoop) -> None:
        """Begin without any."""
        self._event_loop = event_loop
        self._sockets: frozenset[socket.socket] = frozenset()

    def refuse_at(self, sockets: Collection[socket.socket]) -> None:
        """Refuse the clients of exactly these sockets, which must listen and be non-blocking."""
        wanted = frozenset(sockets)
        for listener in self._sockets - wanted:
            self._event_loop.remove(listener)
            self._event_loop.cancel(listener)
        for listener in wanted - self._sockets:
            self._wait(listener)
        self._sockets = wanted

    def _wait(self, listener: socket.socket) -> None:
        self._event_loop.add_reader(listener, lambda: self._refuse(listener))

    def _refuse(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(_AT_ONCE):
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._event_loop.remove(listener)
        self._event_loop.call_later(listener, _PAUSE, lambda: self._wait(listener))
