"""safe_reload replaces itself: the same process, sockets and children, another program, and nobody notices."""

import os
import signal
import subprocess
from functools import partial

import pytest

from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration, every, result
from tests.container.trouble import inside, is_alone, status
from tests.descriptors import sockets
from tests.program import needs_a_python
from tests.waiting import eventually


@pytest.fixture
def start(start: Start) -> Start:
    """Start containers that watch their files, also after an upgrade."""
    return partial(start, watch="auto")


def test_an_upgrade_costs_no_request(lb: Balancer) -> None:
    """Under load, again and again: 0 failed, the same pid, the same haproxy, the same sockets."""
    before = (lb.pid, lb.children())

    def enough() -> bool:
        return lb.log.count("has taken over") > 1

    for client in every(300, lambda: _upgrade(lb), lambda: lb.load(50, 60_000), enough):
        assert result(client).failed == 0
    assert (lb.pid, lb.children()) == before


def _upgrade(lb: Balancer) -> None:
    status, text = lb.run("safe_reload", "upgrade")
    assert status == 0, text


def test_everything_goes_on_after_an_upgrade(start: Start, image: str) -> None:
    """Reloads, crashes, ordinary listeners, the pid file, metrics' counts, draining generations and the stop."""
    lb = start(
        image,
        options=("--pid-file", "/run/lb.pid"),
        text=configuration("one", "frontend more\n    bind 127.0.0.1:8081\n    http-request return status 200\n"),
    ).begins("one")
    eventually(lambda: "holds the ordinary listeners" in lb.log)
    idle = lb.connect()
    assert lb.run("safe_reload", "reload")[0] == 0
    before = status(lb)
    inodes = sockets(lb.pid)
    _upgrade(lb)
    after = status(lb)

    assert before["reloads"] == after["reloads"]
    assert before["adopted"] == after["adopted"] == ["127.0.0.1:8081"]
    assert after["last_reload"] is not None
    shared = len(inodes & sockets(lb.pid))
    assert shared >= 3

    with lb.connect() as held:
        held.sendall(b"GET / HTTP/1.1\r\n")
        lb.edit(configuration("two"))
        lb.serves("two")
        eventually(lambda: [one["connections"] for one in status(lb)["generations"]][-2:] == [1, 0])
    (current,) = [one for one in status(lb)["generations"] if one["state"] == "current"]
    assert lb.run("cat", "/run/lb.pid")[1].strip() == str(current["pid"])
    lb.run("bash", "-c", f"kill -9 {current['pid']}")
    lb.serves("two")
    assert "unasked" in lb.log
    idle.close()
    lb.kill("TERM")
    assert lb.container.wait(timeout=60)["StatusCode"] == 0


def test_an_upgrade_from_where_nothing_is_any_more_goes_on(start: Start) -> None:
    """The working directory has been deleted, and -f is relative to it: nothing can be read, and everything serves."""
    script = "mkdir /gone && cd /gone && cp /etc/lb/haproxy.cfg . && exec safe_reload -f haproxy.cfg"
    lb = start(NEWEST_STABLE, entrypoint="sh", operands=("-c", script)).begins("one")
    before = (lb.pid, lb.children())
    assert lb.run("rm", "-r", "/gone")[0] == 0
    _upgrade(lb)
    assert "has taken over" in lb.log
    assert (lb.pid, lb.children(), lb.get()) == (*before, "one")
    eventually(lambda: "haproxy.cfg cannot be searched for: No such file" in lb.run("safe_reload", "status")[1])


@needs_a_python
@pytest.mark.parametrize("module", ["pid1/bootstrap", "pid1/control_server"])
def test_a_program_that_cannot_go_on_is_not_started(start: Start, image: str, module: str) -> None:
    """The client gets its error, and the old program serves as before, also if the new one would have failed late."""
    lb = start(image).begins("one")
    package = "/usr/lib/python3/dist-packages/entrypoint"
    broken = f"cp -a {package} /root/good && echo 'raise SystemExit(\"a broken release\")' > {package}/{module}.py"
    assert lb.run("bash", "-c", broken)[0] == 0
    status, text = lb.run("safe_reload", "upgrade")

    assert status == 1
    assert "a broken release" in text
    assert "goes on" in text
    lb.edit(configuration("two"))
    lb.serves("two")

    assert lb.run("bash", "-c", f"rm -r {package} && cp -a /root/good {package}")[0] == 0
    _upgrade(lb)
    lb.edit(configuration("three"))
    lb.serves("three")


@needs_a_python
def test_a_second_upgrade_does_not_disturb_the_first(start: Start) -> None:
    """It is refused at once, and each of them gets one answer."""
    lb = start(NEWEST_STABLE).begins("one")
    package = "/usr/lib/python3/dist-packages/entrypoint"
    slow = (
        f'mkfifo /gate; echo \'open("/gate").read(); raise SystemExit("a slow release")\' > {package}/pid1/bootstrap.py'
    )
    assert lb.run("bash", "-c", slow)[0] == 0
    first = subprocess.Popen(
        ["docker", "exec", str(lb.container.id), "safe_reload", "upgrade"], stderr=subprocess.PIPE, text=True
    )
    eventually(lambda: len(lb.children()) == 2)
    status, text = lb.run("safe_reload", "upgrade")
    os.close(os.open(inside(lb, "/gate"), os.O_WRONLY))
    _, words = first.communicate(timeout=60)

    assert (status, first.returncode) == (1, 1)
    assert "another upgrade is under way" in text
    assert "a slow release" in words
    assert is_alone(lb)
    lb.edit(configuration("two"))
    lb.serves("two")


def test_an_upgrade_that_could_not_keep_the_pid_file_is_refused(start: Start) -> None:
    """Once the new program has taken over it is too late to say so."""
    lb = start(NEWEST_STABLE, options=("--pid-file", "/small/lb.pid"), tmpfs={"/small": "size=64k,nr_inodes=4"})
    lb.begins("one")
    full = "while : > /small/full$((number++)); do :; done 2>/dev/null; true"
    assert lb.run("bash", "-c", full)[0] == 0
    status, text = lb.run("safe_reload", "upgrade")

    assert status == 1
    assert "the pid file /small/lb.pid cannot be written" in text
    assert lb.get() == "one"
    assert lb.run("bash", "-c", "rm /small/full*")[0] == 0
    _upgrade(lb)
    lb.edit(configuration("two"))
    lb.serves("two")


def test_signals_are_not_lost_by_an_upgrade(lb: Balancer) -> None:
    """A reload that is asked for while safe_reload is being replaced is carried out by one life or the other."""
    pid = lb.pid
    for _ in range(5):
        count = lb.log.count("asked for by SIGUSR1")
        lb.container.exec_run(["safe_reload", "upgrade"], detach=True)
        os.kill(pid, signal.SIGUSR1)
        eventually(lambda count=count: lb.log.count("asked for by SIGUSR1") > count)  # type: ignore[misc]
