"""From a changed certificate or map to the first client that gets it, and what open connections notice."""

import asyncio
import itertools
import multiprocessing
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

from bench.lives import PORT, Life, StuckError, address, head, wait_for
from bench.load import Values
from bench.ways import Master, SafeReload, Way

DEBOUNCE = 0.2
"""Seconds for which safe_reload waits after a change (`--debounce`, its default)."""
ENTRIES = 1000
"""Lines of the crt-list, all of one certificate."""
LINES = 100_000
"""Lines of the map."""
KINDS = {
    "certificate": "a certificate",
    "list": f"a certificate in {ENTRIES:,} lines of a crt-list",
    "map": f"a map of {LINES:,} lines",
}
CLIENTS = 20
"""Connections that stay open, of each protocol."""
PROTOCOLS = {"h1": "HTTP/1", "h2": "HTTP/2"}
WITHIN = 20
"""Seconds for a change to arrive."""
AFTERWARDS = 1.5
"""Seconds between two changes: whatever closes idle connections has done it."""
_TIME = re.compile(r" without a reload \((\d+) ms\)")


class Applied(SafeReload):
    """safe_reload that watches, and gives haproxy what it can take."""

    key = "fa"
    title = "safe_reload, --apply auto"
    apply = "auto"

    def words(self, life: Life) -> list[str]:
        """Watch the files."""
        program, *rest = super().words(life)
        return [program, "--watch", "auto", "--debounce", f"{DEBOUNCE}", "--apply", self.apply, *rest]

    def reload(self, life: Life) -> bool:
        """Do nothing: it sees the change."""
        return life.process is not None


class Reloaded(Applied):
    """The same with a reload for every change."""

    key = "fo"
    title = "safe_reload, --apply off"
    apply = "off"


WAYS_TO_APPLY: tuple[Way, ...] = (Applied(), Reloaded(), Master())


def _clients_module() -> ModuleType:
    loader = SourceFileLoader("open_connections", str(Path(__file__).with_name("open_connections")))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def configuration(way: Way, life: Life, kind: str, mark: str) -> str:
    """Return a configuration with a VIP for HTTP/1, one for TLS, and one for HTTP/2."""
    what = f"crt-list {life.folder}/list" if kind == "list" else f"crt {life.folder}/site.pem"
    lines = [
        *head(),
        "frontend web",
        f"    bind {address(way.bind, 0)}",
        f"    bind {address(way.bind, 1)} ssl {what}",
        f"    bind {address(way.bind, 2)} proto h2",
    ]
    if kind == "map":
        value = f"%[str(key),map({life.folder}/site.map,none)]"
        lines += [f'    http-request return status 200 content-type text/plain lf-string "{value}" if {{ path /map }}']
    lines += [f'    http-request return status 200 content-type text/plain lf-string "{mark} %pid"']
    return "\n".join(lines) + "\n"


def _replace(file: Path, text: str) -> None:
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.replace(file)


def _pairs(life: Life) -> list[tuple[str, bytes]]:
    """Make two certificates; return their PEM with the key, and their DER."""
    found = []
    for name in ("one", "two"):
        key, certificate = life.folder / f"{name}.key", life.folder / f"{name}.crt"
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        words += ["-subj", "/CN=bench", "-days", "30", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(words, check=True, capture_output=True)
        text = certificate.read_text()
        found.append((text + key.read_text(), ssl.PEM_cert_to_DER_cert(text)))
    return found


def _shows(certificate: bytes) -> bool:
    """Tell whether a new handshake has this certificate."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.VerifyMode.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", PORT + 1), timeout=5) as plain, tls.wrap_socket(plain) as client:
            return client.getpeercert(binary_form=True) == certificate
    except OSError:
        return False


def _maps_to(value: bytes) -> bool:
    """Tell whether the map has this value."""
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=5) as client:
            client.sendall(b"GET /map HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
    except OSError:
        return False
    return answer.rpartition(b"\r\n\r\n")[2] == value


def _changes(life: Life, kind: str) -> Iterator[tuple[Callable[[], None], Callable[[], bool]]]:
    """Yield again and again what changes the file, and what tells whether a client gets the new one."""
    if kind == "map":
        for number in itertools.count():
            text = "".join(f"host-{line}.example backend_{number}_{line}\n" for line in range(LINES - 1))
            value = f"value-{number}"
            yield (
                partial(_replace, life.folder / "site.map", f"{text}key {value}\n"),
                partial(_maps_to, value.encode()),
            )
    for text, certificate in itertools.cycle(_pairs(life)):
        yield (
            partial(_replace, life.folder / "site.pem", text),
            partial(_shows, certificate),
        )


async def _converse(line: Connection) -> None:
    module = _clients_module()
    kinds = {"h1": (module.Client, PORT), "h2": (module.Http2, PORT + 2)}
    clients = {name: [make(port) for _ in range(CLIENTS)] for name, (make, port) in kinds.items()}
    everyone = [one for some in clients.values() for one in some]
    tasks = [asyncio.ensure_future(one.run()) for one in everyone]
    await asyncio.sleep(0.5)
    line.send("begun")
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(line.fileno(), over.set)
    await over.wait()
    for one in everyone:
        one.is_over = True
    await asyncio.gather(*tasks)
    keys = ("ended", "lost", "unprocessed")
    line.send(
        {f"{name}.{key}": sum(getattr(one, key) for one in some) for name, some in clients.items() for key in keys}
    )


@contextmanager
def _open_connections(values: Values) -> Iterator[None]:
    """Keep connections busy meanwhile, from another process; add to the values what they have noticed."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(_converse(theirs)))
    process.start()
    try:
        if not ours.poll(30):
            raise StuckError("the clients have not begun")
        ours.recv()
        yield
        ours.send("over")
        if not ours.poll(30):
            raise StuckError("the clients do not end")
        values |= ours.recv()
    finally:
        process.kill()
        process.join()


def applied(way: Way, times: int) -> Values:
    """Replace a file so many times, of each kind; beside open connections."""
    values: Values = {}
    for kind in KINDS:
        with way.life(vips=3) as life:
            changes = _changes(life, kind)
            next(changes)[0]()
            if kind == "map":
                _replace(life.folder / "site.pem", _pairs(life)[0][0])
            (life.folder / "list").write_text(
                "".join(f"{life.folder}/site.pem host-{line}.example\n" for line in range(ENTRIES))
            )
            life.text = partial(configuration, way, life, kind)
            life.edit()
            way.start(life)
            life.until_it_answers()
            time.sleep(way.settle)
            found = _one_kind(way, life, times, changes)
            values |= {f"{kind}.{key}": value for key, value in found.items()}
    return values


def _one_kind(
    way: Way, life: Life, times: int, changes: Iterator[tuple[Callable[[], None], Callable[[], bool]]]
) -> Values:
    values: Values = {"changes": times}
    before = {*life.haproxies()}
    seen = set(before)
    with _open_connections(values):
        for number in range(times):
            change, arrived = next(changes)
            start = time.monotonic()
            change()
            way.reload(life)
            if not wait_for(arrived, WITHIN, 0.001):
                raise StuckError(f"no client got the new file within {WITHIN} s")
            values[f"ms.{number}"] = (time.monotonic() - start) * 1000
            seen |= {*life.haproxies()}
            time.sleep(AFTERWARDS)
    values["started"] = len(seen - before)
    own = _TIME.findall((life.folder / "log").read_text(errors="replace"))
    values |= {f"own_ms.{number}": float(ms) for number, ms in enumerate(own)}
    return values
