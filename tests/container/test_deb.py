"""The Debian package on a Debian that has booted, of two releases: what apt-get and systemctl make of it."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import docker
from tests.container.conftest import IMAGES
from tests.container.test_systemd import SAFE_RELOAD_OF_THE_IMAGE, Host, Service, booted
from tests.program import needs_debian
from tests.waiting import eventually
from tools.release import deb
from tools.release.source import ROOT

pytestmark = needs_debian

LIBRARY = "/usr/lib/safe_reload"
DROP_IN = "/usr/lib/systemd/system/safe_reload@.service.d/10-notify-reload.conf"
NEXT = "0.1.0+next-1"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package, and that of a later version."""
    folder = tmp_path_factory.mktemp("deb")
    words = [sys.executable, "-m", "tools.release.deb", str(folder)]
    printed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    package, tree = ROOT / printed, folder / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    for path, old in ((tree / "DEBIAN/control", "\nVersion: "), (tree / f".{LIBRARY}/entrypoint/__init__.py", '= "')):
        before, _, rest = path.read_text().partition(old)
        end = "\n" if old.startswith("\n") else '"'
        path.write_text(f"{before}{old}{NEXT}{end}{rest.partition(end)[2]}")
    later = folder / f"{deb.NAME}_{NEXT}_all.deb"
    subprocess.run(["dpkg-deb", "-b", tree, later], check=True, capture_output=True)
    return package, later


@pytest.fixture(scope="module", params=["2.6", "3.0"])
def host(request: pytest.FixtureRequest, engine: docker.DockerClient, packages: tuple[Path, Path]) -> Iterator[Host]:
    """A booted Debian, bookworm or trixie, with the dependencies of the package, and without safe_reload."""
    with booted(engine, "none", {}, IMAGES[request.param]) as made:
        # As on a host: a slim image excludes manuals and documentation.
        made.must("sh", "-c", f"rm -rf {SAFE_RELOAD_OF_THE_IMAGE} /etc/dpkg/dpkg.cfg.d/slim /run/haproxy/admin.sock")
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for number, package in enumerate(packages):
                tar.add(package, f"root/{number}/{package.name}")
        assert made.container.put_archive("/", content.getvalue())
        yield made


def apt(host: Host, words: str) -> str:
    """Do something with the package as an administrator does."""
    return host.must("sh", "-c", f"cd /root && DEBIAN_FRONTEND=noninteractive apt-get {words} 2>&1")


def everything(host: Host) -> set[str]:
    """Return the names of all files, but for those that any installation changes."""
    # systemd makes /var/lib/haproxy/dev/log to mount on, as it does for haproxy's own unit.
    changes = (
        "/var/lib/haproxy/dev/log",
        "/var/lib/dpkg",
        "/var/lib/apt",
        "/var/cache",
        "/var/log",
        "/var/lib/systemd",
    )
    left_out = " -o ".join(f"-path {path}" for path in changes)
    return set(host.must("sh", "-c", f"find / -xdev \\( {left_out} \\) -prune -o -print").splitlines())


def test_it_lives_and_dies_like_any_package(host: Host) -> None:
    """Installed, started, upgraded under load in place, removed, purged: nothing is left, and no request was lost."""
    before = everything(host)
    apt(host, "install -y ./0/safe-reload_*.deb")
    service = Service(host, "lb", 8080)
    newer = int(host.must("systemctl", "--version").split()[1]) >= 254

    # What systemd understands is what it gets.
    assert host.run("systemd-analyze", "verify", service.unit) == (0, "")
    assert service.show("Type") == ("notify-reload" if newer else "notify")
    assert (DROP_IN in everything(host)) == newer
    assert "safe_reload" in host.must("setpriv", "--reuid=65534", "--clear-groups", "safe_reload", "--version")
    assert host.must("dpkg", "--verify", "safe-reload") == ""

    host.must("systemctl", "enable", "--now", service.unit)
    service.serves("one")
    service.must("reload")
    main = service.show("MainPID")
    assert "/safe_reload --name lb -- haproxy" in host.must("sh", "-c", f"tr '\\0' ' ' </proc/{main}/cmdline")
    loaded = host.must("sh", "-c", f"ls {LIBRARY}/entrypoint/pid1/__pycache__")
    assert "supervisor.cpython" in loaded
    assert ".opt-" not in loaded

    client = host.inside("ab", "-q", "-s", "60", "-c", "20", "-n", "20000", "http://127.0.0.1:8080/")
    apt(host, "install -y ./1/safe-reload_*.deb")
    text = client.communicate()[0]
    assert "Complete requests:      20000\n" in text, text
    assert "Failed requests:        0\n" in text, text
    assert service.show("MainPID") == main
    assert NEXT in host.must("safe_reload", "status", "--name", "lb")
    service.configure("two")
    service.must("reload")
    assert service.get() == "two"

    apt(host, "remove -y safe-reload")
    assert service.show("ActiveState") == "inactive"
    assert {name for name in everything(host) - before if "/safe" in name or LIBRARY in name} == {
        "/etc/default/safe_reload-lb",
        "/etc/systemd/system/multi-user.target.wants/safe_reload@lb.service",
        "/var/lib/safe_reload",
        "/var/lib/safe_reload/lb",
        *(name for name in everything(host) if name.startswith("/var/lib/safe_reload/lb/")),
    }
    apt(host, "purge -y safe-reload")
    host.must("rm", "/etc/default/safe_reload-lb", "/etc/haproxy/lb.cfg")  # the administrator's
    assert everything(host) - before == set()
    assert host.run("ls", "/run/safe_reload")[0] != 0


def test_another_python_or_systemd_is_noticed(host: Host) -> None:
    """When either has been installed, dpkg has the package look again: bytecode, and what systemd understands.

    Whoever has it look again, with whatever umask, the bytecode is for everybody.
    """
    apt(host, "install -y ./0/safe-reload_*.deb")
    newer = DROP_IN in everything(host)
    for trigger in ("/usr/bin/python3", "/usr/lib/systemd/systemd"):
        host.must("sh", "-c", f"find {LIBRARY} -name __pycache__ -exec rm -r {{}} + ; rm -f {DROP_IN}")
        host.must("dpkg-trigger", "--by-package=base-files", trigger)
        host.must("dpkg", "--configure", "--pending")
        eventually(lambda: (DROP_IN in everything(host)) == newer)
        assert any(name.endswith("__pycache__") for name in everything(host) if name.startswith(LIBRARY))
    host.must("sh", "-c", "umask 077 && dpkg-reconfigure safe-reload")
    assert host.must("find", LIBRARY, "!", "-perm", "-o+r") == ""
    apt(host, "purge -y safe-reload")
