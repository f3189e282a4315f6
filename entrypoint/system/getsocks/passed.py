"""A listening socket on its way, and how it is written."""

import contextlib
import os
import socket
import struct

from entrypoint.lean.record import record

REQUEST = b"_getsocks\n"
INT = struct.Struct("=i")
PARAMETERS = INT.size


@record(frozen=True)
class Passed:
    """One listening socket, and what haproxy has to be told of it."""

    socket: socket.socket
    namespace: bytes = b""
    """As in `bind ... namespace NAME`; empty for haproxy's own."""
    interface: bytes = b""
    """As in `bind ... interface NAME`."""

    @property
    def address(self) -> str:
        """Return what it listens on, as haproxy spells it: `127.0.0.1:80`, `[::]:80`, `/run/x.sock`, `abns@x`."""
        return _text(self.socket)


def receive(channel: socket.socket, length: int, most: int) -> tuple[bytes, list[int], bool]:
    """Receive bytes and descriptors, close-on-exec from their first moment; and whether some were lost.

    Not `socket.recv_fds`, which makes room for what we would have to close, and imports a module to do so.

    Raises:
        OSError: as recvmsg(2).

    """
    how = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    data, messages, flags, _ = channel.recvmsg(length, socket.CMSG_LEN(most * INT.size), how)
    descriptors: list[int] = []
    for level, kind, content in messages:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += memoryview(content[: len(content) // INT.size * INT.size]).cast("i")
    return data, descriptors, bool(flags & socket.MSG_CTRUNC)


def send(channel: socket.socket, data: bytes) -> None:
    """Send a few bytes; if the peer is gone, reading will tell."""
    with contextlib.suppress(OSError):
        channel.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def identity(one: socket.socket) -> tuple[int, int]:
    """Tell sockets apart: descriptors of the same one have the same inode."""
    status = os.fstat(one.fileno())
    return status.st_dev, status.st_ino


def _text(one: socket.socket) -> str:
    try:
        address = one.getsockname()
    except OSError as error:
        return f"({error.strerror})"
    datagrams = "udp@" if one.type == socket.SOCK_DGRAM and one.family != socket.AF_UNIX else ""
    if one.family == socket.AF_INET:
        return f"{datagrams}{address[0]}:{address[1]}"
    if one.family == socket.AF_INET6:
        return f"{datagrams}[{address[0]}]:{address[1]}"
    if isinstance(address, bytes):
        return "abns@" + address.strip(b"\0").decode(errors="backslashreplace")
    return os.fsencode(_path(str(address))).decode(errors="backslashreplace")


def is_unreachable(one: socket.socket) -> bool:
    """Tell whether a unix socket's path is gone; of a relative one we do not know where haproxy was."""
    address = one.getsockname() if one.family == socket.AF_UNIX else ""
    return isinstance(address, str) and address.startswith("/") and not os.path.exists(_path(address))


def _path(bound: str) -> str:
    """Return the path by which clients reach a socket: haproxy binds PATH.PID.tmp and renames it to PATH."""
    path, _, pid = bound.removesuffix(".tmp").rpartition(".")
    return path if path and bound.endswith(".tmp") and pid.isdigit() else bound
