"""Where haproxy starts it starts here, and every address that answered before answers after whatever happens."""

import itertools
import subprocess

import docker
from tests.container.conftest import IMAGES, Balancer, Start
from tests.waiting import eventually

HEAD = """\
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
    option idle-close-on-response
"""

THREADS = {
    "one": "nbthread 1",
    "four": "nbthread 4",
    "two-groups": "thread-groups 2\n    nbthread 2",
    "two-groups-of-two": "thread-groups 2\n    nbthread 4",
}
GROUPED = ("two-groups", "two-groups-of-two")
BINDS = {
    "plain": 'bind "fd@${FD_A}"\n    bind "fd@${FD_B}"',
    "shards": 'bind "fd@${FD_A}" shards by-thread\n    bind "fd@${FD_B}" shards 2',
    "shards-by-group": 'bind "fd@${FD_A}" shards by-group\n    bind "fd@${FD_B}" shards by-group',
    "a-tag-for-each-group": 'bind "fd@${FD_A}" thread 1/all\n    bind "fd@${FD_B}" thread 2/1',
}
LACKING = {"2.6": ("two-groups", "two-groups-of-two", "shards-by-group")}
"""What a version of haproxy does not have."""


def test_it_starts_and_reloads_with_whatever_threads_and_groups_haproxy_starts_with(start: Start, image: str) -> None:
    """Our own line is bound once, however many thread groups there are."""
    version = next(version for version, name in IMAGES.items() if name == image)
    cases = {
        f"{threads}-{binds}": f"global\n    {THREADS[threads]}\n{HEAD}frontend f\n    {BINDS[binds]}\n"
        "    bind 127.0.0.1:1PORT shards by-thread\n    http-request return status 200\n"
        for threads, binds in itertools.product(THREADS, BINDS)
        if not {threads, binds}.intersection(LACKING.get(version, ()))
        and (binds != "a-tag-for-each-group" or threads in GROUPED)
    }
    lb = start(image, entrypoint="sleep", operands=("infinity",), ulimits=[MANY_FILES])
    for port, (name, text) in enumerate(cases.items(), 8000):
        (lb.folder / f"{name}.cfg").write_text(text.replace("PORT", str(port)))
        vips = f"127.0.0.1:{port}:FD_A,127.0.0.2:{port}:FD_B"
        _detached(lb, f"exec safe_reload --name {name} --vips {vips} -f /etc/lb/{name}.cfg 2>/tmp/{name}.log")
    for name in cases:
        # Once haproxy has died on the first start the log says so, and nobody would ever be current.
        log = eventually(lambda name=name: _ends(lb, name))  # type: ignore[misc]
        assert "is current" in log, log
    for name in cases:
        assert _exec(lb, f"safe_reload reload --name {name} && echo it serves").endswith("it serves\n"), name
    for port, name in enumerate(cases, 8000):
        for address in (f"127.0.0.1:{port}", f"127.0.0.2:{port}", f"127.0.0.1:1{port}"):
            answer = lb.inside("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}/")
            assert answer.communicate()[0] == "200", (name, address)


MANY_FILES = docker.types.Ulimit(name="nofile", soft=4096, hard=4096)


def _ends(lb: Balancer, name: str) -> str:
    """Return the log once a start has succeeded or failed."""
    log = _exec(lb, f"cat /tmp/{name}.log")
    return log if "is current" in log or "exiting" in log or "exited" in log else ""


def _detached(lb: Balancer, command: str) -> None:
    lb.container.exec_run(["sh", "-c", command], detach=True)


def _exec(lb: Balancer, command: str) -> str:
    words = ["docker", "exec", str(lb.container.id), "sh", "-c", command]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout
