"""haproxy is not trusted: whatever it answers, and whatever it does to what it has inherited, PID 1 goes on."""

import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.system.instance import Begin, Instance
from tests.system.lives import status_fields

FAKE = Path(__file__).with_name("fake_haproxy.py")
EVIL = ("deaf", "endless", "huge", "drop", "descriptors", "digits", "no-digits")
MOST_KIB = 100 * 1024
"""What PID 1 may need while it takes an answer of 16 MiB."""


@pytest.fixture
def begin(begin: Begin, tmp_path: Path) -> Begin:
    """Start safe_reload with a haproxy that is none, and wait for its first generation."""
    program = tmp_path / "haproxy"
    program.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
    program.chmod(0o755)

    def start(**environment: str) -> Instance:
        options = ("--watch", "off", "--ready-timeout", "3")
        lb = begin(*options, text="", haproxy=[str(program)], **environment).becomes_current()
        assert generations(lb) == [(1, "current")]
        return lb

    return start


def generations(lb: Instance) -> list[tuple[int, str]]:
    """Return the numbers and states."""
    return [(one["number"], one["state"]) for one in lb.status()["generations"]]


def end(lb: Instance) -> None:
    """Have it stop as `docker stop` does, and see that it did not need much memory."""
    most = int(status_fields(lb.pid)["VmHWM"].split()[0])
    lb.signal(signal.SIGTERM)

    assert lb.process.wait(timeout=60) == 0
    assert most < MOST_KIB
    assert "a bug in safe_reload" not in lb.log


@pytest.mark.parametrize("how", EVIL)
def test_a_candidate_with_a_hostile_answer_is_killed(begin: Begin, how: str) -> None:
    """The client of the reload is told, the current one goes on, and the next candidate replaces it."""
    lb = begin(FAKE_2=how)
    assert lb.ask(b"reload\n").startswith("Success=0")
    assert generations(lb) == [(1, "current")]
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert (3, "current") in generations(lb)
    end(lb)


@pytest.mark.parametrize("how", EVIL)
def test_a_current_haproxy_with_a_hostile_answer_is_replaced(begin: Begin, how: str) -> None:
    """The status is answered, a reload succeeds, and the stop ends."""
    lb = begin(FAKE_1=f"good {how}")
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert (2, "current") in generations(lb)
    end(lb)


@pytest.mark.parametrize("how", EVIL)
def test_a_stop_ends_a_haproxy_with_a_hostile_answer(begin: Begin, how: str) -> None:
    """It is told to leave whatever it answers."""
    lb = begin(FAKE_1=f"good {how}")
    end(lb)


@pytest.mark.parametrize("how", ["endless", "huge"])
def test_an_endless_answer_to_a_client_is_passed_on_without_being_stored(begin: Begin, how: str) -> None:
    """The client may read it or not; nothing is stored, not even what the client does not read."""
    lb = begin(FAKE_1=f"good {how}")
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as slow:
        for one in (client, slow):
            one.settimeout(60)
            one.connect(lb.path)
            one.sendall(b"@1 show fd\n")
        got = 0
        while got < 90_000_000:
            got += len(client.recv(1 << 20))

        assert generations(lb) == [(1, "current")]
    end(lb)
