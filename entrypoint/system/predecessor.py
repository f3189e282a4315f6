"""A haproxy that we did not start and that serves the same VIPs: found by its pid file.

The pid in a file may belong to another process by now. So it is pinned by a pidfd (pidfd_open(2)) first, and counts
only if the program is called haproxy and listens on a VIP's address and port.
"""

from __future__ import annotations

import os
import stat
import sys

from entrypoint.lean import signal, socket
from entrypoint.lean.collections import Iterable, Iterator
from entrypoint.options.vips import ANY, Vip

_ROOM = 32
"""Bytes; more than a pid needs."""
_LISTENS = "0A"
"""TCP_LISTEN in /proc/net/tcp (proc(5))."""
_ANY_OF_BOTH = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"
"""Prefix of an IPv4 address that an IPv6 socket is bound to (RFC 4291, 2.5.5.2)."""


class Predecessor:
    """A running process, pinned by a pidfd."""

    def __init__(self, pid: int, descriptor: int) -> None:
        """Own the pidfd."""
        self.pid = pid
        self._descriptor = descriptor

    def retire(self) -> None:
        """Send haproxy's SIGUSR1: finish the connections, then exit. Close the pidfd.

        Raises:
            OSError: we may not signal it.

        """
        try:
            signal.pidfd_send_signal(self._descriptor, signal.SIGUSR1)
        except ProcessLookupError:
            return
        finally:
            os.close(self._descriptor)


def find(path: str, vips: Iterable[Vip]) -> Predecessor | None:
    """Return the haproxy that a pid file names, if it listens on one of these VIPs in our network namespace.

    Args:
        path: the pid file; anything but a regular file that begins with a pid is ignored.
        vips: ours.

    """
    try:
        pid = int(_beginning(path).split()[0])
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError, IndexError, OverflowError):
        return None
    if pid != os.getpid() and _is_haproxy(pid) and _serves(pid, tuple(vips)):
        return Predecessor(pid, descriptor)
    os.close(descriptor)
    return None


def _beginning(path: str) -> bytes:
    # Non-blocking: it may be a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _ROOM) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _is_haproxy(pid: int) -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)") == "haproxy"
    except OSError:
        return False


def _serves(pid: int, vips: tuple[Vip, ...]) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return False
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    inodes = frozenset(_inodes(pid, names))
    theirs = [(address, port) for inode, address, port in _listeners() if inode in inodes]
    return any(
        port == vip.port and _meets(address, vip.address) for address, port in theirs for vip in vips if not vip.scheme
    )


def _meets(theirs: bytes, ours: str) -> bool:
    """Tell whether a client that connects to our address could reach a listener at theirs."""
    if ours == ANY or theirs == _ANY_OF_BOTH:
        return True
    family = socket.AF_INET6 if ":" in ours else socket.AF_INET
    address = socket.inet_pton(family, ours.partition("%")[0])
    return len(address) == len(theirs) and (address == theirs or not any(address) or not any(theirs))


def _inodes(pid: int, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def _listeners() -> Iterator[tuple[str, bytes, int]]:
    """Yield inode, address and port of every listening TCP socket of our network namespace."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENS:
                address, _, port = fields[1].rpartition(":")
                yield fields[9], _packed(address), int(port, 16)


def _packed(text: str) -> bytes:
    """Decode an address from /proc/net/tcp: 32-bit words in the machine's byte order (proc_pid_net(5))."""
    words = (int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8))
    return b"".join(words).removeprefix(_MAPPED)
