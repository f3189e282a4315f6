"""The map: CONTRIBUTING says what is passed on four trips through PID 1, and it is."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
CONFIGURATION = """\
defaults
  mode http
  timeout client 9s
frontend web
  bind "fd@${FD_WEB}"
  http-request return status 200
"""
TRACED = """
import fcntl, json, os, sys
with open(os.environ["TRIP"], "w") as file:
    # The low numbers are the VIPs'.
    out = open(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 500), "w", buffering=1)
me = os.getpid()
def profile(frame, event, _):
    module = frame.f_globals.get("__name__", "")
    if event == "call" and module.startswith("entrypoint.") and os.getpid() == me:
        out.write(json.dumps([module.removeprefix("entrypoint."), frame.f_code.co_qualname]) + chr(10))
sys.setprofile(profile)
from entrypoint.__main__ import main
main()
"""


def trips() -> dict[str, list[list[str]]]:
    """Return what the page says is passed, by the name of the trip."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.findall(r"^\*\*(A [a-z ]+)\*\*.*?```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {name: [line.split() for line in lines.splitlines()] for name, lines in found}


class Traced:
    """A running safe_reload, and every function that it calls."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        self.folder = folder
        self.configuration = folder / "etc" / "haproxy.cfg"
        self.configuration.parent.mkdir()
        self.configuration.write_text(CONFIGURATION)
        with socket.create_server(("127.0.0.1", 0)) as free:
            vip = f"127.0.0.1:{free.getsockname()[1]}:FD_WEB"
        words = [sys.executable, "-c", TRACED, "--name", "lb", "--runtime-dir", str(folder / "run"), "--vips", vip]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRIP": str(folder / "calls")}
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*words, "haproxy", "-f", str(self.configuration)], stderr=log, env=environment
            )
        self.becomes_current(1)

    @property
    def log(self) -> str:
        """Everything that has been logged."""
        return (self.folder / "log").read_text()

    def becomes_current(self, number: int) -> None:
        """Wait until this generation is."""
        eventually(lambda: f"generation {number} (pid" in self.log and self.log.count("is current") == number)

    def haproxy(self) -> int:
        """Return the pid of the current haproxy."""
        return int(re.findall(r"pid (\d+)\) is current", self.log)[-1])

    def passes(self, trip: list[list[str]], since: int) -> None:
        """Wait until all of these have been called, in this order."""

        def missing() -> list[list[str]]:
            lines = (self.folder / "calls").read_text()[since:].splitlines()
            left = list(trip)
            for line in lines:
                if left and line == json.dumps(left[0]):
                    left.pop(0)
            return left

        eventually(lambda: missing() == [])

    @property
    def so_far(self) -> int:
        """How much has been called so far."""
        return (self.folder / "calls").stat().st_size


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    """One that is ended after the test."""
    instance = Traced(tmp_path)
    yield instance
    instance.process.send_signal(signal.SIGQUIT)
    instance.process.wait(timeout=60)


def test_what_the_map_shows_is_passed(traced: Traced) -> None:
    """Each function in its order, on each of the trips."""
    shown = trips()
    assert set(shown) == {"A signal", "A changed file", "A question", "A death"}

    begin = traced.so_far
    traced.process.send_signal(signal.SIGUSR1)
    traced.becomes_current(2)
    traced.passes(shown["A signal"], begin)

    begin = traced.so_far
    traced.configuration.write_text(CONFIGURATION + "# more\n")
    traced.becomes_current(3)
    traced.passes(shown["A changed file"], begin)

    begin = traced.so_far
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(traced.folder / "run" / "lb.sock"))
        client.sendall(b"reload\n")
        assert client.recv(100).startswith(b"Success=1")
    traced.passes(shown["A question"], begin)

    begin = traced.so_far
    os.kill(traced.haproxy(), signal.SIGKILL)
    traced.becomes_current(5)
    traced.passes(shown["A death"], begin)
