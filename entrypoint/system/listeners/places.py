"""Where a VIP is bound, what is in the way, and our own connections to it."""

from __future__ import annotations

import errno
import os

from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Iterator
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.options.vips import ANY, UDP, Vip
from entrypoint.system.listeners.datagrams import (
    IP_FREEBIND,
    ROOM,
    interface,
    share_address,
    takes_turns,
    why_not_silenced,
)

_HINTS = {
    errno.EADDRNOTAVAIL: "the address is not on this host; --freebind binds it all the same",
    errno.EADDRINUSE: "another process holds it without SO_REUSEPORT",
    errno.EACCES: "a port below net.ipv4.ip_unprivileged_port_start needs root or CAP_NET_BIND_SERVICE",
    errno.EINVAL: "a link-local address needs its interface, such as [fe80::1%eth0]",
    errno.ENODEV: "this host has no interface with the name or number after the %",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}
_RESET_ON_CLOSE = bytes((1, 0, 0, 0, 0, 0, 0, 0))
_NO_PACKET = b"\0"
"""Too short for a QUIC packet, so nobody answers it (RFC 9000, section 14)."""


class ListenError(OSError):
    """Raised if a VIP cannot be bound; its text is one line for the user."""


def connects(listener: socket.socket) -> bool:
    """Tell whether a socket is of a kind that listens, as opposed to datagrams."""
    return listener.type != socket.SOCK_DGRAM


@record(frozen=True)
class Place:
    """Where a socket is bound. A place of IPv6 takes no IPv4."""

    family: int
    host: str
    port: int
    index: int = 0
    """Of the interface, for a link-local address."""
    kind: int = socket.SOCK_STREAM

    @property
    def address(self) -> tuple[Any, ...]:
        """The address as bind(2) takes it."""
        return (self.host, self.port, 0, self.index) if self.family == socket.AF_INET6 else (self.host, self.port)


def places(vip: Vip, *, scoped: bool = True) -> Iterator[Place]:
    """Yield where a VIP is bound; `*` is a place of each address family.

    One socket for both families would make haproxy log and forward IPv4 clients as ::ffff:192.0.2.1. If this host has
    no IPv6 address there is only the IPv4 place: we could not connect to the other one, and so could not make an old
    generation release it.

    Args:
        vip: the VIP.
        scoped: look up the interface that it names.

    Raises:
        OSError: there is no such interface.

    """
    kind = socket.SOCK_DGRAM if vip.scheme else socket.SOCK_STREAM
    if vip.address == ANY:
        yield Place(socket.AF_INET, "0.0.0.0", vip.port, kind=kind)
        if ipv6_addresses():
            yield Place(socket.AF_INET6, "::", vip.port, kind=kind)
    elif ":" in vip.address:
        host, _, scope = vip.address.partition("%")
        yield Place(socket.AF_INET6, host, vip.port, _index(scope) if scope and scoped else 0, kind)
    else:
        yield Place(socket.AF_INET, vip.address, vip.port, kind=kind)


def ipv6_addresses() -> list[tuple[str, int]]:
    """Return this host's IPv6 addresses, each with its interface's number (/proc/net/if_inet6); ::1 first."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return []
    found = [(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])), int(row[1], 16)) for row in rows]
    return sorted(found, key=lambda one: one[0] != "::1")


def _index(scope: str) -> int:
    """Return the number of an interface given by name or number (ipv6(7), sin6_scope_id)."""
    try:
        index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
        socket.if_indextoname(index)
    except (OSError, OverflowError, TypeError, ValueError):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
    return index


def bound(place: Place, *, freebind: bool) -> socket.socket:
    """Return a new socket at a place, which others may share.

    Args:
        place: where.
        freebind: also if this host does not have the address (IP_FREEBIND of ip(7), which works for IPv6, too).

    Raises:
        OSError: it cannot be bound.

    """
    listener = socket.socket(place.family, place.kind)
    try:
        listener.setblocking(False)
        share_address(listener)
        if place.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if freebind:
            listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if takes_turns(listener):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        listener.bind(place.address)
    except BaseException:
        listener.close()
        raise
    return listener


def is_at(listener: socket.socket, place: Place) -> bool:
    """Tell whether a socket is bound to this place."""
    try:
        if listener.type != place.kind or listener.family != place.family:
            return False
        host, port, *more = listener.getsockname()
        here = socket.inet_pton(listener.family, host.partition("%")[0])
        there = socket.inet_pton(place.family, place.host)
        v6only = listener.family == socket.AF_INET or listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        return False
    return bool(port == place.port and here == there and v6only and (not place.index or more[-1:] == [place.index]))


def shown(listener: socket.socket, address: Any, scheme: str = "") -> str:
    """Return the address that a socket was bound to in the notation of VIPS."""
    if listener.family == socket.AF_UNIX:
        return os.fsdecode(address)
    datagrams = scheme or ("" if connects(listener) else UDP)
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
    """Return why a VIP cannot be bound, and the remedy."""
    hint = _HINTS.get(error.errno or 0)
    return f"{error.strerror or error}{f': {hint}' if hint else ''}"


def turns_of(one: socket.socket, address: Any) -> tuple[int, str]:
    """Return the interface of a socket that is not silent, and why it cannot take turns with others; empty if it can.

    Args:
        one: any socket; of those that do not take datagrams there is nothing to say.
        address: where it was bound.

    """
    if not takes_turns(one):
        return 0, ""
    error = why_not_silenced(one, address)
    return (0, reason_of(error)) if error else (interface(one), "")


# ---- connections of our own ----------------------------------------------------------------------------------------


def poke(listener: socket.socket) -> bool:
    """Connect to a listener from this host and close at once; tell whether that worked."""
    family, address = _from_here(listener)
    try:
        with socket.socket(family, listener.type) as client:
            client.setblocking(False)
            if family == socket.AF_UNIX:
                client.connect(address)
            elif not _is_here(family, address):
                return False
            elif listener.type == socket.SOCK_DGRAM:
                client.sendto(_NO_PACKET, address)
            else:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                with _accepting_at_once(listener), contextlib.suppress(BlockingIOError):
                    client.connect(address)
                # Over loopback the handshake is complete by now; if not, there is no peer (getpeername(2)).
                client.getpeername()
    except BlockingIOError:
        # The queue is full (unix(7)), so it polls as readable already.
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _accepting_at_once(listener: socket.socket) -> Iterator[None]:
    """Make a listener accept a client that sends nothing, although its `bind` says defer-accept.

    Sending data instead would not do: in `mode tcp` haproxy would pass it on to a server.
    """
    seconds = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
    if not seconds:
        yield
        return
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)
    try:
        yield
    finally:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)


def _from_here(listener: socket.socket) -> tuple[int, Any]:
    """Return the family and address at which this host reaches a listener."""
    address = listener.getsockname()
    if address[0] == "0.0.0.0":
        return socket.AF_INET, ("127.0.0.1", address[1])
    if address[0] == "::":
        if not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            return socket.AF_INET, ("127.0.0.1", address[1])
        return socket.AF_INET6, next(
            ((host, address[1], 0, index) for host, index in ipv6_addresses()), ("::1", *address[1:])
        )
    return listener.family, address


def _is_here(family: int, address: tuple[Any, ...]) -> bool:
    """Tell whether an address is on this host: then it is its own source address. Sends nothing (udp(7), connect).

    Not by bind(2): net.ipv4.ip_nonlocal_bind makes that succeed for every address.
    """
    if address[0].startswith("127."):
        return True
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return bool(probe.getsockname()[0] == address[0])
    return False
