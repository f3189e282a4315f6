"""The client's side of `_getsocks`: asks one generation for its listeners."""

from __future__ import annotations

import os

from entrypoint.lean import socket
from entrypoint.system.getsocks import INT, PARAMETERS, REQUEST, Passed, receive, send

_MOST_PASSED = 253
"""SCM_MAX_FD of the kernel (unix(7)), and MAX_SEND_FD of HAProxy 2.5: nobody can send more at once."""
_LONGEST_RECORD = 1 + 255 + 1 + 255 + INT.size
_MOST = 1 << 16
"""Sockets that we accept: 4,096 addresses with 16 shards each."""
_MOST_TURNS = 64
"""Reads in one turn of the event loop: a peer may send as fast as we read."""


class SocketRequest:
    """One request to one generation. Owns the session, and the sockets until the caller takes them.

    A generation that is stopped (SIGSTOP) never answers: the caller sets a time limit and calls `close`.
    """

    def __init__(self, session: socket.socket) -> None:
        """Send the request on a session that is connected to the generation's CLI, and own the session."""
        self._session = session
        self._count: int | None = None
        self._number = bytearray()
        self._records = bytearray()
        self._descriptors: list[int] = []
        self._names: list[tuple[bytes, bytes]] = []
        """Namespace and interface of the sockets whose records have been parsed."""
        self._parsed = 0
        """Bytes of the records that have been parsed."""
        self._sockets: tuple[Passed, ...] = ()
        self._finished = False
        self.failure = ""
        """One line; empty if everything came, or the generation had nothing to pass."""
        session.setblocking(False)
        send(session, REQUEST)

    def fileno(self) -> int:
        """Return the descriptor to wait for until it is readable; -1 after the end."""
        return self._session.fileno()

    @property
    def sockets(self) -> tuple[Passed, ...]:
        """Everything that was passed, once it is complete; the caller has to close it then."""
        return self._sockets

    def read(self) -> bool:
        """Read what has arrived; True if that was all, or if it failed."""
        for _ in range(_MOST_TURNS):
            if self._finished:
                break
            try:
                arrived = self._receive()
            except BlockingIOError:
                return False
            except ConnectionResetError:
                # The peer of a unix socket has closed it without reading all that we sent.
                self._hung_up()
            except OSError as error:
                self._fail(error.strerror or str(error))
            except _MalformedError as error:
                self._fail(str(error))
            else:
                if not arrived:
                    self._hung_up()
                elif self._count is not None and len(self._descriptors) == self._count:
                    self._parse()
        return self._finished

    def close(self) -> None:
        """Close the session, and all descriptors that are not in `sockets`."""
        self._finished = True
        self._session.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _receive(self) -> bool:
        """Receive once; False at the end of the stream."""
        if self._count is None:
            data = self._session.recv(INT.size - len(self._number))
            self._number += data
            if len(self._number) == INT.size:
                (self._count,) = INT.unpack(self._number)
                if not 0 <= self._count <= _MOST:
                    raise _MalformedError(f"announces {self._count} sockets")
            return bool(data)
        data, descriptors, cut_off = receive(self._session, 65536, _MOST_PASSED)
        self._descriptors += descriptors
        self._records += data
        if cut_off:
            raise _MalformedError("passes more sockets than there is room for; raise the limit (ulimit -n)")
        if len(self._descriptors) > self._count or len(self._records) > self._count * _LONGEST_RECORD:
            raise _MalformedError(f"passes more than the {self._count} sockets that it announced")
        if descriptors:
            send(self._session, INT.pack(len(self._descriptors)))
        return bool(data)

    def _parse(self) -> None:
        """Finish if every socket has its record."""
        while len(self._names) < len(self._descriptors):
            try:
                namespace, offset = _name(self._records, self._parsed)
                interface, offset = _name(self._records, offset)
            except IndexError:
                return
            self._parsed = offset + PARAMETERS
            self._names.append((namespace, interface))
        if self._parsed > len(self._records):
            return
        if self._parsed < len(self._records):
            self._fail("describes more sockets than it passes")
            return
        passed: list[Passed] = []
        try:
            for descriptor, names in zip(self._descriptors, self._names, strict=True):
                passed.append(Passed(socket.socket(fileno=descriptor), *names))
        except OSError:
            del self._descriptors[: len(passed)]
            for one in passed:
                one.socket.close()
            self._fail("passes a descriptor that is not a socket")
            return
        self._descriptors.clear()
        self._sockets = tuple(passed)
        self.close()

    def _hung_up(self) -> None:
        if self._number:
            self._fail(f"hung up after {len(self._descriptors)} of {self._count} sockets")
        else:
            self.close()

    def _fail(self, failure: str) -> None:
        self.failure = failure
        self.close()


class _MalformedError(Exception):
    """What haproxy would not have sent; its text is one line."""


def _name(records: bytearray, offset: int) -> tuple[bytes, int]:
    """Return the name at this offset, which begins with its length, and the offset behind it.

    IndexError if it has not arrived yet.
    """
    end = offset + 1 + records[offset]
    if end > len(records):
        raise IndexError(end)
    return bytes(records[offset + 1 : end]), end
