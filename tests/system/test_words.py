"""What a generation says is passed on line by line, and its first words are remembered."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoint.system.words import Words


@pytest.fixture
def words() -> Iterator[Words]:
    """A pipe."""
    one = Words()
    yield one
    one.close()


def test_lines_come_whole(words: Words) -> None:
    """A half of one waits for the other half, or for the end."""
    os.write(words.writer, b"one\ntw")
    assert words.read() == ([b"one"], True)
    assert words.read() == ([], True)
    os.write(words.writer, b"o\nthree")
    assert words.read() == ([b"two"], True)
    words.spawned()
    assert words.read() == ([b"three"], False)
    assert words.read() == ([], False)
    assert words.text == "one\ntwo\nthree"


def test_what_never_ends_is_bounded(words: Words) -> None:
    """A line without an end is passed on in pieces, and of all that is said only the first words are kept."""
    for _ in range(100):
        os.write(words.writer, b"x" * 5000)
        assert sum(map(len, words.read()[0])) == 5000

    assert len(words.text) == 16384


def test_the_last_words_are_drained_though_somebody_holds_the_pipe(words: Words) -> None:
    """A child of haproxy's may live on."""
    os.write(words.writer, b"a\nb")

    assert words.drain() == [b"a", b"b"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=9000), max_size=5))
def test_nothing_is_lost(pieces: list[bytes]) -> None:
    """Whatever it is, but for the ends of lines."""
    words = Words()
    found = b""
    for piece in pieces:
        os.write(words.writer, piece)
        found += b"".join(words.read()[0])
    words.spawned()
    found += b"".join(words.read()[0])
    words.close()

    assert found == b"".join(pieces).replace(b"\n", b"")
