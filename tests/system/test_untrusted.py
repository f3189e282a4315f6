"""haproxy is not trusted: whatever it answers, and whatever it does to what it has inherited, PID 1 goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.lives import status_fields
from tests.system.test_control_server import read_all
from tests.waiting import eventually

FAKE = Path(__file__).with_name("fake_haproxy.py")
EVIL = ("deaf", "endless", "huge", "drop", "descriptors", "digits", "no-digits")
MOST_KIB = 100 * 1024
"""What PID 1 may need while it takes an answer of 16 MiB."""


class Instance:
    """A running safe_reload."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        """Look at a process that has been started."""
        self.process = process
        self.folder = folder

    @property
    def log(self) -> str:
        """Everything that has been written to stderr."""
        return (self.folder / "log").read_text()

    def ask(self, question: bytes) -> str:
        """Return what is answered; nothing before the control socket is there."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            try:
                client.connect(str(self.folder / "run" / "haproxy.sock"))
            except FileNotFoundError:
                return ""
            client.sendall(question)
            client.shutdown(socket.SHUT_WR)
            return read_all(client).decode()

    def generations(self) -> list[tuple[int, str]]:
        """Return the numbers and states."""
        status = self.ask(b"status\n")
        return [(one["number"], one["state"]) for one in json.loads(status)["generations"]] if status else []


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Instance]]:
    """Start safe_reload with a haproxy that is none; it is ended after the test."""
    program = tmp_path / "haproxy"
    program.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
    program.chmod(0o755)
    (tmp_path / "haproxy.cfg").write_text("")
    started: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> Instance:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "entrypoint", "--runtime-dir", str(tmp_path / "run"), "--watch", "off"]
        words += ["--ready-timeout", "3", "--vips", f"127.0.0.1:{port}:FD_WEB"]
        with (tmp_path / "log").open("wb") as stderr:
            process = subprocess.Popen(
                [*words, str(program), "-f", str(tmp_path / "haproxy.cfg")],
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
            )
        started.append(process)
        return Instance(process, tmp_path)

    yield start
    for process in started:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()


def end(lb: Instance) -> None:
    """Have it stop as `docker stop` does, and see that it did not need much memory."""
    most = int(status_fields(lb.process.pid)["VmHWM"].split()[0])
    lb.process.send_signal(signal.SIGTERM)

    assert lb.process.wait(timeout=60) == 0
    assert most < MOST_KIB
    assert "a bug in safe_reload" not in lb.log


@pytest.mark.parametrize("how", EVIL)
def test_a_candidate_that_answers_so_is_killed(begin: Callable[..., Instance], how: str) -> None:
    """Who asked for the reload is told, the other one serves on, and the next candidate takes its place."""
    lb = begin(FAKE_2=how)
    eventually(lambda: lb.generations() == [(1, "current")])

    assert lb.ask(b"reload\n").startswith("Success=0")
    assert lb.generations() == [(1, "current")]
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert (3, "current") in lb.generations()
    end(lb)


@pytest.mark.parametrize("how", EVIL)
def test_a_current_one_that_answers_so_is_replaced(begin: Callable[..., Instance], how: str) -> None:
    """The status is answered, a reload succeeds, and the stop ends."""
    lb = begin(FAKE_1=f"good {how}")
    eventually(lambda: lb.generations() == [(1, "current")])

    assert lb.ask(b"reload\n").startswith("Success=1")
    assert (2, "current") in lb.generations()
    end(lb)


@pytest.mark.parametrize("how", EVIL)
def test_a_stop_ends_with_one_that_answers_so(begin: Callable[..., Instance], how: str) -> None:
    """It is told to leave whatever it answers."""
    lb = begin(FAKE_1=f"good {how}")
    eventually(lambda: lb.generations() == [(1, "current")])
    end(lb)


@pytest.mark.parametrize("how", ["endless", "huge"])
def test_what_is_passed_on_has_no_limit(begin: Callable[..., Instance], how: str) -> None:
    """It is the client's to read or not, and nothing is kept of it: not even what it does not read."""
    lb = begin(FAKE_1=f"good {how}")
    eventually(lambda: lb.generations() == [(1, "current")])
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as slow:
        for one in (client, slow):
            one.settimeout(60)
            one.connect(str(lb.folder / "run" / "haproxy.sock"))
            one.sendall(b"@1 show fd\n")
        got = 0
        while got < 90_000_000:
            got += len(client.recv(1 << 20))

        assert lb.generations() == [(1, "current")]
    end(lb)
