"""The files of docs/where-it-runs.md, and the page's commands for them: run where they can be, else parsed."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hcl2
import pytest
from docker.types import Mount
from hcl2.utils import SerializationOptions

from tests.connections import http_get
from tests.container.conftest import IMAGES, NEWEST_STABLE, Start
from tests.debian import unpacked
from tests.documented import ROOT, the
from tests.waiting import eventually

PAGE = "docs/where-it-runs.md"
RUNTIME = "/run/safe_reload"


class Shell:
    """A folder with copies of the project's files, in which the page's commands are run."""

    def __init__(self, folder: Path, **environment: str) -> None:
        """Run commands there, with these variables besides one's own."""
        self.folder = folder
        self.environment = {**os.environ, **environment}

    def __call__(self, command: str, *, fails: bool = False) -> str:
        """Run a command that must not fail, or must; return everything that it writes."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert (done.returncode != 0) is fails, f"{command}\nexits with {done.returncode}: {done.stdout}"
        return done.stdout

    def shown(self, beginning: str) -> str:
        """Run the command of the page that begins so."""
        return self(the(PAGE, beginning).text)

    def copy(self, source: str, **instead: str) -> None:
        """Copy files of the project, with this host's words."""
        for path in sorted((ROOT / source).rglob("*")):
            target = self.folder / path.relative_to(ROOT / source)
            if path.is_dir():
                target.mkdir(mode=0o755)
                continue
            text = path.read_text()
            for old, new in {
                "haproxy-safe-reload:dev": NEWEST_STABLE,
                '"80:8080"': '"127.0.0.1::8080"',
                **instead,
            }.items():
                text = text.replace(old, new)
            target.write_text(text)
            target.chmod(0o644)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a file by one that has other words, as an editor does."""
        path = self.folder / file
        other = path.with_name("#new")
        other.write_text(path.read_text().replace(old, new))
        other.chmod(0o644)
        other.rename(path)


# ---- docker compose -------------------------------------------------------------------------------------------------


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[Shell]:
    """The files of docker/compose, and a `docker` that has the subcommand."""
    folder = tmp_path / "compose"
    folder.mkdir(mode=0o755)
    shell = Shell(folder, COMPOSE_PROJECT_NAME=f"safe-reload-places-{os.getpid()}")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        plugins = tmp_path / "client/cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(
            unpacked("trixie", "docker-compose", "usr/libexec/docker/cli-plugins/docker-compose")
        )
        shell.environment["DOCKER_CONFIG"] = str(plugins.parent)
    shell.copy("docker/compose")
    yield shell
    shell("docker compose -f watch.yaml down --rmi local -t 0; docker compose down -t 0")


def answers(compose: Shell, file: str = "compose.yaml") -> str:
    """Return what the container answers."""
    address = compose(f"docker compose -f {file} port lb 8080").strip()
    return compose(f"curl -s http://{address}/ || true")


def test_the_compose_file_and_what_the_page_does_with_it(compose: Shell) -> None:
    """Up when it is healthy, an edit, a reload that is waited for, a signal, down; one folder is writable."""
    compose.shown("docker compose up -d --wait")
    assert answers(compose) == "Hello\n"
    compose.shown("sed -i s/Hello/Goodbye/ lb/haproxy.cfg")
    eventually(lambda: answers(compose) == "Goodbye\n")
    eventually(lambda: "asked for by files" in compose.shown("docker compose logs lb"))
    compose.shown("docker compose exec lb safe_reload reload")
    compose.shown("docker compose kill -s USR1 lb")
    eventually(lambda: "asked for by SIGUSR1" in compose("docker compose logs lb"))
    number = compose("docker compose ps -q lb").strip()
    health = json.loads(compose(f"docker inspect -f '{{{{json .State.Health}}}}' {number}"))
    assert health["Status"] == "healthy"
    compose("docker compose exec lb touch /tmp/x", fails=True)
    compose("docker compose exec lb touch /run/safe_reload/x")
    assert "no-new-privileges" in compose(f"docker inspect -f '{{{{.HostConfig.SecurityOpt}}}}' {number}")
    compose.edit("lb/haproxy.cfg", "bind", "bond")
    assert "unknown keyword 'bond'" in compose("docker compose exec lb safe_reload reload", fails=True)
    compose("docker compose exec lb safe_reload status")
    compose.edit("lb/haproxy.cfg", "bond", "bind")
    compose.shown("docker compose restart lb")
    eventually(lambda: answers(compose) == "Goodbye\n")
    eventually(lambda: "serving" in compose("docker compose exec lb safe_reload list || true"))
    compose.shown("docker compose down")


def test_compose_up_fails_if_the_configuration_is_refused(compose: Shell) -> None:
    """`--wait` does not wait for ever."""
    compose.edit("lb/haproxy.cfg", "bind", "bond")
    compose("docker compose up -d --wait", fails=True)


def test_compose_s_configs_are_single_files(compose: Shell) -> None:
    """They are bind mounts of files: an editor's new file never arrives, and the log says so."""
    text = compose.folder / "compose.yaml"
    mount = "    configs:\n      - source: it\n        target: /usr/local/etc/haproxy/haproxy.cfg\n"
    text.write_text(
        text.read_text().replace("    volumes:\n", mount).replace("      - ./lb:/usr/local/etc/haproxy:ro\n", "")
        + "configs:\n  it:\n    file: lb/haproxy.cfg\n"
    )
    compose("docker compose up -d --wait")
    compose.edit("lb/haproxy.cfg", "Hello", "Goodbye")
    eventually(lambda: "can never change again in this container" in compose("docker compose logs lb"))
    assert answers(compose) == "Hello\n"


@contextmanager
def watching(compose: Shell) -> Iterator[Path]:
    """Run the page's `docker compose watch`; yield the file to which it writes."""
    output = compose.folder / "output"
    command = the(PAGE, "docker compose -f watch.yaml watch").text
    with output.open("w") as file:
        process = subprocess.Popen(
            command.split(), cwd=compose.folder, env=compose.environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            eventually(lambda: "Watch enabled" in output.read_text(), timeout=120)
            yield output
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def test_compose_copies_what_it_watches_and_safe_reload_reloads(compose: Shell) -> None:
    """One container all the time, and the reload is one for files."""
    compose.shown("docker compose -f watch.yaml up -d --build --wait")
    number = compose("docker compose -f watch.yaml ps -q lb")
    with watching(compose):
        compose("sed -i s/Hello/Goodbye/ lb/haproxy.cfg")
        eventually(lambda: answers(compose, "watch.yaml") == "Goodbye\n")
    assert "asked for by files" in compose("docker compose -f watch.yaml logs lb")
    assert number == compose("docker compose -f watch.yaml ps -q lb")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("    read_only: true\n", "container rootfs is marked read-only"),
        ("    volumes: ['./lb:/usr/local/etc/haproxy:ro']\n", "this path won't be monitored"),
    ],
    ids=["a read-only root", "a mounted folder"],
)
def test_what_compose_does_not_watch_or_copy(compose: Shell, more: str, words: str) -> None:
    """It says why."""
    path = compose.folder / "watch.yaml"
    path.write_text(path.read_text().replace("    develop:\n", f"{more}    develop:\n"))
    with watching(compose) as output:
        compose("sed -i s/Hello/Goodbye/ lb/haproxy.cfg")
        eventually(lambda: words in output.read_text())


# ---- Docker Swarm ---------------------------------------------------------------------------------------------------


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Shell]:
    """A Swarm of one node, whose engine is no other's: in a network of its own, with our image."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("a second Docker engine needs root, and dockerd")
    folder = tmp_path / "swarm"
    folder.mkdir(mode=0o755)
    address = f"unix://{tmp_path}/docker.sock"
    flags = f"--data-root {tmp_path}/data --exec-root {tmp_path}/exec -H {address} --pidfile {tmp_path}/pid"
    start = f"ip link set lo up && exec dockerd {flags} --bridge none --iptables=false"
    with (tmp_path / "engine.log").open("w") as log:
        engine = subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", start], stdout=log, stderr=subprocess.STDOUT)
    shell = Shell(folder, DOCKER_HOST=address)
    try:
        eventually(
            lambda: not subprocess.run(["docker", "-H", address, "info"], capture_output=True, check=False).returncode
        )
        shell(f"DOCKER_HOST= docker save {NEWEST_STABLE} | docker load")
        shell("docker swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1:2377")
        shell.copy("docker/swarm", **{"/etc/haproxy/lb": f"{folder}/lb"})
        shutil.copytree(ROOT / "docker/compose/lb", folder / "lb")
        (folder / "lb").chmod(0o755)
        shell.environment["IN_NODE"] = f"nsenter -t {engine.pid} -n"
        yield shell
        shell("docker stack rm lb || true")
        eventually(lambda: not shell("docker ps -q"))
    finally:
        engine.terminate()
        engine.wait(timeout=60)
        shutil.rmtree(tmp_path / "data", ignore_errors=True)


def serves(swarm: Shell, words: str) -> bool:
    """Tell whether the node answers so."""
    return swarm("$IN_NODE curl -s http://127.0.0.1:8080/ || true") == words


def updated(swarm: Shell, before: str = "") -> str:
    """Return the number of the container that runs alone, is healthy, and is another one than before; else nothing."""
    found = swarm("docker ps --format '{{.ID}} {{.Status}}'").splitlines()
    return found[0].split()[0] if len(found) == 1 and "(healthy)" in found[0] and before not in found[0].split() else ""


def test_the_stack_of_a_swarm(swarm: Shell) -> None:
    """An edit, a signal, the verb; then an update under load: the new container shares the VIP with the old one."""
    swarm.shown("docker stack deploy -c stack.yaml lb")
    eventually(lambda: serves(swarm, "Hello\n"))
    eventually(lambda: updated(swarm))
    swarm.edit("lb/haproxy.cfg", "Hello", "Goodbye")
    eventually(lambda: serves(swarm, "Goodbye\n"))
    swarm.shown("docker kill -s USR1 $(docker ps -q -f label=com.docker.swarm.service.name=lb_lb)")
    eventually(lambda: "asked for by SIGUSR1" in swarm("docker service logs lb_lb"))
    swarm.shown("docker exec $(docker ps -q -f label=com.docker.swarm.service.name=lb_lb) safe_reload reload")

    swarm("$IN_NODE sysctl -q -w net.ipv4.tcp_migrate_req=1")
    before = eventually(lambda: updated(swarm))
    command = [*swarm.environment["IN_NODE"].split(), "ab", "-r", "-q", "-s", "60", "-c", "4", "-n", "10000000"]
    load = subprocess.Popen([*command, "http://127.0.0.1:8080/"], stdout=subprocess.PIPE, text=True)
    swarm("docker service update -q --force lb_lb")
    eventually(lambda: updated(swarm, before))
    load.send_signal(signal.SIGINT)
    written = load.communicate(timeout=60)[0]
    counts = {name: int(number) for name, number in re.findall(r"^(\w+) requests: +(\d+)", written, re.MULTILINE)}
    assert counts["Complete"] > 1000
    # The sysctl leaves a moment: whose handshake ends just when a socket is closed is reset.
    assert counts["Failed"] <= 1, written


def test_a_swarm_s_config_cannot_be_changed(swarm: Shell) -> None:
    """With the same name it is refused; with another one it is another container."""
    path = swarm.folder / "stack.yaml"
    mount = "    configs:\n      - source: it\n        target: /usr/local/etc/haproxy/haproxy.cfg\n    volumes:\n"
    text = re.sub(r" +- \S+/lb:/usr/local/etc/haproxy:ro\n", "", path.read_text()).replace("    volumes:\n", mount)
    path.write_text(f"{text}configs:\n  it:\n    name: haproxy-1\n    file: lb/haproxy.cfg\n")
    swarm.shown("docker stack deploy -c stack.yaml lb")
    eventually(lambda: serves(swarm, "Hello\n"))
    eventually(lambda: updated(swarm))
    before = eventually(lambda: updated(swarm))
    swarm.edit("lb/haproxy.cfg", "Hello", "Goodbye")
    assert "only updates to Labels are allowed" in swarm("docker stack deploy -c stack.yaml lb", fails=True)
    path.write_text(path.read_text().replace("haproxy-1", "haproxy-2"))
    swarm("docker stack deploy -c stack.yaml lb")
    eventually(lambda: updated(swarm, before))
    assert serves(swarm, "Goodbye\n")


# ---- Nomad ----------------------------------------------------------------------------------------------------------


def task() -> dict[str, Any]:
    """Return the task of the Nomad job."""
    options = SerializationOptions(
        strip_string_quotes=True, preserve_heredocs=False, with_comments=False, explicit_blocks=False
    )
    job = hcl2.loads((ROOT / "docker/nomad/lb.nomad.hcl").read_text(), serialization_options=options)["job"][0]["lb"]
    found = job["group"][0]["lb"]["task"][0]["haproxy"]
    assert isinstance(found, dict)
    return found


def rendered(template: str, *addresses: str) -> str:
    """Return what Nomad would render: HCL's own escapes, then the services."""
    assert not re.search(r"(?<!\$)\$\{|(?<!%)%\{", template), "Nomad would replace this itself"
    text = template.replace('\\"', '"').replace("$${", "${").replace("%%{", "%{")
    return re.sub(
        r'{{ range nomadService "web" }}(.*?){{ end }}',
        lambda loop: "".join(loop[1].replace("{{ .Address }}:{{ .Port }}", address) for address in addresses),
        text,
        flags=re.DOTALL,
    )


@pytest.mark.parametrize("mode", ["noop", "signal", "script"])
def test_the_job_of_nomad(start: Start, mode: str) -> None:
    """A container as the job describes it follows its services, whichever way the change is announced."""
    found = task()
    (config,), (template,) = found["config"], found["template"]
    (mount,) = config["mount"]
    assert template["change_mode"] == "noop"
    folder, _, name = template["destination"].removeprefix("local/").partition("/")
    text = rendered(template["data"], "127.0.0.1:1001")

    def prepare(local: Path) -> None:
        (local / folder).mkdir(mode=0o755)
        (local / folder / name).write_text(text)
        (local / folder / name).chmod(0o644)

    lb = start(
        NEWEST_STABLE,
        prepare=prepare,
        # Nomad mounts the folder at /local, these tests at /etc/lb.
        operands=tuple(word.replace("/local/", "/etc/lb/") for word in config["args"]),
        vips="",
        watch="auto" if mode == "noop" else "off",
        user=found["user"],
        read_only=config["readonly_rootfs"],
        cap_drop=config["cap_drop"],
        security_opt=config["security_opt"],
        mounts=[Mount(mount["target"], None, type=mount["type"], tmpfs_size=mount["tmpfs_options"][0]["size"])],
    )
    eventually(lambda: "is current" in lb.log)
    other = lb.folder / folder / "new"
    other.write_text(rendered(template["data"], "127.0.0.1:1001", "127.0.0.1:1002"))
    other.chmod(0o644)
    other.rename(lb.folder / folder / name)
    if mode == "signal":
        assert 'change_signal = "SIGUSR1"' in (ROOT / PAGE).read_text()
        lb.kill("SIGUSR1")
    elif mode == "script":
        (change,) = hcl2.loads(
            the(PAGE, "change_mode = ").text, serialization_options=SerializationOptions(strip_string_quotes=True)
        )["change_script"]
        code, words = lb.run(change["command"], *change["args"])
        assert code == 0, words
    eventually(lambda: lb.reloads == 1)
    # The new generation has the new server, and what the old one knew of the other.
    eventually(lambda: "Server web/127.0.0.1:1002 is DOWN" in lb.log)
    with lb.connect(8080) as client:
        assert "503" in http_get(client)[0]


# ---- podman ---------------------------------------------------------------------------------------------------------


def test_the_quadlet_is_understood_by_podman(engine: Any, tmp_path: Path) -> None:
    """Podman's own generator makes a unit of it that waits for READY, and reloads with the verb."""
    quadlet = unpacked("sid", "podman", "usr/libexec/podman/quadlet")
    shutil.copy(ROOT / "systemd/podman/lb.container", tmp_path)
    tmp_path.chmod(0o755)
    written = engine.containers.run(
        IMAGES["3.2"],
        ["-dryrun"],
        entrypoint="/quadlet",
        environment={"QUADLET_UNIT_DIRS": "/units"},
        volumes={str(quadlet): {"bind": "/quadlet", "mode": "ro"}, str(tmp_path): {"bind": "/units", "mode": "ro"}},
        network_mode="none",
        remove=True,
        stderr=True,
    ).decode()
    lines = written.splitlines()
    assert "---lb.service---" in lines
    assert "Type=notify" in lines
    assert "ExecReload=/usr/bin/podman exec lb safe_reload reload --name lb" in lines
    (command,) = [line for line in lines if line.startswith("ExecStart=")]
    for words in ("--sdnotify=container", "--read-only", "--user 65534", f"--tmpfs {RUNTIME}:rw", "--cap-drop all"):
        assert words in command
