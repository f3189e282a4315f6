"""The static file where there is nothing else: copied into other images, in an empty root, in the minimal image."""

import ast
import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import docker
from tests.children import children_of
from tests.connections import http_get
from tests.container.cli import OURS, ask
from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.debian import unpacked
from tests.system.instance import instances
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
_NAME = os.environ.get("TEST_IMAGE", "haproxy-safe-reload")
STATIC, MINIMAL = f"{_NAME}:static", f"{_NAME}:minimal"
MINIMALS = {"2.6": f"{MINIMAL}-bookworm", "3.0": MINIMAL, "3.2": f"{MINIMAL}-sid"}
BARE: dict[str, Any] = {"user": "4242:4242", "read_only": True, "cap_drop": ["ALL"], "tmpfs": {"/run/safe_reload": ""}}
"""Any user, nothing writable, no capabilities."""
FILE = "/usr/local/bin/safe_reload"


def test_the_two_lines_of_the_readme_are_enough(engine: docker.DockerClient, start: Start, tmp_path: Path) -> None:
    """Added to an image like haproxy's own: without safe_reload and Python, another user, SIGUSR1 as stop signal."""
    recipe = re.search(r"```dockerfile\n(FROM haproxy:3.0-alpine\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert recipe
    base = (
        f"FROM {_NAME}:dev\nRUN rm -r /usr/local/bin/safe_reload /usr/local/lib/safe_reload /usr/lib/python3* "
        "&& rm /usr/bin/python3*\nENTRYPOINT []\nUSER haproxy\nSTOPSIGNAL SIGUSR1\n"
    )
    lines = recipe[1].replace("FROM haproxy:3.0-alpine\n", base).replace("haproxy-safe-reload:static", STATIC)
    image = build(engine, tmp_path, lines)
    lb = start(image, tmpfs={"/run/safe_reload": ""}).begins("one")
    lb.becomes("two")
    assert lb.run("safe_reload", "status")[0] == 0
    lb.container.stop(timeout=30)
    assert lb.container.wait()["StatusCode"] == 0


def build(engine: docker.DockerClient, folder: Path, text: str) -> str:
    """Build an image from the text of a Dockerfile."""
    (folder / "Dockerfile").write_text(text)
    image, _ = engine.images.build(path=str(folder), rm=True, tag=f"{_NAME}:test-static")
    return str(image.tags[0])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--version",), 0, "safe_reload "),
        (("--", "/safe_reload", "--", "/safe_reload", "--version"), 0, "safe_reload "),
        (("--", "/sources.txt"), 126, "exec /sources.txt failed: Permission denied"),
        (("--", "none"), 127, "exec none failed: No such file or directory"),
        (("haproxy",), 1, "haproxy is given no configuration; add -f FILE"),
        (("--stop-timout", "1"), 1, "did you mean --stop-timeout"),
        (("metrics",), 3, "no instance"),
        (("exporter", "--listen", "nowhere.example:1"), 1, "no host name"),
        (("exporter", "--listen", "192.0.2.1:1"), 1, "Cannot assign requested address"),
    ],
)
def test_an_empty_root(engine: docker.DockerClient, words: tuple[str, ...], status: int, said: str) -> None:
    """No library, no /tmp, no user: each says its one line and ends as elsewhere."""
    container = engine.containers.run(STATIC, list(words), detach=True, network_mode="none", read_only=True)
    try:
        assert container.wait(timeout=60)["StatusCode"] == status
        text = container.logs().decode()
    finally:
        container.remove(force=True)
    assert said in text
    assert "Traceback" not in text


def test_a_root_of_musl(engine: docker.DockerClient, tmp_path: Path) -> None:
    """As in Alpine: musl's loader, a program that needs it, busybox, and nothing of glibc."""
    (tmp_path / "hello.c").write_text('#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n')
    subprocess.run(["musl-gcc", "-o", tmp_path / "hello", tmp_path / "hello.c"], check=True)
    assert b"/lib/ld-musl-" in (tmp_path / "hello").read_bytes()
    loader = next(Path("/lib").glob("ld-musl-*"))
    shutil.copy(loader.resolve(), tmp_path / loader.name)
    shutil.copy(unpacked("trixie", "busybox-static", "usr/bin/busybox"), tmp_path / "busybox")
    text = (
        f"FROM scratch\nCOPY {loader.name} /lib/\nCOPY hello /bin/\nCOPY busybox /bin/sh\n"
        f'COPY --from={STATIC} /safe_reload /usr/local/bin/safe_reload\nENTRYPOINT ["safe_reload"]\n'
    )
    words = ["--", "sh", "-c", "hello; trap 'exit 7' TERM; kill $$; sleep 9"]
    container = engine.containers.run(
        build(engine, tmp_path, text), words, detach=True, network_mode="none", user="4242", read_only=True
    )
    try:
        assert container.wait(timeout=60)["StatusCode"] == 7
        assert container.logs() == b"hello\n"
    finally:
        container.remove(force=True)


BUILT_IN = {
    "errno": "errno",
    "fcntl": "fcntl",
    "os": "posix",
    "resource": "resource",
    "select": "select",
    "signal": "_signal",
    "socket": "_socket",
    "termios": "termios",
    "time": "time",
}
"""What configure and musl's headers may leave out, by the names that our code has for it."""


def test_its_interpreter_has_all_that_our_code_asks_for(engine: docker.DockerClient) -> None:
    """Each function and constant of a built-in module that is used somewhere is a string in its tables.

    So is each name of a signal, which `-p` takes.
    """
    program = next(content for name, content in files_of(engine, STATIC) if name == "safe_reload")
    absent = []
    for path in (ROOT / "entrypoint").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in BUILT_IN:
                known = dir(importlib.import_module(BUILT_IN[node.value.id]))
                if node.attr in known and node.attr.encode() + b"\0" not in program:
                    absent.append(f"{path}: {node.value.id}.{node.attr}")
    assert absent == []
    assert [name for name in dir(signal) if name.startswith("SIG") and name.encode() not in program] == []


@pytest.fixture(params=MINIMALS)
def bare(request: pytest.FixtureRequest, start: Start) -> Balancer:
    """A minimal container that may do nothing, on each version of HAProxy."""
    return start(MINIMALS[request.param], watch="auto", options=("--debounce", "0.1"), **BARE).begins("one")


def test_a_minimal_container_does_everything(bare: Balancer) -> None:
    """A reload, a refusal, an edit, a crash, the verbs, and a stop."""
    bare.edit(configuration("two"))
    bare.serves("two")
    assert bare.run("safe_reload", "reload")[0] == 0
    bare.edit(configuration("three", "nonsense here\n"))
    eventually(lambda: "unknown keyword 'nonsense'" in bare.log)
    assert bare.get() == "two"
    status, text = bare.run("safe_reload", "check", "-f", "/etc/lb/haproxy.cfg")
    assert (status, "unknown keyword 'nonsense'" in text) == (1, True)
    bare.edit(configuration("three"))
    bare.serves("three")
    current = eventually(lambda: one[0] if len(one := children_of(bare.pid)) == 1 else 0)
    os.kill(current, 9)
    bare.serves("three")
    for words in ("status", "status --json", "list", "metrics"):
        assert bare.run("safe_reload", *words.split())[0] == 0, words
    assert "safe_reload_config_last_reload_successful 1.0" in bare.run("safe_reload", "metrics")[1]
    bare.container.stop(timeout=60)
    assert bare.container.wait()["StatusCode"] == 0
    assert "Traceback" not in bare.log


def test_its_pid_1_is_small(start: Start) -> None:
    """At most 10 MiB are resident after a reload: the bytecode has been given back."""
    lb = start(MINIMAL).begins("one")
    lb.becomes("two")
    eventually(lambda: "is gone" in lb.log)
    status = Path(f"/proc/{lb.pid}/status").read_text()
    assert int(status.partition("VmRSS:")[2].split()[0]) <= 10 * 1024


def test_its_exporter(start: Start) -> None:
    """Both formats, and the probes."""
    lb = start(MINIMAL, options=("--exporter", "127.0.0.1:9101"), **BARE).begins("one")

    def get(path: str) -> tuple[str, str]:
        return http_get(lb.connect(9101), path)

    eventually(lambda: "listening on 127.0.0.1:9101" in lb.log)
    assert "200" in get("/livez")[0].splitlines()[0]
    assert "\nsafe_reload_config_last_reload_successful 1.0\n" in get("/metrics")[1]


def new_file(lb: Balancer, content: bytes) -> None:
    """Replace the program in a container, as a new file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(Path(FILE).name)
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    assert lb.container.put_archive(str(Path(FILE).parent), packed.getvalue())


def test_an_upgrade_to_another_file(start: Start) -> None:
    """A file that cannot take over changes nothing; then a good one does, in the same process."""
    lb = start(MINIMAL).begins("one")
    good = Path(f"/proc/{lb.pid}/root{FILE}").read_bytes()
    bad = {
        "half of it": good[: len(good) // 2],
        "another program": Path(f"/proc/{lb.pid}/root/usr/sbin/haproxy").read_bytes(),
        "a text": b"safe_reload\n",
        "nothing": b"",
    }
    for name, content in bad.items():
        new_file(lb, content)
        # The client is the new file, too, so this one asks over the socket.
        answer = ask(lb, OURS, "upgrade\n")
        assert answer.startswith("Success=0"), (name, answer)
        assert "has taken over" not in lb.log, name
        lb.becomes(name)
    eventually(lambda: len(lb.children()) == 1)  # the others have drained
    before = (lb.pid, lb.children())
    new_file(lb, good)
    assert lb.run("safe_reload", "upgrade")[0] == 0
    eventually(lambda: "has taken over" in lb.log)
    assert (lb.pid, lb.children()) == before
    lb.becomes("two")


def test_a_haproxy_after_an_upgrade_inherits_what_one_before_it_does(start: Start) -> None:
    """What our interpreter ignores for itself (SIGXFSZ) is not taken for what our parent has ignored."""
    lb = start(MINIMAL).begins("one")

    def ignored() -> str:
        (current,) = eventually(lambda: lb.children() if len(lb.children()) == 1 else [])
        return Path(f"/proc/{current}/status").read_text().partition("SigIgn:")[2].split()[0]

    before = ignored()
    for mark in ("two", "three"):
        assert lb.run("safe_reload", "upgrade")[0] == 0
        lb.becomes(mark)
        assert ignored() == before


def make_static(architecture: str, *flags: str) -> bytes:
    """Make the file, from nothing with `--no-cache`; return it."""
    words = ["make", "static", f"IMAGE={_NAME}-test", f"ARCH={architecture}", f"BUILD_FLAGS={' '.join(flags)}"]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return (ROOT / "build/static" / architecture / "safe_reload").read_bytes()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_same_sources_are_the_same_bits(architecture: str) -> None:
    """Twice from nothing: no time, no path of a build and no order of a folder is in it."""
    assert make_static(architecture, "--no-cache") == make_static(architecture, "--no-cache")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_file_for_arm64_under_emulation(tmp_path: Path) -> None:
    """A start, a reload, a crash and a stop of this machine's haproxy, with qemu's processor under PID 1."""
    qemu = shutil.which("qemu-aarch64-static") or pytest.skip("qemu-user-static is not installed")
    make_static("arm64")
    words = [qemu, str(ROOT / "build/static/arm64/safe_reload")]

    def ask(*verb: str) -> subprocess.CompletedProcess[str]:
        line = [*words, *verb, "--runtime-dir", str(tmp_path / "run")]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    with instances(tmp_path) as begin:
        instance = begin(program=words).serves(1)
        assert ask("reload").returncode == 0
        instance.serves(2)
        os.kill(instance.haproxy(), 9)
        instance.serves(3)
        assert "serving" in ask("status").stdout
        assert ask("stop").returncode == 0
        assert instance.process.wait(timeout=60) == 0


def files_of(engine: docker.DockerClient, image: str) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of an image's files."""
    with tarfile.open(fileobj=io.BytesIO(exported(engine, image))) as tar:
        for entry in tar.getmembers():
            file = tar.extractfile(entry) if entry.isfile() else None
            if file:
                yield entry.name, file.read()


def exported(engine: docker.DockerClient, image: str) -> bytes:
    """Return an image's root as a tar file."""
    container = engine.containers.create(image)
    try:
        return subprocess.run(["docker", "export", str(container.id)], capture_output=True, check=True).stdout
    finally:
        container.remove()


def contents(engine: docker.DockerClient, image: str) -> Iterator[tarfile.TarInfo]:
    """Yield the files of an image that are not folders or the engine's own."""
    with tarfile.open(fileobj=io.BytesIO(exported(engine, image))) as tar:
        yield from (one for one in tar.getmembers() if not one.isdir() and one.mtime == 0)


@pytest.mark.parametrize("version", MINIMALS)
def test_there_is_nothing_else_in_the_minimal_image(engine: docker.DockerClient, version: str) -> None:
    """One program, libraries, users, licences, and what scanners read; nobody can change it but root."""
    found = list(contents(engine, MINIMALS[version]))
    assert all(one.uid == 0 and not one.mode & 0o7022 for one in found if one.isfile())
    expected = (
        r"usr/sbin/haproxy|usr/lib/[\w-]+/[\w.+-]+\.so[\w.]*|etc/(passwd|group|os-release)|"
        r"usr/share/doc/[\w.+-]+/copyright|var/lib/dpkg/status\.d/[\w.+-]+"
    )
    strange = [one.name for one in found if one.isfile() and not re.fullmatch(expected, one.name)]
    assert strange == []
    named = {one.name.rpartition("/")[2] for one in found if one.name.startswith("var/lib/dpkg/status.d/")}
    assert named >= {"haproxy", "libc6"}
    assert {f"usr/share/doc/{name}/copyright" for name in named} <= {one.name for one in found}


@pytest.mark.parametrize(
    ("program", "does"),
    [
        ("cp", 'case "$*" in *libc.so*) exit 1 ;; esac; exec /usr/bin/cp "$@"'),
        ("ldd", "exit 1"),
        ("ldconfig", "exit 0"),
        ("dpkg-query", 'case $1 in -S) exit 1 ;; esac; exec /usr/bin/dpkg-query "$@"'),
    ],
)
def test_a_minimal_root_that_lacks_something_is_an_error(engine: docker.DockerClient, program: str, does: str) -> None:
    """No image is built from it."""
    script = ROOT / "docker/minimal/collect"
    instead = f"printf '#!/bin/sh\\n%s\\n' \"$0\" >/usr/local/bin/{program} && chmod 755 /usr/local/bin/{program}"
    container = engine.containers.run(
        NEWEST_STABLE,
        ["-c", f"{instead} && exec /collect /usr/sbin/haproxy /root/minimal", does],
        entrypoint="sh",
        volumes={str(script): {"bind": "/collect", "mode": "ro"}},
        detach=True,
        network_mode="none",
    )
    try:
        assert container.wait(timeout=60)["StatusCode"] != 0
    finally:
        container.remove(force=True)
