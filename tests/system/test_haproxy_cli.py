"""The private line to a generation's CLI, with a real haproxy at its other end."""

import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from entrypoint.haproxy.runtime_api import is_idle, pid
from entrypoint.system.haproxy_cli import MOST_ANSWERED, CliChannel, Conversation
from tests.system.lives import stat
from tests.waiting import eventually

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
MANY = 1000
VARIABLES = {f"VARIABLE_{number:04d}": str(number) for number in range(MANY)}
ASK_FOR_EACH = tuple(f"show env {name}" for name in VARIABLES)
PATIENCE_MS = 20_000

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

Start = Callable[[CliChannel], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a haproxy at the other end of a line; it is dead at the end."""
    assert HAPROXY
    program = HAPROXY
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(
        "defaults\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\n"
        f"frontend f\n  bind unix@{tmp_path}/f.sock\n"
    )
    started: list[subprocess.Popen[bytes]] = []

    def begin(channel: CliChannel) -> "subprocess.Popen[bytes]":
        haproxy = subprocess.Popen(
            [program, "-db", "-f", channel.configuration, "-f", str(configuration)],
            pass_fds=channel.inherited,
            env={**os.environ, **VARIABLES},
            stderr=subprocess.DEVNULL,
        )
        channel.spawned()
        started.append(haproxy)
        return haproxy

    yield begin
    for haproxy in started:
        haproxy.kill()
        haproxy.wait()


@pytest.fixture
def channel() -> Iterator[CliChannel]:
    """A line, hung up at the end."""
    made = CliChannel()
    yield made
    made.close()


def heard(conversation: Conversation) -> tuple[str, int]:
    """Listen as the loop does, until everything has been answered; return it, and how many lines it took."""
    lines = 1
    while True:
        poller = select.poll()
        poller.register(conversation.fileno(), select.POLLIN)
        assert poller.poll(PATIENCE_MS), f"no answer, but so far {conversation.answer!r}"
        if conversation.read():
            if not conversation.proceed():
                return conversation.answer, lines
            lines += 1


def test_haproxy_answers(channel: CliChannel, start: Start) -> None:
    """What is asked at once, before haproxy runs, is answered as soon as it does, by that very process."""
    haproxy = start(channel)
    answer, lines = heard(channel.ask(("show info",)))
    assert pid(answer) == haproxy.pid
    assert is_idle(answer)
    assert lines == 1


def test_several_commands_are_answered_together(channel: CliChannel, start: Start) -> None:
    """Commands of one question are answered in their order, in one line."""
    start(channel)
    answer, lines = heard(channel.ask(("show env VARIABLE_0002", "show info", "show env VARIABLE_0001")))
    assert answer.index("VARIABLE_0002=2") < answer.index("Pid: ") < answer.index("VARIABLE_0001=1")
    assert lines == 1


def test_the_line_can_be_used_again_and_again(channel: CliChannel, start: Start) -> None:
    """Each question is a connection of its own, and nothing stays open after it."""
    haproxy = start(channel)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert pid(heard(channel.ask(("show info",)))[0]) == haproxy.pid
        assert len(os.listdir("/proc/self/fd")) == before


def test_the_line_may_do_anything(channel: CliChannel, start: Start) -> None:
    """The CLI is an administrator's: a frontend can be disabled, and listeners are exposed."""
    start(channel)
    assert heard(channel.ask(("disable frontend f",)))[0].strip() == ""
    answer, _ = heard(channel.ask(("show fd",)))
    assert "l.st=PAU fe=f fam=unix" in answer


def test_more_commands_than_a_line_can_hold_are_asked_in_several(channel: CliChannel, start: Start) -> None:
    """A thousand commands, more than any line may be and more than haproxy's buffer, are all answered, in order."""
    start(channel)
    assert sum(map(len, ASK_FOR_EACH)) > 16384
    answer, lines = heard(channel.ask(ASK_FOR_EACH))
    found = [line for line in answer.splitlines() if line]
    assert found == [f"{name}={value}" for name, value in VARIABLES.items()]
    assert lines == -(-(sum(map(len, ASK_FOR_EACH)) + MANY) // 900)


def test_a_long_answer_is_heard_whole(channel: CliChannel, start: Start) -> None:
    """An answer that is larger than any buffer on its way arrives whole."""
    start(channel)
    answer, _ = heard(channel.ask(("show env",) * 30))
    assert len(answer) > 300_000
    assert answer.count("\nVARIABLE_0500=500\n") == 30


def test_an_unknown_command_is_answered(channel: CliChannel, start: Start) -> None:
    """haproxy's own complaint is the answer."""
    start(channel)
    answer, _ = heard(channel.ask(("no-such-command",)))
    assert answer.startswith("Unknown command")


def test_no_command_is_no_question(channel: CliChannel) -> None:
    """Without a command there is nothing to wait for."""
    channel.spawned()
    conversation = channel.ask(())
    assert conversation.fileno() == -1
    assert conversation.answer == ""
    assert not conversation.proceed()


def test_without_a_haproxy_the_answer_is_empty(channel: CliChannel) -> None:
    """It comes at once."""
    channel.spawned()
    assert heard(channel.ask(("show info",)))[0] == ""


def test_without_a_haproxy_many_commands_get_an_empty_answer(channel: CliChannel) -> None:
    """That holds for each line of a long question."""
    channel.spawned()
    answer, lines = heard(channel.ask(ASK_FOR_EACH))
    assert answer == ""
    assert lines > 1


def test_a_haproxy_that_died_does_not_answer(channel: CliChannel, start: Start) -> None:
    """After its death, and after it was reaped, the answer is empty."""
    haproxy = start(channel)
    assert heard(channel.ask(("show info",)))[0]
    haproxy.kill()
    haproxy.wait()
    assert heard(channel.ask(("show info",)))[0] == ""


def test_a_haproxy_that_refuses_its_configuration_does_not_answer(channel: CliChannel) -> None:
    """The line closes when it exits, without a word."""
    assert HAPROXY
    haproxy = subprocess.Popen(
        [HAPROXY, "-db", "-f", channel.configuration, "-f", "/dev/null", "-f", "/no/such/file"],
        pass_fds=channel.inherited,
        stderr=subprocess.DEVNULL,
    )
    channel.spawned()
    assert heard(channel.ask(("show info",)))[0] == ""
    assert haproxy.wait(20) == 1


def test_a_haproxy_that_dies_while_asked_hangs_up(channel: CliChannel, start: Start) -> None:
    """The conversation ends with haproxy: before that there is no answer, and afterwards an empty one."""
    haproxy = start(channel)
    assert heard(channel.ask(("show info",)))[0]
    haproxy.send_signal(signal.SIGSTOP)
    eventually(lambda: stat(haproxy.pid).state == "T")
    conversation = channel.ask(("show info", "show fd"))
    assert not conversation.read()
    haproxy.kill()
    assert heard(conversation)[0] == ""
    haproxy.wait()


def test_a_conversation_can_be_given_up(channel: CliChannel, start: Start) -> None:
    """Hanging up in the middle leaves nothing open, and the line works for the next question."""
    haproxy = start(channel)
    before = len(os.listdir("/proc/self/fd"))
    conversation = channel.ask(ASK_FOR_EACH)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    conversation.close()
    conversation.close()
    assert conversation.fileno() == -1
    assert len(os.listdir("/proc/self/fd")) == before
    assert pid(heard(channel.ask(("show info",)))[0]) == haproxy.pid


def test_nothing_is_inherited_by_chance() -> None:
    """The descriptors are for whoever names them, and closing both ends leaves nothing."""
    before = os.listdir("/proc/self/fd")
    channel = CliChannel()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 3
    assert not any(map(os.get_inheritable, channel.inherited))
    channel.spawned()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    channel.close()
    assert os.listdir("/proc/self/fd") == before


def test_the_configuration_can_be_read_again_and_again(channel: CliChannel) -> None:
    """It is a file that is opened by its path: each reader begins at its beginning."""
    theirs, *_ = channel.inherited
    for _ in range(2):
        with open(channel.configuration) as file:
            assert (
                file.read()
                == f'global\n  stats socket "sockpair@{theirs}" level admin expose-fd listeners thread 1/1\n'
                "  stats maxconn 32\n"
            )
    channel.spawned()


# ---- calls that wait -------------------------------------------------------------------------------------------------


def soon() -> float:
    """Return a time at which nobody should have to give up."""
    return time.monotonic() + PATIENCE_MS / 1000


@contextmanager
def answering(answer: Callable[[socket.socket], object]) -> Iterator[CliChannel]:
    """Give a line at whose other end each session is answered like this, and then closed."""
    ours, theirs = socket.socketpair()
    with closing(CliChannel(ours.detach())) as channel, theirs:

        def serve() -> None:
            while descriptors := socket.recv_fds(theirs, 1, 1)[1]:
                with socket.socket(fileno=descriptors[0]) as session:
                    answer(session)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield channel
        finally:
            theirs.shutdown(socket.SHUT_RDWR)
            thread.join()


def question(session: socket.socket, end: bytes = b"\n") -> bytes:
    """Return what is asked."""
    asked = b""
    while not asked.endswith(end):
        asked += session.recv(65536)
    return asked


def test_a_call_waits_until_haproxy_answers(channel: CliChannel, start: Start) -> None:
    """Also for one that only starts; each call is a session of its own, and leaves nothing open."""
    haproxy = start(channel)
    assert pid(channel.call("show info", until=soon()).decode()) == haproxy.pid
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert pid(channel.call("show info", until=soon()).decode()) == haproxy.pid
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(channel.call(";".join(["show env"] * 30), until=soon())) > 300_000


def test_a_payload_is_sent_after_its_command(channel: CliChannel, start: Start) -> None:
    """haproxy reads it until an empty line."""
    start(channel)
    answer = channel.call("set ssl cert no.pem", b"one\ntwo\n", until=soon())
    assert b"no.pem" in answer
    assert b"Unknown command" not in answer


@pytest.mark.parametrize(
    ("command", "payload", "sent"),
    [
        ("a b", b"", b"a b\n"),
        ("a \udcff", b"x\ny", b"a \xff <<\nx\ny\n\n"),
        ("a", b"x\n\n", b"a <<\nx\n\n"),
    ],
)
def test_a_question_is_sent_as_haproxy_reads_it(command: str, payload: bytes, sent: bytes) -> None:
    """A payload ends with one empty line, whatever is at its end; and names need not be UTF-8."""
    asked = []

    def answer(session: socket.socket) -> None:
        asked.append(question(session, b"\n\n" if payload else b"\n"))
        session.sendall(b"ok\n")

    with answering(answer) as channel:
        assert channel.call(command, payload, until=soon()) == b"ok\n"
    assert asked == [sent]


def test_an_answer_in_pieces_is_whole() -> None:
    """It ends where haproxy closes the session, and nowhere before."""

    def answer(session: socket.socket) -> None:
        question(session)
        for piece in (b"one\n", b"\n", b"two", b"\n" + b"x" * 300_000):
            session.sendall(piece)

    with answering(answer) as channel:
        assert channel.call("show", until=soon()) == b"one\n\ntwo\n" + b"x" * 300_000


def test_an_answer_without_an_end_is_an_error() -> None:
    """It would take all memory; the next question is answered."""
    rest = [b"x" * (1 << 20)] * (2 * MOST_ANSWERED >> 20)

    def answer(session: socket.socket) -> None:
        question(session)
        try:
            for piece in rest:
                session.sendall(piece)
        except OSError:
            rest[:] = [b"short\n"]

    with answering(answer) as channel:
        with pytest.raises(OSError, match=f"^haproxy answers with more than {MOST_ANSWERED} bytes$"):
            channel.call("show", until=soon())
        eventually(lambda: len(rest) == 1)
        assert channel.call("show", until=soon()) == b"short\n"


@pytest.mark.parametrize("said", [b"", b"the first half"])
def test_an_answer_that_does_not_come_in_time_is_an_error(said: bytes) -> None:
    """As is one that stops in the middle."""
    over = threading.Event()

    def answer(session: socket.socket) -> None:
        question(session)
        session.sendall(said)
        over.wait()

    with answering(answer) as channel:
        try:
            with pytest.raises(TimeoutError):
                channel.call("show", until=time.monotonic() + 0.05)
        finally:
            over.set()


def test_an_answer_in_many_pieces_is_waited_for_no_longer() -> None:
    """The time is for all of them together."""
    over = threading.Event()

    def answer(session: socket.socket) -> None:
        question(session)
        try:
            for _ in range(1000):
                if over.wait(0.01):
                    return
                session.sendall(b"x")
        except OSError:
            pass

    with answering(answer) as channel:
        try:
            with pytest.raises(TimeoutError):
                channel.call("show", until=time.monotonic() + 0.3)
        finally:
            over.set()


def test_a_time_that_is_over_already_is_no_endless_wait() -> None:
    """A timeout of nothing would be none, and a negative one no number that a socket takes."""
    over = threading.Event()
    with answering(lambda _: over.wait()) as channel:
        try:
            with pytest.raises(TimeoutError):
                channel.call("show", until=time.monotonic() - 5)
        finally:
            over.set()


@pytest.mark.parametrize("answer", [b"too big\n", b""])
def test_what_is_answered_before_it_was_read_whole_counts(answer: bytes) -> None:
    """haproxy does not read a command that is too long to its end; 2.6 says nothing then."""

    def refuse(session: socket.socket) -> None:
        session.recv(16)
        session.sendall(answer)

    with answering(refuse) as channel:
        payload = b"x\n" * (4 << 20)
        if answer:
            assert channel.call("set", payload, until=soon()) == answer
        else:
            with pytest.raises(OSError, match=r"^haproxy does not answer$"):
                channel.call("set", payload, until=soon())


def test_a_command_that_nobody_reads_is_given_up() -> None:
    """What does not fit into the socket is not sent for ever."""
    over = threading.Event()
    with answering(lambda _: over.wait()) as channel:
        try:
            with pytest.raises(TimeoutError):
                channel.call("set", b"x\n" * (4 << 20), until=time.monotonic() + 0.05)
        finally:
            over.set()


def test_without_a_haproxy_a_call_is_an_error(channel: CliChannel, start: Start) -> None:
    """Whether there never was one or it has died: an empty answer is nothing that haproxy has done."""
    haproxy = start(channel)
    assert channel.call("show info", until=soon())
    haproxy.kill()
    haproxy.wait()
    with pytest.raises(OSError, match=r"^haproxy does not answer$"):
        channel.call("show info", until=soon())


def test_a_copy_is_the_same_line(channel: CliChannel, start: Start) -> None:
    """It outlives ours, and another process can have it."""
    haproxy = start(channel)
    with closing(CliChannel(channel.copy())) as other:
        assert other.fileno() != channel.fileno()
        assert not os.get_inheritable(other.fileno())
        assert pid(other.call("show info", until=soon()).decode()) == haproxy.pid
    assert pid(channel.call("show info", until=soon()).decode()) == haproxy.pid
