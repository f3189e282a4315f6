"""The server's side: offers listeners to one candidate."""

import os
import socket
from collections.abc import Collection, Iterable

from entrypoint.system.getsocks.passed import INT, PARAMETERS, REQUEST, Passed, receive

_MOST_IN_A_BATCH = 252
"""MAX_SEND_FD of HAProxy 2.6 and later: what musl can pass at once; more than that is cut off."""
_LONGEST_BATCH = 8192
"""Bytes in a batch that we send: fits into any socket's empty buffer, so that sending never has to wait."""


class SocketOffer:
    """The server's side, for one candidate: what `-x` is to be given, and the answers to what it asks.

    haproxy accepts `-x sockpair@N` from anybody, although it is meant for its own master: it makes a session and
    sends us its end of it. So there is no path, and nobody else can ask.
    """

    def __init__(self, sockets: Iterable[Passed]) -> None:
        """Make the line; the sockets stay the caller's, and have to stay open until the candidate has them."""
        self._waiting = list(sockets)
        self._count = len(self._waiting)
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ours.setblocking(False)
        self._session: socket.socket | None = None
        self._heard = bytearray()
        self._asked = False
        self.failure = ""
        """One line; empty when the candidate has everything, or never asked."""

    @property
    def argument(self) -> str:
        """What to give haproxy after `-x`."""
        return f"sockpair@{self._theirs.fileno()}"

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that haproxy needs."""
        return (self._theirs.fileno(),)

    def spawned(self) -> None:
        """Let go of haproxy's end, so that its death closes the line."""
        self._theirs.close()

    def fileno(self) -> int:
        """Return the descriptor to wait for until it is readable; it changes with `proceed`, -1 is the end."""
        return self._session.fileno() if self._session else self._ours.fileno()

    def proceed(self) -> bool:
        """Do what can be done now; True when the candidate has everything, or never will."""
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
        """Hang up."""
        self._waiting.clear()
        self._theirs.close()
        self._ours.close()
        if self._session:
            self._session.close()
            self._session = None

    def _accept(self) -> None:
        """Take the session that haproxy sends us; without one it is gone."""
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
            self._end("the candidate sent what is not a session")
            return
        # Not made non-blocking: haproxy has made it, and may change its mode at any time.
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
            self._send(INT.pack(self._count), ())
            self._send_batch()
        elif not REQUEST.startswith(self._heard):
            self._end("the candidate asks for something else")

    def _send_batch(self) -> None:
        """Send the next sockets; the end when there are none."""
        records = bytearray()
        descriptors: list[int] = []
        for one in self._waiting[:_MOST_IN_A_BATCH]:
            record = _record(one)
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
        """Send all of it, into a buffer that is empty.

        Raises:
            OSError: not BlockingIOError, for waiting would not help.

        """
        assert self._session
        try:
            # Not socket.send_fds, which in Python 3.11 forgets its flags.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(INT.pack, descriptors)))]
            sent = self._session.sendmsg(
                [data], rights if descriptors else [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            )
        except BlockingIOError as error:
            # Without the number, which would make a BlockingIOError of it.
            raise OSError(0, "the candidate does not read") from error
        if sent != len(data):
            raise OSError(0, "the candidate does not read")

    def _end(self, failure: str) -> None:
        self.failure = failure
        self.close()


def _record(one: Passed) -> bytes:
    namespace, interface = one.namespace, one.interface
    return bytes((len(namespace), *namespace, len(interface), *interface, *bytes(PARAMETERS)))
