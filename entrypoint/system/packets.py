"""A pair of sockets for messages that arrive whole or not at all, each with at most one descriptor (unix(7))."""

from __future__ import annotations

import os
import sys

from entrypoint.lean import contextlib, socket

_ROOM_FOR_DESCRIPTORS = socket.CMSG_SPACE(4)


class PacketSocket:
    """One end of a pair."""

    def __init__(self, end: socket.socket) -> None:
        """Own one end."""
        self._end = end

    def fileno(self) -> int:
        """Return the descriptor; it is readable if there is a message or the other end is closed."""
        return self._end.fileno()

    def send(self, message: bytes, descriptor: int | None = None) -> None:
        """Send a message.

        Raises:
            OSError: it is too long, the other end is closed, or this end does not block and there is no room.

        """
        rights = b"" if descriptor is None else descriptor.to_bytes(4, sys.byteorder)
        self._end.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [])

    def receive(self, most: int) -> tuple[bytes, int | None]:
        """Return the next message, at most so many bytes, and its descriptor; b"" if the other end is closed.

        Raises:
            BlockingIOError: there is none, and this end does not block.
            ValueError: it is longer, or lost its descriptor.
            OSError: as recvmsg(2).

        """
        message, controls, flags, _ = self._end.recvmsg(most, _ROOM_FOR_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        descriptors = [
            int.from_bytes(data[at : at + 4], sys.byteorder)
            for level, kind, data in controls
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for at in range(0, len(data) - 3, 4)
        ]
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ValueError("the message is too long, or its descriptor was lost")
        return message, descriptors[0] if descriptors else None

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def pair(most: int) -> tuple[PacketSocket, PacketSocket]:
    """Return an end that does not block and one that does, for messages of at most so many bytes.

    Raises:
        OSError: no descriptors are left.

    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    for end in (ours, theirs):
        # A whole message must fit, whatever net.core.wmem_default is.
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * most)
    return PacketSocket(ours), PacketSocket(theirs)
