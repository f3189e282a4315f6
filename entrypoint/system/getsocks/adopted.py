"""The listeners that we keep: those that the current generation has bound itself."""

import socket
from collections.abc import Collection, Iterable

from entrypoint.system.getsocks.offer import SocketOffer
from entrypoint.system.getsocks.passed import Passed, identity, is_unreachable


class Adopted:
    """The listeners that we keep: those that the current generation has bound itself."""

    def __init__(self) -> None:
        """Begin without any."""
        self._kept: dict[tuple[int, int], Passed] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """What the kept sockets listen on, each address once, in haproxy's order."""
        return tuple(dict.fromkeys(one.address for one in self._kept.values()))

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The kept sockets, to connect to; they stay ours."""
        return tuple(one.socket for one in self._kept.values())

    def serialize(self) -> list[tuple[int, bytes, bytes]]:
        """Return every kept socket as plain values, for the program that takes our place."""
        return [(one.socket.fileno(), one.namespace, one.interface) for one in self._kept.values()]

    def restore(self, left: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Go on with what our last life has handed down.

        Raises:
            OSError: a descriptor is not there.

        """
        for descriptor, namespace, interface in left:
            one = Passed(socket.socket(fileno=descriptor), namespace, interface)
            one.socket.set_inheritable(False)
            self._kept[identity(one.socket)] = one

    def renew(self, passed: Iterable[Passed], others: Collection[int] = ()) -> None:
        """Keep what a generation has, and let go of the rest.

        Args:
            passed: what it has; they are ours from now on. Of two descriptors of one socket one is kept.
            others: inodes of sockets that somebody else keeps, such as the VIPs' (fstat(2)).

        """
        kept: dict[tuple[int, int], Passed] = {}
        for one in passed:
            same = identity(one.socket)
            old = self._kept.get(same)
            if same[1] in others or same in kept:
                one.socket.close()
            elif old:
                one.socket.close()
                kept[same] = Passed(old.socket, one.namespace, one.interface)
            else:
                kept[same] = one
        gone = [one for identity, one in self._kept.items() if identity not in kept]
        self._kept = kept
        for one in gone:
            one.socket.close()

    def offer(self) -> SocketOffer:
        """Offer them to a candidate; also none at all, which haproxy understands.

        But for those whose path somebody has removed: haproxy does not look, and nobody could ever connect.
        """
        return SocketOffer(one for one in self._kept.values() if not is_unreachable(one.socket))

    def close(self) -> None:
        """Let go of all of them."""
        self.renew(())
