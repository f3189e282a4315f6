"""Processes: real children are born with exactly what they should have, are signalled, and are reaped."""

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoint.core.events import Exited, Reaped
from entrypoint.system.processes import Processes, SpawnSpec, find_program, raise_open_files
from entrypoint.system.signals import become_subreaper
from tests.descriptors import descriptors
from tests.system.apart import apart, in_child
from tests.system.lives import children, command_line, stat, status_fields
from tests.waiting import eventually

PATH = os.environ.get("PATH", os.defpath)
ENVIRONMENT = {"PATH": PATH}
SLEEP = ("sleep", "300")
AS_COMMANDED = [word.encode() for word in SLEEP]


def block_nothing() -> None:
    """Do what a new process is owed: all signals are blocked around fork."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def complain(line: str) -> None:
    """Say it on stderr."""
    os.write(2, f"{line}\n".encode())


OWED: dict[str, tuple[frozenset[int], frozenset[int]] | None] = {
    "fork": None,
    "posix_spawn": (frozenset(), frozenset()),
}
"""What of a new process's signals can be left to posix_spawn(3): all or nothing."""
_way = "fork"


@pytest.fixture(autouse=True, params=OWED)
def way(request: pytest.FixtureRequest) -> None:
    """Start every process in each of the two ways: nobody may notice which one it is."""
    global _way  # noqa: PLW0603
    _way = request.param


def processes() -> Processes:
    """Return a parent without children."""
    return Processes(block_nothing, complain, OWED[_way])


def deaths_of(parent: Processes, count: int) -> list[Exited | Reaped]:
    """Wait until so many processes have been reaped."""
    deaths: list[Exited | Reaped] = []

    def all_told() -> bool:
        deaths.extend(parent.reap())
        return len(deaths) >= count

    eventually(all_told)
    return deaths


def one_death(parent: Processes) -> Exited | Reaped:
    """Wait until exactly one process has been reaped."""
    (death,) = deaths_of(parent, 1)
    return death


def life(*words: str, environment: dict[str, str] | None = None) -> tuple[Exited | Reaped, str]:
    """Let a program live, apart; return its end and all that was written to stdout and stderr."""

    def work() -> tuple[Exited | Reaped, str]:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        parent = processes()
        parent.spawn(1, SpawnSpec(words, ENVIRONMENT if environment is None else environment))
        death = one_death(parent)
        for descriptor in (1, 2, writer):
            os.close(descriptor)
        with open(reader) as output:
            return death, output.read()

    return apart(work)


def sleeper(parent: Processes, number: int = 1, **spec: object) -> int:
    """Start a process that only waits, and return its pid as soon as it does."""
    pid = parent.spawn(number, SpawnSpec(SLEEP, ENVIRONMENT, **spec))  # type: ignore[arg-type]  # SpawnSpec's own names
    eventually(lambda: command_line(pid) == AS_COMMANDED and stat(pid).state == "S")
    return pid


def end(parent: Processes, number: int = 1) -> None:
    """Kill a process and reap it."""
    parent.send(number, signal.SIGKILL)
    assert one_death(parent) == Exited(number, -signal.SIGKILL)


# ---- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 77, 255])
def test_an_exit_status_is_reported(status: int) -> None:
    """What the program exits with is what its generation exited with."""
    assert life("sh", "-c", f"exit {status}") == (Exited(1, status), "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT, signal.SIGRTMIN])
@in_child
def test_a_death_by_signal_is_reported(signum: int) -> None:
    """The signal is told by its number made negative."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = processes()
    sleeper(parent)
    parent.send(1, signum)
    assert one_death(parent) == Exited(1, -signum)


@in_child
def test_each_child_is_known_by_its_generation() -> None:
    """Of several children each one's end is told with its own number, whatever the order."""
    parent = processes()
    pids = [sleeper(parent, number) for number in (7, 8, 9)]
    assert len(set(pids)) == 3
    for number, signum in ((8, signal.SIGTERM), (7, signal.SIGINT), (9, signal.SIGHUP)):
        parent.send(number, signum)
    deaths = deaths_of(parent, 3)
    assert children(os.getpid()) == []
    assert {(death.number, death.status) for death in deaths if isinstance(death, Exited)} == {
        (7, -signal.SIGINT),
        (8, -signal.SIGTERM),
        (9, -signal.SIGHUP),
    }


@in_child
def test_reaping_without_a_death_returns_nothing() -> None:
    """Reaping neither waits nor fails, without children and with one that lives."""
    parent = processes()
    without = list(parent.reap())
    sleeper(parent)
    with_one = list(parent.reap())
    end(parent)
    assert [without, with_one, list(parent.reap())] == [[], [], []]


@in_child
def test_a_reaped_process_is_not_signalled() -> None:
    """An unknown number, or one with a reaped process, gets no signal: its pid may belong to another process."""
    parent = processes()
    parent.send(5, signal.SIGKILL)
    sleeper(parent)
    end(parent)
    parent.send(1, signal.SIGKILL)
    parent.send(1, signal.SIGKILL, to_group=True)


TRACED = "import ctypes, os, signal; ctypes.CDLL(None).ptrace(0, 0, None, None); "
AFTER_A_SIGNAL = "signal.signal(signal.SIGUSR1, lambda *_: os._exit(7)); os.kill(os.getpid(), signal.SIGUSR1)"
AFTER_AN_EXEC = "os.execv('/bin/sh', ['sh', '-c', 'exit 7'])"
WHILE_STOPPED = "os.kill(os.getpid(), signal.SIGSTOP); os._exit(7)"


@pytest.mark.parametrize("what", [AFTER_A_SIGNAL, AFTER_AN_EXEC])
def test_a_child_that_asks_to_be_traced_has_not_ended_when_it_stops(what: str) -> None:
    """PTRACE_TRACEME makes us its tracer: it goes on, gets its signals, and its end is its end."""
    parent = processes()
    parent.spawn(4, SpawnSpec((sys.executable, "-c", TRACED + what), ENVIRONMENT))
    assert deaths_of(parent, 1) == [Exited(4, 7)]


def test_a_traced_child_that_stops_itself_is_continued_as_any_other() -> None:
    """It stays stopped, as it would untraced, until somebody sends SIGCONT."""
    parent = processes()
    pid = parent.spawn(4, SpawnSpec((sys.executable, "-c", TRACED + WHILE_STOPPED), ENVIRONMENT))

    def is_stopped() -> bool:
        assert not list(parent.reap())
        return stat(pid).state == "T"

    eventually(is_stopped)
    parent.send(4, signal.SIGCONT)
    assert deaths_of(parent, 1) == [Exited(4, 7)]


@in_child
def test_an_orphan_is_reaped_as_nobodys() -> None:
    """An orphaned grandchild comes to us, and its end is told by its pid."""
    become_subreaper()
    parent = processes()
    reader, writer = os.pipe()
    spec = SpawnSpec(("sh", "-c", f"cat <&{reader} & exit 3"), ENVIRONMENT, (reader,))
    parent.spawn(1, spec)
    os.close(reader)
    first = one_death(parent)
    orphans = children(os.getpid())
    os.close(writer)
    second = one_death(parent)
    assert first == Exited(1, 3)
    assert [second] == [Reaped(pid) for pid in orphans]


# ---- what cannot be executed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such-program-anywhere", "/no/such/program", "./no-such-program", ""])
def test_a_program_that_is_not_there_is_127(name: str) -> None:
    """As from a shell, and one line says so."""
    assert life(name) == (Exited(1, 127), f"exec {name} failed: No such file or directory\n")


def test_a_program_that_may_not_be_executed_is_126(tmp_path: Path) -> None:
    """A file without the permission, and a folder, are each told in one line."""
    path = tmp_path / "file"
    path.write_text("#!/bin/sh\n")
    for name in (str(path), str(tmp_path)):
        assert life(name) == (Exited(1, 126), f"exec {name} failed: Permission denied\n")
    found = life("file", environment={"PATH": str(tmp_path)})
    assert found == (Exited(1, 126), "exec file failed: Permission denied\n")


def test_anything_else_that_prevents_it_is_1(tmp_path: Path) -> None:
    """A path that leads in a circle is neither missing nor forbidden."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert life(str(loop)) == (Exited(1, 1), f"exec {loop} failed: {os.strerror(errno.ELOOP)}\n")


def test_what_may_not_be_executed_does_not_hide_what_may(tmp_path: Path) -> None:
    """PATH is searched on after a file that may not be executed; if there is no other, that is what is told."""
    for name, mode in (("first", 0o644), ("second", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prog").write_text("#!/bin/sh\necho $0\n")
        (tmp_path / name / "prog").chmod(mode)
    first, second = tmp_path / "first", tmp_path / "second"
    assert life("prog", environment={"PATH": f"{first}:{second}"}) == (Exited(1, 0), f"{second}/prog\n")
    found = life("prog", environment={"PATH": f"{first}:/no/such/folder"})
    assert found == (Exited(1, 126), "exec prog failed: Permission denied\n")


def test_a_path_with_something_in_it_that_is_no_folder_is_searched_on(tmp_path: Path) -> None:
    """A file in PATH is no folder in which anything could be found, and no reason to stop."""
    (tmp_path / "file").write_text("")
    environment = {"PATH": f"{tmp_path}/file:{PATH}"}
    assert life("sh", "-c", "exit 3", environment=environment) == (Exited(1, 3), "")
    assert life("no-such-program", environment=environment)[0] == Exited(1, 127)


def test_a_script_without_an_interpreter_line_is_the_shells(tmp_path: Path) -> None:
    """As execvp(3) does: /bin/sh runs it, with its arguments, by its path and by its name."""
    script = tmp_path / "script"
    script.write_text('echo "$# $1 $2"; exit 5\n')
    script.chmod(0o755)
    assert life(str(script), "a b", "c") == (Exited(1, 5), "2 a b c\n")


def test_such_a_script_is_found_in_the_path_that_it_is_given(tmp_path: Path) -> None:
    """PATH of the new process's environment decides, for a script without an interpreter line, too."""
    script = tmp_path / "some-script"
    script.write_text("echo found\n")
    script.chmod(0o755)
    assert life("some-script", environment={"PATH": f"{tmp_path}:{PATH}"}) == (Exited(1, 0), "found\n")


@in_child
def test_a_process_that_cannot_be_made_is_an_error() -> None:
    """When fork fails the caller is told, and our signal mask is as before."""
    if os.getuid() == 0:
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    found = None
    try:
        processes().spawn(1, SpawnSpec(SLEEP, ENVIRONMENT))
    except OSError as error:
        found = error.errno
    assert found == errno.EAGAIN
    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, ())


# ---- what it is born with ------------------------------------------------------------------------------------------


@in_child
def test_it_gets_its_words_and_its_environment_and_no_others() -> None:
    """Neither our own variables nor the names under which we were started reach it."""
    parent = processes()
    pid = parent.spawn(1, SpawnSpec(SLEEP, {"PATH": PATH, "A": "b c", "E": ""}))
    eventually(lambda: command_line(pid) == AS_COMMANDED)
    content = Path(f"/proc/{pid}/environ").read_bytes()
    end(parent)
    assert set(content.split(b"\0")[:-1]) == {b"PATH=" + PATH.encode(), b"A=b c", b"E="}


@in_child
def test_it_gets_the_descriptors_that_were_named_and_no_others() -> None:
    """Each has the same number there as here; everything else from 3 up stays ours."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(null + 1, 40):
        os.dup2(null, descriptor, inheritable=False)
    reader, writer = os.pipe()
    os.dup2(reader, 33, inheritable=False)
    os.dup2(writer, 5, inheritable=False)
    ours = {number: os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2, 5, 33)}
    parent = processes()
    pid = sleeper(parent, descriptors=(5, 33))
    theirs = descriptors(pid)
    end(parent)
    assert theirs == ours


@in_child
def test_naming_a_descriptor_does_not_make_ours_inheritable() -> None:
    """What one child inherits the next does not, unless it is named again."""
    reader, _ = os.pipe()
    parent = processes()
    first = sleeper(parent, 1, descriptors=(reader,))
    second = sleeper(parent, 2)
    found = reader in descriptors(first), reader in descriptors(second)
    end(parent, 1)
    end(parent, 2)
    assert found == (True, False)


@in_child
def test_a_descriptor_can_have_another_number_there() -> None:
    """Also one that is something else here, which stays ours; it is not inherited under its own number."""
    reader, writer = os.pipe()
    vip = os.open("/dev/null", os.O_RDWR)
    ours = descriptors(os.getpid())
    parent = processes()
    first = sleeper(parent, 1, renumbered={vip: reader, 40: writer})
    second = sleeper(parent, 2)
    theirs, others = descriptors(first), descriptors(second)
    end(parent, 1)
    end(parent, 2)
    pipe = ours[reader]
    assert theirs == {**{number: ours[number] for number in (0, 1, 2)}, vip: pipe, 40: pipe}
    assert set(others) == {0, 1, 2}
    assert {number: ours[number] for number in (reader, writer, vip)} == {reader: pipe, writer: pipe, vip: "/dev/null"}


@in_child
def test_a_descriptor_can_be_given_its_own_number() -> None:
    """As to the generation that reads the VIPs' first sockets."""
    vip = os.open("/dev/null", os.O_RDWR)
    parent = processes()
    pid = sleeper(parent, 1, renumbered={vip: vip})
    theirs = descriptors(pid)
    end(parent, 1)
    again = sleeper(parent, 2)
    others = descriptors(again)
    end(parent, 2)
    assert theirs.get(vip) == "/dev/null"
    assert vip not in others


@in_child
def test_renumbered_descriptors_are_beside_those_that_keep_their_numbers() -> None:
    """And beside stderr, which may be one of them here."""
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    ours = descriptors(os.getpid())
    parent = processes()
    pid = sleeper(parent, 1, descriptors=(null,), renumbered={30: reader}, stderr=writer)
    theirs = descriptors(pid)
    end(parent, 1)
    assert theirs == {0: ours[0], 1: ours[1], 2: ours[writer], null: "/dev/null", 30: ours[reader]}


@in_child
def test_it_has_a_process_group_of_its_own() -> None:
    """A signal to the group of one generation reaches its children, and neither us nor another generation."""
    become_subreaper()
    parent = processes()
    other = sleeper(parent, 2)
    pid = parent.spawn(1, SpawnSpec(("sh", "-c", "sleep 300 & wait"), ENVIRONMENT))
    grandchild = eventually(lambda: [child for child in children(pid) if command_line(child) == AS_COMMANDED])[0]
    groups = {stat(pid).group, stat(grandchild).group, stat(other).group, os.getpgrp()}
    parent.send(1, signal.SIGTERM, to_group=True)
    deaths = deaths_of(parent, 2)
    left = children(os.getpid())
    end(parent, 2)
    assert groups == {pid, other, os.getpgrp()}
    orphan_told = Reaped(grandchild) in deaths
    left = [process for process in left if process != other]
    assert Exited(1, -signal.SIGTERM) in deaths
    assert orphan_told
    assert left == []


@in_child
def test_a_signal_to_the_process_alone_leaves_its_children() -> None:
    """Without to_group only the process itself is meant."""
    become_subreaper()
    parent = processes()
    pid = parent.spawn(1, SpawnSpec(("sh", "-c", "sleep 300 & wait"), ENVIRONMENT))
    grandchild = eventually(lambda: [child for child in children(pid) if command_line(child) == AS_COMMANDED])[0]
    parent.send(1, signal.SIGKILL)
    first = one_death(parent)
    assert command_line(grandchild) == AS_COMMANDED
    os.kill(grandchild, signal.SIGKILL)
    assert one_death(parent) == Reaped(grandchild)
    assert first == Exited(1, -signal.SIGKILL)


@in_child
def test_a_forked_one_is_prepared_last_of_all() -> None:
    """What restores signals runs in the child, in its own group, with all signals still blocked."""
    reader, writer = os.pipe()

    def prepare() -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        words = (os.getpid(), os.getpgrp(), int(signal.SIGTERM in blocked and signal.SIGRTMAX in blocked))
        os.write(writer, " ".join(map(str, words)).encode())

    parent = Processes(prepare, complain)
    pid = parent.spawn(1, SpawnSpec(("true",), ENVIRONMENT))
    assert one_death(parent) == Exited(1, 0)
    who, group, blocked = map(int, os.read(reader, 100).split())
    assert who == pid
    assert group == pid
    assert blocked


@pytest.mark.parametrize(
    ("words", "foreground", "runs"),
    [(("true",), False, False), (("true",), True, True), (("no-such-program",), False, True)],
    ids=["ordinarily", "with a terminal", "where nothing can be executed"],
)
@in_child
def test_no_python_runs_in_a_child_that_can_do_without(words: tuple[str, ...], foreground: bool, runs: bool) -> None:
    """A fork costs as much as half of haproxy's start: only what posix_spawn(3) cannot do is done in one."""
    reader, writer = os.pipe()

    def prepare() -> None:
        os.write(writer, b"x")

    parent = Processes(prepare, lambda _: None, OWED["posix_spawn"])
    parent.spawn(1, SpawnSpec(words, ENVIRONMENT, foreground=foreground))
    one_death(parent)
    os.close(writer)
    assert bool(os.read(reader, 1)) is runs


@in_child
def test_a_stderr_of_its_own_is_the_only_thing_that_it_writes_to() -> None:
    """What it says goes into the pipe that it was given, and not to ours."""
    reader, writer = os.pipe()
    parent = processes()
    parent.spawn(1, SpawnSpec(("sh", "-c", "echo words >&2"), ENVIRONMENT, stderr=writer))
    os.close(writer)
    assert one_death(parent) == Exited(1, 0)
    assert os.read(reader, 100) + os.read(reader, 100) == b"words\n"


@in_child
def test_our_own_mask_is_as_before() -> None:
    """To start a process blocks nothing here for longer than that takes."""
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2})
    before = status_fields("self")["SigBlk"]
    parent = processes()
    sleeper(parent)
    after = status_fields("self")["SigBlk"]
    end(parent)
    assert before == after == f"{1 << (signal.SIGUSR2 - 1):016x}"


@in_child
def test_whatever_lacks_memory_no_signal_stays_blocked() -> None:
    """Each allocation of a start fails once: a PID 1 that hears no signal any more could only be killed."""
    memory = pytest.importorskip("_testcapi")
    before = status_fields("self")["SigBlk"]
    spec = SpawnSpec(("true",), ENVIRONMENT)
    failures = 0
    starts: list[Callable[[Processes], int]] = [
        lambda parent: parent.spawn(1, spec),
        lambda parent: parent.fork(1, lambda: None),
    ]
    for start in starts:
        for which in range(1, 60):
            parent = processes()
            memory.set_nomemory(which, which + 1)
            try:
                start(parent)
            except MemoryError:
                failures += 1
            finally:
                memory.remove_mem_hooks()
            assert status_fields("self")["SigBlk"] == before, which
            while children(os.getpid()):
                deaths_of(parent, 1)
    assert failures > 10


@in_child
def test_a_foreground_process_needs_no_terminal() -> None:
    """With a stdin that is no terminal, or is closed, it runs all the same."""
    deaths = []
    parent = processes()
    for number in (1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), 0) if number == 1 else os.close(0)
        parent.spawn(number, SpawnSpec(("sh", "-c", "exit 4"), ENVIRONMENT, foreground=True))
        deaths.append(one_death(parent))
    assert deaths == [Exited(1, 4), Exited(2, 4)]


# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needed", "soft"), [(1, 700), (700, 700), (701, 701), (800, 800), (900, 900), (901, 900), (5000, 900)]
)
@in_child
def test_the_limit_is_raised_only_as_far_as_needed_and_possible(needed: int, soft: int) -> None:
    """What is enough is left alone, the hard limit is never touched, and a child has the same limits."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (700, 900))
    raise_open_files(needed)
    parent = processes()
    theirs = resource.prlimit(sleeper(parent), resource.RLIMIT_NOFILE)
    end(parent)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, 900)
    assert theirs == (soft, 900)


@in_child
def test_a_forked_child_needs_no_descriptor_to_be_born() -> None:
    """Where VIPs have taken every descriptor that may be had, processes can still be started."""

    def make_room() -> None:
        block_nothing()
        resource.setrlimit(resource.RLIMIT_NOFILE, (900, 900))  # for the dynamic linker

    parent = Processes(make_room, complain)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 900))
    parent.spawn(1, SpawnSpec(("sh", "-c", "exit 6"), ENVIRONMENT))
    assert one_death(parent) == Exited(1, 6)


# ---- find_program --------------------------------------------------------------------------------------------------


def test_a_program_is_found_as_execvp_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked for in PATH, in order; a name with a slash is a path; what cannot be executed is not found."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name, mode in ((first, "a", 0o644), (second, "a", 0o755), (first, "b", 0o755), (second, "b", 0o755)):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("")
        (folder / name).chmod(mode)
    (first / "folder").mkdir()
    environment = {"PATH": f"{first}:/no/such/folder:{second}"}
    monkeypatch.chdir(second)
    assert find_program("a", environment) == str(second / "a")
    assert find_program("b", environment) == str(first / "b")
    assert find_program("./a", environment) == "./a"
    assert find_program(str(first / "b"), environment) == str(first / "b")
    for missing in (str(first / "a"), "c", "folder", str(first / "folder"), "/no/such/program", ""):
        assert find_program(missing, environment) is None
