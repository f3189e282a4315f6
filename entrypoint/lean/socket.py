"""Replaces `socket`, which takes 2 ms at the start of PID 1: here families and kinds of sockets are plain numbers."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import *  # noqa: F403
    from socket import socket, socketpair
else:
    import _socket
    from _socket import *  # noqa: F403

    class socket(_socket.socket):  # noqa: N801  # as in the standard library
        """A socket; closed at the end of a `with`."""

        __slots__ = ("__weakref__",)

        def __enter__(self) -> socket:  # noqa: PYI034  # no module `typing` here
            """Return the socket."""
            return self

        def __exit__(self, *_: object) -> None:
            """Close it."""
            self.close()

        def accept(self) -> tuple[socket, object]:
            """Return the next connection, which blocks, and its address."""
            descriptor, address = self._accept()
            return socket(self.family, self.type, self.proto, descriptor), address

        def set_inheritable(self, inheritable: bool) -> None:  # as in the standard library
            """Set whether children inherit it."""
            os.set_inheritable(self.fileno(), inheritable)

    def socketpair(family: int = AF_UNIX, kind: int = SOCK_STREAM, protocol: int = 0) -> tuple[socket, socket]:  # noqa: F405
        """Return two sockets that are connected with each other."""
        ends = _socket.socketpair(family, kind, protocol)
        return tuple(socket(family, kind, protocol, end.detach()) for end in ends)


__all__ = [name for name in globals() if not name.startswith("_") and name not in {"annotations", "os"}]
