"""Servers that are named by DNS: a new haproxy has their addresses before its clients need them."""

import os
import signal

from tests.container.conftest import ANSWER, DEFAULTS, NEWEST_STABLE, Balancer, Start
from tests.documented import shown
from tests.program import needs_a_python
from tests.waiting import eventually

RESOLVER = """\
import socket, struct, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 5399))
while True:
    question, client = server.recvfrom(4096)
    time.sleep(0.05)  # what DNS takes, so that a haproxy that does not wait has no address yet
    end = question.index(0, 12) + 5
    kind, = struct.unpack(">H", question[end - 4 : end - 2])
    found = [bytes((127, 0, 0, 1))] if kind == 1 else []
    records = b"".join(b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x0a\\0\\4" + address for address in found)
    head = question[:2] + b"\\x84\\0\\0\\1" + struct.pack(">H", len(found)) + bytes(4)
    server.sendto(head + question[12:end] + records, client)
"""
NAMED = f"""\
resolvers dns
    nameserver one 127.0.0.1:5399
    hold nx 600s
    hold timeout 600s
    hold refused 600s
frontend web
    bind "fd@${{FD_WEB}}"
    default_backend app
backend app
    http-response set-header mark MARK
    server-template one 1 app.test:8081 resolvers dns INIT
frontend servers
    bind 127.0.0.1:8081
{ANSWER}"""


def _begin(start: Start, image: str, head: str, init: str) -> tuple[Balancer, str]:
    text = f"{head}{NAMED}".replace("INIT", init)
    lb = start(image, text=text.replace("MARK", "one"))
    lb.begin_sh(f"python3 -c '{RESOLVER}' & echo $! > /tmp/resolver; wait")
    return lb.serves("one"), text


@needs_a_python
def test_nobody_gets_a_503_while_a_new_haproxy_asks_dns(start: Start, image: str) -> None:
    """The old one serves until the new one has the addresses."""
    lb, text = _begin(start, image, f"global\n    maxconn 4000\n{DEFAULTS}", "init-addr none")
    for mark in ("two", "three"):
        lb.edit(text.replace("MARK", mark))
        status, said = lb.run("safe_reload", "reload")
        assert status == 0, said
        # The reload is over, so only the new one accepts.
        assert lb.get() == mark


@needs_a_python
def test_the_state_file_of_the_page_has_the_addresses(start: Start) -> None:
    """After a crash a haproxy serves although DNS is dead, with the lines of the page."""
    block = next(one.text for one in shown("docs/what-is-kept.md") if one.language == "haproxy")
    of_global, _, of_defaults = block.partition("defaults\n")
    lb, _ = _begin(start, NEWEST_STABLE, f"{of_global}    maxconn 4000\n{DEFAULTS}{of_defaults}\n", "")
    eventually(lambda: lb.sh("grep -c 127.0.0.1.*app.test /var/lib/haproxy/state") == "1\n")
    lb.sh("kill -9 $(cat /tmp/resolver)")
    os.kill(lb.children()[-1], signal.SIGKILL)
    eventually(lambda: lb.log.count("is current") == 2)
    assert lb.get() == "one"
