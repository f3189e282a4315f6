"""The demo's configuration on each version of HAProxy; tests/container/test_documented.py runs what it prints."""

import re
import shutil
import socket
import ssl
from functools import partial
from pathlib import Path

import pytest

from tests.certificates import key_pair
from tests.connections import http_get
from tests.container.conftest import IMAGES, IPV6, Balancer, Start
from tests.http3 import Http3Client, http3_get
from tests.waiting import eventually

DEMO = Path(__file__).parents[2] / "docker/demo"


def demo(folder: Path) -> tuple[Path, str]:
    """Copy the demo, with a certificate; return the copy and the demo's VIPs."""
    copy = folder / "demo"
    shutil.copytree(DEMO, copy)
    (copy / "demo.pem").write_text("".join(key_pair(folder, "localhost")))
    (vips,) = re.findall(r"SAFE_RELOAD_VIPS=([^']+)", (DEMO / "run").read_text())
    return copy, vips


def is_current(lb: Balancer) -> bool:
    """Tell whether the first generation serves."""
    return "is current" in lb.log


def https_get(lb: Balancer) -> tuple[str, str]:
    """Return the head and the body of the answer over TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http_get(context.wrap_socket(lb.connect(8443)))


def datagrams(lb: Balancer, host: str = "127.0.0.1") -> socket.socket:
    """Return a UDP socket that is connected to the port of HTTP/3."""
    with lb.network():
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        made.connect((host, 8443))
    return made


@pytest.mark.parametrize("version", ["3.0", "3.2"])
@pytest.mark.parametrize("same", [True, False], ids=["the same secret", "secrets of their own"])
def test_a_pod_resets_a_connection_of_another_pod_if_they_have_the_same_secret(
    start: Start, version: str, same: bool, tmp_path: Path
) -> None:
    """As docs/kubernetes.md says of a pod that ends, and its packets arrive at another one."""
    folder, vips = demo(tmp_path)
    text = (folder / "haproxy.cfg").read_text()
    if same:
        (folder / "haproxy.cfg").write_text(text.replace("global\n", "global\n    cluster-secret ${SECRET}\n", 1))
    volumes = {str(folder): {"bind": "/usr/local/etc/haproxy", "mode": "ro"}}
    both = [
        start(IMAGES[version], operands=(), vips=vips, volumes=volumes, environment={"SECRET": "hunter2hunter2"})
        for _ in range(2)
    ]
    for lb in both:
        eventually(partial(is_current, lb))
    first, second = both
    client = Http3Client(datagrams(first))
    assert client.get()[0] == 200
    assert client.is_reset_by(datagrams(second)) == same
    client.close()


def test_the_demo_has_http3_where_haproxy_can(start: Start, image: str, tmp_path: Path) -> None:
    """HTTP and HTTPS always; HTTP/3 on the same port, by IPv4 and IPv6, after reloads too, not with HAProxy 2.6."""
    folder, vips = demo(tmp_path)
    volumes = {str(folder): {"bind": "/usr/local/etc/haproxy", "mode": "ro"}}
    lb = start(image, operands=(), vips=vips, volumes=volumes, sysctls=IPV6)
    eventually(lambda: is_current(lb))
    assert "from generation 1 " in lb.get()

    for number in (2, 3, 4):
        head, body = https_get(lb)
        assert f"from generation {number - 1} " in body
        assert ('alt-svc: h3=":8443"' in head) == (image != IMAGES["2.6"])
        for host in ("127.0.0.1", "::1") if image != IMAGES["2.6"] else ():
            status, _, text = http3_get(datagrams(lb, host))
            assert (status, "HTTP/3" in text) == (200, True)
            assert f"from generation {number - 1} " in text
        assert lb.run("safe_reload", "reload")[0] == 0
        eventually(lambda: f"from generation {number} " in lb.get())  # noqa: B023  # asked before the next one
