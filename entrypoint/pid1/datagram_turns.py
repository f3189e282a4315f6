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

from entrypoint.core.effects import Log, ReadDatagrams
from entrypoint.lean import socket
from entrypoint.lean.collections import Callable, Iterator, Mapping
from entrypoint.lean.level import Level
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import Any
from entrypoint.system.getsocks import Passed
from entrypoint.system.getsocks.offer import Adopted, itself
from entrypoint.system.listeners import Listeners
from entrypoint.system.listeners.datagrams import (
    has_unread,
    interface,
    may_bind,
    silence,
    successor,
    takes_turns,
    unsilence,
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
    offered: list[tuple[socket.socket, int]]
    """What `in_place_of` has made, each with the index of its interface."""
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
        self._current = 0
        """The number of the generation that reads; 0 while there is none."""
        self._tags: tuple[str, ...] = ()
        """Of the VIPs that it reads."""
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
        turn = Turn({}, itself, secret, self._secret, beside, [], [])
        if not beside:
            turn.vips.update(self._serving)
        else:
            turn.in_place_of = lambda one: self._in_place_of(one, turn, number)
            try:
                for vip in self._listeners.taking_turns():
                    descriptor = vip.socket.fileno()
                    old = self._serving[descriptor]
                    turn.vips[descriptor] = successor(old, vip.address, number)
            except OSError:
                self._close(turn)
                raise
        self._turns[number] = turn
        return turn

    def _in_place_of(self, held: Passed, turn: Turn, number: int) -> Passed:
        if not takes_turns(held.socket):
            return held
        try:
            index = interface(held.socket)
            # A socket of another network namespace cannot be made here.
            address = held.socket.getsockname()
            made = None if held.namespace else successor(held.socket, address, number)
        except OSError:
            made = None
        if not made:
            turn.shared.append(held.socket)
            return held
        turn.offered.append((made, index))
        return replace(held, socket=made)

    def begin(self, reads: ReadDatagrams) -> None:
        """Let a generation read from now on, and the one before no more.

        Raises:
            OSError: a socket is not as it should be; everything else is done. Calling it again tries again.

        """
        turn = self._turns.pop(reads.number, None)
        leaving = self._hand_over(turn) if turn else self._leaving.get(reads.previous, [])
        self._current, self._tags = reads.number, reads.tags
        failures = [*self._let_read(), *(failure for one in leaving if (failure := _tried(silence, one)))]
        if turn:
            for one, index in turn.offered:
                failures += filter(None, [_tried(unsilence, one, index)])
                # If haproxy has not taken it, this was its last descriptor.
                one.close()
            self._leave(reads.previous, leaving)
            self._say(turn, reads)
        if failures:
            raise failures[0]

    def _hand_over(self, turn: Turn) -> list[socket.socket]:
        """Make the sockets of a turn those that serve; return those that the generation before still reads."""
        leaving = []
        for vip in self._listeners.taking_turns():
            descriptor = vip.socket.fileno()
            old, self._serving[descriptor] = self._serving[descriptor], turn.vips[descriptor]
            if old is not self._serving[descriptor]:
                if vip.tag in self._tags:
                    leaving.append(old)
                elif old is not vip.socket:
                    old.close()
        if turn.beside:
            leaving += self._adopted.release(lambda one: takes_turns(one) and one not in turn.shared)
        self._secret = turn.secret
        return leaving

    def _leave(self, previous: int, leaving: list[socket.socket]) -> None:
        self._leaving[previous] = leaving
        if not previous:
            # The one before died while this one was starting: nobody reads them.
            self.leaves(previous)

    def _let_read(self) -> Iterator[OSError]:
        """Make the serving sockets receive, if their VIPs are used; yield what fails."""
        for vip in self._listeners.taking_turns():
            one = self._serving[vip.socket.fileno()]
            is_used = vip.tag in self._tags or not self._current
            failure = _tried(unsilence, one, vip.interface) if is_used else _tried(silence, one)
            if failure:
                yield failure

    def _let_wait(self) -> None:
        """Have datagrams wait where the next generation will read them: nobody reads any now."""
        turn = self._turns[max(self._turns)] if self._turns else None
        if not turn or not turn.beside:
            list(self._let_read())
            return
        for vip in self._listeners.taking_turns():
            descriptor = vip.socket.fileno()
            _tried(unsilence, turn.vips[descriptor], vip.interface)
            _tried(silence, self._serving[descriptor])

    def _say(self, turn: Turn, reads: ReadDatagrams) -> None:
        for tag, why in self._listeners.shared().items():
            what = f"all generations share the passed UDP socket {tag}: another cannot be bound at its address: {why}"
            self._warn("shared_datagrams", f"{what}; {_LOSES}")
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
        """Close the sockets of a generation that has exited, and those of a failed candidate."""
        self.leaves(number)
        if number == self._current:
            self._current = 0
        if not self._current:
            self._let_wait()

    def leaves(self, number: int) -> None:
        """Close the sockets of a generation that is told to leave: it has read everything, or is not waited for."""
        turn = self._turns.pop(number, None)
        if turn:
            self._close(turn)
        for one in self._leaving.pop(number, ()):
            if one.fileno() not in self._serving:
                one.close()

    def close(self) -> None:
        """Close all of them."""
        for turn in self._turns.values():
            self._close(turn)
        self._turns.clear()
        for number in tuple(self._leaving):
            self.leaves(number)
        for descriptor, one in self._serving.items():
            if one.fileno() != descriptor:
                one.close()
        self._serving.clear()

    def inodes(self) -> frozenset[int]:
        """Return the inode of each VIP's socket that the current generation reads (fstat(2))."""
        return frozenset(os.fstat(one.fileno()).st_ino for one in self._serving.values())

    def serialize(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return what the next program needs as plain values, and the descriptors among it."""
        serving = {vip: one.fileno() for vip, one in self._serving.items()}
        plain = {"serving": serving, "secret": self._secret, "current": self._current, "tags": self._tags}
        return plain, tuple(serving.values())

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what `serialize` of the previous program returned.

        Raises:
            OSError: a descriptor is not open.

        """
        self._secret, self._current, self._tags = saved["secret"], saved["current"], tuple(saved["tags"])
        for vip, descriptor in saved["serving"].items():
            if vip != descriptor:
                self._serving[vip] = socket.socket(fileno=descriptor)
                self._serving[vip].set_inheritable(False)

    def _close(self, turn: Turn) -> None:
        for one in (*turn.vips.values(), *(one for one, _ in turn.offered)):
            if one not in self._serving.values():
                one.close()


def _tried(action: Callable[..., None], *arguments: object) -> OSError | None:
    """Do something; return the error instead of raising it."""
    try:
        action(*arguments)
    except OSError as error:
        return error
    return None
