"""Who reads the datagrams: at each address one generation, the current one.

Each generation gets sockets of its own (`system.listeners.datagrams`): as a VIP under the VIP's number, and of an
ordinary `bind` in place of the one that safe_reload holds. They are silent until the generation is current. Then those
of the one before are silenced; it still reads what they hold, and has its connections on sockets that haproxy connects
to their clients.

After a crash the next generation gets the same sockets as the dead one: the clients in them are answered. It also gets
the same `cluster-secret`, so that clients of the dead one are told at once that their connection is gone. After a
reload it gets another one: of two live processes with one secret each could be made to end connections of the other
(RFC 9000, 21.11). Only with `quic-force-retry` it keeps it: no handshake could be continued without it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from entrypoint.core.effects import Log, ReadDatagrams
from entrypoint.lean.level import Level
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import Any
from entrypoint.system.getsocks import Passed
from entrypoint.system.getsocks.offer import Adopted
from entrypoint.system.listeners import Listeners
from entrypoint.system.listeners.datagrams import (
    has_unread,
    may_bind,
    silence,
    successor,
    takes_turns,
    unsilence,
    why_not_silenced,
)
from entrypoint.system.listeners.places import shown

_SECRET_BYTES = 16
"""haproxy uses 128 bits."""
_LOSES = "QUIC handshakes and datagrams can be lost in a reload"
_REMEDY = (
    "write `setcap cap_net_bind_service` into `global` (HAProxy 2.9 and later), or allow all processes to bind it "
    "(net.ipv4.ip_unprivileged_port_start)"
)


@record()
class Turn:
    """The datagram sockets of one candidate."""

    vips: dict[int, socket.socket]
    """By the VIP's descriptor."""
    in_place_of: Callable[[Passed], Passed]
    """Returns what it gets in place of a socket that is held for an ordinary `bind`."""
    secret: str
    """For `cluster-secret`."""
    inherited_secret: str
    """That of the generation before."""
    beside: bool
    """Another generation serves meanwhile."""
    offered: list[socket.socket]
    """What `in_place_of` has made."""
    shared: list[socket.socket]
    """The held ones that it gets themselves: nothing else can be bound at their addresses."""


class DatagramTurns:
    """Owns the datagram sockets of the generations, except the VIPs' first ones and those that are held."""

    def __init__(self, listeners: Listeners, adopted: Adopted, log: Callable[[Log], None]) -> None:
        """Begin; the VIPs' first sockets are read by the first generation."""
        self._log = log
        self._logged: set[str] = set()
        self._listeners = listeners
        self._adopted = adopted
        self._serving = {one.socket.fileno(): one.socket for one in listeners.taking_turns()}
        self._secret = os.urandom(_SECRET_BYTES).hex()
        self._turns: dict[int, Turn] = {}
        self._leaving: dict[int, list[socket.socket]] = {}

    @property
    def vips(self) -> frozenset[int]:
        """The descriptors of the VIPs that each generation gets another socket of."""
        return frozenset(self._serving)

    def prepare(self, number: int, *, beside: bool) -> Turn:
        """Make the sockets of a candidate.

        Args:
            number: of its generation.
            beside: another generation serves meanwhile.

        Raises:
            OSError: no descriptors are left.

        """
        self.gone(number)
        secret = os.urandom(_SECRET_BYTES).hex() if beside else self._secret
        turn = Turn({}, lambda one: one, secret, self._secret, beside, [], [])
        if not beside:
            turn.vips.update(self._serving)
        else:
            turn.in_place_of = lambda one: self._in_place_of(one, turn)
            try:
                for vip in self._listeners.taking_turns():
                    made = turn.vips[vip.socket.fileno()] = successor(self._serving[vip.socket.fileno()], vip.address)
                    silence(made)
            except OSError:
                self._close(turn)
                raise
        self._turns[number] = turn
        return turn

    def _in_place_of(self, held: Passed, turn: Turn) -> Passed:
        """Return a new socket. It is not silent until haproxy has compared its address with the `bind` lines."""
        if not takes_turns(held.socket):
            return held
        address = held.socket.getsockname()
        # A socket of another network namespace cannot be made here.
        if held.namespace or why_not_silenced(held.socket, address):
            turn.shared.append(held.socket)
            return held
        made = successor(held.socket, address)
        turn.offered.append(made)
        return replace(held, socket=made)

    def taken(self) -> None:
        """Silence what candidates were offered, once they have it."""
        for turn in self._turns.values():
            for one in turn.offered:
                silence(one)

    def begin(self, reads: ReadDatagrams) -> None:
        """Let a generation read from now on, and the one before no more."""
        turn = self._turns.pop(reads.number, None)
        if turn is None:
            return
        leaving = []
        for vip in self._listeners.taking_turns():
            descriptor = vip.socket.fileno()
            new, old = turn.vips[descriptor], self._serving[descriptor]
            if vip.tag in reads.tags:
                unsilence(new)
            else:
                silence(new)
            if new is not old:
                silence(old)
                leaving.append(old)
            self._serving[descriptor] = new
        self._secret = turn.secret
        for one in turn.offered:
            # If haproxy has not taken it, this was its last descriptor.
            unsilence(one)
            one.close()
        if turn.beside:
            released = self._adopted.release(lambda one: takes_turns(one) and one not in turn.shared)
            for one in released:
                silence(one)
            leaving += released
        self._leaving[reads.previous] = leaving
        if not reads.previous:
            # The one before died while this one was starting.
            self.gone(reads.previous)
        for one in turn.shared:
            what = f"the UDP socket at {shown(one, one.getsockname())} is shared by old and new haproxy"
            self._warn("shared_datagrams", f"{what}: safe_reload may not bind another one there; {_LOSES}")
        refused = [str(port) for port in reads.quic_ports if not may_bind(reads.pid, port)]
        if refused:
            ports = ", ".join(refused)
            what = f"haproxy may not bind the QUIC port {ports} itself, so all connections share a socket"
            self._warn("shared_quic_socket", f"{what}, and a reload ends them all; {_REMEDY}")

    def _warn(self, event: str, what: str) -> None:
        """Log this once, not with each reload."""
        if what not in self._logged:
            self._logged.add(what)
            self._log(Log(Level.WARNING, event, what))

    def has_unread(self, number: int) -> bool:
        """Tell whether datagrams wait in the sockets of a generation that reads no new ones."""
        return any(map(has_unread, self._leaving.get(number, ())))

    def gone(self, number: int) -> None:
        """Close the sockets of a generation that has exited, or is told to leave, and those of a failed candidate."""
        turn = self._turns.pop(number, None)
        if turn:
            self._close(turn)
        for one in self._leaving.pop(number, ()):
            if one.fileno() not in self._serving:
                one.close()

    def close(self) -> None:
        """Close all of them."""
        for number in {*self._turns, *self._leaving}:
            self.gone(number)
        for descriptor, one in self._serving.items():
            if one.fileno() != descriptor:
                one.close()

    def inodes(self) -> frozenset[int]:
        """Return the inode of each VIP's socket that the current generation reads (fstat(2))."""
        return frozenset(os.fstat(one.fileno()).st_ino for one in self._serving.values())

    def serialize(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return what the next program needs as plain values, and the descriptors among it."""
        serving = {vip: one.fileno() for vip, one in self._serving.items()}
        return {"serving": serving, "secret": self._secret}, tuple(serving.values())

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what `serialize` of the previous program returned.

        Raises:
            OSError: a descriptor is not open.

        """
        self._secret = saved["secret"]
        for vip, descriptor in saved["serving"].items():
            if vip != descriptor:
                self._serving[vip] = socket.socket(fileno=descriptor)
                self._serving[vip].set_inheritable(False)

    def _close(self, turn: Turn) -> None:
        for one in (*turn.vips.values(), *turn.offered):
            if one not in self._serving.values():
                one.close()
