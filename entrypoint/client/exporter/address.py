"""Where the exporter listens."""

import errno
import os
import socket
from collections.abc import Iterable
from typing import Any

_BACKLOG = 128


class AddressError(Exception):
    """An address that cannot be listened on; its text is one line for the user."""


def listen(address: str) -> socket.socket:
    """Return a listening socket.

    Args:
        address: `:9101` or `*:9101` for all addresses of both families, `127.0.0.1:9101`, `[::1]:9101`. Port 0 is any.

    Raises:
        AddressError: it is none of these, or cannot be bound.

    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        what = f"{port[:100]!r} is not the number of a port" if colon and port else f"{address[:100]!r} has no port"
        raise AddressError(f"{what}: give an address such as :9101 or 127.0.0.1:9101")
    if ":" in host and not bracketed:
        raise AddressError(f"{address[:100]!r} is not an address: IPv6 is written in brackets, such as [::1]:9101")
    everywhere = ((socket.AF_INET6, ("::", int(port)), False), (socket.AF_INET, ("0.0.0.0", int(port)), False))
    try:
        if host in {"", "*"}:
            return first_that_exists(everywhere)
        found = socket.getaddrinfo(
            host[1:-1] if bracketed else host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
        return first_that_exists([(family, where, True) for family, _, _, _, where in found])
    except socket.gaierror:
        raise AddressError(
            f"{address[:100]!r} is not an address: give :PORT, IPv4:PORT or [IPv6]:PORT, and no host name"
        ) from None
    except OSError as error:
        raise AddressError(f"cannot listen on {address[:100]}: {error.strerror or error}") from error


def first_that_exists(choices: Iterable[tuple[int, Any, bool]]) -> socket.socket:
    """Listen on the first of these that this machine has: without IPv6 that is IPv4.

    Args:
        choices: the family, the address, and whether IPv6 means only IPv6.

    Raises:
        OSError: none of them; the last one's.

    """
    last = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, where, only in choices:
        try:
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            last = error
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
            listener.bind(where)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            last = error
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                break
        else:
            return listener
    raise last
