"""Listeners: real sockets, bound once and together, that accept only while they are used."""

import contextlib
import errno
import gc
import itertools
import os
import resource
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrypoint.options.vips import Vip, parse_vips
from entrypoint.system.listeners import STORED, Listeners
from entrypoint.system.listeners.datagrams import silence
from entrypoint.system.listeners.places import ListenError
from tests.connections import free_port
from tests.datagrams import bound, is_refused, received, send
from tests.system.apart import apart, bring_up, in_child, in_own_network, needs_own_network, own_network
from tests.waiting import eventually

NOT_HERE = "192.0.2.1"
NOT_HERE_6 = "2001:db8::1"
SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
ETH_P_ALL = 3
TCP_MD5SIG_EXT = 32
FEW_DESCRIPTORS = 6

needs_ipv6 = pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this kernel has no IPv6")


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody else uses: a socket that does not listen holds it for us on all addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    """Listeners without VIPs, closed at the end."""
    made = Listeners()
    yield made
    made.close()


def connect(port: int, host: str = "127.0.0.1") -> socket.socket | None:
    """Return a connection, or None when it is refused."""
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(20)
    try:
        client.connect((host, port))
    except ConnectionRefusedError:
        client.close()
        return None
    return client


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a client is let in, and be gone again."""
    client = connect(port, host)
    if client:
        client.close()
    return client is not None


def accepted(descriptor: int) -> int:
    """Accept everybody who waits at a VIP and return how many they were."""
    count = 0
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


def option(descriptor: int, level: int, name: int) -> int:
    """Return a socket option of a VIP."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        return listener.getsockopt(level, name)


def address(descriptor: int) -> tuple[str, int]:
    """Return what a VIP is bound to."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        name = listener.getsockname()
        return name[0], name[1]


def backlog(descriptor: int) -> int:
    """Return how many connections may wait: tcpi_sacked of a listening socket's TCP_INFO (linux/tcp.h)."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        return int(struct.unpack_from("I", info, 28)[0])


def descriptor_of(listeners: Listeners, tag: str) -> int:
    """Return the descriptor of a VIP."""
    return dict(listeners.descriptors())[tag]


def listen_on(listeners: Listeners, *vips: Vip, freebind: bool = False) -> None:
    """Bind VIPs, and have all of them listen."""
    listeners.bind(vips, freebind=freebind)
    listeners.listen([vip.tag for vip in vips])


def open_descriptors() -> set[int]:
    """Return which descriptors are open; those of garbage, such as an earlier test leaves, are closed first."""
    gc.collect()
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/dev/fd/{name}")}


def error_of(work: Callable[[], object]) -> str:
    """Return the one line with which VIPs are refused."""
    with pytest.raises(ListenError) as caught:
        work()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- bind ----------------------------------------------------------------------------------------------------------


@in_own_network
def test_descriptors_are_low_and_in_the_order_of_the_list(listeners: Listeners) -> None:
    """The first VIP is 3, and the next ones follow."""
    listeners.bind(parse_vips("127.0.0.1:1025:B,127.0.0.2:1025:A,127.0.0.3:1025:C"), freebind=False)
    assert list(dict(listeners.descriptors()).items()) == [("B", 3), ("A", 4), ("C", 5)]


def test_a_vip_is_bound_as_the_contract_says(listeners: Listeners, port: int) -> None:
    """To its address and port, with SO_REUSEADDR and SO_REUSEPORT, not for children, and not listening yet."""
    listeners.bind([Vip("127.0.0.1", port, "A")], freebind=False)
    descriptor = descriptor_of(listeners, "A")
    assert address(descriptor) == ("127.0.0.1", port)
    assert option(descriptor, socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    assert option(descriptor, socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    assert option(descriptor, socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
    assert option(descriptor, socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
    assert not os.get_inheritable(descriptor)
    assert not os.get_blocking(descriptor)
    assert not accepts(port)


@needs_ipv6
def test_the_first_tags_are_listed_with_their_addresses(listeners: Listeners, port: int) -> None:
    """All addresses of a tag, and no more tags than asked for."""
    listeners.bind(parse_vips(f"127.0.0.1:{port}:FD_A,*:{port}:FD_B,127.0.0.2:{port}:FD_C"), freebind=False)
    both = [f"0.0.0.0:{port}", f"[::]:{port}"]
    assert listeners.addresses(0) == {}
    assert listeners.addresses(2) == {"FD_A": [f"127.0.0.1:{port}"], "FD_B": both}
    assert [*listeners.addresses(9)] == ["FD_A", "FD_B", "FD_C"]


@needs_ipv6
def test_a_literal_ipv6_address_is_for_ipv6_alone(listeners: Listeners, port: int) -> None:
    """[::] does not take IPv4's place: 0.0.0.0 with the same port is another VIP."""
    listeners.bind([Vip("::", port, "SIX"), Vip("0.0.0.0", port, "FOUR")], freebind=False)
    tags = dict(listeners.descriptors())
    assert option(tags["SIX"], socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    listeners.listen(["SIX"])
    assert accepts(port, "::1")
    assert not accepts(port)
    listeners.listen(["FOUR"])
    assert accepts(port)
    assert not accepts(port, "::1")


@needs_ipv6
def test_of_datagrams_any_is_two_quic_binds(listeners: Listeners, port: int) -> None:
    """The variable continues a `bind` that begins with quic+fd@."""
    listeners.bind([Vip("*", port, "A", "quic@")], freebind=False)
    (four, six) = (descriptor for _, descriptor in listeners.descriptors())
    assert listeners.variables() == {"A": f"{four},quic+fd@{six}"}


@needs_ipv6
def test_any_is_a_socket_of_each_family(listeners: Listeners, port: int) -> None:
    """`*` is one of IPv4 and one of IPv6, under one tag: who comes by IPv4 is seen with an address of IPv4."""
    listeners.bind([Vip("*", port, "A"), Vip("127.0.0.1", port, "B")], freebind=False)
    (four, six, other) = (descriptor for _, descriptor in listeners.descriptors())
    assert [tag for tag, _ in listeners.descriptors()] == ["A", "A", "B"]
    assert listeners.variables() == {"A": f"{four},fd@{six}", "B": str(other)}
    assert [one["address"] for one in listeners.status()][:2] == [f"0.0.0.0:{port}", f"[::]:{port}"]
    listeners.listen(["A"])
    assert option(six, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    client = connect(port)
    assert client
    with client, socket.socket(fileno=os.dup(four)) as listener:
        accepted_one, (host, *_) = listener.accept()
        accepted_one.close()
        assert host == "127.0.0.1"
    assert accepts(port, "::1")
    assert accepted(six) == 1
    assert listeners.poke(["A"]) == ()
    assert accepted(four) == accepted(six) == 1
    listeners.listen(["B"])
    assert not accepts(port, "::1")
    assert not accepts(port, "127.0.0.2")


@needs_own_network
@needs_ipv6
@pytest.mark.parametrize("scope", ["name", "number"])
@in_child
def test_a_link_local_address_is_bound_on_its_interface(listeners: Listeners, scope: str) -> None:
    """By the interface's name or number: such an address is one only there. A poke gets there, too."""
    a_way_out(nonlocal_bind=False)
    subprocess.run(["ip", "addr", "add", "fe80::7/64", "dev", "out", "nodad"], check=True)
    index = socket.if_nametoindex("out")
    vip = f"[fe80::7%{'out' if scope == 'name' else index}]:1025:A"
    listeners.bind(parse_vips(vip), freebind=False)
    listeners.listen(["A"])
    with socket.socket(socket.AF_INET6) as client:
        client.connect(("fe80::7", 1025, 0, index))
    assert str(listeners.status()[0]["address"]) == "[fe80::7%out]:1025"
    assert listeners.poke(["A"]) == ()


@needs_own_network
@in_child
def test_any_is_ipv4_where_ipv6_is_switched_off(listeners: Listeners) -> None:
    """On a host without IPv6 addresses `*` still accepts."""
    without_ipv6()
    listen_on(listeners, Vip("*", 1025, "A"))
    assert accepts(1025)


def without_ipv6() -> None:
    """Have a network in which IPv6 is switched off, as docker's often is."""
    own_network(up=False)
    for scope in ("all", "default"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
    bring_up("lo")


def test_one_address_may_have_several_sockets(listeners: Listeners, port: int) -> None:
    """Several tags on one address share its connections, once they all listen."""
    listen_on(listeners, *(Vip("127.0.0.1", port, tag) for tag in "ABC"))
    for _ in range(200):
        assert accepts(port)
    counts = [accepted(descriptor) for descriptor in dict(listeners.descriptors()).values()]
    assert sum(counts) == 200
    assert all(counts)


def test_only_those_of_one_address_that_listen_get_connections(listeners: Listeners, port: int) -> None:
    """A tag that no `bind` uses takes no client away from the tag that shares its address."""
    listeners.bind([Vip("127.0.0.1", port, tag) for tag in "AB"], freebind=False)
    for used, unused in ("AB", "BA", "AB"):
        listeners.listen([used])
        for _ in range(50):
            assert accepts(port)
        assert accepted(descriptor_of(listeners, used)) == 50
        assert option(descriptor_of(listeners, unused), socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0


def test_all_vips_are_bound_or_none(listeners: Listeners, port: int) -> None:
    """If one bind fails, the VIPs before it are closed, and nothing stays open."""
    before = open_descriptors()
    vips = [Vip("127.0.0.1", port, "A"), Vip(NOT_HERE, port, "B"), Vip("127.0.0.2", port, "C")]
    assert error_of(lambda: listeners.bind(vips, freebind=False)).startswith(f"VIPS entry 2 '{vips[1]}': ")
    assert dict(listeners.descriptors()) == {}
    assert open_descriptors() == before


@in_own_network
def test_4096_vips_are_bound(listeners: Listeners) -> None:
    """As many as the contract promises are bound, listen, and stop listening."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (5000, max(5000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    listen_on(listeners, *(Vip(f"127.1.{n >> 8}.{n & 255}", 80, f"T{n}") for n in range(4096)))
    assert accepts(80, "127.1.15.255")
    listeners.listen(())
    assert len(dict(listeners.descriptors())) == 4096
    assert max(dict(listeners.descriptors()).values()) <= 3 + 4096  # one descriptor below is the line to the parent
    assert not accepts(80, "127.1.15.255")


@in_own_network
def test_each_vip_costs_the_same() -> None:
    """Four times as many VIPs are bound in four times as many calls, not in sixteen times."""
    few, many = [_calls_of_binding(count) for count in (100, 400)]
    assert few > 100
    assert many < 5 * few


def _calls_of_binding(count: int) -> int:
    calls = itertools.count()
    listeners = Listeners()
    sys.setprofile(lambda *_: next(calls) and None)
    listeners.bind([Vip(f"127.1.{n >> 8}.{n & 255}", 80, f"T{n}") for n in range(count)], freebind=False)
    sys.setprofile(None)
    listeners.close()
    return next(calls)


def test_freebind_binds_what_is_not_here_yet(listeners: Listeners, port: int) -> None:
    """With it an address that will come later can be a VIP, and listens."""
    listen_on(listeners, Vip(NOT_HERE, port, "A"), freebind=True)
    assert address(descriptor_of(listeners, "A")) == (NOT_HERE, port)


@needs_ipv6
def test_freebind_works_for_ipv6(listeners: Listeners, port: int) -> None:
    """The same holds for an IPv6 address."""
    listen_on(listeners, Vip(NOT_HERE_6, port, "A"), freebind=True)
    assert address(descriptor_of(listeners, "A")) == (NOT_HERE_6, port)


# ---- what cannot be had --------------------------------------------------------------------------------------------


def test_an_address_of_another_host_is_refused_with_the_remedy(listeners: Listeners) -> None:
    """EADDRNOTAVAIL names the VIP by number and text, and --freebind."""
    message = error_of(lambda: listeners.bind(parse_vips(f"{NOT_HERE}:80:FD_A"), freebind=False))
    assert message == (
        f"VIPS entry 1 '{NOT_HERE}:80:FD_A': cannot bind it: {os.strerror(errno.EADDRNOTAVAIL)}: "
        "the address is not on this host; --freebind binds it all the same"
    )


def test_an_address_in_use_is_refused(listeners: Listeners) -> None:
    """EADDRINUSE says that another process holds the address without SO_REUSEPORT."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        vip = Vip("127.0.0.1", other.getsockname()[1], "FD_A")
        message = error_of(lambda: listeners.bind([vip], freebind=False))
    assert message == (
        f"VIPS entry 1 '{vip}': cannot bind it: {os.strerror(errno.EADDRINUSE)}: "
        "another process holds it without SO_REUSEPORT"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
@in_own_network
def test_a_privileged_port_is_refused_with_the_remedy() -> None:
    """EACCES says what a low port needs."""
    os.setuid(65534)
    assert error_of(lambda: Listeners().bind(parse_vips("127.0.0.1:1024:B,127.0.0.1:80:A"), freebind=False)) == (
        f"VIPS entry 2 '127.0.0.1:80:A': cannot bind it: {os.strerror(errno.EACCES)}: "
        "a port below net.ipv4.ip_unprivileged_port_start needs root or CAP_NET_BIND_SERVICE"
    )


@in_child
def test_too_many_vips_are_refused_with_the_remedy(port: int) -> None:
    """EMFILE names the first VIP beyond the limit, and the limit."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, FEW_DESCRIPTORS))
    vips = [Vip("127.0.0.1", port, f"T{number}") for number in range(10)]
    assert error_of(lambda: Listeners().bind(vips, freebind=False)) == (
        f"VIPS entry 4 '127.0.0.1:{port}:T3': cannot bind it: {os.strerror(errno.EMFILE)}: "
        "too many open files; raise the limit (ulimit -n)"
    )


@pytest.mark.parametrize("scope", ["no-such-interface", "\u00e9" * 70, "\udcff"])
def test_an_unknown_interface_is_refused(listeners: Listeners, scope: str) -> None:
    """An IPv6 address may name an interface. An unknown one is an error about that VIP, whatever its name."""
    vips = parse_vips(f"[fe80::1%{scope}]:80:FD_A")
    assert error_of(lambda: listeners.bind(vips, freebind=False)).startswith("VIPS entry 1 '[fe80::1%")


# ---- listen --------------------------------------------------------------------------------------------------------


def test_only_those_that_are_used_accept(listeners: Listeners, port: int) -> None:
    """The others refuse, and come back when they are used again, as often as that happens."""
    hosts = {"A": "127.0.0.1", "B": "127.0.0.2", "C": "127.0.0.3"}
    listeners.bind([Vip(host, port, tag) for tag, host in hosts.items()], freebind=False)
    for used in ("", "A", "B", "AB", "", "ABC", "C", "ABC"):
        listeners.listen(used)
        assert {tag for tag, host in hosts.items() if accepts(port, host)} == set(used)


def test_one_that_does_not_listen_keeps_its_address(listeners: Listeners, port: int) -> None:
    """Nobody without SO_REUSEPORT can take the address of a VIP that has stopped to listen."""
    listen_on(listeners, Vip("127.0.0.1", port, "A"))
    listeners.listen([])
    with socket.socket() as other, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        other.bind(("127.0.0.1", port))
    assert address(descriptor_of(listeners, "A")) == ("127.0.0.1", port)


def test_listening_again_keeps_waiting_clients(listeners: Listeners, port: int) -> None:
    """It costs no connection, not even those that haproxy has not accepted yet."""
    listeners.bind([Vip("127.0.0.1", port, "A"), Vip("127.0.0.2", port, "B")], freebind=False)
    listeners.listen(["A"])
    clients = [connect(port) for _ in range(3)]
    for tags in ("A", "AB", "A"):
        listeners.listen(tags)
    assert accepted(descriptor_of(listeners, "A")) == 3
    for client in clients:
        assert client
        client.close()


def test_waiting_clients_are_reset_when_a_vip_stops(listeners: Listeners, port: int) -> None:
    """A client that will never be accepted is reset at once."""
    listen_on(listeners, Vip("127.0.0.1", port, "A"))
    client = connect(port)
    assert client
    listeners.listen([])
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)


def test_the_backlog_is_the_kernels_unless_given(listeners: Listeners, port: int) -> None:
    """Without one it is somaxconn."""
    listen_on(listeners, Vip("127.0.0.1", port, "A"))
    assert backlog(descriptor_of(listeners, "A")) == int(SOMAXCONN.read_text())


@pytest.mark.parametrize("wanted", [1, 7])
def test_the_backlog_is_the_given_one(port: int, wanted: int) -> None:
    """With one it is that, each time the VIP begins to listen."""
    with contextlib.closing(Listeners(wanted)) as listeners:
        listeners.bind([Vip("127.0.0.1", port, "A")], freebind=False)
        for _ in range(2):
            listeners.listen(["A"])
            assert backlog(descriptor_of(listeners, "A")) == wanted
            listeners.listen([])


@pytest.mark.parametrize("wanted", [2**31 - 1, 2**31, 10**12])
def test_a_backlog_that_is_too_large_is_cut_down(port: int, wanted: int) -> None:
    """More than the kernel allows is what the kernel allows, however much it is."""
    with contextlib.closing(Listeners(wanted)) as listeners:
        listen_on(listeners, Vip("127.0.0.1", port, "A"))
        assert backlog(descriptor_of(listeners, "A")) == int(SOMAXCONN.read_text())


def test_close_lets_go_of_everything(listeners: Listeners, port: int) -> None:
    """Afterwards there is no VIP, no descriptor, and clients are refused; to close again is no error."""
    before = open_descriptors()
    listen_on(listeners, Vip("127.0.0.1", port, "A"))
    assert accepts(port)
    listeners.close()
    listeners.close()
    assert dict(listeners.descriptors()) == {}
    assert open_descriptors() == before
    assert not accepts(port)


# ---- stand_in ------------------------------------------------------------------------------------------------------


def test_stand_ins_are_bound_to_nothing(listeners: Listeners, port: int) -> None:
    """They have tags and the right family, and clients are still refused."""
    listeners.stand_in(parse_vips(f"127.0.0.1:{port}:A,[::1]:{port}:B,*:{port}:C"))
    tags = dict(listeners.descriptors())
    families = [option(tags[tag], socket.SOL_SOCKET, socket.SO_DOMAIN) for tag in "ABC"]
    assert families == [socket.AF_INET, socket.AF_INET6, socket.AF_INET6]
    assert option(listeners.descriptors()[2][1], socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
    assert {address(descriptor)[1] for descriptor in tags.values()} == {0}
    assert not accepts(port)


# ---- adopt ---------------------------------------------------------------------------------------------------------


def passed(kinds: str, **environment: str) -> dict[str, str]:
    """Have sockets from descriptor 3 up, as systemd passes them, and return the variables that go with them.

    The kinds are t for TCP that listens, u for UDP, x for unix, f for no socket at all.
    """
    for kind in kinds:
        if kind == "f":
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)
            continue
        family = socket.AF_UNIX if kind == "x" else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM if kind == "u" else socket.SOCK_STREAM)
        made.bind("" if kind == "x" else ("127.0.0.1", 0))
        if kind != "u":
            made.listen()
        made.set_inheritable(True)
        made.detach()
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(kinds)), **environment}


@in_child
def test_passed_sockets_are_vips_by_their_names(listeners: Listeners) -> None:
    """The tag is FD_ and the name in capitals; the descriptors stay where they are."""
    listeners.adopt(passed("tttt", LISTEN_FDNAMES="http1:web-tls.socket::a b"))
    tags = dict(listeners.descriptors())
    wrong = [os.get_inheritable(n) or os.get_blocking(n) for n in tags.values()]
    assert tags == {"FD_HTTP1": 3, "FD_WEB_TLS_SOCKET": 4, "FD_UNKNOWN2": 5, "FD_A_B": 6}
    assert wrong == [False] * 4


@pytest.mark.parametrize(("kinds", "names"), [("tt", "web-1:web_1"), ("ttt", "web:web:web_2"), ("tt", "a:A")])
@in_child
def test_two_names_that_would_be_one_tag_are_refused(kinds: str, names: str) -> None:
    """One of the two would never be served; which is which only who has named them can tell."""
    message = error_of(lambda: Listeners().adopt(passed(kinds, LISTEN_FDNAMES=names)))
    *_, second = names.split(":")
    assert f"{second!r} would both have the tag FD_" in message
    assert "give one another name" in message


@in_child
def test_a_passed_socket_that_nobody_uses_is_named(listeners: Listeners) -> None:
    """One that listens, of any family: it is not stopped, because it is not ours, and its clients are to be refused."""
    listeners.adopt(passed("ttxu", LISTEN_FDNAMES="a:b:c:d"))

    def unused() -> list[int]:
        return [one.fileno() for one in listeners.unused()]

    listeners.listen(["FD_A", "FD_D"])
    some = unused()
    listeners.listen(["FD_A"], ["FD_B", "FD_C", "FD_D"])
    none = unused()
    shown = [one["accepts"] for one in listeners.status()]
    listeners.listen([])
    assert some == [4, 5]
    assert none == []
    assert unused() == [3, 4, 5]
    assert shown == [True, None, None, None]


@in_child
def test_a_passed_udp_socket_accepts_while_it_is_used(listeners: Listeners) -> None:
    """It cannot listen, and that is no error."""
    listeners.adopt(passed("u", LISTEN_FDNAMES="quic"))
    listeners.listen(["FD_QUIC"])
    used = listeners.status()[0]
    listeners.listen([])
    assert used["accepts"]
    assert str(used["address"]).startswith("udp@127.0.0.1:")
    assert not listeners.status()[0]["accepts"]


@in_child
def test_passed_sockets_without_names_are_vips_all_the_same(listeners: Listeners) -> None:
    """Each has a tag of its own."""
    listeners.adopt(passed("tx"))
    assert dict(listeners.descriptors()) == {"FD_UNKNOWN0": 3, "FD_UNKNOWN1": 4}


@in_child
def test_vips_follow_the_passed_sockets(listeners: Listeners) -> None:
    """Both kinds are in one list; a tag that was passed already is refused, and nothing stays open."""
    listeners.adopt(passed("t", LISTEN_FDNAMES="a"))
    port = free_port()
    listeners.bind([Vip("127.0.0.1", port, "FD_B")], freebind=False)
    both = dict(listeners.descriptors())
    message = error_of(lambda: listeners.bind([Vip("127.0.0.1", port, "FD_A")], freebind=False))
    assert both == {"FD_A": 3, "FD_B": 4}
    assert message.partition(": ")[2] == "a passed socket has the tag FD_A already"
    assert dict(listeners.descriptors()) == {}


def test_sockets_with_one_name_are_all_vips_or_an_error() -> None:
    """systemd gives all sockets of a unit one name: none of them may be lost without a word."""

    def work() -> set[int]:
        listeners = Listeners()
        with contextlib.suppress(ListenError):
            listeners.adopt(passed("tt", LISTEN_FDNAMES="web:web"))
            return set(dict(listeners.descriptors()).values())
        return {3, 4}

    assert apart(work) == {3, 4}


@in_child
def test_a_passed_socket_is_never_shut(listeners: Listeners) -> None:
    """Whether it listens is systemd's business: a client that comes while no `bind` uses it waits."""
    listeners.adopt(passed("t"))
    listeners.listen([])
    assert accepts(address(3)[1])


@in_child
def test_one_that_cannot_listen_does_not_keep_the_others_from_it(listeners: Listeners) -> None:
    """After a passed UDP socket, which cannot listen, the VIPs still do."""
    listeners.adopt(passed("u"))
    port = free_port()
    listeners.bind([Vip("127.0.0.1", port, "FD_B")], freebind=False)
    with contextlib.suppress(OSError):
        listeners.listen(tuple(dict(listeners.descriptors())))
    assert accepts(port)


@pytest.mark.parametrize(
    "changes", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_PID": "x"}, {"LISTEN_FDS": "0"}], ids=str
)
@in_child
def test_variables_for_another_process_are_ignored(listeners: Listeners, changes: dict[str, str]) -> None:
    """Variables that are meant for another process, or that announce nothing, have no effect."""
    listeners.adopt({**passed("t"), **changes})
    assert os.get_inheritable(3)
    assert dict(listeners.descriptors()) == {}


def test_without_the_variables_nothing_is_adopted(listeners: Listeners) -> None:
    """A container without socket activation has only its own VIPs."""
    listeners.adopt({})
    assert dict(listeners.descriptors()) == {}


@pytest.mark.parametrize("count", ["", "x", "-1", "1.0", "\u00b2", "9" * 5000])
def test_a_listen_fds_that_is_not_a_number_is_refused(count: str) -> None:
    """LISTEN_FDS is quoted in the error."""
    message = apart(lambda: error_of(lambda: Listeners().adopt({**passed("t"), "LISTEN_FDS": count})))
    assert message == f"LISTEN_FDS is {count!r}, not a number"


@pytest.mark.parametrize(("kinds", "count", "named"), [("tf", "2", 4), ("t", "2", 4), ("", "1", 3)])
def test_a_descriptor_that_is_not_a_socket_is_refused(kinds: str, count: str, named: int) -> None:
    """The error names the first descriptor that is not what was announced."""
    message = apart(lambda: error_of(lambda: Listeners().adopt({**passed(kinds), "LISTEN_FDS": count})))
    assert message.startswith(f"LISTEN_FDS names descriptor {named}: ")


# ---- datagrams -----------------------------------------------------------------------------------------------------


def passed_datagrams(*hosts: str, port: int = 1025, names: str = "", share: bool = True) -> dict[str, str]:
    """Have bound UDP sockets from descriptor 3 up, as systemd passes them with ReusePort=yes, or without."""
    for number, host in enumerate(hosts):
        made = bound(host, port + number)
        if not share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        made.set_inheritable(True)
        made.detach()
    more = {"LISTEN_FDNAMES": names} if names else {}
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(hosts)), **more}


@pytest.mark.parametrize("share", [False, True])
@in_own_network
def test_a_passed_udp_socket_takes_turns_where_another_one_can_be_bound(listeners: Listeners, share: bool) -> None:
    """However systemd has bound it; the test of it takes no datagram away."""
    environment = passed_datagrams("127.0.0.1", names="quic", share=share)
    before = open_descriptors()
    sent = send("127.0.0.1", 1025)
    listeners.adopt(environment)
    sent += send("127.0.0.1", 1025)
    assert [one.tag for one in listeners.taking_turns()] == ["FD_QUIC"]
    assert listeners.shared() == {}
    assert open_descriptors() == before
    assert received(3) == sent


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@in_own_network
def test_a_passed_udp_socket_that_nobody_else_can_be_bound_beside_is_shared(listeners: Listeners) -> None:
    """The reason is the kernel's, with the remedy; the next program knows it, too."""
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("1024")
    environment = passed_datagrams("127.0.0.1", port=443, names="quic")
    os.seteuid(65534)
    listeners.adopt(environment)
    os.seteuid(0)
    assert listeners.taking_turns() == ()
    assert list(listeners.shared()) == ["FD_QUIC"]
    assert listeners.shared()["FD_QUIC"].startswith("Permission denied")
    following = Listeners()
    following.restore(listeners.serialize())
    assert following.shared() == listeners.shared()
    assert following.taking_turns() == ()


@in_own_network
def test_passed_tcp_and_unix_sockets_are_not_shared_for_a_reason(listeners: Listeners) -> None:
    """They never take turns."""
    listeners.adopt(passed("tx"))
    assert listeners.shared() == {}
    assert listeners.taking_turns() == ()


@in_own_network
def test_a_passed_udp_socket_that_was_left_silent_hears_again(listeners: Listeners) -> None:
    """A safe_reload that was killed could not do that; what waited in it is still there, and it is where it was."""
    environment = passed_datagrams("0.0.0.0", names="quic")
    sent = send("127.0.0.1", 1025, 3)
    with socket.socket(fileno=os.dup(3)) as left:
        silence(left)
    listeners.adopt(environment)
    sent += send("127.0.0.1", 1025, 3)
    assert received(3) == sent
    assert listeners.status()[0]["address"] == "udp@0.0.0.0:1025"
    assert [one.address for one in listeners.taking_turns()] == [("0.0.0.0", 1025)]


@pytest.mark.parametrize(("where", "to"), [("127.0.0.1", "127.0.0.1"), ("*", "127.0.0.1"), ("[::1]", "::1")])
@needs_ipv6
@in_own_network
def test_a_stored_datagram_vip_comes_back_though_it_was_silent(listeners: Listeners, where: str, to: str) -> None:
    """With what waited in it; nothing is bound again, and a silent one at `*` seems to be at the loopback address."""
    vips = parse_vips(f"quic@{where}:1025:FD_A")
    last_life = Listeners()
    last_life.bind(vips, freebind=False)
    sent = send(to, 1025, 3)
    kept = [os.dup(descriptor) for _, descriptor in last_life.descriptors()]
    for one in last_life.taking_turns():
        silence(one.socket)
    # It is killed: it closes nothing in order.
    for one in last_life.taking_turns():
        os.close(one.socket.detach())
    for number, descriptor in enumerate(kept):
        os.dup2(descriptor, 3 + number)
        if descriptor != 3 + number:
            os.close(descriptor)
    name = f"{STORED}FD_A"
    environment = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(kept)),
        "LISTEN_FDNAMES": ":".join([name] * len(kept)),
    }
    listeners.adopt(environment)
    listeners.bind(vips, freebind=False)
    sent += send(to, 1025, 3)
    assert [descriptor for _, descriptor in listeners.descriptors()] == [*range(3, 3 + len(kept))]
    assert [one for _, descriptor in listeners.descriptors() for one in received(descriptor)] == sent
    assert listeners.stored() == len(kept)
    assert listeners.to_store() == ()
    assert listeners.forgotten() == ()


@pytest.mark.parametrize(("stored", "declared"), [("", "quic@"), ("quic@", "")])
@in_own_network
def test_a_stored_vip_of_the_other_kind_is_closed(listeners: Listeners, stored: str, declared: str) -> None:
    """It has the tag, the address and the port of the declared one, and is of no use for it."""
    listeners.adopt(returned(*parse_vips(f"{stored}127.0.0.1:1025:A")))
    listeners.bind(parse_vips(f"{declared}127.0.0.1:1025:A"), freebind=False)
    assert [scheme for _, _, scheme in listeners.schemes()] == [declared]
    assert listeners.forgotten() == (f"{STORED}A",)
    assert list(dict(listeners.to_store())) == [f"{STORED}A"]


@in_own_network
def test_closing_ends_the_silence_of_the_copies_that_systemd_has(listeners: Listeners) -> None:
    """Datagrams wait in them until the next start."""
    listeners.bind(parse_vips("quic@127.0.0.1:1025:A"), freebind=False)
    (vip,) = listeners.taking_turns()
    with socket.socket(fileno=os.dup(vip.socket.fileno())) as copy:
        silence(vip.socket)
        assert is_refused("127.0.0.1", 1025)
        listeners.close()
        sent = send("127.0.0.1", 1025)
        assert received(copy) == sent


@in_own_network
def test_a_silent_vip_is_shown_where_it_was_bound(listeners: Listeners) -> None:
    """Not where the kernel says that a silent socket is."""
    listeners.bind(parse_vips("udp@0.0.0.0:1025:A,quic@127.0.0.1:1025:B"), freebind=False)
    for vip in listeners.taking_turns():
        silence(vip.socket)
    listeners.listen(["A"])
    shown = {str(one["tag"]): (one["address"], one["accepts"]) for one in listeners.status()}
    assert shown == {"A": ("udp@0.0.0.0:1025", True), "B": ("quic@127.0.0.1:1025", False)}
    assert listeners.addresses(9) == {"A": ["udp@0.0.0.0:1025"], "B": ["quic@127.0.0.1:1025"]}
    following = Listeners()
    following.restore(listeners.serialize())
    assert following.addresses(9) == listeners.addresses(9)
    assert len(following.taking_turns()) == 2


@in_own_network
def test_tcp_and_datagrams_may_share_an_address(listeners: Listeners) -> None:
    """HTTP/2 and HTTP/3 on one port, each with a socket of its own kind."""
    listeners.bind(parse_vips("127.0.0.1:1025:A,quic@127.0.0.1:1025:B"), freebind=False)
    listeners.listen("AB")
    assert [scheme for _, _, scheme in listeners.schemes()] == ["", "quic@"]
    assert accepts(1025)
    sent = send("127.0.0.1", 1025, 3)
    assert received(descriptor_of(listeners, "B")) == sent
    assert [one.tag for one in listeners.taking_turns()] == ["B"]
    assert listeners.unused() == ()


@needs_ipv6
@in_own_network
def test_any_of_udp_is_two_dgram_binds(listeners: Listeners) -> None:
    """The variable continues a `dgram-bind`; clients of both families arrive."""
    listeners.bind(parse_vips("udp@*:1025:A"), freebind=False)
    (four, six) = (descriptor for _, descriptor in listeners.descriptors())
    assert listeners.variables() == {"A": f"{four},fd@{six}"}
    sent = send("127.0.0.1", 1025, 3), send("::1", 1025, 3)
    assert (received(four), received(six)) == sent


@needs_ipv6
@in_own_network
def test_the_next_program_gives_the_same_variables(listeners: Listeners) -> None:
    """Of each scheme."""
    listeners.bind(parse_vips("*:1025:A,udp@*:1025:B,quic@*:1025:C"), freebind=False)
    following = Listeners()
    following.restore(listeners.serialize())
    assert following.variables() == listeners.variables()
    assert ["quic+" in value for value in following.variables().values()] == [False, False, True]


@in_own_network
def test_a_declared_datagram_vip_holds_as_much_as_the_kernel_allows(listeners: Listeners) -> None:
    """While nobody reads it."""
    listeners.bind(parse_vips("quic@127.0.0.1:1025:A"), freebind=False)
    (vip,) = listeners.taking_turns()
    with bound("127.0.0.1", 1026) as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 30)
        most = greedy.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert vip.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == min(most, 2 * (4 << 20))


def test_a_check_has_stand_ins_of_each_kind(listeners: Listeners) -> None:
    """haproxy compares the type of an inherited socket with the `bind` line."""
    vips = parse_vips("quic@127.0.0.1:1025:A,127.0.0.1:1025:B")
    listeners.stand_in(vips, [("C", "udp@"), ("D", "")])
    assert {tag: scheme for tag, _, scheme in listeners.schemes()} == {"A": "quic@", "B": "", "C": "udp@", "D": ""}


# ---- poke ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", *(["::1", "::", "*"] if socket.has_ipv6 else [])]
)
def test_a_poke_is_a_connection_that_is_gone(listeners: Listeners, port: int, host: str) -> None:
    """haproxy would accept one connection, which ends at once."""
    listen_on(listeners, Vip(host, port, "A"))
    listeners.poke(["A"])
    descriptor = descriptor_of(listeners, "A")
    assert select.select([descriptor], [], [], 20)[0]
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        connection = listener.accept()[0]
        connection.settimeout(20)
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        with pytest.raises(BlockingIOError):
            listener.accept()


@needs_own_network
@in_child
def test_a_poke_is_seen_where_ipv6_is_switched_off(listeners: Listeners) -> None:
    """`*` can be poked on a host without an IPv6 address on its loopback, as in many containers."""
    without_ipv6()
    listen_on(listeners, Vip("*", 1025, "A"))
    missed = listeners.poke(["A"])
    select.select([descriptor_of(listeners, "A")], [], [], 0.5)
    assert missed == ()
    assert accepted(descriptor_of(listeners, "A")) == 1


def test_a_poke_is_accepted_where_only_data_would_be(listeners: Listeners, port: int) -> None:
    """With defer-accept as well: the option is as it was afterwards, and no data has been sent to anybody."""
    listen_on(listeners, Vip("127.0.0.1", port, "A"))
    with socket.socket(fileno=os.dup(descriptor_of(listeners, "A"))) as vip:
        vip.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
        before = vip.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
        assert listeners.poke(["A"]) == ()
        assert vip.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == before
        client, _ = vip.accept()
        with client:
            assert _ends_without_data(client)


def _ends_without_data(client: socket.socket) -> bool:
    try:
        return client.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a_vip_that_wants_signed_packets_is_out_of_reach(listeners: Listeners, port: int) -> None:
    """With tcp-md5sig nobody gets through who has not the key, which haproxy keeps to itself: that is said."""
    listen_on(listeners, Vip("127.0.0.1", port, "A"), Vip("127.0.0.2", port, "B"))
    # struct tcp_md5sig of linux/tcp.h: for every address, TCP_MD5SIG_FLAG_PREFIX with a prefix of no bits.
    signature = struct.pack("=H126xBBHi80s", socket.AF_INET, 1, 0, 3, 0, b"key")
    with socket.socket(fileno=os.dup(descriptor_of(listeners, "A"))) as vip:
        try:
            vip.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG_EXT, signature)
        except OSError as error:
            pytest.skip(f"this kernel signs nothing: {error}")
    assert listeners.poke("AB") == ("A",)


@in_child
def test_a_poke_of_a_passed_unix_or_udp_socket_arrives(listeners: Listeners) -> None:
    """By path or by name. If the path is gone, the socket is reported as out of reach."""
    own_network()
    path = tempfile.mktemp()
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    sockets[0].bind(path)
    sockets[1].bind("\0poked")
    for one in sockets:
        one.listen()
    sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sockets[2].bind(("127.0.0.1", 1025))
    rest = (False, "", False, None, "", 0, "")
    listeners.restore([(f"T{number}", one.detach(), *rest) for number, one in enumerate(sockets)])
    tags = dict(listeners.descriptors())
    missed = listeners.poke(tuple(tags))
    readable = select.select(tags.values(), [], [], 0)[0]
    os.unlink(path)
    assert missed == ()
    assert [tags[f"T{number}"] in readable for number in range(3)] == [True] * 3
    assert listeners.poke(tuple(tags)) == ("T0",)


def test_only_the_named_vips_are_poked(listeners: Listeners, port: int) -> None:
    """The others see nothing."""
    hosts = {"A": "127.0.0.1", "B": "127.0.0.2", "C": "127.0.0.3"}
    listen_on(listeners, *(Vip(host, port, tag) for tag, host in hosts.items()))
    listeners.poke("AC")
    counts: Counter[str] = Counter()

    def both_seen() -> bool:
        counts.update({tag: accepted(descriptor) for tag, descriptor in dict(listeners.descriptors()).items()})
        return counts["A"] > 0 and counts["C"] > 0

    eventually(both_seen)
    assert counts == {"A": 1, "B": 0, "C": 1}


def test_a_poke_does_not_wait(port: int) -> None:
    """A VIP with a full queue is not waited for: no client may block PID 1."""
    with contextlib.closing(Listeners(1)) as listeners, contextlib.ExitStack() as clients:
        listen_on(listeners, Vip("127.0.0.1", port, "A"))
        for _ in range(10):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        waits = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            listeners.poke(["A"])
            waits.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)
        # The kernel may have a thread wait for another reason, but not each time.
        assert min(waits) == 0


def test_a_poke_that_fails_is_no_error(listeners: Listeners, port: int) -> None:
    """A VIP that does not listen, one that is not here, and one that is a unix socket cost nothing."""
    listeners.bind([Vip("127.0.0.1", port, "A"), Vip(NOT_HERE, port, "B")], freebind=True)
    before = open_descriptors()
    listeners.poke("AB")
    assert open_descriptors() == before

    def unix() -> bool:
        passed_on = Listeners()
        passed_on.adopt(passed("x"))
        passed_on.poke(tuple(dict(passed_on.descriptors())))
        return True

    assert apart(unix)


def frames_with(needle: bytes, work: Callable[[], object]) -> int:
    """Do something and return how many frames with these bytes have left through the interface `out` meanwhile."""
    count = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap:
        tap.bind(("out", ETH_P_ALL))
        tap.settimeout(0.2)
        work()
        with contextlib.suppress(TimeoutError):
            while True:
                count += needle in tap.recv(65536)
    return count


def a_way_out(*, nonlocal_bind: bool) -> None:
    """Have a network with an interface `out` through which everything leaves."""
    own_network()
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/ip_nonlocal_bind").write_text(str(int(nonlocal_bind)))
    # Without it the interface's own address is not usable for the first second.
    Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
    for command in (
        "link add out type veth peer name far",
        "link set far up",
        "link set out up",
        "addr add 192.0.2.9/24 dev out",
        "addr add 2001:db8::9/64 dev out nodad",
    ):
        subprocess.run(["ip", *command.split()], check=True)


@needs_own_network
@needs_ipv6
@pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed")
@pytest.mark.parametrize("nonlocal_bind", [False, True])
@pytest.mark.parametrize(("host", "family"), [(NOT_HERE, socket.AF_INET), (NOT_HERE_6, socket.AF_INET6)])
@in_child
def test_a_poke_never_leaves_the_host(host: str, family: socket.AddressFamily, nonlocal_bind: bool) -> None:
    """A VIP that is on another host at the moment is not poked there, even where the kernel lets anybody bind it."""
    needle = socket.inet_pton(family, host)

    def straight() -> None:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect_ex((host, 1025))

    a_way_out(nonlocal_bind=nonlocal_bind)
    listeners = Listeners()
    listen_on(listeners, Vip(host, 1025, "A"), freebind=True)
    poked = frames_with(needle, lambda: listeners.poke(["A"]))
    straight_seen = frames_with(needle, straight)
    assert poked == 0
    assert straight_seen


@in_child
def test_a_reused_pid_is_distinguished_from_ours() -> None:
    """LISTEN_PIDFDID, where systemd gives it, must be the inode of our own pidfd."""
    environment = passed("t")
    ourselves = os.pidfd_open(os.getpid())
    identity = os.fstat(ourselves).st_ino
    os.close(ourselves)
    other, ours = Listeners(), Listeners()
    other.adopt({**environment, "LISTEN_PIDFDID": str(identity + 1)})
    ours.adopt({**environment, "LISTEN_PIDFDID": str(identity)})
    assert dict(other.descriptors()) == {}
    assert dict(ours.descriptors()) == {"FD_UNKNOWN0": 3}


# ---- what systemd has stored ---------------------------------------------------------------------------------------


def returned(*vips: Vip, before: str = "") -> dict[str, str]:
    """Have sockets from descriptor 3 up, as systemd gives back what the previous program stored.

    Args:
        vips: what was stored, and listens.
        before: the names of other passed sockets, which come first.

    """
    names = before.split()
    environment = passed("t" * len(names))
    for vip in vips:
        last_life = Listeners()
        last_life.bind([vip], freebind=False)
        last_life.listen([vip.tag])
        kept = [os.dup(descriptor) for _, descriptor in last_life.descriptors()]
        last_life.close()
        for descriptor in kept:
            os.dup2(descriptor, 3 + len(names))
            if descriptor != 3 + len(names):
                os.close(descriptor)
            names.append(f"{STORED}{vip.tag}")
    return {**environment, "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}


@pytest.mark.parametrize("where", ["127.0.0.1:1025", "[::1]:1025", "*:1025", "0.0.0.0:1025"])
@in_own_network
def test_a_stored_vip_comes_back_with_its_queue(listeners: Listeners, where: str) -> None:
    """It has its tag and its descriptor, is not bound again, and the client in its queue is served."""
    vips = parse_vips(f"{where}:FD_A")
    environment = returned(*vips)
    client = connect(1025, "::1" if where.startswith("[::1") else "127.0.0.1")
    assert client
    listeners.adopt(environment)
    listeners.bind(vips, freebind=False)
    listeners.listen(["FD_A"])
    both = where.startswith("*")
    descriptors = (("FD_A", 3), ("FD_A", 4)) if both else (("FD_A", 3),)
    assert listeners.descriptors() == descriptors
    assert accepted(3) == 1
    assert listeners.to_store() == ()
    assert listeners.stored() == 1 + both
    assert listeners.forgotten() == ()


@in_own_network
def test_stored_vips_are_identified_by_their_names(listeners: Listeners) -> None:
    """They come in any order, after the others, several on one address; each is what it was."""
    b, c, a = parse_vips("127.0.0.1:1025:B,127.0.0.2:1025:C,127.0.0.1:1025:A")
    environment = returned(b, c, a, before="http https")
    listeners.adopt(environment)
    listeners.bind([a, b, c], freebind=False)
    assert dict(listeners.descriptors()) == {"FD_HTTP": 3, "FD_HTTPS": 4, "A": 7, "B": 5, "C": 6}


@in_own_network
def test_a_stored_vip_does_not_mind_a_strange_interface(listeners: Listeners) -> None:
    """A scope of thousands of digits is an error about that VIP, stored or not."""
    listeners.adopt(returned(*parse_vips("[::1]:1025:A")))
    assert error_of(lambda: listeners.bind(parse_vips(f"[fe80::1%{'9' * 5000}]:1025:A"), freebind=False)).startswith(
        "VIPS entry 1 '[fe80::1%999"
    )


@pytest.mark.parametrize(
    ("stored", "declared"),
    [
        ("127.0.0.1:1025:A", "127.0.0.1:1026:A"),
        ("127.0.0.1:1025:A", "127.0.0.2:1025:A"),
        ("127.0.0.1:1025:A", "*:1025:A"),
        ("127.0.0.1:1025:B", "127.0.0.1:1025:A"),
    ],
)
@in_own_network
def test_a_stored_vip_that_is_somewhere_else_is_closed(listeners: Listeners, stored: str, declared: str) -> None:
    """What is declared is bound; what was stored is closed, and systemd has to forget it before it stores the new."""
    old, new = (*parse_vips(stored), *parse_vips(declared))
    environment = returned(old)
    listeners.adopt(environment)
    listeners.bind([new], freebind=False)
    wanted = Listeners()
    wanted.bind([new], freebind=False)
    assert address(descriptor_of(wanted, "A")) == address(descriptor_of(listeners, "A"))
    assert not accepts(1025)
    assert listeners.forgotten() == (STORED + stored.rpartition(":")[2],)
    assert list(dict(listeners.to_store())) == [f"{STORED}A"]


@in_own_network
def test_what_is_stored_twice_under_one_name_is_stored_again(listeners: Listeners) -> None:
    """systemd forgets by name: the good one of two has to be stored again."""
    old, new = parse_vips("127.0.0.1:1025:A")[0], parse_vips("127.0.0.1:1026:A")[0]
    environment = returned(old, new)
    listeners.adopt(environment)
    listeners.bind([new], freebind=False)
    assert dict(listeners.descriptors()) == {"A": 4}
    assert listeners.forgotten() == (f"{STORED}A",)
    assert dict(listeners.to_store()) == {f"{STORED}A": 4}


@in_own_network
def test_only_what_we_bound_is_to_be_stored(listeners: Listeners) -> None:
    """The sockets of a .socket unit are systemd's already."""
    listeners.adopt(passed("t", LISTEN_FDNAMES="http"))
    listeners.bind(parse_vips("127.0.0.1:1025:A"), freebind=False)
    assert dict(listeners.to_store()) == {f"{STORED}A": 4}


@in_own_network
def test_when_one_vip_cannot_be_had_those_that_were_stored_are_closed_too(listeners: Listeners) -> None:
    """Nothing stays open; systemd still has them for the next attempt."""
    vips = parse_vips("127.0.0.1:1025:A,127.0.0.2:1025:B")
    environment = returned(*vips)
    before = open_descriptors()
    listeners.adopt(environment)
    error_of(lambda: listeners.bind([vips[0], Vip(NOT_HERE, 80, "C")], freebind=False))
    assert before - open_descriptors() == {3, 4}
