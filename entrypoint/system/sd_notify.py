"""Messages to systemd, and the descriptors that it stores for the next start (sd_notify(3)).

Owns one datagram socket. Without NOTIFY_SOCKET nothing here does anything. Nothing here raises because of systemd: if
systemd is slow or gone, haproxy's clients must not notice.
"""

from __future__ import annotations

import os
import select
import sys
import time

from entrypoint.lean import socket
from entrypoint.lean.collections import Iterable, Mapping
from entrypoint.lean.one_line import one_line

_LONGEST_ADDRESS = 107
"""sun_path of unix(7), less one byte: the end of a path, or the start of an abstract name."""
_LONGEST_VALUE = 2048
"""Bytes. systemd drops a datagram longer than 4096 (NOTIFY_BUFFER_MAX)."""
_LONGEST_NAME = 255
"""FDNAME_MAX of sd_notify(3)."""
_PATIENCE = 5.0
"""Seconds for which systemd's queue may be full before that is logged; net.unix.max_dgram_qlen may be as low as ten."""


def monotonic_usec() -> int:
    """Return MONOTONIC_USEC in microseconds; it goes into the same message as RELOADING=1."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class Notifier:
    """The connection to systemd, or to podman's conmon, or to nobody."""

    unusable: str | None = None
    """Why NOTIFY_SOCKET is set but not used: one line for the log."""
    watchdog_interval: float | None = None
    """Seconds between two WATCHDOG=1, half of systemd's limit; None if there is no watchdog."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Open the socket that NOTIFY_SOCKET names. The variables stay in the environment."""
        self._socket: socket.socket | None = None
        self._unreachable_since: float | None = None
        self._reported = False
        self.busy = False
        """The last message found systemd's queue full."""
        self._room = 0
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        if not self._address:
            if environment.get("NOTIFY_SOCKET"):
                wanted = f"not a path or @NAME of at most {_LONGEST_ADDRESS} bytes; systemd is not notified"
                self.unusable = f"NOTIFY_SOCKET is {environment['NOTIFY_SOCKET']!r}: {wanted}"
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._room = _number(environment.get("FDSTORE", ""))
        if environment.get("WATCHDOG_PID") in {None, "", str(os.getpid())}:
            self.watchdog_interval = _number(environment.get("WATCHDOG_USEC", "")) / 2_000_000 or None

    @property
    def active(self) -> bool:
        """Whether there is anybody to notify."""
        return self._socket is not None

    @property
    def unreachable(self) -> bool:
        """Whether the last message could not be sent."""
        return self._unreachable_since is not None

    @property
    def stores(self) -> bool:
        """Whether systemd stores descriptors: the unit has FileDescriptorStoreMax=."""
        return self._room > 0

    def send(self, **lines: object) -> str | None:
        """Send one message of these assignments.

        Return why it could not be sent, one line for the log; None if it was sent, or if the failure was reported
        before.
        """
        return self._send(lines)

    def fit(self, descriptors: Iterable[str], stored: int = 0) -> tuple[list[str], str | None]:
        """Return the names that can be stored beside `stored` others, and why some cannot, one line for the log."""
        wanted = list(descriptors)
        names = [name for name in wanted if _is_name(name)][: max(0, self._room - stored)]
        if len(names) == len(wanted):
            return names, None
        failure = f"{len(wanted) - len(names)} of {len(wanted) + stored} VIPs are not in the FD store: "
        limits = f"FileDescriptorStoreMax= is {self._room}, and a name has at most {_LONGEST_NAME} characters"
        return names, failure + limits

    def store(self, name: str, descriptor: int) -> str | None:
        """Store a descriptor under a name that fits; it may be stored already. Returns the same as `send`.

        One message each, because a message carries one name. FDPOLL=0, because systemd would drop a socket that does
        not listen at the moment: it polls as hung up.
        """
        return self._send({"FDSTORE": 1, "FDNAME": name, "FDPOLL": 0}, descriptor) if self.stores else None

    def remove(self, name: str) -> str | None:
        """Have systemd close what is stored under this name. Returns the same as `send`."""
        return self._send({"FDSTOREREMOVE": 1, "FDNAME": name}) if self.stores and _is_name(name) else None

    def close(self) -> None:
        """Close the socket."""
        if self._socket:
            self._socket.close()
            self._socket = None
        self._room = 0

    def _send(self, lines: Mapping[str, object], descriptor: int | None = None) -> str | None:
        if not (self._socket and lines):
            return None
        message = b"\n".join(f"{name}=".encode() + _one_line(value) for name, value in lines.items())
        # Not socket.send_fds, which imports array.
        rights = (
            []
            if descriptor is None
            else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))]
        )
        try:
            # Each time: the path may lead to another socket by now.
            self._socket.connect(self._address)
            self._socket.sendmsg([message], rights, socket.MSG_DONTWAIT)
        except OSError as error:
            now = time.monotonic()
            if self._unreachable_since is None:
                self._unreachable_since = now
            self.busy = isinstance(error, BlockingIOError)
            if self._reported or (self.busy and now - self._unreachable_since < _PATIENCE):
                return None
            self._reported = True
            return f"cannot notify systemd of {', '.join(lines)}: {error.strerror or error}; haproxy keeps serving"
        self._unreachable_since, self._reported, self.busy = None, False, False
        return None

    def wait(self, seconds: float) -> None:
        """Wait for room in systemd's queue, at most so many seconds; only for a process that serves nobody any more."""
        if self._socket:
            room = select.poll()
            room.register(self._socket, select.POLLOUT)
            room.poll(max(0.0, seconds) * 1000)


def _address(text: str) -> str | bytes:
    """Return the address for connect(2); empty if it is of a kind that is not supported, such as vsock."""
    raw = os.fsencode(text)
    if not raw.startswith((b"/", b"@")) or not 1 < len(raw) <= _LONGEST_ADDRESS:
        return ""
    return b"\0" + raw[1:] if raw.startswith(b"@") else raw


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


def _is_name(name: str) -> bool:
    """Tell whether systemd accepts this name. It ignores a bad one and stores the descriptor without a name."""
    return 0 < len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable() and ":" not in name


def _one_line(value: object) -> bytes:
    """Return a value as UTF-8, of limited length, that cannot end its line and begin another."""
    text = one_line(str(value)[:_LONGEST_VALUE])
    return text.encode()[:_LONGEST_VALUE].decode(errors="ignore").encode()
