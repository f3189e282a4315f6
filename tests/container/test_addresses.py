"""Where haproxy starts it starts here, and every address that answered before answers after whatever happens."""

import itertools
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import docker
from tests.certificates import key_pair
from tests.container.conftest import DEFAULTS, IMAGES, IPV6, Balancer, Start
from tests.container.trouble import current, end
from tests.program import needs_a_python
from tests.waiting import eventually

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
        f"{threads}-{binds}": f"global\n    {THREADS[threads]}\n{DEFAULTS}frontend f\n    {BINDS[binds]}\n"
        "    bind 127.0.0.3:PORT shards by-thread\n    http-request return status 200\n"
        for threads, binds in itertools.product(THREADS, BINDS)
        if not {threads, binds}.intersection(LACKING.get(version, ()))
        and (binds != "a-tag-for-each-group" or threads in GROUPED)
    }
    lb = start(image, entrypoint="sleep", operands=("infinity",), ulimits=[MANY_FILES])
    for port, (name, text) in enumerate(cases.items(), 8000):
        (lb.folder / f"{name}.cfg").write_text(text.replace("PORT", str(port)))
        vips = f"127.0.0.1:{port}:FD_A,127.0.0.2:{port}:FD_B"
        lb.begin_sh(f"exec safe_reload --name {name} --vips {vips} -f /etc/lb/{name}.cfg 2>/tmp/{name}.log")
    for name in cases:
        # Once haproxy has died on the first start the log says so, and nobody would ever be current.
        log = eventually(lambda name=name: _ends(lb, name))  # type: ignore[misc]
        assert "is current" in log, log
    for name in cases:
        answer = lb.sh(f"safe_reload reload --name {name} 2>&1 && echo it serves")
        assert answer.endswith("it serves\n"), (name, answer, lb.sh(f"cat /tmp/{name}.log"))
    for port, name in enumerate(cases, 8000):
        for address in (f"127.0.0.{last}:{port}" for last in (1, 2, 3)):
            curl = lb.inside("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}/")
            assert curl.communicate()[0] == "200", (name, address)


# ---- every pair of forms --------------------------------------------------------------------------------------------

VIP_BINDS = {
    "plain": 'bind "fd@${TAG}"',
    "shards": 'bind "fd@${TAG}" shards by-thread',
    "one thread": 'bind "fd@${TAG}" thread 1',
    "twice": 'bind "fd@${TAG}"\n    bind "fd@${TAG}"',
    "accept-proxy": 'bind "fd@${TAG}" accept-proxy',
    "defer-accept": 'bind "fd@${TAG}" defer-accept',
    "v6": 'bind "fd@${TAG}"',
    "any": 'bind "fd@${TAG}"',
}
VIP_ADDRESSES = {"v6": "[::1]", "any": "*"}
ORDINARY_BINDS = {
    "none": "",
    "other address": "bind 127.0.0.2:PORT",
    "other port": "bind 127.0.0.2:1PORT",
    "v6only": "bind [::2]:PORT v6only",
    "both families": "bind [::]:1PORT v4v6",
    "shards": "bind 127.0.0.2:PORT shards by-thread",
    "one thread": "bind 127.0.0.2:PORT thread 2",
    "interface": "bind 127.0.0.2:PORT interface lo",
    "accept-proxy": "bind 127.0.0.2:PORT accept-proxy",
    "defer-accept": "bind 127.0.0.2:PORT defer-accept",
    "unix": "bind unix@/run/PORT.sock",
    "abns": "bind abns@PORT",
    "quic": "bind quic4@127.0.0.2:PORT ssl crt /etc/lb/site.pem alpn h3",
}
ORDINARY_ADDRESSES = {"other port": "127.0.0.2:1PORT", "v6only": "[::2]:PORT", "both families": "127.0.0.1:1PORT"}
PATIENCE = 20.0


@dataclass(frozen=True)
class Address:
    """Where something is to answer, and how it is asked."""

    name: str
    family: int
    where: Any
    proxy: bool = False
    quic: bool = False

    def answers(self) -> bool:
        """Tell whether it does; in the network of the container."""
        kind = socket.SOCK_DGRAM if self.quic else socket.SOCK_STREAM
        with socket.socket(self.family, kind) as client:
            client.settimeout(PATIENCE)
            try:
                client.connect(self.where)
                if self.quic:
                    # A version that nobody knows is answered by a list of those that are known (RFC 9000, section 6).
                    client.send(b"\xc0\x0a\x0a\x0a\x0a\x08" + bytes(8) + b"\x08" + bytes(8) + bytes(1178))
                    return client.recv(2048)[1:5] == bytes(4)
                client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 7 8\r\n" * self.proxy + b"GET / HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(100)
            except OSError:
                return False


def _addresses(lb: Balancer, port: int, vip: str, ordinary: str) -> list[Address]:
    name, proxy = f"{vip} beside {ordinary}", vip == "accept-proxy"
    six = (socket.AF_INET6, ("::1", port))
    four = (socket.AF_INET, ("127.0.0.1", port))
    found = [
        Address(f"the VIP of {name}", *where, proxy) for where in {"v6": [six], "any": [four, six]}.get(vip, [four])
    ]
    if ordinary == "none":
        return found
    if ordinary in {"unix", "abns"}:
        # haproxy's name of an abstract socket is as long as it can be.
        where = f"\0{port}".ljust(108, "\0") if ordinary == "abns" else f"/proc/{lb.pid}/root/run/{port}.sock"
        return [*found, Address(name, socket.AF_UNIX, where)]
    host, _, number = ORDINARY_ADDRESSES.get(ordinary, "127.0.0.2:PORT").replace("PORT", str(port)).rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return [*found, Address(name, family, (host, int(number)), ordinary == "accept-proxy", ordinary == "quic")]


def _silent(lb: Balancer, addresses: list[Address]) -> list[str]:
    with lb.network():
        return [address.name for address in addresses if not address.answers()]


@pytest.mark.parametrize("groups", [1, 2])
def test_every_address_that_answered_answers_after_whatever_happens(start: Start, image: str, groups: int) -> None:
    """For every pair of forms of `bind` in a frontend, after three reloads, a kill, an upgrade and one more reload."""
    version = next(version for version, name in IMAGES.items() if name == image)
    if version == "2.6" and groups > 1:
        pytest.skip("HAProxy 2.6 has one thread group")
    forms = [name for name in ORDINARY_BINDS if version != "2.6" or name != "quic"]
    pairs = dict(enumerate(itertools.product(VIP_BINDS, forms), 2000))
    frontends = "".join(
        f"frontend f{port}\n    {VIP_BINDS[vip].replace('TAG', f'FD_{port}')}\n"
        f"    {ORDINARY_BINDS[ordinary].replace('PORT', str(port))}\n    http-request return status 200\n"
        for port, (vip, ordinary) in pairs.items()
    )
    head = ["global", f"thread-groups {groups}", f"nbthread {2 * groups}", "maxconn 500"]
    head += ["limited-quic"] if version != "2.6" else []
    text = "\n    ".join(head) + f"\n{DEFAULTS}{frontends}"
    vips = ",".join(f"{VIP_ADDRESSES.get(vip, '127.0.0.1')}:{port}:FD_{port}" for port, (vip, _) in pairs.items())

    def prepare(folder: Path) -> None:
        (folder / "haproxy.cfg").write_text(text)
        (folder / "site.pem").write_text("".join(key_pair(folder, "localhost")))

    lb = start(image, prepare=prepare, options=("--vips", vips), vips="", ulimits=[MANY_FILES], sysctls=IPV6)
    lb.inside("ip", "address", "add", "::2/128", "dev", "lo").communicate()
    eventually(lambda: "is current" in lb.log)
    addresses = [address for port, pair in pairs.items() for address in _addresses(lb, port, *pair)]
    assert _silent(lb, addresses) == []
    for what in ("reload", "reload", "reload", "kill", "upgrade", "reload"):
        # Somebody who stays has the old generation drain, and not leave before it had to let go of anything.
        with lb.connect(2000) as held:
            held.sendall(b"GET / HTTP/1.0\r\n")
            if what == "kill":
                end(current(lb))
            else:
                assert lb.sh(f"safe_reload {what} 2>&1 && echo done").endswith("done\n"), lb.log[-2000:]
            assert _silent(lb, addresses) == [], what
    assert "has not let go" not in lb.log


# ---- any address ---------------------------------------------------------------------------------------------------


def test_a_client_of_any_address_is_seen_as_haproxy_sees_it(start: Start, image: str) -> None:
    """Behind `*` a client of IPv4 has an address of IPv4, and one of IPv6 one of IPv6, as with haproxy's own `bind`."""
    text = f"""global\n    log stderr local0\n{DEFAULTS}frontend f\n    bind "fd@${{FD_ANY}}"\n"""
    text += '    http-request return status 200 content-type text/plain lf-string "%[src]"\n'
    lb = start(image, text=text, vips="", options=("--vips", "*:8080:FD_ANY"), sysctls=IPV6)
    eventually(lambda: "is current" in lb.log)
    for _ in range(2):
        assert lb.get() == "127.0.0.1"
        assert lb.inside("curl", "-s", "http://[::1]:8080/").communicate()[0] == "::1"
        assert lb.sh("safe_reload reload 2>&1 && echo done").endswith("done\n"), lb.log


def test_a_bind_that_cannot_take_two_sockets_is_refused_with_the_remedy(start: Start, image: str) -> None:
    """haproxy takes both sockets of `*` only from quotes; it also takes the IPv4 socket alone."""
    text = f"{DEFAULTS}frontend f\n    bind fd@${{FD_ANY}}\n    http-request return status 200\n"
    lb = start(image, text=text, vips="", options=("--vips", "*:8080:FD_ANY"), sysctls=IPV6)
    assert lb.container.wait(timeout=60)["StatusCode"] == 1
    assert 'write bind "fd@${TAG}" in double quotes and without `id`, or give the VIP 0.0.0.0' in lb.log
    lb = start(image, text=text, vips="", options=("--vips", "0.0.0.0:8080:FD_ANY"))
    eventually(lambda: "is current" in lb.log)


# ---- passed sockets ------------------------------------------------------------------------------------------------

PASSING = """
import os, socket
made = [socket.socket(socket.AF_INET), socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX)]
made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
for one, where in zip(made, (("127.0.0.1", 8080), ("127.0.0.1", 8081), "/run/spare.sock", ("127.0.0.1", 8443))):
    one.bind(where)
    if one.type == socket.SOCK_STREAM:
        one.listen()
for number, one in enumerate(made):
    os.dup2(one.detach(), 20 + number)
for number in range(4):
    os.dup2(20 + number, 3 + number, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="4", LISTEN_FDNAMES="web:spare:spare-unix:quic")
os.execvp("safe_reload", ["safe_reload", "-f", "/etc/lb/haproxy.cfg"])
"""


def _outcome(family: int, where: Any) -> str:
    with socket.socket(family) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(where)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return "served" if b" 200 " in client.recv(100) else "closed"
        except (ConnectionResetError, BrokenPipeError):
            return "closed"


@needs_a_python
def test_a_passed_socket_is_served_or_refuses_as_the_log_says(start: Start, image: str) -> None:
    """TCP and unix; one of UDP serves HTTP/3 where haproxy can, and no reload has anything to complain of."""
    quic = image != IMAGES["2.6"]
    spare = 'frontend spare\n    bind "fd@${FD_SPARE}"\n    bind "fd@${FD_SPARE_UNIX}"\n'
    spare += "    http-request return status 200\n"
    text = ("global\n    limited-quic\n" if quic else "") + f'{DEFAULTS}frontend web\n    bind "fd@${{FD_WEB}}"\n'
    text += '    bind "quic+fd@${FD_QUIC}" ssl crt /etc/lb/site.pem alpn h3\n' if quic else ""
    text += "    http-request return status 200\n"

    def prepare(folder: Path) -> None:
        (folder / "haproxy.cfg").write_text(text)
        (folder / "site.pem").write_text("".join(key_pair(folder, "localhost")))

    lb = start(image, prepare=prepare, vips="", entrypoint=["python3", "-c", PASSING], operands=())
    eventually(lambda: "is current" in lb.log)
    places: list[tuple[int, Any]] = [
        (socket.AF_INET, ("127.0.0.1", 8081)),
        (socket.AF_UNIX, f"/proc/{lb.pid}/root/run/spare.sock"),
    ]

    def outcomes() -> list[str]:
        with lb.network():
            return [_outcome(*place) for place in places]

    assert "for the VIPs FD_SPARE, FD_SPARE_UNIX" in lb.log
    wanted = [(text, "closed"), (text + spare, "served"), (text, "closed")]
    for configuration_text, outcome in wanted:
        lb.edit(configuration_text)
        with lb.connect(8080) as held:
            held.sendall(b"GET / HTTP/1.0\r\n")
            assert lb.sh("safe_reload reload 2>&1 && echo done").endswith("done\n"), lb.log
            assert outcomes() == [outcome] * 2
            with lb.network():
                assert not quic or Address("", socket.AF_INET, ("127.0.0.1", 8443), quic=True).answers()
    assert lb.sh("safe_reload upgrade 2>&1 && echo done").endswith("done\n"), lb.log
    assert outcomes() == ["closed"] * 2
    assert lb.get(8080) == ""
    assert "ERROR" not in lb.log
    # 2.6 has no way to stop a unix socket that it has inherited but a limit, and looks again with each connection.
    assert not quic or "has not let go" not in lb.log


MANY_FILES = docker.types.Ulimit(name="nofile", soft=4096, hard=4096)


def _ends(lb: Balancer, name: str) -> str:
    """Return the log once a start has succeeded or failed."""
    log = lb.sh(f"cat /tmp/{name}.log")
    return log if "is current" in log or "exiting" in log or "exited" in log else ""
