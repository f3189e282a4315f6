"""Anything at all at every door, for FUZZ_SECONDS at each: no crash, no hang, no growth."""

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoint.options.vips import VipError, parse_vips
from entrypoint.system.listeners import Listeners
from entrypoint.system.listeners.places import ListenError
from entrypoint.system.sd_notify import Notifier
from entrypoint.system.state_file import DamagedError, StateFile, in_memory
from tests.system.apart import apart
from tests.system.instance import Instance
from tests.system.test_control_server import begin, lb  # noqa: F401  # fixtures

SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))
WORDS = st.sampled_from([
    b"reload", b"status", b"show proc", b"show startup-logs", b"@1 show info", b"@1", b"@2", b"@!1 x", b"@master",
    b"prompt", b"quit", b"help", b"set severity-output number", b"expert-mode on;", b"@1;", b"@@1",
    b"x <<", b"x <<E", b"E", b"\n", b";", b"\\", b"\0",
    b"@" + b"9" * 5000,
])  # fmt: skip
QUESTIONS = st.lists(WORDS | st.binary(max_size=50), max_size=30).map(b" ".join) | st.lists(WORDS).map(b"\n".join)
quick = settings(
    max_examples=40,
    deadline=timedelta(seconds=20),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)


def again_and_again(play: Callable[[], None]) -> None:
    """Play for FUZZ_SECONDS."""
    end = time.monotonic() + SECONDS
    play()
    while time.monotonic() < end:
        play()


@pytest.mark.timeout(SECONDS + 300)
def test_the_control_socket_takes_anything(lb: Instance) -> None:  # noqa: F811
    """Nobody's bytes stop it, or make it grow."""
    before = lb.memory()

    @quick
    @given(QUESTIONS, st.booleans())
    def ask(question: bytes, waits: bool) -> None:
        with lb.connect() as client, contextlib.suppress(OSError):
            client.sendall(question + b"\nquit\n")
            if waits:
                client.shutdown(1)
                while client.recv(65536):
                    pass

    again_and_again(ask)
    assert lb.status()["pid"] == lb.pid
    assert lb.process.poll() is None
    assert lb.memory() < before + 8192


@pytest.mark.timeout(SECONDS + 300)
def test_a_vip_list_is_read_or_refused() -> None:
    """With one line, and in no other way."""
    pieces = st.sampled_from(["1.2.3.4", "[::1]", "*", ":", "80", "FD_A", ",", "65536"])

    @quick
    @given(st.text() | st.lists(pieces).map("".join))
    def read(text: str) -> None:
        words = ""
        try:
            parse_vips(text)
        except VipError as error:
            words = str(error)
        assert "\n" not in words

    again_and_again(read)


@pytest.mark.timeout(SECONDS + 300)
def test_any_notify_environment_is_survived() -> None:
    """What systemd would never say is ignored, or named."""

    @quick
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.text(max_size=30))
    def tell(address: str, watchdog: str) -> None:
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": watchdog, "WATCHDOG_PID": watchdog})
        notifier.send(READY=1)
        if notifier._socket:  # noqa: SLF001  # it is PID 1's for its whole life
            notifier._socket.close()  # noqa: SLF001

    again_and_again(tell)


@pytest.mark.timeout(SECONDS + 300)
def test_any_listen_environment_is_adopted_or_refused() -> None:
    """With one line, and no descriptor that was not passed is taken."""
    passed = 3
    counts = st.integers(-1, passed + 2).map(str) | st.text() | st.integers(1, 6000).map(lambda length: "9" * length)
    names = st.lists(st.text(max_size=20) | st.sampled_from(["web", "safe_reload.FD_A"]), max_size=5).map(":".join)
    ourselves = st.just("") | st.text(max_size=9)

    def play() -> None:
        outside = os.open("/dev/null", os.O_RDONLY)
        os.dup2(outside, 3 + passed)

        @quick
        @given(counts, names, ourselves)
        def adopt(count: str, text: str, identity: str) -> None:
            for descriptor in range(3, 3 + passed):
                with socket.socket() as made:
                    os.dup2(made.fileno(), descriptor)
            listeners = Listeners()
            words = ""
            try:
                listeners.adopt(
                    {
                        "LISTEN_PID": str(os.getpid()),
                        "LISTEN_FDS": count,
                        "LISTEN_FDNAMES": text,
                        "LISTEN_PIDFDID": identity,
                    }
                )
                listeners.bind((), freebind=False)
            except ListenError as error:
                words = str(error)
            listeners.close()
            assert "\n" not in words
            assert os.fstat(3 + passed)

        again_and_again(adopt)

    apart(play)


@pytest.mark.timeout(SECONDS + 300)
def test_any_state_directory_is_read_or_ignored(tmp_path: Path) -> None:
    """Whatever is in it, with a right checksum too, is what was written or is refused with one line."""
    kept = StateFile(str(tmp_path), "lb")
    texts = in_memory("ab", (("/etc/lb/haproxy.cfg", b"global\n"),))
    kept.write(texts)
    os.close(texts)
    (path,) = tmp_path.iterdir()
    first_line = path.read_bytes().partition(b"\n")[0] + b"\n"
    lengths = st.integers(-2, 30).map(lambda number: b"%d" % number) | st.just(b"9" * 5000) | st.binary(max_size=3)
    entries = st.lists(st.tuples(lengths, lengths, st.binary(max_size=30)).map(lambda it: b"%b %b\n%b" % it))
    bodies = st.binary() | entries.map(lambda them: b"ab\n" + b"".join(them))
    signed = bodies.map(lambda body: first_line + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    @quick
    @given(st.binary() | signed)
    def read(content: bytes) -> None:
        path.write_bytes(content)
        words = ""
        try:
            texts = kept.read()
            if texts is not None:
                os.close(texts)
        except DamagedError as error:
            words = str(error)
        assert "\n" not in words

    again_and_again(read)
