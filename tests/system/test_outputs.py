"""Readers of our output may go away, the disk may be full: nothing crashes, loops or exits with another status."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from tests.program import PROGRAM
from tests.system.lives import Life, Program, Upbringing, lives
from tests.system.test_client import Peer
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
SAFE_RELOAD = PROGRAM
PRINT_SIGNALS = (sys.executable, "-I", "-S", str(Path(__file__).with_name("print_signals.py")), "main")

Start = Callable[..., Life]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start safe_reload."""
    with lives(Program(SAFE_RELOAD)) as start_one:
        yield start_one


# ---- where it goes -------------------------------------------------------------------------------------------------


def nobody_reads(_: ExitStack) -> int:
    """Lose the reader."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def nobody_reads_a_socket(_: ExitStack) -> int:
    """Lose the other end, as of systemd's journal."""
    one, other = socket.socketpair()
    other.close()
    return one.detach()


def a_terminal_that_is_gone(_: ExitStack) -> int:
    """Close the window."""
    keyboard, screen = os.openpty()
    os.close(keyboard)
    return screen


def a_full_disk(_: ExitStack) -> int:
    """Leave no room."""
    return os.open("/dev/full", os.O_WRONLY)


def a_file_at_its_limit(stack: ExitStack) -> int:
    """Reach RLIMIT_FSIZE with the first byte."""
    descriptor = os.memfd_create("log")
    os.truncate(descriptor, LIMIT)
    os.lseek(descriptor, LIMIT, os.SEEK_SET)
    return descriptor


LIMIT = 1 << 16
LIMITS = {resource.RLIMIT_FSIZE: (LIMIT, resource.RLIM_INFINITY)}
OUTPUTS = {
    "nobody reads": nobody_reads,
    "nobody reads the socket": nobody_reads_a_socket,
    "the terminal is gone": a_terminal_that_is_gone,
    "the disk is full": a_full_disk,
    "the file is at its limit": a_file_at_its_limit,
}
every_output = pytest.mark.parametrize("kind", [*OUTPUTS])


def output(kind: str, stack: ExitStack) -> int:
    """Open an output that fails."""
    descriptor = OUTPUTS[kind](stack)
    stack.callback(os.close, descriptor)
    return descriptor


# ---- PID 1 ---------------------------------------------------------------------------------------------------------

SENT = (signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGURG, signal.SIGXCPU, signal.SIGRTMIN)


@every_output
def test_a_program_hears_what_was_sent_and_nothing_of_our_writing(start: Start, kind: str) -> None:
    """Each signal that is forwarded is a line with -vv, which cannot be written; the same signals may be sent, too."""
    with ExitStack() as stack:
        up = Upbringing(stderr=output(kind, stack), limits=LIMITS)
        life = start("-vv", "--", *PRINT_SIGNALS, up=up)
        life.await_line("ready main")
        heard = ["ready main"]
        for number in SENT * 3:
            life.signal(number)
            heard.append(f"main {int(number)} from init")
            eventually(lambda: life.lines() == heard)
        life.signal(signal.SIGRTMAX)
        eventually(lambda: life.lines() == [*heard, f"main {int(signal.SIGRTMAX)} from init"])


@every_output
def test_the_status_of_what_cannot_be_executed_is_the_same(start: Start, kind: str) -> None:
    """127, though nobody can be told why."""
    with ExitStack() as stack:
        up = Upbringing(stderr=output(kind, stack), limits=LIMITS)
        assert start("-s", "--", "no-such-program", up=up).status() == 127


@every_output
def test_haproxy_serves_and_is_reloaded_and_stopped(start: Start, tmp_path: Path, kind: str) -> None:
    """No line of ours, and none of haproxy's, can be written."""
    if not shutil.which("haproxy"):
        pytest.skip("haproxy is not installed")
    web = tmp_path / "web.sock"
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(
        "defaults\n mode http\n timeout client 9s\n timeout server 9s\n timeout connect 9s\n"
        f"frontend web\n bind unix@{web}\n http-request return status 200\n"
    )
    where = ("--runtime-dir", str(tmp_path), "--name", "lb")
    with ExitStack() as stack:
        up = Upbringing(stderr=output(kind, stack), limits=LIMITS)
        life = start("-vv", *where, "haproxy", "-f", str(configuration), up=up)
        eventually(lambda: ask("status", *where).returncode == 0)
        for _ in range(2):
            done = ask("reload", *where)
            assert done.returncode == 0, done.stderr
            life.signal(signal.SIGWINCH)
        life.signal(signal.SIGTERM)
        assert life.status() == 0


# ---- whoever asks --------------------------------------------------------------------------------------------------


def ask(*words: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a verb."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*SAFE_RELOAD, *words], env=variables, stdout=stdout, stderr=stderr, text=True, timeout=60, check=False
    )


HELP = (
    ("--help",),
    ("-l",),
    ("--version",),
    ("check", "--help"),
    *((verb, "--help") for verb in ("reload", "status", "list", "stop", "metrics", "upgrade", "exporter")),
)


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_that_nobody_reads(words: Sequence[str]) -> None:
    """`safe_reload --help | true`, or with a closed stdout, ends well and says nothing; on a full disk it says so."""
    with ExitStack() as stack:
        gone = ask(*words, stdout=output("nobody reads", stack))
        full = ask(*words, stdout=output("the disk is full", stack))
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *SAFE_RELOAD, *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (gone.returncode, gone.stderr) == (0, "")
    assert (closed.returncode, closed.stderr) == (0, "")
    assert full.returncode == 1
    (line,) = full.stderr.splitlines()
    assert line.endswith("stdout: No space left on device")


@every_output
def test_a_reload_whose_words_nobody_reads_is_a_reload(tmp_path: Path, kind: str) -> None:
    """Its status says what has become of it, also when neither its answer nor haproxy's words can be written."""
    for answer, status in (("Success=1\n--\ngeneration 2 (pid 9) is current; x\n", 0), ("Success=0\n--\nwords\n", 1)):
        path = tmp_path / "lb.sock"
        peer = Peer(path, [("reload", [answer], "end")])
        with ExitStack() as stack:
            one = output(kind, stack)
            words = ("reload", "--runtime-dir", str(tmp_path), "--name", "lb")
            assert ask(*words, stdout=one, stderr=one).returncode == status
        assert peer.end() == ["reload"]


def test_a_closed_output_does_not_become_a_connection(start: Start, tmp_path: Path) -> None:
    """What the exporter says would else be sent to somebody who asks it."""
    words = ("exporter", "--listen", "127.0.0.1:0", "--runtime-dir", str(tmp_path))
    life = start(*words, up=Upbringing(closed=(0, 1, 2)))

    def listens_and_has_three() -> bool:
        found = descriptors(life.init)
        three = {found.get(number) for number in range(3)}
        return three == {"/dev/null"} and any(kind.startswith("socket:") for kind in found.values())

    eventually(listens_and_has_three)


def test_json_lines_about_a_program_have_its_pid() -> None:
    """Programs that read the log match on fields, not on text."""
    words = [*PROGRAM, "-v", "--log-format", "json", "sh", "-c", "echo $$"]
    run = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    (spawned,) = (line for line in lines if line["event"] == "spawned")
    assert spawned["pid"] == int(run.stdout)
