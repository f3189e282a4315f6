"""The init under test, and one life of it, seen from outside: through /proc, its output and its exit status."""

import fcntl
import functools
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import termios
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.system.launcher import launcher
from tests.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
UNSHARE = shutil.which("unshare")
EVERY_SIGNAL = frozenset(int(number) for number in signal.valid_signals())
CATCHABLE = EVERY_SIGNAL - {signal.SIGKILL, signal.SIGSTOP}
PATIENCE = 20.0
AT_ONCE = 16  # how many are started side by side when many are to be run


# ------------------------------------------------------------------------------------------------ what /proc says


@dataclass(frozen=True)
class Stat:
    """The part of /proc/PID/stat that matters here."""

    state: str
    parent: int
    group: int
    session: int
    foreground: int  # the foreground group of its terminal, -1 without one


def stat(pid: int) -> Stat:
    """Tell who this process belongs to."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return Stat(fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[5]))


def processes() -> Iterator[tuple[int, Stat]]:
    """Yield every process there is."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                yield int(entry), stat(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue


def children(pid: int) -> list[int]:
    """Return the children of a process, dead ones included."""
    return [child for child, child_stat in processes() if child_stat.parent == pid]


def is_running(pid: int) -> bool:
    """Tell whether this process exists and is not a zombie."""
    try:
        return stat(pid).state not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> list[bytes]:
    """Return the words with which a process was started; none for a zombie or one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def status_fields(pid: int | str) -> dict[str, str]:
    """Return the lines of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def signals_in(mask: str) -> frozenset[int]:
    """Decode a mask of /proc/PID/status."""
    bits = int(mask, 16)
    return frozenset(number for number in EVERY_SIGNAL if bits >> (number - 1) & 1)


def pending(pid: int) -> frozenset[int]:
    """Return the signals that a process has not taken yet."""
    fields = status_fields(pid)
    return signals_in(fields["SigPnd"]) | signals_in(fields["ShdPnd"])


# ------------------------------------------------------------------------------------------------ one life


@dataclass(frozen=True)
class Program:
    """The init under test: the words that start it."""

    words: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Tell whether it is safe_reload, in whatever way it is started."""
        return "entrypoint" in self.words or any(Path(word).name.startswith("safe_reload") for word in self.words)


@dataclass(frozen=True)
class Upbringing:
    """What a process inherits when it is started. The defaults are those of a container."""

    as_pid1: bool = False
    environment: Mapping[str, str | bytes] = field(default_factory=dict)
    bare_environment: bool = False  # nothing but `environment`
    directory: Path = Path("/")
    directory_is_gone: bool = False  # it is one in `directory`
    umask: int = 0o022
    nice: int = 0
    limits: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    blocked: frozenset[int] = frozenset()
    ignored: frozenset[int] = frozenset()
    launched: bool = False  # ours by its launcher, as in the image
    subreaper: bool = False
    stdin: int = subprocess.DEVNULL
    stderr: int | None = None
    controlling_terminal: bool = False  # stdin becomes it
    standard: Mapping[int, int] = field(default_factory=dict)  # which descriptor takes the place of which of the three
    closed: Collection[int] = ()
    passed: Collection[int] = ()
    under: Sequence[str] = ()  # a command that starts the init as its only child


class Life:
    """One life of the init under test."""

    def __init__(self, program: Program, arguments: Sequence[str | bytes], up: Upbringing) -> None:
        """Start it."""
        self._stdout = tempfile.TemporaryFile()  # noqa: SIM115  # end() closes both
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self.is_pid1 = up.as_pid1
        self._has_parent = up.as_pid1 or bool(up.under)
        self.environment = _environment(program, up)
        self.popen = subprocess.Popen(  # pytest has one thread
            [*_parent(up), *_init(program, up), *arguments],
            stdin=up.stdin,
            stdout=self._stdout,
            stderr=self._stderr if up.stderr is None else up.stderr,
            env=self.environment,
            cwd=up.directory,
            start_new_session=True,  # by which end() finds those who are left
            preexec_fn=functools.partial(_bring_up, up),  # noqa: PLW1509  # pytest has one thread
            pass_fds=tuple(up.passed),
        )
        self._sessions = {self.popen.pid}

    @functools.cached_property
    def init(self) -> int:
        """Find the pid of the init, as seen from here."""
        if not self._has_parent:
            return self.popen.pid
        return eventually(lambda: children(self.popen.pid))[0]

    def main(self, *command: str | bytes) -> int:
        """Find the pid of the main child, as soon as it has become that command."""
        wanted = [os.fsencode(word) for word in command]
        return eventually(lambda: self._child_that_is(wanted))

    def signal(self, number: int) -> None:
        """Send the init a signal."""
        os.kill(self.init, number)

    def signal_and_settle(self, number: int) -> None:
        """Send the init a signal, and return when it is no longer pending there."""
        self.signal(number)
        eventually(lambda: number not in pending(self.init))

    def output(self) -> str:
        """Return what was written to stdout so far."""
        return _text(self._stdout)

    def lines(self) -> list[str]:
        """Return the complete lines on stdout so far."""
        return self.output().split("\n")[:-1]

    def errors(self) -> str:
        """Return what was written to stderr so far."""
        return _text(self._stderr)

    def await_line(self, *wanted: str) -> None:
        """Wait until each of these lines has been printed on stdout."""
        for line in wanted:
            eventually(lambda: self._alive_with(line))  # noqa: B023  # called before the loop goes on

    def _alive_with(self, line: str) -> bool:
        found = line in self.lines()
        self._must_live(found)
        return found

    def _child_that_is(self, command: list[bytes]) -> int:
        found = next((pid for pid in children(self.init) if command_line(pid) == command), 0)
        self._must_live(bool(found))
        return found

    def _must_live(self, unless: bool) -> None:
        """Fail at once instead of waiting for something from the dead."""
        assert unless or self.popen.poll() is None, f"ended too early with {self.popen.returncode}: {self.errors()}"

    def status(self) -> int:
        """Wait for the end and return the exit status (negative: killed by that signal)."""
        return self.popen.wait(PATIENCE)

    def end(self) -> None:
        """Leave nobody behind."""
        try:
            eventually(self._nobody_left)
        finally:
            self._stdout.close()
            self._stderr.close()

    def _nobody_left(self) -> bool:
        everyone = dict(processes())
        survivors = self._relatives(everyone)
        for pid in survivors:
            self._sessions.add(everyone[pid].session)  # some inits give their program one of its own
            if self._has_parent and pid == self.popen.pid and len(survivors) > 1:
                continue  # it ends by itself, and buries the init before
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return self.popen.poll() is not None and not survivors

    def _relatives(self, everyone: Mapping[int, Stat]) -> set[int]:
        """Find the living who descend from us, or are in the session of one who did."""
        found = {pid for pid, stat in everyone.items() if stat.session in self._sessions}
        while more := {pid for pid, stat in everyone.items() if stat.parent in found} - found:
            found |= more
        return {pid for pid in found if everyone[pid].state not in "ZX"}


@contextmanager
def lives(program: Program) -> Iterator[Callable[..., Life]]:
    """Provide a function that starts lives; all are over when the context is left."""
    with ExitStack() as stack:

        def start(*arguments: str | bytes, up: Upbringing | None = None) -> Life:
            life = Life(program, arguments, up or Upbringing())
            stack.callback(life.end)
            return life

        yield start


def statuses(start: Callable[..., Life], commands: Iterable[Sequence[str]], up: Upbringing | None = None) -> list[int]:
    """Run many commands side by side and return the exit status of each."""
    waiting = list(commands)
    found: list[int] = []
    while waiting:
        batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        found += [life.status() for life in [start(*command, up=up) for command in batch]]
    return found


@functools.cache
def why_not_pid1() -> str:
    """Return the reason why no process can be made PID 1 here, or nothing."""
    if UNSHARE is None:
        return "unshare is not installed"
    command = [*_parent(Upbringing(as_pid1=True)), "true"]
    attempt = subprocess.run(command, capture_output=True, check=False, text=True)
    return f"unshare: {attempt.stderr.strip()}" if attempt.returncode else ""


# ------------------------------------------------------------------------------------------------ how it is started


def _parent(up: Upbringing) -> list[str]:
    """Return what starts the init."""
    if up.as_pid1:
        return [UNSHARE or "unshare", "--pid", "--fork", "--mount-proc"]
    return list(up.under)


def _environment(program: Program, up: Upbringing) -> dict[str, str | bytes]:
    environment: dict[str, str | bytes] = {} if up.bare_environment else {"PATH": os.environ.get("PATH", os.defpath)}
    if program.is_ours and not up.launched:
        environment["PYTHONPATH"] = str(REPOSITORY)
    return environment | dict(up.environment)


def _init(program: Program, up: Upbringing) -> Sequence[str]:
    """Return the words that start the init itself."""
    return (str(launcher()),) if program.is_ours and up.launched else program.words


def _bring_up(up: Upbringing) -> None:
    """Between fork and exec: hand on exactly what was asked for, nothing of pytest's."""
    for number in CATCHABLE:
        signal.signal(number, signal.SIG_IGN if number in up.ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, up.blocked)
    os.umask(up.umask)
    os.nice(up.nice)
    if up.directory_is_gone:
        gone = up.directory / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for limit, soft_and_hard in up.limits.items():
        resource.setrlimit(limit, soft_and_hard)
    if up.subreaper:
        _become_subreaper()
    if up.controlling_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number, descriptor in up.standard.items():
        os.dup2(descriptor, number)
    for number in up.closed:
        os.close(number)


def _become_subreaper() -> None:
    import ctypes

    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def _text(file: IO[bytes]) -> str:
    """Read all of a file, without moving the position that the writers share."""
    return os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace")
