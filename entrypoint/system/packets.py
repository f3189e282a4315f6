"""A pair of sockets for messages that arrive whole or not at all, each with a descriptor or without (unix(7))."""

import contextlib
import os
import socket
import sys

_ROOM_FOR_DESCRIPTORS = socket.CMSG_SPACE(4)


class PacketSocket:
    """One end of a pair."""

    def __init__(self, end: socket.socket) -> None:
        """Take the end."""
        self._end = end

    def fileno(self) -> int:
        """Return the descriptor, which is readable when there is a message or will never be one again."""
        return self._end.fileno()

    def send(self, message: bytes, descriptor: int | None = None) -> None:
        """Send a message.

        Raises:
            OSError: it is too long, nobody will read it, or this end does not block and there is no room.

        """
        socket.send_fds(self._end, [message], [] if descriptor is None else [descriptor])

    def receive(self, most: int) -> tuple[bytes, int | None]:
        """Return a message of at most so many bytes, and the descriptor that came with it; empty at the end.

        Raises:
            BlockingIOError: there is none, and this end does not block.
            ValueError: it is longer.
            OSError: there are no descriptors left for what came with it.

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
            raise ValueError("a message that is longer than it may be, or has come without its descriptor")
        return message, descriptors[0] if descriptors else None

    def close(self) -> None:
        """Let go of it."""
        self._end.close()


def pair(most: int) -> tuple[PacketSocket, PacketSocket]:
    """Return an end that does not block and one that does, for messages of at most so many bytes.

    Raises:
        OSError: there are no descriptors left.

    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    for end in (ours, theirs):
        # A message must fit in as a whole, whatever net.core.wmem_default says.
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * most)
    return PacketSocket(ours), PacketSocket(theirs)
