"""systemd, really booted: what `systemctl` promises about a service is true of safe_reload's unit.

The unit is installed by systemd/Makefile and runs in its whole sandbox. Without CAP_SYS_RESOURCE, which this container
does not have, LimitNOFILE= is cut down to the limit that is there; nothing else of the unit is missing.
"""

import functools
import io
import re
import shlex
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import docker
from tests.certificates import key_pair
from tests.container.conftest import NEWEST_STABLE, Balancer, configuration, result
from tests.http3 import http3_get
from tests.program import needs_debian
from tests.waiting import eventually

pytestmark = needs_debian

ROOT = Path(__file__).parents[2]
UNIT = "safe_reload@{}.service"
ANY_UNIT = UNIT.format("")
MOST_EXPOSED = 2.0
LOW_PORTS_ARE_LOW = {"net.ipv4.ip_unprivileged_port_start": "1024"}

SAFE_RELOAD_OF_THE_IMAGE = (
    "/usr/local/bin/safe_reload /usr/local/lib/safe_reload /usr/lib/python3/dist-packages/entrypoint"
)

# What is tested with this is the sandbox, not the protocol.
NO_PROTOCOL = "Type=exec\nWatchdogSec=0\n"

HARD_ON_A_SANDBOX = """
    lua-load /etc/haproxy/says.lua
    cpu-map auto:1/all 0-63
"""
FRONTEND = """
    option idle-close-on-response
frontend web
    bind "fd@${FD_WEB}"
    http-request return status 200 content-type text/plain string "regex" if { path_reg ^/(a|b)+c[0-9]{2,5}$ }
    http-request return status 200 content-type text/plain lf-string "MARK %[lua.says]"
"""
LUA = 'core.register_fetches("says", function() return "lua" end)\n'


class Host(Balancer):
    """A Debian with systemd."""

    def must(self, *words: str) -> str:
        """Run a program that may not fail; return what it wrote."""
        status, output = self.run(*words)
        assert status == 0, f"{shlex.join(words)}: {status}\n{output}"
        return output.strip()

    def kill_process(self, name: str, pid: int | str) -> None:
        """Send a signal to a process, which the container numbers."""
        self.must("sh", "-c", f"kill -{name} {pid}")

    def put(self, path: str, text: str) -> None:
        """Write a file."""
        content = text.encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
        self.must("mkdir", "-p", path.rpartition("/")[0])
        assert self.container.put_archive("/", archive.getvalue())


class Service:
    """One instance of the unit."""

    def __init__(self, host: Host, name: str, port: int) -> None:
        """Have it configured, and not started."""
        self.host = host
        self.name = name
        self.port = port
        self.unit = UNIT.format(name)
        self.configure("one")
        self.vips(f"127.0.0.1:{port}:FD_WEB")

    def vips(self, text: str, *, watch: str = "off") -> None:
        """Choose the VIPs; and whether a changed file is a reload, which may come before the one that is asked for."""
        name = f"/etc/default/safe_reload-{self.name}"
        self.host.put(name, f"SAFE_RELOAD_VIPS={text}\nSAFE_RELOAD_WATCH={watch}\n")

    def configure(self, mark: str, text: str | None = None) -> None:
        """Write the configuration."""
        self.host.put(f"/etc/haproxy/{self.name}.cfg", configuration(mark) if text is None else text)

    def drop_in(self, text: str) -> None:
        """Change the unit for this instance."""
        self.host.put(f"/etc/systemd/system/{self.unit}.d/50-test.conf", f"[Service]\n{text}")
        self.host.must("systemctl", "daemon-reload")

    def systemctl(self, verb: str) -> tuple[int, str]:
        """Do something with the unit."""
        return self.host.run("timeout", "100", "systemctl", verb, self.unit)

    def must(self, verb: str) -> None:
        """Do something with the unit that may not fail."""
        status, output = self.systemctl(verb)
        assert status == 0, f"{verb}: {output}\n{self.journal()}"

    def show(self, name: str) -> str:
        """Return one property."""
        return self.host.must("systemctl", "show", "--value", "-p", name, self.unit)

    def journal(self) -> str:
        """Return what the unit has written."""
        return self.host.must("journalctl", "--no-pager", "-o", "cat", "-u", self.unit)

    def get(self) -> str:
        """Return what the VIP answers."""
        return self.host.get(self.port)

    def serves(self, mark: str) -> None:
        """Wait until the VIP answers with this mark."""
        self.host.serves(mark, self.port)

    def haproxy(self) -> int:
        """Return the pid of the only haproxy, as the container numbers it."""
        main = self.show("MainPID")
        comms = f"$(printf '/proc/%s/comm ' $(cat /proc/{main}/task/{main}/children))"
        return int(self.host.must("sh", "-c", f"grep -lx haproxy {comms} | cut -d/ -f3"))

    def status_of(self, pid: int) -> dict[str, str]:
        """Return /proc/PID/status."""
        lines = self.host.must("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make -C systemd install` installs for the systemd of the container."""
    root = tmp_path_factory.mktemp("units")
    command = ["make", "-s", "-C", str(ROOT / "systemd"), "install", f"DESTDIR={root}", "PREFIX=/usr/local"]
    subprocess.run([*command, "SYSTEMD_VERSION=257"], check=True)
    root.chmod(0o755)
    return root


@contextmanager
def booted(
    engine: docker.DockerClient, network: str, volumes: dict[str, dict[str, str]], base: str = NEWEST_STABLE
) -> Iterator[Host]:
    """Boot a Debian in a container, with what the image `base` has; it is gone afterwards."""
    dockerfile = (ROOT / "tests/container/systemd.Dockerfile").read_bytes()
    image, _ = engine.images.build(
        fileobj=io.BytesIO(dockerfile),
        tag="haproxy-safe-reload:test-systemd",
        buildargs={"BASE": base},
        rm=True,
        forcerm=True,
    )
    cgroups = Path("/sys/fs/cgroup/unified")
    container = engine.containers.run(
        image,
        detach=True,
        network_mode=network,
        sysctls=LOW_PORTS_ARE_LOW,
        cap_add=["SYS_ADMIN", "NET_ADMIN"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        cgroupns="host",
        tmpfs={"/run": "", "/run/lock": "", "/tmp": ""},
        volumes={
            str(cgroups if cgroups.exists() else cgroups.parent): {"bind": "/sys/fs/cgroup", "mode": "rw"},
            **volumes,
        },
    )
    try:
        made = Host(container, ROOT, 0)
        eventually(lambda: made.run("systemctl", "is-system-running")[1].strip() in {"running", "degraded"}, 60)
        yield made
    finally:
        container.remove(force=True, v=True)


@pytest.fixture(scope="module")
def host(engine: docker.DockerClient, units: Path) -> Iterator[Host]:
    """A Debian that has booted, with the units installed."""
    installed = {str(units / "usr/local/lib/systemd"): {"bind": "/usr/local/lib/systemd", "mode": "ro"}}
    with booted(engine, "none", installed) as made:
        yield made


@pytest.fixture
def service(host: Host, request: pytest.FixtureRequest) -> Iterator[Service]:
    """An instance of the unit, named after the test, gone after it."""
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")[:60]
    made = Service(host, name, 8080)
    yield made
    host.run("systemctl", "kill", "-s", "KILL", made.unit)
    host.run("systemctl", "stop", made.unit)
    host.run("systemctl", "reset-failed", made.unit)


@pytest.fixture
def running(service: Service) -> Service:
    """An instance that serves "one"."""
    service.must("start")
    return service


# ---- the files -----------------------------------------------------------------------------------------------------


def make(target: str, root: Path, *words: str) -> set[str]:
    """Make something of systemd/Makefile; return the files that are there then."""
    subprocess.run(["make", "-s", "-C", str(ROOT / "systemd"), target, f"DESTDIR={root}", *words], check=True)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_unit_is_installed_for_a_prefix(tmp_path: Path) -> None:
    """Every path in it is the prefix's, and `uninstall` leaves nothing."""
    files = make("install", tmp_path, "PREFIX=/opt/lb", "SYSTEMD_VERSION=252", "SYSCONFDIR=/opt/lb/etc")
    units = {name for name in files if "/systemd/" in name}
    assert units == {f"opt/lb/lib/systemd/system/{ANY_UNIT}"}
    assert "opt/lb/share/man/man8/safe_reload.8" in files
    text = (tmp_path / units.pop()).read_text()
    assert "@" not in re.sub(r"#.*|.*@(system-service|privileged|resources).*|safe_reload@", "", text)
    assert "ExecStart=/opt/lb/bin/safe_reload " in text
    assert "ExecReload=/opt/lb/bin/safe_reload reload " in text
    assert "EnvironmentFile=-/opt/lb/etc/default/safe_reload-%i" in text
    assert make("uninstall", tmp_path, "PREFIX=/opt/lb") == set()


def test_a_new_systemd_gets_notify_reload_and_an_old_one_does_not(tmp_path: Path) -> None:
    """The drop-in is there from 254 on, and gone again when an older one is installed over it."""
    drop_in = f"usr/local/lib/systemd/system/{ANY_UNIT}.d/10-notify-reload.conf"
    assert drop_in in make("install", tmp_path, "SYSTEMD_VERSION=254")
    assert drop_in not in make("install", tmp_path, "SYSTEMD_VERSION=252")
    assert drop_in in make("install", tmp_path, "SYSTEMD_VERSION=262")
    assert make("uninstall", tmp_path) == set()


def test_systemd_has_nothing_to_say_about_the_units(host: Host) -> None:
    """No unknown line, no missing program, in the service, its drop-in and the socket."""
    host.put("/etc/systemd/system/safe_reload@checked.socket", (ROOT / "systemd/safe_reload@.socket").read_text())
    for unit in (UNIT.format("checked"), "safe_reload@checked.socket"):
        assert host.run("systemd-analyze", "verify", unit) == (0, "")


def test_its_exposure_is_low(service: Service) -> None:
    """`systemd-analyze security` gives it less than 2.0 of 10."""
    output = service.host.must("systemd-analyze", "security", "--no-pager", "--offline=true", service.unit)
    exposure = re.search(r"exposure level for .*: ([0-9.]+)", output)
    assert exposure, output
    assert float(exposure[1]) < MOST_EXPOSED, output


# ---- the sandbox ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sandboxed(service: Service) -> Service:
    """A service with Debian's own global section, on port 80, that has everything a sandbox could break."""
    service.port = 80
    service.host.put("/etc/haproxy/says.lua", LUA)
    service.vips("127.0.0.1:80:FD_WEB")
    general, defaults, rest = service.host.must("cat", "/etc/haproxy/haproxy.cfg").partition("\ndefaults\n")
    service.configure("", general + HARD_ON_A_SANDBOX + defaults + rest + FRONTEND)
    service.drop_in(NO_PROTOCOL)
    service.must("start")
    return service


def test_haproxy_serves_in_the_sandbox(sandboxed: Service) -> None:
    """With Debian's own configuration: chroot, user, a CLI in /run/haproxy; with regular expressions and Lua, too."""
    sandboxed.serves("MARK lua")
    with sandboxed.host.connect(80) as client:
        client.sendall(b"GET /aabc22 HTTP/1.0\r\n\r\n")
        assert client.makefile().read().endswith("regex")
    assert "haproxy" in sandboxed.host.must("stat", "-c", "%U", "/run/haproxy/admin.sock")
    for pid in (int(sandboxed.show("MainPID")), sandboxed.haproxy()):
        status = sandboxed.status_of(pid)
        assert set(status["Uid"].split()) == {sandboxed.host.must("id", "-u", "haproxy")}
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        allowed = 1 << 10 | 1 << 18  # CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT of linux/capability.h
        assert int(status["CapBnd"], 16) == allowed
        assert not int(status["CapEff"], 16) & ~allowed


def test_it_reloads_in_the_sandbox(sandboxed: Service) -> None:
    """A second haproxy starts as well as the first, and its CLI takes the place of the other's."""
    sandboxed.serves("MARK lua")
    first = sandboxed.haproxy()
    sandboxed.host.must("systemctl", "kill", "--kill-whom=main", "-s", "HUP", sandboxed.unit)
    eventually(lambda: f"(pid {first}) is gone" in sandboxed.journal())
    assert sandboxed.haproxy() != first
    assert sandboxed.get() == "MARK lua"


def test_haproxys_log_reaches_the_journal(sandboxed: Service) -> None:
    """`log /dev/log`, as in Debian's configuration, works from within its chroot."""
    sandboxed.serves("MARK lua")
    eventually(lambda: "GET / HTTP/1.0" in sandboxed.journal())


def test_what_needs_no_port_and_no_file_of_others_is_not_there(sandboxed: Service) -> None:
    """What the sandbox promises is seen from inside: the file system is read-only, /home empty, /dev almost."""
    mounts = sandboxed.host.must("cat", f"/proc/{sandboxed.show('MainPID')}/mountinfo")
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts.splitlines()}
    assert "ro" in options["/"]
    assert "/home" in options
    assert "rw" in options["/run/haproxy"]
    assert "/dev" in options
    assert "ro" in options["/sys/fs/cgroup"]


# ---- socket activation ---------------------------------------------------------------------------------------------


@pytest.fixture
def activated(service: Service) -> Iterator[Service]:
    """A service that its first client starts."""
    unit = f"safe_reload@{service.name}.socket"
    text = (ROOT / "systemd/safe_reload@.socket").read_text()
    service.host.put(f"/etc/systemd/system/{unit}", text.replace("ListenStream=80\n", "ListenStream=127.0.0.1:80\n"))
    service.host.put(f"/etc/default/safe_reload-{service.name}", "")
    service.configure("", configuration("activated").replace("FD_WEB", "FD_HTTP"))
    service.drop_in(NO_PROTOCOL)
    service.port = 80
    service.host.must("systemctl", "start", unit)
    yield service
    service.host.must("systemctl", "stop", unit)


def test_the_first_client_starts_it_and_is_served(activated: Service) -> None:
    """The .socket unit has the VIP, under the tag of its FileDescriptorName."""
    assert activated.show("ActiveState") == "inactive"
    assert activated.get() == "activated"
    assert activated.show("ActiveState") == "active"


def test_a_restart_of_a_socket_activated_service_loses_no_client(activated: Service) -> None:
    """The VIP belongs to the .socket unit; clients that come meanwhile wait."""
    assert activated.get() == "activated"
    activated.must("restart")
    assert activated.get() == "activated"


# ---- HTTP/3 ----------------------------------------------------------------------------------------------------------

QUIC_PORT = 8443


def configure_http3(service: Service, folder: Path) -> None:
    """Have it answer HTTP/3 beside HTTP/1."""
    crt, key = key_pair(folder, "site")
    service.host.put("/etc/haproxy/site.pem", crt + key)
    bind = '    bind "quic+fd@${FD_QUIC}" ssl crt /etc/haproxy/site.pem alpn h3\n    http-request return'
    text = (
        configuration("one").replace("    http-request return", bind).replace("global\n", "global\n    limited-quic\n")
    )
    service.configure("", text)


def http3(service: Service) -> str:
    """Return what it answers over a new QUIC connection."""
    with service.host.network():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(("127.0.0.1", QUIC_PORT))
    return http3_get(client)[2]


def test_a_quic_vip_survives_reloads_restarts_and_a_kill(service: Service, tmp_path: Path) -> None:
    """It is stored like a TCP VIP, although the generations get sockets of their own."""
    service.vips(f"127.0.0.1:8080:FD_WEB,quic@127.0.0.1:{QUIC_PORT}:FD_QUIC")
    configure_http3(service, tmp_path)
    service.must("start")
    for verb in ("reload", "restart", "reload", "restart"):
        assert http3(service) == "one"
        service.must(verb)
        assert service.show("NFileDescriptorStore") == "2"
    main = service.show("MainPID")
    service.host.kill_process("KILL", main)
    eventually(lambda: service.show("MainPID") not in {main, "0"})
    assert http3(service) == "one"


def test_the_first_datagram_starts_it_and_is_answered(service: Service, tmp_path: Path) -> None:
    """A .socket unit with ListenDatagram=; also after reloads, a restart and a stop."""
    unit = f"safe_reload@{service.name}.socket"
    text = (ROOT / "systemd/safe_reload@.socket").read_text()
    text = text.replace("ListenStream=80\n", f"ListenDatagram=127.0.0.1:{QUIC_PORT}\n")
    service.host.put(
        f"/etc/systemd/system/{unit}", text.replace("FileDescriptorName=http\n", "FileDescriptorName=quic\n")
    )
    configure_http3(service, tmp_path)
    service.drop_in(NO_PROTOCOL)
    service.host.must("systemctl", "start", unit)
    try:
        assert service.show("ActiveState") == "inactive"
        for verb in ("reload", "reload", "restart", "reload", "stop"):
            assert http3(service) == "one"
            assert service.show("ActiveState") == "active"
            service.must(verb)
        eventually(lambda: service.show("ActiveState") == "inactive")
        assert http3(service) == "one"
    finally:
        service.host.must("systemctl", "stop", unit)


# ---- start, reload, stop -------------------------------------------------------------------------------------------


def test_started_means_that_it_serves(service: Service) -> None:
    """`systemctl start` returns when the first generation has answered, and the very next request is served."""
    service.must("start")
    assert service.get() == "one"
    assert service.show("ActiveState") == "active"


def test_a_bad_configuration_does_not_start(service: Service) -> None:
    """`systemctl start` fails, and haproxy's words are in the journal and in STATUS."""
    service.drop_in("Restart=no\n")
    service.configure("", "nosuch keyword\n")
    assert service.systemctl("start")[0] != 0
    eventually(lambda: "unknown keyword 'nosuch' out of section" in service.journal())
    assert "unknown keyword 'nosuch' out of section" in service.show("StatusText")


@pytest.mark.parametrize("kind", ["notify", "notify-reload"])
def test_a_reload_waits_for_the_new_configuration(service: Service, kind: str) -> None:
    """When `systemctl reload` returns, the very next request is served by the new one; it was one reload, not two."""
    service.drop_in(f"Type={kind}\n")
    service.must("start")
    service.configure("two")
    service.must("reload")
    assert service.get() == "two"
    assert service.show("ActiveState") == "active"
    assert "generation 2" in service.show("StatusText")


@pytest.mark.parametrize("kind", ["notify", "notify-reload"])
def test_a_reload_fails_with_the_configuration(service: Service, kind: str) -> None:
    """`systemctl reload` fails, the service is active and serves, STATUS has haproxy's words; the next one succeeds."""
    service.drop_in(f"Type={kind}\n")
    service.must("start")
    service.configure("", "nosuch keyword\n")
    assert service.systemctl("reload")[0] != 0
    assert service.get() == "one"
    assert service.show("ActiveState") == "active"
    assert "the last reload failed: config : parsing" in service.show("StatusText")
    service.configure("two")
    service.must("reload")
    assert service.get() == "two"
    assert "failed" not in service.show("StatusText")


def test_the_status_line_has_the_generation_and_its_connections(running: Service) -> None:
    """`systemctl status` shows them."""
    with running.host.connect(8080) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        eventually(lambda: re.search(r"generation 1\b.*\b1 connection", running.show("StatusText")))


def test_systemd_sees_a_reload_by_signal(running: Service) -> None:
    """After a SIGUSR1 the unit is reloading, and then active; nothing hangs."""
    running.configure("two")
    running.host.must("systemctl", "kill", "--kill-whom=main", "-s", "USR1", running.unit)
    running.serves("two")
    eventually(lambda: "generation 2" in running.show("StatusText"))
    eventually(lambda: running.show("ActiveState") == "active")


def test_a_changed_file_is_a_reload_that_is_seen(service: Service) -> None:
    """Nobody has asked for anything: STATUS has the new generation, and the unit is active."""
    service.vips(f"127.0.0.1:{service.port}:FD_WEB", watch="auto")
    service.must("start")
    service.configure("two")
    service.serves("two")
    eventually(lambda: "generation 2" in service.show("StatusText"))
    eventually(lambda: service.show("ActiveState") == "active")


def test_a_crash_of_haproxy_is_no_business_of_systemd(running: Service) -> None:
    """Another haproxy serves, under the same safe_reload, in a unit that was always active; STATUS knows."""
    main, haproxy = running.show("MainPID"), running.haproxy()
    running.host.kill_process("KILL", haproxy)
    assert running.get() == "one"
    assert running.haproxy() != haproxy
    assert (running.show("MainPID"), running.show("NRestarts"), running.show("ActiveState")) == (main, "0", "active")
    eventually(lambda: "died unasked (1): the last one was killed by SIGKILL" in running.show("StatusText"))


def test_a_stop_waits_for_open_connections(running: Service) -> None:
    """For longer than TimeoutStopSec=, because safe_reload asks for more time: nothing is killed."""
    running.drop_in("TimeoutStopSec=3\n")
    with running.host.connect(8080) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        eventually(lambda: "1 connection" in running.show("StatusText"))
        running.host.must("systemctl", "stop", "--no-block", running.unit)
        eventually(lambda: running.show("StatusText").startswith("stopping, 1 generation left"))
        began = time.monotonic()
        eventually(lambda: time.monotonic() > began + 5)
        client.sendall(b"Connection: close\r\n\r\n")
        assert client.makefile().read().endswith("one")
    eventually(lambda: running.show("ActiveState") == "inactive")
    assert running.show("Result") == "success"


def test_a_stop_ends_the_reload_that_runs(running: Service) -> None:
    """A new configuration that never becomes ready neither holds up `systemctl stop` nor makes it a failure."""
    running.host.put("/etc/haproxy/hang.lua", "while true do end\n")
    running.configure("", "global\n    lua-load /etc/haproxy/hang.lua\n" + configuration("two"))
    running.host.must("systemctl", "kill", "--kill-whom=main", "-s", "USR1", running.unit)
    eventually(lambda: running.show("ActiveState") == "reloading")
    running.must("stop")
    assert (running.show("ActiveState"), running.show("Result")) == ("inactive", "success")


def test_a_stop_is_clean(running: Service) -> None:
    """`systemctl stop` is a success, and nobody listens any more."""
    running.must("stop")
    assert running.show("Result") == "success"
    assert running.show("ActiveState") == "inactive"
    assert running.show("NFileDescriptorStore") == "0"
    with pytest.raises(ConnectionRefusedError):
        running.get()


# ---- the FD store --------------------------------------------------------------------------------------------------


def test_a_restart_under_load_loses_nothing(running: Service) -> None:
    """No request fails while the service is restarted again and again: the VIP never stops to listen."""
    words = ("ab", "-q", "-s", "60", "-c", "50", "-n", "20000", "http://127.0.0.1:8080/")
    client = running.host.inside(*words)
    for _ in range(4):
        running.must("restart")
    load = result(client)
    assert (load.complete, load.failed) == (20000, 0)
    assert running.show("NFileDescriptorStore") == "1"


def test_an_upgrade_in_place_is_no_restart(running: Service) -> None:
    """After a restart, whose VIPs came from the store: the same process, unit and socket, and a reload still works."""
    running.must("restart")
    before = (running.show("MainPID"), running.show("NRestarts"), sockets(running))
    running.host.must("safe_reload", "upgrade", "--name", running.name)
    assert running.get() == "one"
    running.configure("two")
    running.must("reload")
    assert running.get() == "two"
    assert (running.show("MainPID"), running.show("NRestarts"), sockets(running)) == before
    assert running.show("NFileDescriptorStore") == "1"
    running.must("restart")
    assert running.get() == "two"
    assert sockets(running) == before[2]


def test_a_killed_safe_reload_loses_no_vip(running: Service) -> None:
    """After a SIGKILL the VIP still takes clients; they wait until the next safe_reload serves them."""
    running.drop_in("RestartSec=2\n")
    main = running.show("MainPID")
    running.host.kill_process("KILL", main)
    eventually(lambda: running.show("MainPID") != main)
    assert running.get() == "one"
    assert running.show("NRestarts") == "1"


def test_a_vip_that_is_not_declared_any_more_is_closed_by_a_restart(running: Service) -> None:
    """What was stored and is not wanted refuses its clients; what is wanted now is bound and stored."""
    running.vips("127.0.0.1:8081:FD_WEB")
    running.must("restart")
    assert running.host.get(8081) == "one"
    assert running.show("NFileDescriptorStore") == "1"
    with pytest.raises(ConnectionRefusedError):
        running.host.get(8080)


def test_many_vips_are_stored(service: Service) -> None:
    """A few hundred VIPs survive a restart, which takes them all back without binding one."""
    count = 300
    vips = ",".join(f"127.1.{n >> 8}.{n & 255}:8080:FD_{n}" for n in range(count))
    service.vips(vips)
    binds = "\n".join(f'    bind "fd@${{FD_{n}}}"' for n in range(count))
    service.configure("", configuration("many").replace('    bind "fd@${FD_WEB}"', binds))
    service.must("start")
    eventually(lambda: service.show("NFileDescriptorStore") == str(count))
    inodes = sockets(service)
    service.must("restart")
    assert sockets(service) == inodes
    assert service.show("NFileDescriptorStore") == str(count)


def sockets(service: Service) -> set[str]:
    """Return the inodes of all TCP sockets that listen."""
    lines = service.host.must("cat", "/proc/net/tcp").splitlines()[1:]
    return {line.split()[9] for line in lines if line.split()[3] == "0A"}


# ---- the watchdog --------------------------------------------------------------------------------------------------


def test_one_that_hangs_is_replaced(service: Service) -> None:
    """A safe_reload that does not run any more is killed by the watchdog and started again, with the VIPs."""
    service.drop_in("WatchdogSec=5\n")
    service.must("start")
    main = service.show("MainPID")
    service.host.kill_process("STOP", main)
    eventually(lambda: service.show("NRestarts") == "1")
    service.serves("one")
    assert "watchdog" in service.journal().lower()


def test_one_that_runs_is_left_alone(service: Service) -> None:
    """An idle one says often enough that it lives."""
    service.drop_in("WatchdogSec=5\n")
    service.must("start")
    main = service.show("MainPID")

    def another(stamp: str) -> str:
        now = service.show("WatchdogTimestampMonotonic")
        return now if now != stamp else ""

    stamp = another("")
    for _ in range(3):
        stamp = eventually(functools.partial(another, stamp))
    assert (service.show("MainPID"), service.show("NRestarts")) == (main, "0")
