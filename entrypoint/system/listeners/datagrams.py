"""Datagram sockets that take turns: several are bound to one address, and the kernel gives new datagrams to one only.

A TCP socket is shared by an old and a new process, and each connection that it accepts is whole. A datagram is not: the
packets of one QUIC handshake would end up in both. So each process has a socket of its own at the same address
(SO_REUSEPORT of socket(7)), and all but one are silent. A silent socket keeps its address and the datagrams that it
has, and gets no new ones. There are two ways to be silent: bound to an interface that no host has, or connected to the
own address, from which nobody else sends (udp(7), connect). connect(2) with AF_UNSPEC ends both. But an IPv6 socket is
never connected: Linux would go on comparing senders with its peer (__udp_disconnect leaves sk_v6_daddr).

It takes Linux 5.7: before that, binding to an interface took a capability.
"""

from __future__ import annotations

import os

from entrypoint.lean import contextlib, socket
from entrypoint.lean.libc import libc_functions
from entrypoint.lean.typing import Any

IP_FREEBIND, _IP_TRANSPARENT, _IPV6_TRANSPARENT = 15, 19, 75
"""From linux/in.h and linux/in6.h; the socket module lacks them."""
_COPIED = (
    (socket.AF_INET, socket.IPPROTO_IP, _IP_TRANSPARENT),
    (socket.AF_INET6, socket.IPPROTO_IPV6, _IPV6_TRANSPARENT),
    (socket.AF_INET, socket.IPPROTO_IP, socket.IP_TOS),
    (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    (socket.AF_INET, socket.SOL_SOCKET, socket.SO_PRIORITY),
    (socket.AF_INET, socket.SOL_SOCKET, socket.SO_MARK),
    (socket.AF_INET, socket.SOL_SOCKET, socket.SO_BROADCAST),
)
"""The least family, the level and the name of each option that a successor gets."""
_SO_RCVBUFFORCE = 33
"""From asm-generic/socket.h; it takes CAP_NET_ADMIN."""
_SO_BINDTOIFINDEX = 62
"""From asm-generic/socket.h; Linux 5.0."""
_NO_INTERFACE = 2**31 - 1
"""The highest number; no interface has one like it."""
_NO_INTERFACES = 2**20
"""So many numbers below it are no interfaces either."""
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


def interface(one: socket.socket) -> int:
    """Return the index of the interface that a socket was bound to; 0 for none.

    Raises:
        OSError: Linux is older than 5.0.

    """
    index = one.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)
    return 0 if index >= _NO_INTERFACE - _NO_INTERFACES else index


def successor(one: socket.socket, address: Any, generation: int) -> socket.socket:
    """Return a new silent socket with the same options at the same address.

    Args:
        one: the socket that it is to relieve.
        address: where that was bound: of a socket at `*` that is connected, the kernel says the loopback address.
        generation: the number of the generation that gets it. Linux spreads clients over the sockets of one address
            that were bound with the same interface, even if they have another one now (reuseport_select_sock). So
            those of a generation are silent on the same one, and those of another generation on another one.

    Raises:
        OSError: we may not bind it (EACCES, EPERM) or make it silent, or no descriptors are left.

    """
    share_address(one)
    made = socket.socket(one.family, one.type)
    try:
        made.setblocking(False)
        share_address(made)
        _copy_options(one, made)
        # The address may have moved to another host since (VRRP). haproxy takes it only with the option as before.
        made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        _bind_silently(made, address, generation)
        made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, one.getsockopt(socket.IPPROTO_IP, IP_FREEBIND))
    except BaseException:
        made.close()
        raise
    return made


def _copy_options(one: socket.socket, made: socket.socket) -> None:
    """Set what haproxy, or systemd for a socket unit, may have set on a socket (systemd.socket(5))."""
    room = max(ROOM, one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    if made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF):
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, room)
    if one.family == socket.AF_INET6:
        v6only = one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    for family, level, option in _COPIED:
        value = one.getsockopt(level, option) if one.family in {family, socket.AF_INET6} else 0
        if value:
            made.setsockopt(level, option, value)


def share_address(one: socket.socket) -> None:
    """Allow more sockets at its address.

    SO_REUSEPORT is for sockets of one user, SO_REUSEADDR also for those that haproxy, as another user, binds for its
    connections (socket(7)).
    """
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _bind_silently(made: socket.socket, address: Any, generation: int) -> None:
    """Bind a socket that is silent from the beginning, or in an instant.

    Linux binds a single IPv6 address only on an interface that is there (__inet6_bind).
    """
    nowhere = _NO_INTERFACE - 1 - generation % _NO_INTERFACES
    if made.family == socket.AF_INET or address[0] == "::":
        made.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, nowhere)
        made.bind(address)
    else:
        # Without this it would be chosen for others' clients in older kernels, although it is silent.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        made.bind(address)
        made.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, nowhere)


def silence(one: socket.socket) -> None:
    """Have the kernel give a socket no new datagrams; nothing happens to a silent one.

    Raises:
        OSError: it still gets them.

    """
    index = one.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)
    if index != interface(one):
        return
    if one.family == socket.AF_INET:
        # Better than the other way: haproxy can still send from it. Its address may not be on this host (IP_FREEBIND).
        with contextlib.suppress(OSError):
            one.connect(one.getsockname())
            return
    # A socket that has an interface can be given another one with CAP_NET_RAW only.
    one.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)


def unsilence(one: socket.socket, index: int) -> None:
    """Have the kernel give a socket new datagrams again; nothing happens to one that is not silent.

    Args:
        one: the socket.
        index: of its interface; 0 for none.

    Raises:
        OSError: it still gets none; this Python may be unable to call connect(2) with AF_UNSPEC.

    """
    connect, errno = libc_functions("connect")
    if connect(one.fileno(), _UNSPECIFIED, len(_UNSPECIFIED)) < 0:
        raise OSError(errno(), os.strerror(errno()))
    # Linux has forgotten the interface, together with the peer (__udp_disconnect).
    if one.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX) != index:
        one.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, index)


def why_not_silenced(one: socket.socket, address: Any) -> OSError | None:
    """Return why no other socket can take turns with this one; None if one can.

    Args:
        one: a socket that is not silent.
        address: where it was bound.

    """
    try:
        index = interface(one)
        with successor(one, address, 0) as made:
            if index:
                unsilence(made, index)
                silence(made)
        with socket.socket(one.family, one.type) as nowhere:
            nowhere.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
            unsilence(nowhere, 0)
    except OSError as error:
        return error
    return None


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
