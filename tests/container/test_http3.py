"""HTTP/3 behind QUIC VIPs and ordinary binds: what reloads and crashes cost real QUIC clients over a round trip."""

from pathlib import Path

import pytest

from bench.quic_clients import OK
from tests.container.conftest import DEFAULTS, IMAGES, IPV6, Start
from tests.container.http3 import (
    CHUNK,
    CHUNKS,
    OWN,
    PORT,
    VERSIONS,
    VIP,
    begun,
    bind_lines,
    clients_of,
    crash,
    has_connection,
    https,
    of_one_frontend,
    pair,
    prepared,
    reload_while,
    vips_of,
)
from tests.container.trouble import is_alone
from tests.waiting import eventually

# ---- reloads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hello", ["short", "long"])
@pytest.mark.parametrize("kind", [VIP, OWN])
@pytest.mark.parametrize("version", VERSIONS)
def test_no_handshake_is_lost_in_reloads_under_a_round_trip(start: Start, version: str, kind: str, hello: str) -> None:
    """Whatever a reload meets of a handshake of two round trips.

    If the first flight is two datagrams, they can come just before and just after the sockets change over: about one
    handshake in 400 reloads, at 25 a second, and more on a busy machine, on which these clients pause between the two.
    """
    lb = pair(start, version, kind)
    more = ("--long-hello",) if hello == "long" else ()
    with clients_of(lb, "127.0.0.1", str(PORT), *more) as clients:
        answer, reloads = reload_while(lb, 300, clients.begin("new 200 25"))
    assert answer == {OK: 200} or (more and answer[OK] >= 195), (answer, lb.log)
    assert reloads > 5
    assert lb.reloads > 5
    assert more or "has not finished its QUIC" not in lb.log


@pytest.mark.parametrize("udp", [VIP, OWN])
@pytest.mark.parametrize("tcp", [VIP, OWN])
@pytest.mark.parametrize("version", VERSIONS)
def test_https_and_http3_of_one_frontend_work_after_every_reload(
    start: Start, version: str, tcp: str, udp: str
) -> None:
    """A VIP and an ordinary bind on one port in one frontend do not disturb each other: after 1, 2 and 10 reloads."""
    lb = begun(start, IMAGES[version], of_one_frontend(bind_lines(tcp, udp)), vips_of(tcp, udp))
    with clients_of(lb) as clients:
        for reloads in (0, 1, 1, 8):
            for _ in range(reloads):
                assert lb.run("safe_reload", "reload")[0] == 0, lb.log
            assert clients.do("new 3 50") == {OK: 3}
            assert https(lb) == "one"
    assert lb.log.count("holds the ordinary listeners") == (OWN in {tcp, udp})
    eventually(lambda: is_alone(lb))


@pytest.mark.parametrize("kind", [VIP, OWN])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_download_that_began_before_a_reload_ends_whole(start: Start, version: str, kind: str) -> None:
    """Each connection has a socket of its own in the old haproxy, and goes on there over several reloads."""
    lb = pair(start, version, kind)
    with clients_of(lb) as clients:
        assert clients.do("download 5") == {"begun": 5}
        for _ in range(3):
            assert lb.run("safe_reload", "reload")[0] == 0
        assert clients.do("downloaded") == {"ends": {OK: 5}, "bytes": [CHUNKS * CHUNK] * 5}
    eventually(lambda: is_alone(lb))


@pytest.mark.parametrize("kind", [VIP, OWN])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_generation_that_drains_with_http3_connections_costs_nothing(start: Start, version: str, kind: str) -> None:
    """Its successor's handshakes do not wake it up."""
    lb = pair(start, version, kind)
    with clients_of(lb) as clients:
        assert clients.do("download 1") == {"begun": 1}
        old = lb.children()[0]
        assert lb.run("safe_reload", "reload")[0] == 0
        new = lb.children()[-1]
        before = lb.cpu(old), lb.cpu(new)
        with clients_of(lb, "127.0.0.1", str(PORT), "--round-trip", "0") as others:
            assert others.do("new 100 50") == {OK: 100}
        after = lb.cpu(old), lb.cpu(new)
        assert old in lb.children()
        assert after[0] - before[0] <= (after[1] - before[1]) / 4
        assert clients.do("downloaded")["ends"] == {OK: 1}


def test_a_handshake_that_never_ends_holds_a_reload_up_for_a_second(start: Start) -> None:
    """Then the log says so, the old generation leaves, and the new one has served all the time."""
    lb = pair(start, "3.0", VIP)
    # An Initial, and nothing more: the relay of these clients needs longer than the old haproxy is waited for.
    with clients_of(lb, "127.0.0.1", str(PORT), "--round-trip", "6") as slow, clients_of(lb) as clients:
        slow.begin("new 1 50")
        eventually(lambda: has_connection(lb))
        lb.kill("USR1")
        assert clients.do("new 3 50") == {OK: 3}
        eventually(lambda: "has not finished its QUIC handshakes and datagrams within 1 s" in lb.log)
        eventually(lambda: "drains" in lb.log)


@pytest.mark.parametrize("version", VERSIONS)
def test_with_quic_force_retry_no_handshake_is_lost_either(start: Start, version: str) -> None:
    """The answer to a Retry packet of the old haproxy is understood by the new one."""
    lb = pair(start, version, VIP, more="quic-force-retry")
    with clients_of(lb) as clients:
        answer, reloads = reload_while(lb, 300, clients.begin("new 100 25"))
    assert answer == {OK: 100}, (answer, lb.log)
    assert reloads > 3


def test_a_bad_configuration_costs_no_handshake(start: Start) -> None:
    """The socket of a candidate that fails never gets a datagram."""
    lb = pair(start, "3.0", VIP)
    good = (lb.folder / "haproxy.cfg").read_text()
    lb.edit(good + "    nonsense\n")
    with clients_of(lb) as clients:
        answer, reloads = reload_while(lb, 200, clients.begin("new 100 25"))
    assert answer == {OK: 100}, (answer, lb.log)
    assert reloads > 5
    assert lb.reloads == 0


# ---- crashes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [VIP, OWN])
@pytest.mark.parametrize("version", VERSIONS)
def test_clients_of_a_dead_haproxy_are_told_with_their_next_packet(start: Start, version: str, kind: str) -> None:
    """By a stateless reset from the next one, also after a reload and another crash."""
    lb = pair(start, version, kind)
    with clients_of(lb) as clients:
        for _ in range(2):
            assert clients.do("hold 5") == {OK: 5}
            before = crash(lb)
            eventually(lambda before=before: lb.log.count("is current") > before)  # type: ignore[misc]
            assert clients.do("lost")["how"] == {"stateless reset": 5}
            assert lb.run("safe_reload", "reload")[0] == 0


@pytest.mark.parametrize("kind", [VIP, OWN])
@pytest.mark.parametrize("version", VERSIONS)
def test_new_connections_wait_for_the_next_haproxy(start: Start, version: str, kind: str) -> None:
    """Each connection that begins while haproxy is dead is answered by the next one."""
    lb = pair(start, version, kind)
    for _ in range(3):
        before = crash(lb)
        with clients_of(lb) as clients:
            assert clients.do("new 20 50") == {OK: 20}, lb.log
        eventually(lambda before=before: lb.log.count("is current") > before)  # type: ignore[misc]


def test_a_secret_in_the_configuration_stays_the_only_one(start: Start) -> None:
    """A second one would be an error."""
    lb = pair(start, "3.0", VIP, head="    cluster-secret mine\n")
    with clients_of(lb) as clients:
        assert clients.do("hold 3") == {OK: 3}
        before = crash(lb)
        eventually(lambda: lb.log.count("is current") > before)
        assert clients.do("lost")["how"] == {"stateless reset": 3}
    assert "cluster-secret" not in lb.log


# ---- addresses, rights, versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_quic_vip_of_any_address_serves_both_families(start: Start, version: str) -> None:
    """Also after a reload, a crash and an upgrade."""
    binds = '    bind "quic+fd@${FD_HTTP3}" ssl crt /etc/lb/site.pem alpn h3\n'
    lb = begun(start, IMAGES[version], of_one_frontend(binds), f"quic@*:{PORT}:FD_HTTP3", sysctls=IPV6)
    lb.inside("ip", "address", "add", "2001:db8::1/128", "dev", "lo", "nodad").communicate()
    for what in ("nothing", "reload", "upgrade", "reload", "crash"):
        if what == "crash":
            before = crash(lb)
            eventually(lambda before=before: lb.log.count("is current") > before)  # type: ignore[misc]
        elif what != "nothing":
            assert lb.run("safe_reload", what)[0] == 0, lb.log
        for host in ("127.0.0.1", "::1", "2001:db8::1"):
            with clients_of(lb, host, str(PORT), "--round-trip", "0") as clients:
                assert clients.do("new 3 50") == {OK: 3}, (what, host)


def test_a_port_that_haproxy_may_not_bind_is_warned_of(start: Start) -> None:
    """All connections share a socket there; the remedy that the warning names helps."""
    low = {"net.ipv4.ip_unprivileged_port_start": "1024"}
    binds = '    bind "quic+fd@${FD_HTTP3}" ssl crt /etc/lb/site.pem alpn h3\n'
    warning = "haproxy may not bind the QUIC port 443 itself, so all connections share a socket"
    for head in ("    user nobody\n", "    user nobody\n    setcap cap_net_bind_service\n"):
        text = of_one_frontend(binds, head)
        lb = begun(start, IMAGES["3.0"], text, "quic@127.0.0.1:443:FD_HTTP3", sysctls=low, user="root")
        assert lb.run("safe_reload", "reload")[0] == 0
        assert lb.log.count(warning) == ("setcap" not in head), lb.log


def test_an_address_that_comes_after_a_reload_is_served_by_the_current_haproxy_alone(start: Start) -> None:
    """With --freebind, as on a standby: the sockets of older generations are silent although it was not there."""
    binds = '    bind "quic+fd@${FD_HTTP3}" ssl crt /etc/lb/site.pem alpn h3\n'
    options = ("--freebind",)
    lb = begun(start, IMAGES["3.0"], of_one_frontend(binds), f"quic@10.9.9.9:{PORT}:FD_HTTP3", options=options)
    for _ in range(2):
        assert lb.run("safe_reload", "reload")[0] == 0, lb.log
    lb.inside("ip", "address", "add", "10.9.9.9/32", "dev", "lo").communicate()
    with clients_of(lb, "10.9.9.9", str(PORT), "--round-trip", "0") as clients:
        assert clients.do("new 30 50") == {OK: 30}
        assert lb.run("safe_reload", "reload")[0] == 0, lb.log
        assert clients.do("new 30 50") == {OK: 30}


@pytest.mark.parametrize("ipv6", [True, False])
def test_a_socket_of_both_families_takes_turns_with_and_without_ipv6(start: Start, ipv6: bool) -> None:
    """Also where `::1`, to which it would be connected, is not there."""
    binds = f"    bind quic6@:::{PORT} v4v6 ssl crt /etc/lb/site.pem alpn h3\n"
    sysctls = IPV6 if ipv6 else {"net.ipv6.conf.all.disable_ipv6": "1"}
    lb = begun(start, IMAGES["3.0"], of_one_frontend(binds), "", sysctls=sysctls)
    for _ in range(3):
        assert lb.run("safe_reload", "reload")[0] == 0, lb.log
        with clients_of(lb, "127.0.0.1", str(PORT), "--round-trip", "0") as clients:
            assert clients.do("new 20 50") == {OK: 20}


def test_reloads_leave_no_descriptor_behind(start: Start) -> None:
    """Neither those that succeed, nor those of a candidate that never had a process."""
    lb = pair(start, "3.0", VIP)
    good = (lb.folder / "haproxy.cfg").read_text()

    def descriptors() -> int:
        return len(list(Path(f"/proc/{lb.pid}/fd").iterdir()))

    def reload_often() -> None:
        for text in (good, good.replace("global\n", "global\n    master-worker\n")):
            lb.edit(text)
            for _ in range(10):
                lb.run("safe_reload", "reload")
        lb.edit(good)
        assert lb.run("safe_reload", "reload")[0] == 0
        eventually(lambda: is_alone(lb))

    reload_often()
    before = descriptors()
    reload_often()
    eventually(lambda: descriptors() <= before)


def test_2_6_says_that_it_has_no_quic(start: Start) -> None:
    """In one line, whether the socket is a VIP or haproxy's own."""
    for kind in (VIP, OWN):
        text = f"{DEFAULTS}frontend web\n{bind_lines(kind, kind)}"

        lb = start(IMAGES["2.6"], prepare=prepared(text), vips=vips_of(kind, kind))
        assert lb.container.wait(timeout=60)["StatusCode"] == 1
        assert lb.log.count("this haproxy has no QUIC: take the QUIC `bind` lines out") == 1


@pytest.mark.parametrize(
    ("vips", "remedy"),
    [
        ("127.0.0.1:8443:FD_HTTPS,127.0.0.1:8444:FD_HTTP3", "FD_HTTP3 is TCP, but its line needs another kind"),
        ("127.0.0.1:8443:FD_HTTPS", "--vips 'quic@*:443:FD_HTTP3'"),
        ("udp@127.0.0.1:8443:FD_HTTPS,quic@127.0.0.1:8444:FD_HTTP3", "FD_HTTPS has udp@, but its line needs another"),
    ],
)
def test_a_vip_of_the_wrong_kind_is_named_with_the_remedy(start: Start, vips: str, remedy: str) -> None:
    """haproxy itself names only the number of a descriptor."""
    text = of_one_frontend(bind_lines(VIP, VIP))

    lb = start(IMAGES["3.0"], prepare=prepared(text), vips=vips)
    assert lb.container.wait(timeout=60)["StatusCode"] == 1
    assert remedy in lb.log


def test_a_check_beside_an_instance_knows_the_kinds_of_its_vips(start: Start) -> None:
    """It refuses what a reload would refuse, and takes `*`, which is two sockets."""
    good = of_one_frontend('    bind "quic+fd@${FD_HTTP3}" ssl crt /etc/lb/site.pem alpn h3\n')
    lb = begun(start, IMAGES["3.0"], good, f"quic@*:{PORT}:FD_HTTP3", sysctls=IPV6)
    assert lb.run("safe_reload", "check", "-f", "/etc/lb/haproxy.cfg")[0] == 0
    lb.edit(good.replace("quic+fd@", "fd@"))
    status, words = lb.run("safe_reload", "check", "-f", "/etc/lb/haproxy.cfg")
    assert status == 1
    assert "is of the wrong type" in words
