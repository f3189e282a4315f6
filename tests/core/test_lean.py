"""The replacements of parts of the standard library do what those do, as far as they go."""

import contextlib as theirs
import os
import signal as their_signal
import socket as their_socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from entrypoint.core.events import Why
from entrypoint.lean import contextlib as ours
from entrypoint.lean import signal, socket
from entrypoint.lean.level import Level

BOTH = pytest.mark.parametrize("module", [ours, theirs], ids=["ours", "theirs"])


@pytest.mark.parametrize("number", sorted(their_signal.Signals))
def test_signals_have_their_names(number: int) -> None:
    """Of several names it is the one that the standard library gives."""
    name = their_signal.Signals(number).name
    assert signal.name_of(number) == name
    assert signal.number_of(name) == number


def test_a_signal_without_a_name_has_its_number() -> None:
    """Most real-time signals have none, and an unknown name has no number."""
    assert signal.name_of(40) == "signal 40"
    with pytest.raises(KeyError):
        signal.number_of("SIG_BLOCK")


def test_members_are_found_by_value_and_by_name() -> None:
    """They are the same objects, in the order of their definition, and strings or numbers as well."""
    assert Why("start") is Why.START
    assert Level["INFO"] is Level(2) is Level.INFO
    assert [level.name for level in Level] == ["ERROR", "WARNING", "INFO", "DEBUG"]
    assert f"{Why.START} {Level.INFO}" == "start 2"
    assert Level.INFO > Level.ERROR
    assert len(Level) == len([*Level])
    some: list[Any] = [2, Level.INFO, "INFO", 4]
    assert [one in Level for one in some] == [True, True, False, False]
    with pytest.raises(ValueError, match="'never' is not a valid Why"):
        Why("never")


@BOTH
def test_only_what_is_named_is_suppressed(module: ModuleType) -> None:
    """A subclass is, anything else is not."""
    with module.suppress(OSError, KeyError):
        raise FileNotFoundError
    with pytest.raises(ValueError, match="other"), module.suppress(OSError):
        raise ValueError("other")


@BOTH
def test_a_stack_calls_everything_the_last_first(module: ModuleType) -> None:
    """Also when a callback raises; the last exception is raised."""
    called: list[Any] = []

    def fail(error: BaseException) -> None:
        called.append(error)
        raise error

    stack = module.ExitStack()
    stack.callback(called.append, "first")
    stack.callback(fail, KeyError())
    stack.callback(fail, error=SystemExit())
    with pytest.raises(KeyError), stack:
        pass
    assert [type(one) for one in called] == [SystemExit, KeyError, str]


@BOTH
def test_a_stack_that_gave_its_callbacks_away_calls_none(module: ModuleType) -> None:
    """The other stack has them."""
    called: list[str] = []
    with module.ExitStack() as stack:
        stack.callback(called.append, "once")
        other = stack.pop_all()
    assert not called
    with other:
        pass
    assert called == ["once"]


@BOTH
@pytest.mark.parametrize("swallows", [False, True])
def test_a_generator_is_a_context_manager(module: ModuleType, *, swallows: bool) -> None:
    """It gets the exception of the block, which goes on unless it is caught there."""
    seen: list[str] = []

    def generator(word: str) -> Iterator[str]:
        try:
            yield word
        except ValueError:
            seen.append("error")
            if not swallows:
                raise
        finally:
            seen.append("end")

    make: Callable[[str], Any] = module.contextmanager(generator)
    with make("word") as word:
        assert word == "word"
    assert seen == ["end"]
    with theirs.nullcontext() if swallows else pytest.raises(ValueError, match="block"), make("word"):
        raise ValueError("block")
    assert seen == ["end", "error", "end"]


@BOTH
def test_a_generator_goes_on_after_the_block(module: ModuleType) -> None:
    """Not only what is in a `finally` is run."""
    seen: list[str] = []

    def generator() -> Iterator[None]:
        yield
        seen.append("after")

    with module.contextmanager(generator)():
        pass
    assert seen == ["after"]


@BOTH
def test_a_thing_is_closed(module: ModuleType) -> None:
    """At the end of the block."""
    with their_socket.socket() as thing:
        with module.closing(thing) as same:
            assert same is thing
            assert thing.fileno() >= 0
        assert thing.fileno() < 0


def test_a_socket_accepts_and_is_closed() -> None:
    """The accepted one is of the same kind and not inherited, and both are closed at the end of a block."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener,
        their_socket.socket() as client,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, address = listener.accept()
        with accepted:
            assert address == client.getsockname()
            assert (accepted.family, accepted.type) == (socket.AF_INET, socket.SOCK_STREAM)
            assert accepted.proto == listener.proto
            assert not os.get_inheritable(accepted.fileno())
            client.send(b"x")
            assert accepted.recv(1) == b"x"
        assert accepted.fileno() < 0
    assert listener.fileno() < 0


def test_a_pair_is_connected() -> None:
    """Of the family and kind that was asked for."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        assert (one.family, one.type, one.proto) == (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0)
        for inherited in (True, False):
            one.set_inheritable(inherited)
            assert os.get_inheritable(one.fileno()) == inherited
        one.send(b"message")
        assert other.recv(100) == b"message"
        assert other.type == socket.SOCK_SEQPACKET
