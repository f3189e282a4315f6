"""The conformity suite of generic mode: any init is held to tini's contract, from outside, with real processes.

    pytest tests/system/test_generic.py                                this project's program
    pytest tests/system/test_generic.py --init /usr/bin/tini           the reference

A test marked `ours_is_better` says where safe_reload deliberately does more than tini; it is skipped for other
programs. The program is always given after `--`, because tini permutes its arguments, unless that is what is tested.
"""

import fcntl
import os
import pty
import re
import resource
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import (
    SIGABRT,
    SIGBUS,
    SIGCHLD,
    SIGCONT,
    SIGFPE,
    SIGHUP,
    SIGILL,
    SIGINT,
    SIGKILL,
    SIGPIPE,
    SIGRTMAX,
    SIGRTMIN,
    SIGSEGV,
    SIGSTOP,
    SIGSYS,
    SIGTERM,
    SIGTRAP,
    SIGTSTP,
    SIGTTIN,
    SIGTTOU,
    SIGURG,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
    SIGXFSZ,
)

import pytest

from tests.descriptors import descriptors
from tests.system.lives import (
    CATCHABLE,
    EVERY_SIGNAL,
    Life,
    Program,
    Upbringing,
    children,
    command_line,
    is_running,
    lives,
    signals_in,
    stat,
    status_fields,
    statuses,
    why_not_pid1,
)
from tests.waiting import eventually

ours_is_better = pytest.mark.ours_is_better
tini_only = pytest.mark.tini_only

Start = Callable[..., Life]

PYTHON = (sys.executable, "-I", "-S")
PRINT_SIGNALS = (*PYTHON, str(Path(__file__).with_name("print_signals.py")))
SLEEP = ("sleep", "300")
NO_SUCH_PROGRAM = "no-such-program-anywhere"

KERNELS_OWN = frozenset({SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS})
"""Sent for faults of our own; fatal to an init that is not PID 1."""
TERMINALS_OWN = frozenset({SIGTTIN, SIGTTOU})
FORWARDED = CATCHABLE - KERNELS_OWN - TERMINALS_OWN - {SIGCHLD}
HARMLESS = frozenset({SIGCHLD, SIGCONT, SIGURG, SIGWINCH, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU})
"""Those whose default action does not kill."""
DEADLY = EVERY_SIGNAL - HARMLESS

PARENT_DEATH_SIGNALS = [
    one.name for one in signal.Signals if one < SIGRTMIN and one.name not in {"SIGSTKFLT", "SIGIO", "SIGPWR"}
]
"""The 28 names that tini knows."""
NOT_PID_1 = "not running as PID 1"


def name_of(number: int) -> str:
    """Return what a signal is called in the name of a test."""
    if number > SIGRTMIN:
        return f"RTMIN+{number - SIGRTMIN}"
    return signal.Signals(number).name.removeprefix("SIG")


def sh(script: str, *arguments: str) -> tuple[str, ...]:
    """Make a shell script the program of an init."""
    return ("--", "sh", "-c", script, "sh", *arguments)


@pytest.fixture
def start(program: Program) -> Iterator[Start]:
    """Start the program under test; all that it leaves behind is ended with the test."""
    with lives(program) as start_one:
        yield start_one


@pytest.fixture(params=["pid1", "plain"])
def up(request: pytest.FixtureRequest) -> Upbringing:
    """Go through both places in which an init lives: PID 1 of its own namespace, and an ordinary process."""
    return place(request.param)


def place(name: str) -> Upbringing:
    """Find a place by its name."""
    if name == "pid1" and why_not_pid1():
        pytest.skip(f"cannot be PID 1 here: {why_not_pid1()}")
    return Upbringing(as_pid1=name == "pid1")


@dataclass(frozen=True)
class Ended:
    """What is left of a life."""

    status: int
    output: str
    errors: str

    @property
    def words(self) -> str:
        """Return all that was said."""
        return self.output + self.errors


def ended(life: Life) -> Ended:
    """Wait for the end of a life."""
    status = life.status()
    return Ended(status, life.output(), life.errors())


# ------------------------------------------------------------------------------------------------ exit status


@pytest.mark.parametrize("first", range(0, 256, 32))
def test_the_exit_status_is_the_programs(start: Start, first: int) -> None:
    """Every exit status from 0 to 255 is handed on."""
    codes = list(range(first, first + 32))
    assert statuses(start, [sh("exit $1", str(code)) for code in codes]) == codes


def test_pid_1_hands_on_the_exit_status(start: Start) -> None:
    """A container ends with its program's status."""
    codes = [0, 1, 2, 3, 126, 127, 128, 137, 143, 254, 255]
    assert statuses(start, [sh("exit $1", str(code)) for code in codes], place("pid1")) == codes


@pytest.mark.parametrize(("lowest", "highest"), [(1, 16), (17, 31), (34, 49), (50, 64)])
def test_death_by_signal_is_128_plus_its_number(start: Start, lowest: int, highest: int) -> None:
    """Whatever signal killed the program, real-time ones included, the status is 128 plus its number."""
    numbers = [number for number in sorted(DEADLY) if lowest <= number <= highest]
    found = statuses(start, [sh("kill -$1 $$", str(number)) for number in numbers])
    assert found == [128 + number for number in numbers]


def test_pid_1_reports_death_by_signal(start: Start) -> None:
    """A container whose program was killed says by what."""
    numbers = [int(number) for number in (SIGHUP, SIGKILL, SIGSEGV, SIGPIPE, SIGTERM, SIGRTMIN, SIGRTMAX)]
    found = statuses(start, [sh("kill -$1 $$", str(number)) for number in numbers], place("pid1"))
    assert found == [128 + number for number in numbers]


def test_a_forwarded_signal_that_kills_is_reported(start: Start, up: Upbringing) -> None:
    """`docker stop` of a program with no handler is 143."""
    life = start("--", *SLEEP, up=up)
    life.main(*SLEEP)
    life.signal(SIGTERM)
    assert life.status() == 128 + SIGTERM


def test_the_init_leaves_as_soon_as_the_program_has(start: Start) -> None:
    """The end of the program is the end of the init, at once: not after a tick of some clock."""

    def delay() -> float:
        life = start("-s", "--", *SLEEP)
        main = life.main(*SLEEP)
        begin = time.monotonic()
        os.kill(main, SIGKILL)
        assert life.status() == 128 + SIGKILL
        return time.monotonic() - begin

    assert min(delay() for _ in range(4)) < 0.9  # one of tini's ticks is 1 s


@pytest.mark.parametrize("group", [(), ("-g",)], ids=["alone", "g"])
def test_a_process_left_behind_does_not_delay_the_end(start: Start, up: Upbringing, group: Sequence[str]) -> None:
    """The init waits for its program only, and does not signal the others when it leaves (as PID 1 the kernel does)."""
    life = start("-s", *group, *sh("sleep 300 & read -r _ < /proc/self/stat; echo ready; kill -STOP $$; exit 7"), up=up)
    life.await_line("ready")
    main = eventually(lambda: children(life.init))[0]
    left_behind = eventually(lambda: [pid for pid in children(main) if command_line(pid) == [b"sleep", b"300"]])[0]
    eventually(lambda: stat(main).state == "T")
    os.kill(main, SIGCONT)
    assert life.status() == 7
    assert is_running(left_behind) == (not up.as_pid1)


# ------------------------------------------------------------------------------------------------ -e


@pytest.mark.parametrize(
    ("options", "script", "status"),
    [
        (("-e", "143"), "kill -TERM $$", 0),
        (("-e", "143"), "exit 143", 0),
        (("-e143",), "kill -TERM $$", 0),
        (("-e", "143"), "exit 142", 142),
        (("-e", "1", "-e", "3"), "exit 1", 0),
        (("-e", "1", "-e", "3"), "exit 2", 2),
        (("-e", "1", "-e", "3"), "exit 3", 0),
        (("-e", "255"), "exit 255", 0),
        (("-e", "0"), "exit 0", 0),
        (("-sgwe143",), "kill -TERM $$", 0),
        (("-e", "127"), f"exec {NO_SUCH_PROGRAM}", 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_e_makes_a_status_a_success(start: Start, options: Sequence[str], script: str, status: int) -> None:
    """`-e N`, as often as wanted, turns status N into 0, and no other."""
    assert start(*options, *sh(script)).status() == status


def test_e_counts_for_a_missing_program_too(start: Start) -> None:
    """127 for a missing program is a status like any other."""
    assert start("-e", "127", "--", NO_SUCH_PROGRAM).status() == 0


@pytest.mark.parametrize("value", ["256", "-1", "abc", "0x10", "5 ", "1_0", "1.0", "\u0663", "99999999999999999999"])
def test_e_refuses_what_is_no_status(start: Start, value: str) -> None:
    """What is not a decimal number from 0 to 255 is an error, named, and nothing is run."""
    end = ended(start("-e", value, "--", "echo", "was run"))
    assert end.status == 1
    assert value.strip() in end.errors
    assert end.output == ""


@ours_is_better("for tini nothing is 0, and a leading blank is none")
@pytest.mark.parametrize("value", ["", " 5"])
def test_e_refuses_what_is_only_nearly_a_status(start: Start, value: str) -> None:
    """Neither nothing nor a blank is part of a number."""
    end = ended(start("-e", value, "--", "echo", "was run"))
    assert (end.status, end.output) == (1, "")


# ------------------------------------------------------------------------------------------------ finding the program


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Make a folder with programs of every kind."""
    for name, mode, text in (
        ("script", 0o755, 'echo "$0 $1 $2"\nexit 42\n'),
        ("found-by-path", 0o755, "#!/bin/sh\nexit 43\n"),
        ("not-executable", 0o644, "#!/bin/sh\nexit 44\n"),
        ("no-interpreter", 0o755, "#!/no/such/interpreter\n"),
        ("later/not-executable", 0o755, "#!/bin/sh\nexit 45\n"),
        ("later/script", 0o755, "#!/bin/sh\nexit 47\n"),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    return tmp_path


def test_a_missing_program_is_127(start: Start, up: Upbringing) -> None:
    """A program that does not exist is 127, and one line names it and the reason."""
    end = ended(start("--", NO_SUCH_PROGRAM, up=up))
    assert end.status == 127
    assert NO_SUCH_PROGRAM in end.errors
    assert "No such file or directory" in end.errors
    assert end.output == ""


TEXTS = {"help": "help", "hepl": "help", "version": "version"}
SLIPS = {"relaod": "reload", "statsu": "status", "stpo": "stop", "chekc": "check", "lst": "list"}


@ours_is_better("verbs are ours")
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        *((name, f"; did you mean the verb `{verb}`?") for name, verb in SLIPS.items()),
        *((name, f"; did you mean safe_reload --{option}?") for name, option in TEXTS.items()),
        (NO_SUCH_PROGRAM, ""),
        ("lsx", ""),
    ],
)
def test_a_mistyped_verb_is_told(start: Start, up: Upbringing, name: str, hint: str) -> None:
    """What is no program and nearly a verb is named as one, on the only line that there is."""
    # As in a container whose VIPs are a variable.
    up = replace(up, environment={**up.environment, "SAFE_RELOAD_VIPS": "127.0.0.1:80:FD"})
    end = ended(start(name, "--timeout", "3", up=up))
    assert end.status == 127
    (line,) = end.errors.splitlines()
    assert line.endswith(f"exec {name} failed: No such file or directory{hint}")


def test_a_missing_program_is_named_however_quiet(start: Start) -> None:
    """No verbosity silences the reason why nothing runs."""
    life = start("--", NO_SUCH_PROGRAM, up=Upbringing(environment={"TINI_VERBOSITY": "0"}))
    assert NO_SUCH_PROGRAM in ended(life).errors


@pytest.mark.parametrize(
    ("name", "status"),
    [("missing", 127), ("no-interpreter", 127), ("", 126), ("not-executable", 126), ("script/below-a-file", 1)],
    ids=["missing", "missing-interpreter", "directory", "not-executable", "not-a-directory"],
)
def test_a_program_that_cannot_be_run(start: Start, files: Path, name: str, status: int) -> None:
    """What does not exist is 127, what may not be executed is 126, any other reason is 1."""
    assert start("--", str(files / name)).status() == status


def test_an_empty_name_is_127(start: Start) -> None:
    """The empty string is the name of no program."""
    assert start("--", "").status() == 127


def test_a_script_without_shebang_is_run_by_the_shell(start: Start, files: Path) -> None:
    """As execvp(3) does it, with all its arguments."""
    script = str(files / "script")
    end = ended(start("--", script, "one", "two words"))
    assert (end.status, end.output) == (42, f"{script} one two words\n")


@pytest.mark.parametrize(
    ("path", "name", "status"),
    [
        ("{0}", "found-by-path", 43),
        ("/no/such/folder:{0}", "found-by-path", 43),
        ("{0}", "not-executable", 126),
        ("{0}:{0}/later", "not-executable", 45),
        ("{0}:/no/such/folder", "not-executable", 126),
        ("{0}/later", "found-by-path", 127),
        ("{0}:{0}/later", "script", 42),
    ],
)
def test_the_program_is_searched_in_path(start: Start, files: Path, path: str, name: str, status: int) -> None:
    """The first executable in PATH is run; what may not be executed is passed over, and is 126 if there is no other."""
    up = Upbringing(environment={"PATH": path.format(files) + ":" + os.environ["PATH"]})
    assert start("--", name, up=up).status() == status


def test_the_current_folder_is_not_searched(start: Start, files: Path) -> None:
    """A name without a slash is looked for in PATH only."""
    assert start("--", "found-by-path", up=Upbringing(directory=files)).status() == 127


def test_a_name_with_a_slash_is_not_searched(start: Start, files: Path) -> None:
    """A relative path counts from the current folder."""
    up = Upbringing(directory=files, environment={"PATH": str(files / "later")})
    assert start("--", "./not-executable", up=up).status() == 126


def test_without_path_the_usual_folders_are_searched(start: Start) -> None:
    """No PATH at all means /bin and /usr/bin."""
    assert start("--", "sh", "-c", "exit 46", up=Upbringing(bare_environment=True)).status() == 46


# ------------------------------------------------------------------------------------------------ signals


@dataclass
class Listener:
    """A program with a second process in its group: both print the signals they get."""

    life: Life
    group: bool
    seen: int = 0
    is_well: bool = True

    def heard(self, number: int) -> list[str]:
        """Send the init a signal; return what the two got before a later signal straight from us."""
        self.is_well = False
        main = self.life.main(*PRINT_SIGNALS, "main", "second")
        second = children(main)[0]
        self.life.signal_and_settle(number)
        forwarded = {"main", "second"} if self.group else {"main"}
        if number in FORWARDED:
            for role in forwarded:
                line = f"{role} {number} from init"
                eventually(lambda: line in self._news())  # noqa: B023  # called before the loop goes on
        return self._until_told(main, second)

    def _until_told(self, main: int, second: int) -> list[str]:
        last = int(SIGRTMAX)  # of several pending signals it is taken last, so whatever was forwarded comes before
        for pid in (main, second):
            os.kill(pid, last)
        ends = {f"{role} {last} from other" for role in ("main", "second")}
        eventually(lambda: ends <= set(self._news()))
        news = self._news()
        self.seen += len(news)
        self.is_well = True
        return sorted(line for line in news if line not in ends)

    def _news(self) -> list[str]:
        return self.life.lines()[self.seen :]


@pytest.fixture(scope="module", params=["pid1", "plain", "pid1-g", "plain-g", "pid1-env"])
def listener(request: pytest.FixtureRequest, program: Program) -> Iterator[Callable[[], Listener]]:
    """One listener serves the tests of all signals; should a signal have upset it, the next test gets a new one."""
    where, _, how = request.param.partition("-")
    environment: dict[str, str | bytes] = {"TINI_KILL_PROCESS_GROUP": ""} if how == "env" else {}
    up = replace(place(where), environment=environment)
    options = ("-g",) if how == "g" else ()
    current: list[Listener] = []

    with lives(program) as start_one:

        def get() -> Listener:
            if not current or not current[-1].is_well:
                life = start_one(*options, "--", *PRINT_SIGNALS, "main", "second", up=up)
                life.await_line("ready main", "ready second")
                current.append(Listener(life, bool(how), seen=2))
            return current[-1]

        yield get


@pytest.mark.parametrize("number", sorted(FORWARDED), ids=name_of)
def test_a_signal_is_forwarded(listener: Callable[[], Listener], number: int) -> None:
    """Every forwardable signal reaches the program as it is and once; with -g, and only then, its group too."""
    hearing = listener()
    roles = ["main", "second"] if hearing.group else ["main"]
    assert hearing.heard(number) == [f"{role} {number} from init" for role in roles]


@pytest.mark.parametrize("number", sorted(KERNELS_OWN | TERMINALS_OWN | {SIGCHLD}), ids=name_of)
def test_a_signal_is_not_forwarded(listener: Callable[[], Listener], number: int) -> None:
    """What the kernel sends because of our own doing is not the program's business, and does not end a PID 1."""
    hearing = listener()
    if number in KERNELS_OWN and not hearing.life.is_pid1:
        pytest.skip("an init that is not PID 1 may die of its own faults")
    assert hearing.heard(number) == []


def test_queued_signals_are_all_forwarded(start: Start, up: Upbringing) -> None:
    """Real-time signals queue: as many are forwarded as were sent."""
    life = start("--", *PRINT_SIGNALS, "main", up=up)
    life.await_line("ready main")
    for _ in range(50):
        life.signal(SIGRTMIN + 3)
    eventually(lambda: life.lines().count(f"main {SIGRTMIN + 3} from init") == 50)


def test_presence_of_a_variable_is_enough(start: Start) -> None:
    """TINI_KILL_PROCESS_GROUP and TINI_SUBREAPER count by presence, whatever their value; the program sees them too."""
    environment = {"TINI_KILL_PROCESS_GROUP": "0", "TINI_SUBREAPER": ""}
    life = start("--", *PRINT_SIGNALS, "main", "second", up=Upbringing(environment=environment))
    life.await_line("ready main", "ready second")
    life.signal(SIGUSR1)
    life.await_line(f"main {int(SIGUSR1)} from init", f"second {int(SIGUSR1)} from init")
    assert NOT_PID_1 not in life.errors()
    theirs = Path(f"/proc/{life.main(*PRINT_SIGNALS, 'main', 'second')}/environ").read_bytes().split(b"\0")
    assert {b"TINI_KILL_PROCESS_GROUP=0", b"TINI_SUBREAPER="} <= set(theirs)


@pytest.mark.parametrize("number", [SIGHUP, SIGINT, SIGUSR1, SIGTERM, SIGPIPE], ids=name_of)
@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_an_inherited_refusal_does_not_stop_forwarding(start: Start, up: Upbringing, number: int, how: str) -> None:
    """A signal that was ignored (nohup) or blocked when the init was started is forwarded all the same."""
    refused = frozenset({int(number)})
    up = replace(up, ignored=refused) if how == "ignored" else replace(up, blocked=refused)
    life = start("--", *PRINT_SIGNALS, "main", up=up)
    life.await_line("ready main")
    life.signal(number)
    life.await_line(f"main {int(number)} from init")


def test_another_group_is_left_alone(start: Start, up: Upbringing) -> None:
    """-g means the program's group: who has left it, and this session, gets nothing."""
    life = start("-g", *sh('setsid "$@" other & exec "$@" main', *PRINT_SIGNALS), up=up)
    life.await_line("ready main", "ready other")
    (other,) = children(life.main(*PRINT_SIGNALS, "main"))
    life.signal(SIGUSR1)
    life.await_line(f"main {int(SIGUSR1)} from init")
    os.kill(other, SIGRTMAX)
    life.await_line(f"other {int(SIGRTMAX)} from other")
    assert [line for line in life.lines() if line.startswith(f"other {int(SIGUSR1)} ")] == []


def test_a_vanished_group_is_survived(start: Start, up: Upbringing) -> None:
    """A signal for a group that does not exist any more is dropped, and the init stays with its program."""
    leave_own_group = """if True:
        import os, signal
        ours, theirs = os.pipe(), os.pipe()
        other = os.fork()
        if other == 0:
            os.setpgid(0, 0)
            os.write(ours[1], b'.')
            os.read(theirs[0], 1)
            os._exit(0)
        os.read(ours[0], 1)
        os.setpgid(0, other)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        print('ready', flush=True)
        signal.sigwait({signal.SIGUSR2})
        os.write(theirs[1], b'.')
        os._exit(9)
    """
    command = (*PYTHON, "-c", leave_own_group)
    life = start("-g", "--", *command, up=up)
    life.await_line("ready")
    main = life.main(*command)
    assert stat(main).group != main
    life.signal_and_settle(SIGUSR1)
    os.kill(main, SIGUSR2)
    assert life.status() == 9


def test_a_stopped_program_is_waited_for(start: Start, up: Upbringing) -> None:
    """Ctrl-Z stops the program and not the init, CONT resumes it, and nobody takes the stop for an end."""
    life = start("--", *SLEEP, up=up)
    main = life.main(*SLEEP)
    life.signal(SIGTSTP)
    eventually(lambda: stat(main).state == "T")
    assert stat(life.init).state not in "TZ"
    life.signal_and_settle(SIGCHLD)
    life.signal(SIGCONT)
    eventually(lambda: stat(main).state == "S")
    assert stat(life.init).state not in "TZ"
    life.signal(SIGTERM)
    assert life.status() == 128 + SIGTERM


# ------------------------------------------------------------------------------------------------ group and terminal


def test_the_program_leads_its_own_group(start: Start, up: Upbringing) -> None:
    """The program has a process group of its own, in the init's session."""
    life = start("--", *SLEEP, up=up)
    main = life.main(*SLEEP)
    eventually(lambda: stat(main).group == main)
    assert stat(life.init).group != main
    assert stat(main).session == stat(life.init).session


@dataclass
class Terminal:
    """A pseudo terminal, and what a person in front of it does."""

    keyboard: int
    screen: int

    def up(self, base: Upbringing) -> Upbringing:
        """Bring an init up there."""
        return replace(base, stdin=self.screen, stderr=self.screen, controlling_terminal=True)

    def types(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.keyboard, keys)

    def forbid_background_output(self) -> None:
        """`stty tostop`."""
        attributes = termios.tcgetattr(self.screen)
        attributes[3] |= termios.TOSTOP
        termios.tcsetattr(self.screen, termios.TCSANOW, attributes)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Provide a terminal that goes away with the test."""
    keyboard, screen = pty.openpty()
    try:
        yield Terminal(keyboard, screen)
    finally:
        os.close(keyboard)
        os.close(screen)


@pytest.fixture
def start_on_terminal(terminal: Terminal, start: Start) -> Start:
    """Start after the terminal, and so end before it."""
    del terminal
    return start


def test_the_program_is_in_the_foreground(start_on_terminal: Start, terminal: Terminal, up: Upbringing) -> None:
    """On a terminal the program's group is the one that reads, and what is typed arrives."""
    life = start_on_terminal(*sh('echo ready; read -r line; [ "$line" = hello ] && exit 4'), up=terminal.up(up))
    life.await_line("ready")
    main = children(life.init)[0]
    assert stat(main).foreground == stat(main).group == main
    terminal.types(b"hello\n")
    assert life.status() == 4


def test_a_background_job_takes_the_foreground(start_on_terminal: Start, terminal: Terminal) -> None:
    """The program's group becomes the one that reads even if a shell has put the init into the background."""
    job_control = ("sh", "-m", "-c", '"$@" & wait', "sh")
    life = start_on_terminal("-s", "--", *SLEEP, up=terminal.up(Upbringing(under=job_control)))
    main = life.main(*SLEEP)
    eventually(lambda: stat(main).foreground == main)
    assert stat(life.init).group not in {main, stat(life.popen.pid).group}


def test_ctrl_c_arrives_once(start_on_terminal: Start, terminal: Terminal, up: Upbringing) -> None:
    """Ctrl-C reaches the program from the terminal, and not a second time from the init."""
    life = start_on_terminal("--", *PRINT_SIGNALS, "main", up=terminal.up(up))
    life.await_line("ready main")
    terminal.types(b"\x03")
    life.await_line(f"main {int(SIGINT)} from kernel")
    life.signal_and_settle(SIGRTMAX)
    life.await_line(f"main {int(SIGRTMAX)} from init")
    assert life.lines() == ["ready main", f"main {int(SIGINT)} from kernel", f"main {int(SIGRTMAX)} from init"]


def test_ctrl_z_stops_the_program_only(start_on_terminal: Start, terminal: Terminal, up: Upbringing) -> None:
    """Ctrl-Z on the terminal stops the program; CONT through the init resumes it."""
    life = start_on_terminal("--", *SLEEP, up=terminal.up(up))
    main = life.main(*SLEEP)
    eventually(lambda: stat(main).foreground == main)
    terminal.types(b"\x1a")
    eventually(lambda: stat(main).state == "T")
    assert stat(life.init).state not in "TZ"
    life.signal(SIGCONT)
    eventually(lambda: stat(main).state == "S")
    life.signal(SIGTERM)
    assert life.status() == 128 + SIGTERM


def test_the_init_may_write_to_the_terminal_from_the_background(start_on_terminal: Start, terminal: Terminal) -> None:
    """`stty tostop` cannot stop the init when it has something to say."""
    terminal.forbid_background_output()
    life = start_on_terminal("-s", "-w", "-vvv", *sh("(exec sleep 0 &); exit 3"), up=terminal.up(Upbringing()))
    assert life.status() == 3


# ------------------------------------------------------------------------------------------------ inheritance

BARE = (
    frozenset[int](),
    frozenset({int(SIGHUP)}),
    frozenset({int(SIGINT)}),
    frozenset({int(SIGUSR1)}),
    frozenset({int(SIGTTIN), int(SIGTTOU)}),
    frozenset({int(SIGTERM), int(SIGUSR2), int(SIGRTMIN), int(SIGRTMAX)}),
)
PYTHONS_OWN = (  # what CPython ignores itself
    frozenset({int(SIGPIPE)}),
    frozenset({int(SIGXFSZ)}),
    frozenset({int(SIGPIPE), int(SIGHUP), int(SIGUSR1)}),
)


bare_and_launched = pytest.mark.parametrize(
    ("where", "launched"), [("plain", False), ("pid1", True)], ids=["plain-bare", "pid1-launched"]
)


def names_of(numbers: object) -> str:
    """Return what several signals are called in the name of a test."""
    assert isinstance(numbers, frozenset)
    return "all" if numbers == CATCHABLE else ",".join(name_of(number) for number in sorted(numbers)) or "none"


def signal_state(pid: int) -> dict[str, frozenset[int]]:
    """Return what a process blocks, ignores and catches."""
    fields = status_fields(pid)
    return {name: signals_in(fields[name]) for name in ("SigBlk", "SigIgn", "SigCgt")}


def assert_brought_up_like_the_init(start: Start, up: Upbringing) -> None:
    """See that the program blocks and ignores exactly what the init was born to block and ignore."""
    state = signal_state(start("--", *SLEEP, up=up).main(*SLEEP))
    assert state == {"SigBlk": up.blocked, "SigIgn": up.ignored, "SigCgt": frozenset()}


@bare_and_launched
@pytest.mark.parametrize("ignored", BARE, ids=names_of)
def test_ignored_signals_are_inherited(start: Start, where: str, ignored: frozenset[int], launched: bool) -> None:
    """The program ignores what the init was started to ignore, and nothing that Python or the init ignore."""
    assert_brought_up_like_the_init(start, replace(place(where), ignored=ignored, launched=launched))


@pytest.mark.parametrize("ignored", PYTHONS_OWN, ids=names_of)
def test_ignored_signals_that_python_hides_are_inherited(start: Start, up: Upbringing, ignored: frozenset[int]) -> None:
    """CPython ignores PIPE and XFSZ itself; by the launcher's word on what was there before, they too are handed on."""
    assert_brought_up_like_the_init(start, replace(up, ignored=ignored, launched=True))


@bare_and_launched
@pytest.mark.parametrize("blocked", [*BARE, *PYTHONS_OWN, CATCHABLE], ids=names_of)
def test_blocked_signals_are_inherited(start: Start, where: str, blocked: frozenset[int], launched: bool) -> None:
    """The program blocks what the init was started to block, and nothing else."""
    assert_brought_up_like_the_init(start, replace(place(where), blocked=blocked, launched=launched))


def test_blocked_and_ignored_are_told_apart(start: Start, up: Upbringing) -> None:
    """Both at once are both handed on."""
    blocked = frozenset({int(SIGTERM), int(SIGPIPE)})
    ignored = frozenset({int(SIGHUP), int(SIGPIPE), int(SIGTERM)})
    assert_brought_up_like_the_init(start, replace(up, blocked=blocked, ignored=ignored, launched=True))


@ours_is_better("tini waits for ever for a program whose end the kernel swallowed")
@pytest.mark.parametrize("launched", [False, True], ids=["bare", "launched"])
def test_an_ignored_chld_does_not_lose_the_exit_status(start: Start, launched: bool) -> None:
    """Started with CHLD ignored (`trap '' CHLD`), the init learns of its program's end; the program ignores CHLD."""
    up = Upbringing(ignored=frozenset({int(SIGCHLD)}), launched=launched)  # not by unshare(1), which resets CHLD
    assert_brought_up_like_the_init(start, up)
    assert start(*sh("exit 5"), up=up).status() == 5


def test_the_environment_is_inherited(start: Start, up: Upbringing) -> None:
    """Every variable as it was, and no other: not the LC_CTYPE that Python adds, not the launcher's message."""
    given: dict[str, str | bytes] = {
        "EMPTY": "",
        "lower": "a=b",
        "BYTES": b"\xff\xfe",
        "LINES_": "1\n2",
        "TINI_SUBREAPER": "1",
    }
    life = start("--", *SLEEP, up=replace(up, environment=given, launched=True))
    theirs = Path(f"/proc/{life.main(*SLEEP)}/environ").read_bytes().split(b"\0")[:-1]
    expected = {os.fsencode(name) + b"=" + os.fsencode(value) for name, value in life.environment.items()}
    assert set(theirs) == expected
    assert len(theirs) == len(set(theirs))


def test_the_arguments_arrive_as_bytes(start: Start) -> None:
    """Empty arguments, line feeds, options and bytes that are no text arrive untouched."""
    command = ("sh", "-c", "kill -STOP $$", "sh", "", "two\nlines", "-e", "--", "--version", b"\xff\xfe", "\u00e9")
    assert start("--", *command).main(*command)


def test_folder_umask_and_limits_are_inherited(start: Start, up: Upbringing, tmp_path: Path) -> None:
    """Current folder, umask and resource limits are the program's as they were the init's."""
    files, size, core = resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE
    limits = {files: (200, 300), size: (1 << 20, 1 << 21), core: (0, 0)}
    main = start("--", *SLEEP, up=replace(up, directory=tmp_path, umask=0o137, limits=limits)).main(*SLEEP)
    assert os.readlink(f"/proc/{main}/cwd") == str(tmp_path)
    assert int(status_fields(main)["Umask"], 8) == 0o137
    assert {limit: resource.prlimit(main, limit) for limit in limits} == limits


def test_identity_and_privileges_are_inherited(start: Start, up: Upbringing) -> None:
    """Users, groups, capabilities and no_new_privs are the program's as they were ours."""
    names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    mine = status_fields("self")
    theirs = status_fields(start("--", *SLEEP, up=up).main(*SLEEP))
    assert {name: theirs[name] for name in names} == {name: mine[name] for name in names}


def test_descriptors_are_inherited(start: Start, up: Upbringing) -> None:
    """Extra descriptors are the program's under the same number, and none of the init's own are."""
    pipe = os.pipe()
    low, high = fcntl.fcntl(pipe[0], fcntl.F_DUPFD, 40), fcntl.fcntl(pipe[1], fcntl.F_DUPFD, 777)
    try:
        child = start("--", *SLEEP, up=replace(up, passed=(low, high))).main(*SLEEP)
        assert eventually(lambda: set(descriptors(child)) == {0, 1, 2, low, high})
        theirs = descriptors(child)
        assert {theirs[low], theirs[high]} == {os.readlink(f"/proc/self/fd/{pipe[0]}")}  # both ends have one name
    finally:
        for number in (*pipe, low, high):
            os.close(number)


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)], ids=str)
def test_closed_output_stays_closed(start: Start, up: Upbringing, closed: tuple[int, ...]) -> None:
    """A descriptor that was closed is closed for the program too, and nothing of the init's takes its place."""
    child = start("--", *SLEEP, up=replace(up, closed=closed)).main(*SLEEP)
    # Not at once: for a moment the dynamic loader's own files have the lowest free numbers.
    assert eventually(lambda: set(descriptors(child)) == {0, 1, 2} - set(closed))


@ours_is_better("for tini a closed stdin is fatal")
@pytest.mark.parametrize("closed", [(0,), (0, 1, 2)], ids=str)
def test_a_closed_stdin_is_no_reason_to_fail(start: Start, up: Upbringing, closed: tuple[int, ...]) -> None:
    """A service without a stdin runs."""
    up = replace(up, closed=closed)
    child = start("--", *SLEEP, up=up).main(*SLEEP)
    assert eventually(lambda: set(descriptors(child)) == {0, 1, 2} - set(closed))
    assert start(*sh("exit 6"), up=up).status() == 6


# ------------------------------------------------------------------------------------------------ zombies

ORPHANS = 100
MAKE_ORPHANS = f"""if True:
    import os, signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
    hold, release = os.pipe()
    for _ in range({ORPHANS}):
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os.close(release)
                os.read(hold, 1)
            os._exit(0)
        os.waitpid(child, 0)
    print('ready', flush=True)
    signal.sigwait({{signal.SIGUSR1}})
    os.close(release)
    signal.pause()
"""


@pytest.mark.parametrize(
    ("where", "options"), [("pid1", ()), ("plain", ("-s",)), ("pid1", ("-w",)), ("plain", ("-s", "-w"))], ids=str
)
def test_orphans_are_reaped(start: Start, where: str, options: Sequence[str]) -> None:
    """A hundred orphans that die at once are reaped while the program lives; with -w there is a warning for each."""
    command = (*PYTHON, "-c", MAKE_ORPHANS)
    life = start(*options, "--", *command, up=place(where))
    life.await_line("ready")
    eventually(lambda: len(children(life.init)) == ORPHANS + 1)
    main = stat(children(life.init)[0]).group  # they all have its command line, and when pids wrap not the higher pids
    os.kill(main, SIGUSR1)
    eventually(lambda: children(life.init) == [main])
    expected = ORPHANS if "-w" in options else 0
    warning = r"(?i)\bwarn.*reaped zombie process with pid=(\d+)"
    eventually(lambda: len(re.findall(warning, life.errors())) >= expected)
    warnings = re.findall(warning, life.errors())
    assert len(warnings) == len(set(warnings)) == expected
    os.kill(main, SIGKILL)
    assert life.status() == 128 + SIGKILL
    assert len(re.findall(r"(?i)reaped zombie", life.errors())) == len(warnings)


def test_without_s_orphans_belong_to_others(start: Start) -> None:
    """An init that is neither PID 1 nor asked to be a subreaper does not become one."""
    command = (*PYTHON, "-c", MAKE_ORPHANS)
    life = start("--", *command)
    life.await_line("ready")
    assert children(life.init) == [life.main(*command)]


def test_the_status_of_an_orphan_is_not_the_programs(start: Start, up: Upbringing) -> None:
    """Orphans that end with other statuses, before and after, change nothing."""
    script = "(sh -c 'exit 9' &); (sh -c 'kill -9 $$' &); (sleep 300 &); exit 8"
    assert statuses(start, [("-s", *sh(script))] * 5, up) == [8] * 5


@pytest.mark.parametrize(
    ("up", "options", "warned"),
    [
        (Upbringing(), (), True),
        (Upbringing(), ("-v",), True),
        (Upbringing(), ("-s", "-s"), False),
        (Upbringing(environment={"TINI_SUBREAPER": ""}), (), False),
        (Upbringing(environment={"TINI_VERBOSITY": "0"}), (), False),
        (Upbringing(environment={"TINI_VERBOSITY": "1"}), (), True),
        (Upbringing(environment={"TINI_VERBOSITY": "abc"}), (), False),
        (Upbringing(environment={"TINI_VERBOSITY": "-1"}), (), True),
        (Upbringing(subreaper=True), (), False),
        (Upbringing(as_pid1=True), (), False),
    ],
    ids=["plain", "verbose", "s", "TINI_SUBREAPER", "silent", "1", "abc", "-1", "subreaper-already", "pid1"],
)
def test_one_who_cannot_reap_says_so(start: Start, up: Upbringing, options: Sequence[str], warned: bool) -> None:
    """Neither PID 1 nor a subreaper: one warning, and the program is run all the same."""
    end = ended(start(*options, *sh("exit 11"), up=place("pid1") if up.as_pid1 else up))
    assert end.status == 11
    assert (NOT_PID_1 in end.errors) == warned


# ------------------------------------------------------------------------------------------------ -p

STEP_PARENT = ("sh", "-c", '"$@" & wait', "sh")


@pytest.mark.parametrize(
    "number",
    [SIGTERM, SIGHUP, SIGUSR1, pytest.param(SIGRTMIN, marks=ours_is_better("tini knows 28 names"))],
    ids=name_of,
)
def test_p_announces_the_parents_death(start: Start, number: signal.Signals) -> None:
    """With -p the init gets that signal when its parent dies, and forwards it like any other."""
    life = start("-p", number.name, "--", *PRINT_SIGNALS, "main", up=Upbringing(under=STEP_PARENT))
    init = life.init
    life.await_line("ready main")
    os.kill(life.popen.pid, SIGKILL)
    eventually(lambda: f"main {int(number)} from init" in life.lines())
    assert is_running(init)


def test_p_is_not_for_the_program(start: Start) -> None:
    """-p SIGKILL ends the init with its parent, and not the program, which it is no parent's death to."""
    life = start("-p", "SIGKILL", "--", *PRINT_SIGNALS, "main", up=Upbringing(under=STEP_PARENT))
    init, main = life.init, life.main(*PRINT_SIGNALS, "main")
    life.await_line("ready main")
    os.kill(life.popen.pid, SIGKILL)
    eventually(lambda: not is_running(init))
    os.kill(main, SIGRTMAX)
    eventually(lambda: f"main {int(SIGRTMAX)} from other" in life.lines())


def test_without_p_the_parents_death_is_nothing(start: Start) -> None:
    """Without -p nothing is sent when the parent dies."""
    life = start("--", *PRINT_SIGNALS, "main", up=Upbringing(under=STEP_PARENT))
    init = life.init
    life.await_line("ready main")
    os.kill(life.popen.pid, SIGKILL)
    eventually(lambda: stat(init).parent != life.popen.pid)
    os.kill(init, SIGRTMAX)
    eventually(lambda: f"main {int(SIGRTMAX)} from init" in life.lines())
    assert life.lines() == ["ready main", f"main {int(SIGRTMAX)} from init"]


def test_p_takes_every_name(start: Start) -> None:
    """The names of all classic signals are accepted."""
    found = statuses(start, [("-p", name, *sh("exit 12")) for name in PARENT_DEATH_SIGNALS])
    assert dict(zip(PARENT_DEATH_SIGNALS, found, strict=True)) == dict.fromkeys(PARENT_DEATH_SIGNALS, 12)


@ours_is_better("tini knows 28 names")
@pytest.mark.parametrize("name", ["SIGPWR", "SIGIO", "SIGSTKFLT", "SIGRTMIN", "SIGRTMAX"])
def test_p_takes_the_other_names_as_well(start: Start, name: str) -> None:
    """Whatever can be sent can announce the parent's death."""
    assert start("-p", name, *sh("exit 12")).status() == 12


@pytest.mark.parametrize("name", ["KILL", "9", "sigterm", "SIGNONE", "SIG", "SIG_DFL", " SIGTERM", ""])
def test_p_refuses_what_is_no_name(start: Start, name: str) -> None:
    """Anything else is an error that names the option and the value, and nothing is run."""
    end = ended(start("-p", name, "--", "echo", "was run"))
    assert end.status == 1
    assert "-p" in end.errors
    assert name in end.errors
    assert end.output == ""


# ------------------------------------------------------------------------------------------------ the command line


def test_h_explains(start: Start) -> None:
    """-h prints every option on stdout and ends well."""
    end = ended(start("-h"))
    assert (end.status, end.errors) == (0, "")
    assert [option for option in ("-s", "-p", "-v", "-w", "-g", "-e", "-l", "-h") if option not in end.output] == []


def test_l_prints_the_licence(start: Start) -> None:
    """-l prints the licence on stdout and ends well."""
    end = ended(start("-l"))
    assert (end.status, end.errors) == (0, "")
    assert re.search("copyright|licen[cs]e", end.output, re.IGNORECASE)


def test_version(start: Start) -> None:
    """--version prints one line with a version on stdout and ends well."""
    end = ended(start("--version"))
    assert (end.status, end.errors) == (0, "")
    assert re.fullmatch(r"\S.* \d+\.\d+\.\d+.*\n", end.output)


@ours_is_better("tini has its own name there")
def test_version_is_ours(start: Start) -> None:
    """--version names the program, wherever it stands among the options."""
    for arguments in (("--version",), ("-s", "--version")):
        end = ended(start(*arguments))
        assert end.status == 0
        assert re.fullmatch(r"safe_reload \d+\.\d+\.\d+\S*\n", end.output)


@ours_is_better("tini has no long options")
def test_help_is_also_long(start: Start) -> None:
    """--help is -h."""
    long, short = ended(start("--help")), ended(start("-h"))
    assert (long.status, long.output, long.errors) == (0, short.output, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("-e",),
        ("-p",),
        ("--no-such-option", "--", "true"),
        pytest.param(("-z", "--", "true"), marks=tini_only("an option that is not ours begins haproxy's")),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_an_error(start: Start, arguments: Sequence[str]) -> None:
    """An unknown option, or one without its value, is status 1 and words on stderr."""
    end = ended(start(*arguments))
    assert (end.status, end.output) == (1, "")
    assert end.errors


@tini_only("no operand means haproxy")
@pytest.mark.parametrize("arguments", [(), ("--",), ("-s",)], ids=" ".join)
def test_no_program_is_an_error(start: Start, arguments: Sequence[str]) -> None:
    """Without a program there is nothing to do: usage on stderr, status 1."""
    end = ended(start(*arguments))
    assert (end.status, end.output) == (1, "")
    assert end.errors


@pytest.mark.parametrize(
    ("arguments", "status", "output"),
    [
        (("sh", "-c", "exit 13"), 13, ""),
        (("-s", "echo", "-l", "-h", "--version", "-e", "300"), 0, "-l -h --version -e 300\n"),
        (("echo", "--", "-g"), 0, "-- -g\n"),
    ],
    ids=["sh", "echo", "dashes"],
)
@ours_is_better("tini's getopt takes the program's own options away")
def test_options_end_at_the_program(start: Start, arguments: Sequence[str], status: int, output: str) -> None:
    """What stands after the program's name belongs to the program, `--` or not."""
    end = ended(start(*arguments))
    assert (end.status, end.output) == (status, output)


def test_options_end_at_the_program_by_posix(start: Start) -> None:
    """With POSIXLY_CORRECT they do so in every init."""
    up = Upbringing(environment={"POSIXLY_CORRECT": "1"})
    assert start("-s", "sh", "-c", "exit 3", up=up).status() == 3


@tini_only("a word with a dash where the program should be begins haproxy's")
def test_a_second_pair_of_dashes_is_a_program(start: Start) -> None:
    """`-- -- true` looks for a program that is called `--`."""
    assert start("--", "--", "true").status() == 127


def test_options_end_at_two_dashes(start: Start) -> None:
    """What stands after `--` belongs to the program, a second `--` included."""
    end = ended(start("-s", "--", "echo", "-l", "--", "-h"))
    assert (end.status, end.output) == (0, "-l -- -h\n")


# ------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("options", "verbosity"),
    [((), None), ((), "1"), ((), "0"), (("-vvv",), "0")],
    ids=["default", "1", "0", "0-over-vvv"],
)
def test_an_init_is_silent(start: Start, options: Sequence[str], verbosity: str | None) -> None:
    """When all is well there is nothing to say; TINI_VERBOSITY goes before -v."""
    environment = {} if verbosity is None else {"TINI_VERBOSITY": verbosity}
    end = ended(start("-s", *options, "--", "true", up=Upbringing(environment=environment)))
    assert (end.status, end.output, end.errors) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "verbosity"),
    [(("-vvv",), None), (("-v", "-v", "-v"), None), (("-v", "-vv"), None), ((), "4"), (("-v",), "4")],
    ids=["vvv", "v-v-v", "v-vv", "4", "4-over-v"],
)
def test_v_says_more(start: Start, options: Sequence[str], verbosity: str | None) -> None:
    """Each -v, or a higher TINI_VERBOSITY, says more of what happens."""
    environment = {} if verbosity is None else {"TINI_VERBOSITY": verbosity}
    end = ended(start("-s", *options, "--", "true", up=Upbringing(environment=environment)))
    assert end.status == 0
    assert end.words


@ours_is_better("tini's verbose output mixes with the program's")
@pytest.mark.parametrize("options", [("-v",), ("-vv",), ("-vvv",)], ids=" ".join)
def test_verbose_words_are_not_on_stdout(start: Start, options: Sequence[str]) -> None:
    """Nothing but the program writes to stdout."""
    end = ended(start("-s", *options, "--", "echo", "mine"))
    assert (end.status, end.output) == (0, "mine\n")
    assert end.errors


@ours_is_better("tini wakes up once a second")
def test_an_idle_init_sleeps(start: Start) -> None:
    """While nothing happens the init does not wake up at all."""
    life = start("-s", "--", *SLEEP)
    life.main(*SLEEP)
    eventually(lambda: stat(life.init).state == "S")

    def wake_ups() -> int:
        return int(status_fields(life.init)["voluntary_ctxt_switches"])

    def wake_ups_meanwhile() -> int:
        before = wake_ups()
        time.sleep(1.2)  # the time of observation: longer than tini's tick
        return wake_ups() - before

    assert any(wake_ups_meanwhile() == 0 for _ in range(3))  # start-up may still have been going on in the first
