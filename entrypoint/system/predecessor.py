"""A haproxy that is not ours and serves the same VIPs: found by its pid file, and never confused with a stranger.

A pid from a file may be anybody's by now. So it is pinned by a pidfd (pidfd_open(2)) before anything is looked at, and
it counts only if the program is called haproxy and holds a listening socket on an address and port of ours.
"""

import os
import signal
from collections.abc import Iterable, Iterator

_LISTENS = "0A"
"""TCP_LISTEN in /proc/net/tcp (proc(5))."""


class Predecessor:
    """A running process, pinned."""

    def __init__(self, pid: int, descriptor: int) -> None:
        """Own a pidfd."""
        self.pid = pid
        self._descriptor = descriptor

    def retire(self) -> None:
        """Tell it to leave when it has finished (haproxy's SIGUSR1).

        Raises:
            OSError: it may not be signalled.

        """
        try:
            signal.pidfd_send_signal(self._descriptor, signal.SIGUSR1)
        except ProcessLookupError:
            return
        finally:
            os.close(self._descriptor)


def find(path: str, ports: Iterable[int]) -> Predecessor | None:
    """Return the haproxy that a pid file names, if it listens on one of these ports in our network.

    Args:
        path: the pid file; whatever else it holds is ignored.
        ports: of the VIPs.

    """
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read(32).split()[0])
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError, IndexError, OverflowError):
        return None
    if pid != os.getpid() and _is_haproxy(pid) and _listens(pid, frozenset(ports)):
        return Predecessor(pid, descriptor)
    os.close(descriptor)
    return None


def _is_haproxy(pid: int) -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)") == "haproxy"
    except OSError:
        return False


def _listens(pid: int, ports: frozenset[int]) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return False
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    inodes = frozenset(_inodes(pid, names))
    return any(inode in inodes and port in ports for inode, port in _listeners())


def _inodes(pid: int, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def _listeners() -> Iterator[tuple[str, int]]:
    """Yield the inode and port of every listening TCP socket of our network."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENS:
                yield fields[9], int(fields[1].rpartition(":")[2], 16)
