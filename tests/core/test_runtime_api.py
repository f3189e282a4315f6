"""The meaning of what real haproxys answered, of the three versions that are supported.

The answers in `answers` were given by HAProxy with the configuration `answers/asked.cfg`, the CLI on a socket pair, and
these VIPs: 3 plain, 4 sharded (`shards 2`), 5 and 6 threads (one each), 7 twice, 8 six, 9 which no `bind` uses.
`look-when-paused` is from after `disable frontend` for all of them and some connections to each VIP except 8.
"""

import re
from pathlib import Path

import pytest

from entrypoint.core.runtime_api import Bind, binds_on, is_idle, look, pause, pid, serves_nobody, still_polled

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
    assert still_polled(text) == frozenset()


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


@each_version
def test_who_still_polls_is_seen(version: str) -> None:
    """Before the pause every VIP is polled; after it only the one that saw no connection."""
    before = still_polled(answer(version, "show-fd"))
    after = still_polled(answer(version, "look-when-paused"))
    assert before >= {3, 4, 5, 6, 7, 8, *COPIES[version]}
    assert after & {*VIPS, *COPIES[version]} == {8}


@each_version
def test_only_listeners_count_as_polled(version: str) -> None:
    """Connections, timers and pipes, which are polled as well, are none of the descriptors that are reported."""
    listeners = {
        int(line.split(":", 1)[0]) for line in answer(version, "look-when-paused").splitlines() if " l.st=" in line
    }
    polled = {
        int(line.split(":", 1)[0])
        for line in answer(version, "look-when-paused").splitlines()
        if " prmsk=" in line and " prmsk=0x0 " not in line
    }
    assert polled - listeners
    assert still_polled(answer(version, "look-when-paused")) == polled & listeners


def test_any_thread_that_polls_is_seen() -> None:
    """A mask with only its highest of 64 threads set is polled all the same."""
    lines = answer("3.2", "look-when-paused").splitlines()
    (paused,) = [line for line in lines if " l.st=PAU fe=plain " in line]
    assert still_polled(paused) == frozenset()
    assert still_polled(paused.replace("prmsk=0x0", "prmsk=0x8000000000000000")) == {3}


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
