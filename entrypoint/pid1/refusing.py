"""How the clients of a passed socket that no `bind` uses are refused.

It listens as long as systemd or podman hold it, so the kernel lets them connect whether anybody accepts or not. Here
they are accepted and reset at once, instead of kept waiting for nobody.
"""

import contextlib
import socket
from collections.abc import Collection

from entrypoint.system.event_loop import EventLoop

_AT_ONCE = 64
"""So many are refused before the loop goes on with something else."""
_PAUSE = 0.01
"""Seconds until the next ones: with it the CPU that they can have used is bounded, however many come."""
_RESET_ON_CLOSE = bytes((1, 0, 0, 0, 0, 0, 0, 0))


class Refusing:
    """Owns no socket, only the waiting for clients of some."""

    def __init__(self, event_loop: EventLoop) -> None:
        """Begin with none.

        Args:
            event_loop: where to wait.

        """
        self._event_loop = event_loop
        self._sockets: frozenset[socket.socket] = frozenset()

    def refuse_at(self, sockets: Collection[socket.socket]) -> None:
        """Refuse the clients of these sockets, which listen and do not block, and of no others any more."""
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
