"""What a generation is made of: and that nothing is left of one that could not be made."""

import os
import resource
import socket
from contextlib import closing
from pathlib import Path

import pytest

from entrypoint.core.look import Found
from entrypoint.options.command_line import Serve
from entrypoint.options.vips import Vip
from entrypoint.pid1.configurations import Configurations
from entrypoint.pid1.datagram_turns import Turn
from entrypoint.pid1.launch import HaproxyLaunch, Prelude, RefusedError, exporter_spec, variables_while_reading
from entrypoint.system.getsocks import Passed
from entrypoint.system.getsocks.offer import Adopted
from entrypoint.system.listeners import Listeners
from entrypoint.system.state_file import in_memory
from entrypoint.system.ticket_keys import TicketKeys
from tests.core.world import settings
from tests.descriptors import descriptors
from tests.system.apart import in_child

DIGEST = "ab" * 32
COMMAND = Serve("haproxy", ("-f", "haproxy.cfg"), ("haproxy.cfg",), None)


def launch() -> tuple[HaproxyLaunch, Configurations]:
    """Return how generations are made, and what they are made from."""
    configurations = Configurations(lambda _: None, watches=True)
    return HaproxyLaunch(COMMAND, {}, Listeners(), Adopted(), configurations, TicketKeys()), configurations


def turn(vips: dict[int, socket.socket] | None = None, secret: str = "new") -> Turn:
    """Return the datagram sockets of a generation that follows one with the secret `old`."""
    return Turn(vips or {}, lambda one: one, secret, "old", beside=True, offered=[], shared=[])


def keep(configurations: Configurations, files: tuple[tuple[str, bytes], ...]) -> None:
    """Have a generation that runs the last known good configuration."""
    texts = in_memory(DIGEST, files)
    configurations.give(1, Found(DIGEST), texts)
    os.close(texts)
    copy = configurations.keep(1)
    assert copy is not None
    os.close(copy)


@pytest.mark.parametrize("kept", [False, True])
@in_child
def test_nothing_is_left_of_a_generation_that_could_not_be_made(kept: bool) -> None:
    """Without descriptors a storm of reloads leaves none behind."""
    spec, configurations = launch()
    keep(configurations, (("/a.cfg", b"defaults\n"), ("/b.cfg", b"global\n")))
    made = spec.of(1, kept=kept, prelude=Prelude(), turn=turn())
    made.spawned()
    made.close()
    before = descriptors(os.getpid())
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, limit[1]))
    for number in range(2, 50):
        with pytest.raises(OSError, match="Too many open files"):
            spec.of(number, kept=kept, prelude=Prelude(), turn=turn())
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert descriptors(os.getpid()) == before


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("-f", "a"), os.uname().nodename),
        (("-L", "b", "-f", "a"), "b"),
        (("-L", "b", "-f", "-L", "-L", "c", "--", "-L", "d"), "c"),
    ],
)
def test_the_local_peer_is_known_before_haproxy_reads(arguments: tuple[str, ...], name: str) -> None:
    """It is the host, or what -L says (haproxy(1)); the rest of the environment is haproxy's."""
    command = Serve("haproxy", arguments, ("a",), None)
    variables = variables_while_reading(command, {"A": "b", "NOTIFY_SOCKET": "x"})
    assert variables == {"A": "b", "HAPROXY_LOCALPEER": name}


def test_the_exporter_is_given_no_secret() -> None:
    """What Python needs to begin, and nothing else of what PID 1 was given."""
    needed = {"PATH": "/bin", "LANG": "C.UTF-8", "LC_ALL": "C", "PYTHONPATH": "/lib", "TZ": "UTC"}
    others = ("DB_PASSWORD", "SAFE_RELOAD_VIPS", "SAFE_RELOAD_INHERITED", "TINI_SUBREAPER", "NOTIFY_SOCKET", "HOME")
    spec = exporter_spec(
        settings(exporter=":9101"), "lb", {**needed, **dict.fromkeys(others, "secret")}, lambda: ("safe_reload",)
    )
    assert spec.environment == needed
    assert spec.argv[:6] == ("safe_reload", "exporter", "--listen", ":9101", "--name", "lb")


def test_the_last_known_good_configuration_is_given_from_memory() -> None:
    """File by file, in haproxy's order, and whole."""
    spec, configurations = launch()
    files = (("/a.cfg", b"defaults\n" * 1000), ("/b.cfg", b""), ("/c.cfg", b"global\n"))
    keep(configurations, files)
    made = spec.of(2, kept=True, prelude=Prelude(), turn=turn())
    try:
        given = [word for before, word in zip(made.spec.argv, made.spec.argv[1:], strict=False) if before == "-f"]
        assert [Path(path).read_bytes() for path in given[:3]] == [content for _, content in files]
        assert [f"/dev/fd/{one}" for one in made.passed] == given[:3]
    finally:
        made.spawned()
        made.close()


def test_every_generation_is_given_the_same_ticket_keys() -> None:
    """By a path that it can open, also the one that runs the last known good configuration."""
    spec, configurations = launch()
    keep(configurations, (("/a.cfg", b"global\n"),))
    read = []
    for number, kept in ((1, False), (2, False), (3, True)):
        made = spec.of(number, kept=kept, prelude=Prelude(), turn=turn())
        path = (made.spec.environment or {})["SAFE_RELOAD_TLS_TICKET_KEYS"]
        assert int(path.removeprefix("/dev/fd/")) in made.spec.descriptors
        made.spawned()
        made.close()
        read.append(Path(path).read_bytes())
    assert read == [read[0]] * 3
    assert read[0]


def test_what_would_fork_behind_our_back_is_refused() -> None:
    """With the place where it is written."""
    spec, configurations = launch()
    configurations.give(1, Found(DIGEST, master_worker="/x.cfg:7"), None)
    with pytest.raises(RefusedError, match=r"^/x\.cfg:7: remove `master-worker`"):
        spec.of(1, kept=False, prelude=Prelude(), turn=turn())


@pytest.mark.parametrize("kept", [False, True])
def test_what_a_generation_does_before_it_serves_is_in_its_configuration(kept: bool) -> None:
    """A script in memory, if haproxy has Lua, and that it accepts nobody yet."""
    spec, configurations = launch()
    keep(configurations, (("/a.cfg", b"defaults\n"),))
    for prelude in (Prelude(9), Prelude(holds=True), Prelude()):
        made = spec.of(1, kept=kept, prelude=prelude, turn=turn())
        try:
            assert made.channel
            fragment = Path(made.channel.configuration).read_text()
            assert ("  stats maxconn 32\n  maxconnrate 1\n" in fragment) == prelude.holds
            assert ("  lua-load /dev/fd/9\n.else\n  maxconnrate 1\n.endif\n" in fragment) == (prelude.script == 9)
            assert (".if feature(LUA)\n" in fragment) == (prelude.script == 9)
            assert (9 in made.spec.descriptors) == (prelude.script == 9)
            assert 9 not in made.passed
        finally:
            made.spawned()
            made.close()


def test_the_tunable_is_the_configurations_if_it_mentions_scripts() -> None:
    """Those of the configuration that is started: the last known good one, or the generation's."""
    spec, configurations = launch()
    texts = in_memory(DIGEST, (("/a.cfg", b"global\n"),))
    configurations.give(1, Found(DIGEST, mentions=("lua-load",)), texts)
    os.close(texts)
    copy = configurations.keep(1)
    assert copy is not None
    os.close(copy)
    configurations.give(2, Found(DIGEST), None)
    for number, kept, expected in ((1, False, False), (2, False, True), (2, True, False)):
        made = spec.of(number, kept=kept, prelude=Prelude(9), turn=turn())
        try:
            assert made.channel
            assert ("bool-sample-conversion" in Path(made.channel.configuration).read_text()) == expected
        finally:
            made.spawned()
            made.close()


def fragment_of(spec: HaproxyLaunch, number: int, *, kept: bool = False, of: Turn | None = None) -> str:
    """Return what a generation's configuration has for its channels to us."""
    made = spec.of(number, kept=kept, prelude=Prelude(), turn=of or turn())
    try:
        assert made.channel
        return Path(made.channel.configuration).read_text()
    finally:
        made.spawned()
        made.close()


def test_a_configuration_with_quic_is_given_the_secret_of_its_turn() -> None:
    """In `global`, where haproxy has QUIC; one without, with a secret of its own, or one that is not known is not."""
    spec, configurations = launch()
    for number, mentions in enumerate((("quic4@",), ("quic+", "cluster-secret"), ()), start=1):
        configurations.give(number, Found(DIGEST, mentions=mentions), None)
    given, *others = (fragment_of(spec, number) for number in (1, 2, 3, 4))
    assert ".if feature(QUIC)\n  cluster-secret new\n.endif\n" in given
    assert given.index("global") < given.index("cluster-secret") < len(given.partition("\nfrontend")[0])
    assert not [one for one in others if "cluster-secret" in one]


def test_one_whose_handshakes_all_begin_with_a_retry_keeps_the_secret() -> None:
    """No handshake that began with the one before could be continued otherwise; its turn remembers it."""
    spec, configurations = launch()
    configurations.give(1, Found(DIGEST, mentions=("quic6@", "quic-force-retry")), None)
    of = turn()
    assert "  cluster-secret old\n" in fragment_of(spec, 1, of=of)
    assert of.secret == "old"


def test_a_datagram_vip_is_given_under_its_own_number() -> None:
    """The generation's socket is at the VIP's number, and the VIP's own one is not passed."""
    listeners = Listeners()
    configurations = Configurations(lambda _: None, watches=True)
    spec = HaproxyLaunch(COMMAND, {}, listeners, Adopted(), configurations, TicketKeys())
    with closing(listeners), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as its_own:
        listeners.bind([Vip("127.0.0.1", 0, "A", "quic@"), Vip("127.0.0.1", 0, "B")], freebind=False)
        vips = dict(listeners.descriptors())
        made = spec.of(1, kept=False, prelude=Prelude(), turn=turn({vips["A"]: its_own}))
        try:
            assert made.spec.renumbered == {vips["A"]: its_own.fileno()}
            assert vips["A"] not in made.spec.descriptors
            assert vips["B"] in made.spec.descriptors
            assert (made.spec.environment or {})["A"] == str(vips["A"])
        finally:
            made.spawned()
            made.close()


def test_what_a_turn_has_in_place_of_a_held_listener_is_offered() -> None:
    """The offer asks the generation's turn for each socket that is held."""
    adopted = Adopted()
    configurations = Configurations(lambda _: None, watches=True)
    spec = HaproxyLaunch(COMMAND, {}, Listeners(), adopted, configurations, TicketKeys())
    asked: list[Passed] = []

    def in_place_of(one: Passed) -> Passed:
        asked.append(one)
        return one

    with closing(adopted):
        adopted.renew([Passed(socket.create_server(("127.0.0.1", 0)))])
        of = turn()
        of.in_place_of = in_place_of
        made = spec.of(1, kept=False, prelude=Prelude(), turn=of)
        assert made.offer
        session, theirs = socket.socketpair()
        with session, theirs, socket.socket(fileno=os.dup(made.offer.inherited[0])) as channel:
            socket.send_fds(channel, [b"\0"], [theirs.fileno()])
            session.send(b"_getsocks\n")
            made.spawned()
            made.offer.proceed()
        made.close()
        assert [one.socket for one in asked] == list(adopted.sockets)
