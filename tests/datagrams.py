"""Datagrams over loopback: who gets them, and whether anybody does."""

import contextlib
import itertools
import os
import socket

SENDERS = 40
"""With this many senders on ports of their own, each of two readers of one address would get some."""
_names = itertools.count()


def bound(host: str, port: int = 0, *, v6only: int = 1) -> socket.socket:
    """Return a UDP socket at an address that more sockets may have."""
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    one.bind((host, port))
    return one


def send(host: str, port: int, count: int = SENDERS) -> list[str]:
    """Send datagrams from as many sockets, and return what they are. Over loopback they have arrived by then."""
    sent = []
    for _ in range(count):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as one:
            sent.append(f"datagram {next(_names)}")
            one.sendto(sent[-1].encode(), (host, port))
    return sent


def received(one: socket.socket | int) -> list[str]:
    """Read all that is in a socket."""
    found = []
    descriptor = one if isinstance(one, int) else one.fileno()
    with socket.socket(fileno=os.dup(descriptor)) as reader, contextlib.suppress(BlockingIOError):
        while True:
            found.append(reader.recv(100, socket.MSG_DONTWAIT).decode())
    return found


def is_refused(host: str, port: int) -> bool:
    """Tell whether a client is told that nobody is there (ICMP)."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((host, port))
        one.send(b"x")
        try:
            one.recv(1, socket.MSG_DONTWAIT)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            return False
        return False


def is_here(host: str) -> bool:
    """Tell whether an address is on this host: Linux adds an IPv6 address to its routes a moment after it is there."""
    with bound(host) as one:
        one.sendto(b"x", one.getsockname())
        return received(one) == ["x"]
