"""Files that the current generation takes while it runs, seen from outside; also when somebody dies in the middle."""

import os
import signal
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from tests.system.instance import Begin, Instance
from tests.waiting import eventually

SOON = """
import os, signal
from entrypoint.core import applying, candidate, state
from entrypoint.system.haproxy_cli import CliChannel
state.LOOK_WITHIN = candidate.LOOK_WITHIN = 0.5
state.APPLY_WITHIN = applying.APPLY_WITHIN = 1.0
from entrypoint.pid1 import reader
reader.READ_WITHIN = 2.0
right = CliChannel.call
def call(self, command, payload=b"", *, until):
    answer = right(self, command, payload, until=until)
    if command.startswith("commit map") and os.path.exists("HANG"):
        harm(self)
    return answer
CliChannel.call = call
def harm(channel):
    os.unlink("HANG")
"""
"""Nobody waits ten seconds in a test. While the file is there, harm is done after a map is committed."""
HARMS = {
    "the reader dies": "    os.kill(os.getpid(), signal.SIGKILL)\n",
    "the reader hangs": "    os.kill(os.getpid(), signal.SIGSTOP)\n",
    "haproxy dies": "    os.kill(PID, signal.SIGKILL)\n".replace(
        "PID", 'int(right(channel, "show info", until=1e12).decode().split("Pid: ")[1].split()[0])'
    ),
    "both die": "    os.kill(os.getppid(), 0)\n    os.kill(PID, signal.SIGKILL)\n    os.kill(os.getpid(), 9)\n".replace(
        "PID", 'int(right(channel, "show info", until=1e12).decode().split("Pid: ")[1].split()[0])'
    ),
}


def put(lb: Instance, text: str) -> None:
    """Replace the map in one step."""
    path = mapped(lb.folder)
    new = lb.folder / "new map"
    new.write_text(text)
    new.rename(path)


def mapped(folder: Path) -> Path:
    """Return the path of the map."""
    return folder / "etc" / "hosts.map"


@pytest.fixture
def start(begin: Begin, tmp_path: Path) -> Begin:
    """Start one that has a map."""

    def start(*options: str, code: str = "") -> Instance:
        mapped(tmp_path).parent.mkdir(exist_ok=True)
        mapped(tmp_path).write_text("127.0.0.1 old\n")
        lb = begin("--debounce", "0.05", "--poll", "0.3", *options, code=SOON + code).serves(1)
        lb.append(f"  http-response set-header x %[src,map({mapped(tmp_path)},none)]")
        return lb.serves(2)

    return start


def entry(lb: Instance) -> str:
    """Return what the current generation has in its map."""
    return lb.ask(f"@1 show map {mapped(lb.folder)}\n".encode()).strip().partition(" ")[2]


def is_at_rest(lb: Instance) -> bool:
    """Tell whether the disk holds what runs."""
    status = lb.status()
    current = [one["sha256"] for one in status["generations"] if one["state"] == "current"]
    return bool(current[0] and current == [status["configuration"]["disk_sha256"]])


def test_a_changed_map_is_taken_by_the_generation_that_serves(start: Begin) -> None:
    """The log and the status say so; nothing leaks, however often it is."""
    lb = start()
    put(lb, "127.0.0.1 new\n")
    eventually(lambda: entry(lb) == "127.0.0.1 new")
    eventually(lambda: "applied" in lb.log)
    assert f"applied {mapped(lb.folder)} without a reload (" in lb.log
    eventually(lambda: is_at_rest(lb))
    last = lb.status()["last_reload"]
    assert (last["kind"], last["result"], last["trigger"]) == ("applied", "success", "files")
    ours, readers = len(descriptors(lb.pid)), len(descriptors(lb.reader))
    for number in range(5):
        put(lb, f"127.0.0.1 {number}\n")
        eventually(lambda number=number: entry(lb) == f"127.0.0.1 {number}")  # type: ignore[misc]
    eventually(lambda: is_at_rest(lb))
    eventually(lambda: (len(descriptors(lb.pid)), len(descriptors(lb.reader))) == (ours, readers))
    assert lb.get() == "2"


def test_with_apply_off_it_is_a_reload(start: Begin) -> None:
    """As it was before."""
    lb = start("--apply", "off")
    put(lb, "127.0.0.1 new\n")
    lb.serves(3)
    assert entry(lb) == "127.0.0.1 new"


@pytest.mark.parametrize("harm", HARMS)
def test_whoever_dies_in_the_middle_the_files_are_in_use_in_the_end(start: Begin, harm: str) -> None:
    """By a reload, or by the successor; then what runs is known again, and the next change is applied."""
    lb = start(code=HARMS[harm])
    lb.hang.touch()
    put(lb, "127.0.0.1 new\n")
    lb.serves(3)
    eventually(lambda: entry(lb) == "127.0.0.1 new")
    eventually(lambda: is_at_rest(lb))
    number = lb.get()
    put(lb, "127.0.0.1 newer\n")
    eventually(lambda: entry(lb) == "127.0.0.1 newer")
    assert lb.get() == number


def test_after_a_reader_that_died_the_old_content_is_not_what_runs(start: Begin) -> None:
    """haproxy has the new one, and no reload has worked since: so the old one is a reload."""
    breaks = '    open("HANG".replace("hang", "etc/haproxy.cfg"), "a").write("nonsense\\n")\n'
    lb = start(code=breaks + HARMS["the reader dies"])
    text = lb.configuration.read_text()
    lb.hang.touch()
    put(lb, "127.0.0.1 new\n")
    eventually(lambda: "has failed" in lb.log)
    assert entry(lb) == "127.0.0.1 new"
    assert lb.get() == "2"
    put(lb, "127.0.0.1 old\n")
    lb.edit(text)
    eventually(lambda: entry(lb) == "127.0.0.1 old")
    lb.serves(4)
    assert "the failure is over" not in lb.log


def test_a_stop_waits_for_no_application(start: Begin) -> None:
    """Nor for the process that does it."""
    lb = start(code=HARMS["the reader hangs"] + "state.APPLY_WITHIN = applying.APPLY_WITHIN = 300.0\n")
    reader = lb.reader
    lb.hang.touch()
    put(lb, "127.0.0.1 new\n")
    eventually(lambda: not lb.hang.exists())
    lb.signal(signal.SIGTERM)
    assert lb.process.wait(timeout=60) == 0
    eventually(lambda: not os.path.exists(f"/proc/{reader}"))


def test_a_file_that_is_read_in_another_way_as_well_is_a_reload(start: Begin, tmp_path: Path) -> None:
    """The map could be taken, but not the answer that haproxy has read from the same file."""
    lb = start()
    path = mapped(tmp_path)
    lb.append(
        f"  http-response set-header x %[src,map({path},none)]\n"
        f"  http-request return status 200 content-type text/plain file {path} if {{ path /file }}"
    )
    lb.serves(3)
    put(lb, "127.0.0.1 new\n")
    lb.serves(4)
    assert "without a reload" not in lb.log


def test_after_half_of_a_change_the_other_half_needs_no_reload(start: Begin, tmp_path: Path) -> None:
    """It is known that one file was taken and the other was not."""
    lb = start()
    path, ips = mapped(tmp_path), tmp_path / "etc" / "ips.lst"
    ips.write_text("10.0.0.1\n")
    rules = f"  http-response set-header x %[src,map({path},none)]\n  acl in src -f {ips}\n  http-request deny if in"
    lb.append(rules)
    lb.serves(3)
    ips.write_text("nowhere\n")
    put(lb, "127.0.0.1 new\n")
    eventually(lambda: lb.status()["last_reload"]["result"] == "failure")
    assert entry(lb) == "127.0.0.1 new"
    assert f"applied {path} without a reload" in lb.log

    ips.write_text("10.0.0.2\n")
    eventually(lambda: f"applied {ips} without a reload" in lb.log)
    assert [one["number"] for one in lb.status()["generations"] if one["state"] == "current"] == [3]
