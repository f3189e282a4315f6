"""Datagram sockets that take turns: several are bound to one address, and the kernel gives new datagrams to one only.

A TCP socket is shared by an old and a new process, and each connection that it accepts is whole. A datagram is not: the
packets of one QUIC handshake would end up in both. So each process has a socket of its own at the same address
(SO_REUSEPORT of socket(7)), and all but one are silent: connected to their own address, from which nobody else sends
(udp(7), connect). A silent socket keeps its address and the datagrams that it has, and gets no new ones.
"""

from __future__ import annotations

import os
import socket

from entrypoint.lean.libc import libc_functions
from entrypoint.lean.typing import Any

_IP_FREEBIND, _IP_TRANSPARENT, _IPV6_TRANSPARENT = 15, 19, 75
"""From linux/in.h and linux/in6.h; the socket module lacks them."""
_SO_BINDTOIFINDEX = 62
"""From asm-generic/socket.h; Linux 5.0."""
_NO_INTERFACE = 2**31 - 1
_FIRST_UNPRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_NET_BIND_SERVICE = 10
"""From linux/capability.h."""
_UNSPECIFIED = bytes(16)
"""A sockaddr of the family AF_UNSPEC."""
ROOM = 4 << 20
"""Bytes that a socket may hold while nobody reads it, cut down to net.core.rmem_max: by default the first packets of 90
QUIC connections."""


def takes_turns(one: socket.socket) -> bool:
    """Tell whether this is a kind of socket of which each process gets its own."""
    return one.type == socket.SOCK_DGRAM and one.family in {socket.AF_INET, socket.AF_INET6}


def share_address(one: socket.socket) -> None:
    """Allow more sockets at its address.

    Of these two options SO_REUSEPORT is for sockets of one user only, and SO_REUSEADDR for any (socket(7)).
    """
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def successor(one: socket.socket, address: Any) -> socket.socket:
    """Return a new socket with the same options at the same address. It is not silent.

    Args:
        one: the socket that it is to relieve.
        address: where that was bound: of a silent one at `*` the kernel says the loopback address.

    Raises:
        OSError: we may not bind it (EACCES, EPERM), or no descriptors are left.

    """
    share_address(one)
    made = socket.socket(one.family, one.type)
    try:
        made.setblocking(False)
        share_address(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        if one.family == socket.AF_INET6:
            v6only = one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        for level, option in (
            (socket.IPPROTO_IP, _IP_FREEBIND),
            (socket.IPPROTO_IP, _IP_TRANSPARENT),
            (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT),
        ):
            if (level != socket.IPPROTO_IPV6 or one.family == socket.AF_INET6) and one.getsockopt(level, option):
                made.setsockopt(level, option, 1)
        _bind_to_interface(made, one.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX))
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def _bind_to_interface(one: socket.socket, index: int) -> None:
    if index:
        one.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, index)


def may_bind(pid: int, port: int) -> bool:
    """Tell whether a process may bind this port (ip_unprivileged_port_start of ip-sysctl, capabilities(7)).

    If its capabilities cannot be read, it may.
    """
    try:
        with open(_FIRST_UNPRIVILEGED, encoding="ascii") as file:
            if port >= int(file.read()):
                return True
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            effective = next(line for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return True
    return bool(int(effective.split()[1], 16) >> _NET_BIND_SERVICE & 1)


def silence(one: socket.socket) -> None:
    """Have the kernel give a socket no new datagrams.

    A socket that cannot reach its own address (IP_FREEBIND, or `[::]` without `::1`) is bound to an interface that no
    host has. From Linux 5.7 on that needs no capability.

    Raises:
        OSError: it still gets them.

    """
    try:
        one.connect(one.getsockname())
    except OSError:
        if one.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX):
            raise
        _bind_to_interface(one, _NO_INTERFACE)


def unsilence(one: socket.socket) -> None:
    """Have the kernel give a socket new datagrams again; nothing happens to one that is not silent.

    Raises:
        OSError: this Python cannot call connect(2) with AF_UNSPEC.

    """
    # Linux forgets the interface with the association (__udp_disconnect).
    index = one.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)
    connect, errno = libc_functions("connect")
    if connect(one.fileno(), _UNSPECIFIED, len(_UNSPECIFIED)) < 0:
        raise OSError(errno(), os.strerror(errno()))
    wanted = 0 if index == _NO_INTERFACE else index
    if one.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX) != wanted:
        one.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, wanted)


def why_not_silenced(one: socket.socket, address: Any) -> OSError | None:
    """Return why no other socket can take turns with this one; None if one can.

    Args:
        one: a socket that is not silent.
        address: where it was bound.

    """
    try:
        with successor(one, address) as made:
            silence(made)
            unsilence(made)
    except OSError as error:
        return error
    return None


def has_unread(one: socket.socket) -> bool:
    """Tell whether datagrams wait in a socket."""
    try:
        one.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        # An error of an earlier datagram (ICMP) is reported once.
        return True
    return True
