"""Where a VIP is, and what is in the way."""

import errno
import os
import socket
from collections.abc import Iterator

from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.options.vips import ANY, Vip

_HINTS = {
    errno.EADDRNOTAVAIL: "the address is not on this host; --freebind binds it before it is",
    errno.EADDRINUSE: "another process holds it without SO_REUSEPORT",
    errno.EACCES: "a port below net.ipv4.ip_unprivileged_port_start needs root or CAP_NET_BIND_SERVICE",
    errno.EINVAL: "a link-local address needs its interface, such as [fe80::1%eth0]",
    errno.ENODEV: "what follows the % is no interface of this host, by name or number",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}


class ListenError(OSError):
    """A VIP that cannot be had; its text is one line for the user."""


def connects(listener: socket.socket) -> bool:
    """Tell whether it is of a kind that listens, and not one for datagrams."""
    return listener.type != socket.SOCK_DGRAM


@record(frozen=True)
class Place:
    """Where a socket is bound; one of IPv6 takes no IPv4."""

    family: socket.AddressFamily
    host: str
    port: int
    index: int = 0
    """Of the interface, for an address that is only an address there."""

    @property
    def address(self) -> tuple[Any, ...]:
        """Return it as bind(2) takes it."""
        return (self.host, self.port, 0, self.index) if self.family == socket.AF_INET6 else (self.host, self.port)


def places(vip: Vip, *, scoped: bool = True) -> Iterator[Place]:
    """Yield where a VIP is: `*` is a place of each family, so that haproxy sees IPv4's clients as such.

    One socket for both would have it log and forward ::ffff:192.0.2.1. Where this host has no IPv6 address there is
    only IPv4's: to the other one nobody could connect, and so nobody could make an old generation let go of it.

    Args:
        vip: the VIP.
        scoped: look for the interface that it names.

    Raises:
        OSError: there is no such interface.

    """
    if vip.address == ANY:
        yield Place(socket.AF_INET, "0.0.0.0", vip.port)
        if ipv6_addresses():
            yield Place(socket.AF_INET6, "::", vip.port)
    elif ":" in vip.address:
        host, _, scope = vip.address.partition("%")
        yield Place(socket.AF_INET6, host, vip.port, _index(scope) if scope and scoped else 0)
    else:
        yield Place(socket.AF_INET, vip.address, vip.port)


def ipv6_addresses() -> list[tuple[str, int]]:
    """Return this host's addresses of IPv6, each with its interface's number (/proc/net/if_inet6); ::1 first."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return []
    found = [(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])), int(row[1], 16)) for row in rows]
    return sorted(found, key=lambda one: one[0] != "::1")


def _index(scope: str) -> int:
    """Return the number of an interface, which is given by name or number (ipv6(7), sin6_scope_id)."""
    try:
        index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
        socket.if_indextoname(index)
    except (OSError, OverflowError, TypeError, ValueError):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
    return index


def is_at(listener: socket.socket, place: Place) -> bool:
    """Tell whether a socket is where this place is."""
    try:
        if listener.type != socket.SOCK_STREAM or listener.family != place.family:
            return False
        host, port, *more = listener.getsockname()
        here = socket.inet_pton(listener.family, host.partition("%")[0])
        there = socket.inet_pton(place.family, place.host)
        v6only = listener.family == socket.AF_INET or listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        return False
    return bool(port == place.port and here == there and v6only and (not place.index or more[-1:] == [place.index]))


def shown(listener: socket.socket) -> str:
    """Return where a socket listens, as a VIP is written."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return os.fsdecode(address)
    datagrams = "" if connects(listener) else "udp@"
    host = address[0]
    if listener.family == socket.AF_INET6:
        scope = f"%{_interface(address[3])}" if address[3] else ""
        host = f"[{host}{scope}]"
    return f"{datagrams}{host}:{address[1]}"


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def reason_of(error: OSError) -> str:
    """Return why a VIP cannot be bound, and what to do."""
    hint = _HINTS.get(error.errno or 0)
    return f"{error.strerror or error}{f': {hint}' if hint else ''}"
