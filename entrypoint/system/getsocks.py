"""Listening sockets on their way from one generation to the next: `_getsocks`, and the other end of haproxy's `-x`.

haproxy binds what an ordinary `bind` names. Asked for it on its CLI, it passes copies of these sockets, and a haproxy
with `-x` asks so for them before it binds. We are in between and keep the copies, so that a haproxy that dies takes no
listening socket, and nobody who waits in its queue, with it.

What haproxy does with them (measured with 2.6.12, 3.0.11 and 3.2.26): it takes those over that a `bind` of the new
configuration matches in address, kind, interface, namespace, `transparent` and `v6only`, and closes the others. TCP
with any number of addresses, ports and shards, unix sockets by path and by abstract name, UDP, and the user's own
`stats socket` are all taken over. A single IPv6 address is only taken over if its `bind` says `v6only`: the kernel
says so of every socket that is bound to one, and haproxy compares that with the words. A unix socket that is taken
over keeps its path as it is; one that is bound anew is bound as PATH.PID.tmp and renamed.

A candidate that fails after it took them only closes its copies, and so does SIGUSR1. `disable frontend` and SIGTTOU
disconnect a TCP socket for everybody who shares it; `set maxconn frontend NAME 0` only stops accepting. A socket that
is not taken over, or of which a new configuration has fewer (`shards`), loses who waits in its queue. With
net.ipv4.tcp_migrate_req=1 it loses only handshakes that end while it closes.

The protocol (HAProxy's `src/cli.c:_getsocks` and `src/sock.c:sock_get_old_sockets`, the same from 2.3 to 3.2): the
client sends `_getsocks`; the server a count, then batches of descriptors (SCM_RIGHTS of unix(7)); the client answers
each batch with four bytes. With each descriptor comes the length and name of its network namespace, the length and
name of its interface, and four bytes without a meaning. Numbers are the machine's `int`. What is not exported, an
inherited socket above all, is not counted; who has nothing to export hangs up without a word.

Nothing here blocks: haproxy waits for us, and we for nobody. The session that a candidate sends us is an open file
description that it shares, and so is its mode (fcntl(2)): each call says itself that it does not wait.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Collection, Iterable

from entrypoint.lean.record import record

_REQUEST = b"_getsocks\n"
_INT = struct.Struct("=i")
_MOST_IN_A_BATCH = 252
"""MAX_SEND_FD of HAProxy 2.6 and later: what musl can pass at once; more than that is cut off."""
_MOST_PASSED = 253
"""SCM_MAX_FD of the kernel (unix(7)), and MAX_SEND_FD of HAProxy 2.5: nobody can send more at once."""
_LONGEST_BATCH = 8192
"""Bytes in a batch that we send: fits into any socket's empty buffer, so that sending never has to wait."""
_LONGEST_RECORD = 1 + 255 + 1 + 255 + _INT.size
_MOST = 1 << 16
"""Sockets that are taken: 4,096 addresses with 16 shards each."""
_MOST_TURNS = 64
"""What is received at most in a turn of the loop: a peer may send as fast as we read."""
_PARAMETERS = _INT.size


@record(frozen=True)
class Passed:
    """One listening socket, and what haproxy has to be told of it."""

    socket: socket.socket
    namespace: bytes = b""
    """As in `bind ... namespace NAME`; empty for haproxy's own."""
    interface: bytes = b""
    """As in `bind ... interface NAME`."""

    @property
    def address(self) -> str:
        """Return what it listens on, as haproxy spells it: `127.0.0.1:80`, `[::]:80`, `/run/x.sock`, `abns@x`."""
        return _text(self.socket)


class SocketRequest:
    """The client's side: asks one generation for its listeners. Owns the session, and what came until it is taken.

    A generation that is stopped never answers: who waits for this one sets a time limit and calls `close`.
    """

    def __init__(self, session: socket.socket) -> None:
        """Ask.

        Args:
            session: a unix stream socket that is connected to the generation's CLI; it is ours from now on.

        """
        self._session = session
        self._count: int | None = None
        self._number = bytearray()
        self._records = bytearray()
        self._descriptors: list[int] = []
        self._names: list[tuple[bytes, bytes]] = []
        """Namespace and interface of the sockets whose records have come."""
        self._parsed = 0
        """Bytes of the records."""
        self._sockets: tuple[Passed, ...] = ()
        self._finished = False
        self.failure = ""
        """One line; empty when everything came, or there was nothing to come."""
        session.setblocking(False)
        _send(session, _REQUEST)

    def fileno(self) -> int:
        """Return the descriptor to wait for until it is readable; -1 when there is nothing to wait for."""
        return self._session.fileno()

    @property
    def sockets(self) -> tuple[Passed, ...]:
        """Everything that was passed, when all of it has been; then it is the caller's to close."""
        return self._sockets

    def read(self) -> bool:
        """Take what has arrived; True when that was all, or when it failed."""
        for _ in range(_MOST_TURNS):
            if self._finished:
                break
            try:
                arrived = self._receive()
            except BlockingIOError:
                return False
            except ConnectionResetError:
                # How a unix socket shows that its peer went without reading all: our request, or our last answer.
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
        """Hang up; what came, but for `sockets`, is closed."""
        self._finished = True
        self._session.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _receive(self) -> bool:
        """Receive once; False at the end."""
        if self._count is None:
            data = self._session.recv(_INT.size - len(self._number))
            self._number += data
            if len(self._number) == _INT.size:
                (self._count,) = _INT.unpack(self._number)
                if not 0 <= self._count <= _MOST:
                    raise _MalformedError(f"announces {self._count} sockets")
            return bool(data)
        data, descriptors, cut_off = _receive(self._session, 65536, _MOST_PASSED)
        self._descriptors += descriptors
        self._records += data
        if cut_off:
            raise _MalformedError("passes more sockets than there is room for; raise the limit (ulimit -n)")
        if len(self._descriptors) > self._count or len(self._records) > self._count * _LONGEST_RECORD:
            raise _MalformedError(f"passes more than the {self._count} sockets that it announced")
        if descriptors:
            _send(self._session, _INT.pack(len(self._descriptors)))
        return bool(data)

    def _parse(self) -> None:
        """Finish, if every socket has its record."""
        while len(self._names) < len(self._descriptors):
            try:
                namespace, offset = _name(self._records, self._parsed)
                interface, offset = _name(self._records, offset)
            except IndexError:
                return
            self._parsed = offset + _PARAMETERS
            self._names.append((namespace, interface))
        if self._parsed > len(self._records):
            return
        if self._parsed < len(self._records):
            self._fail("says more than it passes")
            return
        passed: list[Passed] = []
        try:
            for descriptor, names in zip(self._descriptors, self._names, strict=True):
                passed.append(Passed(socket.socket(fileno=descriptor), *names))
        except OSError:
            del self._descriptors[: len(passed)]
            for one in passed:
                one.socket.close()
            self._fail("passes what is not a socket")
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
                data = self._session.recv(_INT.size if self._asked else len(_REQUEST) + 1, socket.MSG_DONTWAIT)
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
        _, descriptors, cut_off = _receive(self._ours, 1, 1)
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
            if len(self._heard) >= _INT.size:
                del self._heard[: _INT.size]
                self._send_batch()
        elif self._heard == _REQUEST:
            self._asked = True
            self._heard.clear()
            self._send(_INT.pack(self._count), ())
            self._send_batch()
        elif not _REQUEST.startswith(self._heard):
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
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(_INT.pack, descriptors)))]
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
            self._kept[_identity(one.socket)] = one

    def renew(self, passed: Iterable[Passed], others: Collection[int] = ()) -> None:
        """Keep what a generation has, and let go of the rest.

        Args:
            passed: what it has; they are ours from now on. Of two descriptors of one socket one is kept.
            others: inodes of sockets that somebody else keeps, such as the VIPs' (fstat(2)).

        """
        kept: dict[tuple[int, int], Passed] = {}
        for one in passed:
            identity = _identity(one.socket)
            old = self._kept.get(identity)
            if identity[1] in others or identity in kept:
                one.socket.close()
            elif old:
                one.socket.close()
                kept[identity] = Passed(old.socket, one.namespace, one.interface)
            else:
                kept[identity] = one
        gone = [one for identity, one in self._kept.items() if identity not in kept]
        self._kept = kept
        for one in gone:
            one.socket.close()

    def offer(self) -> SocketOffer:
        """SocketOffer them to a candidate; also none at all, which haproxy understands.

        But for those whose path somebody has removed: haproxy does not look, and nobody could ever connect.
        """
        return SocketOffer(one for one in self._kept.values() if not _is_unreachable(one.socket))

    def close(self) -> None:
        """Let go of all of them."""
        self.renew(())


class _MalformedError(Exception):
    """What haproxy would not have said; its text is one line."""


def _receive(channel: socket.socket, length: int, most: int) -> tuple[bytes, list[int], bool]:
    """Receive bytes and descriptors, close-on-exec from their first moment; and whether some were lost.

    Not `socket.recv_fds`, which makes room for what we would have to close, and imports a module to do so.

    Raises:
        OSError: as recvmsg(2).

    """
    how = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    data, messages, flags, _ = channel.recvmsg(length, socket.CMSG_LEN(most * _INT.size), how)
    descriptors: list[int] = []
    for level, kind, content in messages:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += memoryview(content[: len(content) // _INT.size * _INT.size]).cast("i")
    return data, descriptors, bool(flags & socket.MSG_CTRUNC)


def _send(channel: socket.socket, data: bytes) -> None:
    """Send a few bytes; if the peer is gone, reading will tell."""
    with contextlib.suppress(OSError):
        channel.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _record(one: Passed) -> bytes:
    namespace, interface = one.namespace, one.interface
    return bytes((len(namespace), *namespace, len(interface), *interface, *bytes(_PARAMETERS)))


def _name(records: bytearray, offset: int) -> tuple[bytes, int]:
    """Return a name that is preceded by its length, and where it ends.

    Raises:
        IndexError: it has not arrived yet.

    """
    end = offset + 1 + records[offset]
    if end > len(records):
        raise IndexError(end)
    return bytes(records[offset + 1 : end]), end


def _identity(one: socket.socket) -> tuple[int, int]:
    """Tell sockets apart: descriptors of the same one have the same inode."""
    status = os.fstat(one.fileno())
    return status.st_dev, status.st_ino


def _text(one: socket.socket) -> str:
    try:
        address = one.getsockname()
    except OSError as error:
        return f"({error.strerror})"
    datagrams = "udp@" if one.type == socket.SOCK_DGRAM and one.family != socket.AF_UNIX else ""
    if one.family == socket.AF_INET:
        return f"{datagrams}{address[0]}:{address[1]}"
    if one.family == socket.AF_INET6:
        return f"{datagrams}[{address[0]}]:{address[1]}"
    if isinstance(address, bytes):
        return "abns@" + address.strip(b"\0").decode(errors="backslashreplace")
    return os.fsencode(_path(str(address))).decode(errors="backslashreplace")


def _is_unreachable(one: socket.socket) -> bool:
    """Tell whether a unix socket's path is gone; of a relative one we do not know where haproxy was."""
    address = one.getsockname() if one.family == socket.AF_UNIX else ""
    return isinstance(address, str) and address.startswith("/") and not os.path.exists(_path(address))


def _path(bound: str) -> str:
    """Return the path by which clients reach a socket: haproxy binds PATH.PID.tmp and renames it to PATH."""
    path, _, pid = bound.removesuffix(".tmp").rpartition(".")
    return path if path and bound.endswith(".tmp") and pid.isdigit() else bound
