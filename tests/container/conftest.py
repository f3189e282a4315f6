"""Real containers with a real haproxy: how they are started, looked at, and put under load."""

import ctypes
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from docker.models.containers import Container

import docker
from tests.children import children_of
from tests.connections import http_get
from tests.program import STATIC
from tests.waiting import eventually

_IMAGE = os.environ.get("TEST_IMAGE", "haproxy-safe-reload") + ("-static" if STATIC else "")
IMAGES = {"2.6": f"{_IMAGE}:dev-bookworm", "3.0": f"{_IMAGE}:dev", "3.2": f"{_IMAGE}:dev-sid"}
NEWEST_STABLE = IMAGES["3.0"]

DEFAULTS = """\
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
    option idle-close-on-response
"""
HEAD = f"global\n    nbthread 2\n    maxconn 4000\n{DEFAULTS}"
ANSWER = '    http-request return status 200 content-type text/plain string "MARK"\n'
CONFIGURATION = f'{HEAD}frontend web\n    bind "fd@${{FD_WEB}}"\n{ANSWER}'
IPV6 = {"net.ipv6.conf.all.disable_ipv6": "0", "net.ipv6.conf.lo.disable_ipv6": "0"}
"""What switches IPv6 on, also on a container's loopback."""


def configuration(mark: str, more: str = "") -> str:
    """Return a configuration that answers with this mark."""
    return CONFIGURATION.replace("MARK", mark) + more


@dataclass(slots=True)
class Load:
    """What a load client has measured."""

    complete: int
    failed: int
    text: str


@dataclass(eq=False)
class Balancer:
    """A running container, and everything a test does with it."""

    container: Container
    folder: Path
    port: int

    @property
    def pid(self) -> int:
        """The pid of the container's PID 1, as this host numbers it."""
        self.container.reload()
        return int(self.container.attrs["State"]["Pid"])

    @property
    def log(self) -> str:
        """Everything that the container has written."""
        return self.container.logs().decode(errors="replace")

    @property
    def reloads(self) -> int:
        """How many reloads have succeeded."""
        return self.log.count("is current; asked for by")

    def children(self) -> list[int]:
        """Return the pids of PID 1's children but its reader, oldest first."""
        return children_of(self.pid)

    def kill(self, name: str) -> None:
        """Do what `docker kill -s` does."""
        self.container.kill(signal=name)

    def edit(self, text: str) -> None:
        """Change the configuration."""
        (self.folder / "haproxy.cfg").write_text(text)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Create sockets in the container's network namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            assert libc.setns(there, 0) == 0
            yield
        finally:
            assert libc.setns(home, 0) == 0
            os.close(home)
            os.close(there)

    def connect(self, port: int | None = None) -> socket.socket:
        """Connect to a VIP over the container's loopback."""
        with self.network():
            return socket.create_connection(("127.0.0.1", port or self.port), timeout=30)

    def get(self, port: int | None = None) -> str:
        """Return what the VIP answers."""
        return http_get(self.connect(port))[1]

    def in_queues(self) -> int:
        """Return how many connections wait to be accepted (rx_queue of a listening socket, proc_net_tcp(5))."""
        tables = [Path(f"/proc/{self.pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
        rows = (line.split() for table in tables for line in table.splitlines())
        return sum(int(row[4].rpartition(":")[2], 16) for row in rows if row[3] == "0A")

    def serves(self, mark: str, port: int | None = None) -> Self:
        """Wait until the VIP answers with this mark; return this container."""

        def answers() -> bool:
            try:
                return self.get(port) == mark
            except OSError:
                return False

        eventually(answers)
        return self

    def begins(self, mark: str) -> Self:
        """Wait until the VIP answers with this mark, and the supervisor knows: it does so after the clients."""
        self.serves(mark)
        eventually(lambda: "is current" in self.log)
        return self

    def change(self, text: str) -> None:
        """Change the configuration, and ask for a reload."""
        self.edit(text)
        self.kill("USR1")

    def becomes(self, mark: str, more: str = "") -> None:
        """Change the configuration to one that answers with this mark, reload, and wait until it does."""
        self.change(configuration(mark, more))
        self.serves(mark)

    def run(self, *words: str, **more: Any) -> tuple[int, str]:
        """Run a program of the container; return its exit status and what it wrote."""
        done = self.container.exec_run(list(words), **more)
        assert isinstance(done.output, bytes)
        return done.exit_code or 0, done.output.decode(errors="replace")

    def sh(self, command: str) -> str:
        """Run a command of the container's shell; return what it wrote to stdout."""
        return self.run("sh", "-c", command, stderr=False)[1]

    def begin_sh(self, command: str) -> None:
        """Start a command of the container's shell, and do not wait for its end."""
        self.container.exec_run(["sh", "-c", command], detach=True)

    def inside(self, *words: str) -> subprocess.Popen[str]:
        """Start a program of this host in the container's network namespace."""
        words = ("nsenter", "-t", str(self.pid), "-n", *words)
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def load(self, clients: int, requests: int) -> subprocess.Popen[str]:
        """Start ab(1) without keep-alive."""
        url = f"http://127.0.0.1:{self.port}/"
        return self.inside("ab", "-q", "-s", "60", "-c", str(clients), "-n", str(requests), url)

    def cpu(self, pid: int) -> int:
        """Return how many clock ticks of CPU a process has used."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


def result(client: subprocess.Popen[str]) -> Load:
    """Wait for ab(1) and read what it says."""
    text = client.communicate(timeout=600)[0]
    complete = re.search(r"Complete requests: +(\d+)", text)
    failed = re.search(r"Failed requests: +(\d+)", text)
    assert client.returncode == 0, text
    assert complete, text
    assert failed, text
    assert "Non-2xx" not in text
    return Load(int(complete[1]), int(failed[1]), text)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The Docker engine."""
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    """Each version of HAProxy in turn."""
    return IMAGES[request.param]


Start = Callable[..., Balancer]


@pytest.fixture
def start(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Start]:
    """Start containers without a network of their own; they are removed after the test."""
    containers: list[Container] = []

    def begin(
        image: str,
        *,
        options: tuple[str, ...] = (),
        operands: tuple[str, ...] = ("-f", "/etc/lb/haproxy.cfg"),
        text: str | None = None,
        port: int = 8080,
        vips: str | None = None,
        watch: str = "off",
        prepare: Callable[[Path], None] | None = None,
        **more: Any,
    ) -> Balancer:
        folder = tmp_path / str(len(containers))
        folder.mkdir()
        folder.chmod(0o755)
        if prepare:
            prepare(folder)
        else:
            (folder / "haproxy.cfg").write_text(configuration("one") if text is None else text)
        vips = f"127.0.0.1:{port}:FD_WEB" if vips is None else vips
        # Where files are watched, an edit and a signal are two reloads on a machine that is slow between them.
        environment = {"SAFE_RELOAD_WATCH": watch, **({"SAFE_RELOAD_VIPS": vips} if vips else {})}
        environment.update(more.pop("environment", {}))
        container = engine.containers.run(
            image,
            [*options, *operands],
            environment=environment,
            detach=True,
            network_mode="none",
            volumes={str(folder): {"bind": "/etc/lb", "mode": "ro"}, **more.pop("volumes", {})},
            **more,
        )
        containers.append(container)
        return Balancer(container, folder, port)

    yield begin
    for container in containers:
        # Shown only when the test has failed.
        sys.stdout.write(f"the log of {container.name} ends:\n{container.logs(tail=60).decode(errors='replace')}\n")
        container.remove(force=True, v=True)


@pytest.fixture
def lb(start: Start, image: str) -> Balancer:
    """A container that serves "one"."""
    return start(image).begins("one")


def every(
    milliseconds: int, do: Callable[[], None], begin: Callable[[], subprocess.Popen[str]], enough: Callable[[], bool]
) -> Iterator[subprocess.Popen[str]]:
    """Do something again and again under load; yield each load client at its end.

    A new one begins until there was enough: how often it is done while one of them runs is the machine's matter.
    """
    while True:
        client = begin()
        while client.poll() is None:
            try:
                client.wait(timeout=milliseconds / 1000)
            except subprocess.TimeoutExpired:
                do()
        yield client
        if enough():
            return
