"""What is said to a CLI first, what is asked, and what follows from the answers; the test is the CLI."""

import contextlib
import os
import resource
import socket
from collections.abc import Iterable, Iterator

import pytest

from entrypoint.system.haproxy_cli import MOST_ANSWERED, CliChannel, Conversation

MANY = tuple(f"set server backend/server-{number:04} state maint" for number in range(2000))


class Cli:
    """Both ends of a line, and the sessions that have arrived at haproxy's."""

    def __init__(self) -> None:
        """Make the pair."""
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.theirs.setblocking(False)
        self.sessions: list[socket.socket] = []

    def accept(self) -> list[str]:
        """Accept all sessions that have come; return what each says."""
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                _, descriptors, _, _ = socket.recv_fds(self.theirs, 1, 1)
                session = socket.socket(fileno=descriptors[0])
                session.setblocking(False)
                self.sessions.append(session)
                said.append(_everything(session))
        return said

    def answer(self, number: int, text: str, *, ends: bool = True) -> None:
        """Answer in one session, and end it as haproxy does."""
        self.sessions[number].sendall(text.encode())
        if ends:
            self.sessions[number].close()

    def close(self) -> None:
        """Hang up."""
        for one in (self.ours, self.theirs, *self.sessions):
            one.close()


def _everything(session: socket.socket) -> str:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := session.recv(65536):
            data += piece
    return data.decode()


@pytest.fixture
def cli() -> Iterator[Cli]:
    """A line to this test."""
    made = Cli()
    yield made
    made.close()


class FollowUp:
    """Remembers which answer it was given."""

    def __init__(self, *commands: str) -> None:
        """Return these commands for it."""
        self.answers: list[str] = []
        self._commands = commands

    def __call__(self, answer: str) -> Iterable[str]:
        """Be asked."""
        self.answers.append(answer)
        return self._commands


def test_what_comes_first_is_said_before_anything_is_asked(cli: Cli) -> None:
    """On an interactive session of its own, at once; the question does not wait for it."""
    with contextlib.closing(Conversation(cli.ours, ("show info",), ("one", "two"))):
        assert cli.accept() == ["prompt\none\ntwo\nquit\n", "show info\n"]


def test_what_follows_waits_for_the_end_of_what_came_first(cli: Cli) -> None:
    """It is said once everything is carried out, and gets the answers to the questions only."""
    follow_up = FollowUp("undo one", "undo two")
    conversation = Conversation(cli.ours, ("show info",), ("one", "two"), follow_up)
    assert len(cli.accept()) == 2
    cli.answer(0, "> noise of the first\n> ", ends=False)
    cli.answer(1, "the answer\n")
    assert conversation.read()
    assert conversation.proceed()
    assert not conversation.read()
    assert follow_up.answers == []
    assert cli.accept() == []

    cli.answer(0, "> more noise\n> ")
    assert conversation.read()
    assert conversation.proceed()
    assert follow_up.answers == ["the answer\n"]
    assert cli.accept() == ["undo one;undo two\n"]
    cli.answer(2, "noise of what follows\n")
    assert conversation.read()
    assert not conversation.proceed()
    assert conversation.answer == "the answer\n"
    assert follow_up.answers == ["the answer\n"]
    assert conversation.fileno() == -1


def test_without_anything_first_what_follows_is_said_at_once(cli: Cli) -> None:
    """If nothing follows, that was all."""
    for commands, more in ((("undo",), ["undo\n"]), ((), [])):
        follow_up = FollowUp(*commands)
        conversation = Conversation(cli.ours, ("show info",), follow_up=follow_up)
        assert cli.accept() == ["show info\n"]
        cli.answer(-1, "yes\n")
        assert conversation.read()
        assert conversation.proceed() == bool(more)
        assert follow_up.answers == ["yes\n"]
        assert cli.accept() == more
        conversation.close()


def test_a_haproxy_that_has_gone_gets_no_follow_up_that_matters(cli: Cli) -> None:
    """Its answer is empty, and so is the conversation's."""
    follow_up = FollowUp("undo")
    conversation = Conversation(cli.ours, ("show info",), ("one",), follow_up)
    cli.close()
    for _ in range(2):
        assert conversation.read()
        assert conversation.proceed()
    assert conversation.read()
    assert not conversation.proceed()
    assert conversation.answer == ""


def test_many_commands_are_several_scripts_that_fit_into_a_buffer(cli: Cli) -> None:
    """All of them, in order, and each script ends its session."""
    conversation = Conversation(cli.ours, ("show info",), MANY)
    *scripts, question = cli.accept()
    assert question == "show info\n"
    assert len(scripts) > 2
    assert all(len(script) < 40_000 for script in scripts)
    assert [script.splitlines()[0] for script in scripts] == ["prompt"] * len(scripts)
    assert [script.splitlines()[-1] for script in scripts] == ["quit"] * len(scripts)
    assert [line for script in scripts for line in script.splitlines()[1:-1]] == list(MANY)
    # All of them must end before it goes on.
    cli.answer(-1, "yes\n")
    for number in range(len(scripts)):
        assert conversation.read()
        assert conversation.proceed()
        assert not conversation.read()
        cli.answer(number, "x" * 100_000)
    assert conversation.read()
    assert not conversation.proceed()
    assert conversation.answer == "yes\n"


def test_what_is_dropped_does_not_count(cli: Cli) -> None:
    """However much haproxy says to the first commands: only an answer to a question may be too long."""
    conversation = Conversation(cli.ours, ("show info",), ("one",))
    cli.accept()
    cli.answer(1, "yes\n")
    assert conversation.read()
    assert conversation.proceed()
    sent = 0
    while sent <= MOST_ANSWERED:
        sent += cli.sessions[0].send(b"x" * 65536)
        assert not conversation.read()
    cli.sessions[0].close()
    assert conversation.read()
    assert conversation.failure == ""
    assert not conversation.proceed()
    assert conversation.answer == "yes\n"


def test_giving_up_closes_everything(cli: Cli) -> None:
    """At any time; haproxy sees it."""
    before = len(os.listdir("/proc/self/fd"))
    conversation = Conversation(cli.ours, ("show info",), MANY)
    conversation.close()
    conversation.close()
    cli.accept()
    assert all(session.recv(1) == b"" for session in cli.sessions)
    for session in cli.sessions:
        session.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("room", range(5))
def test_without_descriptors_nothing_stays_open(cli: Cli, room: int) -> None:
    """Whether the first session fails or a later one."""
    before = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, before))
    filled = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest - len(before) + 3)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(filled) + 1 + room, hard))
        with pytest.raises(OSError, match="Too many open files"):
            Conversation(cli.ours, ("show info",), MANY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filled:
            os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_fragment_is_part_of_the_configuration() -> None:
    """Its lines belong to the `global` section."""
    channel = CliChannel(fragment="  maxconnrate 1\n")
    with open(channel.configuration) as file:
        first, *_, last = file.read().splitlines()
    assert (first, last) == ("global", "  maxconnrate 1")
    channel.spawned()
    channel.close()
