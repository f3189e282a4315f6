"""VIPs as haproxy sees them: many, several on one address, some that nobody uses; several instances side by side."""

import collections
import re
import resource
import socket
from functools import partial
from pathlib import Path

import docker
from tests.container.conftest import IPV6, NEWEST_STABLE, Balancer, Start, configuration, result
from tests.program import needs_a_python
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]


def test_the_2017_command_line_works_verbatim(start: Start, image: str) -> None:
    """PIDFILE VIPS HAPROXY -f -f -f, exactly as it was documented, but for addresses that this host has."""
    lb = start(image, entrypoint="sleep", operands=("infinity",))
    for name, port in (("a", 80), ("b", 443)):
        (lb.folder / f"{name}.cfg").write_text(
            "defaults\n  mode http\n  timeout client 9s\n  timeout connect 9s\n  timeout server 9s\n"
            f'frontend {name}\n  bind "fd@${{FD_HOST{1 if port == 80 else 2}}}"\n'
            f'  http-request return status 200 content-type text/plain string "{name}"\n'
        )
    (lb.folder / "c.cfg").write_text("global\n  maxconn 1000\n")
    lb.begin_sh(
        "safe_reload /var/run/ha1/pid 127.0.0.1:80:FD_HOST1,127.0.0.2:443:FD_HOST2 "
        "/usr/sbin/haproxy -f /etc/lb/a.cfg -f /etc/lb/b.cfg -f /etc/lb/c.cfg"
    )
    eventually(lambda: _text(lb, 80) == "a")

    assert lb.inside("curl", "-s", "http://127.0.0.2:443/").communicate()[0] == "b"
    assert lb.sh("cat /var/run/ha1/pid").strip().isdigit()


def test_instances_on_the_same_vips_and_files_are_reloaded_each_by_its_own_signal(start: Start, image: str) -> None:
    """Two of them side by side share the clients; a signal to one leaves the other as it is."""
    lb = start(image, entrypoint="sleep", operands=("infinity",))
    for name in ("ha1", "ha2"):
        lb.begin_sh(f"safe_reload /run/{name}/pid 127.0.0.1:8080:FD_WEB /usr/sbin/haproxy -f /etc/lb/haproxy.cfg")
        eventually(partial(lb.sh, f"cat /run/{name}/pid 2>/dev/null"))
    lb.serves("one")
    first, second = (lb.sh(f"cat /run/{name}/pid") for name in ("ha1", "ha2"))
    client = lb.load(100, 20_000)
    found = lb.sh("grep -laz '^/run/ha1/pid$' /proc/[0-9]*/cmdline").split()
    lb.sh(f"kill -USR1 {found[0].split('/')[2]}")
    load = result(client)

    assert len(found) == 1
    assert load.failed == 0
    eventually(lambda: lb.sh("cat /run/ha1/pid") != first)
    assert lb.sh("cat /run/ha2/pid") == second


def test_several_tags_on_one_address_serve_each_with_a_thread_of_its_own(start: Start, image: str) -> None:
    """What nbproc was for: the kernel spreads the clients over the sockets, each of which belongs to one thread."""
    text = configuration("MARK").replace('    bind "fd@${FD_WEB}"\n', "").replace(
        "    http-request return status 200 content-type text/plain string",
        '    bind "fd@${FD_A}" thread 1 name a\n    bind "fd@${FD_B}" thread 2 name b\n'
        "    http-request return status 200 content-type text/plain lf-string",
    ).replace("MARK", "%[so_name]")  # fmt: skip
    lb = start(image, text=text, options=("--vips", "127.0.0.1:8080:FD_A,127.0.0.1:8080:FD_B"))
    eventually(lambda: _text(lb, 8080) in {"a", "b"})
    answers = collections.Counter(lb.get() for _ in range(200))
    client = lb.load(100, 30_000)
    lb.kill("USR1")
    load = result(client)

    assert set(answers) == {"a", "b"}
    assert min(answers.values()) > 20
    assert load.failed == 0
    eventually(lambda: len(lb.children()) == 1)


def test_4096_vips_are_bound_reloaded_and_all_answer(start: Start) -> None:
    """As many VIPs as the contract promises, with one frontend for all of them."""
    count = 4096
    binds = "".join(f'    bind "fd@${{FD_{number}}}"\n' for number in range(count))
    text = configuration("one").replace('    bind "fd@${FD_WEB}"\n', binds)
    vips = ",".join(f"127.0.{number // 250}.{number % 250 + 1}:8080:FD_{number}" for number in range(count))
    hard = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    ulimits = [docker.types.Ulimit(name="nofile", soft=1024, hard=hard)]
    lb = start(NEWEST_STABLE, text=text, vips=vips, ulimits=ulimits)
    eventually(lambda: "is current" in lb.log)
    lb.change(text.replace('"one"', '"two"'))
    eventually(lambda: "is current; asked for by" in lb.log)
    eventually(lambda: len(lb.children()) == 1)
    with lb.network():
        client = lb.inside("python3", "-c", _ASK_ALL, str(count))

    assert client.communicate(timeout=120)[0] == "4096 answers\n"


_ASK_ALL = """
import socket, sys
answers = 0
for number in range(int(sys.argv[1])):
    with socket.create_connection((f"127.0.{number // 250}.{number % 250 + 1}", 8080)) as client:
        client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        answers += client.recv(4096).endswith(b"two") or client.recv(4096).endswith(b"two")
print(answers, "answers")
"""


def test_a_vip_that_no_bind_uses_is_named_and_refuses_until_one_does(start: Start, image: str) -> None:
    """Its clients do not hang, and a later configuration can use it."""
    lb = start(image, options=("--vips", "127.0.0.1:8080:FD_WEB,127.0.0.1:8081:FD_LATER")).begins("one")
    refused = _refuses(lb, 8081)
    lb.change(configuration("two", 'frontend later\n  bind "fd@${FD_LATER}"\n  http-request return status 200\n'))
    lb.serves("two")
    eventually(lambda: not _refuses(lb, 8081))
    lb.becomes("three")
    assert refused
    assert 'has no bind "fd@${TAG}" for the VIPs FD_LATER: their clients are refused' in lb.log
    eventually(lambda: _refuses(lb, 8081))


def test_a_refused_candidate_leaves_an_unused_vip_refusing(start: Start, image: str) -> None:
    """haproxy listens on what it binds before it fails; nobody would ever accept there."""
    lb = start(image, vips="127.0.0.1:8080:FD_WEB,127.0.0.1:8081:FD_LATER").begins("one")
    later = 'global\n  chroot /nowhere\nfrontend later\n  bind "fd@${FD_LATER}"\n  http-request return status 200\n'
    lb.change(configuration("two", later))
    eventually(lambda: "has failed" in lb.log)
    assert eventually(lambda: _refuses(lb, 8081))
    assert lb.get() == "one"


def test_a_generation_lets_go_of_a_vip_that_is_not_on_the_loopback_interface(start: Start, image: str) -> None:
    """Where no client comes, safe_reload connects itself, on whatever interface the address is."""
    lb = start(image, entrypoint="sleep", operands=("infinity",))
    for words in (
        "link add vip0 type veth peer name far0",
        "link set far0 up",
        "link set vip0 up",
        "address add 192.0.2.1/24 dev vip0",
    ):
        assert lb.inside("ip", *words.split()).communicate()[0] == ""
    (lb.folder / "run.sh").write_text("exec safe_reload --vips 192.0.2.1:8080:FD_WEB -f /etc/lb/haproxy.cfg 2>/run/log")
    lb.begin_sh("sh /etc/lb/run.sh")
    eventually(lambda: "is current" in lb.sh("cat /run/log"))
    with lb.network():
        held = socket.create_connection(("192.0.2.1", 8080), timeout=10)
    with held:
        held.sendall(b"GET / HTTP/1.0\r\n")
        lb.sh("kill -USR1 $(grep -ls '^safe_reload$' /proc/[0-9]*/comm | cut -d/ -f3)")
        eventually(lambda: "drains" in lb.sh("cat /run/log"))

    assert "has not let go" not in lb.sh("cat /run/log")


def test_an_ipv6_vip_and_every_address_of_both_families(start: Start, image: str) -> None:
    """`[::1]` and `*`."""
    lb = start(
        image,
        options=("--vips", "[::1]:8080:FD_WEB,*:8081:FD_ANY"),
        text=configuration("one").replace('bind "fd@${FD_WEB}"', 'bind "fd@${FD_WEB}"\n    bind "fd@${FD_ANY}"'),
        sysctls=IPV6,
    )

    def ask(url: str) -> str:
        return lb.inside("curl", "-s", url).communicate()[0]

    eventually(lambda: ask("http://[::1]:8080/") == "one")
    assert ask("http://127.0.0.1:8081/") == "one"
    assert ask("http://[::1]:8081/") == "one"
    assert _refuses(lb, 8080)


@needs_a_python
def test_the_recipe_with_debian_s_python(engine: docker.DockerClient, start: Start, tmp_path: Path) -> None:
    """The page's, built on an image like haproxy's own: another user, SIGUSR1 as stop signal."""
    base = _build(
        engine,
        tmp_path,
        f"FROM {NEWEST_STABLE}\nENTRYPOINT []\nSTOPSIGNAL SIGUSR1\n"
        "RUN rm -r /usr/local/bin/safe_reload /usr/local/lib/safe_reload /usr/lib/python3/dist-packages/entrypoint\n",
    )
    recipe = re.search(r"```dockerfile\n(.*?)```", (ROOT / "docs/where-it-runs.md").read_text(), re.DOTALL)
    assert recipe
    image = _build(engine, tmp_path, recipe[1].replace("FROM haproxy:3.0", f"FROM {base}", 1))
    lb = start(image).begins("one")
    lb.becomes("two")
    lb.container.stop(timeout=30)

    assert lb.container.wait()["StatusCode"] == 0


def _build(engine: docker.DockerClient, folder: Path, text: str) -> str:
    (folder / "Dockerfile").write_text(text)
    tag = "haproxy-safe-reload:test-recipe" if "COPY" in text else "haproxy-safe-reload:test-base"
    engine.images.build(path=str(folder), rm=True, tag=tag)
    return tag


def _text(lb: Balancer, port: int) -> str:
    try:
        return lb.get(port)
    except OSError:
        return ""


def _refuses(lb: Balancer, port: int) -> bool:
    try:
        lb.connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it stopped listening in this very moment
    return False
