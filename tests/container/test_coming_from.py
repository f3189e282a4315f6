"""What docs/coming-from.md says of before and afterwards, each run in a container."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

import docker
from tests.connections import http_get, read_all
from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.debian import unpacked
from tests.documented import ROOT, the
from tests.waiting import eventually

PAGE = "docs/coming-from.md"
FILE = "/usr/local/etc/haproxy/haproxy.cfg"
ORDINARY = configuration("one").replace('"fd@${FD_WEB}"', ":8080")
ALONE = ("haproxy", "-f", "/etc/lb/haproxy.cfg")
MASTER = ("haproxy", "-W", "-db", "-f", "/etc/lb/haproxy.cfg")
OURS = ("safe_reload", "-f", "/etc/lb/haproxy.cfg")

# Written anew, to do what the official image's does.
ENTRYPOINT = '#!/bin/sh\nset -e\n[ "$1" != haproxy ] || { shift; set -- haproxy -W -db "$@"; }\nexec "$@"\n'


def begin(start: Start, words: tuple[str, ...], text: str = ORDINARY, **more: Any) -> Balancer:
    """Start a container with these words as PID 1; wait until it serves."""
    return start(NEWEST_STABLE, entrypoint=list(words), operands=(), text=text, vips="", **more).serves("one")


def tool(suite: str, package: str, file: str) -> dict[str, dict[str, str]]:
    """Return a volume with a program of Debian's, in PATH."""
    return {str(unpacked(suite, package, file)): {"bind": f"/usr/bin/{Path(file).name}", "mode": "ro"}}


def status(lb: Balancer) -> int:
    """Wait for a container's end; return its exit code."""
    code = lb.container.wait(timeout=30)["StatusCode"]
    assert isinstance(code, int)
    return code


# ---- signals --------------------------------------------------------------------------------------------------------


def cells() -> Iterator[tuple[str, str, str]]:
    """Yield what the page's table of signals says: the signal, the column, the words."""
    rows = re.findall(r"^\| ([A-Z0-9]+) \| (.*) \| (.*) \| (.*) \|$", (ROOT / PAGE).read_text(), re.MULTILINE)
    for name, *words in rows:
        yield from ((name, column, word) for column, word in zip(("alone", "master", "ours"), words, strict=True))


@pytest.mark.parametrize(("name", "column", "words"), list(cells()))
def test_the_table_of_signals(start: Start, name: str, column: str, words: str) -> None:
    """A request is in flight when the signal is sent: it is answered, or it is not."""
    volumes = tool("trixie", "tini", "usr/bin/tini") if column == "alone" else {}
    program = {"alone": ("tini", "--", *ALONE), "master": MASTER, "ours": OURS}[column]
    lb = begin(start, program, volumes=volumes)
    eventually(lambda: catches(lb) if column == "master" else column == "alone" or "holds the ordinary" in lb.log)
    with lb.connect() as flight:
        flight.sendall(b"GET / HTTP/1.0\r\n")
        is_as_said(lb, flight, name, column, words)


def catches(lb: Balancer) -> bool:
    """Tell whether haproxy's master hears signals: for a moment after its worker serves, it loses them."""
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{lb.pid}/status").read_text().splitlines())
    caught, blocked = int(fields["SigCgt"], 16), int(fields["SigBlk"], 16)
    return not blocked and all(caught & 1 << number - 1 for number in (SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGTERM))


def is_as_said(lb: Balancer, flight: socket.socket, name: str, column: str, words: str) -> None:
    """Send the signal; see what becomes of the container and of the request."""
    before = lb.log
    lb.kill(f"SIG{name}")

    outcome, _, code = words.partition(": ")
    match outcome:
        case "stops at once":
            assert status(lb) == int(code)
            with suppress(ConnectionError):
                assert b"one" not in read_all(flight)
            return
        case "stops when the requests are finished":
            eventually(lambda: refuses(lb))
        case "reloads" if column == "ours":
            eventually(lambda: f"is current; asked for by SIG{name}" in lb.log)
        case "reloads":
            # The old worker drains.
            eventually(lambda: lb.log.count("Proxy web stopped") > 0)
            assert lb.get() == "one"
        case "prints its servers":
            eventually(lambda: "SIGHUP: " in lb.log.removeprefix(before))
        case "nothing":
            assert lb.get() == "one"
            assert lb.log == before
        case _:
            raise AssertionError(words)
    flight.sendall(b"\r\n")
    assert read_all(flight).endswith(b"one")
    if code:
        assert status(lb) == int(code)
    else:
        assert lb.get() == "one"


def refuses(lb: Balancer) -> bool:
    """Tell whether nobody listens any more."""
    try:
        lb.connect().close()
    except ConnectionRefusedError:
        return True
    return False


# ---- the official image ---------------------------------------------------------------------------------------------


def side(beginning: str, mark: str) -> str:
    """Return what a block of the page is before (`-`) or afterwards (`+`)."""
    lines = the(PAGE, beginning).text.splitlines()
    return "".join(f"{line[1:]}\n" for line in lines if line[:1] in {" ", "", mark})


@pytest.fixture
def official(engine: docker.DockerClient, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Images like the official one with a configuration, before and afterwards."""
    (tmp_path / "docker-entrypoint.sh").write_text(ENTRYPOINT)
    (tmp_path / "docker-entrypoint.sh").chmod(0o755)
    (tmp_path / "haproxy.cfg").write_text(ORDINARY)
    base = f"FROM {NEWEST_STABLE}\nCOPY docker-entrypoint.sh /usr/local/bin/\nSTOPSIGNAL SIGUSR1\n"
    base += f'ENTRYPOINT ["docker-entrypoint.sh"]\nCMD ["haproxy", "-f", "{FILE}"]\n'
    tags = []
    for mark in "-+":
        text = side(" FROM haproxy:3.0", mark.strip()).replace("FROM haproxy:3.0\n", base)
        # The base has a safe_reload already: that is the one where the image with the static file has not been built.
        static = f"{NEWEST_STABLE.partition(':')[0]}:static"
        copy = rf"COPY --from={static} \1\n" if engine.images.list(static) else ""
        text = re.sub(r"^COPY --from=\S+ (.*)\n", copy, text, flags=re.MULTILINE)
        (tmp_path / "Dockerfile").write_text(text)
        tags.append(f"{NEWEST_STABLE.partition(':')[0]}:test-coming-from-{'after' if mark == '+' else 'before'}")
        done = subprocess.run(["docker", "build", "-q", "-t", tags[-1], tmp_path], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
    yield tags[0], tags[1]
    for tag in tags:
        engine.images.remove(tag, force=True)


def test_the_official_image_and_what_becomes_of_it(start: Start, official: tuple[str, str]) -> None:
    """Before, HUP reloads and a stop is USR1; afterwards HUP reloads, and a stop is TERM, and finishes requests."""
    before, after = official
    old = start(before, operands=(), vips="").serves("one")
    eventually(lambda: catches(old))
    old.kill("SIGHUP")
    eventually(lambda: "Former worker" in old.log and catches(old))
    old.container.stop(timeout=20)
    assert status(old) == 0

    new = start(after, operands=(), vips="").serves("one")
    the(PAGE, "docker kill -s HUP lb")
    eventually(lambda: "holds the ordinary listeners" in new.log)
    new.kill("SIGHUP")
    eventually(lambda: "asked for by SIGHUP" in new.log)
    assert new.run("safe_reload", "status")[0] == 0
    with new.connect() as flight:
        flight.sendall(b"GET / HTTP/1.0\r\n")
        stopping = subprocess.Popen(["docker", "stop", "-t", "20", str(new.container.id)], stdout=subprocess.DEVNULL)
        eventually(lambda: refuses(new))
        flight.sendall(b"\r\n")
        assert read_all(flight).endswith(b"one")
    assert stopping.wait(timeout=30) == 0
    assert status(new) == 0


def test_the_official_image_s_script_must_go(start: Start, official: tuple[str, str]) -> None:
    """With it, safe_reload is a plain init, of which no verb knows."""
    lb = start(official[1], operands=("docker-entrypoint.sh", "haproxy", "-f", FILE), vips="").serves("one")
    assert lb.run("safe_reload", "status")[0] != 0
    assert "is current" not in lb.log


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("master-worker", "haproxy.cfg:2: remove `master-worker`"),
        ("mworker-max-reloads 3", ""),
        ("daemon", ""),
        ("pidfile /run/h.pid", ""),
        ("stats socket /run/s.sock level admin expose-fd listeners", ""),
        ("nbproc 2", "nbproc is not supported any more"),
        ("server-state-file /run/state", ""),
    ],
)
def test_lines_of_the_configuration(start: Start, image: str, line: str, words: str) -> None:
    """They are refused with a reason, or make no difference; the page has each of them."""
    assert f"`{line.split(maxsplit=1)[0]}" in (ROOT / PAGE).read_text()
    text = ORDINARY.replace("global\n", f"global\n    {line}\n", 1)
    lb = start(image, text=text, vips="")
    if words:
        assert status(lb) == 1
        assert words in lb.log
        return
    lb.begins("one")
    assert lb.sh("[ -e /run/h.pid ] || echo none") == "none\n"
    assert lb.run("safe_reload", "reload")[0] == 0


def test_a_program_section(start: Start, image: str) -> None:
    """The log says what to do with it."""
    lb = start(image, text=f"{ORDINARY}program x\n    command sleep 100\n", vips="")
    assert status(lb) == 1
    assert "`program` section is for haproxy's own master" in lb.log


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-W",), "haproxy's -W is dropped"),
        (("-Ws",), "haproxy's -Ws is dropped"),
        (("-D",), "haproxy's -D is dropped"),
        (("-db",), "haproxy's -db is dropped"),
        (("-S", "/run/master.sock"), "/run/safe_reload/haproxy.sock answers instead of /run/master.sock"),
        (("-p", "/run/h.pid"), "haproxy's -p must not be given"),
        (("-sf", "1"), "haproxy's -sf must not be given"),
        (("-st", "1"), "haproxy's -st must not be given"),
        (("-x", "/run/h.sock"), "haproxy's -x must not be given"),
    ],
)
def test_words_of_the_command_line(start: Start, words: tuple[str, ...], says: str) -> None:
    """They are dropped with a warning, or refused with a reason; the page says which."""
    lb = start(NEWEST_STABLE, operands=(*ALONE, *words), text=ORDINARY, vips="")
    eventually(lambda: says in lb.log)
    row = next(line for line in (ROOT / PAGE).read_text().splitlines() if re.match(rf"\| .*`{words[0]}[ `]", line))
    if "refused" in row:
        assert status(lb) == 1
    else:
        lb.begins("one")


# ---- other inits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["tini", "dumb-init"])
def test_another_init_s_words(start: Start, init: str) -> None:
    """The line of the page serves before and afterwards."""
    found = re.search(rf'^\| `(\["{init}", .*"FILE"\])` \| `(\[.*\])` \|$', (ROOT / PAGE).read_text(), re.MULTILINE)
    assert found
    for line in found.groups():
        words = tuple(re.findall(r'"(.*?)"', line.replace("FILE", "/etc/lb/haproxy.cfg")))
        lb = begin(start, words, volumes=tool("trixie", init, f"usr/bin/{init}"))
        assert lb.get() == "one"


def test_tini_s_options_before_haproxy(start: Start) -> None:
    """They are understood."""
    lb = begin(start, ("safe_reload", "-s", "-g", "-v", "-w", "-p", "SIGTERM", "-e", "143", "--", *ALONE))
    lb.begins("one")


def test_dumb_init_s_rewriting(start: Start) -> None:
    """In front of haproxy it makes TERM graceful; in front of safe_reload it makes TERM a reload."""
    volumes = tool("trixie", "dumb-init", "usr/bin/dumb-init")
    old = begin(start, ("dumb-init", "--rewrite", "15:10", "--", *ALONE), volumes=volumes)
    old.kill("SIGTERM")
    assert status(old) == 0
    new = begin(start, ("dumb-init", "--rewrite", "15:10", "--", *OURS), volumes=volumes).begins("one")
    new.kill("SIGTERM")
    eventually(lambda: "asked for by SIGUSR1" in new.log)
    assert new.get() == "one"


def test_docker_s_own_init(start: Start) -> None:
    """Nothing is lost with it, nor gained: signals arrive, orphans are gone, and the exit code is 0."""
    lb = start(NEWEST_STABLE, text=ORDINARY, vips="", init=True).begins("one")
    assert lb.sh("cat /proc/1/comm") == "docker-init\n"
    lb.kill("SIGUSR1")
    eventually(lambda: lb.reloads == 1)
    assert lb.run("safe_reload", "reload")[0] == 0
    lb.kill("SIGTERM")
    assert status(lb) == 0


def test_s6(start: Start) -> None:
    """The service's `run` before and afterwards: what `s6-svc` does to it."""
    programs = unpacked("trixie", "s6", "usr/bin/s6-svscan").parent
    libraries = [
        unpacked("trixie", package, f"usr/lib/x86_64-linux-gnu/{file}").parent
        for package, file in (
            ("libs6-2.13", "libs6.so.2.13"),
            ("libskarnet2.14t64", "libskarnet.so.2.14"),
        )
    ]
    volumes = {str(folder): {"bind": f"/lib{number}", "mode": "ro"} for number, folder in enumerate(libraries)}
    volumes[str(programs)] = {"bind": "/s6", "mode": "ro"}

    def prepare(folder: Path) -> None:
        (folder / "haproxy.cfg").write_text(ORDINARY)
        for mark, name in (("-", "before"), ("+", "after")):
            (folder / name).write_text(side(" #!/bin/sh\n-exec haproxy", mark).replace(FILE, "/etc/lb/haproxy.cfg"))
            (folder / name).chmod(0o755)

    script = "cp /s6/s6-* /usr/bin; cp -P /lib[0-9]/*.so* /usr/lib/x86_64-linux-gnu/; ldconfig; mkdir -p /run/svc/lb; "
    script += "cp /etc/lb/before /run/svc/lb/run; exec s6-svscan /run/svc"
    lb = start(NEWEST_STABLE, entrypoint=["sh", "-c", script], operands=(), vips="", prepare=prepare, volumes=volumes)
    lb.serves("one")
    assert lb.run("s6-svc", "-wu", "-T", "20000", "-u", "/run/svc/lb")[0] == 0
    eventually(lambda: lb.run("s6-svc", "-2", "/run/svc/lb")[0] == 0 and "Former worker" in lb.log)
    assert lb.run("sh", "-c", "cp /etc/lb/after /run/svc/lb/run; s6-svc -r /run/svc/lb")[0] == 0
    eventually(lambda: "holds the ordinary listeners" in lb.log)
    for option, name in (("-2", "SIGUSR2"), ("-h", "SIGHUP"), ("-1", "SIGUSR1")):
        assert lb.run("s6-svc", option, "/run/svc/lb")[0] == 0
        eventually(lambda name=name: f"is current; asked for by {name}" in lb.log)  # type: ignore[misc]
    assert lb.run("s6-svc", "-wd", "-T", "20000", "-d", "/run/svc/lb")[0] == 0
    assert "exitcode 0" in lb.run("s6-svstat", "/run/svc/lb")[1]


# ---- a sidecar, multibinder -----------------------------------------------------------------------------------------


def test_what_a_sidecar_sends(start: Start) -> None:
    """To PID 1 or to `safe_reload` it is a reload; to every `haproxy` it is not."""
    lb = begin(start, ("sh", "-c", "safe_reload -f /etc/lb/haproxy.cfg; exit"))

    def send(beginning: str) -> None:
        command = the(PAGE, beginning).text
        sidecar = f"mount -t proc proc /proc && {command}\n"
        there = ["nsenter", "-t", str(lb.pid), "-p", "-n", "--", "unshare", "-m", "--propagation", "private", "--"]
        subprocess.run([*there, "sh"], input=sidecar, text=True, check=True)

    eventually(lambda: "holds the ordinary listeners" in lb.log)
    send("pkill -HUP haproxy")
    eventually(lambda: "SIGHUP: " in lb.log)
    send("pkill -USR2 haproxy")
    assert lb.get() == "one"
    assert lb.reloads == 0
    send("pkill -HUP -x safe_reload")
    eventually(lambda: lb.reloads == 1)
    eventually(lambda: "generation 1" in lb.log and "is gone" in lb.log)
    send("pkill -USR1 haproxy")
    eventually(lambda: "exited with status 0, unasked" in lb.log)
    lb.serves("one")

    alone = begin(start, OURS).begins("one")
    there = ["nsenter", "-t", str(alone.pid), "-p", "--", "sh", "-c", the(PAGE, "kill -HUP 1").text]
    subprocess.run(there, check=True)
    eventually(lambda: alone.reloads == 1)


def test_multibinder_s_configuration_afterwards(start: Start) -> None:
    """It serves from a VIP; before, the socket was one without SO_REUSEPORT, beside which safe_reload cannot start."""
    text = side(" global\n-    daemon", "+")
    assert "bind_tcp" not in text
    lb = start(NEWEST_STABLE, text=text, vips="0.0.0.0:80:FD_HTTP", port=80)
    eventually(lambda: "is current" in lb.log)
    assert "200" in http_get(lb.connect())[0]

    other = start(NEWEST_STABLE, entrypoint=["sleep", "infinity"], operands=(), text=text, vips="")
    with other.network(), socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("0.0.0.0", 80))
        held.listen(10240)
        code, words = other.run("safe_reload", "--vips", "0.0.0.0:80:FD_HTTP", "-f", "/etc/lb/haproxy.cfg")
    assert code == 1
    assert "another process holds it without SO_REUSEPORT" in words
