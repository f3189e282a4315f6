"""The control socket: who may connect, bytes in and bytes out, never blocking PID 1.

Owns the socket's file. A connection belongs to the caller of `accept`.
"""

from __future__ import annotations

import os
import select
import struct

from entrypoint.lean import contextlib, socket

_ROOM = 16384
"""Bytes read at a time."""
_BACKLOG = 65535
"""Clients that may wait to be accepted, cut down by net.core.somaxconn. One that finds no room and does not block is
refused."""
_PIECE = 65536
_LONGEST_PATH = 107
"""Bytes of a socket's path (unix(7))."""


class Client:
    """One connection."""

    def __init__(self, connection: socket.socket, number: int, unsent: bytes = b"") -> None:
        """Own a non-blocking connection. The number is unique among the clients of one `Control`."""
        self.number = number
        self._connection = connection
        self._unsent = bytearray(unsent)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._connection.fileno()

    def receive(self) -> bytes | None:
        """Return what has arrived; b"" if nothing has yet, None if no more will come."""
        try:
            return self._connection.recv(_ROOM) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def send(self, data: bytes) -> bool:
        """Send now, or when the client reads; False if the client has gone."""
        self._unsent += data
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; False if the client has gone."""
        try:
            while self._unsent:
                sent = self._connection.send(self._unsent[:_PIECE])
                del self._unsent[:sent]
        except BlockingIOError:
            return True
        except OSError:
            self._unsent.clear()
            return False
        return True

    def lend(self, line: str, other: socket.socket) -> bool:
        """Send a line with a descriptor (SCM_RIGHTS); False if that cannot be done at once."""
        # Not socket.send_fds, which in Python 3.11 forgets its flags.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", other.fileno()))]
        try:
            return not self._unsent and bool(self._connection.sendmsg([line.encode()], rights, socket.MSG_NOSIGNAL))
        except OSError:
            return False

    @property
    def waits(self) -> bool:
        """Whether something has still to be sent."""
        return bool(self._unsent)

    def has_gone(self) -> bool:
        """Tell whether the client has hung up, as opposed to having finished sending (shutdown(2))."""
        poller = select.poll()
        poller.register(self._connection, 0)
        return bool(poller.poll(0))

    @property
    def unsent(self) -> bytes:
        """What has still to be sent."""
        return bytes(self._unsent)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class Control:
    """The listening socket RUNTIME-DIR/NAME.sock."""

    def __init__(self, path: str, listener: socket.socket) -> None:
        """Own a socket that listens at this path; `listen` makes one."""
        self.path = path
        self._listener = listener
        self._file = _file(path)
        self._last = 0

    def take_in(self, descriptor: int, unsent: bytes = b"") -> Client:
        """Take over a client of the previous program. `unsent` is sent when the caller flushes.

        Raises:
            OSError: the descriptor is not open.

        """
        connection = socket.socket(fileno=descriptor)
        connection.set_inheritable(False)
        connection.setblocking(False)
        self._last += 1
        return Client(connection, self._last, unsent)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._listener.fileno()

    def accept(self) -> Client | None:
        """Return a new connection if there is one and its peer is root or has our uid.

        Raises:
            OSError: no descriptors are left; the connection still waits.

        """
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        connection.setblocking(False)
        uid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in {0, os.geteuid()}:
            with connection, contextlib.suppress(OSError):
                connection.send(b"Permission denied: only root and the user of this instance may ask.\n")
            return None
        self._last += 1
        return Client(connection, self._last)

    @property
    def is_in_place(self) -> bool:
        """Whether the file at our path is still our socket."""
        return self._file is not None and _file(self.path) == self._file

    def renew(self, other: Control) -> None:
        """Take over another one's socket and file. Clients that the old socket has not accepted are lost."""
        self._listener.close()
        self._listener, self._file = other._listener, other._file  # of our own class

    def close(self) -> None:
        """Stop listening, and remove the file if it is still ours."""
        self._listener.close()
        if self.is_in_place:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def listen(folder: str, name: str) -> Control:
    """Listen at FOLDER/NAME.sock, in place of whatever is there.

    Args:
        folder: it has to exist.
        name: the instance's.

    Raises:
        OSError: it cannot; the text is one line for the user.

    """
    path = os.path.join(folder, f"{name}.sock")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OSError(f"{path} is longer than the {_LONGEST_PATH} bytes that a socket's path may have")
    # With the name, because several instances that share a folder may all be pid 1.
    temporary = os.path.join(folder, f".{name}.{os.getpid()}")
    if len(os.fsencode(temporary)) > _LONGEST_PATH:
        temporary = os.path.join(folder, f".{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        before = os.umask(0o177)
        try:
            listener.bind(temporary)
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        os.rename(temporary, path)
        return Control(path, listener)
    except OSError:
        listener.close()
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def restore(path: str, descriptor: int) -> Control:
    """Take over the listening socket of the previous program.

    Raises:
        OSError: the descriptor is not open.

    """
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    return Control(path, listener)


def _file(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
