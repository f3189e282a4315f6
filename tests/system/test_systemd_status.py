"""The messages that systemd gets, in order: every reload ends, and every failure is reported."""

import contextlib
import itertools
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.certificates import key_pair
from tests.descriptors import sockets
from tests.notify import NotifySocket
from tests.system.instance import CONFIGURATION, Begin, instances
from tests.waiting import eventually

REFUSED = "nosuch keyword\n"
NEVER_READY = 'global\n  lua-load "HANG"\n'


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[NotifySocket]:
    """Where systemd listens."""
    made = NotifySocket(tmp_path / "notify")
    made.listen()
    yield made
    made.close()


@pytest.fixture
def begin(begin: Begin, tmp_path: Path) -> Begin:
    """Start one that watches no files, where systemd listens or may do so later."""
    return partial(begin, "--watch", "off", NOTIFY_SOCKET=str(tmp_path / "notify"))


def hangs(folder: Path) -> str:
    """Return a configuration with which haproxy never becomes ready."""
    (folder / "hang.lua").write_text("while true do end\n")
    return NEVER_READY.replace("HANG", str(folder / "hang.lua")) + CONFIGURATION


# ---- start and stop ------------------------------------------------------------------------------------------------


def test_ready_is_said_when_the_first_generation_serves(begin: Begin, systemd: NotifySocket) -> None:
    """READY comes with the generation and its pid, not before, and first of all: some read one message and no more."""
    lb = begin()
    eventually(lambda: systemd.said() == ["READY"])
    (haproxy,) = lb.haproxies
    (ready,) = [message["STATUS"] for message in systemd.messages if "READY" in message]
    assert ready == f"generation 1 (pid {haproxy})"
    assert "READY" in systemd.messages[0]


def test_a_start_that_fails_says_why(begin: Begin, systemd: NotifySocket) -> None:
    """Never READY, and the last word is haproxy's."""
    lb = begin(text=REFUSED)
    assert lb.process.wait(timeout=30) == 1
    eventually(lambda: systemd.statuses()[-1].startswith("stopped"))
    assert systemd.said() == ["STOPPING"]
    assert re.search(r"the last start failed: config : .*unknown keyword 'nosuch'", systemd.statuses()[-1])


def test_stopping_is_said_once_and_more_time_is_asked_for(begin: Begin, systemd: NotifySocket) -> None:
    """As long as a connection drains; a second SIGTERM is no second STOPPING."""
    lb = begin(
        "--stop-timeout", "9", code="import entrypoint.pid1.systemd_status as n; n._EXTENSION = n._REFRESH = 0.3"
    )
    eventually(lambda: systemd.said() == ["READY"])
    with socket.create_connection(("127.0.0.1", lb.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        eventually(lambda: systemd.statuses()[-1].endswith(", 1 connection"))
        lb.signal(signal.SIGTERM)
        eventually(lambda: systemd.how_often("EXTEND_TIMEOUT_USEC") >= 3)
        assert systemd.said() == ["READY", "STOPPING"]
        assert systemd.statuses()[-1] == "stopping, 1 generation left, 1 connection"
        lb.signal(signal.SIGTERM)
        assert lb.process.wait(timeout=30) == 0
    eventually(lambda: systemd.statuses()[-1] == "stopped")
    assert systemd.said() == ["READY", "STOPPING"]


def test_a_number_of_connections_that_is_unknown_is_not_said(begin: Begin, systemd: NotifySocket) -> None:
    """A haproxy that does not answer has not lost its clients; of several the known ones are the least."""
    lb = begin(code="import entrypoint.pid1.systemd_status as n; n._REFRESH = 2")
    eventually(lambda: systemd.statuses()[-1:] and systemd.statuses()[-1].endswith(", 0 connections"))
    (haproxy,) = lb.haproxies
    os.kill(haproxy, signal.SIGSTOP)
    try:
        eventually(lambda: systemd.statuses()[-1] == f"generation 1 (pid {haproxy})")
        lb.signal(signal.SIGUSR1)
        eventually(lambda: "at least 0 connections" in systemd.statuses()[-1])
    finally:
        os.kill(haproxy, signal.SIGCONT)


# ---- reloads -------------------------------------------------------------------------------------------------------


def test_a_reload_is_between_reloading_and_ready(begin: Begin, systemd: NotifySocket) -> None:
    """RELOADING with its time, and READY with the new generation."""
    lb = begin()
    eventually(lambda: systemd.said() == ["READY"])
    lb.signal(signal.SIGUSR1)
    eventually(lambda: systemd.said() == ["READY", "RELOADING", "READY"])
    reloading, ready = [message for message in systemd.messages if {"READY", "RELOADING"} & message.keys()][1:]
    assert reloading["MONOTONIC_USEC"].isdigit()
    assert reloading["STATUS"].startswith("generation 1 ")
    assert reloading["STATUS"].endswith("generation 2 is starting")
    assert ready["STATUS"].startswith("generation 2 ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (REFUSED, r"config : .*unknown keyword 'nosuch'"),
        ("global\n  master-worker\n", r".*master-worker"),
        (None, r".*No such file"),
    ],
    ids=["refused", "not started", "not there"],
)
def test_a_reload_that_fails_is_over_as_well_and_says_why(
    begin: Begin, systemd: NotifySocket, text: str | None, why: str
) -> None:
    """Also when haproxy was not even started; the next success takes the words back."""
    lb = begin()
    eventually(lambda: systemd.said() == ["READY"])
    if text is None:
        lb.configuration.unlink()
    else:
        lb.edit(text)
    lb.signal(signal.SIGHUP)
    eventually(lambda: systemd.said() == ["READY", "RELOADING", "READY"])
    failed = [message for message in systemd.messages if "READY" in message][1]["STATUS"]
    assert re.match(rf"generation 1 \(pid \d+\).*, the last reload failed: {why}", failed)
    lb.edit(CONFIGURATION)
    lb.signal(signal.SIGHUP)
    eventually(lambda: systemd.said() == ["READY", *["RELOADING", "READY"] * 2])
    assert "failed" not in systemd.statuses()[-1]


def test_a_reload_that_is_never_ready_says_so(begin: Begin, systemd: NotifySocket, tmp_path: Path) -> None:
    """And asks for more time meanwhile: `systemctl reload` waits for as long as safe_reload does."""
    lb = begin("--ready-timeout", "2", code="import entrypoint.pid1.systemd_status as n; n._EXTENSION = 0.3")
    eventually(lambda: systemd.said() == ["READY"])
    lb.edit(hangs(tmp_path))
    lb.signal(signal.SIGUSR1)
    eventually(lambda: systemd.said() == ["READY", "RELOADING"])
    before = systemd.how_often("EXTEND_TIMEOUT_USEC")
    eventually(lambda: systemd.how_often("EXTEND_TIMEOUT_USEC") >= before + 2)
    eventually(lambda: systemd.said() == ["READY", "RELOADING", "READY"])
    assert "is not ready within --ready-timeout" in systemd.statuses()[-1]


def test_consecutive_reloads_have_separate_messages(begin: Begin, systemd: NotifySocket) -> None:
    """The first one is over before the second one begins."""
    lb = begin()
    eventually(lambda: systemd.said() == ["READY"])
    for signum in (signal.SIGSTOP, signal.SIGUSR1, signal.SIGHUP, signal.SIGCONT):
        lb.signal(signum)
    eventually(lambda: systemd.said() == ["READY", *["RELOADING", "READY"] * 2])


def test_a_stop_ends_the_reload_that_runs(begin: Begin, systemd: NotifySocket, tmp_path: Path) -> None:
    """READY, and then STOPPING: systemd would otherwise wait for the reload, and not take the stop in."""
    lb = begin()
    eventually(lambda: systemd.said() == ["READY"])
    lb.edit(hangs(tmp_path))
    lb.signal(signal.SIGUSR1)
    eventually(lambda: systemd.said() == ["READY", "RELOADING"])
    lb.signal(signal.SIGTERM)
    assert lb.process.wait(timeout=30) == 0
    eventually(lambda: systemd.statuses()[-1] == "stopped")
    assert systemd.said() == ["READY", "RELOADING", "READY", "STOPPING"]


def test_files_that_are_applied_are_between_reloading_and_ready(systemd: NotifySocket, tmp_path: Path) -> None:
    """As a reload is, though no generation starts; a refused one says why, and the next success takes that back."""
    site = tmp_path / "site.pem"

    def put(text: str) -> None:
        new = tmp_path / "new.pem"
        new.write_text(text)
        new.rename(site)

    put("".join(key_pair(tmp_path, "one")))
    with instances(tmp_path) as begin:
        lb = begin(
            *("--debounce", "0.05", "--poll", "0.3"),
            text=f"{CONFIGURATION}  bind unix@{tmp_path}/s.sock ssl crt {site}\n",
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        )
        eventually(lambda: systemd.said() == ["READY"])
        for number, (text, ends) in enumerate(
            (
                ("".join(key_pair(tmp_path, "two")), r"generation 1 \(pid \d+\)(, \d+ connections?)?"),
                ("garbage", rf"generation 1 .*, the last reload failed: {site}: unable to load certificate from .*"),
                ("".join(key_pair(tmp_path, "three")), r"generation 1 \(pid \d+\)(, \d+ connections?)?"),
            ),
            start=1,
        ):
            put(text)
            expected = ["READY", *["RELOADING", "READY"] * number]
            eventually(lambda expected=expected: systemd.said() == expected)  # type: ignore[misc]
            reloading, ready = [one for one in systemd.messages if {"READY", "RELOADING"} & one.keys()][-2:]
            assert reloading["MONOTONIC_USEC"].isdigit()
            assert "is starting" not in reloading["STATUS"]
            assert re.fullmatch(ends, ready["STATUS"]), ready
        assert lb.get() == "1"


# ---- deaths --------------------------------------------------------------------------------------------------------


def test_a_crash_is_no_reload_and_is_seen(begin: Begin, systemd: NotifySocket) -> None:
    """STATUS says that nothing serves, and later who died of what; the unit was never anything but active."""
    lb = begin()
    eventually(lambda: systemd.said() == ["READY"])
    os.kill(lb.haproxies[0], signal.SIGKILL)
    died = "haproxy has died unasked (1): the last one was killed by SIGKILL"
    eventually(lambda: any(re.fullmatch(rf"generation 2 .*{re.escape(died)}", one) for one in systemd.statuses()))
    assert any(one.startswith("no generation serves") for one in systemd.statuses())
    assert systemd.said() == ["READY"]


def test_a_last_known_good_configuration_says_what_is_wrong_with_the_other(begin: Begin, systemd: NotifySocket) -> None:
    """After a crash with a bad configuration on disk, as long as the old one runs."""
    lb = begin()
    eventually(lambda: systemd.said() == ["READY"])
    lb.edit(REFUSED)
    os.kill(lb.haproxies[0], signal.SIGKILL)
    known = r"generation 3 .*, runs the LAST KNOWN GOOD configuration, the last start failed: .*'nosuch'"
    eventually(lambda: any(re.match(known, one) for one in systemd.statuses()))
    lb.edit(CONFIGURATION)
    lb.signal(signal.SIGHUP)
    eventually(lambda: systemd.said() == ["READY", "RELOADING", "READY"])
    assert "failed" not in systemd.statuses()[-1]
    assert "KNOWN" not in systemd.statuses()[-1]


def test_giving_up_says_what_haproxy_died_of(begin: Begin, systemd: NotifySocket) -> None:
    """The last word before a restart by systemd."""
    lb = begin("--restart", "no")
    eventually(lambda: systemd.said() == ["READY"])
    os.kill(lb.haproxies[0], signal.SIGSEGV)
    lb.process.wait(timeout=30)
    eventually(lambda: systemd.statuses()[-1].startswith("stopped"))
    assert systemd.said() == ["READY", "STOPPING"]
    assert systemd.statuses()[-1].endswith("the last one was killed by SIGSEGV")


# ---- another program takes our place -------------------------------------------------------------------------------


def test_an_upgrade_keeps_what_systemd_was_told(begin: Begin, systemd: NotifySocket) -> None:
    """No second READY, no silent watchdog; failures and deaths are not forgotten."""
    lb = begin("--name", "lb", WATCHDOG_USEC="200000", FDSTORE="2")
    eventually(lambda: systemd.said() == ["READY"])
    os.kill(lb.haproxies[0], signal.SIGKILL)
    eventually(lambda: systemd.statuses()[-1].startswith("generation 2 "))
    lb.edit(REFUSED)
    lb.signal(signal.SIGHUP)
    eventually(lambda: systemd.said() == ["READY", "RELOADING", "READY"])
    eventually(lambda: systemd.stored)
    systemd.stored.clear()
    told = len(systemd.statuses())
    assert lb.client("upgrade", "--name", "lb").returncode == 0
    eventually(lambda: systemd.statuses()[told:])
    assert re.match(
        r"generation 2 .* the last reload failed: .*'nosuch'.* died unasked \(1\)", systemd.statuses()[told]
    )
    lives = systemd.how_often("WATCHDOG")
    eventually(lambda: systemd.how_often("WATCHDOG") > lives + 1)
    eventually(lambda: systemd.stored)
    lb.edit(CONFIGURATION)
    lb.signal(signal.SIGHUP)
    eventually(lambda: systemd.said() == ["READY", *["RELOADING", "READY"] * 2])
    assert "failed" not in systemd.statuses()[-1]


# ---- the watchdog, the store, and a systemd that does not listen ---------------------------------------------------


def test_the_watchdog_hears_the_loop_and_nothing_else(begin: Begin, systemd: NotifySocket) -> None:
    """WATCHDOG follows READY and comes again and again; once the loop does not turn, never again."""
    code = """
import entrypoint.core.lifecycle as lifecycle
def hang(state, request):
    import time
    while True:
        time.sleep(1)
lifecycle._reload = hang
"""
    lb = begin(code=code, WATCHDOG_USEC="100000")
    eventually(lambda: systemd.how_often("WATCHDOG") >= 3)
    names = [name for message in systemd.messages for name in message if name in {"READY", "WATCHDOG"}]
    assert [name for name, _ in itertools.groupby(names)] == ["READY", "WATCHDOG"]
    lb.signal(signal.SIGUSR1)
    eventually(lambda: "\nSigPnd:\t0" in Path(f"/proc/{lb.pid}/status").read_text())

    def quiet() -> bool:
        before = systemd.how_often("WATCHDOG")
        return not threading.Event().wait(0.5) and systemd.how_often("WATCHDOG") == before

    eventually(quiet)
    (haproxy,) = lb.haproxies
    lb.process.kill()
    os.kill(haproxy, signal.SIGKILL)


def test_the_vips_are_stored_once_it_is_ready(begin: Begin, systemd: NotifySocket) -> None:
    """Under the names of their tags, and they are the very sockets that listen."""
    lb = begin(FDSTORE="2")
    eventually(lambda: systemd.stored)
    (name,) = systemd.stored
    assert name.endswith("FD_WEB")
    assert str(systemd.stored[name]) in sockets(lb.pid)
    order = [name for message in systemd.messages for name in message if name in {"READY", "FDSTORE"}]
    assert order == ["READY", "FDSTORE"]


def test_messages_are_repeated_until_systemd_listens(begin: Begin, tmp_path: Path) -> None:
    """READY and what follows come in order, and the VIPs are stored: a start without READY would count as failed."""
    lb = begin(code="import entrypoint.pid1.systemd_status as n; n._REFRESH = 0.1", FDSTORE="2")
    lb.serves()
    (first,) = eventually(lambda: lb.haproxies)
    lb.signal(signal.SIGUSR1)
    eventually(lambda: lb.haproxies and first not in lb.haproxies)
    systemd = NotifySocket(tmp_path / "notify")
    systemd.listen()
    eventually(lambda: systemd.said() == ["READY", "RELOADING", "READY"])
    eventually(lambda: systemd.stored)
    systemd.close()


def test_a_full_queue_blocks_nothing_and_loses_nothing(begin: Begin, tmp_path: Path) -> None:
    """Until systemd reads, safe_reload reloads and sends the messages later, in order, also those of its exit."""
    systemd = NotifySocket(tmp_path / "notify")
    systemd.bind()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
        others.connect(str(systemd.path))
        with contextlib.suppress(BlockingIOError):
            while True:
                others.send(b"STATUS=another service", socket.MSG_DONTWAIT)
    lb = begin(WATCHDOG_USEC="200000000", FDSTORE="2")
    (first,) = eventually(lambda: lb.haproxies)
    lb.serves()
    lb.signal(signal.SIGUSR1)
    eventually(lambda: lb.haproxies and first not in lb.haproxies)
    assert systemd.said() == []
    systemd.read()
    eventually(lambda: systemd.said() == ["READY", "RELOADING", "READY"])
    eventually(lambda: systemd.how_often("WATCHDOG") and systemd.stored)
    statuses = [text for text in systemd.statuses() if text != "another service"]
    assert all("generation 2" in text for text in statuses)
    lb.signal(signal.SIGTERM)
    lb.process.wait(timeout=30)
    eventually(lambda: systemd.said() == ["READY", "RELOADING", "READY", "STOPPING"])
    systemd.close()
