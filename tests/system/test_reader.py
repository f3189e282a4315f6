"""The reader is killed, stopped, starved or hangs, in each phase: PID 1 still answers, repairs and ends."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.children import READER, readers_of
from tests.descriptors import descriptors
from tests.system.instance import Begin, Instance, state_of
from tests.waiting import eventually

SOON = """
from entrypoint.core import candidate, state
state.LOOK_WITHIN = candidate.LOOK_WITHIN = 0.5
"""
"""Nobody waits five seconds in a test."""
STOPS = """
import os, signal
from entrypoint.system.config_snapshot import ConfigFiles
right = ConfigFiles.read
def stop(self, *arguments):
    if os.path.exists("HANG"):
        os.kill(os.getpid(), signal.SIGSTOP)
    return right(self, *arguments)
ConfigFiles.read = stop
"""
"""To the process that waits for it, a stopped reader looks like one with a hanging disk."""
DIES = STOPS.replace("SIGSTOP", "SIGKILL")


@pytest.fixture
def begin(begin: Begin, tmp_path: Path) -> Begin:
    """Start one that notices changes soon; `hangs`: the file is there already."""

    def start(*options: str, code: str = "", hangs: bool = False) -> Instance:
        if hangs:
            (tmp_path / "hang").touch()
        return begin("--debounce", "0.05", "--poll", "0.3", *options, code=SOON + code)

    return start


HARMS = {"hangs": STOPS, "dies": DIES}


@pytest.fixture(params=HARMS)
def harm(request: pytest.FixtureRequest) -> str:
    """What happens to a reader whenever it looks at the disk, as long as a file is there."""
    return HARMS[request.param]


def test_a_first_start_waits_for_no_reader(begin: Begin, harm: str) -> None:
    """haproxy is started from the files, and that nothing is known of them is said; a reload finds it out later."""
    lb = begin(code=harm, hangs=True).serves(1)
    assert lb.status()["generations"][0]["sha256"] is None
    lb.hang.unlink()
    os.kill(lb.reader, signal.SIGKILL)
    eventually(lambda: lb.status()["configuration"]["disk_sha256"])
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert lb.status()["generations"][-1]["sha256"]


@pytest.mark.parametrize("how", ["USR1", "reload", "files"])
def test_a_reload_waits_for_no_reader(begin: Begin, harm: str, how: str) -> None:
    """One that somebody has asked for is done; one that the files ask for waits until they can be read."""
    lb = begin(code=harm).serves(1)
    lb.hang.touch()
    if how == "files":
        lb.append("# new")
        eventually(lambda: lb.status()["configuration"]["unreadable"] or harm == STOPS)
        assert lb.status()["stage"] == "serving"
        lb.hang.unlink()
        with contextlib.suppress(ProcessLookupError):
            os.kill(lb.reader, signal.SIGKILL)
    elif how == "reload":
        assert lb.ask(b"reload\n").startswith("Success=1")
    else:
        lb.signal(signal.SIGUSR1)
    lb.serves(2)
    assert lb.status()["stage"] == "serving"


def test_a_crash_is_repaired_without_a_reader(begin: Begin, harm: str) -> None:
    """From the last known good configuration, which is at hand, or from the files."""
    lb = begin(code=harm).serves(1)
    lb.hang.touch()
    (haproxy,) = lb.haproxies
    os.kill(haproxy, signal.SIGKILL)
    lb.serves(2)
    assert lb.status()["stage"] == "serving"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
@pytest.mark.parametrize("phase", ["start", "reload", "rest"])
def test_a_stop_waits_for_no_reader(begin: Begin, signum: int, phase: str) -> None:
    """Nobody is waited for who has no process yet; and PID 1 leaves no reader behind."""
    lb = begin(code=STOPS + "state.LOOK_WITHIN = candidate.LOOK_WITHIN = 300.0", hangs=phase == "start")
    if phase != "start":
        lb.serves(1)
        lb.hang.touch()
    reader = lb.reader
    if phase == "reload":
        lb.signal(signal.SIGUSR1)
    if phase != "rest":
        eventually(lambda: state_of(reader) == "T")
    lb.signal(signum)

    assert lb.process.wait(timeout=60) == 0
    eventually(lambda: not Path(f"/proc/{reader}").exists())


def test_a_reader_that_takes_too_long_is_killed_and_another_one_tries_again(begin: Begin) -> None:
    """It is said once, however often it is so; when it is over, the change is noticed."""
    soon = "import entrypoint.pid1.reader\nentrypoint.pid1.reader.READ_WITHIN = 0.3\n"
    lb = begin(code=soon + STOPS).serves(1)
    first = lb.reader
    lb.hang.touch()
    lb.append("# new")
    eventually(lambda: "takes longer than 0.3 s" in lb.log)
    # The next ones: it is asked again by the poll.
    eventually(lambda: lb.reader != first)
    second = lb.reader
    eventually(lambda: second not in readers_of(lb.pid))
    assert lb.log.count("takes longer than 0.3 s") == 1
    assert lb.status()["configuration"]["unreadable"]

    lb.hang.unlink()
    lb.serves(2)
    assert lb.status()["configuration"]["unreadable"] is None
    eventually(lambda: len(readers_of(lb.pid)) == 1)


def test_a_reader_that_dies_while_nobody_asks_is_replaced(begin: Begin) -> None:
    """And watches what the one before did."""
    lb = begin("--poll", "3600").serves(1)
    for number in (2, 3):
        reader = lb.reader
        os.kill(reader, signal.SIGKILL)
        eventually(lambda: [one for one in readers_of(lb.pid) if one != reader])  # noqa: B023  # called at once
        lb.append(f"# another {number}")
        lb.serves(number)


def test_a_reader_that_dies_of_what_it_was_asked_is_asked_once_more(begin: Begin) -> None:
    """Whatever killed it, the content that the candidate was given is known."""
    lb = begin(code=DIES.replace("os.kill", "os.unlink('HANG')\n        os.kill")).serves(1)
    lb.hang.touch()
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert not lb.hang.exists()
    assert lb.status()["generations"][-1]["sha256"]


GARBAGE = {
    "no answer": b"",
    "no kind": b"x\0y",
    "half": b"found\0",
    "a wrong number": b"found\0" + b"\0".join([b"ab" * 32, b"", b"", b"", b"", b"1", b"9", b"0", b"0"]),
    "no number": b"found\0" + b"\0".join([b"ab" * 32, b"", b"", b"", b"", b"x", b"0", b"0", b"0"]),
    "no digest": b"found\0" + b"\0".join([b"\xff" * 64, b"", b"", b"", b"", b"0", b"0", b"0", b"0"]),
    "another answer": b"kept\0",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_a_reader_that_answers_garbage_is_killed(begin: Begin, answer: bytes) -> None:
    """That look has failed, and nothing of it is believed."""
    fault = f"""
import entrypoint.pid1.reading as reading
right = reading._Reader._look
def wrong(self, *known, **how):
    if os.path.exists("HANG"):
        self._line._end.send({answer!r} or b"found")
        return
    right(self, *known, **how)
reading._Reader._look = wrong
"""
    lb = begin(code="import os" + fault).serves(1)
    first = lb.reader
    lb.hang.touch()
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert lb.status()["generations"][-1]["sha256"] is None
    assert first not in readers_of(lb.pid)
    lb.hang.unlink()
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert lb.status()["generations"][-1]["sha256"]


def test_a_reader_without_memory_says_so(begin: Begin) -> None:
    """Thirty lines that each double a variable: haproxy may take them or not, and whoever reads for us is limited."""
    lb = begin("--poll", "3600").serves(1)
    doubling = "".join(f'  setenv A{n + 1} "${{A{n}}}${{A{n}}}"\n' for n in range(40))
    lb.append(f'global\n  setenv A0 0123456789\n{doubling}  lua-load "${{A40}}"')
    eventually(lambda: "MiB of memory" in lb.log)
    assert lb.status()["configuration"]["unreadable"]
    lb.append("# good")
    lb.serves(2)


def _kinds_of(pid: int) -> list[str]:
    return [what.partition(":[")[0] for what in descriptors(pid).values()]


def test_a_reader_has_nothing_of_ours(begin: Begin) -> None:
    """No VIP, no socket of the control's, no signal of a terminal, and it is the first to go without memory."""
    lb = begin().serves(1)
    pid = lb.reader
    # For a moment it has a line to haproxy, which it asks for the files that it has read.
    kinds = ["/dev/null", "anon_inode:inotify", "socket"]
    eventually(lambda: sorted({*kinds, *_kinds_of(pid)}) == kinds and _kinds_of(pid).count("socket") == 1)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == READER.encode()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.kill(pid, signum)
    lb.append("# new")
    lb.serves(2)
    assert lb.reader == pid


def test_no_reader_outlives_safe_reload(begin: Begin) -> None:
    """If safe_reload is killed on a host, where it is not PID 1, its reader exits as well."""
    lb = begin().serves(1)
    reader, haproxies = lb.reader, lb.haproxies
    lb.process.kill()
    lb.process.wait()
    eventually(lambda: not Path(f"/proc/{reader}").exists())
    for pid in haproxies:
        os.kill(pid, signal.SIGKILL)


NO_PROCESS = """
import os
from entrypoint.system.processes import Processes
right = Processes.fork
def fork(self, number, run):
    if os.path.exists("HANG"):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return right(self, number, run)
Processes.fork = fork
"""


def test_a_missing_reader_kills_no_other_process(begin: Begin) -> None:
    """When no reader can be started, no other process is killed for it, not even the exporter."""
    lb = begin("--exporter", "127.0.0.1:0", code=NO_PROCESS).serves(1)
    eventually(lambda: "exporter: listening" in lb.log)
    lb.hang.touch()
    os.kill(lb.reader, signal.SIGKILL)
    eventually(lambda: "no process to read it with" in lb.log)
    lb.hang.unlink()
    assert lb.ask(b"reload\n").startswith("Success=1")
    assert "the exporter was killed" not in lb.log


def test_a_reader_that_dies_with_a_question_unread_is_asked_once_more(begin: Begin) -> None:
    """The line to it ends with ECONNRESET then, which is no nonsense of its."""
    lb = begin("--poll", "3600").serves(1)
    reader = lb.reader
    os.kill(reader, signal.SIGSTOP)
    eventually(lambda: state_of(reader) == "T")
    lb.append("# while it was stopped")
    lb.signal(signal.SIGUSR1)
    # The question is in its socket: it is killed while it has not read it.
    eventually(lambda: any(one["state"] == "candidate" for one in lb.status()["generations"]))
    os.kill(reader, signal.SIGKILL)
    lb.serves(2)
    assert lb.status()["generations"][-1]["sha256"]
    assert "cannot be understood" not in lb.log


LEARNS = """
import os, signal
import entrypoint.pid1.reading as reading
right = reading._Reader._learn
def stop(self, *arguments):
    os.kill(os.getpid(), signal.SIGSTOP)
    return right(self, *arguments)
reading._Reader._learn = stop
"""


def test_a_reader_that_dies_of_one_request_leaves_the_others_to_the_next(begin: Begin) -> None:
    """It dies while it asks haproxy for its files, which is not done twice; a reload waits meanwhile."""
    lb = begin("--poll", "3600", code=LEARNS).serves(1)
    eventually(lambda: state_of(lb.reader) == "T")
    lb.append("# while it was stopped")
    lb.signal(signal.SIGUSR1)
    eventually(lambda: any(one["state"] == "candidate" for one in lb.status()["generations"]))
    os.kill(lb.reader, signal.SIGKILL)
    lb.serves(2)
    assert lb.status()["generations"][-1]["sha256"]


NO_NULL = """
import os
right = os.open
def nothing(path, *more, **others):
    if path == "/dev/null":
        raise FileNotFoundError(2, "No such file or directory")
    return right(path, *more, **others)
os.open = nothing
"""


def test_a_reader_lives_without_dev_null(begin: Begin) -> None:
    """Where the launcher does, the files are watched as well."""
    lb = begin("--poll", "3600", code=NO_NULL).serves(1)
    lb.append("# another")
    lb.serves(2)
    assert lb.status()["generations"][-1]["sha256"]


def _hangs_in(method: str) -> str:
    """Return the code that has a reader stop in this method of the state file, as long as a file is there."""
    code = STOPS.replace("config_snapshot import ConfigFiles", "state_file import StateFile")
    return code.replace("ConfigFiles.read", f"StateFile.{method}")


def test_an_upgrade_finishes_what_is_being_written_to_the_state_directory(begin: Begin, tmp_path: Path) -> None:
    """By a reader of its own; the one that hung with it is ended, so that it writes nothing old over what is newer."""
    kept = tmp_path / "state" / "haproxy.last-known-good"
    lb = begin("--state-dir", str(kept.parent), code=_hangs_in("write").replace("(self)", "(self, *more)"), hangs=True)
    lb.serves(1)
    old = lb.reader
    eventually(lambda: state_of(old) == "T")
    assert not kept.exists()
    lb.hang.unlink()
    assert lb.ask(b"upgrade\n").startswith("Success=1")
    eventually(kept.exists)
    assert b'bind "fd@${FD_WEB}"' in kept.read_bytes()
    eventually(lambda: old not in readers_of(lb.pid))
    assert len(readers_of(lb.pid)) == 1


def test_an_upgrade_finishes_what_is_being_read_of_the_state_directory(begin: Begin, tmp_path: Path) -> None:
    """Where the configuration goes bad after it, the last known good one is at hand."""
    lb = begin("--state-dir", str(tmp_path / "state")).serves(1)
    eventually((tmp_path / "state" / "haproxy.last-known-good").exists)
    lb.signal(signal.SIGQUIT)
    lb.process.wait(timeout=60)

    lb = begin("--state-dir", str(tmp_path / "state"), code=_hangs_in("read"), hangs=True).serves(1)
    assert state_of(lb.reader) == "T"
    lb.hang.unlink()
    assert lb.ask(b"upgrade\n").startswith("Success=1")
    lb.edit("nonsense\n")
    eventually(lambda: lb.status()["configuration"]["pending"])
    os.kill(lb.haproxies[0], signal.SIGKILL)
    eventually(lambda: "runs the LAST KNOWN GOOD configuration" in lb.log)
