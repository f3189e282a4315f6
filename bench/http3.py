"""What reloads and kills cost HTTP/3: new connections, downloads, requests on open connections, over a round trip."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.lives import PORT, Life, StuckError, head, wait_for
from bench.load import Values
from bench.quic_clients import OK
from bench.ways import Master, Outside, SafeReload, SafeReloadPlain, Way

ROUND_TRIP = 0.08
"""Seconds."""
INTERVALS_OF_HTTP3 = (300, 1000)
"""Milliseconds from one request for a reload to the next."""
NEW_RATE = 25
"""New connections a second; the clients run on the same two cores."""
DOWNLOADS = 5
PERSISTENT = 10
HELD = 10
KILLS = 2
_LATEST = 90
"""Seconds for an answer of the clients: longer than their patience."""
_LONG = """\
core.register_service("long", "http", function(applet)
  applet:set_status(200)
  applet:start_response()
  for _ = 1, 150 do
    applet:send(string.rep("x", 1000))
    core.msleep(20)
  end
end)
"""
_LONG_BYTES = 150_000


class QuicVips(SafeReload):
    """safe_reload with a VIP for QUIC."""

    key = "f3"
    title = "safe_reload, quic+fd@"

    def words(self, life: Life) -> list[str]:
        """Give it a VIP of each kind; it is killed more often than it would bear."""
        vips = f"{life.vip_list},quic@127.0.0.1:{PORT}:FD_QUIC"
        return ["safe_reload", "--vips", vips, "--restart-limit", "100", "haproxy", "-f", str(life.file)]


class QuicBinds(SafeReloadPlain):
    """safe_reload with ordinary binds."""

    key = "g3"
    title = "safe_reload, quic4@"

    def words(self, life: Life) -> list[str]:
        """Bear the kills."""
        return ["safe_reload", "--restart-limit", "100", "haproxy", "-f", str(life.file)]


WAYS_OF_HTTP3: tuple[Way, ...] = (QuicVips(), QuicBinds(), Master())


def configuration(way: Way, life: Life, mark: str) -> str:
    """Return a configuration that answers TCP and QUIC on one port."""
    tcp, quic = ('"fd@${FD_0}"', '"quic+fd@${FD_QUIC}"') if way.bind == "fd" else ("127.0.0.1", "quic4@127.0.0.1")
    port = "" if way.bind == "fd" else f":{PORT}"
    lines = [
        *head("    limited-quic", f"    lua-load {life.folder}/long.lua"),
        "frontend web",
        f"    bind {tcp}{port}",
        f"    bind {quic}{port} ssl crt {life.folder}/site.pem alpn h3",
        "    http-request use-service lua.long if { path /long }",
        f'    http-request return status 200 content-type text/plain lf-string "{mark} %pid"',
    ]
    return "\n".join(lines) + "\n"


class Clients:
    """The program of `bench.quic_clients`."""

    def __init__(self) -> None:
        """Start it in this network namespace."""
        words = (sys.executable, "-m", "bench.quic_clients", "127.0.0.1", str(PORT), "--round-trip", str(ROUND_TRIP))
        self._program = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def begin(self, command: str) -> None:
        """Send a command."""
        assert self._program.stdin
        self._program.stdin.write(command.encode() + b"\n")
        self._program.stdin.flush()

    def answer(self, meanwhile: Callable[[], object]) -> dict[str, Any]:
        """Return the answer to a command; call something again and again until it is there."""
        assert self._program.stdout
        output = self._program.stdout
        os.set_blocking(output.fileno(), False)
        found = b""

        def is_there() -> bool:
            nonlocal found
            meanwhile()
            found += output.read() or b""
            return found.endswith(b"\n")

        if not wait_for(is_there, _LATEST, 0.02):
            raise StuckError("the QUIC clients do not answer")
        return dict(json.loads(found))

    def end(self) -> None:
        """End it."""
        self._program.kill()
        self._program.communicate()


class _Reloads:
    """Reloads at fixed times."""

    def __init__(self, way: Way, life: Life, milliseconds: int) -> None:
        self._way, self._life, self._seconds = way, life, milliseconds / 1000
        self._due = time.monotonic() + self._seconds
        self.asked = 0

    def look(self) -> None:
        """Ask for one when it is time."""
        if time.monotonic() >= self._due:
            self.asked += self._way.reload(self._life)
            self._due += self._seconds


def _begun(way: Way, life: Life) -> None:
    pem = life.folder / "site.pem"
    key = life.folder / "site.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-subj", "/CN=bench", "-days", "30", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(words, check=True, capture_output=True)
    pem.write_text(pem.read_text() + key.read_text())
    (life.folder / "long.lua").write_text(_LONG)
    life.text = partial(configuration, way, life)
    life.edit()
    way.start(life)
    life.until_it_answers()
    time.sleep(way.settle)


def http3(way: Way, storm: float) -> Values:
    """Reload under load for so many seconds at each interval; then kill haproxy."""
    values: Values = {}
    for milliseconds in INTERVALS_OF_HTTP3:
        with way.life() as life:
            _begun(way, life)
            values |= {f"{milliseconds}.{key}": value for key, value in _storm(way, life, milliseconds, storm).items()}
    with way.life() as life:
        _begun(way, life)
        for number in range(KILLS):
            values |= _kill(way, life, number)
    return values


def _storm(way: Way, life: Life, milliseconds: int, seconds: float) -> Values:
    new, downloads, persistent = clients = (Clients(), Clients(), Clients())
    try:
        downloads.begin(f"download {DOWNLOADS}")
        downloads.answer(lambda: None)
        downloads.begin("downloaded")
        count = int(NEW_RATE * seconds)
        new.begin(f"new {count} {NEW_RATE}")
        persistent.begin(f"persist {PERSISTENT} {seconds}")
        reloads = _Reloads(way, life, milliseconds)
        ends = new.answer(reloads.look)
        requests = persistent.answer(lambda: None)
        whole = downloads.answer(lambda: None)
        return {
            "reloads": reloads.asked,
            "new": count,
            "new_lost": count - ends.get(OK, 0),
            "requests": sum(requests.values()),
            "requests_lost": sum(requests.values()) - requests.get(OK, 0),
            "downloads": DOWNLOADS,
            "downloads_cut": DOWNLOADS - whole["bytes"].count(_LONG_BYTES),
        }
    finally:
        for one in clients:
            one.end()


def _kill(way: Way, life: Life, number: int) -> Values:
    held, new = clients = (Clients(), Clients())
    outside = Outside(way, life)
    try:
        held.begin(f"hold {HELD}")
        held.answer(lambda: None)
        os.kill(way.generations(life)[-1], signal.SIGKILL)
        new.begin(f"new {NEW_RATE} {NEW_RATE}")
        held.begin("lost")
        ends = new.answer(outside.look)
        told = held.answer(outside.look)
        values = {f"kill.ms.{number}.{one}": after * 1000 for one, after in enumerate(told["after"])}
        values |= {f"kill.new.{number}": NEW_RATE, f"kill.new_lost.{number}": NEW_RATE - ends.get(OK, 0)}
        return values
    finally:
        for one in clients:
            one.end()
