"""What is lost behind the listening sockets: the health and addresses of servers, maintenance, TLS sessions.

A backend has three servers. One answers 200, one answers 500 to checks and requests, the port of one is closed; the
checks have found the two dead before anything is measured.
"""

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from socketserver import BaseRequestHandler, ThreadingUDPServer
from threading import Thread

from bench.lives import PORT, Life, StuckError, address, head, wait_for
from bench.load import Load, Values
from bench.ways import Outside, Way

SERVERS = ("good", "broken", "closed")
"""The servers of the backend; the ports are PORT_OF_SERVERS and the next ones."""
PORT_OF_SERVERS = 7001
PORT_OF_DNS = 5399
DNS_TAKES = 0.05
"""Seconds from a question to its answer."""
BEHIND_RATE = 100
"""Requests a second at a fixed rate."""
BEHIND_CLIENTS = 40
"""Clients that ask again as soon as they have an answer."""
INTERS = 0.8
"""Seconds from one event under load to the next, for each second of `inter`.

A new haproxy spreads its first checks over `inter`: of three servers, the last one is checked after two thirds.
"""
RELOADS, KILLS = 2, 1
"""How often haproxy is replaced under each load."""
KINDS_OF_SERVERS = {"dead": False, "dns": True}
"""Whether the servers have names."""
LOADS = ("rate", "closed")
EVENTS = ("reloads", "kills")
"""How a haproxy is replaced."""

_SERVERS = f"""\
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend good
    bind 127.0.0.1:{PORT_OF_SERVERS}
    http-request return status 200 content-type text/plain string "good 1"
frontend broken
    bind 127.0.0.1:{PORT_OF_SERVERS + 1}
    http-request return status 500 content-type text/plain string "broken 1"
"""


def configuration(way: Way, life: Life, mark: str, *, dns: bool, inter: float) -> str:
    """Return a configuration with the servers; it answers /mark itself, on a VIP without and one with TLS."""
    keys = f' tls-ticket-keys "{way.ticket_keys}"' if way.ticket_keys else ""
    # A name for each: haproxy does not give two servers of a backend the same address of one name.
    hosts = [f"{name}.test" if dns else "127.0.0.1" for name in SERVERS]
    options = " resolvers local init-addr none" if dns else ""
    lines = [
        *head(f"    stats socket {life.folder}/cli level admin"),
        "    retries 0",
        "frontend web",
        f"    bind {address(way.bind, 0)}",
        f"    bind {address(way.bind, 1)} ssl crt {life.folder}/bench.pem{keys}",
        f'    http-request return status 200 content-type text/plain lf-string "{mark} %pid" if {{ path /mark }}',
        "    default_backend application",
        "backend application",
        "    option httpchk",
        "    http-reuse always",
        f"    default-server check inter {inter * 1000:.0f}ms fall 3 rise 2{options}",
        *(f"    server {name} {hosts[n]}:{PORT_OF_SERVERS + n}" for n, name in enumerate(SERVERS)),
        "backend maintained",
        f"    server one 127.0.0.1:{PORT_OF_SERVERS}",
        "resolvers local",
        f"    nameserver one 127.0.0.1:{PORT_OF_DNS}",
    ]
    return "\n".join(lines) + "\n"


class Names(BaseRequestHandler):
    """Answers each question for an address with 127.0.0.1, and every other one with nothing (RFC 1035, 4.1)."""

    def handle(self) -> None:
        """Answer late."""
        query, server = self.request
        end = query.index(b"\0", 12) + 5
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4\x7f\0\0\1" if query[end - 4 : end - 2] == b"\0\1" else b""
        time.sleep(DNS_TAKES)
        server.sendto(
            query[:2] + b"\x84\0\0\1\0" + bytes([bool(answer)]) + b"\0\0\0\0" + query[12:end] + answer,
            self.client_address,
        )


@contextmanager
def _servers(life: Life) -> Iterator[None]:
    """Run the two servers that have a port, and the DNS server, in the network of this life."""
    file = life.folder / "servers.cfg"
    file.write_text(_SERVERS)
    with ExitStack() as stack:
        names = stack.enter_context(ThreadingUDPServer(("127.0.0.1", PORT_OF_DNS), Names))
        Thread(target=names.serve_forever, args=(0.05,), daemon=True).start()
        stack.callback(names.shutdown)
        # Not by life.spawn(): they are no processes of the way.
        process = subprocess.Popen(["haproxy", "-db", "-f", str(file)], stdout=life.log, stderr=life.log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield


def _certificate(life: Life) -> None:
    key, certificate = life.folder / "bench.key", life.folder / "bench.crt"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-subj", "/CN=bench", "-days", "30", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    (life.folder / "bench.pem").write_text(certificate.read_text() + key.read_text())


class Behind:
    """An instance with servers, while its haproxies are replaced."""

    def __init__(self, way: Way, life: Life) -> None:
        """Take over a life that has been started."""
        self._way, self._life = way, life
        self._outside = Outside(way, life)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.VerifyMode.CERT_NONE
        self._session: ssl.SSLSession | None = None

    def _ask(self, command: str) -> str:
        """Return what the CLI of the current haproxy answers; nothing when there is none."""
        try:
            with socket.socket(socket.AF_UNIX) as cli:
                cli.settimeout(5)
                cli.connect(str(self._life.folder / "cli"))
                cli.sendall(command.encode() + b"\n")
                answer = b""
                while data := cli.recv(65536):
                    answer += data
        except OSError:
            return ""
        return answer.decode()

    def _states(self, backend: str) -> dict[str, tuple[int, int]]:
        """Return, by server, the operational and the administrative state (HAProxy's management guide, 9.3)."""
        _, _, text = self._ask(f"show servers state {backend}").partition("# ")
        head, *rows = (line.split() for line in text.splitlines() if line.strip())
        states = (dict(zip(head, row, strict=False)) for row in rows)
        return {s["srv_name"]: (int(s["srv_op_state"]), int(s["srv_admin_state"])) for s in states}

    def _pid(self) -> str:
        return next((line for line in self._ask("show info").splitlines() if line.startswith("Pid:")), "")

    def until_the_dead_are_known(self) -> None:
        """Wait until the checks have found what is true of each server.

        Raises:
            StuckError: they have not.

        """
        truth = {"good": (2, 0), "broken": (0, 0), "closed": (0, 0)}
        if not wait_for(lambda: bool(self._pid()) and self._states("application") == truth, 15, 0.05):
            raise StuckError(f"the checks have not found the dead servers: {self._states('application')}")

    def _handshake(self) -> bool:
        """Come back with the last session, and keep the new one; return whether the last one was resumed."""
        with (
            socket.create_connection(("127.0.0.1", PORT + 1), timeout=5) as plain,
            self._tls.wrap_socket(plain, session=self._session) as client,
        ):
            client.sendall(b"GET /mark HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            while client.recv(65536):
                pass
            self._session = client.session
            return bool(client.session_reused)

    def prepare(self) -> None:
        """Put a server into maintenance, and begin a TLS session."""
        self._ask("set server maintained/one state maint")
        self._session = None
        self._handshake()

    def found(self) -> Values:
        """Return what is left of what was prepared, as 1 or 0."""
        return {"resumed": self._handshake(), "maintained": self._states("maintained")["one"][1] & 1}

    def reload(self) -> None:
        """Reload a changed configuration."""
        self._life.edit()
        wait_for(lambda: self._way.reload(self._life), 5, 0.001)

    def kill(self) -> None:
        """Kill the haproxy that serves."""
        os.kill(self._way.generations(self._life)[-1], 9)

    def replace(self, act: Callable[[], None]) -> None:
        """Reload or kill, and wait until another haproxy serves.

        Raises:
            StuckError: none does.

        """
        before = self._pid()

        def serves() -> bool:
            self._outside.look()
            return self._pid() not in ("", before) and self._life.answers()

        act()
        if not wait_for(serves, 10):
            raise StuckError(f"no other haproxy within 10 s of a {act.__name__}")


def _under_load(behind: Behind, act: Callable[[], None], times: int, load: str, every: float) -> Values:
    """Replace haproxy so many times; count what came from a haproxy but was no 200, and what failed in another way."""
    clients, rate = (1000, BEHIND_RATE) if load == "rate" else (BEHIND_CLIENTS, 0)
    behind.until_the_dead_are_known()
    behind.prepare()
    begin = time.monotonic()
    running = Load((times + 0.2) * every, clients=clients, rate=rate)
    values: Values = {"events": times, "resumed": 0, "maintained": 0}
    for number in range(times):
        due = begin + (number + 0.2) * every
        time.sleep(max(0.0, due - time.monotonic()))
        behind.replace(act)
        # Half of the time for what is told late, in either direction.
        time.sleep(max(0.0, due + every / 2 - time.monotonic()))
        for key, value in behind.found().items():
            values[key] += value
        behind.prepare()
    counts = running.result()
    values |= {"requests": counts["requests"], "behind": counts["bad"], "otherwise": counts["failed"] - counts["bad"]}
    return values


def behind(way: Way, inter: float) -> Values:
    """Reload and kill under both loads, with addresses and with names, with so many seconds between two checks."""
    values: Values = {}
    for kind, dns in KINDS_OF_SERVERS.items():
        with way.life(vips=2) as life, _servers(life):
            life.text = partial(configuration, way, life, dns=dns, inter=inter)
            life.edit()
            _certificate(life)
            way.start(life)
            life.until_it_answers()
            instance = Behind(way, life)
            acts = {"reloads": (instance.reload, RELOADS), "kills": (instance.kill, KILLS)}
            for event, (act, times) in acts.items():
                for load in LOADS:
                    found = _under_load(instance, act, times, load, inter * INTERS)
                    values |= {f"{kind}.{load}.{event}.{key}": value for key, value in found.items()}
    return values
