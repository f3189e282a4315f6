"""What haproxy writes to its stderr: nobody who is served ever waits for who reads it."""

import json
import os
import re
import signal

import pytest

from tests.container.conftest import Balancer, Start, configuration
from tests.container.trouble import reload
from tests.waiting import eventually

CLI = 9999
TALKATIVE = f"""
global
    stats socket ipv4@127.0.0.1:{CLI} level admin
backend talked-about
    server {"s" * 100} 127.0.0.1:1
"""
"""A haproxy that can be made to say as much as one likes, while it serves."""
TURNS = 4000
"""So often it is: each time is a warning of more than 100 bytes, and a pipe holds 256 KiB at most."""


def say_much(lb: Balancer, turns: int = TURNS) -> None:
    """Have the current haproxy say much, and wait until it has."""
    server = f"talked-about/{'s' * 100}"
    turn = f"set server {server} state maint;set server {server} state ready;"
    for _ in range(turns // 50):
        with lb.connect(CLI) as client:
            client.settimeout(60)
            client.sendall(turn.encode() * 25 + b"\n")
            while client.recv(65536):
                pass


@pytest.mark.parametrize("style", ["text", "json"])
def test_traffic_goes_on_while_pid_1_is_stopped_and_haproxy_says_much(start: Start, image: str, style: str) -> None:
    """More than any pipe holds; what was lost by that is said, and the next lines arrive."""
    lb = start(image, options=("--log-format", style), text=configuration("one", TALKATIVE)).begins("one")

    os.kill(lb.pid, signal.SIGSTOP)
    say_much(lb)
    assert lb.get() == "one"
    os.kill(lb.pid, signal.SIGCONT)

    eventually(lambda: "may have lost lines" in lb.log)
    reload(lb)
    lines = lb.log.splitlines()
    said = [line for line in lines if "is going DOWN for maintenance" in line or "is UP" in line]
    assert 500 < len(said) < TURNS
    if style == "json":
        assert all(json.loads(line) for line in lines)


WARNED_OF = 300
"""Each is a warning of more than 140 bytes: a rule that stands after the one that it is carried out before."""


def test_why_a_reload_has_failed_is_found_behind_any_number_of_warnings(start: Start, image: str) -> None:
    """The answer to the reload and `status` have the alert, and name the line of it and no other."""
    lb = start(image).begins("one")
    rules = "  use_backend nobody if FALSE\n" + "  http-request set-header x-it is\n" * WARNED_OF
    bad = configuration("two", rules + "backend nobody\n  bnid :1\n")
    lb.edit(bad)

    status, words = lb.run("safe_reload", "reload")
    assert status == 1
    report = lb.run("safe_reload", "status")[1]
    last = json.loads(lb.run("safe_reload", "status", "--json")[1])["last_reload"]

    line = bad.splitlines().index("  bnid :1") + 1
    for text in (words, report, last["words"]):
        assert f"[/etc/lb/haproxy.cfg:{line}]" in text
    assert f"correct line {line} of /etc/lb/haproxy.cfg" in report
    kept = last["words"].splitlines()
    missing = [int(number) for number in re.findall(r"^\((\d+) lines? left out here\)$", last["words"], re.MULTILINE)]
    pid = re.findall(r"^\[ALERT\] +(\(\d+\)) : ", words, re.MULTILINE)[0]
    said = [text for text in lb.log.splitlines() if re.match(r"\[(NOTICE|WARNING|ALERT)\]", text) and pid in text]
    assert len(kept) - len(missing) + sum(missing) == len(said) > WARNED_OF
    assert sum(missing) > 0
