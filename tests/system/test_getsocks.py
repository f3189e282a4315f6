"""Listening sockets on their way: the protocol on real sockets, with hostile peers, and with a real haproxy."""

import array
import errno
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoint.haproxy.runtime_api import pid
from entrypoint.system.getsocks import Passed
from entrypoint.system.getsocks.offer import Adopted, SocketOffer
from entrypoint.system.getsocks.request import SocketRequest
from entrypoint.system.haproxy_cli import CliChannel
from tests.connections import free_port
from tests.descriptors import sockets
from tests.waiting import eventually

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
MANY = 300
PATIENCE_MS = 20_000
RECORD = bytes(6)
"""What haproxy says of a socket without a namespace and an interface."""

with_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")


# ---- helpers -------------------------------------------------------------------------------------------------------


def number(value: int) -> bytes:
    """Return what the protocol calls a number."""
    return struct.pack("=i", value)


def inode(one: socket.socket) -> int:
    """Tell sockets apart."""
    return os.fstat(one.fileno()).st_ino


def descriptors() -> list[str]:
    """List what this process has open."""
    return sorted(os.listdir("/proc/self/fd"), key=int)


@contextmanager
def nothing_leaks() -> Iterator[None]:
    """Compare the open descriptors before and after."""
    before = descriptors()
    yield
    assert descriptors() == before


@contextmanager
def listeners(count: int) -> Iterator[list[socket.socket]]:
    """Some listening sockets, closed at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]


def request() -> tuple[SocketRequest, socket.socket]:
    """Return a request for sockets, and haproxy's end of the line to it."""
    ours, theirs = socket.socketpair()
    return SocketRequest(ours), theirs


def read_all(taking: SocketRequest) -> None:
    """Read as the loop does, until it is finished."""
    while not taking.read():
        poller = select.poll()
        poller.register(taking.fileno(), select.POLLIN)
        assert poller.poll(PATIENCE_MS)


def close_all(passed: Sequence[Passed]) -> None:
    """Close what was passed."""
    for one in passed:
        one.socket.close()


class Asking:
    """haproxy's side of `-x sockpair@N`, one step at a time."""

    def __init__(self, offer: SocketOffer, words: bytes = b"") -> None:
        """Make a session, send the far end of it, say that haproxy is there, and say these words in the session."""
        self.session, theirs = socket.socketpair()
        with theirs, socket.socket(fileno=os.dup(offer.inherited[0])) as channel:
            socket.send_fds(channel, [b"\0"], [theirs.fileno()])
        self.session.settimeout(20)
        offer.spawned()
        self.session.send(words)
        self.passed: list[int] = []
        self.records = b""

    def batch(self) -> int:
        """Receive a batch; return how many sockets were in it."""
        data, messages, flags, _ = self.session.recvmsg(1 << 20, socket.CMSG_SPACE(1024), socket.MSG_CMSG_CLOEXEC)
        assert not flags & socket.MSG_CTRUNC
        found = array.array("i")
        for _, _, content in messages:
            found.frombytes(content)
        self.passed += found
        self.records += data
        return len(found)

    def close(self) -> None:
        """Hang up, and close what was passed."""
        self.session.close()
        for descriptor in self.passed:
            os.close(descriptor)


def taken_from(offer: SocketOffer) -> tuple[Passed, ...]:
    """Have our two sides talk to each other; return the sockets that arrive."""
    taking = SocketRequest(Asking(offer).session)
    while not taking.read():
        offer.proceed()
    assert taking.failure == ""
    return taking.sockets


# ---- taking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 252, 253, MANY, 2 * MANY])
def test_what_is_offered_is_taken(count: int) -> None:
    """Our two sides understand each other, in as many batches as it takes: the same sockets, in the same order."""
    with nothing_leaks(), listeners(count) as kept:
        offer = SocketOffer(Passed(one, b"ns" * (index % 3), b"lo") for index, one in enumerate(kept))
        asking = Asking(offer)
        taking = SocketRequest(asking.session)
        while not taking.read():
            offer.proceed()
        offered = offer.proceed()
        taken = taking.sockets
        assert [inode(one.socket) for one in taken] == list(map(inode, kept))
        assert [(one.namespace, one.interface) for one in taken] == [(b"ns" * (i % 3), b"lo") for i in range(count)]
        assert not any(os.get_inheritable(one.socket.fileno()) for one in taken)
        assert offered
        assert (offer.failure, taking.failure) == ("", "")
        assert offer.fileno() == taking.fileno() == -1
        close_all(taken)


@pytest.mark.parametrize("interface", [b"", b"eth0"])
def test_a_hang_up_after_any_byte_is_a_failure_or_the_end(interface: bytes) -> None:
    """Wherever the answer breaks off nothing is taken, nothing raised, nothing leaked; complete it is taken."""
    with nothing_leaks(), listeners(3) as kept:
        records = bytes((2, *b"ns", len(interface), *interface, 0, 0, 0, 0)) * 3
        answer = number(3) + records
        for length in range(len(answer) + 1):
            taking, theirs = request()
            with theirs:
                theirs.send(answer[: min(length, 4)])
                if length > 4:
                    socket.send_fds(theirs, [answer[4:length]], [one.fileno() for one in kept])
            assert taking.read()
            taken = taking.sockets
            assert len(taken) == (3 if length == len(answer) else 0)
            assert bool(taking.failure) == (0 < length < len(answer)), length
            assert all((one.namespace, one.interface) == (b"ns", interface) for one in taken)
            close_all(taken)


def test_an_answer_in_single_bytes_is_taken() -> None:
    """It may arrive in any pieces, the descriptors with the first byte of their batch."""
    with nothing_leaks(), listeners(2) as kept:
        taking, theirs = request()
        with theirs:
            for byte in number(2):
                assert not taking.read()
                theirs.send(bytes((byte,)))
            socket.send_fds(theirs, [RECORD[:1]], [one.fileno() for one in kept])
            for byte in (RECORD * 2)[1:]:
                assert not taking.read()
                theirs.send(bytes((byte,)))
            assert taking.read()
        assert list(map(inode, kept)) == [inode(one.socket) for one in taking.sockets]
        close_all(taking.sockets)


def test_each_batch_is_acknowledged_with_what_came_so_far() -> None:
    """haproxy waits for four bytes before it sends more."""
    with nothing_leaks(), listeners(3) as kept:
        taking, theirs = request()
        with theirs:
            theirs.settimeout(20)
            assert theirs.recv(64) == b"_getsocks\n"
            theirs.send(number(3))
            for sent, one in enumerate(kept, start=1):
                socket.send_fds(theirs, [RECORD], [one.fileno()])
                assert taking.read() == (sent == 3)
                assert theirs.recv(64) == number(sent)
        close_all(taking.sockets)


def test_nothing_to_export_is_no_failure() -> None:
    """haproxy hangs up without a word, or says that there are none."""
    for answer in (b"", number(0)):
        with nothing_leaks():
            taking, theirs = request()
            theirs.send(answer)
            theirs.close()
            assert taking.read()
            assert (taking.sockets, taking.failure, taking.fileno()) == ((), "", -1)


@pytest.mark.parametrize(
    ("count", "records", "passed", "failure"),
    [
        (-1, b"", 0, "announces -1 sockets"),
        (2**31 - 1, b"", 0, "announces 2147483647 sockets"),
        (1, RECORD, 2, "passes more than the 1 sockets that it announced"),
        (0, RECORD, 1, ""),
        (1, RECORD + b"x", 1, "describes more sockets than it passes"),
        (1, b"x" * 2000, 0, "passes more than the 1 sockets that it announced"),
        (2, RECORD, 1, "hung up after 1 of 2 sockets"),
    ],
)
def test_a_malformed_answer_is_one_line(count: int, records: bytes, passed: int, failure: str) -> None:
    """What haproxy would not say is a failure that names what is wrong, and nothing is kept of it."""
    with nothing_leaks(), listeners(passed) as kept:
        taking, theirs = request()
        with theirs:
            theirs.send(number(count))
            if records:
                socket.send_fds(theirs, [records], [one.fileno() for one in kept])
        assert taking.read()
        assert (taking.sockets, taking.failure) == ((), failure)


def test_what_is_not_a_socket_is_refused() -> None:
    """A pipe among the sockets spoils all of them."""
    with nothing_leaks(), listeners(1) as kept, open("/dev/null") as other:
        taking, theirs = request()
        with theirs:
            theirs.send(number(2))
            socket.send_fds(theirs, [RECORD * 2], [kept[0].fileno(), other.fileno()])
        assert taking.read()
        assert (taking.sockets, taking.failure) == ((), "passes a descriptor that is not a socket")


def test_no_room_for_descriptors_is_a_failure() -> None:
    """At the limit of open files nothing is kept, and the line says what to raise."""
    with nothing_leaks(), listeners(20) as kept:
        taking, theirs = request()
        with theirs:
            theirs.send(number(20))
            socket.send_fds(theirs, [RECORD * 20], [one.fileno() for one in kept])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = [descriptor for descriptor in range(1000) if str(descriptor) not in descriptors()]
        resource.setrlimit(resource.RLIMIT_NOFILE, (room[5], hard))
        try:
            assert taking.read()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert taking.sockets == ()
        assert taking.failure.endswith("raise the limit (ulimit -n)")


def test_a_taking_can_be_given_up() -> None:
    """Closing in the middle leaves nothing, and closing again is allowed."""
    with nothing_leaks(), listeners(2) as kept:
        taking, theirs = request()
        with theirs:
            theirs.send(number(2))
            socket.send_fds(theirs, [RECORD], [kept[0].fileno()])
            assert not taking.read()
            taking.close()
            taking.close()
            assert taking.read()
            assert taking.fileno() == -1
            assert taking.sockets == ()


def test_a_generation_that_is_dead_already_passes_nothing() -> None:
    """Nobody at the other end is no failure."""
    with nothing_leaks():
        ours, theirs = socket.socketpair()
        theirs.close()
        taking = SocketRequest(ours)
        assert taking.read()
        assert taking.sockets == ()


PIECES = st.lists(
    st.tuples(
        st.one_of(st.binary(max_size=40), st.integers(-2, 6).map(number), st.sampled_from([RECORD, RECORD * 3])),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(PIECES)
def test_no_peer_makes_taking_raise_or_leak(pieces: list[tuple[bytes, int, bool]]) -> None:
    """Whatever is sent, with whatever descriptors, in whatever pieces."""
    with nothing_leaks(), socket.socket() as one, open("/dev/null") as other:
        taking, theirs = request()
        with theirs:
            for data, count, is_socket in pieces:
                passed = [one.fileno() if is_socket else other.fileno()] * count
                with suppress(OSError):
                    socket.send_fds(theirs, [data], passed) if data and passed else theirs.send(data)
                taking.read()
        assert taking.read()
        assert taking.fileno() == -1
        assert not (taking.sockets and taking.failure)
        close_all(taking.sockets)


# ---- offering ------------------------------------------------------------------------------------------------------


def test_an_offer_is_made_in_batches_of_252() -> None:
    """The second one comes after the first was acknowledged, and not before."""
    with nothing_leaks(), listeners(MANY) as kept:
        offer = SocketOffer(map(Passed, kept))
        asking = Asking(offer, b"_getsocks\n")
        assert not offer.proceed()
        assert asking.session.recv(4) == number(MANY)
        assert asking.batch() == 252
        assert not offer.proceed()
        assert not select.select([asking.session], [], [], 0)[0]
        asking.session.send(number(0))
        assert not offer.proceed()
        assert asking.batch() == MANY - 252
        asking.session.send(number(252))
        assert offer.proceed()
        assert offer.failure == ""
        assert asking.records == RECORD * MANY
        asking.close()


def test_long_names_make_shorter_batches() -> None:
    """What is sent at once fits into an empty buffer, so that sending never waits."""
    with nothing_leaks(), listeners(100) as kept:
        offer = SocketOffer(Passed(one, b"n" * 255, b"i" * 15) for one in kept)
        asking = Asking(offer, b"_getsocks\n")
        offer.proceed()
        assert asking.session.recv(4) == number(100)
        while len(asking.passed) < 100:
            assert 1 <= asking.batch() < 40
            asking.session.send(number(0))
            offer.proceed()
        assert offer.fileno() == -1
        asking.close()


def test_an_offer_of_nothing_is_a_zero() -> None:
    """haproxy goes on without any."""
    with nothing_leaks():
        offer = SocketOffer(())
        asking = Asking(offer, b"_getsocks\n")
        assert offer.proceed()
        assert asking.session.recv(64) == number(0)
        assert offer.failure == ""
        asking.close()


def test_what_is_offered_can_be_another_socket_that_is_made_when_it_is_asked_for() -> None:
    """Once for each, in their order, with its names; a candidate that never asks costs nothing."""
    with nothing_leaks(), listeners(3) as kept, listeners(3) as others:
        asked: list[Passed] = []

        def in_place_of(one: Passed) -> Passed:
            asked.append(one)
            return Passed(others[kept.index(one.socket)], one.namespace, one.interface)

        held = [Passed(one, b"ns", b"lo") for one in kept]
        offer = SocketOffer(held, in_place_of)
        session = Asking(offer).session
        offer.proceed()
        assert asked == []
        taking = SocketRequest(session)
        while not taking.read():
            offer.proceed()
        assert asked == held
        assert [inode(one.socket) for one in taking.sockets] == [inode(one) for one in others]
        assert [(one.namespace, one.interface) for one in taking.sockets] == [(b"ns", b"lo")] * 3
        close_all(taking.sockets)
        offer.close()


def test_a_socket_that_cannot_be_made_ends_the_offer() -> None:
    """It is one line for the log, and nothing is left open."""

    def in_place_of(_: Passed) -> Passed:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with nothing_leaks(), listeners(1) as kept:
        offer = SocketOffer(map(Passed, kept), in_place_of)
        asking = Asking(offer, b"_getsocks\n")
        assert offer.proceed()
        assert offer.failure == "Too many open files"
        asking.close()


def test_some_of_the_held_sockets_can_be_released() -> None:
    """They are the caller's then, open; the others stay, and closing touches only those."""
    with nothing_leaks():
        adopted = Adopted()
        with closing(adopted):
            udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_server(("127.0.0.1", 0))
            adopted.renew([Passed(udp), Passed(tcp)])
            assert adopted.release(lambda one: one.type == socket.SOCK_DGRAM) == [udp]
            assert adopted.sockets == (tcp,)
            assert adopted.release(lambda one: one.type == socket.SOCK_DGRAM) == []
        assert tcp.fileno() == -1
        assert udp.fileno() >= 0
        udp.close()


@pytest.mark.parametrize("length", range(len(b"_getsocks\n")))
def test_a_candidate_that_hangs_up_while_it_asks_ends_the_offer(length: int) -> None:
    """After any byte of the request, and whether it comes at once or in single bytes."""
    with nothing_leaks():
        offer = SocketOffer(())
        asking = Asking(offer)
        for byte in b"_getsocks\n"[:length]:
            asking.session.send(bytes((byte,)))
            assert not offer.proceed()
        asking.close()
        assert offer.proceed()
        assert offer.failure == "the candidate hung up"


@pytest.mark.parametrize("length", range(4))
def test_a_candidate_that_hangs_up_while_it_acknowledges_ends_the_offer(length: int) -> None:
    """Whatever it has of the sockets is its own; ours stay."""
    with nothing_leaks(), listeners(MANY) as kept:
        offer = SocketOffer(map(Passed, kept))
        asking = Asking(offer, b"_getsocks\n")
        assert not offer.proceed()
        asking.session.send(number(0)[:length])
        assert not offer.proceed()
        asking.close()
        assert offer.proceed()
        assert offer.failure
        assert all(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in kept)


@pytest.mark.parametrize("words", [b"show info\n", b"_getsocks\n_getsocks\n", b"_getsocks;", b"\0" * 64])
def test_a_candidate_that_asks_for_something_else_gets_nothing(words: bytes) -> None:
    """An offer is no CLI."""
    with nothing_leaks(), listeners(1) as kept:
        offer = SocketOffer(map(Passed, kept))
        asking = Asking(offer, words)
        assert offer.proceed()
        assert offer.failure == "the candidate sent another command than _getsocks"
        asking.close()


def test_a_candidate_that_dies_before_it_asks_ends_the_offer() -> None:
    """Its end of the line closes with it; a configuration that does not parse is no failure of the offer."""
    with nothing_leaks():
        offer = SocketOffer(())
        assert not offer.proceed()
        offer.spawned()
        assert offer.proceed()
        assert (offer.failure, offer.fileno()) == ("", -1)
        assert offer.proceed()
        offer.close()


def test_a_candidate_that_makes_its_session_blocking_is_not_waited_for() -> None:
    """The session that it sends is an open file description that it keeps, too, and so is its mode."""
    with nothing_leaks(), listeners(1) as kept:
        offer = SocketOffer(map(Passed, kept))
        session, theirs = socket.socketpair()
        with session, theirs, socket.socket(fileno=os.dup(offer.inherited[0])) as channel:
            socket.send_fds(channel, [b"\0"], [theirs.fileno()])
            offer.spawned()
            assert not offer.proceed()
            os.set_blocking(theirs.fileno(), True)
            assert not offer.proceed()
            for length in (65536, 1):
                with suppress(BlockingIOError):
                    while True:
                        theirs.send(bytes(length), socket.MSG_DONTWAIT)
            session.send(b"_getsocks\n")
            assert offer.proceed()
            assert offer.failure == "the candidate does not read"


def test_only_haproxys_end_is_for_haproxy() -> None:
    """One descriptor is for haproxy, named by the argument; nothing is inherited by chance."""
    with nothing_leaks():
        offer = SocketOffer(())
        assert offer.argument == f"sockpair@{offer.inherited[0]}"
        assert len(offer.inherited) == 1
        assert not os.get_inheritable(offer.inherited[0])
        assert not os.get_inheritable(offer.fileno())
        offer.close()


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=70), st.sampled_from([b"_getsocks\n", number(0)])), max_size=6),
    st.integers(0, 3),
    st.integers(0, 300),
)
def test_no_candidate_makes_an_offer_raise_or_leak(said: list[bytes], sessions: int, count: int) -> None:
    """Whatever it sends as its session, and says in it."""
    with nothing_leaks(), socket.create_server(("127.0.0.1", 0)) as one, open("/dev/null") as other:
        offer = SocketOffer([Passed(one)] * count)
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket(fileno=os.dup(offer.inherited[0])) as channel:
            wrong = [other.fileno(), one.fileno()][: max(0, sessions - 1)]
            if sessions:
                socket.send_fds(channel, [b"\0"], [*wrong, theirs.fileno()])
            else:
                channel.send(b"x")
            offer.spawned()
            theirs.close()
            for words in said:
                with suppress(OSError):
                    ours.send(words)
                offer.proceed()
        assert offer.proceed()
        assert offer.fileno() == -1
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


# ---- keeping -------------------------------------------------------------------------------------------------------


def again(one: socket.socket) -> Passed:
    """Return another descriptor of a socket, as a generation would pass it."""
    return Passed(socket.socket(fileno=os.dup(one.fileno())))


def test_what_the_current_generation_has_is_kept_and_nothing_else() -> None:
    """New sockets are added, those it has dropped are closed, and of the same socket one descriptor is kept."""
    with nothing_leaks(), listeners(3) as (first, second, third), closing(Adopted()) as adopted:
        adopted.renew([again(first), again(second)])
        kept = len(descriptors())
        adopted.renew([again(second), again(third), again(second)])
        assert len(descriptors()) == kept
        expected = [f"127.0.0.1:{one.getsockname()[1]}" for one in (second, third)]
        assert list(adopted.addresses) == expected


def test_a_socket_that_a_generation_dropped_is_closed() -> None:
    """Nobody accepts there any more, so its clients are refused instead of kept waiting."""
    with nothing_leaks(), closing(Adopted()) as adopted:
        with socket.create_server(("127.0.0.1", 0)) as one:
            address = one.getsockname()
            adopted.renew([again(one)])
        with socket.create_connection(address):
            pass
        adopted.renew([])
        with socket.socket() as client:
            assert client.connect_ex(address) == errno.ECONNREFUSED


def test_sockets_with_another_owner_are_not_kept() -> None:
    """The VIPs' sockets have an owner."""
    with nothing_leaks(), listeners(2) as (vip, own), closing(Adopted()) as adopted:
        adopted.renew([again(vip), again(own)], {inode(vip)})
        assert adopted.addresses == (f"127.0.0.1:{own.getsockname()[1]}",)


def test_the_next_offer_is_what_was_kept() -> None:
    """With the names that the last generation gave."""
    with nothing_leaks(), listeners(2) as kept, closing(Adopted()) as adopted:
        adopted.renew([Passed(again(one).socket, b"", b"eth0") for one in kept])
        adopted.renew([Passed(again(one).socket, b"blue", b"eth1") for one in kept])
        offer = adopted.offer()
        taken = taken_from(offer)
        assert [inode(one.socket) for one in taken] == list(map(inode, kept))
        assert {(one.namespace, one.interface) for one in taken} == {(b"blue", b"eth1")}
        offer.close()
        close_all(taken)


def test_a_path_that_was_removed_is_not_offered(tmp_path: Path) -> None:
    """haproxy would take the socket over, and nobody could reach it; so it makes a new one."""
    path = tmp_path / "x.sock"
    with nothing_leaks(), closing(Adopted()) as adopted, socket.socket(socket.AF_UNIX) as one:
        one.bind(f"{path}.123.tmp")
        os.rename(f"{path}.123.tmp", path)
        adopted.renew([again(one)])
        assert offered_by(adopted) == [str(path)]
        path.unlink()
        assert offered_by(adopted) == []


def offered_by(adopted: Adopted) -> list[str]:
    """Return the addresses that are offered."""
    offer = adopted.offer()
    taken = taken_from(offer)
    offer.close()
    addresses = [one.address for one in taken]
    close_all(taken)
    return addresses


def bound(family: int, kind: int, address: object) -> Passed:
    """Return a bound socket."""
    one = socket.socket(family, kind)
    one.bind(address)  # type: ignore[arg-type]
    return Passed(one)


def test_addresses_are_spelt_as_haproxy_does(tmp_path: Path) -> None:
    """TCP of both families, UDP, paths without what haproxy binds them by, and abstract names without their padding."""
    cases = [
        (bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)), "127.0.0.1:{}"),
        (bound(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)), "[::1]:{}"),
        (bound(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)), "udp@127.0.0.1:{}"),
        (bound(socket.AF_UNIX, socket.SOCK_STREAM, f"{tmp_path}/a.sock.123.tmp"), f"{tmp_path}/a.sock"),
        (bound(socket.AF_UNIX, socket.SOCK_STREAM, f"{tmp_path}/b.1.sock"), f"{tmp_path}/b.1.sock"),
        (bound(socket.AF_UNIX, socket.SOCK_STREAM, f"{tmp_path}/c.tmp"), f"{tmp_path}/c.tmp"),
        (bound(socket.AF_UNIX, socket.SOCK_STREAM, b"\0" + b"handover".ljust(100, b"\0")), "abns@handover"),
    ]
    for passed, expected in cases:
        with passed.socket:
            name = passed.socket.getsockname()
            assert passed.address == expected.format(name[1] if isinstance(name, tuple) else "")


# ---- haproxy -------------------------------------------------------------------------------------------------------

CONFIGURATION = """
global
  maxconn 2000
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
frontend f
  http-request return status 200
"""

Start = Callable[..., tuple["subprocess.Popen[bytes]", CliChannel]]


@pytest.fixture
def adopted() -> Iterator[Adopted]:
    """What is kept, let go of at the end."""
    kept = Adopted()
    yield kept
    kept.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a haproxy, hands it an offer and waits until it is ready; it is dead at the end."""
    assert HAPROXY
    program = HAPROXY
    started: list[tuple[subprocess.Popen[bytes], CliChannel]] = []

    def begin(
        binds: Sequence[str], offer: SocketOffer | None = None, more: str = ""
    ) -> "tuple[subprocess.Popen[bytes], CliChannel]":
        configuration = tmp_path / f"{len(started)}.cfg"
        configuration.write_text(CONFIGURATION + "".join(f"  bind {bind}\n" for bind in binds) + more)
        channel = CliChannel()
        haproxy = subprocess.Popen(
            [
                program,
                "-db",
                "-f",
                channel.configuration,
                "-f",
                str(configuration),
                *(["-x", offer.argument] if offer else []),
            ],
            pass_fds=(*channel.inherited, *(offer.inherited if offer else ())),
            stderr=subprocess.DEVNULL,
        )
        started.append((haproxy, channel))
        channel.spawned()
        if offer:
            offer.spawned()
            serve(offer)
        return haproxy, channel

    yield begin
    for haproxy, channel in started:
        haproxy.kill()
        haproxy.wait()
        channel.close()


def serve(offer: SocketOffer) -> None:
    """Answer the candidate as the loop does."""
    while not offer.proceed():
        poller = select.poll()
        poller.register(offer.fileno(), select.POLLIN)
        assert poller.poll(PATIENCE_MS)


def ready(haproxy: "subprocess.Popen[bytes]", channel: CliChannel) -> bool:
    """Wait until haproxy answers; False if it dies instead."""
    conversation = channel.ask(("show info",))
    while True:
        poller = select.poll()
        poller.register(conversation.fileno(), select.POLLIN)
        assert poller.poll(PATIENCE_MS)
        if conversation.read():
            answered = pid(conversation.answer) == haproxy.pid
            conversation.close()
            return answered


def take(channel: CliChannel) -> tuple[Passed, ...]:
    """Ask a generation for its listeners."""
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(channel._ours, [b"\0"], [theirs.fileno()])  # noqa: SLF001
    taking = SocketRequest(ours)
    read_all(taking)
    assert taking.failure == ""
    return taking.sockets


def inodes_of(process: int) -> set[int]:
    """Return the inodes of a process's sockets."""
    return {int(inode) for inode in sockets(process)}


@with_haproxy
def test_haproxy_passes_its_listeners_on_and_takes_them_over(adopted: Adopted, start: Start, tmp_path: Path) -> None:
    """Ordinary binds of all kinds are the same sockets in the next generation, and in the one after a crash."""
    port = free_port()
    binds = [
        f"127.0.0.1:{port}",
        f"[::1]:{port} v6only",
        f"127.0.0.2:{port}-{port + 9}",
        f"unix@{tmp_path}/x.sock",
        "abns@handover-x",
    ]
    first, channel = start(binds)
    assert ready(first, channel)
    adopted.renew(take(channel))
    inodes = set(map(inode, adopted.sockets))
    assert len(inodes) == 14
    assert {f"127.0.0.1:{port}", f"[::1]:{port}", f"{tmp_path}/x.sock", "abns@handover-x"} < set(adopted.addresses)

    second, channel = start(binds, adopted.offer())
    assert ready(second, channel)
    assert inodes <= inodes_of(second.pid)
    kept = len(descriptors())
    adopted.renew(take(channel))
    assert len(descriptors()) == kept
    for haproxy in (first, second):
        haproxy.send_signal(signal.SIGKILL)
        haproxy.wait()

    with socket.create_connection(("127.0.0.1", port), timeout=20) as waiting:
        waiting.send(b"GET / HTTP/1.0\r\n\r\n")
        third, channel = start(binds, adopted.offer())
        assert ready(third, channel)
        assert waiting.recv(12) == b"HTTP/1.1 200"
    assert inodes <= inodes_of(third.pid)


@with_haproxy
def test_haproxy_passes_and_takes_hundreds(adopted: Adopted, start: Start) -> None:
    """More sockets than fit into one batch, in both directions."""
    binds = [f"127.1.{index // 250}.{index % 250 + 1}:8080" for index in range(600)]
    first, channel = start(binds)
    assert ready(first, channel)
    adopted.renew(take(channel))
    assert set(adopted.addresses) == set(binds)
    second, channel = start(binds, adopted.offer())
    assert ready(second, channel)
    assert set(map(inode, adopted.sockets)) <= inodes_of(second.pid)


@with_haproxy
def test_haproxy_starts_with_an_offer_of_nothing(adopted: Adopted, start: Start, tmp_path: Path) -> None:
    """-x may always be given."""
    haproxy, channel = start([f"unix@{tmp_path}/x.sock"], adopted.offer())
    assert ready(haproxy, channel)


@with_haproxy
def test_a_candidate_that_fails_after_it_took_the_sockets_does_no_harm(
    adopted: Adopted, start: Start, tmp_path: Path
) -> None:
    """They go on listening, for the generation that it did not replace."""
    port = free_port()
    binds = [f"127.0.0.1:{port}", f"unix@{tmp_path}/x.sock", "abns@handover-y"]
    first, channel = start(binds)
    assert ready(first, channel)
    adopted.renew(take(channel))

    failing, channel = start(binds, adopted.offer(), more="global\n  chroot /no/such/folder\n")
    assert not ready(failing, channel)
    assert failing.wait(20) == 1
    for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, f"{tmp_path}/x.sock")):
        with socket.socket(family) as client:
            client.settimeout(20)
            client.connect(address)
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"


@with_haproxy
def test_an_inherited_listener_is_not_passed(start: Start) -> None:
    """A generation without an ordinary bind has nothing to pass: it hangs up without a word."""
    haproxy, channel = start([])
    assert ready(haproxy, channel)
    assert take(channel) == ()
    eventually(lambda: haproxy.poll() is None)
