"""The exporter: the real process, asked over real connections, beside a control socket that speaks as PID 1 does."""

import copy
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from entrypoint.client.exporter import first_that_exists
from entrypoint.client.exporter.request import wants_openmetrics
from entrypoint.client.exporter.server import MOST_CLIENTS
from entrypoint.client.main import run
from entrypoint.core.lifecycle import RELOAD_SIGNALS
from entrypoint.core.watching import FILES, RETRY
from entrypoint.pid1.control_server import TRIGGER as DESK
from tests.connections import dead_socket
from tests.descriptors import sockets
from tests.promtool import needs_promtool, promtool
from tests.system.lives import is_running, status_fields
from tests.system.strangers import OURS, STRANGER, as_user, folder_of, listening_as
from tests.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
RUN = "import os, sys; from entrypoint.client.main import run; sys.exit(run(['exporter', *sys.argv[1:]], os.environ))"
PATIENCE = 20.0
ALLOWED_GROWTH_KIB = 8 * 1024

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "name": "lb",
    "pid": 1,
    "stage": "serving",
    "uptime_seconds": 12.5,
    "pid_file": None,
    "generations": [
        {"number": 2, "pid": 16, "state": "draining", "age_seconds": 70.5, "connections": 3, "sha256": "aa"},
        {"number": 3, "pid": 17, "state": "current", "age_seconds": 1.2, "connections": None, "sha256": "bb"},
    ],
    "vips": [
        {"tag": "FD_WEB", "address": "127.0.0.1:80", "accepts": True},
        {"tag": "FD_OLD", "address": "127.0.0.1:81", "accepts": False},
    ],
    "adopted": [],
    "configuration": {
        "sha256": "bb",
        "disk_sha256": "bb",
        "pending": False,
        "last_known_good": False,
        "files": ["/etc/haproxy.cfg"],
        "unreadable": None,
    },
    "last_reload": {
        "result": "success",
        "kind": "reload",
        "trigger": "SIGUSR1",
        "generation": 3,
        "at": 1790000000.25,
        "seconds": 0.02,
        "message": "generation 3 serves",
        "words": "",
    },
    "last_success_at": 1790000000.25,
    "watch": {"mode": "inotify", "stale_mounts": [], "files": 3},
    "log": {"lines_lost": 17},
    "restarts": {"in_a_row": 1, "limit": 5, "by_reason": {"SIGKILL": 2, "status 7": 1}},
    "reloads": [
        {"trigger": "SIGUSR1", "result": "success", "kind": "reload", "count": 3},
        {"trigger": "SIGUSR1", "result": "failure", "kind": "reload", "count": 1},
        {"trigger": "files", "result": "success", "kind": "applied", "count": 8},
    ],
    "reload_seconds": {"buckets": [[0.01, 0], [0.025, 3], [1, 4]], "sum": 0.06, "count": 4},
}


class Peer:
    """What PID 1 is to the exporter: a listening socket that answers `status` as it is told, and counts."""

    def __init__(self, path: Path) -> None:
        """Listen."""
        self.answer: bytes | None = line(STATUS)
        """None: accept, and say nothing."""
        self.asked: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(16)
        self._silent: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.asked.append(connection.recv(4096))
            if self.answer is None:
                self._silent.append(connection)
                continue
            with suppress(OSError):
                connection.sendall(self.answer)
            connection.close()

    def close(self) -> None:
        """Hang up on everyone."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in (self._socket, *self._silent):
            connection.close()


def line(status: object) -> bytes:
    """Write a status as PID 1 does."""
    return json.dumps(status).encode() + b"\n"


def but(**changes: Any) -> dict[str, Any]:
    """Return the status with some values changed, tables by their keys."""
    status = copy.deepcopy(STATUS)
    for key, value in changes.items():
        status[key] = {**status[key], **value} if isinstance(value, dict) and status[key] else value
    return status


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Exporter:
    """The process, and where it listens."""

    process: "subprocess.Popen[str]"
    host: str
    port: int

    def connect(self) -> socket.socket:
        """Open a connection; it is given up when nothing happens for long."""
        return socket.create_connection((self.host, self.port), PATIENCE)

    def get(self, path: str, accept: str = "", method: str = "GET") -> Answer:
        """Ask over a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, headers={"Accept": accept} if accept else {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def samples(self) -> dict[str, float]:
        """Return every sample of the text format."""
        lines = self.get("/metrics").body.decode().splitlines()
        pairs = (text.rpartition(" ") for text in lines if not text.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def resident_kib(self) -> int:
        """Return its resident memory."""
        return int(status_fields(self.process.pid)["VmRSS"].split()[0])

    def descriptors(self) -> int:
        """Return how many descriptors it has."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


Start = Callable[..., Exporter]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The runtime directory."""
    return tmp_path


@pytest.fixture
def peer(folder: Path) -> Iterator[Peer]:
    """An instance called lb."""
    made = Peer(folder / "lb.sock")
    yield made
    made.close()


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """A function that starts an exporter; it is dead at the end, and its stderr closed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, listen: str = "127.0.0.1:0", host: str = "127.0.0.1") -> Exporter:
        process = spawn("--listen", listen, "--runtime-dir", str(folder), *words)
        started.append(process)
        assert process.stderr
        said = process.stderr.readline()
        found = re.search(r"listening on \S+:(\d+)$", said)
        assert found, said
        return Exporter(process, host, int(found[1]))

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


@pytest.fixture
def exporter(peer: Peer, start: Start) -> Exporter:
    """An exporter beside an instance."""
    return start()


def environment(**more: str) -> dict[str, str]:
    """Return the variables without those that are options."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("SAFE_RELOAD_")}, **more}


def spawn(*words: str, **variables: str) -> "subprocess.Popen[str]":
    """Start the exporter."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *words],
        cwd=REPOSITORY,
        env=environment(**variables),
        stderr=subprocess.PIPE,
        text=True,
    )


def refusal(*words: str) -> str:
    """Return the one line with which the exporter does not start."""
    process = spawn(*words)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said.count("\n") == 1, said
    return said


# ---- probes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "live", "ready"),
    [
        (STATUS, 200, 200),
        (but(last_reload={"result": "failure", "message": "refused"}, configuration={"pending": True}), 200, 200),
        (but(stage="backing_off", generations=[]), 200, 503),
        (but(generations=[{"number": 1, "pid": 9, "state": "candidate", "age_seconds": 0}]), 200, 503),
        (but(generations=[{"number": 1, "pid": 9, "state": "draining", "age_seconds": 0}]), 200, 503),
        (but(stage="lingering"), 200, 503),
        (but(stage="stopping"), 200, 503),
    ],
    ids=["serving", "failed reload", "backing off", "first candidate", "only draining", "lingering", "stopping"],
)
def test_probes_follow_the_stage(peer: Peer, exporter: Exporter, status: dict[str, Any], live: int, ready: int) -> None:
    """An instance that answers is alive in each stage; traffic is for one with a current generation that stays."""
    peer.answer = line(status)
    assert exporter.get("/livez").status == live
    readiness = exporter.get("/readyz")
    assert readiness.status == ready
    assert readiness.body.count(b"\n") == 1
    assert set(peer.asked) == {b"status\n"}


def test_an_instance_that_is_silent_is_dead_and_stops_nobody_else(peer: Peer, exporter: Exporter) -> None:
    """PID 1 accepts and says nothing: each probe gets its 503, all at the same time, from few questions."""
    peer.answer = None
    before = len(peer.asked)
    answers: list[Answer] = []
    paths = ["/livez", "/readyz", "/metrics"] * 10
    askers = [threading.Thread(target=lambda path=path: answers.append(exporter.get(path))) for path in paths]
    for asker in askers:
        asker.start()
    # Whom PID 1 does not concern is answered while the others wait.
    assert exporter.get("/nowhere").status == 404
    for asker in askers:
        asker.join(PATIENCE)
    assert sorted(answer.status for answer in answers) == [200] * 10 + [503] * 20
    assert {a.body for a in answers if a.status == 503} == {b"PID 1 does not answer within 2 s\n"}
    # One after the other would have been thirty questions, of two seconds each.
    assert len(peer.asked) - before <= 6
    peer.answer = line(STATUS)
    assert exporter.get("/livez").status == 200


def test_an_instance_that_is_stopped_is_dead(folder: Path, start: Start) -> None:
    """Nobody accepts, and at last not even the queue of the socket has room: 503 each time."""
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.socket(socket.AF_UNIX))
        deaf.bind(str(folder / "lb.sock"))
        deaf.listen(0)
        exporter = start()
        for _ in range(2):
            assert exporter.get("/livez").body == b"PID 1 does not answer within 2 s\n"


@pytest.mark.parametrize("answer", [b"", b"Unknown command: 'status'\n", b'{"stage": "serv', b"[]\n", b"[" * 100_000])
def test_a_malformed_answer_does_no_harm(peer: Peer, exporter: Exporter, answer: bytes) -> None:
    """Whatever is on the other side: the probes fail with one line, and the scrape reports up as 0."""
    peer.answer = answer
    readiness = exporter.get("/readyz")
    assert readiness.status == 503
    assert readiness.body.count(b"\n") == 1
    assert exporter.samples() == {"safe_reload_up": 0}
    assert exporter.get("/livez").status == (200 if answer else 503)


def test_an_answer_without_end_is_given_up(peer: Peer, exporter: Exporter) -> None:
    """What is kept of an answer is bounded."""
    peer.answer = b"x" * (16 * 1024 * 1024)
    before = exporter.resident_kib()
    assert exporter.get("/livez").body.endswith(b": the answer does not end; this is not safe_reload\n")
    assert exporter.resident_kib() < before + ALLOWED_GROWTH_KIB


def test_it_may_start_before_the_instance_and_outlive_it(folder: Path, start: Start) -> None:
    """Without an instance the probes say no; as soon as there is one they say yes, whatever its name is."""
    exporter = start()
    answer = exporter.get("/livez")
    assert (answer.status, answer.body.count(b"\n")) == (503, 1)
    assert exporter.samples() == {"safe_reload_up": 0}
    peer = Peer(folder / "any.sock")
    try:
        assert exporter.get("/readyz").status == 200
    finally:
        peer.close()
    assert exporter.get("/readyz").status == 503


def test_of_several_instances_one_has_to_be_named(folder: Path, peer: Peer, start: Start) -> None:
    """Without a name the answer says which there are; --name and --pid-file choose."""
    other = Peer(folder / "other.sock")
    try:
        assert b"choose one with --name: lb, other\n" in start().get("/readyz").body
        assert start("--name", "lb").get("/readyz").status == 200
        assert start("--pid-file", "/run/other.pid").get("/readyz").status == 200
        assert other.asked
    finally:
        other.close()


def test_the_only_instance_is_found_beside_a_dead_socket(folder: Path, peer: Peer, start: Start) -> None:
    """As `status` finds it."""
    dead_socket(folder / "dead.sock")
    assert start().get("/readyz").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_stranger_s_socket_is_not_believed(start: Start) -> None:
    """In a world-writable folder anybody may listen. The real instance is still found beside the stranger's socket."""
    says = line(STATUS).decode()
    with folder_of(0, 0o1777) as open_folder, listening_as(STRANGER, open_folder / "evil.sock", says):
        exporter = start("--runtime-dir", str(open_folder))
        answer = exporter.get("/livez")
        assert answer.status == 503
        assert b"evil.sock: not trusted: uid %d listens there" % STRANGER in answer.body
        assert exporter.samples() == {"safe_reload_up": 0}
        with listening_as(0, open_folder / "lb.sock", says):
            assert exporter.get("/readyz").status == 200


# ---- metrics -------------------------------------------------------------------------------------------------------


def test_the_metrics_are_the_status(exporter: Exporter) -> None:
    """Each number of the status is found under its documented name."""
    samples = exporter.samples()
    expected = {
        "up": 1,
        "config_last_reload_successful": 1,
        "config_last_reload_success_timestamp_seconds": 1790000000.25,
        'config_info{sha256="bb"}': 1,
        "config_pending": 0,
        'reloads_total{kind="reload",result="success",trigger="SIGUSR1"}': 3,
        'reloads_total{kind="reload",result="failure",trigger="SIGUSR1"}': 1,
        'reloads_total{kind="applied",result="success",trigger="files"}': 8,
        'reload_duration_seconds_bucket{le="0.025"}': 3,
        'reload_duration_seconds_bucket{le="+Inf"}': 4,
        "reload_duration_seconds_sum": 0.06,
        "reload_duration_seconds_count": 4,
        'generations{state="candidate"}': 0,
        'generations{state="current"}': 1,
        'generations{state="draining"}': 1,
        'generation_connections{state="draining"}': 3,
        'generation_connections{state="candidate"}': 0,
        "draining_oldest_seconds": 70.5,
        'restarts_total{reason="SIGKILL"}': 2,
        'restarts_total{reason="status 7"}': 1,
        'restarts_total{reason="SIGSEGV"}': 0,
        "restarts_in_a_row": 1,
        'watch_mode{mode="inotify"}': 1,
        'watch_mode{mode="poll"}': 0,
        "stale_mounts": 0,
        "log_lines_lost_total": 17,
        "last_known_good_active": 0,
        'vips{accepts="true"}': 1,
        'vips{accepts="false"}': 1,
        'vips{accepts="unknown"}': 0,
        "uptime_seconds": 12.5,
    }
    assert {name: samples.get(f"safe_reload_{name}") for name in expected} == expected
    assert any(re.match(r'safe_reload_build_info{.*version="0\.1\.0"', name) for name in samples)
    # The current one has not said how many it has, and 0 would be a wrong number.
    assert 'safe_reload_generation_connections{state="current"}' not in samples


def test_trouble_can_be_seen(peer: Peer, exporter: Exporter) -> None:
    """A failed reload, a pending configuration, the last known good one and a stale mount each have their number."""
    peer.answer = line(
        but(
            last_reload={"result": "failure"},
            configuration={"pending": True, "last_known_good": True},
            watch={"mode": "poll", "stale_mounts": ["/etc/haproxy.cfg"]},
        )
    )
    samples = exporter.samples()
    names = ("config_pending", "last_known_good_active", "stale_mounts", 'watch_mode{mode="poll"}')
    assert [samples[f"safe_reload_{name}"] for name in names] == [1, 1, 1, 1]
    assert samples["safe_reload_config_last_reload_successful"] == 0
    assert samples['safe_reload_watch_mode{mode="inotify"}'] == 0


def test_before_anything_happened(peer: Peer, exporter: Exporter) -> None:
    """Without a reload nothing has failed, and no time and no configuration are made up."""
    nothing: dict[str, Any] = {"last_reload": None, "last_success_at": None, "configuration": {"sha256": None}}
    peer.answer = line(but(**nothing))
    samples = exporter.samples()
    assert samples["safe_reload_config_last_reload_successful"] == 1
    assert "safe_reload_config_last_reload_success_timestamp_seconds" not in samples
    assert not any(name.startswith("safe_reload_config_info") for name in samples)


def test_what_may_happen_is_there_before_it_happens(peer: Peer, exporter: Exporter) -> None:
    """increase() does not see a first sample that is not 0; what asks for reloads is known."""
    triggers = {signal.Signals(signum).name for signum in RELOAD_SIGNALS} | {FILES.trigger, RETRY.trigger, DESK}
    peer.answer = line({**STATUS, "reloads": []})
    samples = exporter.samples()
    found = {name: value for name, value in samples.items() if name.startswith("safe_reload_reloads_total")}
    assert found == {
        f'safe_reload_reloads_total{{kind="{kind}",result="{result}",trigger="{trigger}"}}': 0
        for result in ("success", "failure")
        for trigger, kind in [*((trigger, "reload") for trigger in triggers), (FILES.trigger, "applied")]
    }


def test_series_that_are_over_disappear(peer: Peer, exporter: Exporter) -> None:
    """A hundred configurations later there is one hash, and as many series as before."""
    before = len(exporter.samples())
    for number in range(100):
        peer.answer = line(but(configuration={"sha256": f"{number:064x}"}))
        samples = exporter.samples()
        hashes = [name for name in samples if name.startswith("safe_reload_config_info")]
        assert hashes == [f'safe_reload_config_info{{sha256="{number:064x}"}}']
        assert len(samples) == before


@pytest.mark.parametrize(
    "status",
    [
        {},
        dict.fromkeys(STATUS),
        dict.fromkeys(STATUS, "?"),
        but(reloads=[{"trigger": 'a"b\\c\nd\udc80', "result": "success", "count": 1}]),
        but(restarts={"by_reason": {f"reason {n}": 1 for n in range(50)}}),
    ],
    ids=["empty", "null", "text", "odd letters", "many reasons"],
)
def test_a_status_of_another_version_is_shown_as_far_as_it_goes(
    peer: Peer, exporter: Exporter, status: dict[str, Any]
) -> None:
    """Missing and strange values cost their own series, not the scrape."""
    peer.answer = line(status)
    assert exporter.samples()["safe_reload_up"] == 1


@needs_promtool
@pytest.mark.parametrize("status", [STATUS, but(last_reload=None, last_success_at=None, generations=[])])
def test_promtool_finds_nothing(peer: Peer, exporter: Exporter, status: dict[str, Any]) -> None:
    """Names, types and help texts are as Prometheus wants them."""
    peer.answer = line(status)
    assert promtool("check", "metrics", text=exporter.get("/metrics").body) == ""


def test_openmetrics_for_those_who_ask(exporter: Exporter) -> None:
    """As Prometheus asks, the answer is OpenMetrics 1.0, which its own parser takes; else it is the text format."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    answer = exporter.get("/metrics", prometheus)
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.body.endswith(b"# EOF\n")
    parsed = text_string_to_metric_families(answer.body.decode())  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["safe_reload_reloads"].type == "counter"
    assert families["safe_reload_config"].type == "info"
    assert families["safe_reload_reload_duration_seconds"].type == "histogram"
    plain = exporter.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# EOF" not in plain.body


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0, text/plain;q=0.5", True),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
        (";;,,q=1", False),
    ],
)
def test_the_accept_header_is_weighed(accept: str, openmetrics: bool) -> None:
    """The heavier of the two formats wins, and plain text where nothing is said."""
    assert wants_openmetrics(accept) is openmetrics


# ---- clients that mean no good -------------------------------------------------------------------------------------


def test_slow_clients_keep_nobody_waiting(exporter: Exporter) -> None:
    """Many more clients than there is room for, none of which finishes its request: a probe is answered at once."""
    before = exporter.descriptors()
    with ExitStack() as stack:
        for _ in range(2 * MOST_CLIENTS):
            slow = stack.enter_context(exporter.connect())
            slow.sendall(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        assert exporter.descriptors() <= before + MOST_CLIENTS + 8  # the few that are on their way
        for path in ("/livez", "/readyz", "/metrics"):
            assert exporter.get(path).status == 200
    eventually(lambda: exporter.descriptors() <= before + 1)


def test_a_slow_client_is_hung_up_on(exporter: Exporter) -> None:
    """The limit of time is the request's, not the byte's."""
    with exporter.connect() as slow:

        def has_been_hung_up_on() -> bool:
            try:
                slow.sendall(b"x")
            except OSError:
                return True
            return False

        eventually(has_been_hung_up_on)


def test_a_client_that_never_reads_is_hung_up_on(peer: Peer, exporter: Exporter) -> None:
    """An answer that nobody takes is thrown away after a while."""
    reloads = [{"trigger": f"{number:0100d}", "result": "success", "count": 1} for number in range(8000)]
    peer.answer = line(but(reloads=reloads))
    before = exporter.descriptors()
    with ExitStack() as stack:
        for _ in range(5):
            greedy = socket.socket()
            stack.enter_context(greedy)
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.connect((exporter.host, exporter.port))
            greedy.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        # Not all five: on a busy machine the first has been hung up on before the last one has its answer.
        eventually(lambda: exporter.descriptors() > before)
        peer.answer = line(STATUS)
        assert exporter.get("/livez").status == 200
        eventually(lambda: exporter.descriptors() <= before + 1)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", b"431"),
        (b"GET /" + b"a" * 100_000, b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"z" * 100_000, b"405"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /livez?verbose=1 HTTP/1.1\r\n\r\n", b"200"),
        (b"GET / HTTP/1.0\r\n\r\n", b"200"),
        (b"GET http://lb:9101/livez HTTP/1.1\r\nHost: lb:9101\r\n\r\n", b"200"),
        (b"GET HTTP://lb/metrics?name=up HTTP/1.1\r\nHost: lb\r\n\r\n", b"200"),
        (b"GET https://[::1]:9101/readyz HTTP/1.1\r\nHost: lb\r\n\r\n", b"200"),
        (b"GET http://lb HTTP/1.1\r\nHost: lb\r\n\r\n", b"200"),
        (b"GET http://lb?/livez HTTP/1.1\r\nHost: lb\r\n\r\n", b"200"),
        (b"GET http://livez HTTP/1.1\r\nHost: livez\r\n\r\n", b"200"),
        (b"GET http://lb/other/livez HTTP/1.1\r\nHost: lb\r\n\r\n", b"404"),
        (b"GET ftp://lb/livez HTTP/1.1\r\nHost: lb\r\n\r\n", b"404"),
    ],
)
def test_whatever_is_asked_is_answered(exporter: Exporter, request_bytes: bytes, status: bytes) -> None:
    """Requests that are too long, no HTTP, or for something else get their status, and the next one is served."""
    with exporter.connect() as client:
        with suppress(OSError):  # it may be hung up on before it is done
            client.sendall(request_bytes)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = client.recv(4096)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 " + status)
    assert exporter.get("/livez").status == 200


def test_a_request_may_come_in_pieces(exporter: Exporter) -> None:
    """A request is complete when its empty line has come, however it comes."""
    with exporter.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for letter in b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n":
            client.sendall(bytes((letter,)))
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_head_is_get_without_a_body(exporter: Exporter) -> None:
    """HEAD tells the length and sends nothing."""
    answer = exporter.get("/livez", method="HEAD")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "3")


def test_five_thousand_requests_cost_no_memory(exporter: Exporter) -> None:
    """Memory and descriptors are what they were."""

    def ask(paths: Sequence[str], times: int) -> None:
        for number in range(times):
            assert exporter.get(paths[number % len(paths)]).status == 200

    paths = ("/metrics", "/livez", "/readyz")
    ask(paths, 300)
    before, descriptors = exporter.resident_kib(), exporter.descriptors()
    ask(paths, 5000)
    assert exporter.resident_kib() < before + 2048
    eventually(lambda: exporter.descriptors() <= descriptors)


# ---- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        (":0", ("127.0.0.1", "::1")),
        ("*:0", ("127.0.0.1", "::1")),
        ("127.0.0.1:0", ("127.0.0.1",)),
        ("[::1]:0", ("::1",)),
    ],
)
def test_every_form_of_an_address(peer: Peer, start: Start, listen: str, hosts: tuple[str, ...]) -> None:
    """No host and * are all addresses of both families; literals are themselves."""
    exporter = start(listen=listen)
    for host in hosts:
        assert Exporter(exporter.process, host, exporter.port).get("/livez").status == 200


def test_without_ipv6_it_is_ipv4() -> None:
    """Where the first address is not one of this machine's, the next one is taken; where none is, that is an error."""
    nowhere = (socket.AF_INET6, ("2001:db8::1", 0), False)
    with first_that_exists((nowhere, (socket.AF_INET, ("127.0.0.1", 0), False))) as listener:
        assert listener.family == socket.AF_INET
    with pytest.raises(OSError, match="assign"):
        first_that_exists((nowhere,))


@pytest.mark.parametrize(
    "address",
    ["9101", "127.0.0.1", ":", ":http", ":65536", ":-1", "::1:9101", "[::1:9101", "localhost:9101", "1.2.3:x"],
)
def test_a_wrong_address_is_refused_with_an_example(address: str) -> None:
    """One line says what would be right."""
    assert re.search(
        r"give (an address such as :9101|:PORT)|in brackets, such as \[::1\]:9101", refusal("--listen", address)
    )


def test_an_address_that_is_taken(exporter: Exporter) -> None:
    """One line names the address and the reason."""
    where = f"127.0.0.1:{exporter.port}"
    assert f"cannot listen on {where}: Address already in use" in refusal("--listen", where)


def test_a_command_line_that_is_wrong() -> None:
    """One line, not a usage page."""
    assert "--listen ADDR is missing" in refusal()
    assert "--nonsense is not an option; see safe_reload exporter" in refusal("--listen", ":0", "--nonsense")
    assert "did you mean --listen?" in refusal("--lisen", ":0")
    assert "exporter does not take 'x'" in refusal("--listen", ":0", "x")
    assert "no slash" in refusal("--listen", ":0", "--name", "../x")
    assert "'http' is not the number of a port: give" in refusal("--listen", ":http")


def test_options_can_be_variables(peer: Peer, folder: Path) -> None:
    """The environment is read as PID 1 reads it."""
    process = spawn(
        SAFE_RELOAD_LISTEN="127.0.0.1:0", SAFE_RELOAD_RUNTIME_DIR=str(folder), SAFE_RELOAD_LOG_FORMAT="json"
    )
    assert process.stderr
    try:
        record = json.loads(process.stderr.readline())
        assert record["event"] == "exporter_listening"
        eventually(lambda: peer.asked)
    finally:
        process.kill()
        process.communicate()


def test_without_prometheus_client_it_says_what_to_install() -> None:
    """One line names Debian's package and PyPI's."""
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {RUN}"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, "--listen", ":0"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "install python3-prometheus-client (Debian) or prometheus-client (PyPI)" in run.stderr


# ---- a life --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_it_ends_on_a_signal(exporter: Exporter, signum: signal.Signals) -> None:
    """Status 0 and no output, even while a client is in the middle of its request."""
    with exporter.connect() as slow:
        slow.sendall(b"GET /livez")
        exporter.process.send_signal(signum)
        assert exporter.process.wait(PATIENCE) == 0
    assert exporter.process.stderr
    assert exporter.process.stderr.read() == ""


def test_other_signals_do_nothing(exporter: Exporter) -> None:
    """What a supervisor's group may get does not end it."""
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGCHLD):
        exporter.process.send_signal(signum)
        assert exporter.get("/livez").status == 200


def test_it_has_no_privileges(exporter: Exporter) -> None:
    """No capability is left in any set that could give one, and no exec can bring one back."""
    fields = status_fields(exporter.process.pid)
    for name in ("CapPrm", "CapEff", "CapAmb", *(("CapBnd",) if os.geteuid() == 0 else ())):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"] == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_no_process_of_the_same_uid_can_trace_it() -> None:
    """Nor read its environment or its memory: haproxy often has the same uid."""
    prctl = pytest.importorskip("prctl")

    def serve_and_look() -> None:
        # Who has changed its uid cannot be traced until it executes something.
        prctl.set_dumpable(True)
        pid = os.fork()
        if not pid:
            run(["exporter", "--listen", "127.0.0.1:0", "--runtime-dir", "/nowhere"], {})
            os._exit(0)

        def is_readable() -> bool:
            with suppress(PermissionError):
                return Path(f"/proc/{pid}/environ").read_bytes() is not None
            return False

        try:
            eventually(lambda: not is_readable())
            assert is_running(pid)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    as_user(OURS, serve_and_look)


def test_it_dies_with_the_instance_that_started_it(folder: Path) -> None:
    """The exporter dies with its parent if that listens on the control socket, even when SIGKILL ends the parent."""
    supervisor = (
        "import os, socket, subprocess, sys\n"
        "listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()\n"
        "words = [sys.executable, '-c', *sys.argv[2:]]\n"
        "print(subprocess.Popen(words, stderr=subprocess.DEVNULL).pid, flush=True)\n"
        "client = listener.accept()[0]; client.recv(100); client.sendall(b'{}\\n'); client.close()\n"
        "print('asked', flush=True); sys.stdin.read()\n"
    )
    words = [RUN, "--listen", "127.0.0.1:0", "--runtime-dir", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-c", supervisor, str(folder / "lb.sock"), *words],
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout
        exporter = int(parent.stdout.readline())
        assert parent.stdout.readline() == "asked\n"
        # Only the listening one is left, so that nothing but its parent's death can wake it.
        eventually(lambda: len(sockets(exporter)) == 1)
        parent.kill()
        eventually(lambda: not is_running(exporter))


def test_it_outlives_a_parent_that_is_not_the_instance(peer: Peer, folder: Path) -> None:
    """A shell that has started it may end."""
    program = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], stdout=subprocess.DEVNULL).pid)"
    )
    words = [RUN, "--listen", "127.0.0.1:0", "--runtime-dir", str(folder)]
    run = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    exporter = int(run.stdout)
    try:
        eventually(lambda: peer.asked)
        assert is_running(exporter)
    finally:
        os.kill(exporter, signal.SIGTERM)
        eventually(lambda: not is_running(exporter))


# ---- haproxy's counters: tests/system/test_counters.py has the rest ------------------------------------------------


def test_one_that_counts_borrows_sessions_before_anybody_asks(start: Start, folder: Path) -> None:
    """It may have started before the instance did, and nobody has scraped yet."""
    start("--exporter-counters")
    peer = Peer(folder / "lb.sock")
    try:
        eventually(lambda: b"borrow sessions\n" in peer.asked)
    finally:
        peer.close()


def test_one_that_does_not_count_borrows_nothing(exporter: Exporter, peer: Peer) -> None:
    """Without the option the exporter asks for the status only."""
    exporter.samples()
    assert set(peer.asked) == {b"status\n"}
