"""What is asked inside the container, as an operator, a sidecar and Prometheus ask."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.promtool import needs_promtool, promtool
from tests.waiting import eventually

ASK = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(sys.argv[2].encode())
client.shutdown(socket.SHUT_WR)
while data := client.recv(65536):
    sys.stdout.buffer.write(data)
"""
ROW = re.compile(r"(\d+) +(master|worker) +(\d+(?: \[failed: \d+\])?) +(\d+d\d\dh\d\dm\d\ds) +(\S+) *")
RELOADS = int(os.environ.get("TEST_RELOADS", "10"))


def run(lb: Balancer, *words: str) -> tuple[int, str]:
    """Run something in the container."""
    result = lb.container.exec_run(list(words))
    assert isinstance(result.output, bytes)
    return result.exit_code or 0, result.output.decode()


def ask(lb: Balancer, path: str, question: str) -> str:
    """Ask over a socket in the container, which half-closes, as socat does."""
    return run(lb, "python3", "-c", ASK, path, question)[1]


def http(lb: Balancer, path: str) -> tuple[int, str]:
    """Ask the exporter."""
    with lb.connect(9101) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while data := client.recv(65536):
            answer += data
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


def code(lb: Balancer, path: str) -> int:
    """Return the status that the exporter answers with; 0 while it does not."""
    try:
        return http(lb, path)[0]
    except (OSError, IndexError):
        return 0


def series(lb: Balancer) -> int:
    """Return how many series the exporter serves while there is it and one haproxy."""
    eventually(lambda: len(lb.children()) == 2)
    return sum(not line.startswith("#") for line in http(lb, "/metrics")[1].splitlines())


def test_reload_returns_when_the_new_configuration_answers(start: Start, image: str) -> None:
    """A request right after it gets the new answer; a bad one gives 1 and haproxy's words, and changes nothing.

    The series that the exporter serves are as many after all these reloads as after the first.
    """
    lb = start(image, options=("--exporter", "127.0.0.1:9101", "--watch", "off"))
    lb.serves("one")
    eventually(lambda: code(lb, "/readyz") == 200)
    series_at_first = 0
    for number in range(RELOADS):
        lb.edit(configuration(f"mark {number}"))
        assert run(lb, "safe_reload", "reload")[0] == 0
        assert lb.get() == f"mark {number}"
        series_at_first = series_at_first or series(lb)
    assert series(lb) == series_at_first > 10
    lb.edit(configuration("bad", "    nonsense\n"))
    status, words = run(lb, "safe_reload", "reload")

    assert status == 1
    assert "nonsense" in words
    assert lb.get() == f"mark {RELOADS - 1}"
    status, words = run(lb, "safe_reload", "status")
    assert status == 0
    assert "FAILURE" in words


@pytest.mark.parametrize("question", ["show proc\n", "show proc;quit\n", "@master show proc\n"])
def test_the_processes_read_as_those_of_haproxys_master(start: Start, image: str, question: str) -> None:
    """One parser reads both, side by side."""
    lb = start(image)
    lb.serves("one")
    words = ("haproxy", "-W", "-db", "-S", "/tmp/master.sock", "-f", "/etc/lb/haproxy.cfg")
    plain = configuration("one").replace("fd@${FD_WEB}", "127.0.0.1:8080")
    master = start(image, entrypoint=["sh", "-c", " ".join(words)], operands=(), text=plain)
    master.serves("one")
    shown = []
    for one, path in ((lb, "/run/safe_reload/haproxy.sock"), (master, "/tmp/master.sock")):
        lines = ask(one, path, question).splitlines()
        assert lines[0].split() == ["#<PID>", "<type>", "<reloads>", "<uptime>", "<version>"]
        rows = [ROW.fullmatch(line) for line in lines if line and not line.startswith("#")]
        assert all(rows)
        shown.append([(row[2], row[3], row.start(3), row.start(5)) for row in rows if row])

    assert shown[0] == shown[1]


@needs_promtool
def test_the_exporter_follows_a_life(start: Start, image: str) -> None:
    """Live and ready while it serves, also after a failed reload and its own death; not ready while it is stopping."""
    lb = start(image, options=("--exporter", "127.0.0.1:9101", "--stop-delay", "20", "--watch", "off"))
    lb.serves("one")
    eventually(lambda: code(lb, "/readyz") == 200)
    assert code(lb, "/livez") == 200
    before = http(lb, "/metrics")[1]
    promtool("check", "metrics", text=before.encode())
    assert "SAFE_RELOAD_" not in lb.log

    lb.edit(configuration("bad", "    nonsense\n"))
    assert run(lb, "safe_reload", "reload")[0] == 1
    assert code(lb, "/readyz") == 200
    assert "safe_reload_config_last_reload_successful 0" in http(lb, "/metrics")[1]
    lb.edit(configuration("two"))
    assert run(lb, "safe_reload", "reload")[0] == 0
    assert "safe_reload_config_last_reload_successful 1" in http(lb, "/metrics")[1]

    for pid in lb.children():
        if b"exporter" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: "the exporter" in lb.log)
    eventually(lambda: code(lb, "/readyz") == 200)
    assert lb.get() == "two"
    lb.kill("TERM")
    eventually(lambda: code(lb, "/readyz") == 503)
    assert code(lb, "/livez") == 200
    assert lb.get() == "two"


def test_fatal_errors_are_objects_where_json_is_asked_for(start: Start) -> None:
    """Also those before the start."""
    lb = start(NEWEST_STABLE, vips="nonsense", environment={"SAFE_RELOAD_LOG_FORMAT": "json"})
    lb.container.wait(timeout=30)

    assert lb.log.startswith('{"time"')
    assert "VIPS entry 1 'nonsense'" in lb.log
