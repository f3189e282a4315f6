"""What haproxy has counted and what it knows of its clients, over reloads: /metrics, and stick tables with `peers`."""

import socket

import pytest

from tests.connections import http_get, read_all, read_until
from tests.container.cli import OURS, ask
from tests.container.conftest import DEFAULTS, IMAGES, Balancer, Start, result
from tests.container.trouble import haproxies, reload
from tests.documented import the
from tests.waiting import eventually

CONFIGURATION = f"""\
global
    nbthread 2
    maxconn 4000
{the("docs/counters.md", "global").text}
{DEFAULTS}
frontend web
    bind "fd@${{FD_WEB}}"
    http-request track-sc0 req.hdr(user) table users
    http-request return status 200 content-type text/plain string "one"
frontend long
    bind "fd@${{FD_LONG}}"
    default_backend far
backend far
    server far 127.0.0.1:9000
"""
VIPS = "127.0.0.1:8080:FD_WEB,127.0.0.1:8081:FD_LONG,127.0.0.1:10001:FD_PEERS"
PIECE = b"x" * 65536
PEERS = {"2.6": "127.0.0.1:10000", "3.0": '"fd@${FD_PEERS}"', "3.2": "127.0.0.1:10000"}
EXPORTER = ("--exporter", "127.0.0.1:9101", "--exporter-counters")


@pytest.fixture(params=PEERS)
def lb(start: Start, request: pytest.FixtureRequest) -> Balancer:
    """A container with an exporter that counts, and a stick table with a local peer at a VIP or an ordinary bind."""
    text = CONFIGURATION.replace("127.0.0.1:10000", PEERS[request.param])
    made = start(IMAGES[request.param], options=EXPORTER, text=text, vips=VIPS).begins("one")
    eventually(lambda: "exporter: listening on" in made.log)
    return made


def totals(lb: Balancer) -> dict[str, int]:
    """Scrape; return haproxy's counters."""
    lines = http_get(lb.connect(9101), "/metrics")[1].splitlines()
    pairs = (line.rpartition(" ") for line in lines if line.startswith("haproxy_"))
    return {name: int(value) for name, _, value in pairs}


def answered(lb: Balancer) -> int:
    """Return how many requests the frontend has answered."""
    return totals(lb)['haproxy_frontend_http_responses_total{proxy="web",code="2xx"}']


def test_reloads_lose_no_request_and_no_byte_of_the_totals(lb: Balancer) -> None:
    """Three reloads under load, and a download that drains through all of them: the totals are right to the request."""
    before = answered(lb)
    with lb.network():
        listener = socket.create_server(("127.0.0.1", 9000))
    with listener:
        listener.settimeout(60)
        download = lb.connect(8081)
        download.sendall(b"GET / HTTP/1.0\r\n\r\n")
        source, _ = listener.accept()
        read_until(source, b"\r\n\r\n")
    head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * len(PIECE))
    source.sendall(head)
    clients = []
    for _ in range(3):
        source.sendall(PIECE)
        client = lb.load(4, 1000)
        clients.append(client)
        reload(lb)
        assert result(client).complete == 1000
    with source:
        source.sendall(PIECE)
    with download:
        assert len(read_all(download).partition(b"\r\n\r\n")[2]) == 4 * len(PIECE)
    eventually(lambda: len(haproxies(lb)) == 1)
    found = totals(lb)
    assert answered(lb) - before == 3000
    assert found['haproxy_backend_http_responses_total{proxy="far",code="2xx"}'] == 1
    assert found['haproxy_server_bytes_out_total{proxy="far",server="far"}'] >= 4 * len(PIECE)


def users(lb: Balancer) -> str:
    """Return the table of the current generation."""
    return ask(lb, OURS, "@1 show table users\n")


def test_a_stick_table_survives_a_reload(lb: Balancer) -> None:
    """The old generation hands its table to the local peer, which is the new one."""
    with lb.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\nuser: jane\r\n\r\n")
        read_all(client)
    assert "key=jane" in users(lb)
    if "\nVersion: 2." in ask(lb, OURS, "@1 show info\n"):
        # It hands on nothing before it has waited for 5 s for somebody who knows more.
        eventually(lambda: "resync_timeout=<PAST>" in ask(lb, OURS, "@1 show peers\n"))
    reload(lb)
    eventually(lambda: "key=jane" in users(lb))
