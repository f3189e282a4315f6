"""The loop with a real haproxy, and what it does when something that cannot happen does."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from entrypoint.core import lifecycle
from tests.children import children_of
from tests.connections import free_port
from tests.descriptors import descriptors
from tests.program import PROGRAM
from tests.system.instance import CONFIGURATION, Begin, state_of
from tests.system.lives import status_fields
from tests.waiting import eventually


def test_a_haproxy_that_outlives_safe_reload_serves_and_uses_no_cpu(begin: Begin) -> None:
    """If safe_reload is killed on a host, where it is not PID 1, no client is lost."""
    lb = begin().serves()
    haproxy = lb.haproxy()
    lb.process.kill()
    lb.process.wait()
    try:
        assert lb.get() == "1"
        eventually(lambda: ticks_for_nothing(haproxy) < 3)
    finally:
        os.kill(haproxy, signal.SIGKILL)


def ticks_for_nothing(pid: int) -> int:
    """Return the clock ticks of CPU that a process uses in half a second in which nobody asks it."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    threading.Event().wait(0.5)
    return ticks() - before


def test_an_unexpected_error_is_logged_and_serving_goes_on(begin: Begin) -> None:
    """After the first process has been started PID 1 does not die of an exception."""
    fault = """
import entrypoint.core.lifecycle as lifecycle
right = lifecycle._reload
faults = iter([True])
def wrong(state, trigger):
    if next(faults, False):
        raise ZeroDivisionError("for this test")
    return right(state, trigger)
lifecycle._reload = wrong
"""
    lb = begin(code=fault).serves()
    lb.signal(signal.SIGUSR1)
    eventually(lambda: "serving goes on" in lb.log)

    assert hasattr(lifecycle, "_reload")
    assert "ZeroDivisionError: for this test" in lb.log
    assert lb.get() == "1"
    lb.signal(signal.SIGUSR1)
    lb.serves(2)


EVERY_EFFECT = """
import importlib
from entrypoint.core import effects
from entrypoint.pid1.supervisor import Supervisor
left = {kind: 2 for kind in effects.Effect.__args__ if kind is not effects.Upgrade}
right = Supervisor._do
def wrong(self, effect):
    kind = type(effect)
    if self.state.last_number > 1 and left.get(kind):
        left[kind] -= 1
        raise eval(%r)
    right(self, effect)
Supervisor._do = wrong
"""


@pytest.mark.parametrize(
    "kind",
    ["MemoryError()", "ValueError('embedded null byte')", "b'\\xff'.decode('ascii')", "OSError(28, 'for this test')"],
)
def test_a_failing_effect_leaves_no_client_waiting(begin: Begin, kind: str) -> None:
    """Each effect fails twice, in each way: every reload is answered, a death is repaired, and TERM ends it."""
    options = ("--exporter", "127.0.0.1:0", "--watch", "off", "--ready-timeout", "5")
    lb = begin(*options, code=EVERY_EFFECT % kind).serves()
    answers = [lb.client("reload") for _ in range(8)]
    assert {answer.returncode for answer in answers} == {0, 1}
    assert all(answer.stderr for answer in answers if answer.returncode)
    assert answers[-1].returncode == 0, answers[-1].stderr
    serves = eventually(lb.get)
    generations = json.loads(lb.client("status", "--json").stdout)["generations"]
    (pid,) = [one["pid"] for one in generations if one["state"] == "current"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "unasked" in lb.log)
    assert eventually(lambda: (lb.get() or serves) != serves)
    lb.signal(signal.SIGTERM)
    assert lb.process.wait(timeout=60) == 0


NO_MEMORY_ONCE = """
import os
from entrypoint.core.events import Signalled
from entrypoint.pid1.runtime import Runtime
from entrypoint.system import signals
right_read, right_submit = signals._read, Runtime.submit
def lacks(where):
    if os.path.exists("HANG") and open("HANG").read() == where:
        os.unlink("HANG")
        raise MemoryError
def read(descriptor, most):
    if most == signals._MOST_AT_ONCE:
        lacks("read")
    return right_read(descriptor, most)
def submit(self, event):
    if isinstance(event, Signalled):
        lacks("submit")
    right_submit(self, event)
signals._read, Runtime.submit = read, submit
"""


@pytest.mark.parametrize("where", ["read", "submit"])
@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_arrives_without_memory_is_not_lost(begin: Begin, where: str, what: int) -> None:
    """What has been read of the pipe of signals cannot be read again."""
    lb = begin(code=NO_MEMORY_ONCE).serves()
    lb.hang.write_text(where)
    lb.signal(what)
    if what == signal.SIGUSR1:
        lb.serves(2)
    else:
        assert lb.process.wait(timeout=60) == 0
    assert "no memory was left (" in lb.log


@pytest.mark.parametrize("spare", [0, 300_000, 3_000_000])
def test_without_memory_it_waits_until_there_is_some(begin: Begin, spare: int) -> None:
    """Nothing can be started, and little can be logged: PID 1 lives, and goes on when there is memory again."""
    lb = begin("--restart-limit", "1000").serves()
    pid = lb.pid
    no_limits = resource.prlimit(pid, resource.RLIMIT_AS)
    used = int(status_fields(pid)["VmSize"].split()[0]) * 1024
    resource.prlimit(pid, resource.RLIMIT_AS, (used + spare, no_limits[1]))
    lb.append("# more\n" * 100_000)
    for _ in range(3):
        lb.signal(signal.SIGUSR1)
    os.kill(lb.haproxy(), signal.SIGKILL)
    eventually(lambda: "unasked" in lb.log)
    eventually(lambda: lb.log.count("before it was ready") + lb.log.count("was not started") > 1)
    resource.prlimit(pid, resource.RLIMIT_AS, no_limits)

    assert eventually(lb.get)
    assert lb.client("reload").returncode == 0
    lb.signal(signal.SIGTERM)
    assert lb.process.wait(timeout=60) == 0
    assert "a bug in safe_reload" not in lb.log


def test_a_lost_death_is_found_by_the_status_command(begin: Begin) -> None:
    """Whatever bug lost it: otherwise no successor would start, and everything would look well."""
    loss = """
from entrypoint.pid1.children import Children
right = Children._handle_death
losses = iter([True])
def wrong(self, death):
    if next(losses, False):
        self._forget(death.number)
    else:
        right(self, death)
Children._handle_death = wrong
"""
    lb = begin(code=loss).serves()
    os.kill(lb.haproxy(), signal.SIGKILL)
    eventually(lambda: not children_of(lb.pid))
    lb.client("status")

    eventually(lambda: "has exited, and its exit was lost" in lb.log)
    lb.serves(2)


def test_a_candidate_that_dies_before_it_is_promoted_replaces_nobody(begin: Begin) -> None:
    """It answers, and dies during the second look at the files: the old one goes on, and the reload failed."""
    death = """
import os, signal
from entrypoint.pid1.config_store import ConfigStore
right = ConfigStore.found
def found(self, found, texts, asked):
    for why, number in asked:
        if why == "candidate" and number == 2:
            pid = self._children._processes.pids()[2]
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return right(self, found, texts, asked)
ConfigStore.found = found
"""
    lb = begin("--watch", "off", code=death).serves()
    lb.signal(signal.SIGUSR1)

    eventually(lambda: "generation 1 (pid" in lb.log.partition("has failed")[2])
    assert "generation 2 (pid" in lb.log
    assert lb.log.count("is current") == 1
    assert lb.get() == "1"


def test_an_empty_answer_about_listeners_is_asked_for_again(begin: Begin) -> None:
    """A haproxy without descriptors hangs up just like one without listeners."""
    shortage = """
import os, socket
from entrypoint.system.getsocks import request as getsocks
right = getsocks.SocketRequest.__init__
asked = 0
def wrong(self, session):
    global asked
    asked += 1
    if asked == 3:
        os.write(2, b"asked again\\n")
    if asked == 2:
        session.close()
        session, theirs = socket.socketpair()
        theirs.close()
    right(self, session)
getsocks.SocketRequest.__init__ = wrong
"""
    lb = begin(code=shortage, ordinary=True).serves()
    eventually(lambda: "holds the ordinary listeners" in lb.log)
    lb.signal(signal.SIGUSR1)
    eventually(lambda: "asked again" in lb.log)
    os.kill(lb.haproxy(), signal.SIGKILL)
    eventually(lambda: "unasked" in lb.log)
    lb.serves(3)

    assert "holds no ordinary listener" not in lb.log


def test_a_question_that_fails_halfway_has_no_answer(begin: Begin) -> None:
    """Without a descriptor for the second line an old generation is told to leave as it is."""
    shortage = """
import errno
from entrypoint.system import haproxy_cli
haproxy_cli._LONGEST_LINE = 10
right = haproxy_cli.Conversation.proceed
def wrong(self):
    if b"Name: HAProxy" in self._answer and b"l.st=" not in self._answer:
        raise OSError(errno.EMFILE, "for this test")
    return right(self)
haproxy_cli.Conversation.proceed = wrong
"""
    lb = begin(code=shortage).serves()
    lb.signal(signal.SIGUSR1)

    eventually(lambda: "has not let go of the VIPs" in lb.log)
    assert "a bug in safe_reload" not in lb.log
    eventually(lambda: "is gone: it exited with status 0" in lb.log)
    assert lb.get() == "2"


def test_a_candidate_is_asked_later_when_there_is_no_descriptor(begin: Begin) -> None:
    """It serves already: it is neither killed after --ready-timeout nor forgotten."""
    shortage = """
import errno
from entrypoint.system.haproxy_cli import CliChannel
right = CliChannel.ask
faults = iter([False, True])
def wrong(self, commands, *more):
    if "show fd" in commands and next(faults, False):
        raise OSError(errno.EMFILE, "for this test")
    return right(self, commands, *more)
CliChannel.ask = wrong
"""
    lb = begin(code=shortage).serves()
    lb.signal(signal.SIGUSR1)

    eventually(lambda: "generation 2 (pid" in lb.log and lb.log.count("is current") == 2)
    assert "askcandidate: for this test" in lb.log
    assert "a bug in safe_reload" not in lb.log


def test_an_unread_stderr_does_not_stop_it(begin: Begin) -> None:
    """A full pipe costs log lines, but no reload and not the stop."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(writer, True)
    try:
        lb = begin(haproxy=("haproxy", "-q"), stderr=writer)
        eventually(lambda: lb.get() == "1")
        lb.signal(signal.SIGUSR1)
        eventually(lambda: lb.get() == "2")
        lb.signal(signal.SIGQUIT)
        assert lb.process.wait(timeout=30) == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_a_signal_that_comes_late_does_not_change_the_exit_status() -> None:
    """While the interpreter ends it would be back to its default action."""
    code = (
        "import os, signal, sys; from entrypoint.pid1.cli import run; "
        "status = run(['--', 'sh', '-c', 'exit 7'], dict(os.environ), frozenset()); "
        "os.kill(os.getpid(), signal.SIGTERM); sys.exit(status)"
    )
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 7


def test_haproxy_inherits_the_vips_and_its_cli_and_nothing_else(begin: Begin) -> None:
    """A descriptor that our parent left open is not haproxy's business, and PID 1's own are not either.

    But for the other end of its CLI, which is never used there.
    """
    stray = os.open("/etc/hostname", os.O_RDONLY)
    try:
        lb = begin(passed=(stray,)).serves()
        links = descriptors(lb.haproxy())
    finally:
        os.close(stray)
    ours = {link for number, link in descriptors(lb.pid).items() if number > 2}

    assert links[3] in ours
    assert "/etc/hostname" not in links.values()
    shared = {link for number, link in links.items() if number > 2 and link in ours}
    assert len({link for link in shared if link.startswith("socket:")}) == 2
    assert not {link for link in shared if link.startswith("pipe:")}


def test_haproxy_does_not_get_systemd_s_variables(begin: Begin) -> None:
    """NOTIFY_SOCKET and its like are for safe_reload only."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "SAFE_RELOAD_INHERITED")
    lb = begin(KEPT="yes", **dict.fromkeys(ours, "1")).serves()
    environment = Path(f"/proc/{lb.haproxy()}/environ").read_text().split("\0")
    names = {entry.partition("=")[0] for entry in environment}
    assert not names & set(ours)
    assert "KEPT" in names
    assert "FD_WEB=3" in environment


def test_a_pid_file_that_can_no_longer_be_written_is_a_log_line(begin: Begin, tmp_path: Path) -> None:
    """What fails after the start is reported, the reload succeeds all the same, and the file comes when it can."""
    folder = tmp_path / "pids"
    soon = "from entrypoint.pid1 import published_pid; published_pid._RETRY_AFTER = 0.1"
    lb = begin("--pid-file", str(folder / "pid"), code=soon).serves()
    eventually((folder / "pid").exists)
    (folder / "pid").unlink()
    folder.rmdir()
    lb.signal(signal.SIGUSR1)
    lb.serves(2)

    eventually(lambda: "the pid file " in lb.log)
    assert "cannot be written, and is tried again: No such file or directory" in lb.log
    folder.mkdir()
    eventually((folder / "pid").exists)
    assert (folder / "pid").read_text() == f"{lb.haproxy()}\n"
    assert lb.log.count("cannot be written") == 1


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("etc/haproxy.cfg", "it is not a folder; give a folder that uid"),
        ("/proc/nowhere", "No such file or directory; give a folder that uid"),
        ("/dev/full/below", "it is not a folder; give a folder that uid"),
    ],
)
def test_a_state_directory_that_cannot_be_written_is_logged(begin: Begin, tmp_path: Path, where: str, why: str) -> None:
    """In words, with the remedy, and without the number of an error; haproxy serves all the same."""
    folder = tmp_path / where
    lb = begin("--state-dir", str(folder)).serves()
    eventually(lambda: "is kept in memory only" in lb.log)
    (line,) = [line for line in lb.log.splitlines() if "kept in memory only" in line]
    assert f"--state-dir cannot be written: {folder}: {why} {os.geteuid()} can write to" in line
    assert ("is not a folder" in lb.log.partition("is current")[0]) is ("not a folder" in why)
    assert "Errno" not in lb.log


def test_a_pipe_in_the_place_of_a_file_of_ours_is_not_waited_for(begin: Begin, tmp_path: Path) -> None:
    """One that is there at the start is replaced, and one that comes later is left."""
    folder = tmp_path / "run"
    folder.mkdir()
    paths = [folder / name for name in ("pid", "haproxy.last-known-good", "haproxy.sock", "notify")]
    for path in paths:
        os.mkfifo(path)
    writers = [os.open(path, os.O_RDWR) for path in paths]
    try:
        lb = begin("--pid-file", str(paths[0]), "--state-dir", str(folder), NOTIFY_SOCKET=str(paths[3])).serves()
        eventually(paths[0].is_file)
        assert paths[0].read_text() == f"{lb.haproxy()}\n"
        eventually(paths[2].is_socket)
        eventually(lambda: lb.log.count("cannot notify systemd of") == 1)
        lb.signal(signal.SIGUSR1)
        lb.serves(2)
        eventually(lambda: lb.log.count("is current") == 2)
        # Its pid is written after that line.
        eventually(lambda: paths[0].read_text() == f"{lb.haproxy()}\n")
        paths[0].unlink()
        os.mkfifo(paths[0])
    finally:
        for writer in writers:
            os.close(writer)
    lb.signal(signal.SIGTERM)

    assert lb.process.wait(timeout=30) == 0
    assert paths[0].is_fifo()
    assert "a bug in safe_reload" not in lb.log


@pytest.mark.parametrize("option", ["--ready-timeout", "--drain-timeout"])
def test_a_timer_of_a_month_leaves_it_responsive(begin: Begin, option: str) -> None:
    """epoll_wait(2) takes no more than 24 days; a longer timer is waited for in pieces."""
    lb = begin(option, "2592000").serves()
    with socket.create_connection(("127.0.0.1", lb.port)):
        lb.signal(signal.SIGUSR1)
        lb.serves(2)
    assert "bug" not in lb.log


def test_a_program_that_is_not_called_haproxy_gets_no_vips_and_says_so() -> None:
    """--vips before anything else would be a silent mistake."""
    words = [*PROGRAM, "--vips", "127.0.0.1:1:FD_A", "--", "true"]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert "--vips does nothing: true is not called haproxy" in run.stderr


def test_arguments_of_any_length_and_encoding_are_no_reason_not_to_start() -> None:
    """A hundred kilobytes, and bytes that are not UTF-8."""
    words: list[str | bytes] = [*PROGRAM, "--", "true", "x" * 100_000, b"\xff"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_signals_are_forwarded_to_the_current_haproxy(begin: Begin) -> None:
    """A signal that is not ours reaches haproxy: SIGTSTP stops it, SIGCONT goes on."""

    def state() -> str:
        return state_of(lb.haproxy())

    lb = begin().serves()
    lb.signal(signal.SIGTSTP)
    eventually(lambda: state() == "T")
    lb.signal(signal.SIGCONT)
    assert eventually(lambda: state() != "T")
    assert lb.get() == "1"


def test_a_stop_continues_processes_that_ctrl_z_has_stopped(begin: Begin) -> None:
    """Also a replaced generation that drains."""
    lb = begin().serves()
    lb.signal(signal.SIGTSTP)
    eventually(lambda: state_of(lb.haproxy()) == "T")
    lb.signal(signal.SIGUSR1)
    eventually(lambda: "generation 1 (pid" in lb.log and " drains" in lb.log)
    lb.signal(signal.SIGTERM)
    assert lb.process.wait(timeout=60) == 0


WITHOUT_KILL = """
import prctl
prctl.cap_effective.drop("kill")
prctl.cap_permitted.drop("kill")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch its user")
def test_a_haproxy_that_cannot_be_signalled_is_logged_once_and_not_as_draining(begin: Begin) -> None:
    """The line says what is wrong, what to do, and what happens now. A quick stop ends without that haproxy."""
    lb = begin(code=WITHOUT_KILL, text=f"global\n  user nobody\n{CONFIGURATION}").becomes_current()
    old = lb.haproxy()
    with socket.create_connection(("127.0.0.1", lb.port)) as held:
        held.sendall(b"GET / HTTP/1.1\r\n")
        lb.signal(signal.SIGHUP)
        eventually(lambda: f"generation 1 (pid {old}) cannot be stopped" in lb.log)
    haproxies = children_of(lb.pid)
    try:
        lb.signal(signal.SIGQUIT)
        assert lb.process.wait(timeout=60) == 0
    finally:
        for pid in haproxies:
            os.kill(pid, signal.SIGKILL)
    assert " drains" not in lb.log
    assert "Errno" not in lb.log
    assert [lb.log.count(f"(pid {pid}) cannot be stopped") for pid in haproxies] == [1, 1]
    assert "it runs as another user, and without CAP_KILL we may not signal it: add KILL" in lb.log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch its user")
def test_a_program_that_cannot_be_signalled_is_logged(tmp_path: Path) -> None:
    """Other programs than haproxy switch their user too."""
    log = tmp_path / "log"
    code = f"{WITHOUT_KILL}\nfrom entrypoint.__main__ import main\nmain()"
    with log.open("wb") as stderr:
        words = [sys.executable, "-c", code, "setpriv", "--reuid=65534", "--clear-groups", "cat"]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=stderr)
    try:
        (program,) = eventually(lambda: children_of(process.pid))
        eventually(lambda: status_fields(program)["Uid"].split()[1] == "65534")
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(signum)
        eventually(lambda: "does not get the signals that are sent to us" in log.read_text())
    finally:
        process.communicate()
    assert log.read_text().count("does not get the signals") == 1
    assert process.returncode == 0


def test_the_log_is_json_if_asked_for(begin: Begin) -> None:
    """One object a line, with the generation's number in it."""
    lb = begin("--log-format", "json", "--name", "front").serves()
    told = {line["event"]: line for line in map(json.loads, lb.log.splitlines())}
    assert next(iter(told)) == "bound", told
    first = told["current"]
    assert told["bound"]["msg"] == f"bound the VIPs FD_WEB (127.0.0.1:{lb.port})"
    assert first["generation"] == 1
    assert first["pid"] == lb.haproxy()
    assert first["instance"] == "front"


def test_sockets_that_systemd_passes_are_vips(begin: Begin) -> None:
    """LISTEN_FDS and LISTEN_FDNAMES: `http1` becomes FD_HTTP1."""
    with socket.create_server(("127.0.0.1", 0)) as passed:
        code = f"""
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.dup2({passed.fileno()}, 3)
os.execvp(sys.executable, [sys.executable, "-m", "entrypoint", *sys.argv[1:]])
"""
        text = CONFIGURATION.replace("FD_WEB", "FD_HTTP1")
        environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "http1"}
        lb = begin(text=text, code=code, vips=False, passed=[passed.fileno()], **environment)
        lb.port = passed.getsockname()[1]
    lb.serves()
    lb.signal(signal.SIGTERM)
    assert lb.process.wait(timeout=30) == 0


AT_ADOPTION = """
import signal
from entrypoint.core.effects import Adopt
from entrypoint.pid1.supervisor import Supervisor
right = Supervisor._do
def wrong(self, effect):
    if effect == Adopt(2):
        {before}
    right(self, effect)
    if effect == Adopt(2):
        {after}
Supervisor._do = wrong
"""


def listening(port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


def test_a_generation_that_dies_before_it_passed_its_listeners_closes_none(begin: Begin) -> None:
    """Its hang-up is not taken for an empty list: the ordinary listeners are held, and the next one gets them."""
    lb = begin(ordinary=True, code=AT_ADOPTION.format(before="self._children.kill(2)", after="pass"))
    eventually(lambda: "holds the ordinary listeners" in lb.log)
    held = listening(lb.port)
    lb.signal(signal.SIGUSR1)
    lb.serves(3)
    assert listening(lb.port) == held
    assert "no ordinary listener" not in lb.log


def test_listeners_that_a_reload_removes_are_closed(begin: Begin) -> None:
    """A living generation without listeners says so by hanging up."""
    lb = begin("--vips", f"127.0.0.1:{free_port()}:FD_WEB", ordinary=True)
    eventually(lambda: "holds the ordinary listeners" in lb.log)
    lb.edit(CONFIGURATION)
    lb.signal(signal.SIGUSR1)
    eventually(lambda: "holds no ordinary listener" in lb.log)
    assert not listening(lb.port)


def test_listeners_that_are_passed_after_a_stop_are_closed(begin: Begin) -> None:
    """Otherwise clients would wait in the queue of a listener that no haproxy accepts from."""
    after = "self._runtime.submit(__import__('entrypoint.core.events').core.events.StopAsked('this test'))"
    lb = begin("--stop-delay", "0", ordinary=True, code=AT_ADOPTION.format(before="pass", after=after)).serves()
    with socket.create_connection(("127.0.0.1", lb.port)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        lb.signal(signal.SIGUSR1)
        eventually(lambda: "stopping gracefully; open connections may finish" in lb.log)
        eventually(lambda: not listening(lb.port))
        assert lb.process.poll() is None


def test_an_unknown_tag_is_named_when_a_reload_fails(begin: Begin) -> None:
    """haproxy only says that the file descriptor '' is no number: log, answer and status name the tag."""
    lb = begin("--watch", "off").serves()
    hint = "not in --vips: FD_WEBB; correct the `bind`, or give the VIP, such as --vips '*:80:FD_WEBB'"
    assert "not in --vips" not in lb.log

    lb.edit(CONFIGURATION.replace("FD_WEB", "FD_WEBB") + '  bind "fd@${FD_WEB}"\n')
    answer = lb.client("reload")
    assert answer.returncode == 1
    assert hint in answer.stderr.splitlines()
    assert f"[ERROR safe_reload ({lb.pid})] {hint}" in lb.log
    assert hint in lb.client("status").stdout

    lb.append("  bnid")
    answer = lb.client("reload")
    assert answer.returncode == 1
    assert "--vips" not in answer.stderr
    assert lb.get() == "1"


def test_an_unknown_tag_is_named_when_a_start_fails(tmp_path: Path) -> None:
    """The likeliest mistake of a first start; an environment variable of that name is not reported."""
    path = tmp_path / "haproxy.cfg"
    path.write_text(CONFIGURATION + '  bind "fd@${FD_X}"\n  bind "fd@${FD_ELSE}"\n')
    words = [*PROGRAM, "--runtime-dir", str(tmp_path), "haproxy", "-f", str(path)]
    environment = {**os.environ, "FD_ELSE": "77"}
    run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert run.returncode == 1
    assert "not in --vips: FD_WEB, FD_X; correct the `bind`, or give the VIP" in run.stderr


def test_an_upgrade_tells_every_old_generation_to_leave(begin: Begin) -> None:
    """A generation that has yet to accept our session is told to leave before the upgrade, or it never is."""
    code = """
import entrypoint.pid1.drain_monitor as held
held._STOP_WITHIN = held._ANSWER_WITHIN = 3600
held.DrainMonitor._hear = lambda self: self._event_loop.remove(self._session)
from entrypoint.pid1.children import Children
right = Children.send
def send(self, number, signum, line, sent):
    right(self, number, signum, line, sent)
    self.serialize()
Children.send = send
"""
    lb = begin(ordinary=True, code=code).becomes_current()
    lb.signal(signal.SIGUSR1)
    eventually(lambda: "Proxy web stopped" in lb.log)


def test_an_upgraded_program_survives_an_error_at_its_start(begin: Begin) -> None:
    """An exec cannot be undone: an early error is logged like any other, and serving goes on."""
    fault = """
import os
from entrypoint.pid1.reader import Reader
right = Reader.look
faults = iter([bool(os.environ.get("SAFE_RELOAD_HEIR"))])
def wrong(self, why, number):
    if next(faults, False):
        raise MemoryError("for this test")
    right(self, why, number)
Reader.look = wrong
"""
    lb = begin(code=fault).serves()
    assert lb.client("upgrade").returncode == 0

    eventually(lambda: "no memory was left (" in lb.log)
    lb.signal(signal.SIGUSR1)
    lb.serves(2)


def test_a_pending_request_for_listeners_is_repeated_after_an_upgrade(begin: Begin) -> None:
    """The new program does not get the answer to the old one's request."""
    silence = """
import os
from entrypoint.system.getsocks.request import SocketRequest
if not os.environ.get("SAFE_RELOAD_HEIR"):
    SocketRequest.read = lambda self: False
"""
    lb = begin(code=silence, ordinary=True).serves()
    assert lb.client("upgrade").returncode == 0
    eventually(lambda: "holds the ordinary listeners" in lb.log.partition("has taken over")[2])
