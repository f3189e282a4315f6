"""What is asked inside the container, as an operator, a sidecar and Prometheus ask."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.connections import http_get
from tests.container.cli import MASTERS, OURS, ROW, ask, talk
from tests.container.conftest import IMAGES, NEWEST_STABLE, Balancer, Start, configuration
from tests.promtool import needs_promtool, promtool
from tests.waiting import eventually

RELOADS = int(os.environ.get("TEST_RELOADS", "10"))


def haproxys_master(start: Start, image: str) -> Balancer:
    """Start haproxy itself as a master with a CLI, which serves "one"."""
    words = ("haproxy", "-W", "-db", "-S", MASTERS, "-f", "/etc/lb/haproxy.cfg")
    plain = configuration("one").replace("fd@${FD_WEB}", "127.0.0.1:8080")
    return start(image, entrypoint=["sh", "-c", " ".join(words)], operands=(), text=plain).serves("one")


def http(lb: Balancer, path: str) -> tuple[int, str]:
    """Ask the exporter."""
    head, body = http_get(lb.connect(9101), path)
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


USERS_OWN = """
global
    stats socket ipv4@127.0.0.1:9999 level admin
    stats maxconn 2
    stats timeout 1h
"""


def test_sessions_on_the_users_own_cli_hold_up_nothing(start: Start, image: str) -> None:
    """However many stay open, each is answered, and reloads, the status and a start after a crash are as without."""
    lb = start(image, text=configuration("one", USERS_OWN)).begins("one")
    for number in range(2, 5):
        with contextlib.ExitStack() as sessions:
            for _ in range(20):
                session = sessions.enter_context(lb.connect(9999))
                session.sendall(b"prompt\n")
                assert session.recv(100)
            lb.edit(configuration(f"reload {number}", USERS_OWN))
            assert lb.run("safe_reload", "reload")[0] == 0
            assert lb.get() == f"reload {number}"
            assert "Name: HAProxy" in ask(lb, OURS, "@1 show info\n")
    eventually(lambda: len(lb.children()) == 1)
    os.kill(lb.children()[0], signal.SIGKILL)
    eventually(lambda: "unasked" in lb.log)
    lb.serves("reload 4")

    # In 2.6 a thread lets go when a connection wakes it up, and on a busy machine its successor is faster every time.
    assert image == IMAGES["2.6"] or "has not let go" not in lb.log
    assert "not_ready" not in lb.log
    assert "is killed" not in lb.log


def test_reload_returns_when_the_new_configuration_answers(start: Start, image: str) -> None:
    """A request right after it gets the new answer; a bad one gives 1 and haproxy's words, and changes nothing.

    The series that the exporter serves are as many after all these reloads as after the first.
    """
    lb = start(image, options=("--exporter", "127.0.0.1:9101")).begins("one")
    eventually(lambda: code(lb, "/readyz") == 200)
    series_at_first = 0
    for number in range(RELOADS):
        lb.edit(configuration(f"mark {number}"))
        assert lb.run("safe_reload", "reload")[0] == 0
        assert lb.get() == f"mark {number}"
        series_at_first = series_at_first or series(lb)
    assert series(lb) == series_at_first > 10
    lb.edit(configuration("bad", "    nonsense\n"))
    status, words = lb.run("safe_reload", "reload")

    assert status == 1
    assert "nonsense" in words
    assert lb.get() == f"mark {RELOADS - 1}"
    status, words = lb.run("safe_reload", "status")
    assert status == 0
    assert "FAILURE" in words


@pytest.mark.parametrize("question", ["show proc\n", "show proc;quit\n", "@master show proc\n"])
def test_the_processes_read_as_those_of_haproxys_master(start: Start, image: str, question: str) -> None:
    """One parser reads both, side by side."""
    lb = start(image).begins("one")
    shown = []
    for one, path in ((lb, OURS), (haproxys_master(start, image), MASTERS)):
        lines = ask(one, path, question).splitlines()
        assert lines[0].split() == ["#<PID>", "<type>", "<reloads>", "<uptime>", "<version>"]
        rows = [ROW.fullmatch(line) for line in lines if line and not line.startswith("#")]
        assert all(rows)
        shown.append([(row[2], row[3], row.start(3), row.start(5)) for row in rows if row])
    assert shown[0] == shown[1]


@pytest.mark.parametrize("version", ["3.0", "3.2"])
@pytest.mark.parametrize(
    "turns",
    [
        # HAProxy's Go library, so the ingress controller and the Data Plane API, since its version 5 and before.
        [("set severity-output number;@1 set map x y z;quit\n", "")],
        [("set severity-output number;@1 set server a/b state ready;quit\n", "")],
        [("set severity-output number;@1 show version;quit\n", "")],
        [("@1 set severity-output number;@1 show version;quit\n", "")],
        [("@1 set severity-output number;@1 set map x y z;quit\n", "")],
        # haproxy-ingress, which keeps its connection, with a prompt and without.
        [("prompt\n", "master> "), ("@1 show version\n", "master> "), ("@1 set map x y z\n", "master> ")],
        [("@1 show version\n", "\n\n"), ("@1 show version;@1 set map x y z\n", "file>.\n\n"), ("quit\n", "")],
        # People, and what expects a prompt after each line.
        [("prompt\n", "> "), ("\n", "> "), ("@1\n", "> "), ("show version\n", "> "), ("@master\n", "> ")],
        [("@1;show version;quit\n", "")],
        [("expert-mode on;@1 expert-mode;quit\n", "")],
    ],
)
def test_programs_that_ask_haproxys_master_hear_the_same_from_us(
    start: Start, version: str, turns: list[tuple[str, str]]
) -> None:
    """Byte by byte, but for pids."""
    image = IMAGES[version]
    lb = start(image).begins("one")
    assert talk(lb, OURS, *turns) == talk(haproxys_master(start, image), MASTERS, *turns)


@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_a_reload_reads_as_that_of_haproxys_master(start: Start, version: str) -> None:
    """A status, two dashes, words with the alerts, an empty line, the end; the logs repeat the alerts."""
    image = IMAGES[version]
    lb = start(image).begins("one")
    found = []
    for one, path in ((lb, OURS), (haproxys_master(start, image), MASTERS)):
        good = (one.folder / "haproxy.cfg").read_text()
        for text in (good, good.replace("mode http", "mode hptt")):
            one.edit(text)
            answer = talk(one, path, ("reload\n", ""))[0]
            status, dashes, words = answer.partition("\n--\n")
            logs = talk(one, path, ("show startup-logs\n", "\n\n" if text != good else "\n"))[0]
            alerts = [line.partition(" : ")[2] for line in words.splitlines() if "[ALERT]" in line]
            repeated = [line.partition(" : ")[2] for line in logs.splitlines() if "[ALERT]" in line]
            assert repeated == alerts
            found.append((status, dashes, alerts, answer.endswith("\n\n")))

    assert found[:2] == found[2:]
    assert [status for status, *_ in found[:2]] == ["Success=1", "Success=0"]


@needs_promtool
def test_the_probes_follow_the_instance(start: Start, image: str) -> None:
    """Live and ready while it serves, also after a failed reload and the exporter's death; not ready while it stops."""
    lb = start(image, options=("--exporter", "127.0.0.1:9101", "--stop-delay", "20")).begins("one")
    eventually(lambda: code(lb, "/readyz") == 200)
    assert code(lb, "/livez") == 200
    before = http(lb, "/metrics")[1]
    promtool("check", "metrics", text=before.encode())
    assert "SAFE_RELOAD_" not in lb.log

    lb.edit(configuration("bad", "    nonsense\n"))
    assert lb.run("safe_reload", "reload")[0] == 1
    assert code(lb, "/readyz") == 200
    assert "safe_reload_config_last_reload_successful 0" in http(lb, "/metrics")[1]
    lb.edit(configuration("two"))
    assert lb.run("safe_reload", "reload")[0] == 0
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
