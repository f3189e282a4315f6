"""The launcher, and the Python behind it, change nothing: a program finds under them what it finds under nothing.

Each test starts the same program twice in the same surroundings, by itself and as the program of an init, and holds
what /proc says of the two against each other.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.program import needs_a_python
from tests.system.launcher import launcher
from tests.system.lives import CATCHABLE, Life, Program, Upbringing, command_line, lives, status_fields, why_not_pid1
from tests.waiting import eventually

SLEEP = ("/bin/sleep", "300")
EXEC_IN = (sys.executable, "-I", "-S", str(Path(__file__).with_name("exec_in.py")))
PLAIN = Upbringing(launched=True)

Start = Callable[..., Life]


@pytest.fixture
def start_bare() -> Iterator[Start]:
    """Start a program by itself."""
    with lives(Program(())) as start:
        yield start


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program by the launcher."""
    with lives(Program((str(launcher()),))) as start_one:
        yield start_one


@pytest.fixture(params=["plain", "pid1"])
def up(request: pytest.FixtureRequest) -> Upbringing:
    """Go through both places in which an init lives."""
    if request.param == "pid1" and why_not_pid1():
        pytest.skip(f"cannot be PID 1 here: {why_not_pid1()}")
    return replace(PLAIN, as_pid1=request.param == "pid1")


# ---- what /proc says -----------------------------------------------------------------------------------------------

SAME_IN_STATUS = (
    *("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt"),
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Cpus_allowed", "Mems_allowed"),
)
NICE, POLICY = 16, 38
"""Fields of /proc/PID/stat, counted from the state."""


def found_by(pid: int) -> dict[str, object]:
    """Return everything that a program inherits, but for its place in the session."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    stat = (folder / "stat").read_text().rpartition(")")[2].split()
    files = ("limits", "oom_score_adj", "personality", "coredump_filter", "timerslack_ns", "timens_offsets", "cgroup")
    return {
        **{name: status[name] for name in SAME_IN_STATUS},
        **{name: (folder / name).read_text() for name in files},
        "environment": (folder / "environ").read_bytes(),
        "folder": os.readlink(folder / "cwd"),
        "root": os.readlink(folder / "root"),
        "nice": stat[NICE],
        "policy": stat[POLICY],
        "descriptors": dict(_descriptors(folder)),
    }


def _descriptors(folder: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    for number in os.listdir(folder / "fd"):
        flags = next(line for line in (folder / "fdinfo" / number).read_text().splitlines() if "flags" in line)
        # Stdout and stderr are a file of each life's own.
        yield int(number), (re.sub(r"^/tmp/#.*", "a file", os.readlink(folder / "fd" / number)), flags)


def main_of(life: Life, words: Sequence[str | bytes]) -> int:
    """Return the pid of a program that was started by itself, when it has become it."""
    wanted = [os.fsencode(word) for word in words]
    return eventually(lambda: life.init if command_line(life.init) == wanted else 0)


def assert_nothing_is_changed(start_bare: Start, start: Start, up: Upbringing, *words: str | bytes) -> None:
    """See that a program finds the same in both ways, and that nothing is said about it."""
    words = words or SLEEP
    bare, ours = start_bare(*words, up=replace(up, launched=False)), start("-s", "--", *words, up=up)
    main = ours.main(*words)
    # For a moment the dynamic loader's own files have the lowest free numbers, and the kernel still counts variables.
    with contextlib.suppress(AssertionError):
        eventually(lambda: found_by(main) == found_by(main_of(bare, words)), timeout=30)
    expected, found = found_by(main_of(bare, words)), found_by(main)
    assert {name: value for name, value in found.items() if expected[name] != value} == {}
    assert ours.errors() == ""


# ---- signals -------------------------------------------------------------------------------------------------------

SETS = {
    "none": frozenset[int](),
    "all": CATCHABLE,
    "PIPE": frozenset({int(signal.SIGPIPE)}),
    "XFSZ": frozenset({int(signal.SIGXFSZ)}),
    "CHLD": frozenset({int(signal.SIGCHLD)}),
    "terminal": frozenset({int(signal.SIGTTIN), int(signal.SIGTTOU)}),
    "INT, QUIT": frozenset({int(signal.SIGINT), int(signal.SIGQUIT)}),
    "synchronous": frozenset({int(signal.SIGSEGV), int(signal.SIGILL), int(signal.SIGSYS)}),
    "odd numbers": frozenset(number for number in CATCHABLE if number % 2),
    "even numbers": frozenset(number for number in CATCHABLE if not number % 2),
}


@pytest.mark.parametrize(
    ("blocked", "ignored"),
    [
        *((name, "none") for name in SETS),
        *(("none", name) for name in SETS),
        *(("all", "all"), ("odd numbers", "even numbers"), ("PIPE", "PIPE"), ("CHLD", "CHLD")),
    ],
)
def test_mask_and_dispositions(start_bare: Start, start: Start, blocked: str, ignored: str) -> None:
    """Each of the 64 signals is blocked and ignored as it was."""
    up = replace(PLAIN, blocked=SETS[blocked], ignored=SETS[ignored])
    assert_nothing_is_changed(start_bare, start, up)


@pytest.mark.parametrize(
    "how", [("block=32",), ("block=33", "ignore=32"), ("block=32", "block=33", "ignore=33")], ids=str
)
def test_the_c_librarys_own_signals(tmp_path: Path, how: tuple[str, ...]) -> None:
    """32 and 33 as well, which no function of the C library tells or sets."""
    bare, ours = by((PATH,), tmp_path / "entries", *how)
    with lives(bare) as start_bare, lives(ours) as start:
        assert_nothing_is_changed(start_bare, start, Upbringing())


def test_an_upgrade_passes_on_what_the_first_life_was_told() -> None:
    """What the successor finds itself is what safe_reload has set for itself, and no child may inherit that."""
    blocked, ignored = (f"{1 << one - 1:016x}" for one in (signal.SIGUSR2, signal.SIGHUP))
    # make(1) ignores these two, and no C library lets a program change that.
    hidden = int(status_fields(os.getpid())["SigIgn"], 16) & (1 << 31 | 1 << 32)
    told = {"SAFE_RELOAD_HEIR": "9", "SAFE_RELOAD_INHERITED": f"{blocked}:{ignored}:0,1,2"}
    words = [str(launcher()), "-s", "--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    done = subprocess.run(words, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"SigBlk:\t{blocked}\nSigIgn:\t{int(ignored, 16) | hidden:016x}\n"


def test_the_first_thing_that_it_does_is_to_block_all_signals() -> None:
    """The kernel drops what comes before; so no system call does but those of the C library's first lines."""
    libc = ctypes.CDLL(None, use_errno=True)
    trace_me, system_call, kill = 0, 24, 8
    block = [{"x86_64": "14", "aarch64": "135"}[os.uname().machine], "0x0"]  # rt_sigprocmask(SIG_BLOCK)
    program = launcher()
    pid = os.fork()
    if pid == 0:
        libc.ptrace(trace_me, 0, None, None)
        os.execv(program, [str(program), "--version"])
    before = []
    try:
        os.waitpid(pid, 0)
        while True:
            assert libc.ptrace(system_call, pid, None, None) == 0
            _, status = os.waitpid(pid, 0)
            assert os.WIFSTOPPED(status)
            call = Path(f"/proc/{pid}/syscall").read_text().split()
            if call[:2] == block:
                with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                    memory.seek(int(call[2], 16))
                    blocked = int.from_bytes(memory.read(8), sys.byteorder)
                assert {number for number in range(1, 65) if not blocked >> (number - 1) & 1} == {32, 33}
                break
            before.append(call[0])
            assert len(before) < 20
    finally:
        libc.ptrace(kill, pid, None, None)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    # Each one stops twice: when it begins and when it ends.
    assert len(set(before)) <= 2, before


# ---- the environment -----------------------------------------------------------------------------------------------

PATH = b"PATH=/usr/bin:/bin"
LARGE = 1_900_000
LONGEST = 131_000  # MAX_ARG_STRLEN, more or less

ENVIRONMENTS = {
    "nothing": (),
    "no locale": (PATH,),
    "a locale that is not there": (PATH, b"LC_ALL=xx_YY.UTF-8", b"LANG=zz_ZZ"),
    "LC_CTYPE that is not there": (PATH, b"LC_CTYPE=xx_YY.UTF-8"),
    "LC_CTYPE of C": (b"LC_CTYPE=C", PATH),
    "LC_CTYPE of POSIX": (b"LC_CTYPE=POSIX", PATH),
    "an empty LC_CTYPE": (b"LC_CTYPE=", PATH),
    "LC_CTYPE with anything in it": (b"LC_CTYPE=a:b,c=\xff\n", PATH),
    "LC_CTYPE as Python would set it": (PATH, b"LC_CTYPE=C.UTF-8"),
    "LC_CTYPE twice": (b"LC_CTYPE=C", PATH, b"LC_CTYPE=POSIX", b"LC_CTYPE=C.UTF-8"),
    "another encoding": (PATH, b"LC_ALL=C", b"NAME=\xe4\xff", b"\xfc=\x80"),
    "what Python would read": (
        *(PATH, b"PYTHONHOME=/nowhere", b"PYTHONPATH=/nowhere", b"PYTHONVERBOSE=1", b"PYTHONUTF8=0", b"PYTHONDEBUG=3"),
        *(b"PYTHONCOERCECLOCALE=warn", b"PYTHONWARNINGS=error", b"PYTHONINSPECT=1", b"PYTHONMALLOC=nonsense"),
    ),
    "what a shell would read": (
        *(PATH, b"BASH_ENV=/nowhere", b"ENV=/nowhere", b"SHELLOPTS=xtrace", b"BASH_FUNC_exec%%=() { exit 9; }"),
        *(b"IFS=x", b"environment=x", b"note=x", b"key=x", b"_=x", b"PS4=x", b"OLDPWD=/", b"PWD=/tmp", b"SHLVL=7"),
    ),
    "names of any kind": (PATH, b"a.b-c=d", b"1=2", b" =", b"\n=\n", b"\xff\xfe=\xff", b"x=a=b", b"lower=", b"*=?"),
    "a name twice": (PATH, b"A=1", b"B=2", b"A=3", b"PATH=/nowhere", b"A=1"),
    "no name": (PATH, b"=x", b"=", b"==", b"=x"),
    "no =": (PATH, b"x", b"LC_CTYPE", b"SAFE_RELOAD_INHERITED", b"", b"x", b"\xff"),
    "many": (PATH, *(b"V%d=%d" % (number, number) for number in range(90_000))),
    "long": (PATH, *(b"V%d=" % number + b"x" * LONGEST for number in range(LARGE // LONGEST))),
    "as much as there can be": (PATH, *(b"V%d=" % n + b"x" * 65_000 for n in range(32))),
}


def by(entries: Sequence[bytes], file: Path, *how: str) -> tuple[Program, Program]:
    """Return what starts a program with this environment, by itself and by the launcher."""
    file.write_bytes(b"".join(entry + b"\0" for entry in entries))
    return Program((*EXEC_IN, str(file), *how)), Program((*EXEC_IN, str(file), *how, str(launcher())))


@pytest.mark.parametrize("name", [*ENVIRONMENTS])
def test_the_environment(up: Upbringing, tmp_path: Path, name: str) -> None:
    """Every entry, whatever it is, in its order, and no other; up to what execve(2) takes."""
    bare, ours = by(ENVIRONMENTS[name], tmp_path / "entries")
    with lives(bare) as start_bare, lives(ours) as start:
        assert_nothing_is_changed(start_bare, start, replace(up, launched=False))


@pytest.mark.skipif(not Path("/usr/share/i18n/charmaps").is_dir(), reason="Debian's package locales is not installed")
@pytest.mark.parametrize(("language", "encoding"), [("ja_JP", "EUC-JP"), ("zh_TW", "BIG5"), ("de_DE", "ISO-8859-1")])
def test_another_encoding(tmp_path: Path, language: str, encoding: str) -> None:
    """Arguments and variables that are no text in the locale's encoding are the same bytes in the end."""
    subprocess.run(["localedef", "-i", language, "-f", encoding, tmp_path / language], capture_output=True, check=True)
    any_bytes = b" ".join(bytes([first, second]) for first in range(128, 256) for second in (1, 64, 128, 255))
    entries = (PATH, b"LC_ALL=" + language.encode(), b"LOCPATH=" + os.fsencode(tmp_path), b"X=" + any_bytes)
    bare, ours = by(entries, tmp_path / "entries")
    with lives(bare) as start_bare, lives(ours) as start:
        assert_nothing_is_changed(start_bare, start, Upbringing(), "/bin/sh", "-c", "kill -STOP $$", any_bytes)


def test_the_arguments(start_bare: Start, start: Start) -> None:
    """As bytes, and many."""
    words = ("/bin/sh", "-c", "kill -STOP $$", "sh", "", "two\nlines", "-e", "--", "--version", b"\xff\xfe", "\u00e9")
    assert_nothing_is_changed(start_bare, start, PLAIN, *words, *(b"%d" % n for n in range(50_000)))


# ---- descriptors ---------------------------------------------------------------------------------------------------


def a_folder(_: ExitStack) -> int:
    """`< /`."""
    return os.open("/", os.O_RDONLY)


def a_socket(stack: ExitStack) -> int:
    """As systemd's StandardInput=socket."""
    one, _ = (stack.enter_context(end) for end in socket.socketpair())
    return os.dup(one.fileno())


def a_pipe_to_write_to(_: ExitStack) -> int:
    """The wrong end."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def an_empty_pipe(stack: ExitStack) -> int:
    """As `docker run -i`."""
    reader, writer = os.pipe()
    stack.callback(os.close, writer)
    return reader


def a_terminal(stack: ExitStack) -> int:
    """Not the controlling one."""
    keyboard, screen = pty.openpty()
    stack.callback(os.close, keyboard)
    return screen


KINDS: dict[str, Callable[[ExitStack], int]] = {
    "null": lambda _: os.open("/dev/null", os.O_RDONLY),
    "folder": a_folder,
    "file": lambda _: os.open("/etc/passwd", os.O_RDONLY),
    "file to append to": lambda _: os.open("/dev/null", os.O_WRONLY | os.O_APPEND),
    "path": lambda _: os.open("/etc/passwd", os.O_PATH),
    "path of a folder": lambda _: os.open("/", os.O_PATH),
    "socket": a_socket,
    "pipe": an_empty_pipe,
    "pipe to write to": a_pipe_to_write_to,
    "terminal": a_terminal,
    "event": lambda _: os.eventfd(0, 0),
    "full device": lambda _: os.open("/dev/full", os.O_RDWR),
}


@pytest.mark.parametrize("kind", [*KINDS])
@pytest.mark.parametrize("which", ["stdin", "stdout", "stderr", "all"])
def test_the_three(start_bare: Start, start: Start, kind: str, which: str) -> None:
    """Whatever stdin, stdout and stderr are, they are the program's."""
    with ExitStack() as stack:
        descriptor = KINDS[kind](stack)
        stack.callback(os.close, descriptor)
        numbers = {"stdin": (0,), "stdout": (1,), "stderr": (2,), "all": (0, 1, 2)}[which]
        assert_nothing_is_changed(start_bare, start, replace(PLAIN, standard=dict.fromkeys(numbers, descriptor)))


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_what_is_closed(start_bare: Start, start: Start, up: Upbringing, closed: tuple[int, ...]) -> None:
    """A descriptor that was closed is closed."""
    assert_nothing_is_changed(start_bare, start, replace(up, closed=closed))


def test_what_is_passed(start_bare: Start, start: Start) -> None:
    """Every other descriptor, under its number."""
    with ExitStack() as stack:
        passed = [_at(number, stack) for number in (3, 4, 9, 10, 63, 255, 256, 800)]
        assert_nothing_is_changed(start_bare, start, replace(PLAIN, passed=passed))


def _at(number: int, stack: ExitStack) -> int:
    """Open something at this number or the next free one."""
    with Path("/etc/passwd").open() as file:
        found = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD, number)
    stack.callback(os.close, found)
    return found


# ---- the rest ------------------------------------------------------------------------------------------------------

LIMITS = {
    resource.RLIMIT_NOFILE: (100, 200),
    resource.RLIMIT_FSIZE: (1 << 20, 1 << 21),
    resource.RLIMIT_CORE: (0, 0),
    resource.RLIMIT_STACK: (1 << 20, 1 << 22),
    resource.RLIMIT_NPROC: (5000, 6000),
    resource.RLIMIT_CPU: (500, 600),
    resource.RLIMIT_MEMLOCK: (4096, 8192),
}


def test_folder_umask_limits_and_priority(start_bare: Start, start: Start, up: Upbringing, tmp_path: Path) -> None:
    """What a process has beside its descriptors."""
    strange = replace(up, directory=tmp_path, umask=0o137, limits=LIMITS, nice=7)
    assert_nothing_is_changed(start_bare, start, strange)


def test_a_folder_that_is_gone(start_bare: Start, start: Start, tmp_path: Path) -> None:
    """Nothing looks at it."""
    assert_nothing_is_changed(start_bare, start, replace(PLAIN, directory=tmp_path, directory_is_gone=True))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("how", ["hide=/dev", "hide=/proc", "deny=prctl"])
@pytest.mark.parametrize("closed", [(), (0, 1, 2)], ids=["", "closed"])
def test_what_others_take_away(tmp_path: Path, how: str, closed: tuple[int, ...]) -> None:
    """Without /dev/null, without /proc, with prctl(2) denied: a program runs, with everything that it was given."""
    entries = (PATH, b"A=1", b"LC_CTYPE=C", b"A=2", b"x", b"TINI_VERBOSITY=0")
    bare, ours = by(entries, tmp_path / "entries", how)
    with lives(bare) as start_bare, lives(ours) as start:
        up = Upbringing(closed=closed)
        expected = main_of(start_bare(*SLEEP, up=up), SLEEP)
        main = start("--", *SLEEP, up=up).main(*SLEEP)
        eventually(lambda: found_by(main) == found_by(expected))


@pytest.mark.parametrize(
    ("option", "refused"),
    [
        (("-s",), "PR_SET_CHILD_SUBREAPER"),
        (("-p", "SIGTERM"), "PR_SET_PDEATHSIG"),
        (("--no-new-privs",), "PR_SET_NO_NEW_PRIVS"),
    ],
)
def test_an_option_that_the_kernel_refuses(tmp_path: Path, option: tuple[str, ...], refused: str) -> None:
    """One line names the call: whoever has asked for it is not told that all is well."""
    _, ours = by((PATH,), tmp_path / "entries", "deny=prctl")
    with lives(ours) as start:
        life = start(*option, "--", "true")
        assert life.status() == 1
        assert life.errors().endswith(f"cannot start: the kernel refuses prctl({refused}): Operation not permitted\n")


@needs_a_python
@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("/no/such/python", 127, "No such file or directory"),
        ("/etc", 126, "Permission denied"),
        ("/etc/passwd/x", 1, "Not a directory"),
    ],
)
def test_a_python_that_cannot_be_executed(command: str, status: int, words: str) -> None:
    """One line says so, and the status is tini's."""
    with lives(Program((str(launcher(command)),))) as start:
        life = start("true")
        assert life.status() == status
        (line,) = life.errors().splitlines()
        assert line == f"[FATAL safe_reload ({life.popen.pid})] {command} failed: {words}"


@needs_a_python
def test_more_than_can_be_executed(tmp_path: Path) -> None:
    """There is room for what execve(2) takes but some words of Python's; more is told in one line."""

    def status(size: int, which: int, errors: list[str] | None = None) -> int:
        entries = [b"%d=" % number + b"x" * 100_000 for number in range(size // 100_000)]
        entries.append(b"y=" + b"x" * (size % 100_000))
        with lives(by(entries, tmp_path / "entries")[which]) as start:
            life = start(*(("/bin/true",) if which == 0 else ("-s", "--", "/bin/true")))
            ended = life.status()
            if errors is not None:
                errors += life.errors().splitlines()
            return ended

    most, too_much = 0, 1 << 23
    while too_much - most > 16:
        middle = (most + too_much) // 2
        most, too_much = (middle, too_much) if status(middle, 0) == 0 else (most, middle)
    assert most > LARGE
    assert status(most - 1024, 1) == 0
    errors: list[str] = []
    words = (str(launcher()), "-s", "--")
    of_the_launcher = len(words[0]) + sum(
        len(word) + 9 for word in words
    )  # the file, and each with a NUL and a pointer
    assert status(most - of_the_launcher - 16, 1, errors) == 1
    (line,) = errors
    assert line.endswith(f"{sys.executable} failed: {os.strerror(errno.E2BIG)}")


def test_one_that_wants_to_be_traced_gets_its_signals(start: Start) -> None:
    """PTRACE_TRACEME makes its parent the tracer, which lets it go on with the signal that stopped it."""
    text = (
        "import ctypes, os, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(13))\n"
        "ctypes.CDLL(None).ptrace(0, 0, None, None)\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    assert start("-s", "--", sys.executable, "-I", "-c", text).status() == 13
