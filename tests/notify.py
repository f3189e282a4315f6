"""The socket on which systemd would listen (sd_notify(3))."""

import os
import socket
import threading
from pathlib import Path

SAID = {"READY=1", "RELOADING=1", "STOPPING=1"}


class NotifySocket:
    """Records every message. It owns the socket at `path` and the thread that reads it."""

    def __init__(self, path: Path) -> None:
        """Make the socket; it is not bound yet."""
        self.path = path
        self.messages: list[dict[str, str]] = []
        self.stored: dict[str, int] = {}  # the inode of the last descriptor of each FDNAME
        self.senders: set[int] = set()  # pids, as the kernel of this host numbers them
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._reader = threading.Thread(target=self._read, daemon=True)

    def listen(self) -> None:
        """Begin to listen."""
        self.bind()
        self.read()

    def bind(self) -> None:
        """Bind the socket, and read nothing yet."""
        self._socket.bind(str(self.path))

    def read(self) -> None:
        """Begin to read."""
        self._reader.start()

    def _read(self) -> None:
        while True:
            message, more, _, _ = self._socket.recvmsg(65536, 4096)
            if not message:
                return
            lines = {name: value for name, _, value in (line.partition("=") for line in message.decode().splitlines())}
            for _level, kind, data in more:
                numbers = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
                if kind == socket.SCM_CREDENTIALS:
                    self.senders.add(numbers[0])
                elif kind == socket.SCM_RIGHTS:
                    self.stored[lines.get("FDNAME", "")] = os.fstat(numbers[0]).st_ino
                    for number in numbers:
                        os.close(number)
            self.messages.append(lines)

    def lines(self) -> list[str]:
        """Return every line of every message."""
        return [f"{name}={value}" for message in list(self.messages) for name, value in message.items()]

    def said(self) -> list[str]:
        """Return READY, RELOADING and STOPPING in the order in which they came."""
        return [line.removesuffix("=1") for line in self.lines() if line in SAID]

    def statuses(self) -> list[str]:
        """Return every STATUS so far."""
        return [message["STATUS"] for message in list(self.messages) if "STATUS" in message]

    def how_often(self, name: str) -> int:
        """Count the messages that have this assignment."""
        return sum(name in message for message in list(self.messages))

    def close(self) -> None:
        """End."""
        if self._reader.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.connect(str(self.path))
                end.send(b"")
            self._reader.join()
        self._socket.close()
