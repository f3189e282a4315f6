"""The documentation's commands, run as they stand in it, in its order, and their output compared with what it shows.

Only the words of REPLACED are others here, and what a test says itself. tests/test_docs.py sees to it that nothing in
the documentation is left out: a command counts as run where `run` or `block` is called with its beginning.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

import docker
from tests.certificates import key_pair
from tests.connections import free_port
from tests.container.conftest import Balancer, Start
from tests.container.test_systemd import SAFE_RELOAD_OF_THE_IMAGE, booted
from tests.documented import Shown, looks_like, shown, the
from tests.http3 import http3_get
from tests.program import needs_a_python
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
IMAGE = "haproxy-safe-reload:test-documented"
CONFIGURATION = "defaults\n    mode http"
NAME = f"safe-reload-documented-{os.getpid()}"

REPLACED = {
    # Not a container of the user's, nor a port of this host's.
    r"(?<![\w/.@-])lb(?![\w/.-])": NAME,
    r"-p (?:80:|8080:(?=8080))": "-p 127.0.0.1::",
    r"haproxy-safe-reload:dev\b|\bIMAGE\b": IMAGE,
}


def replaced(command: str) -> str:
    """Return a command with the words that it has here."""
    for pattern, word in REPLACED.items():
        command = re.sub(pattern, word, command)
    return command


class Page:
    """A page of the documentation, whose commands are run in a shell."""

    def __init__(self, name: str, folder: Path) -> None:
        """Read it; run its commands in a folder."""
        self.name = name
        self.folder = folder
        self.text = (ROOT / name).read_text()

    def block(self, beginning: str) -> Shown:
        """Return what the page shows and begins so."""
        return the(self.name, beginning)

    def run(self, beginning: str, then: str = "", **instead: str) -> str:
        """Run the command that begins so; return its output, in the form that the page shows if it shows one.

        `then` is put behind it, and what `instead` names is replaced, too.
        """
        item = self.block(beginning)
        command = replaced(f"{item.text} {then}")
        for old, new in instead.items():
            assert old in command
            command = command.replace(old, new)
        if not item.output:
            return self.shell(command)
        written = ""

        def is_as_shown() -> bool:
            nonlocal written
            written = self.shell(command)
            return looks_like(item.output).search(written) is not None

        try:
            eventually(is_as_shown)
        except AssertionError:
            words = f"{self.name}:{item.line}: {command}\nwrites\n{written}\nand the page shows\n{item.output}"
            raise AssertionError(words) from None
        return written

    def shell(self, command: str) -> str:
        """Run a command that may not fail; return everything that it writes."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {command}\nexits with {done.returncode}: {done.stdout}"
        return done.stdout


def port(name: str) -> str:
    """Return the only port that a container publishes, empty if it does not."""
    found = subprocess.run(["docker", "port", name], capture_output=True, text=True, check=False).stdout
    return found.strip().rpartition(":")[2]


def answer(name: str) -> str:
    """Return what a container answers on the only port that it publishes, nothing if it does not."""
    url = f"http://127.0.0.1:{port(name)}/"
    return subprocess.run(["curl", "-s", url], capture_output=True, text=True, check=False).stdout


def log(name: str) -> str:
    """Return everything that a container has written."""
    done = subprocess.run(
        ["docker", "logs", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def image() -> Iterator[None]:
    """What the README's `docker build` builds; where no registry is, on the base image that is there instead."""
    build("README.md", "docker build -t haproxy-safe-reload:dev")
    yield
    subprocess.run(["docker", "rmi", IMAGE], capture_output=True, check=False)


def build(page: str, beginning: str) -> None:
    """Run the `docker build` of a page."""
    base = subprocess.run([ROOT / "docker/base-image", "trixie"], stdout=subprocess.PIPE, text=True, check=True)
    Page(page, ROOT).run(beginning, **{"docker build": f"docker build --build-arg BASE={base.stdout.strip()}"})


@pytest.fixture
def readme(tmp_path: Path) -> Iterator[Page]:
    """The README, in a folder with the configuration that it shows."""
    page = Page("README.md", tmp_path)
    (tmp_path / "lb").mkdir()
    (tmp_path / "lb").chmod(0o755)
    (tmp_path / "lb/haproxy.cfg").write_text(page.block(CONFIGURATION).text + "\n")
    yield page
    subprocess.run(["docker", "rm", "-f", NAME], capture_output=True, check=False)


def test_the_readme_s_first_minute(readme: Page) -> None:
    """A container, an edit, and the log that is shown; then every other way to ask for a reload, and the stop."""
    readme.run("docker run -d --name lb")
    eventually(lambda: answer(NAME) == "Hello\n")
    readme.run("sed -i s/Hello/Goodbye/")
    readme.run("docker logs lb")
    assert answer(NAME) == "Goodbye\n"

    readme.run("docker kill -s USR1 lb")
    eventually(lambda: "generation 3" in log(NAME))
    readme.run("docker exec lb safe_reload reload")
    assert "asked for by the control socket" in log(NAME)
    assert "--vips" not in readme.run("docker exec lb safe_reload check")
    assert re.match(r"\d{4}-\d\d-\d\dT", Page("docs/monitoring.md", readme.folder).run("docker logs -t lb"))

    readme.run('docker run --rm -v "$PWD/lb')
    readme.run("docker stop -t 60", then=NAME)
    readme.run("docker run --stop-timeout 60", then=f"--rm {IMAGE} true")
    readme.run("docker rm -f lb")


def test_the_readme_s_container_without_root_or_anything_writable(readme: Page) -> None:
    """It serves, and it can be asked, also when the container has been restarted."""
    readme.run("docker run --user 65534", **{"docker run": f"docker run -d --name {NAME}"})
    eventually(lambda: answer(NAME) == "Hello\n")
    readme.run("docker exec lb safe_reload reload")
    assert "generation 2" in log(NAME)
    readme.shell(f"docker restart {NAME}")
    eventually(lambda: "serving" in readme.shell(f"docker exec {NAME} safe_reload list || true"))


class Terminal:
    """A shell in which one command after the other is typed."""

    def __init__(self, folder: Path) -> None:
        """Open it in this folder."""
        self._shell = subprocess.Popen(
            ["bash"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._shell.communicate()

    def type(self, command: str) -> tuple[int, str]:
        """Run a command; return its status, and everything that it writes."""
        assert self._shell.stdin
        assert self._shell.stdout
        self._shell.stdin.write(f"{command}\necho $'\\1' $?\n")
        self._shell.stdin.flush()
        written = ""
        for line in self._shell.stdout:
            text, mark, status = line.partition("\1 ")
            written += text
            if mark:
                return int(status), written.replace("\r\n", "\n")
        raise AssertionError(f"{command}\nends the shell: {written}")


# What may be done again until it shows what the page does: nothing that changes anything.
AGAIN = ("curl ", "docker logs ", "docker exec lb safe_reload status")


def test_the_tutorial_from_top_to_bottom(tmp_path: Path) -> None:
    """In one shell, as a reader types it; each output is the page's."""
    page = Page("docs/tutorial.md", tmp_path)
    (tmp_path / "lb").mkdir()
    (tmp_path / "lb").chmod(0o755)
    (tmp_path / "lb/haproxy.cfg").write_text(page.block(CONFIGURATION).text + "\n")
    commands = [item for item in shown(page.name) if item.language == "console"]
    try:
        with Terminal(tmp_path) as terminal:
            for item in commands:
                if "kill -KILL" in item.text:
                    # As a reader does, who does not type so fast: who has served for a second is replaced at once.
                    eventually(lambda: len(ages(NAME)) == 1 and ages(NAME)[0] > 1)
                is_as_shown(terminal, item)
    finally:
        subprocess.run(["docker", "rm", "-f", NAME], capture_output=True, check=False)
    assert len(commands) > 15


def ages(name: str) -> list[float]:
    """Return the age of each generation in a container, in seconds."""
    words = ["docker", "exec", name, "safe_reload", "status", "--json"]
    found = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return [one["age_seconds"] for one in found["generations"]]


def is_as_shown(terminal: Terminal, item: Shown) -> None:
    """Run a command of the tutorial and see that it writes what the page shows."""
    command = replaced(item.text)
    if "127.0.0.1" in command:
        command = re.sub(r"(127\.0\.0\.1.)8080", rf"\g<1>{port(NAME)}", command)
    pattern = looks_like(replaced(item.output) + "\n" if item.output else "")
    status, written = 0, ""

    def matches() -> bool:
        nonlocal status, written
        status, written = terminal.type(command)
        return status == 0 and pattern.search(written) is not None

    with contextlib.suppress(AssertionError):
        if eventually(matches, timeout=20 if item.text.startswith(AGAIN) else 0):
            return
    words = f"{item.page}:{item.line}: {command}\nexits with {status} and writes\n{written}\nand the page shows\n"
    raise AssertionError(words + item.output)


def test_the_demo_and_what_it_tells_to_try(readme: Page) -> None:
    """What `make run` starts, in a copy with a name and ports of its own; then each command that it prints."""
    shutil.copytree(ROOT / "docker", readme.folder / "docker", symlinks=True)
    # What `load` asks comes from within the container, where the ports are the old ones.
    ports = {"127.0.0.1:8080": f"127.0.0.1:{free_port()}", "127.0.0.1:8443": f"127.0.0.1:{free_port()}"}
    names = {"safe-reload-demo": NAME, "haproxy-safe-reload:dev": IMAGE}
    for script, words in (("run", names | ports), ("load", names)):
        path = readme.folder / "docker/demo" / script
        text = path.read_text()
        for old, new in words.items():
            text = text.replace(old, new)
        path.write_text(text)

    printed = readme.shell("docker/demo/run")
    found = re.findall(r"^  (look|HTTP/3|change it|load it|logs|stop) +(.*?)(?: {4,}(.*))?$", printed, re.MULTILINE)
    tries = {name: command for name, command, _ in found}
    remarks = {name: remark for name, _, remark in found}
    assert set(tries) == {"look", "HTTP/3", "change it", "load it", "logs", "stop"}, printed
    assert readme.shell(tries["look"]).count("Hello") == 2
    assert tries["HTTP/3"] == f"curl -k --http3-only https://{ports['127.0.0.1:8443']}/"
    if "HTTP3" in readme.shell("curl -V"):
        assert readme.shell(tries["HTTP/3"]).count("Hello") == 1
    else:
        assert "has no HTTP/3" in remarks["HTTP/3"]
        host, _, number = ports["127.0.0.1:8443"].partition(":")
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect((host, int(number)))
        assert "Hello" in http3_get(client)[2]
    readme.shell(tries["change it"])
    eventually(lambda: "Good morning" in readme.shell(tries["look"]))
    load = readme.shell(f"{tries['load it']} 2000")
    assert re.search(r"^Failed requests: +0$", load, re.MULTILINE), load
    assert tries["stop"] == "make stop"
    assert f"docker logs -f {NAME}" == tries["logs"]
    assert "is current" in readme.shell(tries["logs"].replace(" -f", ""))


def test_the_page_on_http3(tmp_path: Path) -> None:
    """Its configuration and its command serve HTTPS, whose answer names HTTP/3, and HTTP/3, also after a reload."""
    page = Page("docs/http3.md", tmp_path)
    folder = tmp_path / "lb"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "haproxy.cfg").write_text(page.block("global\n    limited-quic").text + "\n")
    crt, key = key_pair(folder, "site")
    (folder / "site.pem").write_text(crt + key)
    (folder / "site.pem").chmod(0o644)
    published = {
        "--name h3 -p 443:8443/tcp -p 443:8443/udp": f"--name {NAME} -p 127.0.0.1::8443 -p 127.0.0.1::8443/udp"
    }
    try:
        page.run("docker run -d --name h3", **published)
        eventually(lambda: "is current" in log(NAME))
        assert "FD_HTTP3  quic@0.0.0.0:8443  accepts" in page.run("docker exec h3 safe_reload status", h3=NAME)
        ports = dict(line.split(" -> ") for line in page.shell(f"docker port {NAME}").splitlines())
        for _ in range(2):
            written = page.shell(f"curl -ski https://{ports['8443/tcp']}/")
            assert 'alt-svc: h3=":443"; ma=3600' in written
            assert written.endswith("hello\n")
            host, _, number = ports["8443/udp"].partition(":")
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.connect((host, int(number)))
            assert http3_get(client)[2] == "hello\n"
            page.shell(f"docker exec {NAME} safe_reload reload")
    finally:
        subprocess.run(["docker", "rm", "-f", NAME], capture_output=True, check=False)


def inside(lb: Balancer, command: str, **more: Any) -> tuple[int, str]:
    """Run a command in a container; return its exit status and what it wrote."""
    done: Any = lb.container.exec_run(command, **more)
    return done.exit_code, done.output.decode()


def on_a_host(lb: Balancer, command: str) -> str:
    """Run a command among a container's processes, with this host's programs: the image has no pkill."""
    there = ["nsenter", "-t", str(lb.pid), "-p", "-n", "--", "unshare", "-m", "--propagation", "private", "--"]
    # Not as an argument: `pkill -f` would find the shell as well.
    script = f"mount -t proc proc /proc && {command}\n"
    return subprocess.run([*there, "sh"], input=script, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def test_the_readme_s_command_line_of_2017(start: Start, tmp_path: Path) -> None:
    """Verbatim, with its addresses; reloaded by the signal and the verb that the page has for it."""
    page = Page("README.md", tmp_path)
    lb = start(IMAGE, entrypoint="sleep", operands=("infinity",), working_dir="/etc/lb")
    lb.inside("ip", "address", "add", "10.0.0.1/32", "dev", "lo").communicate()
    lb.inside("ip", "address", "add", "10.0.0.2/32", "dev", "lo").communicate()
    (lb.folder / "a.cfg").write_text(page.block(CONFIGURATION).text.replace("FD_HTTP", "FD_HOST1") + "\n")
    (lb.folder / "b.cfg").write_text('frontend b\n  bind "fd@${FD_HOST2}"\n')
    (lb.folder / "c.cfg").write_text("global\n  maxconn 1000\n")
    command = page.block("safe_reload /var/run/ha1/pid 10.0.0.1:80:FD_HOST1,10").text
    lb.container.exec_run(["sh", "-c", f"exec {command} 2>/run/log"], detach=True)

    def generation(number: int) -> None:
        eventually(lambda: f"generation {number} " in inside(lb, "cat /run/log")[1])
        eventually(lambda: lb.inside("curl", "-s", "http://10.0.0.1/").communicate()[0] == "Hello\n")

    generation(1)
    on_a_host(lb, page.block("pkill -USR1 -f").text)
    generation(2)
    pid = on_a_host(lb, page.block("pgrep -f '/safe_reload").text)
    assert pid.isdigit()
    on_a_host(lb, page.block("kill -USR1 PID").text.replace("PID", pid))
    generation(3)
    assert inside(lb, page.block("safe_reload reload --pid-file").text)[0] == 0
    generation(4)
    status, listing = inside(lb, Page("docs/reference.md", tmp_path).block("safe_reload ls -l").text)
    assert (status, "a.cfg" in listing) == (0, True)


def test_the_verbs_that_need_no_more_words(start: Start, tmp_path: Path) -> None:
    """Each does what the README says of it; after them the same PID 1 serves."""
    page = Page("README.md", tmp_path)
    environment = {"SAFE_RELOAD_VIPS": "127.0.0.1:8080:FD_WEB"}
    lb = start(IMAGE).begins("one")
    pid = lb.pid
    reference = Page("docs/reference.md", tmp_path)
    for where, text in ((page, "safe_reload reload"), (page, "safe_reload upgrade"), (reference, "safe_reload check")):
        words = where.block(text).text + (" -f /etc/lb/haproxy.cfg" if text.endswith("check") else "")
        status, output = inside(lb, words, environment=environment)
        assert status == 0, f"{text}: {output}"
    assert (lb.pid, lb.get()) == (pid, "one")
    assert "generation 2 " in lb.log


# ---- the other pages ------------------------------------------------------------------------------------------------


def test_the_man_page_s_examples(start: Start, tmp_path: Path) -> None:
    """Two VIPs, a check and a reload; the same from outside; another instance with a pid file."""
    page = Page("docs/safe_reload.8", tmp_path)
    lb = start(IMAGE, entrypoint="sleep", operands=("infinity",), working_dir="/etc/lb", name=NAME, port=80)
    lb.inside("ip", "address", "add", "10.0.0.1/32", "dev", "lo").communicate()
    lb.edit(GOOD.replace("FD_HTTP}", 'FD_HTTP}"\n    bind "fd@${FD_HTTPS}'))
    (lb.folder / "a.cfg").write_text(GOOD.replace("FD_HTTP", "FD_HOST1"))
    inside(lb, "cp /etc/lb/haproxy.cfg /etc/haproxy/haproxy.cfg")

    lb.container.exec_run(page.block("safe_reload --vips").text, detach=True)
    lb.serves("one")
    status, words = inside(lb, f"sh -c '{page.block('safe_reload check -f').text}'")
    assert status == 0, words
    page.run("docker exec lb safe_reload reload --timeout 30")
    assert "generation 3" in inside(lb, "safe_reload status")[1]

    lb.container.exec_run(page.block("safe_reload /var/run/ha1/pid 10.0.0.1:80:FD_HOST1 ").text, detach=True)
    eventually(lambda: inside(lb, page.block("safe_reload status --pid-file").text)[0] == 0)


def test_monitoring_s_exporters(start: Start, tmp_path: Path) -> None:
    """Beside the only instance, beside the one with that name, and as a child."""
    page = Page("docs/monitoring.md", tmp_path)

    def up(lb: Balancer) -> bool:
        answered = lb.inside("curl", "-s", "http://127.0.0.1:9101/metrics").communicate()[0]
        return "safe_reload_up 1" in answered

    for beginning in ("safe_reload exporter --listen :9101", "safe_reload exporter --listen 127.0.0.1:9101"):
        lb = start(IMAGE, environment={"SAFE_RELOAD_NAME": "lb"}).begins("one")
        lb.container.exec_run(page.block(beginning).text, detach=True)
        eventually(partial(up, lb))
    command = page.block("safe_reload --exporter").text
    lb = start(IMAGE, entrypoint="sh", operands=("-c", f"exec {command} -f /etc/lb/haproxy.cfg"))
    eventually(partial(up, lb))
    assert len(lb.children()) == 2


def test_the_control_socket_s_questions(start: Start, tmp_path: Path) -> None:
    """As the page puts them, from this host, because the image has no socat: master, generation, session."""
    page = Page("docs/control-socket.md", tmp_path)
    lb = start(IMAGE).begins("one")
    (pid,) = inside(lb, "sh -c 'grep -lx haproxy /proc/[0-9]*/comm | cut -d/ -f3'")[1].split()
    there = {"/run/safe_reload/": f"/proc/{lb.pid}/root/run/safe_reload/"}
    assert re.search(rf"^{pid} +worker ", page.run("echo 'show proc'", **there), re.MULTILINE)
    answer = page.run("echo '@1 show info", **there, **{"@!17": f"@!{pid}"})
    assert f"Pid: {pid}\n" in answer
    assert re.search(r"^0x\w+: proto=", answer, re.MULTILINE)
    session = page.run("socat - /run", **there, **{"socat -": "printf 'prompt\\nshow proc\\nquit\\n' | socat -"})
    assert re.search(rf"> .*^{pid} +worker ", session, re.MULTILINE | re.DOTALL)


def test_the_reproducer_for_haproxy(tmp_path: Path) -> None:
    """It works with the haproxy of this host, and the page shows its configuration; its numbers say nothing here."""
    page = Page("docs/upstream-epoll.md", tmp_path)
    configuration = (
        page.block("global\n    nbthread 2").text.replace("/tmp/cli", "{cli}").replace("fd@N", "fd@{listener}")
    )
    assert configuration in (ROOT / "bench/epoll_reproducer").read_text()
    printed = page.run("bench/epoll_reproducer", then="--requests 200 --repetitions 1", **{"bench/": f"{ROOT}/bench/"})
    assert len(re.findall(r"^  -(?:W|db).* [0-9.]+ +[0-9.]+$", printed, re.MULTILINE)) == 4


def test_the_reproducer_of_handshakes(tmp_path: Path) -> None:
    """It works, in the image and with a client of HTTP/3; the page shows its configuration, and what loses nobody."""
    page = Page("docs/upstream-quic-handshake.md", tmp_path)
    configuration = page.block("global\n    limited-quic\n    nbthread 2").text
    for shown_there, named in {"/tmp/cli": "{cli}", "/tmp/pem": "{certificate}", "8443": "{port}"}.items():
        configuration = configuration.replace(shown_there, named)
    assert configuration.replace("limited-quic", "{limited}") in (ROOT / "bench/quic_reproducer").read_text()
    image = f"{IMAGE}-aioquic"
    file = ROOT / "tests/container/aioquic.Dockerfile"
    page.shell(f"docker build -q -t {image} --build-arg BASE={IMAGE} - < {file}")
    try:
        within = f"docker run --rm --network none -v {ROOT}/bench:/bench:ro --entrypoint /bench/quic_reproducer {image}"
        printed = page.run("bench/quic_reproducer", then="--clients 2 --seconds 2", **{"bench/quic_reproducer": within})
    finally:
        page.shell(f"docker rmi {image}")
    rows = re.findall(r"^  (-(?:W|db), .*?) +(\d+) +(\d+) +[0-9.]+  (.*)$", printed, re.MULTILINE)
    assert [(title, complete) for title, complete, *_ in rows] == [
        ("-db, handshakes are over", "2"),
        ("-db, SIGUSR1", "2"),
        ("-db, frontend disabled first", "2"),
        ("-W, SIGUSR2", "2"),
    ]
    for _, _, answered, end in (rows[0], rows[2]):
        assert answered == "2"
        assert end.startswith("gone")


def _lost(printed: str) -> dict[str, tuple[int, int, int]]:
    """Return what bench/open_connections prints: how many connections ended, were lost, may be sent again."""
    rows = re.findall(r"^(HTTP/.*?) +(\d+) +(\d+) +(\d+)$", printed, re.MULTILINE)
    return {title: (int(ended), int(lost), int(again)) for title, ended, lost, again in rows}


def test_the_clients_that_stay_connected(tmp_path: Path) -> None:
    """Nothing is lost where the README says so, in the image; the report shows the configuration that is measured."""
    lost = _lost(Page("bench/README.md", ROOT).run("docker run --rm --network none", then="--rounds 1"))
    for title in ("HTTP/1, option idle-close-on-response", "HTTP/2"):
        assert lost[title][0] > 0
        assert lost[title][1:] == (0, 0)
    page = Page("docs/upstream-close-spread-time.md", tmp_path)
    source = (ROOT / "bench/open_connections").read_text().replace("{{{{FD_WEB}}}}", "{FD_WEB}")
    for line in page.block("global\n    close-spread-time").text.replace('"0"', '"{{mark}}"').splitlines()[2:]:
        assert line.strip() in source
    printed = page.run("bench/open_connections", then="--rounds 1", **{"bench/": f"{ROOT}/bench/"})
    assert len(_lost(printed)) == 3


def test_kubernetes_s_check_in_ci() -> None:
    """The base's configuration is one that haproxy takes, with nothing but the image."""
    assert "ALERT" not in Page("docs/kubernetes.md", ROOT).run('docker run --rm -v "$PWD/k8s')


def test_kubernetes_s_image() -> None:
    """It is built under the name that the other commands of the page have, and is the same."""
    page = Page("docs/kubernetes.md", ROOT)
    name = page.block("docker build -t registry").text.split()[3]
    build(page.name, "docker build -t registry")
    try:
        found = [page.shell(f"docker image inspect -f '{{{{.Id}}}}' {image}") for image in (name, IMAGE)]
        assert found[0] == found[1]
        assert page.text.count(name.replace(":1.2.3", "")) > 2
    finally:
        page.shell(f"docker rmi {name}")


@needs_a_python
def test_systemd_s_installation(engine: docker.DockerClient) -> None:
    """On a Debian whose own haproxy runs: the installation, one service, every command for it, a socket unit."""
    page = Page("docs/systemd.md", ROOT)
    with booted(engine, "none", {}) as host:
        # What the image has of safe_reload, what it lacks of packages, and the test's own mask are not a Debian's.
        host.must("sh", "-c", f"rm -rf {SAFE_RELOAD_OF_THE_IMAGE} /etc/dpkg/dpkg.cfg.d/slim")
        host.must("sh", "-c", "systemctl unmask haproxy && systemctl start haproxy")

        def run(beginning: str, then: str = "") -> str:
            command = f"{page.block(beginning).text} {then}"
            return host.must("sh", "-c", f"cd /root && export DEBIAN_FRONTEND=noninteractive && {command}")

        def serves(path: str = "") -> None:
            eventually(lambda: host.inside("curl", "-s", f"http://127.0.0.1/{path}").communicate()[0] == "one")

        page.shell(page.block("make deb").text)
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            for package in (ROOT / "dist").glob("safe-reload_*.deb"):
                tar.add(package, f"root/dist/{package.name}")
        host.container.put_archive("/", made.getvalue())
        run("apt-get install ./dist", then="-y")
        run("systemctl daemon-reload")
        run("systemctl disable --now haproxy")

        host.put("/etc/default/safe_reload-lb", page.block("SAFE_RELOAD_VIPS=*:80").text + "\n")
        host.put("/etc/haproxy/lb.cfg", GOOD.replace("FD_HTTP}", 'FD_HTTP}"\n    bind "fd@${FD_HTTPS}'))
        run("systemctl enable --now safe_reload@lb")
        serves()
        run("systemctl reload safe_reload@lb")
        assert "generation 2" in run("systemctl status safe_reload@lb", then="--no-pager")
        run("systemctl restart safe_reload@lb")
        run("safe_reload upgrade --name lb")
        serves()
        assert "generation 1 (pid " in run("journalctl -u safe_reload@lb", then="--no-pager")
        exposure = re.search(r"`systemd-analyze security safe_reload@lb` says ([0-9.]+)", page.text)
        assert exposure
        assert f"safe_reload@lb.service: {exposure[1]} " in run("systemd-analyze security safe_reload@lb", "--no-pager")
        run("systemctl stop safe_reload@lb")

        run("systemctl disable --now safe_reload@lb")
        host.put("/etc/default/safe_reload-lb", "")
        host.put("/etc/haproxy/lb.cfg", GOOD)
        run("cp /usr/share/doc/safe-reload/examples/safe_reload@.socket")
        run("systemctl enable --now safe_reload@lb.socket")
        serves()
        host.must("systemctl", "stop", "safe_reload@lb.socket", "safe_reload@lb.service")
        host.must("apt-get", "purge", "-y", "safe-reload")
        assert host.run("systemctl", "cat", "safe_reload@lb")[0] != 0


# ---- docs/what-do-i-see.md ------------------------------------------------------------------------------------------

GOOD = """\
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option idle-close-on-response
frontend web
    bind "fd@${FD_HTTP}"
    http-request return status 200 content-type text/plain string "one"
"""
BAD = GOOD + "    bnid :1\n"
VIP = "*:8080:FD_HTTP"


class Failures:
    """Containers in which something goes wrong, and the page that shows what one sees then."""

    def __init__(self, start: Start, folder: Path, page: str = "docs/what-do-i-see.md") -> None:
        """Mount this folder where the page's examples have it."""
        self._start = start
        self._folder = folder
        self.page = Page(page, folder)
        self.file = folder / "haproxy.cfg"

    def begin(self, text: str = GOOD, *, vips: str = VIP, words: tuple[str, ...] = (), **more: Any) -> Balancer:
        """Start a container with this configuration."""
        self.file.write_text(text)
        more = {"volumes": {str(self._folder): {"bind": "/usr/local/etc/haproxy", "mode": "ro"}}, **more}
        return self._start(IMAGE, operands=words, vips=vips, watch="auto", **more)

    def are_shown(self, lb: Balancer, beginning: str) -> None:
        """Wait for what the page shows."""
        pattern = looks_like(self.page.block(beginning).text)
        eventually(lambda: pattern.search(lb.log))


@pytest.fixture
def failures(start: Start, tmp_path: Path) -> Failures:
    """The page, and a folder to be mounted."""
    folder = tmp_path / "etc"
    folder.mkdir()
    folder.chmod(0o755)
    return Failures(start, folder)


def test_a_refused_reload_and_a_crash_after_it_look_as_shown(failures: Failures) -> None:
    """In the log, on the stderr of who has asked, in the status; then the last known good one, and the way back."""
    lb = failures.begin(words=("--debounce", "3"))
    lb.begins("one")
    failures.file.write_text(BAD)
    lb.kill("USR1")
    failures.are_shown(lb, "[NOTICE]   (10) : ")

    asked, words = inside(lb, "safe_reload reload")
    assert asked == 1
    assert "haproxy.cfg:10] : unknown keyword 'bnid'" in words
    status = inside(lb, "safe_reload status")[1]
    assert looks_like(failures.page.block("configuration  577f31b2a7be; the disk has another one").text).search(
        status
    ), status

    def age() -> float:
        return float(json.loads(inside(lb, "safe_reload status --json")[1])["generations"][0]["age_seconds"])

    # One that has served for a second is replaced at once, as the page shows it; before that it has started.
    eventually(lambda: age() > 3)
    os.kill(lb.children()[0], signal.SIGKILL)
    failures.are_shown(lb, "[ERROR safe_reload (1)] generation 1 (pid 6) was killed")
    assert lb.get() == "one"
    failures.file.write_text(GOOD)
    failures.are_shown(lb, "[INFO  safe_reload (1)] the files are again")

    failures.file.write_text("")
    failures.are_shown(lb, "[WARN  safe_reload (1)] /usr/local/etc/haproxy/haproxy.cfg is empty")
    failures.file.unlink()
    failures.are_shown(lb, "[WARN  safe_reload (1)] the configuration cannot be read")
    status = inside(lb, "safe_reload status")[1]
    gone = failures.page.block("configuration  577f31b2a7be; the disk: ")
    assert looks_like(gone.text).search(status), status


def test_changed_files_look_as_shown(start: Start, tmp_path: Path) -> None:
    """One that haproxy takes, one that it refuses, and one that needs a reload."""
    folder = tmp_path / "etc"
    folder.mkdir()
    folder.chmod(0o755)
    page = Failures(start, folder, "docs/without-a-reload.md")
    site, blocked = folder / "site.pem", folder / "blocked.lst"
    site.write_text("".join(key_pair(tmp_path, "site")))
    blocked.write_text("192.0.2.1\n")
    denied = "    http-request deny if { src -f /usr/local/etc/haproxy/blocked.lst }\n"
    lb = page.begin(GOOD + "    bind :8443 ssl crt /usr/local/etc/haproxy/site.pem\n" + denied).begins("one")
    site.write_text("".join(key_pair(tmp_path, "site")))
    page.are_shown(lb, "[INFO  safe_reload (1)] applied ")
    site.write_text("garbage\n")
    page.are_shown(lb, "[ERROR safe_reload (1)] generation 1 (pid 8) ")
    site.write_text("".join(key_pair(tmp_path, "site")))
    blocked.write_text("nowhere\n")
    page.are_shown(lb, "[INFO  safe_reload (1)] this change is a reload: ")


def test_a_file_that_was_replaced_where_it_is_mounted_from_looks_as_shown(failures: Failures) -> None:
    """It can never change again, and that is said."""
    failures.file.write_text(GOOD)
    lb = failures.begin(volumes={str(failures.file): {"bind": "/usr/local/etc/haproxy/haproxy.cfg", "mode": "ro"}})
    lb.serves("one")
    other = failures.file.with_suffix(".new")
    other.write_text(GOOD.replace("one", "two"))
    other.replace(failures.file)
    failures.are_shown(lb, "[WARN  safe_reload (1)] /usr/local/etc/haproxy/haproxy.cfg can never")
    assert lb.get() == "one"


NO_LOW_PORTS = {"sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"}, "user": "65534", "cap_drop": ["ALL"]}


@pytest.mark.parametrize(
    ("beginning", "how", "status"),
    [
        ("[INFO  safe_reload (1)] no VIPs (--vips)", {"vips": ""}, 1),
        ("[WARN  safe_reload (1)] generation 1 (pid 7) has no bind", {"vips": VIP + ",*:8443:FD_HTTPS"}, None),
        ("[FATAL safe_reload (1)] --vips: VIPS entry 1", {"vips": "", "words": ("--vips", "10.0.0.1:80")}, 1),
        ("[FATAL safe_reload (1)] VIPS entry 1 '10.0.0.1:80:FD_HTTP'", {"vips": "10.0.0.1:80:FD_HTTP"}, 1),
        ("[FATAL safe_reload (1)] VIPS entry 1 '*:80:FD_HTTP'", {"vips": "*:80:FD_HTTP", **NO_LOW_PORTS}, 1),
        ("[NOTICE]   (7) : ", {"volumes": {}}, 1),
        ("[ERROR safe_reload (1)] generation 1 was not started", {"text": "global\n    master-worker\n" + GOOD}, 1),
        ("[FATAL safe_reload (1)] haproxy's -sf", {"words": ("-f", "/a.cfg", "-sf", "1")}, 1),
    ],
)
def test_a_failure_looks_as_shown(failures: Failures, beginning: str, how: dict[str, Any], status: int | None) -> None:
    """The page has what the container writes, and it ends as it should."""
    lb = failures.begin(**how)
    failures.are_shown(lb, beginning)
    if status is not None:
        assert lb.container.wait(timeout=30)["StatusCode"] == status


def test_nobody_answers_looks_as_shown(failures: Failures) -> None:
    """The output names the instance that was asked; the exit status is 3."""
    lb = failures.begin(entrypoint="sleep", words=("infinity",))
    asked = failures.page.block("safe_reload status")
    status, output = inside(lb, asked.text)
    assert looks_like(asked.output).search(output)
    assert status == 3
