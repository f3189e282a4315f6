"""What an attacker beside us finds: nothing to read, nothing to ask, and no privilege that is not needed."""

from pathlib import Path

import pytest

from tests.container.conftest import Start, configuration
from tests.program import needs_a_python
from tests.waiting import eventually

IDENTITY = "global\n  user haproxy\n  group haproxy\n"
SOCKET = "  stats socket /run/admin.sock level admin"
STRICT = ("--no-new-privs", "--drop-caps")
KEPT = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18
"""KILL, SETGID, SETUID, NET_BIND_SERVICE, SYS_CHROOT (capabilities(7))."""


def test_nothing_in_the_runtime_directory_is_for_others(start: Start, image: str) -> None:
    """Neither while it runs nor after reloads, good and bad; whatever the umask."""
    lb = start(image, entrypoint=["sh", "-c", "umask 0; exec safe_reload --pid-file /run/x/pid -f /etc/lb/haproxy.cfg"])
    lb.begins("one")
    lb.becomes("two")
    lb.change("nonsense\n")
    eventually(lambda: "has failed" in lb.log)
    runtime = Path(f"/proc/{lb.pid}/root/run/safe_reload")
    assert [path.name for path in runtime.iterdir()] == ["x.sock"]
    assert not (runtime / "x.sock").stat().st_mode & 0o077
    assert not runtime.stat().st_mode & 0o022
    assert Path(f"/proc/{lb.pid}/root/run/x/pid").stat().st_mode & 0o022 == 0


def test_only_root_and_the_same_user_may_ask(start: Start, image: str) -> None:
    """Other users who reach the socket are refused with a reason, even if its mode is opened."""
    lb = start(image).begins("one")
    assert lb.run("safe_reload", "status")[0] == 0
    assert lb.run("safe_reload", "stop", user="65534")[0] != 0
    lb.run("chmod", "0777", "/run/safe_reload/haproxy.sock")
    for verb in ("reload", "status", "stop"):
        code, words = lb.run("safe_reload", verb, user="65534")
        assert code != 0
        assert "permission denied; only root may use it" in words
    assert lb.get() == "one"
    assert "stopping" not in lb.log


STRANGER = """
import contextlib, os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/safe_reload/evil.sock")
os.chmod("/run/safe_reload/evil.sock", 0o666)
listener.listen()
while True:
    with listener.accept()[0] as connection, contextlib.suppress(OSError):
        connection.sendall(b"Success=1\\n--\\ngeneration 9 (pid 9) is current\\n\\n")
"""


@needs_a_python
def test_a_stranger_in_the_runtime_directory_answers_for_nobody(start: Start, image: str) -> None:
    """Anybody may write in a plain --tmpfs; the user of PID 1 and root still find it, and nobody else."""
    lb = start(image, user="65534", tmpfs={"/run/safe_reload": "mode=1777"}).begins("one")
    lb.container.exec_run(["python3", "-c", STRANGER], user="4242", detach=True)
    eventually(lambda: "not trusted: uid 4242" in lb.run("safe_reload", "list")[1])
    for user in ("65534", "root"):
        code, words = lb.run("safe_reload", "status", user=user)
        assert code == 0
        assert "evil.sock: not trusted: uid 4242 listens there" in words
        code, words = lb.run("safe_reload", "reload", user=user)
        assert code == 0
        assert "is current" in words or "serves" in words
        code, words = lb.run("safe_reload", "reload", "--name", "evil", user=user)
        assert code == 3
        assert "not trusted: uid 4242 listens there" in words
    assert lb.get() == "one"


@pytest.mark.parametrize("kind", ["haproxy.sock", ".1.sock"])
def test_a_link_in_our_place_is_replaced_and_not_followed(start: Start, image: str, kind: str) -> None:
    """What it points to stays as it is."""
    prepare = f"mkdir /run/safe_reload; echo precious > /root/it; ln -s /root/it /run/safe_reload/{kind}"
    lb = start(image, entrypoint=["sh", "-c", f"{prepare}; exec safe_reload -f /etc/lb/haproxy.cfg"]).begins("one")
    assert lb.run("cat", "/root/it")[1] == "precious\n"
    assert lb.run("test", "!", "-L", "/run/safe_reload/haproxy.sock")[0] == 0
    assert lb.run("safe_reload", "status")[0] == 0


def test_drop_caps_leaves_five_capabilities_and_no_new_privs_none_to_gain(start: Start, image: str) -> None:
    """To PID 1, and to haproxy, which has none left after it has switched its user."""
    lb = start(image, options=STRICT, text=configuration("one", IDENTITY)).begins("one")
    fields = {
        pid: dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        for pid in (lb.pid, lb.children()[0])
    }
    for status in fields.values():
        assert status["CapBnd"] == f"{KEPT:016x}"
        assert status["NoNewPrivs"] == "1"
    assert fields[lb.pid]["CapEff"] == fields[lb.pid]["CapPrm"] == f"{KEPT:016x}"
    assert int(fields[lb.children()[0]]["CapEff"], 16) == 0


def test_with_drop_caps_a_unix_socket_has_a_mode_but_no_other_owner(start: Start, image: str) -> None:
    """CHOWN would give back every file of the container; haproxy says what is wrong, and a reload changes nothing."""
    lb = start(image, options=STRICT, text=configuration("one", f"{IDENTITY}{SOCKET} mode 666\n")).begins("one")
    assert lb.run("stat", "-c", "%a", "/run/admin.sock")[1] == "666\n"
    lb.edit(configuration("two", f"{IDENTITY}  stats socket /run/other.sock user haproxy\n"))
    code, words = lb.run("safe_reload", "reload")
    assert code == 1
    assert "cannot change UNIX socket ownership" in words
    assert lb.get() == "one"
