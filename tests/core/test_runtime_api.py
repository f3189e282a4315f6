"""The meaning of what real haproxys answered, of the three versions that are supported.

The answers in `answers` were given by HAProxy with the configuration `answers/asked.cfg`, the CLI on a socket pair, and
these VIPs: 3 plain, 4 sharded (`shards 2`), 5 and 6 threads (one each), 7 twice, 8 six, 9 which no `bind` uses.
`look-when-paused` is from after `disable frontend` for all of them and some connections to each VIP except 8.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.haproxy import runtime_api
from entrypoint.haproxy.runtime_api import (
    Bind,
    binds_on,
    can_pause,
    doubt,
    holding,
    is_idle,
    look,
    never_says,
    not_paused,
    pause,
    pid,
    serves_nobody,
)

VERSIONS = ("2.6", "3.0", "3.2")
VIPS = range(3, 10)
PIDS = {"2.6": 28051, "3.0": 7, "3.2": 7}
COPIES = {"2.6": (14, 16), "3.0": (14, 16), "3.2": (13, 15)}
"""What haproxy copied: the second `bind` of `twice`, the second shard of `sharded`."""

each_version = pytest.mark.parametrize("version", VERSIONS)


def answer(version: str, name: str) -> str:
    """Return what this version answered."""
    return (Path(__file__).parent / "answers" / f"{version}-{name}.txt").read_text(encoding="ascii")


@each_version
def test_the_pid_is_read_and_whether_anything_is_left_to_do(version: str) -> None:
    """`show info` says who answers, and with one client less nothing keeps the process alive."""
    text = answer(version, "show-info")
    assert f"Version: {version}." in text
    assert pid(text) == PIDS[version]
    assert not is_idle(text)
    assert is_idle(re.sub(r"^Jobs: (\d+)", lambda found: f"Jobs: {int(found[1]) - 1}", text, flags=re.MULTILINE))


@each_version
def test_a_haproxy_without_a_bind_is_known(version: str) -> None:
    """Only our own line to it is a listener then; what says nothing of listeners is not accused."""
    text = answer(version, "show-info")
    assert not serves_nobody(text)
    assert serves_nobody(re.sub(r"^Listeners: .*", "Listeners: 1", text, flags=re.MULTILINE))
    assert not serves_nobody("Pid: 7\n")


@each_version
def test_they_are_read_from_a_longer_answer_too(version: str) -> None:
    """The same holds when `show fd` was asked for in the same line."""
    text = answer(version, "look-when-paused")
    assert pid(text) == PIDS[version]
    assert not is_idle(text)


@pytest.mark.parametrize("text", ["", "\n", "Pid: \n", "Pid: x\n", "Process_Pid: 7\nCumConns: 3\n", "Unknown command"])
def test_what_is_no_answer_has_no_pid(text: str) -> None:
    """Nothing is made up: another field, an empty one or a complaint is not a pid and no number of connections."""
    assert pid(text) is None
    assert not is_idle(text)
    assert binds_on(text, VIPS) == ()
    assert doubt(text, VIPS)
    assert holding(text, [Bind(3, "plain")]) == (Bind(3, "plain"),)


@each_version
def test_every_bind_on_a_vip_is_found(version: str) -> None:
    """All listeners on VIPs are found with their frontends: thread binds, shards, a tag twice, ordinary ones beside."""
    twice, sharded = COPIES[version]
    assert set(binds_on(answer(version, "show-fd"), VIPS)) == {
        Bind(3, "plain"),
        Bind(4, "sharded"),
        Bind(sharded, "sharded"),
        Bind(5, "threads"),
        Bind(6, "threads"),
        Bind(7, "twice", mixed=True),
        Bind(twice, "twice", mixed=True),
        Bind(8, "six"),
    }


@each_version
def test_a_vip_that_no_bind_uses_is_not_among_them(version: str) -> None:
    """An inherited descriptor that haproxy does nothing with is in no answer."""
    assert binds_on(answer(version, "show-fd"), [9]) == ()


@each_version
def test_only_the_vips_are_found(version: str) -> None:
    """Ordinary binds, unix sockets and the CLI, ours and the user's, are not taken for VIPs."""
    found = {bind.frontend for bind in binds_on(answer(version, "show-fd"), VIPS)}
    assert found == {"plain", "sharded", "threads", "twice", "six"}
    assert binds_on(answer(version, "show-fd"), [4]) == (Bind(4, "sharded"), Bind(COPIES[version][1], "sharded"))
    assert binds_on(answer(version, "show-fd"), []) == ()


@each_version
def test_a_passed_unix_socket_is_a_vip_like_any_other(version: str) -> None:
    """A listener without a port is known by its descriptor, and does not draw in others without one."""
    text = answer(version, "show-fd")
    (line,) = [line for line in text.splitlines() if "fe=twice fam=unix" in line]
    descriptor = int(line.split(":", 1)[0])
    assert binds_on(text, [descriptor]) == (Bind(descriptor, "twice", mixed=True),)


@each_version
def test_the_binds_are_found_while_paused(version: str) -> None:
    """A paused frontend has the same listeners as one that serves."""
    assert binds_on(answer(version, "look-when-paused"), VIPS) == binds_on(answer(version, "show-fd"), VIPS)


ORDINARY = (
    "     20 : st=0x100023(cl heopi W:sRa R:sRA) ref=0 gid=1 tmask=0x3 umask=0x0 prmsk=0x3 pwmsk=0x0 owner=0x55 "
    "iocb=0x55(sock_accept_iocb) l.st=RDY fe=plain fam=ipv4 lport=18080\n"
)
"""An ordinary listener of the frontend and the port of VIP 3."""
QUIC = ORDINARY.replace("20 :", "21 :").replace("sock_accept_iocb", "quic_lstnr_sock_fd_iocb")
DATAGRAMS = ORDINARY.replace("20 :", "22 :").partition(" l.st=")[0].replace("sock_accept", "syslog_fd_handler") + "\n"


@each_version
@pytest.mark.parametrize("line", [ORDINARY, QUIC], ids=["tcp", "quic"])
def test_an_ordinary_listener_on_a_vip_s_port_is_not_a_vip(version: str, line: str) -> None:
    """It is known by being exported. Its frontend must not be disabled: that would disconnect it."""
    text = answer(version, "show-fd")
    assert set(binds_on(text + line, VIPS)) == {
        bind if bind.frontend != "plain" else Bind(3, "plain", mixed=True) for bind in binds_on(text, VIPS)
    }


@each_version
def test_a_copy_of_a_passed_unix_socket_is_found(version: str) -> None:
    """It has no port, and is known by its frontend; another passed one, in another frontend, is none."""
    text = answer(version, "show-fd")
    for number, frontend in ((30, "six"), (31, "six"), (32, "plain")):
        text += (
            ORDINARY.replace("20 :", f"{number} :")
            .replace("0x1", "0x0")
            .replace("fe=plain fam=ipv4 lport=18080", f"fe={frontend} fam=unix")
        )
    assert [bind.descriptor for bind in binds_on(text, [30])] == [30, 31]


# ---- whether that is all -------------------------------------------------------------------------------------------


def whole(version: str, *, more: str = "", listeners: int = 0) -> str:
    """Return what `show fd` and `show info` answered, with more lines, and as many more listeners as counted."""
    info = re.sub(
        r"^Listeners: (\d+)",
        lambda found: f"Listeners: {int(found[1]) + listeners}",
        answer(version, "show-info"),
        flags=re.MULTILINE,
    )
    return answer(version, "show-fd") + more + info


@each_version
def test_both_answers_agree_about_what_listens(version: str) -> None:
    """VIPs, their copies, ordinary ones of any kind, the user's CLI and our own line are all accounted for."""
    assert doubt(whole(version), VIPS) == ""
    assert doubt(whole(version, more=ORDINARY + QUIC, listeners=2), VIPS) == ""
    assert doubt(whole(version, more=DATAGRAMS, listeners=1), VIPS) == ""


@each_version
def test_a_listener_that_is_not_listed_is_a_doubt(version: str) -> None:
    """So is one too many, a line that has changed beyond recognition, or an answer without the number."""
    assert "listeners (`show fd`)" in doubt(whole(version, listeners=1), VIPS)
    assert "listeners (`show fd`)" in doubt(whole(version, more=ORDINARY), VIPS)
    assert "names 0 of " in doubt(whole(version).replace(" l.st=", " state="), VIPS)
    assert "names 0 of " in doubt(whole(version).replace(" : st", " st"), VIPS)
    assert "an unknown number" in doubt(whole(version).replace("Listeners: ", "Binds: "), VIPS)


@each_version
def test_a_listener_of_unknown_origin_is_a_doubt(version: str) -> None:
    """It may be a VIP under a number that haproxy has given it; so may all where it does not say whence they are."""
    inherited = ORDINARY.replace("st=0x1", "st=0x0").replace("lport=18080", "lport=19999")
    assert (
        doubt(whole(version, more=inherited, listeners=1), VIPS) == "has descriptor 20 from somebody else (`show fd`)"
    )
    assert "from somebody else" in doubt(whole(version).replace(" st=0x", " st=0y"), VIPS)


def test_a_copy_of_an_ordinary_unix_socket_is_no_doubt() -> None:
    """HAProxy 3.0 makes one for each thread group, which it does not export."""
    copy = ORDINARY.replace("st=0x1", "st=0x0").replace("fe=plain fam=ipv4 lport=18080", "fe=twice fam=unix")
    assert doubt(whole("3.0", more=copy, listeners=1), VIPS) == ""


# ---- whether it has let go -----------------------------------------------------------------------------------------


@each_version
def test_a_listener_that_is_still_polled_is_found(version: str) -> None:
    """Before the pause every VIP is polled; after it only the one that saw no connection."""
    binds = binds_on(answer(version, "show-fd"), VIPS)
    assert holding(answer(version, "show-fd"), binds) == binds
    assert holding(answer(version, "look-when-paused"), binds) == (Bind(8, "six"),)


@each_version
def test_one_that_is_not_in_the_answer_may_be_polled(version: str) -> None:
    """Whatever the answer is instead of a line about each."""
    binds = binds_on(answer(version, "show-fd"), VIPS)
    some = "".join(line for line in answer(version, "look-when-paused").splitlines(True) if " fe=plain " not in line)
    assert holding(some, binds) == (Bind(3, "plain"), Bind(8, "six"))
    for text in ("", "\n", "The command line is too big for the buffer size.\n", "Unknown command: 'show'\n"):
        assert holding(text, binds) == binds
        assert not never_says(text, binds)


def test_any_thread_that_polls_is_seen() -> None:
    """A mask with only its highest of 64 threads set is polled all the same."""
    lines = answer("3.2", "look-when-paused").splitlines()
    (paused,) = [line for line in lines if " l.st=PAU fe=plain " in line]
    assert holding(paused, [Bind(3, "plain")]) == ()
    assert holding(paused.replace("prmsk=0x0", "prmsk=0x8000000000000000"), [Bind(3, "plain")]) == (Bind(3, "plain"),)


def test_a_version_that_does_not_report_polling_is_not_waited_for() -> None:
    """2.6.0 has no such field: no reason to look 200 times, and no reason to believe that nothing is polled."""
    text = re.sub(r" prmsk=\S+", "", answer("2.6", "look-when-paused"))
    assert holding(text, [Bind(3, "plain")]) == (Bind(3, "plain"),)
    assert never_says(text, [Bind(3, "plain")])
    assert not never_says(answer("2.6", "look-when-paused"), [Bind(3, "plain")])


@each_version
def test_what_goes_on_after_the_pause_is_seen(version: str) -> None:
    """One that still accepts was not paused; where only connections are limited that does not show."""
    binds = (Bind(3, "plain"), Bind(8, "six"), Bind(7, "twice", mixed=True))
    assert not_paused(answer(version, "look-when-paused"), binds) == ()
    assert not_paused(answer(version, "show-fd"), binds) == (Bind(3, "plain"), Bind(8, "six"))


def test_a_listener_for_which_there_is_no_command_is_not_paused() -> None:
    """That of a `stats socket`, and that of a `dgram-bind`, which has no frontend in the answer."""
    assert [can_pause(Bind(3, name)) for name in ("web", "GLOBAL", "")] == [True, False, False]


def test_a_look_asks_for_the_connections_and_for_each_listener() -> None:
    """The retiring generation is asked who it is, how many clients it has, and about each of these listeners."""
    assert look((Bind(3, "a"), Bind(14, "a"))) == ("show info", "show fd 3", "show fd 14")
    assert look(()) == ("show info",)


def test_ordinary_listeners_of_a_paused_frontend_are_not_disconnected() -> None:
    """A frontend that has both kinds is not disabled: it may have no connection any more, which disconnects nothing."""
    assert pause((Bind(3, "both", mixed=True), Bind(4, "a"))) == ("set maxconn frontend both 0", "disable frontend a")


def test_a_pause_names_each_frontend_once() -> None:
    """A frontend with several listeners is disabled once, in the order of the listeners."""
    assert pause((Bind(3, "b"), Bind(4, "a"), Bind(5, "b"))) == ("disable frontend b", "disable frontend a")
    assert pause(()) == ()


def listening_line(
    descriptor: int, frontend: str, port: str, handler: str = "sock_accept_iocb", *, exported: bool = False
) -> str:
    """Write what `show fd` says of a listener of real haproxys, QUIC included (`cli_io_handler_show_fd`)."""
    flags = 0x100023 if exported else 0x23
    return (
        f"     {descriptor:2} : st=0x{flags:06x}(cl heopi W:sRa R:sRA) ref=0 gid=1 tmask=0x3 umask=0x0 "
        f"prmsk=0x3 pwmsk=0x0 owner=0x7f19da6c6c00 gen=0 tkov=0 iocb=0x5647f2da4480({handler}) "
        f"l.st=RDY fe={frontend} fam=ipv4 lport={port}\n"
    )


def of_quic(descriptor: int, frontend: str, port: str, *, exported: bool = False) -> str:
    """Write what it says of a QUIC listener."""
    return listening_line(descriptor, frontend, port, "quic_lstnr_sock_fd_iocb", exported=exported)


OF_SYSLOG = (
    "      9 : st=0x000023(cl heopi W:sRa R:sRA) ref=0 gid=1 tmask=0x1 umask=0x0 prmsk=0x1 pwmsk=0x0 "
    "owner=0x7f19da6c6c00 gen=0 tkov=0 iocb=0x5647f2da4480(syslog_fd_handler)\n"
)
"""A `dgram-bind`, which is not marked as a listener."""
OF_A_CONNECTION = (
    "     23 : st=0x000021(cl heopi W:sRa R:srA) ref=0 gid=1 tmask=0x1 umask=0x0 prmsk=0x1 pwmsk=0x0 "
    "owner=0x7f19da87f000 gen=0 tkov=0 iocb=0x5647f2da4b30(quic_conn_sock_fd_iocb) qc=0x7f19da87f000\n"
)


def test_a_quic_listener_is_known_by_its_handler() -> None:
    """It takes datagrams; one of TCP does not, and the socket of a connection is no listener."""
    text = of_quic(3, "web", "443") + listening_line(4, "web", "443") + OF_A_CONNECTION
    assert binds_on(text, [3, 4, 23]) == (Bind(3, "web", datagrams=True), Bind(4, "web"))
    assert runtime_api.has_datagrams(text)
    assert not runtime_api.has_datagrams(listening_line(4, "web", "443") + OF_A_CONNECTION)
    assert doubt(f"{text}Listeners: 2\n", [3, 4]) == ""


def test_a_syslog_listener_takes_datagrams() -> None:
    """It has no frontend in the answer, and no QUIC port."""
    assert binds_on(OF_SYSLOG, [9]) == (Bind(9, "", mixed=True, datagrams=True),)
    assert runtime_api.has_datagrams(OF_SYSLOG)
    assert runtime_api.quic_ports(OF_SYSLOG) == ()


def test_the_copies_of_quic_and_of_tcp_are_told_apart_on_one_port() -> None:
    """With `shards` each `bind` has more sockets; those of one VIP are not taken for those of the other."""
    of_both = of_quic(3, "web", "443") + listening_line(4, "web", "443")
    copies = of_quic(14, "web", "443") + listening_line(15, "web", "443") + of_quic(16, "web", "8443")
    quic = (Bind(3, "web", mixed=True, datagrams=True), Bind(14, "web", mixed=True, datagrams=True))
    tcp = (Bind(4, "web", mixed=True), Bind(15, "web", mixed=True))
    assert binds_on(of_both + copies, [3]) == quic
    assert binds_on(of_both + copies, [4]) == tcp
    assert set(binds_on(of_both + copies, [3, 4])) == {*quic, *tcp}
    assert "descriptor 16 " in doubt(f"{of_both}{copies}Listeners: 5\n", [3, 4])


def test_ordinary_quic_listeners_beside_a_vip_are_not_its_copies() -> None:
    """haproxy has bound them itself; the frontend has both kinds then."""
    text = listening_line(3, "web", "443") + of_quic(14, "web", "443", exported=True)
    assert binds_on(text, [3]) == (Bind(3, "web", mixed=True),)
    assert doubt(f"{text}Listeners: 2\n", [3]) == ""
    assert runtime_api.has_datagrams(text)


def test_the_ports_of_quic_are_named_once_each() -> None:
    """Those of VIPs and of ordinary listeners, not those of TCP."""
    text = "".join(
        (
            of_quic(3, "web", "443"),
            of_quic(14, "web", "443"),
            of_quic(15, "other", "8443", exported=True),
            listening_line(4, "web", "80"),
            of_quic(16, "odd", "x"),
            OF_SYSLOG,
        )
    )
    assert runtime_api.quic_ports(text) == (443, 8443)
    assert runtime_api.quic_ports("") == ()


NUMBERS = st.sampled_from(["3", "\N{SUPERSCRIPT TWO}", "-1", "9" * 5000, "0x3", "0xzz", ""]) | st.text(max_size=5)
KEYS = st.sampled_from(["Pid", "CurrConns", "Jobs", "Listeners", "Version"])
FIELDS = st.tuples(KEYS, NUMBERS).map(": ".join)
SOCKETS = st.tuples(NUMBERS, NUMBERS, st.text(max_size=5), NUMBERS, NUMBERS).map(
    lambda it: "{} : st={}(cl) iocb=(quic_lstnr_sock_fd_iocb) l.st=RDY fe={} fam=ipv4 lport={} prmsk={}".format(*it)
)


@given(st.lists(FIELDS | SOCKETS | st.text()).map("\n".join))
def test_no_answer_is_too_bad_to_be_read(text: str) -> None:
    """haproxy is not trusted: what is no number is none, and nothing of it is kept that has no limit."""
    binds = binds_on(text, VIPS)
    for read in (pid, runtime_api.connections, is_idle, serves_nobody):
        read(text)
    for judge in (holding, never_says, not_paused):
        judge(text, binds)
    doubt(text, VIPS)
    runtime_api.has_datagrams(text)
    assert all(port > 0 for port in runtime_api.quic_ports(text))
    look(binds)
    pause([bind for bind in binds if can_pause(bind)])
    assert len(runtime_api.version(text)) <= 100
