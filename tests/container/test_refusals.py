"""What haproxy refuses changes nothing: its words are in the log, and the generation that serves was told nothing."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration, result
from tests.waiting import eventually

BAD = {
    "a syntax error": ("frontend broken\n  bnid :1\n", "unknown keyword 'bnid'"),
    "an unknown certificate": ("frontend tls\n  bind 127.0.0.1:9443 ssl crt /nowhere.pem\n", "/nowhere.pem"),
    "a port in use": ("frontend taken\n  bind 127.0.0.1:9099\n", "127.0.0.1:9099"),
    "an unknown user": ("global\n  user nosuchuser\n", "nosuchuser"),
    "master-worker": (
        "global\n  master-worker\n",
        "haproxy.cfg:14: remove `master-worker`: safe_reload is the master already; the reload",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_configuration_that_haproxy_refuses_changes_nothing(lb: Balancer, kind: str) -> None:
    """Contract 6.2, for each way in which a configuration can be bad, under load."""
    more, words = BAD[kind]
    before = lb.children()
    with lb.network():
        taken = lb.inside("python3", "-c", _TAKE_THE_PORT)
    try:
        assert taken.stdout is not None
        assert taken.stdout.readline() == "listening\n"
        client = lb.load(100, 30_000)
        lb.change(configuration("bad", more))
        eventually(lambda: "has failed" in lb.log)
        load = result(client)
    finally:
        taken.kill()
        taken.communicate()

    assert load.failed == 0, load.text
    assert words in lb.log
    # A port in use is tried again, a second later: there may be one more for a moment.
    eventually(lambda: lb.children() == before)
    assert "Paused" not in lb.log
    assert lb.get() == "one"
    lb.becomes("good again")


_TAKE_THE_PORT = """
import socket
listener = socket.create_server(("127.0.0.1", 9099))
print("listening", flush=True)
listener.accept()
"""


def test_a_candidate_that_hangs_is_killed_and_changes_nothing(start: Start, image: str) -> None:
    """Contract 6.2: a configuration whose haproxy never gets ready fails after --ready-timeout."""
    lb = start(image, options=("--ready-timeout", "5")).begins("one")
    (lb.folder / "hang.lua").write_text("while true do end")
    lb.change(configuration("hangs", "global\n  lua-load /etc/lb/hang.lua\n"))
    eventually(lambda: "has failed" in lb.log or "Lua" in lb.log)
    eventually(lambda: len(lb.children()) == 1)
    assert "not ready within --ready-timeout: it is killed" in lb.log
    assert "not ready within --ready-timeout: it was killed; the reload asked for by " in lb.log
    assert lb.get() == "one"


def test_a_first_start_with_a_bad_configuration_ends_with_haproxy_s_words_and_status(start: Start, image: str) -> None:
    """Contract 6.5."""
    lb = start(image, text=configuration("one", "nonsense\n"))
    assert lb.container.wait(timeout=60)["StatusCode"] == 1
    assert "nonsense" in lb.log


def test_a_crash_keeps_the_vips_open_and_a_new_generation_serves(lb: Balancer) -> None:
    """Contract 6.4: after kill -9 clients wait in the queue, and none is refused."""
    first = lb.children()[0]
    client = lb.inside("python3", "-c", _ONE_AFTER_ANOTHER, str(lb.port))
    assert client.stdout is not None
    assert client.stdout.readline() == "begun\n"
    Path(f"/proc/{first}").stat()
    _kill(first)
    refused = client.communicate(timeout=60)[0]
    assert refused == "0 refused\n"
    eventually(lambda: "was killed by SIGKILL, unasked\n" in lb.log)
    assert lb.children() != [first]


_ONE_AFTER_ANOTHER = """
import socket, sys
refused = 0
for number in range(3000):
    if number == 100:
        print("begun", flush=True)
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
            client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            client.recv(4096)
    except ConnectionRefusedError:
        refused += 1
    except ConnectionResetError:
        pass
print(refused, "refused")
"""


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_deaths_in_a_row_end_safe_reload_with_the_last_status(start: Start) -> None:
    """Contract 6.4: after --restart-limit deaths, 128 and the signal's number."""
    lb = start(NEWEST_STABLE, options=("--restart-limit", "3"))
    # One that dies before it is current is a start that has failed, even if it has answered a client.
    eventually(lambda: "is current" in lb.log)
    killed: set[int] = set()

    def all_killed() -> bool:
        lb.container.reload()
        if lb.container.status == "exited":
            return True
        # PID 1 may have ended by now, and the engine does not know yet.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for pid in set(lb.children()) - killed:
                _kill(pid)
                killed.add(pid)
        return False

    eventually(all_killed)

    assert lb.container.wait(timeout=60)["StatusCode"] == 137
    assert len(killed) == 3
    assert "too many (--restart-limit): giving up" in lb.log
