"""CONTRIBUTING shows the functions that five trips through PID 1 call; they do, in this order."""

import json
import os
import re
import signal
from pathlib import Path

from tests.system.instance import Begin
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
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
"""


def trips() -> dict[str, list[list[str]]]:
    """Return what the page says is passed, by the name of the trip."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.findall(r"^\*\*(A [a-z ]+)\*\*.*?```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {name: [line.split() for line in lines.splitlines()] for name, lines in found}


def test_the_trips_of_contributing_are_taken(begin: Begin, tmp_path: Path) -> None:
    """Each function in its order, on each of the trips."""
    calls = tmp_path / "calls"
    lb = begin(code=TRACED, TRIP=str(calls)).becomes_current()

    def so_far() -> int:
        return calls.stat().st_size

    def passes(trip: str, since: int) -> None:
        """Wait until all functions of a trip have been called, in this order."""

        def missing() -> list[list[str]]:
            left = list(shown[trip])
            for line in calls.read_text()[since:].splitlines():
                if left and line == json.dumps(left[0]):
                    left.pop(0)
            return left

        eventually(lambda: missing() == [])

    shown = trips()
    assert set(shown) == {"A signal", "A changed file", "A changed map", "A question", "A death"}

    since = so_far()
    lb.signal(signal.SIGUSR1)
    lb.becomes_current(2)
    passes("A signal", since)

    since = so_far()
    lb.append("# more")
    lb.becomes_current(3)
    passes("A changed file", since)

    hosts = tmp_path / "hosts.map"
    hosts.write_text("/one 1\n")
    lb.append(f"  http-request set-header x %[path,map({hosts})]")
    lb.becomes_current(4)
    since = so_far()
    hosts.write_text("/two 2\n")
    passes("A changed map", since)
    assert "hosts.map without a reload" in lb.log

    since = so_far()
    assert lb.ask(b"reload\n", half_close=False).startswith("Success=1")
    passes("A question", since)

    since = so_far()
    (haproxy,) = [one["pid"] for one in lb.status()["generations"] if one["state"] == "current"]
    os.kill(haproxy, signal.SIGKILL)
    lb.becomes_current(6)
    passes("A death", since)
