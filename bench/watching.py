#!/usr/bin/env python3
"""From the swap of a ConfigMap to the first answer of the new configuration: safe_reload, and what people put beside.

`bench/watching.py [IMAGE]` builds what it needs on that image and prints a table. It asks the VIP every millisecond or
two; the pauses between swaps are random, so that a poll is hit at any phase.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
SWAPS = 20
PAUSES = (1.2, 2.2)
"""Seconds between two swaps, at least and at most: longer than the slowest poll."""
BINDS = {"fd": 'bind "fd@${FD_WEB}"', "plain": "bind 127.0.0.1:8080"}
WATCHERS = {
    "a sidecar: inotifywait, USR2 to haproxy -W": 'inotifywait -qm -e moved_to --format %f "$1" |'
    ' while read -r name; do [ "$name" = ..data ] && kill -USR2 "$2"; done',
    "a sidecar: a look each second, USR2 to haproxy -W": 'last=$(readlink "$1/..data"); while sleep 1; do'
    ' now=$(readlink "$1/..data"); [ "$now" = "$last" ] || { last=$now; kill -USR2 "$2"; }; done',
}


class Volume:
    """A ConfigMap's volume with one configuration in it."""

    def __init__(self, bind: str) -> None:
        """Make it, with the mark 0."""
        self.folder = Path(tempfile.mkdtemp(prefix="watching."))
        self._bind = BINDS[bind]
        self.mark = -1
        self.swap()
        (self.folder / "haproxy.cfg").symlink_to("..data/haproxy.cfg")

    def swap(self) -> float:
        """Publish the next mark; return when."""
        self.mark += 1
        pointer = self.folder / "..data"
        old = pointer.readlink() if pointer.is_symlink() else None
        new = self.folder / f"..{self.mark}"
        new.mkdir()
        (new / "haproxy.cfg").write_text(
            "defaults\n    mode http\n    timeout client 9s\n    timeout server 9s\n    timeout connect 9s\n"
            f"frontend web\n    {self._bind}\n"
            f"    http-request return status 200 content-type text/plain string mark-{self.mark}.\n"
        )
        (self.folder / "..data_tmp").symlink_to(new.name)
        (self.folder / "..data_tmp").rename(pointer)
        at = time.monotonic()
        if old:
            shutil.rmtree(self.folder / old)
        return at

    def serves(self) -> float:
        """Wait until it is this mark that answers; return when that was asked for."""
        wanted = f"mark-{self.mark}.".encode()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            asked = time.monotonic()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 8080), 5) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while data := client.recv(4096):
                    answer += data
                if wanted in answer:
                    return asked
            time.sleep(0.001)
        raise TimeoutError(f"{wanted.decode()} never came")


@contextlib.contextmanager
def running(words: list[str], **variables: str) -> Iterator[int]:
    """Run a program, with everything that it starts, for a while."""
    environment = {**os.environ, **variables}
    process = subprocess.Popen(
        words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def measured(volume: Volume) -> list[float]:
    """Swap again and again; return the seconds until the new mark is served."""
    found = []
    volume.serves()
    for _ in range(SWAPS):
        time.sleep(random.uniform(*PAUSES))
        at = volume.swap()
        found.append(volume.serves() - at)
    return found


def row(title: str, seconds: list[float]) -> str:
    """Return a line of the table, in milliseconds."""
    numbers = (statistics.median(seconds), min(seconds), max(seconds))
    return f"| {title} | {' | '.join(f'{1000 * number:.0f}' for number in numbers)} |"


def inside() -> None:
    """Measure everything, and print the table."""
    random.seed(2017)
    print("| | median, ms | least | most |\n| --- | --- | --- | --- |")
    volume = Volume("plain")
    starts = []
    for _ in range(SWAPS):
        began = time.monotonic()
        with running(["haproxy", "-db", "-f", f"{volume.folder}/haproxy.cfg"]):
            starts.append(volume.serves() - began)
    print(row("haproxy alone: from its start to its first answer", starts), flush=True)
    for debounce in ("0.2", "0.05"):
        volume = Volume("fd")
        words = ["safe_reload", "--debounce", debounce, "haproxy", "-f", f"{volume.folder}/haproxy.cfg"]
        with running(words, SAFE_RELOAD_VIPS="127.0.0.1:8080:FD_WEB"):
            print(row(f"safe_reload, of which {float(debounce) * 1000:g} ms are --debounce", measured(volume)))
            status = json.loads(subprocess.check_output(["safe_reload", "status", "--json"]))
        reloads = status["reload_seconds"]
        own = 1000 * reloads["sum"] / reloads["count"]
        print(f"| (its new generation was ready after, on average) | {own:.0f} | | |", flush=True)
    for title, script in WATCHERS.items():
        volume = Volume("plain")
        with running(["haproxy", "-W", "-db", "-f", f"{volume.folder}/haproxy.cfg"]) as master:
            volume.serves()
            with running(["sh", "-c", script, "sh", str(volume.folder), str(master)]):
                print(row(title, measured(volume)), flush=True)


def main() -> None:
    """Build the image, and measure in a container of it."""
    if sys.argv[1:] == ["--inside"]:
        inside()
        return
    image = sys.argv[1] if len(sys.argv) > 1 else "haproxy-safe-reload:dev"
    recipe = "ARG IMAGE\nFROM ${IMAGE}\nRUN apt-get update -q && apt-get install -y -q inotify-tools\n"
    build = ["docker", "build", "-q", "--build-arg", f"IMAGE={image}", "-t", "haproxy-safe-reload:watching", "-"]
    subprocess.run(build, input=recipe, text=True, check=True, stdout=subprocess.DEVNULL)
    words = ["docker", "run", "--rm", "--init", "--network", "none", "-v", f"{HERE}:/bench:ro", "--entrypoint"]
    subprocess.run([*words, "python3", "haproxy-safe-reload:watching", "/bench/watching.py", "--inside"], check=True)


if __name__ == "__main__":
    main()
