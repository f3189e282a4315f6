"""haproxy's own counters in /metrics: the real exporter beside a real instance, through reloads, drains and deaths."""

import http.client
import os
import selectors
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from entrypoint.client.exporter.collector import Collector
from entrypoint.pid1.session import Session
from entrypoint.system.control_socket import Client
from tests.connections import free_port
from tests.promtool import needs_promtool, promtool
from tests.system.instance import Begin, Instance
from tests.waiting import eventually

SIZE = 100_000


class Origin(ThreadingHTTPServer):
    """A server: it answers at once, but to /slow it sends the second half of its answer when `go` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.go = threading.Event()
        self.asked = threading.Semaphore(0)
        """Released for each request to /slow."""


class Handler(BaseHTTPRequestHandler):
    """Answers with SIZE bytes."""

    server: Origin

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        self.wfile.write(bytes(SIZE // 2))
        if self.path == "/slow":
            self.server.asked.release()
            self.server.go.wait(60)
        self.wfile.write(bytes(SIZE // 2))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A running one."""
    made = Origin()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.go.set()
    made.shutdown()
    thread.join()
    made.server_close()


def configuration(origin: Origin, backend: str = "app") -> str:
    """Return one with a frontend, a backend and a server."""
    return f"""\
defaults
  mode http
  timeout client 60s
  timeout connect 9s
  timeout server 60s
frontend web
  bind "fd@${{FD_WEB}}"
  default_backend {backend}
backend {backend}
  server one 127.0.0.1:{origin.server_address[1]}
"""


class Observed:
    """An instance with an exporter that counts, and what its clients have done."""

    def __init__(self, begin: Begin, text: str) -> None:
        """Begin."""
        self.port = free_port()
        self.instance: Instance = begin(
            "--watch", "off", "--exporter", f"127.0.0.1:{self.port}", "--exporter-counters", text=text
        ).becomes_current()
        eventually(lambda: "exporter: listening on" in self.instance.log)
        # From then on PID 1 lends sessions.
        eventually(self.scrape)

    def text(self, accept: str = "text/plain") -> bytes:
        """Return the metrics."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as client:
            client.request("GET", "/metrics", headers={"Accept": accept})
            return client.getresponse().read()

    def scrape(self) -> dict[str, float]:
        """Return all samples of haproxy's counters."""
        lines = self.text().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line.startswith("haproxy_"))
        return {name: float(value) for name, _, value in pairs}

    def get(self, path: str = "/") -> int:
        """Ask once over a connection of its own; return how many bytes the body had."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.instance.port, timeout=60)) as client:
            client.request("GET", path, headers={"Connection": "close"})
            return len(client.getresponse().read())

    def reload(self, generation: int) -> None:
        """Reload, and wait until the new one is current."""
        assert "Success=1" in self.instance.ask(b"reload\n", half_close=False)
        self.instance.becomes_current(generation)

    def states(self) -> list[str]:
        """Return the states of all generations."""
        return [one["state"] for one in self.instance.status()["generations"]]


REQUESTS = 'haproxy_backend_http_requests_total{proxy="app"}'
ANSWERED = 'haproxy_frontend_http_responses_total{proxy="web",code="2xx"}'
SERVED = 'haproxy_server_http_responses_total{proxy="app",server="one",code="2xx"}'
MISSING = 'haproxy_backend_http_responses_total{proxy="app",code="4xx"}'
BYTES = 'haproxy_frontend_bytes_out_total{proxy="web"}'


def test_totals_are_right_to_the_request(begin: Begin, origin: Origin) -> None:
    """Three reloads, each with clients before and after, and a download that drains: nothing is lost, nothing twice."""
    observed = Observed(begin, configuration(origin))
    download = threading.Thread(target=observed.get, args=("/slow",))
    download.start()
    assert origin.asked.acquire(timeout=60)
    requests, last = 1, 0.0
    for generation in (2, 3, 4):
        for _ in range(7):
            observed.get()
        observed.get("/missing")
        requests += 8
        observed.reload(generation)
        observed.get()
        requests += 1
        found = observed.scrape()
        assert last <= found[REQUESTS] <= requests
        last = found[REQUESTS]
    eventually(lambda: observed.states() == ["draining", "current"])
    # haproxy counts the download at its end.
    assert observed.scrape()[REQUESTS] == requests - 1
    origin.go.set()
    download.join()
    eventually(lambda: observed.states() == ["current"])
    found = observed.scrape()
    assert found[REQUESTS] == requests
    assert found[SERVED] == requests - 3
    assert found[MISSING] == 3
    assert found[ANSWERED] == requests - 3
    assert found[BYTES] >= requests * SIZE


def test_nobody_need_scrape_in_time(begin: Begin, origin: Origin) -> None:
    """A generation that was never scraped is in the totals: it is read when its last connection has ended."""
    observed = Observed(begin, configuration(origin))
    for generation in (2, 3):
        observed.get()
        download = threading.Thread(target=observed.get, args=("/slow",))
        download.start()
        assert origin.asked.acquire(timeout=60)
        observed.reload(generation)
        observed.get()
        origin.go.set()
        download.join()
        eventually(lambda: observed.states() == ["current"])
        origin.go.clear()
    assert observed.scrape()[REQUESTS] == 6


def test_an_upgrade_changes_nothing(begin: Begin, origin: Origin) -> None:
    """The exporter gets sessions from the new program, too."""
    observed = Observed(begin, configuration(origin))
    observed.get()
    assert observed.instance.client("upgrade").returncode == 0
    observed.get()
    observed.reload(2)
    eventually(lambda: observed.states() == ["current"])
    observed.get()
    assert observed.scrape()[REQUESTS] == 3


def test_deaths_and_clearings_take_nothing_back(begin: Begin, origin: Origin) -> None:
    """After a crash and after `clear counters all` a total goes on from where it was scraped."""
    observed = Observed(begin, configuration(origin))
    for _ in range(3):
        observed.get()
    assert observed.scrape()[REQUESTS] == 3
    os.kill(observed.instance.status()["generations"][0]["pid"], signal.SIGKILL)
    observed.instance.becomes_current(2)
    observed.get()
    assert observed.scrape()[REQUESTS] == 4
    observed.instance.ask(b"@1 clear counters all;quit\n")
    assert observed.scrape()[REQUESTS] == 4
    observed.get()
    assert observed.scrape()[REQUESTS] == 5


def test_a_renamed_backend_ends_with_its_last_generation(begin: Begin, origin: Origin) -> None:
    """Its series stays while its generation drains, and is gone afterwards."""
    observed = Observed(begin, configuration(origin))
    observed.get()
    download = threading.Thread(target=observed.get, args=("/slow",))
    download.start()
    assert origin.asked.acquire(timeout=60)
    observed.instance.edit(configuration(origin, "new"))
    observed.reload(2)
    observed.get()
    found = observed.scrape()
    assert found[REQUESTS] == 1
    assert found[REQUESTS.replace("app", "new")] == 1
    origin.go.set()
    download.join()
    eventually(lambda: observed.states() == ["current"])
    found = observed.scrape()
    assert REQUESTS not in found
    assert found[REQUESTS.replace("app", "new")] == 1


@needs_promtool
def test_promtool_agrees(begin: Begin, origin: Origin) -> None:
    """The whole page is valid, and OpenMetrics has its last line once."""
    observed = Observed(begin, configuration(origin))
    assert promtool("check", "metrics", text=observed.text()) == ""
    openmetrics = observed.text("application/openmetrics-text")
    assert b"# TYPE haproxy_frontend_sessions counter" in openmetrics
    assert openmetrics.count(b"# EOF") == openmetrics.endswith(b"# EOF\n") == 1


def exporter_of(instance: Instance) -> int:
    """Return the exporter's pid."""
    found = [pid for pid in instance.haproxies if Path(f"/proc/{pid}/comm").read_text() == "reload_exporter\n"]
    assert len(found) == 1
    return found[0]


def test_an_exporter_that_is_late_loses_nothing(begin: Begin, origin: Origin) -> None:
    """It is halted while a generation begins to drain."""
    observed = Observed(begin, configuration(origin))
    observed.get()
    download = threading.Thread(target=observed.get, args=("/slow",))
    download.start()
    assert origin.asked.acquire(timeout=60)
    os.kill(exporter_of(observed.instance), signal.SIGSTOP)
    observed.reload(2)
    eventually(lambda: "generation 1 (pid" in observed.instance.log.partition("is current; asked")[2])
    os.kill(exporter_of(observed.instance), signal.SIGCONT)
    origin.go.set()
    download.join()
    eventually(lambda: observed.states() == ["current"])
    assert observed.scrape()[REQUESTS] == 2


def test_a_client_that_borrows_does_so_after_an_upgrade() -> None:
    """It is lent the sessions of those that drain later."""
    near, far = socket.socketpair()
    with near, far:
        session = Session(Client(near, 1))
        session.borrows = True
        saved = session.serialize()
        assert Session.restore(Client(near, 1), saved).borrows


TABLE = "# pxname,svname,stot,type,\napp,one,{},2,\n\n"
INFO = "CurrConns: {}\nStopping: {}\n\n> "
GENERATION = (1, 7)
STATUS = {"generations": [{"number": 1, "pid": 7, "state": "current"}]}


class Desk:
    """A collector whose PID 1 and whose haproxy are the test."""

    def __init__(self, folder: Path) -> None:
        """Listen."""
        self.path = str(folder / "lb.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.settimeout(60)
        self.collector = Collector(selectors.DefaultSelector())
        self.haproxy, self.lent = socket.socketpair()
        self.haproxy.settimeout(0)

    def hears(self, question: str) -> None:
        """Wait until haproxy is asked this."""
        heard = ""

        def is_asked() -> bool:
            nonlocal heard
            self.turn()
            with suppress(BlockingIOError):
                heard += self.haproxy.recv(4096).decode()
            return heard.endswith(question)

        eventually(is_asked)

    def turn(self) -> None:
        """Do what the exporter's event loop does."""
        for key, _ in self.collector.selector.select(0.01):
            key.data.read()
        self.collector.proceed()

    def hangs_up(self) -> bool:
        """Tell whether the session has been closed by now."""
        self.turn()
        return self.lent.fileno() < 0

    def sessions(self) -> str:
        """Return the number of sessions in the totals."""
        return self.collector.totals.text(openmetrics=False).decode().rpartition(" ")[2].strip()

    def close(self) -> None:
        """Close everything."""
        for one in (self.listener, self.haproxy, self.lent):
            one.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """One at a control socket."""
    made = Desk(tmp_path)
    yield made
    made.close()


def test_a_generation_without_connections_may_still_get_some(desk: Desk) -> None:
    """Until it is told to stop it is asked again, and read a last time only then; after that the session is closed."""
    desk.collector.drains(GENERATION, desk.lent)
    desk.hears("show info\n")
    desk.haproxy.send(INFO.format(0, 0).encode())
    desk.hears("show info\n")
    desk.haproxy.send(INFO.format(0, 1).encode())
    desk.hears("show stat -1 7 -1\n")
    desk.haproxy.send(f"{TABLE.format(5)}> ".encode())
    eventually(desk.hangs_up)
    assert desk.sessions() == "5"


def test_an_old_answer_does_not_follow_a_new_one(desk: Desk) -> None:
    """A generation begins to drain while it is asked through PID 1: that answer would be lower than the next one."""
    desk.collector.begin(desk.path, STATUS, 60)
    question, _ = desk.listener.accept()
    question.settimeout(60)
    with question:
        assert question.recv(100) == b"@!7 show stat -1 7 -1;quit\n"
        desk.collector.drains(GENERATION, desk.lent)
        desk.hears("show info\n")
        assert question.recv(100) == b""
    assert not desk.collector.is_over
    desk.haproxy.send(INFO.format(3, 1).encode())
    # Who scrapes waits for it, although it has connections.
    desk.hears("show stat -1 7 -1\n")
    desk.haproxy.send(f"{TABLE.format(5)}> ".encode())
    desk.hears("show info\n")
    assert desk.collector.is_over
    assert desk.sessions() == "5"
