"""Notify: what systemd gets, message by message, and that nothing which it does can hurt."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from entrypoint.lean.one_line import one_line
from entrypoint.system.sd_notify import Notifier, monotonic_usec
from tests.waiting import eventually

OURS = str(os.getpid())


class Recorder:
    """Where systemd listens."""

    def __init__(self, address: str) -> None:
        """Listen there."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(20)
        self.environment = {"NOTIFY_SOCKET": address}

    def message(self) -> str:
        """Return the next message."""
        return self.socket.recv(65536).decode()

    def descriptors(self) -> tuple[str, list[int]]:
        """Return the next message with the descriptors that came with it."""
        message, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 253)
        return message.decode(), descriptors


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """Where systemd listens."""
    made = Recorder(str(tmp_path / "notify"))
    yield made
    made.socket.close()


@contextmanager
def notifier(environment: dict[str, str]) -> Iterator[Notifier]:
    """Have a notifier for a while."""
    with closing(Notifier(environment)) as made:
        yield made


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_message_arrives_as_one_datagram(kind: str, tmp_path: Path) -> None:
    """Each assignment is a line, and all of them are one message, by path and by abstract name."""
    recorder = Recorder(str(tmp_path / "notify") if kind == "path" else f"@safe-reload-test-{OURS}")
    with notifier(recorder.environment) as systemd, closing(recorder.socket):
        assert systemd.active
        assert systemd.unusable is None
        assert systemd.send(RELOADING=1, MONOTONIC_USEC=17, STATUS="reloading") is None
        assert systemd.send(READY=1) is None
        assert recorder.message() == "RELOADING=1\nMONOTONIC_USEC=17\nSTATUS=reloading"
        assert recorder.message() == "READY=1"


def test_without_a_socket_nothing_happens() -> None:
    """Where there is no systemd everything can be called, and does nothing."""
    with notifier({"FDSTORE": "10", "WATCHDOG_USEC": "1000000"}) as nobody:
        assert nobody.unusable is None
        assert not nobody.active
        assert not nobody.stores
        assert nobody.watchdog_interval is None
        assert nobody.send(READY=1) is None
        assert nobody.store("a", 0) is None
        assert nobody.remove("a") is None


@pytest.mark.parametrize(
    "address", ["vsock:2:1234", "vsock-stream:2:1", "run/notify", "@", "/", f"/{'x' * 107}", "\udc80"]
)
def test_an_address_that_is_not_spoken_is_named(address: str) -> None:
    """Anything but a path or an abstract name is ignored, with one line for the log."""
    with notifier({"NOTIFY_SOCKET": address}) as systemd:
        assert not systemd.active
        assert systemd.unusable
        assert systemd.unusable.startswith(f"NOTIFY_SOCKET is {address!r}: ")
        assert len(systemd.unusable.splitlines()) == 1
        assert systemd.send(READY=1) is None


@pytest.mark.parametrize("evil", ["a\nREADY=1", "a\rREADY=1", "a\0READY=1", "a\u2028READY=1", "a\x85READY=1"])
def test_a_value_cannot_begin_another_line(recorder: Recorder, evil: str) -> None:
    """haproxy's words, which go into STATUS=, can say nothing to systemd."""
    with notifier(recorder.environment) as systemd:
        systemd.send(STATUS=evil)
        assert recorder.message() == f"STATUS={one_line(evil)}"


@pytest.mark.parametrize("text", ["\udcff", "\N{SNOWMAN}" * 5000, "x" * 100_000])
def test_every_value_is_one_that_systemd_reads(recorder: Recorder, text: str) -> None:
    """It is UTF-8, and the message shorter than 4096 bytes: systemd would throw all of it away."""
    with notifier(recorder.environment) as systemd:
        systemd.send(READY=1, STATUS=text)
        message = recorder.message()
    assert message.startswith("READY=1\nSTATUS=")
    assert len(message.encode()) < 4096


def test_a_failure_is_logged_once(tmp_path: Path) -> None:
    """One line while systemd is gone, not one per message. When it is back, a new failure is logged again."""
    path = tmp_path / "notify"
    with notifier({"NOTIFY_SOCKET": str(path)}) as systemd:
        told = systemd.send(WATCHDOG=1)
        assert told == "cannot notify systemd of WATCHDOG: No such file or directory; haproxy keeps serving"
        assert systemd.send(WATCHDOG=1) is None
        recorder = Recorder(str(path))
        assert systemd.send(READY=1) is None
        assert recorder.message() == "READY=1"
        recorder.socket.close()
        told = systemd.send(WATCHDOG=1)
        assert told == "cannot notify systemd of WATCHDOG: Connection refused; haproxy keeps serving"
        assert systemd.send(WATCHDOG=1) is None


def test_a_systemd_that_does_not_read_blocks_nobody(recorder: Recorder) -> None:
    """Its queue is full: no message waits, and if that lasts, one line says so."""
    with notifier(recorder.environment) as systemd:
        while not systemd.busy:
            assert systemd.send(STATUS="on") is None
        said = eventually(lambda: systemd.send(STATUS="still on"))
        assert said == "cannot notify systemd of STATUS: Resource temporarily unavailable; haproxy keeps serving"
        assert systemd.send(STATUS="still on") is None
        assert systemd.busy
        assert systemd.unreachable
        while recorder.message() != "STATUS=on":
            pass
        systemd.wait(20)
        assert systemd.send(STATUS="back") is None
        assert not systemd.unreachable


def test_a_full_queue_that_is_read_loses_nothing(recorder: Recorder) -> None:
    """A burst that is longer than the queue arrives whole, as 4,096 VIPs do, for who sends again what found no room."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        got = b"".join(recorder.message().encode() + b" " for _ in range(4096))
        os.write(writer, str(len(set(got.split()))).encode())
        os._exit(0)
    with notifier(recorder.environment) as systemd:
        for number in range(4096):
            assert systemd.send(STATUS=number) is None
            while systemd.unreachable:
                systemd.wait(20)
                assert systemd.send(STATUS=number) is None
    os.waitpid(pid, 0)
    assert os.read(reader, 100) == b"4096"
    os.close(reader)
    os.close(writer)


# ---- the FD store --------------------------------------------------------------------------------------------------


def test_descriptors_are_stored_by_name(recorder: Recorder) -> None:
    """One message each, with the same open file, that systemd does not poll."""
    with notifier({**recorder.environment, "FDSTORE": "10"}) as systemd, socket.socket() as a, socket.socket() as b:
        assert systemd.stores
        for name, made in (("vip_A", a), ("vip_B", b)):
            assert systemd.store(name, made.fileno()) is None
            message, descriptors = recorder.descriptors()
            assert message == f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0"
            assert [os.fstat(descriptor).st_ino for descriptor in descriptors] == [os.fstat(made.fileno()).st_ino]
            os.close(descriptors[0])


def test_what_is_forgotten_is_named(recorder: Recorder) -> None:
    """FDSTOREREMOVE has the name."""
    with notifier({**recorder.environment, "FDSTORE": "10"}) as systemd:
        assert systemd.remove("vip_A") is None
        assert recorder.message() == "FDSTOREREMOVE=1\nFDNAME=vip_A"


@pytest.mark.parametrize("store", ["", "0", "x", "-1"])
def test_without_a_store_nothing_is_stored(recorder: Recorder, store: str) -> None:
    """A unit without FileDescriptorStoreMax= gets no descriptor that it would have to close."""
    with notifier({**recorder.environment, "FDSTORE": store}) as systemd:
        assert not systemd.stores
        assert systemd.store("vip_A", 0) is None
        systemd.remove("vip_A")
        systemd.send(READY=1)
        assert recorder.message() == "READY=1"


def test_what_finds_no_room_is_counted(recorder: Recorder) -> None:
    """More than the store has room for, or with names that it does not take: one line says how many."""
    with notifier({**recorder.environment, "FDSTORE": "3"}) as systemd:
        assert systemd.fit(["x" * 256, "a:b", "\u00e9", "", "x" * 255, "b", "c"], stored=1) == (
            ["x" * 255, "b"],
            "5 of 8 VIPs are not in the FD store: FileDescriptorStoreMax= is 3, and a name has at most 255 characters",
        )
        assert systemd.fit(["a", "b"], stored=1) == (["a", "b"], None)


def test_a_message_that_could_not_be_sent_is_reported(tmp_path: Path) -> None:
    """The caller knows what was sent and what was not, also after the one log line about it."""
    path = str(tmp_path / "notify")
    with notifier({"NOTIFY_SOCKET": path}) as systemd:
        assert not systemd.unreachable
        assert systemd.send(READY=1) is not None
        assert systemd.send(READY=1) is None
        assert systemd.unreachable
        with closing(Recorder(path).socket):
            assert systemd.send(READY=1) is None
            assert not systemd.unreachable


# ---- the watchdog, the clock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": OURS}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "1"}, 0.0000005),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({}, None),
    ],
    ids=lambda value: str(value).replace(OURS, "ours"),
)
def test_the_watchdog_is_served_at_half_of_its_time(
    recorder: Recorder, variables: dict[str, str], seconds: float | None
) -> None:
    """If it is meant for us, and if it is there."""
    with notifier({**recorder.environment, **variables}) as systemd:
        assert systemd.watchdog_interval == seconds


def test_the_clock_is_systemd_s() -> None:
    """MONOTONIC_USEC is CLOCK_MONOTONIC in microseconds."""
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    between = monotonic_usec()
    assert before * 1_000_000 - 1 <= between <= time.clock_gettime(time.CLOCK_MONOTONIC) * 1_000_000 + 1


def test_the_descriptor_is_not_for_children(recorder: Recorder) -> None:
    """haproxy would otherwise have a line to systemd."""
    before = open_descriptors()
    with notifier(recorder.environment) as systemd:
        systemd.send(READY=1)
        opened = open_descriptors() - before
        assert len(opened) == 1
        assert not os.get_inheritable(opened.pop())


def open_descriptors() -> set[int]:
    """Return which descriptors are open."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}
