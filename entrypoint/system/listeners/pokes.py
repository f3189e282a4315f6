"""Connections of our own to a VIP."""

import contextlib
import socket
from collections.abc import Iterator

from entrypoint.lean.typing import Any
from entrypoint.system.listeners.places import (
    ipv6_addresses,
)

_RESET_ON_CLOSE = bytes((1, 0, 0, 0, 0, 0, 0, 0))
_NO_PACKET = b"\0"
"""Too short for any of QUIC's, so nobody answers it (RFC 9000, section 14)."""


def poke(listener: socket.socket) -> bool:
    """Connect to a listener from this host and close at once; tell whether it got through."""
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
                # Over loopback the handshake is over by now; who was not answered has no peer (getpeername(2)).
                client.getpeername()
    except BlockingIOError:
        # The queue is full (unix(7)): whoever polls it has seen that there is something.
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _accepting_at_once(listener: socket.socket) -> Iterator[None]:
    """Have a listener accept who sends nothing, although its `bind` says defer-accept.

    Not data instead: in `mode tcp` haproxy would pass it on to a server.
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
    """Return the family and address by which a listener is reached from this host."""
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
    """Tell whether an address is on this host: then it is its own source address. Nothing is sent (udp(7), connect).

    Not by bind(2), which net.ipv4.ip_nonlocal_bind makes succeed for every address.
    """
    if address[0].startswith("127."):
        return True
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return bool(probe.getsockname()[0] == address[0])
    return False
