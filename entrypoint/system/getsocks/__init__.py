"""Hands listening sockets from one generation to the next: `_getsocks`, and the other end of haproxy's `-x`.

haproxy itself binds what an ordinary `bind` names. On its CLI it passes copies of these sockets to whoever asks, and a
haproxy started with `-x` asks for them before it binds. We are in between and keep the copies. So when a haproxy dies,
its listening sockets and the clients in their queues are not lost.

What haproxy does with them (measured with 2.6.12, 3.0.11 and 3.2.26): it takes over the sockets that a `bind` of the
new configuration matches in address, kind, interface, namespace, `transparent` and `v6only`, and closes the others. It
takes over TCP with any number of addresses, ports and shards, unix sockets by path and by abstract name, UDP, and the
user's own `stats socket`. It takes over a single IPv6 address only if its `bind` says `v6only`: the kernel reports that
for every socket bound to one, and haproxy compares it with the configuration. A unix socket that is taken over keeps
its path; one that is bound anew is bound as PATH.PID.tmp and renamed.

A candidate that fails after it took them only closes its copies, and so does SIGUSR1. `disable frontend` and SIGTTOU
disconnect a TCP socket for every process that shares it; `set maxconn frontend NAME 0` only stops accepting. A socket
that is not taken over, or that a new configuration has fewer of (`shards`), loses the clients in its queue; with
net.ipv4.tcp_migrate_req=1 only those with a handshake that ends while it closes.

The protocol (HAProxy's `src/cli.c:_getsocks` and `src/sock.c:sock_get_old_sockets`, the same from 2.3 to 3.2): the
client sends `_getsocks`. The server sends a count, then batches of descriptors (SCM_RIGHTS of unix(7)), and the client
answers each batch with four bytes. Each descriptor comes with length and name of its network namespace, length and name
of its interface, and four bytes without a meaning. Numbers are the machine's `int`. Sockets that haproxy does not
export, above all inherited ones, are not counted. A server with nothing to export hangs up without an answer.

Nothing here blocks: haproxy waits for us, but we never wait for haproxy. A candidate shares the file description of the
session it sends us and can change its mode (fcntl(2)), so each call says MSG_DONTWAIT.
"""

from __future__ import annotations

import os
import struct

from entrypoint.lean import contextlib, socket
from entrypoint.lean.record import record

REQUEST = b"_getsocks\n"
INT = struct.Struct("=i")
PARAMETERS = INT.size


@record(frozen=True)
class Passed:
    """One listening socket, and what haproxy has to know about it."""

    socket: socket.socket
    namespace: bytes = b""
    """As in `bind ... namespace NAME`; empty for haproxy's own."""
    interface: bytes = b""
    """As in `bind ... interface NAME`."""

    @property
    def address(self) -> str:
        """The address as haproxy writes it: `127.0.0.1:80`, `[::]:80`, `/run/x.sock`, `abns@x`."""
        try:
            address = self.socket.getsockname()
        except OSError as error:
            return f"({error.strerror})"
        datagrams = "udp@" if self.socket.type == socket.SOCK_DGRAM and self.socket.family != socket.AF_UNIX else ""
        if self.socket.family == socket.AF_INET:
            return f"{datagrams}{address[0]}:{address[1]}"
        if self.socket.family == socket.AF_INET6:
            return f"{datagrams}[{address[0]}]:{address[1]}"
        if isinstance(address, bytes):
            return "abns@" + address.strip(b"\0").decode(errors="backslashreplace")
        return os.fsencode(_path(str(address))).decode(errors="backslashreplace")


def receive(channel: socket.socket, length: int, most: int) -> tuple[bytes, list[int], bool]:
    """Receive at most `length` bytes and `most` close-on-exec descriptors; also tell whether descriptors were lost.

    Not `socket.recv_fds`: it imports a module, and makes room for descriptors that we would have to close.

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
    """Send a few bytes. Errors are ignored, because reading shows that the peer has gone."""
    with contextlib.suppress(OSError):
        channel.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def identity(one: socket.socket) -> tuple[int, int]:
    """Return device and inode: the same for all descriptors of one socket."""
    status = os.fstat(one.fileno())
    return status.st_dev, status.st_ino


def is_unreachable(one: socket.socket) -> bool:
    """Tell whether a unix socket's path is gone.

    False for a relative path, because we do not know which working directory haproxy had.
    """
    address = one.getsockname() if one.family == socket.AF_UNIX else ""
    return isinstance(address, str) and address.startswith("/") and not os.path.exists(_path(address))


def _path(bound: str) -> str:
    """Return the path that clients use: haproxy binds PATH.PID.tmp and renames it to PATH."""
    path, _, pid = bound.removesuffix(".tmp").rpartition(".")
    return path if path and bound.endswith(".tmp") and pid.isdigit() else bound
