"""HTTP/3 in containers: their configurations, and `bench.quic_clients` beside them."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.certificates import key_pair
from tests.children import children_of
from tests.container.conftest import DEFAULTS, IMAGES, Balancer, Start
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PORT = 8443
VERSIONS = [version for version in IMAGES if version != "2.6"]
VIP, OWN = "vip", "ordinary"
ROUND_TRIP = 0.08
CHUNKS, CHUNK = 150, 1000
"""A download takes at least CHUNKS times 20 ms."""
LONG = f"""\
core.register_service("long", "http", function(applet)
  applet:set_status(200)
  applet:start_response()
  for _ = 1, {CHUNKS} do
    applet:send(string.rep("x", {CHUNK}))
    core.msleep(20)
  end
end)
"""


def bind_lines(https: str, http3: str, more: str = "") -> str:
    """Return the `bind` lines of HTTPS and HTTP/3 on one port."""
    tcp = '"fd@${FD_HTTPS}"' if https == VIP else f"127.0.0.1:{PORT}"
    quic = '"quic+fd@${FD_HTTP3}"' if http3 == VIP else f"quic4@127.0.0.1:{PORT}"
    crt = "ssl crt /etc/lb/site.pem"
    return f"    bind {tcp} {crt} alpn h2,http/1.1\n    bind {quic} {crt} alpn h3 {more}\n"


def of_one_frontend(binds: str, head: str = "") -> str:
    """Return a configuration with one frontend, which has these `bind` lines and a long download."""
    text = f"global\n    limited-quic\n    nbthread 2\n    lua-load /etc/lb/long.lua\n{head}"
    text += f"{DEFAULTS}frontend web\n{binds}"
    text += "    http-request use-service lua.long if { path /long }\n"
    return text + '    http-request return status 200 content-type text/plain string "one"\n'


def prepared(text: str) -> Callable[[Path], None]:
    """Return what writes this configuration into a folder, and the files that it names."""

    def prepare(folder: Path) -> None:
        crt, key = key_pair(folder, "site")
        (folder / "site.pem").write_text(crt + key)
        (folder / "site.pem").chmod(0o644)
        (folder / "long.lua").write_text(LONG)
        (folder / "haproxy.cfg").write_text(text)

    return prepare


def begun(start: Start, image: str, text: str, vips: str, **more: Any) -> Balancer:
    """Start a container with this configuration, and wait until it serves."""
    more.setdefault("options", ("--restart-limit", "100"))
    lb = start(image, prepare=prepared(text), vips=vips, **more)
    eventually(lambda: "is current" in lb.log)
    return lb


def vips_of(https: str, http3: str) -> str:
    """Return the VIPs for `bind_lines`."""
    tcp = [f"127.0.0.1:{PORT}:FD_HTTPS"] if https == VIP else []
    return ",".join([*tcp, *([f"quic@127.0.0.1:{PORT}:FD_HTTP3"] if http3 == VIP else [])])


def pair(start: Start, version: str, http3: str, head: str = "", more: str = "") -> Balancer:
    """Start a container with HTTPS and HTTP/3 of one kind."""
    text = of_one_frontend(bind_lines(http3, http3, more), head)
    return begun(start, IMAGES[version], text, vips_of(http3, http3))


class Clients:
    """`bench.quic_clients` in the network namespace of a container."""

    def __init__(self, lb: Balancer, *words: str) -> None:
        """Start it."""
        enter = ("nsenter", "-t", str(lb.pid), "-n", sys.executable, "-m", "bench.quic_clients")
        self.program = subprocess.Popen(
            (*enter, *(words or ("127.0.0.1", str(PORT)))),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, command: str) -> Callable[[], dict[str, Any]]:
        """Send a command; return what waits for its answer."""
        assert self.program.stdin
        assert self.program.stdout
        answers = self.program.stdout
        self.program.stdin.write(command + "\n")
        self.program.stdin.flush()
        return lambda: dict(json.loads(answers.readline()))

    def do(self, command: str) -> dict[str, Any]:
        """Send a command, and return its answer."""
        return self.begin(command)()


@contextmanager
def clients_of(lb: Balancer, *words: str) -> Iterator[Clients]:
    """Have clients until the end of the block."""
    clients = Clients(lb, *words)
    try:
        yield clients
    finally:
        clients.program.kill()
        clients.program.communicate()


def reload_while(lb: Balancer, milliseconds: int, waits: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], int]:
    """Reload again and again until an answer is there; return it, and how often."""
    reloads = 0
    answer: list[dict[str, Any]] = []
    waiter = threading.Thread(target=lambda: answer.append(waits()))
    waiter.start()
    while waiter.is_alive():
        waiter.join(milliseconds / 1000)
        if waiter.is_alive():
            lb.kill("USR1")
            reloads += 1
    return answer[0], reloads


def https(lb: Balancer) -> str:
    """Return what HTTPS answers."""
    return lb.inside("curl", "-sk", f"https://127.0.0.1:{PORT}/").communicate()[0]


def has_connection(lb: Balancer) -> bool:
    """Tell whether haproxy has a socket that is connected to a client (proc_net_udp(5))."""
    rows = [line.split()[1:3] for line in Path(f"/proc/{lb.pid}/net/udp").read_text().splitlines()[1:]]
    ports = [tuple(int(address.rpartition(":")[2], 16) for address in row) for row in rows]
    return any(here == PORT and there not in {0, PORT} for here, there in ports)


def crash(lb: Balancer) -> int:
    """Kill the haproxy that serves; return its generation's number."""
    before = lb.log.count("is current")
    child = children_of(lb.pid)[-1]
    subprocess.run(("kill", "-KILL", str(child)), check=True)
    return before
