"""Anything at all at every door, for FUZZ_SECONDS at each: no crash, no hang, no growth."""

import contextlib
import os
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoint.core.vips import VipError, parse_vips
from entrypoint.system.notify import Notifier
from tests.system.test_desk import Instance, begin, lb  # noqa: F401  # fixtures

SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))
WORDS = st.sampled_from([
    b"reload", b"status", b"show proc", b"show startup-logs", b"@1 show info", b"@1", b"@2", b"@!1 x", b"@master",
    b"prompt", b"quit", b"help", b"set severity-output number", b"x <<", b"x <<E", b"E", b"\n", b";", b"\\", b"\0",
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
