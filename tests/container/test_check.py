"""`safe_reload check`: what haproxy would say, with stand-ins for the VIPs, without an instance or a network."""

import shlex
from pathlib import Path

import pytest

import docker
from tests.container.conftest import NEWEST_STABLE, Start, configuration

ROOT = Path(__file__).parents[2]
Checked = tuple[int, str]


def check(engine: docker.DockerClient, image: str, folder: Path, *words: str, **variables: str) -> Checked:
    """Return the exit status and everything that was written."""
    container = engine.containers.create(
        image,
        ["check", *words],
        environment=variables,
        network_mode="none",
        volumes={str(folder): {"bind": "/usr/local/etc/haproxy", "mode": "ro"}},
    )
    try:
        container.start()
        status = container.wait(timeout=60)["StatusCode"]
        return status, container.logs().decode()
    finally:
        container.remove(force=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good configuration that a container may read."""
    tmp_path.chmod(0o755)
    (tmp_path / "haproxy.cfg").write_text(configuration("one"))
    return tmp_path


def test_a_good_configuration_passes_without_any_option(engine: docker.DockerClient, image: str, folder: Path) -> None:
    """The tags that it names get stand-ins, and a note says which."""
    status, text = check(engine, image, folder, "-V")
    assert status == 0
    assert "Configuration file is valid" in text
    assert "not in --vips: FD_WEB; checked with a stand-in socket for each" in text


def test_declared_vips_need_no_note(engine: docker.DockerClient, image: str, folder: Path) -> None:
    """By option or by variable, of either family; addresses need not be on this host."""
    vips = "*:80:FD_WEB,[2001:db8::1]:443:FD_SIX,192.0.2.1:80:FD_UNUSED"
    (folder / "haproxy.cfg").write_text(
        configuration("one").replace("    http", '    bind "fd@${FD_SIX}"\n    http', 1)
    )
    assert check(engine, image, folder, "--vips", vips)[0] == 0
    status, text = check(engine, image, folder, "-V", SAFE_RELOAD_VIPS=vips)
    assert status == 0
    assert "stand-in" not in text


def test_what_haproxy_refuses_is_refused_in_its_words(engine: docker.DockerClient, image: str, folder: Path) -> None:
    """With its status, the file and the line."""
    (folder / "haproxy.cfg").write_text(configuration("one", "frontend broken\n  bnid :1\n"))
    status, text = check(engine, image, folder)
    assert status == 1
    assert "haproxy.cfg:14] : unknown keyword 'bnid'" in text


def test_master_worker_is_refused_as_in_a_start(engine: docker.DockerClient, image: str, folder: Path) -> None:
    """haproxy itself would take it."""
    (folder / "haproxy.cfg").write_text(configuration("one", "global\n  master-worker\n"))
    status, text = check(engine, image, folder)
    assert status == 1
    assert "haproxy.cfg:14: remove `master-worker`: safe_reload is the master already" in text


def test_haproxy_may_be_given_by_its_path(engine: docker.DockerClient, image: str, folder: Path) -> None:
    """And a folder of files, in which each file's tags are found."""
    (folder / "z.cfg").write_text('frontend other\n  mode http\n  bind "fd@${FD_Z}"\n')
    status, text = check(engine, image, folder, "/usr/sbin/haproxy", "-f", "/usr/local/etc/haproxy")
    assert status == 0, text
    assert "not in --vips: FD_WEB, FD_Z;" in text


def test_a_configuration_without_f_is_refused(engine: docker.DockerClient, image: str, folder: Path) -> None:
    """It is the likeliest mistake, and is answered with the remedy."""
    status, text = check(engine, image, folder, "haproxy.cfg")
    assert status == 1
    assert "to check a configuration: safe_reload check -f haproxy.cfg" in text


def test_the_line_of_the_kubernetes_page_checks_its_configuration(engine: docker.DockerClient, image: str) -> None:
    """As it is written there, for CI: without VIPs, and with a bad one it would fail."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("docker run ") and "k8s/base" in line]
    verb, *words = shlex.split(line.partition(" IMAGE ")[2])
    assert verb == "check"
    status, text = check(engine, image, ROOT / "k8s" / "base", *words)
    assert status == 0, text
    assert "not in --vips: FD_HTTP" in text


def test_beside_an_instance_it_says_which_tags_that_one_would_refuse(start: Start) -> None:
    """Those of its VIPs need no word; one that it has not is named, and what else is wrong is found all the same."""
    lb = start(NEWEST_STABLE, vips="", options=("--vips", "127.0.0.1:8080:FD_WEB")).begins("one")

    def checked() -> tuple[int, str]:
        return lb.run("safe_reload", "check", "-f", "/etc/lb/haproxy.cfg")

    assert checked() == (0, "")
    lb.edit(configuration("two").replace("FD_WEB", "FD_WEBB"))
    status, text = checked()
    assert status == 0
    assert "the instance that runs here has no VIP FD_WEBB: it would refuse this" in text


@pytest.mark.parametrize("ask", ["check -f /etc/lb/haproxy.cfg", "haproxy -c -f /etc/lb/haproxy.cfg"])
def test_beside_an_instance_it_refuses_what_a_reload_would(start: Start, ask: str) -> None:
    """A VIP of `*` is two sockets, and not every word of a `bind` is for two: also where only its tag is known."""
    both = {"net.ipv6.conf.all.disable_ipv6": "0"}
    lb = start(NEWEST_STABLE, options=("--vips", "*:8080:FD_WEB"), vips="", sysctls=both).begins("one")
    assert "[::]:8080" in lb.run("safe_reload", "status")[1]
    lb.edit(configuration("two").replace('bind "fd@${FD_WEB}"', 'bind "fd@${FD_WEB}" id 7'))
    for words in (ask, "reload"):
        code, text = lb.run("safe_reload", *words.split(), environment={"SAFE_RELOAD_WATCH": ""})
        assert code == 1
        assert "'id' can only be used with a single socket" in text
