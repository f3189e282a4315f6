"""Listeners: the VIPs' sockets, bound once, numbered low, handed on and never let go of.

Owns every listening socket. A VIP is bound at the start and listens only while a generation uses it, so that one
that no `bind` uses refuses its clients instead of keeping them waiting.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Iterable, Mapping

from entrypoint.core.records import dataclass
from entrypoint.core.vips import ANY, Vip

MOST = 2**31 - 1
"""A backlog that listen(2) cuts down to net.core.somaxconn."""

_FIRST_PASSED = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
_RESET_ON_CLOSE = bytes((1, 0, 0, 0, 0, 0, 0, 0))
_HINTS = {
    errno.EADDRNOTAVAIL: "the address is not on this host; --freebind binds it before it is",
    errno.EADDRINUSE: "another process holds it without SO_REUSEPORT",
    errno.EACCES: "a port below net.ipv4.ip_unprivileged_port_start needs root or CAP_NET_BIND_SERVICE",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}


class ListenError(OSError):
    """A VIP that cannot be had; its text is one line for the user."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One VIP's socket."""

    tag: str
    socket: socket.socket
    ours: bool
    """We bound it; False for one that systemd or podman passed, which is theirs to let listen or not."""


class Listeners:
    """All VIPs of this instance, in the order of their descriptors."""

    def __init__(self, backlog: int | None = None) -> None:
        """Begin without VIPs.

        Args:
            backlog: how many connections may wait on each VIP; None for as many as the kernel allows.

        """
        self._backlog = backlog or MOST
        self._listeners: list[Listener] = []

    def adopt(self, environment: Mapping[str, str]) -> None:
        """Take over the sockets that systemd or podman passed (sd_listen_fds(3)).

        Each becomes a VIP whose tag is FD_ and its name in capitals, with _ for what a variable's name cannot hold.

        Raises:
            ListenError: what was passed is not what was announced.

        """
        if environment.get("LISTEN_PID") != str(os.getpid()):
            return
        count = environment.get("LISTEN_FDS", "")
        if not count.isdigit():
            raise ListenError(f"LISTEN_FDS is {count!r}, not a number")
        names = environment.get("LISTEN_FDNAMES", "").split(":")
        for index in range(int(count)):
            name = names[index] if index < len(names) and names[index] else f"unknown{index}"
            tag = "FD_" + "".join(letter if letter.isalnum() else "_" for letter in name.upper())
            try:
                listener = socket.socket(fileno=_FIRST_PASSED + index)
            except OSError as error:
                raise ListenError(f"LISTEN_FDS names descriptor {_FIRST_PASSED + index}: {error.strerror}") from error
            listener.set_inheritable(False)
            listener.setblocking(False)
            self._listeners.append(Listener(tag, listener, ours=False))

    def bind(self, vips: Iterable[Vip], *, freebind: bool) -> None:
        """Bind every VIP, or none.

        Args:
            vips: what to bind.
            freebind: bind addresses that are not on this host yet, too (IP_FREEBIND of ip(7)).

        Raises:
            ListenError: names the VIP by number and text, and what would be right.

        """
        for number, vip in enumerate(vips, start=1):
            try:
                if vip.tag in self.tags():
                    raise ListenError(f"VIPS entry {number} '{vip}': a passed socket has the tag {vip.tag} already")
                self._listeners.append(Listener(vip.tag, _bind(vip, freebind=freebind), ours=True))
            except OSError as error:
                self.close()
                if isinstance(error, ListenError):
                    raise
                hint = _HINTS.get(error.errno or 0)
                reason = f"{error.strerror}{f': {hint}' if hint else ''}"
                raise ListenError(f"VIPS entry {number} '{vip}': cannot bind it: {reason}") from error

    def stand_in(self, vips: Iterable[Vip]) -> None:
        """Have sockets that look like the VIPs to a configuration check, and are bound to nothing."""
        for vip in vips:
            family = socket.AF_INET6 if ":" in vip.address or vip.address == ANY else socket.AF_INET
            self._listeners.append(Listener(vip.tag, socket.socket(family, socket.SOCK_STREAM), ours=True))

    def tags(self) -> dict[str, int]:
        """Return each tag with its descriptor."""
        return {listener.tag: listener.socket.fileno() for listener in self._listeners}

    def listen(self, tags: Collection[str]) -> None:
        """Let these VIPs accept connections, and none other of ours.

        Raises:
            OSError: the kernel refuses.

        """
        wanted = frozenset(tags)
        for listener in self._listeners:
            accepts = listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listener.tag in wanted:
                listener.socket.listen(self._backlog)
            elif accepts and listener.ours:
                # On a listening socket this ends the listening and keeps the address (tcp(7), inet_shutdown).
                listener.socket.shutdown(socket.SHUT_RD)

    def poke(self, tags: Collection[str]) -> None:
        """Connect to these VIPs and close at once; a failure is none of ours to report.

        The source address is the VIP's own, so that nothing ever leaves this host: an address that is not on it
        cannot be bound.
        """
        for listener in self._listeners:
            if listener.tag in tags and listener.socket.family != socket.AF_UNIX:
                address = listener.socket.getsockname()
                with contextlib.suppress(OSError), socket.socket(listener.socket.family, socket.SOCK_STREAM) as client:
                    client.setblocking(False)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
                    client.bind((local, 0, *address[2:]))
                    client.connect((local, *address[1:]))

    def close(self) -> None:
        """Let go of every VIP."""
        for listener in self._listeners:
            listener.socket.close()
        self._listeners.clear()


def _bind(vip: Vip, *, freebind: bool) -> socket.socket:
    if vip.address == ANY:
        try:
            return _bind_address(socket.AF_INET6, "::", vip.port, v6only=False, freebind=freebind)
        except OSError as error:
            if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                raise
            return _bind_address(socket.AF_INET, "", vip.port, v6only=False, freebind=freebind)
    family = socket.AF_INET6 if ":" in vip.address else socket.AF_INET
    return _bind_address(family, vip.address, vip.port, v6only=True, freebind=freebind)


def _bind_address(family: socket.AddressFamily, host: str, port: int, *, v6only: bool, freebind: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        if freebind:
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


_IP_FREEBIND = 15
"""From linux/in.h; the socket module does not have it. It works on IPv6 sockets, too (ip(7))."""
