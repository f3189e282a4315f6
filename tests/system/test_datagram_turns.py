"""Whose turn it is to read the datagrams: real sockets through reloads, crashes, failures and upgrades.

What a haproxy gets of a turn is copied here, as a process has it; the copies are read, and closed when it is gone.
"""

import errno
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoint.core.effects import Log, ReadDatagrams
from entrypoint.lean.level import Level
from entrypoint.options.vips import parse_vips
from entrypoint.pid1.datagram_turns import DatagramTurns, Turn
from entrypoint.system.getsocks import Passed
from entrypoint.system.getsocks.offer import Adopted
from entrypoint.system.listeners import Listeners
from tests.datagrams import bound, is_here, is_refused, received, send
from tests.system.apart import in_own_network
from tests.waiting import eventually

VIPS = "quic@127.0.0.1:4433:A,127.0.0.1:4433:B"
HERE, PORT, ORDINARY = "127.0.0.1", 4433, 8443
NOBODY = 65534
FIRST_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
SECRET_DIGITS = 32

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
needs_ipv6 = pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this kernel has no IPv6")


def open_descriptors() -> list[str]:
    """List what this process has open."""
    return sorted(os.listdir("/proc/self/fd"), key=int)


class Haproxy:
    """What a generation has of its turn."""

    def __init__(self, turn: Turn) -> None:
        """Copy the sockets, as posix_spawn(3) does."""
        self.vips = {number: os.dup(one.fileno()) for number, one in turn.vips.items()}
        self.ordinary: list[int] = []

    def take(self, one: Passed) -> None:
        """Receive a socket of an ordinary `bind`."""
        self.ordinary.append(os.dup(one.socket.fileno()))

    def reads(self) -> list[str]:
        """Read everything that is there."""
        return [datagram for one in (*self.vips.values(), *self.ordinary) for datagram in received(one)]

    def inodes(self) -> list[int]:
        """Identify its sockets."""
        return [os.fstat(one).st_ino for one in (*self.vips.values(), *self.ordinary)]

    def exits(self) -> None:
        """Close everything."""
        for one in (*self.vips.values(), *self.ordinary):
            os.close(one)
        self.vips, self.ordinary = {}, []


class World:
    """A safe_reload with VIPs, and its generations."""

    def __init__(
        self,
        vips: str = VIPS,
        ordinary: socket.socket | None = None,
        listeners: Listeners | None = None,
        *,
        freebind: bool = False,
    ) -> None:
        """Bind them; `ordinary` is the socket of an ordinary QUIC `bind` that safe_reload holds."""
        self.listeners, self.adopted = listeners or Listeners(), Adopted()
        self.listeners.bind(parse_vips(vips) if vips else (), freebind=freebind)
        if ordinary:
            self.adopted.renew([Passed(ordinary)])
        self.logged: list[Log] = []
        self.turns = DatagramTurns(self.listeners, self.adopted, self.logged.append)
        self.tags = tuple(self.listeners.tags())
        self.current = 0
        self.secrets: dict[int, str] = {}

    def prepare(self, number: int, *, beside: bool | None = None) -> tuple[Haproxy, Turn]:
        """Start a candidate."""
        turn = self.turns.prepare(number, beside=bool(self.current) if beside is None else beside)
        self.secrets[number] = turn.secret
        return Haproxy(turn), turn

    def begin(self, number: int, tags: tuple[str, ...] | None = None, ports: tuple[int, ...] = ()) -> None:
        """Have a candidate become current."""
        chosen = self.tags if tags is None else tags
        self.turns.begin(ReadDatagrams(number, os.getpid(), chosen, ports, self.current))
        self.current = number

    def start(self, number: int, tags: tuple[str, ...] | None = None) -> Haproxy:
        """Start a generation that becomes current."""
        haproxy, _ = self.prepare(number)
        self.begin(number, tags)
        return haproxy

    def crash(self, haproxy: Haproxy) -> None:
        """End the current generation, which nobody has asked for."""
        haproxy.exits()
        self.turns.gone(self.current)
        self.current = 0

    def close(self) -> None:
        """End all of it."""
        self.turns.close()
        self.listeners.close()
        self.adopted.close()


@in_own_network
def test_the_first_generation_reads_the_vips_themselves() -> None:
    """Also what has come before it was there."""
    world = World()
    sent = send(HERE, PORT, 3)
    first = world.start(1)
    sent += send(HERE, PORT, 3)
    assert first.reads() == sent
    assert list(first.vips) == [dict(world.listeners.descriptors())["A"]]
    assert world.turns.vips == {*first.vips}
    assert world.turns.inodes() == {*first.inodes()}


@pytest.mark.parametrize("vip", ["127.0.0.1", "*", "0.0.0.0", pytest.param("[::1]", marks=needs_ipv6)])
@in_own_network
def test_in_a_reload_each_datagram_is_read_by_one_generation(vip: str) -> None:
    """By the old one until the new one is current, then by the new one; what the old one has stays there."""
    to = "::1" if vip == "[::1]" else HERE
    world = World(f"quic@{vip}:4433:A")
    old = world.start(1)
    for number in range(2, 6):
        first = send(to, PORT, 20)
        new, _ = world.prepare(number)
        second = send(to, PORT, 20)
        world.begin(number)
        third = send(to, PORT, 20)
        assert world.turns.has_unread(number - 1)
        assert old.reads() == first + second
        assert not world.turns.has_unread(number - 1)
        assert new.reads() == third
        assert not set(old.inodes()) & set(new.inodes())
        assert world.turns.inodes() == {*new.inodes()}
        old.exits()
        world.turns.gone(number - 1)
        old = new


@needs_ipv6
@in_own_network
def test_a_vip_of_any_address_has_a_socket_of_each_family_in_each_turn() -> None:
    """Clients of both are served by the new generation."""
    world = World("quic@*:4433:A")
    world.start(1)
    second = world.start(2)
    assert len(second.vips) == 2
    sent = send(HERE, PORT, 5) + send("::1", PORT, 5)
    assert second.reads() == sent


@in_own_network
def test_a_candidate_that_fails_has_changed_nothing() -> None:
    """Its sockets are closed, and the one that serves goes on reading."""
    world = World()
    first = world.start(1)
    before = open_descriptors()
    candidate, _ = world.prepare(2)
    candidate.exits()
    world.turns.gone(2)
    assert open_descriptors() == before
    sent = send(HERE, PORT)
    assert first.reads() == sent
    third, _ = world.prepare(3)
    world.begin(3)
    assert third.reads() == []
    assert len(set(world.secrets.values())) == 3


@in_own_network
def test_a_candidate_that_is_prepared_again_leaves_nothing() -> None:
    """As where it could not be started, and is tried once more."""
    world = World()
    world.start(1)
    before = open_descriptors()
    for _ in range(3):
        world.turns.prepare(2, beside=True)
    world.turns.gone(2)
    assert open_descriptors() == before


@in_own_network
def test_what_waits_in_a_dead_one_s_socket_is_read_by_the_next_one() -> None:
    """In the first life, and in one after reloads; several candidates may fail before."""
    world = World()
    for number in (1, 10):
        current = world.start(number)
        waits = send(HERE, PORT, 3)
        world.crash(current)
        waits += send(HERE, PORT, 3)
        for failing in (number + 1, number + 2):
            candidate, turn = world.prepare(failing)
            assert not turn.beside
            candidate.exits()
            world.turns.gone(failing)
        waits += send(HERE, PORT, 3)
        following = world.start(number + 3)
        assert following.reads() == waits
        assert len({world.secrets[n] for n in (number, number + 1, number + 2, number + 3)}) == 1
        assert following.reads() == []


@in_own_network
def test_a_secret_is_handed_on_only_where_its_process_is_dead() -> None:
    """Two live processes never have the same one, which is long enough."""
    world = World()
    one = world.start(1)
    two = world.start(2)
    world.turns.gone(1)
    one.exits()
    world.crash(two)
    three = world.start(3)
    world.prepare(4)
    world.turns.gone(4)
    world.crash(three)
    world.start(5)
    secrets = world.secrets
    assert secrets[2] == secrets[3] == secrets[5]
    assert len({secrets[1], secrets[2], secrets[4]}) == 3
    assert {len(one) for one in secrets.values()} == {SECRET_DIGITS}
    assert World("").turns.prepare(1, beside=False).secret not in secrets.values()


@in_own_network
def test_a_secret_that_a_launch_has_kept_is_the_next_ones() -> None:
    """With `quic-force-retry` a generation is given that of the one before."""
    world = World()
    first = world.start(1)
    _, turn = world.prepare(2)
    assert turn.inherited_secret == world.secrets[1] != turn.secret
    turn.secret = turn.inherited_secret
    world.begin(2)
    world.turns.gone(1)
    first.exits()
    assert world.turns.prepare(3, beside=False).secret == world.secrets[1]


@in_own_network
def test_clients_of_a_vip_that_nobody_binds_are_refused() -> None:
    """At once (ICMP), from the first generation on, and until one binds it again."""
    world = World()
    generations = []
    for number, tags in enumerate(((), ("A",), (), (), ("A", "B"), ("B",)), start=1):
        generations.append(world.start(number, tags))
        assert is_refused(HERE, PORT) == ("A" not in tags), number
        if number > 1:
            generations[-2].exits()
            world.turns.gone(number - 1)
        assert is_refused(HERE, PORT) == ("A" not in tags), number
    world.crash(generations[-1])
    following = world.start(9, ("A",))
    sent = send(HERE, PORT, 3)
    assert following.reads() == sent


@in_own_network
def test_what_waits_at_a_vip_that_nobody_binds_holds_up_nothing() -> None:
    """It came before the first generation was current, which does not read that VIP; nor does any later one."""
    world = World("quic@127.0.0.1:4433:A,quic@127.0.0.1:4434:B")
    send(HERE, 4434, 1)
    world.start(1, ("A",))
    world.start(2, ("A",))
    assert not world.turns.has_unread(1)


@in_own_network
def test_a_vip_that_is_not_here_and_that_nobody_binds_is_no_harm() -> None:
    """The turn of the others is not left half done (--freebind)."""
    world = World("quic@192.0.2.1:4433:A,quic@127.0.0.1:4434:B", freebind=True)
    for number in range(1, 4):
        haproxy = world.start(number, ("B",))
        sent = send(HERE, 4434)
        assert haproxy.reads() == sent


@in_own_network
def test_a_vip_of_all_addresses_that_is_bound_again_is_at_all_of_them() -> None:
    """A silent socket seems to be at one address only."""
    world = World("quic@0.0.0.0:4433:A")
    world.start(1, ())
    second = world.start(2, ())
    third = world.start(3, ("A",))
    sent = send("127.0.0.9", PORT, 5)
    assert third.reads() == sent
    assert second.reads() == []


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed")
@pytest.mark.parametrize(
    ("host", "prefix"), [("192.0.2.1", "32"), pytest.param("2001:db8::1", "128", marks=needs_ipv6)]
)
@in_own_network
def test_a_reload_succeeds_while_the_address_is_on_another_host(host: str, prefix: str) -> None:
    """As after a failover; the VIP was bound while it was here, and is read again once it is back."""

    def address(change: str) -> None:
        more = ["nodad"] if ":" in host and change == "add" else []
        subprocess.run(["ip", "addr", change, f"{host}/{prefix}", "dev", "lo", *more], check=True)
        if change == "add":
            eventually(lambda: is_here(host))

    address("add")
    world = World(f"quic@{f'[{host}]' if ':' in host else host}:4433:A")
    world.start(1)
    address("del")
    second = world.start(2)
    third = world.start(3)
    address("add")
    sent = send(host, PORT)
    assert second.reads() == []
    assert third.reads() == sent


@in_own_network
def test_a_tcp_vip_takes_no_turn() -> None:
    """It is one socket for all."""
    world = World("127.0.0.1:4433:B")
    before = open_descriptors()
    for number in range(1, 4):
        assert world.start(number).vips == {}
    assert open_descriptors() == before
    assert world.turns.serialize()[0]["serving"] == {}


@in_own_network
def test_no_descriptor_is_left_by_many_turns() -> None:
    """Whatever becomes of them: reloads, failures, crashes, old ones that take their time."""
    world = World(ordinary=bound(HERE, ORDINARY))
    haproxy = world.start(1)
    sizes = []
    for number in range(2, 52):
        match number % 5:
            case 0:
                world.crash(haproxy)
                haproxy = world.start(number)
            case 1:
                candidate, turn = world.prepare(number)
                candidate.take(turn.in_place_of(Passed(bound_copy(world))))
                candidate.exits()
                world.turns.gone(number)
            case _:
                new, turn = world.prepare(number)
                held = [Passed(one) for one in world.adopted.sockets]
                for one in held:
                    new.take(turn.in_place_of(one))
                previous = world.current
                world.begin(number)
                haproxy.exits()
                world.turns.gone(previous)
                # The transfer: what the current one has bound itself is held again.
                world.adopted.renew(Passed(socket.socket(fileno=os.dup(one))) for one in new.ordinary)
                haproxy = new
        sizes.append((len(open_descriptors()), len(haproxy.ordinary)))
    assert len(set(sizes[5:])) <= 2
    haproxy.exits()
    world.close()


def bound_copy(world: World) -> socket.socket:
    """Return the held socket, or one that stands for it."""
    return next(iter(world.adopted.sockets), None) or next(one.socket for one in world.listeners.taking_turns())


# ---- ordinary binds ------------------------------------------------------------------------------------------------


def held(world: World) -> list[Passed]:
    """Return what is held for ordinary binds."""
    return [Passed(one) for one in world.adopted.sockets]


@pytest.mark.parametrize("host", [HERE, "0.0.0.0"])
@in_own_network
def test_an_ordinary_bind_has_another_socket_in_each_turn(host: str) -> None:
    """It is silent once haproxy has it, and read once it is current; the one that was held is silent then."""
    first = bound(host, ORDINARY)
    old = os.dup(first.fileno())
    world = World("", first)
    world.current = 1
    new, turn = world.prepare(2)
    made = turn.in_place_of(held(world)[0])
    # haproxy compares this with its `bind` lines.
    assert made.socket.getsockname() == first.getsockname() == (host, ORDINARY)
    new.take(made)
    before = send(HERE, ORDINARY)
    world.begin(2)
    after = send(HERE, ORDINARY)
    assert world.turns.has_unread(1)
    assert received(old) == before
    assert new.reads() == after
    assert world.adopted.sockets == ()
    assert made.socket.fileno() == -1
    assert first.fileno() >= 0
    world.turns.gone(1)
    assert first.fileno() == -1


@in_own_network
def test_a_candidate_that_takes_a_socket_takes_no_datagram_with_it() -> None:
    """While it looks at what it is offered; where the address is one, a silent socket has the same name."""
    world = World("", bound(HERE, ORDINARY))
    (one,) = world.adopted.sockets
    world.current = 1
    candidate, turn = world.prepare(2)
    candidate.take(turn.in_place_of(held(world)[0]))
    sent = send(HERE, ORDINARY)
    candidate.exits()
    world.turns.gone(2)
    assert received(one) == sent


@in_own_network
def test_the_socket_of_an_ordinary_bind_that_is_gone_refuses() -> None:
    """haproxy has closed what it was offered; no client may wait at a socket that nobody reads."""
    world = World("", bound(HERE, ORDINARY))
    world.current = 1
    candidate, turn = world.prepare(2)
    candidate.take(turn.in_place_of(held(world)[0]))
    candidate.exits()
    world.begin(2)
    assert is_refused(HERE, ORDINARY)


@in_own_network
def test_a_candidate_that_fails_leaves_the_ordinary_bind_as_it_was() -> None:
    """Whether it had taken the socket or not."""
    world = World("", bound(HERE, ORDINARY))
    (one,) = world.adopted.sockets
    world.current = 1
    before = open_descriptors()
    for number, taken in ((2, False), (3, True)):
        candidate, turn = world.prepare(number)
        made = turn.in_place_of(held(world)[0])
        if taken:
            candidate.take(made)
        candidate.exits()
        world.turns.gone(number)
        assert open_descriptors() == before
        sent = send(HERE, ORDINARY, 5)
        assert received(one) == sent
    assert world.adopted.sockets == (one,)


@in_own_network
def test_after_a_crash_the_held_socket_is_offered_itself() -> None:
    """The clients in it are answered."""
    world = World("", bound(HERE, ORDINARY))
    (one,) = held(world)
    sent = send(HERE, ORDINARY, 5)
    candidate, turn = world.prepare(2)
    assert turn.in_place_of(one) is one
    candidate.take(one)
    world.begin(2)
    sent += send(HERE, ORDINARY, 5)
    assert candidate.reads() == sent
    assert world.adopted.sockets == (one.socket,)
    assert world.logged == []


@in_own_network
def test_tcp_is_offered_itself_and_is_held_on() -> None:
    """As ever."""
    one = socket.create_server((HERE, ORDINARY))
    world = World("", one)
    world.current = 1
    _, turn = world.prepare(2)
    passed = Passed(one, b"", b"lo")
    assert turn.in_place_of(passed) is passed
    world.begin(2)
    assert world.adopted.sockets == (one,)
    assert world.logged == []


def without_rights(then: Callable[[], None]) -> None:
    """Do something as a user who may not bind the port 443."""
    FIRST_UNPRIVILEGED.write_text("1024")
    os.seteuid(NOBODY)
    try:
        then()
    finally:
        os.seteuid(0)


@needs_root
@pytest.mark.parametrize("namespace", [b"", b"blue"])
@in_own_network
def test_what_nobody_else_can_be_bound_beside_is_shared_and_said_once(namespace: bytes) -> None:
    """A privileged port, and a socket of another network namespace: all generations have that one, and it is held."""
    one = bound(HERE, 443)
    world = World("", one)
    world.current = 1

    def reload() -> None:
        for number in (2, 3):
            haproxy, turn = world.prepare(number)
            passed = Passed(one, namespace)
            assert turn.in_place_of(passed) is passed
            haproxy.take(passed)
            world.begin(number)
            world.turns.gone(number - 1)
            sent = send(HERE, 443, 3)
            assert haproxy.reads() == sent

    without_rights(reload) if not namespace else reload()
    assert world.adopted.sockets == (one,)
    (line,) = world.logged
    assert (line.level, line.event) == (Level.WARNING, "shared_datagrams")
    assert "the UDP socket at udp@127.0.0.1:443 is shared by old and new haproxy" in line.message


@needs_root
@in_own_network
def test_a_port_that_haproxy_cannot_bind_itself_is_named_once() -> None:
    """Its connections share a socket then, and end with it."""
    FIRST_UNPRIVILEGED.write_text("1024")
    world = World()
    world.prepare(1)
    world.begin(1, ports=(443, 8443))
    assert world.logged == []

    def reload() -> None:
        for number in (2, 3):
            world.prepare(number)
            world.begin(number, ports=(443, 8443, 444))

    without_rights(reload)
    (line,) = world.logged
    assert (line.level, line.event) == (Level.WARNING, "shared_quic_socket")
    assert "may not bind the QUIC port 443, 444 itself" in line.message
    assert "setcap cap_net_bind_service" in line.message


# ---- the end, and what follows it ----------------------------------------------------------------------------------


@in_own_network
def test_who_is_not_known_changes_nothing() -> None:
    """A generation without a turn, as the current one after an upgrade."""
    world = World()
    first = world.start(1)
    world.turns.begin(ReadDatagrams(7, os.getpid(), (), (), 1))
    world.turns.gone(7)
    assert not world.turns.has_unread(7)
    sent = send(HERE, PORT, 3)
    assert first.reads() == sent


@in_own_network
def test_at_the_end_everything_is_closed() -> None:
    """A candidate, old generations, what they were offered: nothing is left but what haproxy has."""
    before = open_descriptors()
    world = World(ordinary=bound(HERE, ORDINARY))
    generations = [world.start(1), world.start(2)]
    candidate, turn = world.prepare(3)
    for one in held(world):
        candidate.take(turn.in_place_of(one))
    for haproxy in (*generations, candidate):
        haproxy.exits()
    world.close()
    assert open_descriptors() == before


@in_own_network
def test_the_dead_one_s_sockets_are_closed_if_its_successor_was_starting_already() -> None:
    """It crashed during a reload: the candidate has its own sockets, and nobody reads those of the dead one."""
    world = World()
    first = world.start(1)
    before = len(open_descriptors())
    second, _ = world.prepare(2)
    world.crash(first)
    world.begin(2)
    sent = send(HERE, PORT)
    assert second.reads() == sent
    # The VIP's own socket stays; the second one's is ours and its own.
    third = world.start(3)
    second.exits()
    world.turns.gone(2)
    fourth, _ = world.prepare(4)
    world.crash(third)
    third.exits()
    world.begin(4)
    sent = send(HERE, PORT)
    assert fourth.reads() == sent
    assert len(open_descriptors()) == before + 1


@pytest.mark.parametrize("reloads", [0, 1, 3])
@in_own_network
def test_the_next_program_goes_on_where_this_one_was(reloads: int) -> None:
    """In the same process: who serves goes on reading, and a reload and a crash are what they were.

    Both worlds have the same descriptors; what the first one still knows of them is not closed before the child ends.
    """
    world = World()
    haproxy = world.start(1)
    for number in range(2, 2 + reloads):
        new = world.start(number)
        haproxy.exits()
        world.turns.gone(number - 1)
        haproxy = new
    plain, descriptors = world.turns.serialize()
    assert set(descriptors) == set(plain["serving"].values())
    sent = send(HERE, PORT, 3)

    # As they pass through exec(2).
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    following = World("")
    following.listeners.restore(world.listeners.serialize())
    following.turns = DatagramTurns(following.listeners, following.adopted, following.logged.append)
    following.turns.restore(plain)
    following.tags, following.current = world.tags, world.current
    assert following.turns.inodes() == {*haproxy.inodes()}
    assert not any(os.get_inheritable(one) for one in descriptors)
    sent += send(HERE, PORT, 3)
    assert haproxy.reads() == sent

    waits = send(HERE, PORT, 3)
    following.crash(haproxy)
    again = following.start(10)
    assert again.reads() == waits
    assert following.secrets[10] == world.secrets[1 + reloads]

    last = following.start(11)
    sent = send(HERE, PORT)
    assert again.reads() == []
    assert last.reads() == sent


@in_own_network
def test_a_descriptor_that_the_next_program_does_not_have_is_an_error() -> None:
    """It is said, and the old program goes on."""
    world = World()
    world.start(1)
    world.start(2)
    plain, _ = world.turns.serialize()
    (vip,) = plain["serving"]
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        DatagramTurns(world.listeners, world.adopted, world.logged.append).restore({**plain, "serving": {vip: 999}})


@in_own_network
def test_a_turn_that_cannot_be_made_leaves_nothing() -> None:
    """Of several VIPs one may lack a descriptor; the generation that serves goes on."""
    world = World("quic@127.0.0.1:4433:A,quic@127.0.0.1:4434:B")
    haproxy = world.start(1)
    before = open_descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    with pytest.raises(OSError, match="Too many open files"):
        world.turns.prepare(2, beside=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_descriptors() == before
    sent = send(HERE, PORT, 3)
    assert haproxy.reads() == sent
    assert world.start(2).vips


@in_own_network
def test_a_crash_while_a_candidate_starts_has_datagrams_wait_for_that_one() -> None:
    """It is the one that will read them. If it fails, they wait for the next one, in the sockets of the dead."""
    world = World()
    first = world.start(1)
    candidate, _ = world.prepare(2)
    world.crash(first)
    sent = send(HERE, PORT)
    world.begin(2)
    assert candidate.reads() == sent
    another, _ = world.prepare(3)
    world.crash(candidate)
    another.exits()
    world.turns.gone(3)
    sent = send(HERE, PORT)
    last = world.start(4)
    assert last.reads() == sent


@pytest.mark.parametrize("told", [False, True])
@in_own_network
def test_one_that_was_passed_over_gets_nothing_when_the_current_one_dies(told: bool) -> None:
    """A newer candidate does, or the one after it."""
    world = World()
    first = world.start(1)
    passed_over, _ = world.prepare(2)
    if told:
        world.turns.leaves(2)
    candidate, _ = world.prepare(3)
    world.crash(first)
    sent = send(HERE, PORT)
    world.begin(3)
    assert candidate.reads() == sent
    assert passed_over.reads() == []


@in_own_network
def test_turns_of_a_vip_that_nobody_binds_leave_no_descriptor_behind() -> None:
    """Its sockets are read by nobody, and are closed at once."""
    world = World()
    haproxy = world.start(1, ())
    before = len(open_descriptors())
    for number in range(2, 12):
        following = world.start(number, ())
        haproxy.exits()
        haproxy = following
    assert len(open_descriptors()) <= before + 1


@needs_root
@in_own_network
def test_a_passed_socket_that_is_shared_is_said_once_with_the_reason() -> None:
    """All generations read it; nothing is done to it."""
    passed = bound(HERE, 443)
    os.dup2(passed.fileno(), 3)
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "quic"}
    world = World("")
    without_rights(lambda: world.listeners.adopt(environment))
    world = World("", listeners=world.listeners)
    for number in (1, 2, 3):
        _, turn = world.prepare(number)
        assert turn.vips == {}
        world.begin(number)
        sent = send(HERE, 443, 3)
        assert received(3) == sent
    (line,) = world.logged
    assert (line.level, line.event) == (Level.WARNING, "shared_datagrams")
    assert "the passed UDP socket FD_QUIC: another cannot be bound at its address: Permission denied" in line.message
