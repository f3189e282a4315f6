"""A real haproxy whose files change, and what it has in memory, asked in the tests' own way."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from entrypoint.core.look import Known
from entrypoint.core.outcome import Outcome
from entrypoint.pid1 import applying
from entrypoint.pid1.reading import _is_applicable
from entrypoint.system.config_snapshot import ConfigFiles, ConfigSnapshot
from entrypoint.system.haproxy_cli import CliChannel
from tests.certificates import key_pair
from tests.opened import HAPROXY, version
from tests.waiting import eventually

WORDS = (os.environ.get("HAPROXY") or HAPROXY or "").split()
NAMES = ("one", "two", "three", "four")
"""Of the hosts, and of the key pairs that there are."""
CONFIGURATION = """\
global
  stats socket unix@admin.sock level admin
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
STORE
frontend f
  bind unix@plain.sock
  bind unix@site.sock ssl crt site.pem ca-file ca.pem crl-file crl.pem verify optional
  bind unix@tls.sock ssl crt tls.pem
  bind unix@list.sock ssl crt-list list.txt
  KEYED
  acl blocked path_beg -f paths.lst
  http-request deny if blocked
  http-request deny if { src -f ip.lst }
  http-request return status 200 hdr x %[path,map(hosts.map,none)] hdr y %[src,map_ip(nets.map,none)]
"""
LIST = ("one.pem", "two.pem [alpn h2] two", "three.pem three !x", "four.pem")
"""Lines that a crt-list may have."""
OTHERWISE = ("two.pem two", "three.pem [alpn h2] *.three", "one.pem one")
"""Other lines for the same certificates."""


def is_new() -> bool:
    """Tell whether this haproxy knows crt-stores."""
    return version(WORDS) >= 3.0


def make_pool(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """Make a key pair for each name, and a CRL for each; return certificates with their keys."""
    pool = {}
    for name in NAMES:
        crt, key = key_pair(folder, name)
        pool[name] = (crt.encode(), key.encode())
    (folder / "index").write_text("")
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=a\n[a]\ndatabase={folder}/index\ndefault_md=sha256\ndefault_crl_days=30\n"
    )
    for name in NAMES:
        words = ("openssl", "ca", "-gencrl", "-config", "ca.cnf", "-cert", f"{name}.crt", "-keyfile", f"{name}.key")
        subprocess.run([*words, "-out", f"{name}.crl"], cwd=folder, check=True, capture_output=True)
    return pool


def files_at_first(pool: Mapping[str, tuple[bytes, bytes]], made: Path) -> dict[str, bytes]:
    """Return the files that the configuration names."""
    combined = {f"{name}.pem": b"".join(pair) for name, pair in pool.items()}
    store = "crt-store web\n  load crt store.crt key store.key alias a\n" if is_new() else ""
    keyed = "bind unix@store.sock ssl crt @web/a" if is_new() else ""
    return {
        **combined,
        "haproxy.cfg": CONFIGURATION.replace("STORE", store).replace("KEYED", keyed).encode(),
        "site.pem": combined["one.pem"],
        "tls.pem": pool["one"][0],
        "tls.pem.key": pool["one"][1],
        "store.crt": pool["one"][0],
        "store.key": pool["one"][1],
        "ca.pem": pool["one"][0],
        "crl.pem": (made / "one.crl").read_bytes(),
        "list.txt": "\n".join(LIST[:2]).encode() + b"\n",
        "hosts.map": b"/a A\n/b B\n",
        "nets.map": b"10.0.0.0/8 ten\n",
        "paths.lst": b"/no\n",
        "ip.lst": b"10.0.0.1\n",
    }


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make these the files of a folder; there are no others then."""
    for path in folder.iterdir():
        if not path.name.endswith(".sock") and path.name not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            part = folder / f".{name}"
            part.write_bytes(content)
            part.replace(path)


def ask(folder: Path, command: str) -> str:
    """Ask a haproxy on its own `stats socket`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "admin.sock"))
        client.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: client.recv(65536), b"")).decode("utf-8", "replace")


def certificate_at(path: Path, host: str = "") -> str:
    """Return what a handshake shows, as hex, or why there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        try:
            with context.wrap_socket(client, server_hostname=host or None) as session:
                return (session.getpeercert(binary_form=True) or b"").hex()
        except (ssl.SSLError, OSError) as error:
            return type(error).__name__


def stores(folder: Path) -> dict[str, object]:
    """Return everything that a haproxy has of its files, each by a name of its file or files."""
    found: dict[str, object] = {
        "site.pem": certificate_at(folder / "site.sock"),
        "tls.pem": certificate_at(folder / "tls.sock"),
        "list.txt": [certificate_at(folder / "list.sock", name) for name in ("", *NAMES)],
    }
    if is_new():
        found["store.crt"] = certificate_at(folder / "store.sock")
    for kind, name in (("map", "hosts.map"), ("map", "nets.map"), ("acl", "paths.lst"), ("acl", "ip.lst")):
        found[name] = [line.partition(" ")[2] for line in ask(folder, f"show {kind} {name}").splitlines() if line]
    for kind, name in (("ca-file", "ca.pem"), ("crl-file", "crl.pem")):
        shown = ask(folder, f"show ssl {kind} {name}").splitlines()
        found[name] = [line for line in shown if not line.startswith("Status")]
    for kind in ("cert", "ca-file", "crl-file"):
        # Nobody leaves a transaction behind.
        assert "# transaction" not in ask(folder, f"show ssl {kind}")
    return found


@dataclass
class Living:
    """A haproxy with its files, and the part of safe_reload that gives it changed ones."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    channel: CliChannel
    disk: ConfigFiles
    runs: ConfigSnapshot
    """What it runs, as `applying` says."""
    known: Known = field(default_factory=Known)
    words: str = ""

    def read(self) -> ConfigSnapshot:
        """Look at the disk."""
        return self.disk.read((), self.runs.digests)

    def apply(self) -> Outcome | None:
        """Give it what has changed, if that is possible at all."""
        now = self.read()
        if now.unreadable or not _is_applicable(self.runs, now):
            return None
        before = self.runs
        outcome, runs = applying.apply(self.channel, self.disk, self.known, before, now)
        assert bool(outcome.digest) == (runs is not before)
        assert not outcome.digest or outcome.digest == runs.digest
        self.runs = runs
        self.known = Known(runs.digest, has_authorities=outcome.has_authorities)
        assert self.process.poll() is None, "haproxy has died"
        return outcome


def disk_of(folder: Path, *extra: str) -> ConfigFiles:
    """Return what reads the configuration in this folder, and more files of it."""
    return ConfigFiles([str(folder / "haproxy.cfg")], str(folder), extra, {})


@contextmanager
def living(folder: Path) -> Iterator[Living | None]:
    """Run a haproxy with the files of a folder; None if it does not start."""
    for path in folder.glob("*.sock"):
        path.unlink()
    channel = CliChannel()
    log = folder.parent / f"{folder.name}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*WORDS, "-db", "-f", "haproxy.cfg", "-f", channel.configuration],
            cwd=folder,
            pass_fds=channel.inherited,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
        )
    channel.spawned()
    try:
        eventually(lambda: process.poll() is not None or _answers(folder))
        if process.poll() is not None:
            yield None
        else:
            disk = disk_of(folder)
            runs = disk.read()
            yield Living(folder, process, channel, disk, runs, Known(runs.digest), log.read_text())
    finally:
        process.kill()
        process.wait()
        channel.close()


def _answers(folder: Path) -> bool:
    try:
        return "Pid:" in ask(folder, "show info")
    except OSError:
        return False


def fresh(folder: Path) -> dict[str, object] | None:
    """Return what a newly started haproxy has of the same files; None if it does not start."""
    other = folder.parent / f"{folder.name}-fresh"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("*.sock"))
    with living(other) as found:
        return stores(other) if found else None
