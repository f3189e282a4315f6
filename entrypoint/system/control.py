"""The control socket: who may speak, one line in, an answer out, and no way to hold up PID 1.

Owns the socket's file and the connections to it.
"""

import contextlib
import os
import socket
import struct

_MOST_CLIENTS = 64
"""Beyond it the one that has been silent for longest makes room."""
_LONGEST_LINE = 16384
"""As long as a line of haproxy's own CLI may be (tune.bufsize)."""
_MOST_UNREAD = 1 << 20
"""Bytes that wait for a client that does not read; what writes more must wait for `full` to end."""
_MOST_OF_ALL = 8 << 20
_LONGEST_PATH = 107
"""Bytes of a socket's path (unix(7))."""


class Client:
    """One connection."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        """Take over a connection."""
        self.number = number
        self._connection = connection
        self._received = bytearray()
        self._unsent = bytearray()
        self.asked = False
        """It has said something, and so is not the one to make room."""
        self.ends = False
        """It is to be closed when everything has been sent."""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._connection.fileno()

    def receive(self) -> list[str] | None:
        """Return the whole lines that have come; None when the other side has gone, or says too much."""
        try:
            data = self._connection.recv(_LONGEST_LINE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = bytearray(rest)
        if len(rest) > _LONGEST_LINE or any(len(line) > _LONGEST_LINE for line in lines):
            return None
        self.asked = self.asked or bool(lines)
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def send(self, data: bytes) -> None:
        """Send, now or when the other side reads."""
        self._unsent += data[: _MOST_OF_ALL - len(self._unsent)]
        self.flush()

    def flush(self) -> bool:
        """Send what waits; False when the other side has gone."""
        try:
            while self._unsent:
                sent = self._connection.send(self._unsent[:65536])
                del self._unsent[:sent]
        except BlockingIOError:
            return True
        except OSError:
            self._unsent.clear()
            return False
        return True

    @property
    def waits(self) -> bool:
        """Whether something is to be sent yet."""
        return bool(self._unsent)

    @property
    def full(self) -> bool:
        """Whether so much waits that no more should be added."""
        return len(self._unsent) > _MOST_UNREAD

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class Control:
    """The listening socket RUNTIME-DIR/NAME.sock."""

    def __init__(self, path: str, listener: socket.socket) -> None:
        """Own a socket that listens at a path; `listen` makes one."""
        self.path = path
        self._listener = listener
        self._inode = os.stat(path).st_ino
        self.clients: dict[int, Client] = {}
        self._last = 0

    def take_in(self, descriptor: int) -> Client:
        """Go on with a client that waits for our last life's answer.

        Raises:
            OSError: the descriptor is not there.

        """
        connection = socket.socket(fileno=descriptor)
        connection.set_inheritable(False)
        self._last += 1
        client = Client(connection, self._last)
        client.asked = client.ends = True
        self.clients[client.number] = client
        return client

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._listener.fileno()

    def accept(self) -> tuple[Client | None, Client | None]:
        """Return the new connection, and the one that has to make room for it, each if there is one."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return None, None
        connection.setblocking(False)
        uid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in {0, os.geteuid()}:
            with connection, contextlib.suppress(OSError):
                connection.send(b"Permission denied: only root and the user of this instance may ask.\n")
            return None, None
        silent = next((client for client in self.clients.values() if not client.asked), None)
        evicted = None
        if len(self.clients) >= _MOST_CLIENTS:
            evicted = silent or next(iter(self.clients.values()))
            self.forget(evicted)
        self._last += 1
        client = Client(connection, self._last)
        self.clients[client.number] = client
        return client, evicted

    def forget(self, client: Client) -> None:
        """Take a connection off the list; who took it off closes it."""
        self.clients.pop(client.number, None)

    def close(self) -> None:
        """Stop listening, and remove the file unless it is somebody else's by now."""
        for client in list(self.clients.values()):
            client.close()
        self.clients.clear()
        self._listener.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)


def listen(folder: str, name: str) -> Control:
    """Make the folder if need be, and listen; the place of a dead instance's socket is taken.

    Raises:
        OSError: it cannot be had; its text is one line for the user.

    """
    path = os.path.join(folder, f"{name}.sock")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OSError(f"{path} is longer than the {_LONGEST_PATH} bytes that a socket's path may have")
    os.makedirs(folder, mode=0o755, exist_ok=True)
    if _answers(path):
        raise OSError(f"{path} belongs to a running instance: give this one another --name")
    temporary = os.path.join(folder, f".{os.getpid()}.sock")
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
        listener.listen(_MOST_CLIENTS)
        os.rename(temporary, path)
        return Control(path, listener)
    except OSError:
        listener.close()
        raise


def inherit(path: str, descriptor: int) -> Control:
    """Go on with the socket that our last life has opened.

    Raises:
        OSError: the descriptor or the file is not there.

    """
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    return Control(path, listener)


def _answers(path: str) -> bool:
    """Tell whether somebody listens at a socket's path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True
