"""The listeners that we keep copies of, and the server's side of `_getsocks`, which offers them to one candidate."""

from __future__ import annotations

import os

from entrypoint.lean import socket
from entrypoint.lean.collections import Callable, Collection, Iterable
from entrypoint.system.getsocks import INT, PARAMETERS, REQUEST, Passed, identity, is_unreachable, receive

_MOST_IN_A_BATCH = 252
"""MAX_SEND_FD of HAProxy 2.6 and later: musl can pass no more at once, and the rest is cut off."""
_LONGEST_BATCH = 8192
"""Bytes in a batch that we send. They fit into the empty buffer of any socket, so sending never has to wait."""


def itself(one: Passed) -> Passed:
    """Return what is offered: for a candidate that gets nothing in place of it."""
    return one


class SocketOffer:
    """The server's side for one candidate: the argument for `-x`, and the answers to its requests.

    haproxy accepts `-x sockpair@N` from any parent, although it is meant for its own master. It makes a session and
    sends us the other end. So there is no path, and nobody else can ask.
    """

    def __init__(self, sockets: Iterable[Passed], in_place_of: Callable[[Passed], Passed] = itself) -> None:
        """Make the socket pair.

        Args:
            sockets: what is offered. They stay the caller's, and must stay open until the candidate has them.
            in_place_of: returns what the candidate gets in place of one of them; called when it asks.

        """
        self._waiting = list(sockets)
        self._in_place_of = in_place_of
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ours.setblocking(False)
        self._session: socket.socket | None = None
        self._heard = bytearray()
        self._asked = False
        self.failure = ""
        """One line; empty if the candidate has everything, or never asked."""

    @property
    def argument(self) -> str:
        """The argument of haproxy's `-x`."""
        return f"sockpair@{self._theirs.fileno()}"

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that haproxy needs."""
        return (self._theirs.fileno(),)

    def spawned(self) -> None:
        """Close haproxy's end, so that our end shows a hang-up when haproxy dies."""
        self._theirs.close()

    def fileno(self) -> int:
        """Return the descriptor to wait for until it is readable. `proceed` may change it; -1 after the end."""
        return self._session.fileno() if self._session else self._ours.fileno()

    def proceed(self) -> bool:
        """Do what can be done now; True if the candidate has everything, or never will."""
        try:
            if not self._session and self._ours.fileno() >= 0:
                self._accept()
            while self._session:
                data = self._session.recv(INT.size if self._asked else len(REQUEST) + 1, socket.MSG_DONTWAIT)
                if data:
                    self._hear(data)
                else:
                    self._end("the candidate hung up")
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(error.strerror or str(error))
        return self.fileno() < 0

    def close(self) -> None:
        """Close both ends and the session."""
        self._waiting.clear()
        self._theirs.close()
        self._ours.close()
        if self._session:
            self._session.close()
            self._session = None

    def _accept(self) -> None:
        """Receive the session from haproxy. If nothing comes, haproxy has gone."""
        _, descriptors, cut_off = receive(self._ours, 1, 1)
        if len(descriptors) != 1 or cut_off:
            for descriptor in descriptors:
                os.close(descriptor)
            self._end("")
            return
        try:
            session = socket.socket(fileno=descriptors[0])
        except OSError:
            os.close(descriptors[0])
            raise
        if session.family != socket.AF_UNIX or session.type != socket.SOCK_STREAM:
            session.close()
            self._end("the candidate sent a socket that is not a session")
            return
        # Not made non-blocking: haproxy may change the mode at any time.
        self._session = session

    def _hear(self, data: bytes) -> None:
        self._heard += data
        if self._asked:
            if len(self._heard) >= INT.size:
                del self._heard[: INT.size]
                self._send_batch()
        elif self._heard == REQUEST:
            self._asked = True
            self._heard.clear()
            self._waiting = [self._in_place_of(one) for one in self._waiting]
            self._send(INT.pack(len(self._waiting)), ())
            self._send_batch()
        elif not REQUEST.startswith(self._heard):
            self._end("the candidate sent another command than _getsocks")

    def _send_batch(self) -> None:
        """Send the next sockets; end the session if there are none."""
        records = bytearray()
        descriptors: list[int] = []
        for one in self._waiting[:_MOST_IN_A_BATCH]:
            names = one.namespace, one.interface
            record = b"".join(bytes((len(name),)) + name for name in names) + bytes(PARAMETERS)
            if descriptors and len(records) + len(record) > _LONGEST_BATCH:
                break
            records += record
            descriptors.append(one.socket.fileno())
        del self._waiting[: len(descriptors)]
        if descriptors:
            self._send(bytes(records), descriptors)
        else:
            self._end("")

    def _send(self, data: bytes, descriptors: Collection[int]) -> None:
        """Send all of it into an empty buffer; raise OSError, but not BlockingIOError: waiting would not help."""
        assert self._session
        try:
            # Not socket.send_fds, which in Python 3.11 forgets its flags.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(INT.pack, descriptors)))]
            sent = self._session.sendmsg(
                [data], rights if descriptors else [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            )
        except BlockingIOError as error:
            # Without the errno, which would make it a BlockingIOError again.
            raise OSError(0, "the candidate does not read") from error
        if sent != len(data):
            raise OSError(0, "the candidate does not read")

    def _end(self, failure: str) -> None:
        self.failure = failure
        self.close()


class Adopted:
    """The listeners that we keep: copies of those that the current generation has bound itself."""

    def __init__(self) -> None:
        """Begin without any."""
        self._sockets: dict[tuple[int, int], Passed] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the sockets, each once, in haproxy's order."""
        return tuple(dict.fromkeys(one.address for one in self._sockets.values()))

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets, to connect to; they stay ours."""
        return tuple(one.socket for one in self._sockets.values())

    def serialize(self) -> list[tuple[int, bytes, bytes]]:
        """Return every socket as plain values, for the next program."""
        return [(one.socket.fileno(), one.namespace, one.interface) for one in self._sockets.values()]

    def restore(self, left: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Take over what `serialize` of the previous program returned.

        Raises:
            OSError: a descriptor is not open.

        """
        for descriptor, namespace, interface in left:
            one = Passed(socket.socket(fileno=descriptor), namespace, interface)
            one.socket.set_inheritable(False)
            self._sockets[identity(one.socket)] = one

    def renew(self, passed: Iterable[Passed], others: Collection[int] = ()) -> None:
        """Keep a generation's sockets, and close the others.

        Args:
            passed: its sockets; they are ours from now on. Duplicates are closed.
            others: inodes of sockets that somebody else keeps, such as the VIPs' (fstat(2)).

        """
        renewed: dict[tuple[int, int], Passed] = {}
        for one in passed:
            same = identity(one.socket)
            old = self._sockets.get(same)
            if same[1] in others or same in renewed:
                one.socket.close()
            elif old:
                one.socket.close()
                renewed[same] = Passed(old.socket, one.namespace, one.interface)
            else:
                renewed[same] = one
        gone = [one for same, one in self._sockets.items() if same not in renewed]
        self._sockets = renewed
        for one in gone:
            one.socket.close()

    def offer(self, in_place_of: Callable[[Passed], Passed] = itself) -> SocketOffer:
        """Offer the sockets to a candidate, even if there are none; haproxy accepts that.

        Unix sockets with a path that has been removed are left out: haproxy does not check, and nobody could ever
        connect.

        Args:
            in_place_of: see `SocketOffer`.

        """
        return SocketOffer((one for one in self._sockets.values() if not is_unreachable(one.socket)), in_place_of)

    def release(self, wanted: Callable[[socket.socket], bool]) -> list[socket.socket]:
        """Keep these sockets no longer, and return them; they are the caller's from now on."""
        gone = [(same, one.socket) for same, one in self._sockets.items() if wanted(one.socket)]
        for same, _ in gone:
            del self._sockets[same]
        return [one for _, one in gone]

    def close(self) -> None:
        """Close all of them."""
        self.renew(())
