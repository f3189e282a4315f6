"""Datagram sockets at one address, of which one gets what is new: what the kernel does with them, and to whom."""

import errno
import os
import resource
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from entrypoint.system.listeners.datagrams import (
    interface,
    share_address,
    silence,
    successor,
    unsilence,
    why_not_silenced,
)
from tests.datagrams import bound, is_here, is_refused, received, send
from tests.system.apart import in_child, in_own_network
from tests.waiting import eventually

PORT = 4433
NOBODY = 65534
IP_FREEBIND, IP_TRANSPARENT, IPV6_TRANSPARENT, SO_BINDTOIFINDEX, SO_RCVBUFFORCE = 15, 19, 75, 62, 33
"""From the kernel's headers; the socket module lacks them."""
FIRST_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
NOT_HERE = "192.0.2.1"

needs_ipv6 = pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this kernel has no IPv6")
needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

EVERYWHERE = [
    ("127.0.0.1", "127.0.0.1", 1),
    ("0.0.0.0", "127.0.0.1", 1),
    ("0.0.0.0", "127.0.0.9", 1),
    ("::1", "::1", 1),
    ("::", "::1", 1),
    ("::", "::1", 0),
    ("::", "127.0.0.1", 0),
]
"""Where a socket is bound, where clients send, and whether it is for IPv6 alone."""
at_each_address = pytest.mark.parametrize(
    ("host", "to", "v6only"), [pytest.param(*one, marks=[needs_ipv6] if ":" in one[0] else []) for one in EVERYWHERE]
)


def at(host: str, v6only: int = 1) -> socket.socket:
    """Return a socket that others may join."""
    return bound(host, PORT, v6only=v6only)


@at_each_address
@in_own_network
def test_a_silent_socket_keeps_what_it_has_and_gets_nothing_new(host: str, to: str, v6only: int) -> None:
    """Whatever port a client sends from: all of it goes to the other one, in which nothing is lost."""
    with at(host, v6only) as old, successor(old, old.getsockname(), 1) as new:
        silence(new)
        before = send(to, PORT)
        unsilence(new, interface(new))
        silence(old)
        after = send(to, PORT)
        assert received(old) == before
        assert received(new) == after


@at_each_address
@in_own_network
def test_a_socket_that_is_not_silent_any_more_is_where_it_was(host: str, to: str, v6only: int) -> None:
    """With the same address, in every turn, and it gets everything again."""
    with at(host, v6only) as one, successor(one, one.getsockname(), 1) as other:
        where = one.getsockname()
        silence(other)
        for silent, reader in ((one, other), (other, one)) * 3:
            unsilence(reader, interface(reader))
            silence(silent)
            assert reader.getsockname() == where
            sent = send(to, PORT, 10)
            assert received(reader) == sent
            assert received(silent) == []


@needs_ipv6
@pytest.mark.parametrize(("host", "v6only"), [("2001:db8::1", 1), ("::", 1), ("::", 0)])
@in_own_network
def test_clients_at_other_ipv6_addresses_are_served_in_every_turn(host: str, v6only: int) -> None:
    """Linux never forgets the peer of an IPv6 socket that was connected, and compares senders with it."""
    for address in ("2001:db8::1/128", "2001:db8::2/128"):
        ip("addr", "add", address, "dev", "lo", "nodad")
    with at(host, v6only) as one, successor(one, one.getsockname(), 1) as other:
        for number, (silent, reader) in enumerate(((one, other), (other, one)) * 3):
            unsilence(reader, 0)
            silence(silent)
            for port in range(20):
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
                    client.bind(("2001:db8::2", 2000 + port))
                    client.sendto(f"{number} {port}".encode(), ("2001:db8::1", PORT))
            assert received(reader) == [f"{number} {port}" for port in range(20)]
            assert received(silent) == []


@at_each_address
@in_own_network
def test_if_all_are_silent_clients_are_refused(host: str, to: str, v6only: int) -> None:
    """They need not wait until they give up."""
    with at(host, v6only) as one, successor(one, one.getsockname(), 1) as other:
        assert not is_refused(to, PORT)
        silence(one)
        assert is_refused(to, PORT)
        unsilence(other, interface(other))
        assert not is_refused(to, PORT)
        silence(other)
        silence(other)
        assert is_refused(to, PORT)


@in_own_network
def test_a_socket_that_is_not_silent_may_be_told_so() -> None:
    """It keeps its address and what it has."""
    with at("127.0.0.1") as one:
        sent = send("127.0.0.1", PORT, 3)
        unsilence(one, interface(one))
        sent += send("127.0.0.1", PORT, 3)
        assert received(one) == sent
        assert one.getsockname() == ("127.0.0.1", PORT)


@in_own_network
def test_many_sockets_may_wait_for_their_turn() -> None:
    """Old ones that drain, and a candidate: only one gets what is new."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(at("0.0.0.0"))]
        for _ in range(5):
            sockets.append(stack.enter_context(successor(sockets[-1], ("0.0.0.0", PORT), len(sockets))))
            unsilence(sockets[-1], 0)
            silence(sockets[-2])
            sent = send("127.0.0.1", PORT)
            assert received(sockets[-1]) == sent
        assert [received(one) for one in sockets] == [[]] * 6


@in_own_network
def test_a_connection_keeps_its_socket() -> None:
    """As haproxy's for a QUIC connection: connected to a client it gets what that one sends, whoever reads the rest."""
    with at("127.0.0.1") as old, at("127.0.0.1") as connection, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", PORT))
        connection.connect(client.getsockname())
        silence(old)
        with successor(old, ("127.0.0.1", PORT), 1) as new:
            unsilence(new, 0)
            client.send(b"more")
            sent = send("127.0.0.1", PORT)
            assert received(connection) == ["more"]
            assert received(new) == sent


# ---- successors ----------------------------------------------------------------------------------------------------


def option(one: socket.socket, level: int, name: int) -> int:
    """Return a socket option."""
    return one.getsockopt(level, name)


@needs_ipv6
@pytest.mark.parametrize("v6only", [0, 1])
@in_own_network
def test_a_successor_is_for_the_same_families(v6only: int) -> None:
    """haproxy compares this with the `bind` line."""
    with at("::", v6only) as one, successor(one, one.getsockname(), 1) as made:
        assert option(made, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == v6only
        assert made.getsockname() == one.getsockname()
        assert (made.family, made.type) == (one.family, one.type)
        assert not made.getblocking()
        assert not os.get_inheritable(made.fileno())


@pytest.mark.parametrize(
    ("host", "level", "name"),
    [
        (NOT_HERE, socket.IPPROTO_IP, IP_FREEBIND),
        (NOT_HERE, socket.IPPROTO_IP, IP_TRANSPARENT),
        pytest.param("2001:db8::1", socket.IPPROTO_IP, IP_FREEBIND, marks=needs_ipv6),
        pytest.param("2001:db8::1", socket.IPPROTO_IPV6, IPV6_TRANSPARENT, marks=needs_ipv6),
    ],
)
@in_own_network
def test_a_successor_may_be_at_an_address_that_is_not_here_yet(host: str, level: int, name: int) -> None:
    """With the option that the first one has; to silence it is no error either."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(level, name, 1)
        share_address(one)
        one.bind((host, PORT))
        with successor(one, one.getsockname(), 1) as made:
            assert made.getsockname() == one.getsockname()
            assert option(made, level, name) == 1
            silence(made)
            unsilence(made, interface(made))
            assert made.getsockname() == one.getsockname()


@in_own_network
def test_a_successor_may_hold_as_much_as_we_ask_for() -> None:
    """More than any other socket, up to the kernel's limit."""
    with (
        at("127.0.0.1") as one,
        at("127.0.0.1") as greedy,
        successor(one, one.getsockname(), 1) as made,
    ):
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        room = option(made, socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert room == option(greedy, socket.SOL_SOCKET, socket.SO_RCVBUF)


@in_own_network
def test_an_interface_is_kept_by_a_successor_and_by_silence() -> None:
    """Linux forgets it when a socket is disconnected."""
    index = socket.if_nametoindex("lo")
    with at("127.0.0.1") as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        with successor(one, one.getsockname(), 1) as made:
            unsilence(made, index)
            for each in (one, made):
                silence(each)
                assert option(each, socket.SOL_SOCKET, SO_BINDTOIFINDEX) == index
                unsilence(each, interface(each))
                assert option(each, socket.SOL_SOCKET, SO_BINDTOIFINDEX) == index
            unsilence(made, 0)
            silence(one)
            sent = send("127.0.0.1", PORT)
            assert received(made) == sent


@in_own_network
def test_one_without_an_interface_gets_none() -> None:
    """It hears from all."""
    with at("0.0.0.0") as one, successor(one, one.getsockname(), 1) as made:
        silence(made)
        unsilence(made, interface(made))
        assert [option(each, socket.SOL_SOCKET, SO_BINDTOIFINDEX) for each in (one, made)] == [0, 0]


@pytest.mark.parametrize("name", [socket.SO_REUSEPORT, socket.SO_REUSEADDR])
@in_own_network
def test_haproxy_can_bind_the_sockets_of_its_connections_beside_them(name: int) -> None:
    """With either option, as long as it has the same user."""
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as connection:
        one.bind(("127.0.0.1", PORT))
        connection.setsockopt(socket.SOL_SOCKET, name, 1)
        with successor(one, one.getsockname(), 1) as made:
            silence(one)
            connection.bind(made.getsockname())


@needs_root
@in_own_network
def test_a_socket_of_another_user_can_be_succeeded() -> None:
    """As systemd's: SO_REUSEPORT is for one user's sockets only. Nothing is set on it before."""
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        one.bind(("127.0.0.1", PORT))
        os.seteuid(NOBODY)
        with successor(one, one.getsockname(), 1) as made:
            unsilence(made, 0)
            silence(one)
            sent = send("127.0.0.1", PORT)
            assert received(made) == sent
            assert received(one) == []


@needs_root
@in_own_network
def test_who_may_not_bind_a_port_is_told() -> None:
    """Nothing is left open, and the first socket is as it was."""
    with bound("127.0.0.1", 443) as one:
        os.seteuid(NOBODY)
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(PermissionError) as caught:
            successor(one, one.getsockname(), 1)
        assert caught.value.errno == errno.EACCES
        assert sorted(os.listdir("/proc/self/fd")) == before
        sent = send("127.0.0.1", 443, 3)
        assert received(one) == sent


@in_child
def test_without_a_descriptor_there_is_no_successor() -> None:
    """It is an OSError."""
    with bound("127.0.0.1") as one:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with pytest.raises(OSError, match="Too many open files"):
            successor(one, one.getsockname(), 1)


# ---- sockets that cannot reach their own address -------------------------------------------------------------------


def ip(*words: str) -> None:
    """Change the network, and wait until it has changed."""
    subprocess.run(["ip", *words], check=True)
    if words[:2] == ("addr", "add"):
        eventually(lambda: is_here(words[2].partition("/")[0]))


def unreachable(host: str) -> socket.socket:
    """Return a socket at an address that is not here yet."""
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    share_address(one)
    one.bind((host, PORT))
    return one


@needs_ip
@pytest.mark.parametrize(
    ("host", "arrives"),
    [(NOT_HERE, f"{NOT_HERE}/32"), pytest.param("2001:db8::1", "2001:db8::1/128", marks=needs_ipv6)],
)
@in_own_network
def test_a_socket_is_silent_also_once_its_address_arrives(host: str, arrives: str) -> None:
    """As of a VIP that moves between hosts: the one that reads gets everything, and both get what they had before."""
    with unreachable(host) as one, successor(one, one.getsockname(), 1) as other:
        where = one.getsockname()
        unsilence(other, 0)
        silence(one)
        ip("addr", "add", arrives, "dev", "lo", *(["nodad"] if ":" in host else []))
        sent = send(host, PORT)
        assert received(other) == sent
        silence(other)
        assert is_refused(host, PORT)
        unsilence(one, interface(one))
        sent = send(host, PORT)
        assert (received(one), received(other)) == (sent, [])
        silence(one)
        assert is_refused(host, PORT)
        unsilence(other, interface(other))
        sent = send(host, PORT)
        assert (received(one), received(other)) == ([], sent)
        assert one.getsockname() == other.getsockname() == where
        assert option(other, socket.SOL_SOCKET, SO_BINDTOIFINDEX) == 0


@needs_ip
@needs_ipv6
@pytest.mark.parametrize("v6only", [0, 1])
@in_own_network
def test_a_socket_for_all_is_silent_where_there_is_no_loopback_address(v6only: int) -> None:
    """As in a container without ::1."""
    ip("addr", "del", "::1/128", "dev", "lo")
    ip("addr", "add", "2001:db8::7/128", "dev", "lo", "nodad")
    with at("::", v6only) as one, successor(one, one.getsockname(), 1) as other:
        unsilence(other, 0)
        silence(one)
        sent = send("2001:db8::7", PORT)
        assert (received(one), received(other)) == ([], sent)
        unsilence(one, interface(one))
        silence(other)
        sent = send("2001:db8::7", PORT)
        assert (received(one), received(other)) == (sent, [])


@needs_root
@in_own_network
def test_no_capability_is_needed_to_silence_it() -> None:
    """Nor to end that."""
    os.seteuid(NOBODY)
    with unreachable(NOT_HERE) as one, successor(one, one.getsockname(), 1) as other:
        for _ in range(2):
            silence(one)
            unsilence(one, interface(one))
        assert why_not_silenced(other, other.getsockname()) is None


@in_own_network
def test_to_silence_twice_is_no_error() -> None:
    """Nor to end it twice."""
    with unreachable(NOT_HERE) as one, at("127.0.0.1") as other:
        for each in (one, other):
            silence(each)
            silence(each)
            unsilence(each, interface(each))
            unsilence(each, interface(each))
            assert option(each, socket.SOL_SOCKET, SO_BINDTOIFINDEX) == 0


@in_own_network
def test_one_that_can_be_succeeded_and_silenced_has_no_reason_against_it() -> None:
    """To find that out changes nothing, and takes nothing away."""
    before = sorted(os.listdir("/proc/self/fd"))
    with at("0.0.0.0") as one:
        sent = send("127.0.0.1", PORT, 3)
        assert why_not_silenced(one, one.getsockname()) is None
        sent += send("127.0.0.1", PORT, 3)
        assert received(one) == sent
    assert sorted(os.listdir("/proc/self/fd")) == before


@needs_root
@in_own_network
def test_the_reason_is_the_kernel_s() -> None:
    """What may not be bound, and what cannot be silenced: it has an interface, and cannot reach its address."""
    with unreachable(NOT_HERE) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        assert why_not_silenced(one, one.getsockname()) is None
        os.seteuid(NOBODY)
        error = why_not_silenced(one, one.getsockname())
        assert error is not None
        assert error.errno == errno.EPERM
        os.seteuid(0)
    FIRST_UNPRIVILEGED.write_text("1024")
    with bound("127.0.0.1", 443) as one:
        os.seteuid(NOBODY)
        error = why_not_silenced(one, one.getsockname())
        assert error is not None
        assert error.errno == errno.EACCES


@needs_ipv6
@in_own_network
def test_one_at_a_single_ipv6_address_is_in_no_group() -> None:
    """In a group (SO_REUSEPORT) kernels before 6.13 would give it datagrams although it is silent."""
    with at("::1") as one, successor(one, one.getsockname(), 1) as made:
        assert option(made, socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    with at("127.0.0.1") as one, successor(one, one.getsockname(), 1) as made:
        assert option(made, socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1


@in_own_network
def test_a_successor_is_no_more_foreign_than_the_one_before() -> None:
    """haproxy compares IP_FREEBIND with its `bind` line."""
    for foreign in (0, 1):
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            one.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, foreign)
            one.bind(("127.0.0.1", PORT))
            with successor(one, one.getsockname(), 1) as made:
                assert option(made, socket.IPPROTO_IP, IP_FREEBIND) == foreign


@needs_root
@in_own_network
def test_a_successor_has_as_much_room_as_the_one_before() -> None:
    """As systemd's ReceiveBuffer= gives it: more than net.core.rmem_max allows."""
    with at("127.0.0.1") as one:
        one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        room = option(one, socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert room == 128 << 20
        with successor(one, one.getsockname(), 1) as made:
            assert option(made, socket.SOL_SOCKET, socket.SO_RCVBUF) == room
