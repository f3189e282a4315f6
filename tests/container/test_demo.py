"""The demo's configuration on each version of HAProxy; tests/container/test_documented.py runs what it prints."""

import re
import shutil
import socket
import ssl
from pathlib import Path

from tests.certificates import key_pair
from tests.connections import http_get
from tests.container.conftest import IMAGES, Balancer, Start
from tests.http3 import http3_get
from tests.waiting import eventually

DEMO = Path(__file__).parents[2] / "docker/demo"


def https_get(lb: Balancer) -> tuple[str, str]:
    """Return the head and the body of the answer over TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http_get(context.wrap_socket(lb.connect(8443)))


def datagrams(lb: Balancer) -> socket.socket:
    """Return a UDP socket that is connected to the port of HTTP/3."""
    with lb.network():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect(("127.0.0.1", 8443))
    return made


def test_the_demo_has_http3_where_haproxy_can(start: Start, image: str, tmp_path: Path) -> None:
    """HTTP and HTTPS always; HTTP/3 on the same port, announced, and after reloads, but not with HAProxy 2.6."""
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    (folder / "demo.pem").write_text("".join(key_pair(tmp_path, "localhost")))
    (vips,) = re.findall(r"SAFE_RELOAD_VIPS=([^']+)", (DEMO / "run").read_text())
    volumes = {str(folder): {"bind": "/usr/local/etc/haproxy", "mode": "ro"}}
    lb = start(image, operands=(), vips=vips, volumes=volumes)
    eventually(lambda: "is current" in lb.log)
    assert "from generation 1 " in lb.get()

    for number in (2, 3):
        head, body = https_get(lb)
        assert f"from generation {number - 1} " in body
        assert ('alt-svc: h3=":8443"' in head) == (image != IMAGES["2.6"])
        if image != IMAGES["2.6"]:
            status, _, text = http3_get(datagrams(lb))
            assert (status, "HTTP/3" in text) == (200, True)
            assert f"from generation {number - 1} " in text
        assert lb.run("safe_reload", "reload")[0] == 0
        eventually(lambda: f"from generation {number} " in lb.get())  # noqa: B023  # asked before the next one
