"""What only the host can measure: how long a container takes to its first answer, and what each image costs."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from bench.lives import wait_for

IMAGE = os.environ.get("BENCH_IMAGE", "haproxy-safe-reload:dev")
BENCH_IMAGE = "haproxy-safe-reload:bench"
HERE = Path(__file__).parent
IMAGES = {
    "haproxy-safe-reload:dev-bookworm": "HAProxy 2.6, Python 3.11",
    "haproxy-safe-reload:dev": "HAProxy 3.0, Python 3.13",
    "haproxy-safe-reload:dev-sid": "HAProxy 3.2, Python 3.14",
}
"""The images that this project builds, and what is in them."""
RELOADS = 20
"""How many reloads come before the memory of a container's PID 1 is looked at."""

CONFIGURATION = """\
global
    nbthread 2
    maxconn 6000
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend web
    bind unix@/lb/web.sock mode 666
    bind BIND
    http-request return status 200 content-type text/plain string one
"""
FILE = "/lb/haproxy.cfg"
ENTRIES: dict[str, tuple[str, list[str]]] = {
    "bare": ("127.0.0.1:8080", ["haproxy", "-db", "-f", FILE]),
    "c": ("127.0.0.1:8080", ["haproxy", "-W", "-db", "-f", FILE]),
    "d": ("127.0.0.1:8080", ["tini", "--", "haproxy", "-W", "-db", "-f", FILE]),
    "e": ('"fd@${FD_WEB}"', ["python3", "-I", "/bench/naive.py", "127.0.0.1:8080:FD_WEB", "haproxy", "-f", FILE]),
    "f": ('"fd@${FD_WEB}"', ["safe_reload", "--vips", "127.0.0.1:8080:FD_WEB", "haproxy", "-f", FILE]),
    "g": ("127.0.0.1:8080", ["safe_reload", "haproxy", "-f", FILE]),
}


def docker(*words: str) -> str:
    """Run the docker command and return what it prints.

    Raises:
        SystemExit: it failed; its own words are on stderr.

    """
    run = subprocess.run(["docker", *words], stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"bench: docker {words[0]} failed, its words are above")
    return run.stdout


def build() -> None:
    """Build the image that the benchmarks run in."""
    docker("build", "-q", "--build-arg", f"IMAGE={IMAGE}", "-t", BENCH_IMAGE, str(HERE))


def container_start(key: str) -> float:
    """Return the seconds from `docker start` to the first answer, over a socket in a shared folder."""
    bind, words = ENTRIES[key]
    folder = _folder(bind)
    options = ["--network", "none", "-v", f"{folder}:/lb", "-v", f"{HERE}:/bench:ro", "--entrypoint", words[0]]
    name = docker("create", *options, BENCH_IMAGE, *words[1:]).strip()

    def answers() -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(2)
                client.connect(f"{folder}/web.sock")
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return b"200" in client.recv(4096)
        except OSError:
            return False

    try:
        start = time.monotonic()
        starting = subprocess.Popen(["docker", "start", name], stdout=subprocess.DEVNULL)
        if not wait_for(answers, 30, 0.001):
            raise SystemExit(f"bench: the container of {' '.join(words)} does not answer: {docker('logs', name)}")
        seconds = time.monotonic() - start
        starting.wait()
        return seconds
    finally:
        docker("rm", "-f", name)
        shutil.rmtree(folder, ignore_errors=True)


def _folder(bind: str) -> str:
    """Make a folder with a configuration, to be mounted as /lb."""
    folder = tempfile.mkdtemp(prefix="bench.")
    os.chmod(folder, 0o777)  # the engine may map the container's root to somebody
    Path(folder, "haproxy.cfg").write_text(CONFIGURATION.replace("BIND", bind))
    return folder


def container_starts(repetitions: int, seed: int) -> dict[str, list[dict[str, float]]]:
    """Start each kind of container in turn, in an order drawn from the seed."""
    results: dict[str, list[dict[str, float]]] = {key: [] for key in ENTRIES}
    chance = random.Random(seed)
    for _ in range(repetitions):
        for key in chance.sample(list(ENTRIES), len(ENTRIES)):
            results[key].append({"container.ms": container_start(key) * 1000})
    return results


def images() -> dict[str, dict[str, list[float]]]:
    """Return of each of this project's images that is here the CPU of its starts, and the memory of its PID 1."""
    here = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    return {image: {**_starts(image), "resident_kib": [_resident(image)]} for image in IMAGES if image in here}


def _starts(image: str) -> dict[str, list[float]]:
    options = ["--rm", "--network", "none", "-v", f"{HERE}:/bench:ro", "--entrypoint", "/usr/bin/python3"]
    costs = json.loads(docker("run", *options, image, "/bench/start_up_cost.py"))
    return {f"{name}_cpu_ms": values for name, values in costs.items()}


def _resident(image: str) -> float:
    bind, words = ENTRIES["f"]
    folder = _folder(bind)
    options = ["-d", "--network", "none", "-v", f"{folder}:/lb", "--entrypoint", words[0]]
    name = docker("run", *options, image, *words[1:]).strip()
    try:
        if not wait_for(lambda: "is current" in _log(name), 30, 0.05):
            raise SystemExit(f"bench: the container of {image} does not serve: {_log(name)}")
        for _ in range(RELOADS):
            docker("exec", name, "safe_reload", "reload")
        pid = docker("inspect", "-f", "{{.State.Pid}}", name).strip()
        return float(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])
    finally:
        docker("rm", "-f", name)
        shutil.rmtree(folder, ignore_errors=True)


def _log(name: str) -> str:
    return subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=False).stderr


SIZES = r"""
export LC_ALL=C
gone=$(apt-get -s purge --autoremove python3 python3-prctl | sed -n 's/^Purg \([^ ]*\).*/\1/p')
dpkg-query -W -f 'python ${Installed-Size}\n' $gone
own="/usr/lib/python3/dist-packages/entrypoint /usr/local/bin/safe_reload /usr/local/lib/safe_reload"
echo own $(du -skc $own | tail -n 1 | cut -f1)
echo haproxy $(dpkg-query -W -f '${Installed-Size}' haproxy)
"""


def sizes() -> dict[str, float]:
    """Return, in KiB, what safe_reload's files and the Python that only it needs add, and haproxy's own package."""
    text = docker("run", "--rm", "--network", "none", "--entrypoint", "sh", IMAGE, "-c", SIZES)
    values: dict[str, float] = {}
    for key, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE):
        values[f"{key}_kib"] = values.get(f"{key}_kib", 0) + float(value)
    tini = docker(
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "dpkg-query",
        BENCH_IMAGE,
        "-W",
        "-f",
        "${Installed-Size}",
        "tini",
    )
    image = docker("image", "inspect", "-f", "{{.Size}}", IMAGE)
    return {**values, "tini_kib": float(tini), "image_kib": float(image) / 1024}
