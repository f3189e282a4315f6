"""Servers that DNS names: a new haproxy serves once it knows their addresses; the test is the name server."""

import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.connections import free_port
from tests.system.instance import Begin, Instance
from tests.system.test_server_states import columns, tell
from tests.waiting import eventually

TEXT = """\
defaults
  mode http
  timeout client 9s
  timeout connect 9s
  timeout server 9s
  retries 0
frontend web
  bind "fd@${FD_WEB}"
  default_backend b
frontend servers
  bind 127.0.0.1:PORT
  bind 127.0.0.2:PORT
  http-request return status 200 content-type text/plain string "ok"
backend b
  balance roundrobin
  server-template s COUNT app.test:PORT resolvers r init-addr none check inter 600s rise 9 fall 9
resolvers r
  nameserver n 127.0.0.1:DNS
  timeout resolve 60s
  hold valid 60s
"""


class Names:
    """A name server that answers each question about an address with the same ones, late or never."""

    def __init__(self) -> None:
        """Begin to answer."""
        self.addresses = ["127.0.0.1"]
        self.delay = 0.0
        """Seconds."""
        self.silent = False
        self.asked = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, client = self.socket.recvfrom(4096)
            if not question:
                return
            self.asked += 1
            if not self.silent:
                threading.Timer(self.delay, self.socket.sendto, (self._answer(question), client)).start()

    def _answer(self, question: bytes) -> bytes:
        """Answer as RFC 1035 says, section 4.1; only questions of type A have answers."""
        end = question.index(b"\0", 12) + 5
        is_address = question[end - 4 : end - 2] == b"\0\1"
        found = self.addresses if is_address else []
        records = (b"\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4" + socket.inet_aton(address) for address in found)
        return b"".join(
            (question[:2], b"\x84\0\0\1", struct.pack(">H", len(found)), b"\0\0\0\0", question[12:end], *records)
        )

    def close(self) -> None:
        """Stop."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer):
                timer.join()
        self.socket.close()


@pytest.fixture
def names() -> Iterator[Names]:
    """A name server."""
    made = Names()
    yield made
    made.close()


def text(names: Names, count: int) -> str:
    """Return a configuration with so many servers of one name."""
    return TEXT.replace("PORT", str(free_port())).replace("DNS", str(names.port)).replace("COUNT", str(count))


def resolves(lb: Instance, server: str = "s1") -> str:
    """Wait until DNS has found the address of a server; return it."""
    return eventually(lambda: columns(lb, server)["srv_addr"].strip("-"))


def test_nobody_is_answered_503_while_dns_is_asked_again(begin: Begin, names: Names) -> None:
    """It answers late; meanwhile the old haproxy serves, and the new one accepts one client at most."""
    names.addresses = ["127.0.0.1", "127.0.0.2"]
    lb = begin(text=text(names, 2)).becomes_current()
    assert {resolves(lb, "s1"), resolves(lb, "s2")} == set(names.addresses)
    assert lb.client("reload").returncode == 0
    resolves(lb, "s2")
    names.delay = 0.3
    for number in (3, 4):
        lb.signal(signal.SIGUSR1)
        answers = []
        while f"generation {number} (pid" not in lb.log.rpartition(" is current")[0][-60:]:
            answers.append(lb.get())
        assert sum(answer != "ok" for answer in answers) <= 1, lb.log
        assert [lb.get() for _ in range(10)] == ["ok"] * 10, lb.log


def test_a_name_server_that_is_silent_does_not_fail_a_reload(begin: Begin, names: Names) -> None:
    """Half of --ready-timeout is for addresses, the other half for the answer."""
    lb = begin("--ready-timeout", "3", text=text(names, 1)).becomes_current()
    resolves(lb)
    assert lb.client("reload").returncode == 0
    resolves(lb)
    names.silent = True
    assert lb.client("reload").returncode == 0, lb.log
    names.silent = False
    resolves(lb)
    eventually(lambda: lb.get() == "ok")


GIVES_UP = """
from pathlib import Path
from entrypoint.pid1.server_states import ServerStates
right = ServerStates._give_up
def wrong(self):
    right(self)
    Path("GAVE_UP").touch()
ServerStates._give_up = wrong
"""


def test_a_question_to_the_old_one_does_not_end_the_wait_of_the_new_one(
    begin: Begin, names: Names, tmp_path: Path
) -> None:
    """Somebody asks for the status while the new one waits, and the old one does not answer in time."""
    gave_up = tmp_path / "gave up"
    code = GIVES_UP.replace("GAVE_UP", str(gave_up))
    lb = begin("--ready-timeout", "20", text=text(names, 1), code=code).becomes_current()
    resolves(lb)
    names.silent = True
    old, asked = lb.haproxy(), names.asked
    lb.signal(signal.SIGUSR1)
    eventually(lambda: names.asked > asked)  # the new one is in its loop, and waits
    new = next(one["pid"] for one in lb.status()["generations"] if one["pid"] != old)
    gave_up.unlink(missing_ok=True)
    os.kill(old, signal.SIGSTOP)
    lb.status()
    os.kill(new, signal.SIGSTOP)
    eventually(gave_up.exists)
    names.silent = False
    for pid in (old, new):
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: lb.log.count("is current") == 2)
    assert f"generation 2 (pid {new}) is current" in lb.log


def test_haproxys_state_file_has_the_names_only(begin: Begin, names: Names, tmp_path: Path) -> None:
    """So the configuration wins for all other servers, and nothing is written while nothing changes."""
    file = tmp_path / "state"
    head = f"global\n  server-state-file {file}\n"
    static = "  server fixed 127.0.0.1:1\nresolvers r"
    loads = "defaults\n  load-server-state-from-file global\n"
    body = text(names, 1).replace("resolvers r\n", f"{static}\n").replace("defaults\n", loads)
    lb = begin(text=head + body).becomes_current()
    resolves(lb)
    eventually(lambda: file.exists() and "app.test" in file.read_text())
    written = file.stat().st_mtime_ns
    tell(lb, "set server b/fixed state maint")
    lb.configuration.write_text(lb.configuration.read_text().replace("127.0.0.1:1\n", "127.0.0.1:2\n"))
    assert lb.client("reload").returncode == 0
    assert (columns(lb, "fixed")["srv_port"], columns(lb, "fixed")["srv_admin_state"]) == ("2", "0")
    assert "fixed" not in file.read_text()
    assert file.stat().st_mtime_ns == written


def test_a_server_with_another_address_is_not_down(begin: Begin, names: Names) -> None:
    """What was down is the old address; its weight is the server's, wherever it is."""
    lb = begin(text=text(names, 1)).becomes_current()
    resolves(lb)
    tell(lb, "set server b/s1 health down")
    tell(lb, "set server b/s1 weight 7")
    assert lb.client("reload").returncode == 0
    assert columns(lb, "s1")["srv_op_state"] == "0"
    names.addresses = ["127.0.0.2"]
    # The old one asks once a minute, and the new one at once.
    assert lb.client("reload").returncode == 0
    found = columns(lb, "s1")
    assert (found["srv_addr"], found["srv_op_state"], found["srv_uweight"]) == ("127.0.0.2", "2", "7")
    assert lb.get() == "ok"


def test_maintenance_of_a_server_without_an_address_survives(begin: Begin, names: Names) -> None:
    """DNS does not know the name; a weight and maintenance that somebody has set are not lost."""
    names.addresses = []
    lb = begin(text=text(names, 1)).becomes_current()
    eventually(lambda: names.asked)
    tell(lb, "set server b/s1 weight 7")
    tell(lb, "set server b/s1 state drain")
    assert lb.client("reload").returncode == 0
    found = columns(lb, "s1")
    assert (int(found["srv_admin_state"]) & 8, found["srv_uweight"]) == (8, "7")
