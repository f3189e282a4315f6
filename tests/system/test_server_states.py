"""What a real haproxy has learnt about its servers, through deaths, reloads and starts that go wrong."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from entrypoint.haproxy.server_state import TABLE, from_text, to_text
from entrypoint.system.state_file import StateFile, contents_of, in_memory
from tests.connections import free_port
from tests.system.instance import CONFIGURATION, Begin, Instance
from tests.waiting import eventually

SERVERS = """\
backend b
  balance roundrobin
  default-server inter 600s rise 9 fall 9
  server good 127.0.0.1:PORT check
  server bad 127.0.0.1:PORT check
"""
DOWN, UP = "0", "2"


@pytest.fixture
def text() -> str:
    """A configuration with two servers that are checked once, successfully: haproxy itself is each of them."""
    port = str(free_port())
    backend = f"frontend servers\n  bind 127.0.0.1:{port}\n  http-request return status 200\n{SERVERS}"
    return CONFIGURATION + backend.replace("PORT", port)


def columns(lb: Instance, server: str = "bad") -> dict[str, str]:
    """Return what haproxy says of a server."""
    lines = [line.split() for line in lb.ask(f"@1 {TABLE} b\n".encode()).splitlines()]
    names = next(line[1:] for line in lines if line[:1] == ["#"])
    return next(found for line in lines if (found := dict(zip(names, line, strict=False))).get("srv_name") == server)


def state(lb: Instance) -> str:
    """Return the operational state of the bad server."""
    return columns(lb)["srv_op_state"]


def tell(lb: Instance, command: str) -> None:
    """Give haproxy a command."""
    assert lb.ask(f"@1 {command}\n".encode()).strip() == ""


def set_down(lb: Instance) -> None:
    """Set the bad server down."""
    tell(lb, "set server b/bad health down")
    assert state(lb) == DOWN


def saved(folder: Path) -> str:
    """Return what is in the state directory, without the time; empty if there is nothing."""
    descriptor = StateFile(str(folder), "haproxy", "server-state").read() if folder.exists() else None
    if descriptor is None:
        return ""
    try:
        return next(contents_of(descriptor)).decode().partition("\n")[2]
    finally:
        os.close(descriptor)


def die(lb: Instance, number: int) -> None:
    """Kill haproxy, and wait for the generation that follows."""
    os.kill(lb.haproxy(), signal.SIGKILL)
    lb.serves(number)


def end(lb: Instance) -> None:
    """Stop it, and wait for its end."""
    lb.signal(signal.SIGTERM)
    assert lb.process.wait(timeout=60) == 0


# ---- a crash -------------------------------------------------------------------------------------------------------


def test_what_haproxy_has_said_last_survives_its_death(begin: Begin, text: str, tmp_path: Path) -> None:
    """Its stderr says that a server is down, and it is asked at once; nobody else has asked."""
    lb = begin("--state-dir", str(tmp_path / "kept"), text=f"{text}global\n  stats socket {tmp_path}/cli level admin\n")
    lb.serves()
    assert from_text(saved(tmp_path / "kept")) == {}
    _ask(tmp_path / "cli", "set server b/bad health down")
    eventually(lambda: "b/bad" in saved(tmp_path / "kept"))
    die(lb, 2)
    assert state(lb) == DOWN
    assert "generation 2 (pid" in lb.log.partition(" kept the state of 1 server: b/bad DOWN\n")[0]


def _ask(path: Path, command: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(f"{command}\n".encode())
        while client.recv(4096):
            pass


def test_a_weight_that_was_set_through_the_control_socket_survives_a_death(
    begin: Begin, text: str, tmp_path: Path
) -> None:
    """On the control socket; haproxy tells nobody of it."""
    lb = begin("--state-dir", str(tmp_path / "kept"), text=text).serves()
    tell(lb, "set server b/bad weight 7")
    eventually(lambda: "weight=7" in saved(tmp_path / "kept"))
    die(lb, 2)
    assert columns(lb)["srv_uweight"] == "7"


def test_whoever_asks_for_the_status_has_it_asked(begin: Begin, text: str, tmp_path: Path) -> None:
    """A weight that was set on a socket of the user's survives a death after that."""
    lb = begin("--state-dir", str(tmp_path / "kept"), text=f"{text}global\n  stats socket {tmp_path}/cli level admin\n")
    lb.serves()
    _ask(tmp_path / "cli", "set server b/bad weight 7")
    lb.status()
    eventually(lambda: "weight=7" in saved(tmp_path / "kept"))
    die(lb, 2)
    assert columns(lb)["srv_uweight"] == "7"


def test_a_haproxy_that_hangs_is_not_waited_for(begin: Begin, text: str, tmp_path: Path) -> None:
    """What it has said before is told to the next one."""
    lb = begin("--state-dir", str(tmp_path / "kept"), text=text).serves()
    set_down(lb)
    eventually(lambda: "b/bad" in saved(tmp_path / "kept"))
    os.kill(lb.haproxy(), signal.SIGSTOP)
    assert lb.client("reload").returncode == 0
    assert state(lb) == DOWN
    lb.serves(2)


def test_an_upgrade_asks_again(begin: Begin, text: str, tmp_path: Path) -> None:
    """What the program before it had not noticed survives a death after it."""
    lb = begin("--state-dir", str(tmp_path / "kept"), text=f"{text}global\n  stats socket {tmp_path}/cli level admin\n")
    lb.serves()
    _ask(tmp_path / "cli", "set server b/bad weight 7")
    assert lb.client("upgrade").returncode == 0
    eventually(lambda: "weight=7" in saved(tmp_path / "kept"))
    die(lb, 2)
    assert columns(lb)["srv_uweight"] == "7"


def test_what_was_kept_survives_an_upgrade(begin: Begin, text: str) -> None:
    """Whoever asks for the status sees it, as before."""
    lb = begin(text=text).serves()
    set_down(lb)
    assert lb.client("reload").returncode == 0
    before = lb.status()["server_state"]
    assert lb.client("upgrade").returncode == 0
    assert lb.status()["server_state"] == before == {"mode": "keep", "kept": 1, "servers": ["b/bad DOWN"]}
    die(lb, 3)
    assert state(lb) == DOWN


# ---- told ----------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_told(begin: Begin, text: str) -> None:
    """The log, `status`, `status --json` and the metric."""
    lb = begin(text=text).serves()
    assert lb.status()["server_state"] == {"mode": "keep", "kept": 0, "servers": []}
    assert "server state" not in lb.client("status").stdout
    set_down(lb)
    tell(lb, "set server b/good weight 7")
    assert lb.client("reload").returncode == 0

    (line,) = [line for line in lb.log.splitlines() if "kept the state" in line]
    assert line.endswith(f"generation 2 (pid {lb.haproxy()}) kept the state of 2 servers: b/good weight 7, b/bad DOWN")
    assert lb.status()["server_state"] == {"mode": "keep", "kept": 2, "servers": ["b/good weight 7", "b/bad DOWN"]}
    assert "server state   kept of 2 servers: b/good weight 7, b/bad DOWN" in lb.client("status").stdout
    assert "safe_reload_server_states_kept 2" in lb.client("metrics").stdout.replace(".0\n", "\n")


def test_a_log_line_names_ten_servers_of_many(begin: Begin, text: str) -> None:
    """And says how many more there are."""
    lb = begin(text=f"{text}  server-template t 12 127.0.0.1:9 check disabled\n").serves()
    tell(lb, ";@1 ".join(f"set server b/t{number} state drain" for number in range(1, 13)))
    assert lb.client("reload").returncode == 0
    eventually(lambda: "kept the state of 12 servers: b/t1 DRAIN, " in lb.log)
    assert "b/t10 DRAIN and 2 more\n" in lb.log
    assert "b/t11 DRAIN" not in lb.log
    assert len(lb.status()["server_state"]["servers"]) == 10
    assert "b/t10 DRAIN and 2 more" in lb.client("status").stdout


# ---- forgotten -----------------------------------------------------------------------------------------------------


def test_states_are_forgotten_by_whoever_says_so(begin: Begin, text: str, tmp_path: Path) -> None:
    """At a reload, at a death, and in the state directory."""
    lb = begin("--server-state", "forget", "--state-dir", str(tmp_path / "kept"), text=text).serves()
    set_down(lb)
    assert lb.client("reload").returncode == 0
    assert state(lb) == UP
    set_down(lb)
    assert "server state   forgotten at each start (--server-state)" in lb.client("status").stdout
    assert json.loads(lb.client("status", "--json").stdout)["server_state"]["mode"] == "forget"
    die(lb, 3)
    assert state(lb) == UP
    assert "kept the state" not in lb.log
    end(lb)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["haproxy.last-known-good"]


def test_a_reload_forgets_once(begin: Begin, text: str) -> None:
    """After it nothing is known, and what is set then is kept again."""
    lb = begin(text=text).serves()
    set_down(lb)
    assert lb.client("reload", "--forget").returncode == 0
    assert state(lb) == UP
    assert "kept the state" not in lb.log
    assert lb.client("reload").returncode == 0
    assert state(lb) == UP
    set_down(lb)
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert state(lb) == DOWN
    assert lb.ask(b"reload forget\n").startswith("Success=1")
    assert state(lb) == UP
    assert "Unknown command" in lb.ask(b"reload everything\n")


# ---- a start that goes wrong ---------------------------------------------------------------------------------------

PICKY = """\
#!/bin/sh
for word; do
  case $word in /dev/fd/*) grep -q lua-load "$word" && echo "error in Lua file" >&2 && exit 1 ;; esac
done
exec haproxy "$@"
"""


def test_after_a_script_has_failed_there_is_none(begin: Begin, text: str, tmp_path: Path) -> None:
    """A haproxy that cannot load ours starts at the second attempt, and is told by its CLI."""
    picky = tmp_path / "picky" / "haproxy"
    picky.parent.mkdir()
    picky.write_text(PICKY)
    picky.chmod(0o755)
    lb = begin(text=text, haproxy=(str(picky),)).serves()
    set_down(lb)
    assert lb.client("reload").returncode == 1
    assert lb.client("reload").returncode == 0
    assert state(lb) == DOWN
    assert "kept the state of 1 server: b/bad DOWN" in lb.log
    # The next one is given a script again.
    assert lb.client("reload").returncode == 1
    die(lb, 5)
    assert state(lb) == DOWN


def wrapper(tmp_path: Path, script: str) -> tuple[str, ...]:
    """Return a haproxy that is a script."""
    path = tmp_path / "wrapper" / "haproxy"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return (str(path),)


def test_a_wrapper_may_start_haproxy_as_another_user(begin: Begin, text: str, tmp_path: Path) -> None:
    """Who opens our files by their names in /dev/fd then."""
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    haproxy = wrapper(tmp_path, 'exec setpriv --reuid 65534 --regid 65534 --clear-groups haproxy "$@"')
    lb = begin(text=text, haproxy=haproxy).serves()
    set_down(lb)
    for _ in range(2):
        assert lb.client("reload").returncode == 0, lb.log
    assert state(lb) == DOWN
    assert "Permission denied" not in lb.log


def test_another_check_has_found_nobody_down(begin: Begin, text: str) -> None:
    """The server begins anew where the configuration asks something else now."""
    lb = begin(text=text).serves()
    set_down(lb)
    good = lb.configuration.read_text()
    lb.configuration.write_text(good.replace("backend b\n", "backend b\n  option httpchk GET /ready\n"))
    assert lb.client("reload").returncode == 0
    assert state(lb) == UP


def test_what_a_new_haproxy_says_before_it_serves_is_asked_for(begin: Begin, text: str, tmp_path: Path) -> None:
    """Its first checks may have failed before it was current."""
    says = 'echo "Server b/bad is DOWN" >&2\nexec haproxy "$@"'
    begin("--state-dir", str(tmp_path / "kept"), text=text, haproxy=wrapper(tmp_path, says)).serves()
    eventually((tmp_path / "kept" / "haproxy.server-state").exists)


def test_what_is_set_while_the_next_one_starts_is_kept(begin: Begin, text: str, tmp_path: Path) -> None:
    """The next one hangs until that has been set; it may be long in reading its configuration."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    admin = tmp_path / "admin"
    slow = f'[ "$SAFE_RELOAD_GENERATION" = 1 ] || cat {gate} > {tmp_path}/begun\nexec haproxy "$@"'
    lb = begin(text=f"global\n  stats socket {admin} level admin\n{text}", haproxy=wrapper(tmp_path, slow)).serves()
    lb.signal(signal.SIGUSR1)
    with gate.open("w"):  # waits for the next one
        _ask(admin, "set server b/bad state maint")
        eventually(lambda: "Server b/bad is going DOWN for maintenance" in lb.log)
    eventually(lambda: lb.log.count("is current") == 2)
    assert columns(lb)["srv_admin_state"] == "1", lb.log


def test_a_configuration_that_fails_is_not_the_script_s_fault(begin: Begin, text: str) -> None:
    """The next haproxy learns the states by its script all the same."""
    lb = begin(text=text).serves()
    set_down(lb)
    good = lb.configuration.read_text()
    lb.configuration.write_text(good + "nonsense\n")
    assert lb.client("reload").returncode == 1
    lb.configuration.write_text(good)
    assert lb.client("reload").returncode == 0
    assert "Server b/bad is DOWN, changed from Lua script" in lb.log
    assert state(lb) == DOWN


@pytest.mark.parametrize("word", ["-dW", "zero-warning"])
def test_a_haproxy_that_may_not_warn_is_told_by_its_cli(begin: Begin, text: str, word: str) -> None:
    """HAProxy 3.1 and later may warn of a script, which would end the start."""
    in_text = word == "zero-warning"
    more = f"global\n  {word}\n" if in_text else ""
    lb = begin(text=more + text, haproxy=("haproxy",) if in_text else ("haproxy", word)).serves()
    set_down(lb)
    for number in (2, 3):
        assert lb.client("reload").returncode == 0, lb.log
        assert state(lb) == DOWN
        assert f"generation {number} (pid" in lb.log
    assert "changed from Lua script" not in lb.log
    # It accepts as fast as anybody wants.
    assert "\nConnRateLimit: 0\n" in lb.ask(b"@1 show info\n")


# ---- the state directory -------------------------------------------------------------------------------------------


@pytest.fixture
def kept(begin: Begin, text: str, tmp_path: Path) -> Path:
    """The state directory of an instance that has ended; a server was down in it."""
    folder = tmp_path / "kept"
    lb = begin("--state-dir", str(folder), text=text).serves()
    set_down(lb)
    end(lb)
    assert "b/bad" in saved(folder)
    return folder


def write(folder: Path, text: str) -> None:
    """Replace what is in the state directory."""
    content = in_memory("", (("server-state", text.encode()),))
    try:
        StateFile(str(folder), "haproxy", "server-state").write(content)
    finally:
        os.close(content)


def test_what_is_being_written_at_the_end_is_written(begin: Begin, text: str, tmp_path: Path) -> None:
    """The disk is slow, and haproxy ends at once."""
    slow = """
import time
from entrypoint.system.state_file import StateFile
right = StateFile.write
def wrong(self, descriptor):
    time.sleep(0.1)
    right(self, descriptor)
StateFile.write = wrong
"""
    lb = begin("--state-dir", str(tmp_path / "kept"), text=text, code=slow).serves()
    set_down(lb)
    end(lb)
    assert "b/bad" in saved(tmp_path / "kept")


def test_a_container_that_follows_at_once_goes_on(begin: Begin, text: str, kept: Path) -> None:
    """Its first haproxy begins where the last one was; later ones as always."""
    lb = begin("--state-dir", str(kept), text=text).serves()
    assert state(lb) == DOWN
    assert "generation 1 (pid" in lb.log.partition(" kept the state of 1 server: b/bad DOWN\n")[0]
    tell(lb, "set server b/bad health up")
    eventually(lambda: from_text(saved(kept)) == {})
    die(lb, 2)
    assert state(lb) == UP


@pytest.mark.parametrize(("age", "expected"), [(500, DOWN), (700, UP), (-100, UP)])
def test_what_is_old_or_from_the_future_is_not_used(
    begin: Begin, text: str, kept: Path, age: int, expected: str
) -> None:
    """Within ten minutes, by the clock of the host."""
    write(kept, f"{time.time() - age:.0f}\n{saved(kept)}")
    lb = begin("--state-dir", str(kept), text=text).serves()
    assert state(lb) == expected
    assert "from --state-dir" not in lb.log


@pytest.mark.parametrize(
    ("text_on_disk", "why"),
    [
        ("", "invalid literal"),
        ("yesterday\n", "invalid literal"),
        ("NOW\nb/bad;shutdown - 1 state=maint x\n", "not the state of a server"),
        ("NOW\nb/bad", "not enough values"),
    ],
)
def test_what_is_damaged_is_not_used(begin: Begin, text: str, tmp_path: Path, text_on_disk: str, why: str) -> None:
    """The log says so, and haproxy starts."""
    (tmp_path / "kept").mkdir(mode=0o700)
    write(tmp_path / "kept", text_on_disk.replace("NOW", str(int(time.time()))))
    lb = begin("--state-dir", str(tmp_path / "kept"), text=text).serves()
    assert state(lb) == UP
    (line,) = [line for line in lb.log.splitlines() if "from --state-dir" in line]
    assert "there are no states of servers from --state-dir: " in line
    assert why in line


def test_a_file_that_nobody_can_read_is_logged(begin: Begin, text: str, kept: Path) -> None:
    """One that this program has not written."""
    (kept / "haproxy.server-state").write_text("garbage")
    lb = begin("--state-dir", str(kept), text=text).serves()
    assert state(lb) == UP
    assert f"there are no states of servers from --state-dir: {kept}/haproxy.server-state is " in lb.log


def test_states_that_cannot_be_written_are_logged(begin: Begin, text: str, tmp_path: Path) -> None:
    """They are kept in memory."""
    folder = tmp_path / "kept"
    folder.write_text("")
    lb = begin("--state-dir", str(folder), text=text).serves()
    set_down(lb)
    eventually(lambda: "the states of servers are kept in memory only: --state-dir cannot be written" in lb.log)
    die(lb, 2)
    assert state(lb) == DOWN


def test_what_is_set_at_the_end_is_saved(begin: Begin, text: str, tmp_path: Path) -> None:
    """Even if it is not time to ask again."""
    rarely = "from entrypoint.pid1 import server_states\nserver_states._ASK_AGAIN_AFTER = 3600.0\n"
    lb = begin("--state-dir", str(tmp_path / "kept"), text=text, code=rarely).serves()
    lb.status()
    eventually(lambda: "server-state" in str(list((tmp_path / "kept").glob("*"))))
    tell(lb, "set server b/bad weight 7")
    end(lb)
    assert "b/bad" in saved(tmp_path / "kept")


def test_a_problem_with_the_states_is_logged_once(begin: Begin, text: str, tmp_path: Path) -> None:
    """Not at each change: a server that flaps would fill the log."""
    folder = tmp_path / "kept"
    folder.write_text("")
    often = "from entrypoint.pid1 import server_states\nserver_states._ASK_AGAIN_AFTER = 0.0\n"
    lb = begin("--state-dir", str(folder), text=text, code=often).serves()
    for weight in range(2, 5):
        tell(lb, f"set server b/bad weight {weight}")
        lb.status()
    assert lb.client("reload").returncode == 0
    assert lb.log.count("the states of servers are kept in memory only") == 1


def test_the_text_is_what_the_core_reads(kept: Path) -> None:
    """One server, and nothing else."""
    states = from_text(saved(kept))
    assert [str(one) for one in states.values()] == ["b/bad DOWN"]
    assert to_text(states.values()) == saved(kept)
