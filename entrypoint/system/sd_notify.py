"""Notify: what systemd is told, and the descriptors that it keeps for our next life (sd_notify(3)).

Owns one datagram socket. Without NOTIFY_SOCKET nothing here does anything, and nothing here ever raises because of
what systemd does: whoever is served must not notice that systemd is slow or gone.
"""

import os
import select
import socket
import sys
import time
from collections.abc import Iterable, Mapping

from entrypoint.lean.one_line import one_line

_LONGEST_ADDRESS = 107
"""sun_path of unix(7), less one for the end of a path or the beginning of an abstract name."""
_LONGEST_VALUE = 2048
"""Bytes. systemd throws a whole datagram away that is longer than 4096 (NOTIFY_BUFFER_MAX)."""
_LONGEST_NAME = 255
"""FDNAME_MAX of sd_notify(3)."""
_PATIENCE = 5.0
"""Seconds without room in systemd's queue before that is said; net.unix.max_dgram_qlen may be as few as ten."""


def monotonic_usec() -> int:
    """Return the value for MONOTONIC_USEC, which goes into one message with RELOADING=1."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class Notifier:
    """The line to systemd, or to podman's conmon, or to nobody."""

    unusable: str | None = None
    """Why NOTIFY_SOCKET is there and not used: one line for the log."""
    watchdog_interval: float | None = None
    """Seconds between two WATCHDOG=1, half of what systemd waits; None when it does not wait for any."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read what systemd says of itself; the variables stay as they are."""
        self._socket: socket.socket | None = None
        self._deaf_since: float | None = None
        self._told = False
        self.busy = False
        """systemd's queue was full: there is room as soon as it reads."""
        self._room = 0
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        if not self._address:
            if environment.get("NOTIFY_SOCKET"):
                wanted = "it must be a path or @ and a name, not too long; systemd is told nothing"
                self.unusable = f"NOTIFY_SOCKET is {environment['NOTIFY_SOCKET']!r}: {wanted}"
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._room = _number(environment.get("FDSTORE", ""))
        if environment.get("WATCHDOG_PID") in {None, "", str(os.getpid())}:
            self.watchdog_interval = _number(environment.get("WATCHDOG_USEC", "")) / 2_000_000 or None

    @property
    def active(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    @property
    def deaf(self) -> bool:
        """Whether the last message could not be sent."""
        return self._deaf_since is not None

    @property
    def stores(self) -> bool:
        """Whether descriptors are kept for our next life: the unit has FileDescriptorStoreMax=."""
        return self._room > 0

    def send(self, **lines: object) -> str | None:
        """Send one message of these assignments.

        Returns:
            The reason why it could not be sent, one line for the log, when it is the first failure after a success.

        """
        return self._send(lines)

    def fit(self, descriptors: Iterable[str], kept: int = 0) -> tuple[list[str], str | None]:
        """Choose what can be kept for our next life.

        Args:
            descriptors: the names of all that should be.
            kept: how many others are kept already.

        Returns:
            The names, and the reason why some are not among them, one line for the log.

        """
        wanted = list(descriptors)
        names = [name for name in wanted if _is_name(name)][: max(0, self._room - kept)]
        if len(names) == len(wanted):
            return names, None
        failure = f"{len(wanted) - len(names)} of {len(wanted) + kept} VIPs are not in the FD store: "
        return (
            names,
            failure + f"FileDescriptorStoreMax= has room for {self._room}, names of {_LONGEST_NAME} characters",
        )

    def store(self, name: str, descriptor: int) -> str | None:
        """Have a descriptor kept under one of the names that fit; it may be kept already. The result is that of `send`.

        One message each, because a message has one name. FDPOLL=0, because systemd would throw away a socket that does
        not listen at the moment: it polls as hung up.
        """
        return self._send({"FDSTORE": 1, "FDNAME": name, "FDPOLL": 0}, descriptor) if self.stores else None

    def remove(self, name: str) -> str | None:
        """Have what is kept under this name forgotten; the same result as that of `send`."""
        return self._send({"FDSTOREREMOVE": 1, "FDNAME": name}) if self.stores and _is_name(name) else None

    def close(self) -> None:
        """Hang up."""
        if self._socket:
            self._socket.close()
            self._socket = None
        self._room = 0

    def _send(self, lines: Mapping[str, object], descriptor: int | None = None) -> str | None:
        if not (self._socket and lines):
            return None
        message = b"\n".join(f"{name}=".encode() + _one_line(value) for name, value in lines.items())
        rights = [] if descriptor is None else [_rights(descriptor)]
        try:
            # Each time anew: what listens there may be another socket than last time.
            self._socket.connect(self._address)
            self._socket.sendmsg([message], rights, socket.MSG_DONTWAIT)
        except OSError as error:
            now = time.monotonic()
            if self._deaf_since is None:
                self._deaf_since = now
            self.busy = isinstance(error, BlockingIOError)
            if self._told or (self.busy and now - self._deaf_since < _PATIENCE):
                return None
            self._told = True
            return f"systemd could not be told {', '.join(lines)}: {error.strerror or error}; serving goes on"
        self._deaf_since, self._told, self.busy = None, False, False
        return None

    def wait(self, seconds: float) -> None:
        """Wait for room in systemd's queue; only where nobody is served any more."""
        if self._socket:
            room = select.poll()
            room.register(self._socket, select.POLLOUT)
            room.poll(max(0.0, seconds) * 1000)


def _address(text: str) -> str | bytes:
    """Return the address for bind(2), or nothing when it is of a kind that is not spoken here, such as vsock."""
    raw = os.fsencode(text)
    if not raw.startswith((b"/", b"@")) or not 1 < len(raw) <= _LONGEST_ADDRESS:
        return ""
    return b"\0" + raw[1:] if raw.startswith(b"@") else raw


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


def _is_name(name: str) -> bool:
    """Tell whether systemd takes it: a bad name is not an error there, the descriptor is kept without one."""
    return 0 < len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable() and ":" not in name


def _one_line(value: object) -> bytes:
    """Write a value so that it cannot end its line and begin another, in UTF-8, and short enough."""
    text = one_line(str(value)[:_LONGEST_VALUE])
    return text.encode()[:_LONGEST_VALUE].decode(errors="ignore").encode()


def _rights(descriptor: int) -> tuple[int, int, bytes]:
    # By hand: socket.send_fds imports array.
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder)
