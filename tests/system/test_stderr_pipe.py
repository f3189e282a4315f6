"""What a generation says is passed on whole, and an excerpt of it is remembered."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoint.haproxy.excerpt import BOUND
from entrypoint.system.stderr_pipe import StderrPipe

PIPE = 262144
"""Bytes: as much as a generation's pipe holds, and the longest line."""


@pytest.fixture
def words() -> Iterator[StderrPipe]:
    """A pipe."""
    one = StderrPipe()
    yield one
    one.close()


def test_lines_come_whole(words: StderrPipe) -> None:
    """A half of one waits for the other half, or for the end."""
    os.write(words.writer, b"one\ntw")
    assert words.read() == b"one\n"
    assert words.read() == b""
    os.write(words.writer, b"o\nthree")
    assert words.read() == b"two\n"
    assert not words.ended
    words.started()
    assert words.read() == b"three\n"
    assert words.ended
    assert words.read() == b""
    assert words.text == "one\ntwo\nthree\n"


@pytest.mark.parametrize("size", [4095, 4096, 65536, 200_000])
def test_a_long_line_is_one_line(words: StderrPipe, size: int) -> None:
    """As haproxy wrote it, also when it comes in pieces."""
    os.write(words.writer, b"x" * (size - 1))
    assert words.read() == b""
    os.write(words.writer, b"x\n")
    assert words.read() == b"x" * size + b"\n"


def test_what_never_ends_is_bounded(words: StderrPipe) -> None:
    """A line without an end is passed on in pieces, of which no byte is missing."""
    found = b""
    for _ in range(100):
        os.write(words.writer, b"x" * 60000)
        found += words.read()
    assert len(found.replace(b"\n", b"")) > 6_000_000 - 2 * PIPE
    assert max(map(len, found.split(b"\n"))) <= PIPE + 60000
    assert len(words.text) <= BOUND


def test_the_last_lines_are_drained_while_another_process_holds_the_pipe(words: StderrPipe) -> None:
    """A child of haproxy may live on."""
    os.write(words.writer, b"a\nb")
    assert words.drain() == b"a\nb\n"
    assert words.text == "a\nb\n"


def test_one_that_starts_waits_for_us_and_one_that_has_started_does_not(words: StderrPipe) -> None:
    """Nothing is missing of why it cannot start; and no client waits for who reads its words."""
    haproxys = os.dup(words.writer)
    assert os.get_blocking(haproxys)

    words.started()

    written = os.write(haproxys, b"x" * 99 + b"\n")
    with contextlib.suppress(BlockingIOError):
        while True:
            written += os.write(haproxys, b"x" * 99 + b"\n")
    assert written > 0.9 * fcntl.fcntl(words.fileno(), fcntl.F_GETPIPE_SZ)
    assert words.read().count(b"\n") == written // 100
    assert words.overrun
    os.write(haproxys, b"x" * 200_000 + b"\nagain\n")
    assert words.read().endswith(b"\nagain\n")
    assert not words.overrun
    os.close(haproxys)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=9000), max_size=5))
def test_nothing_is_lost(pieces: list[bytes]) -> None:
    """Whatever it is, it comes as it was written, with an end after the last line."""
    words = StderrPipe()
    found = b""
    for piece in pieces:
        os.write(words.writer, piece)
        found += words.read()
    words.started()
    found += words.read()
    words.close()
    said = b"".join(pieces)
    assert found == (said if said.endswith(b"\n") or not said else said + b"\n")


def test_a_partial_line_continues_after_an_upgrade() -> None:
    """Its beginning has been read, and is in no pipe any more."""
    words = StderrPipe()
    os.write(words.writer, b"whole\nit has be")
    assert words.read() == b"whole\n"
    restored = StderrPipe(os.dup(words.fileno()), words.text, words.begun)
    os.write(words.writer, b"gun\n")
    assert restored.read() == b"it has begun\n"
    restored.close()
    words.close()
