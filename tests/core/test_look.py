"""What the reader says arrives, or is refused; and it is never much."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.core.look import (
    MOST_BYTES,
    Found,
    Known,
    from_message,
    known_from,
    known_to_message,
    to_message,
)
from entrypoint.core.outcome import Outcome, outcome_from_message, outcome_to_message

DIGEST = "0123456789abcdef" * 4
NAMES = st.lists(st.binary(min_size=1, max_size=20).map(lambda name: name.replace(b"\0", b"x")), max_size=5).map(
    lambda names: tuple(name.decode("utf-8", "surrogateescape") for name in names)
)


@given(NAMES, NAMES, NAMES, NAMES, st.booleans(), st.booleans(), st.integers(0, 10**9))
def test_whatever_was_found_arrives(  # it has so many parts
    files: tuple[str, ...],
    stale: tuple[str, ...],
    tags: tuple[str, ...],
    incomplete: tuple[str, ...],
    polled: bool,
    unfinished: bool,
    count: int,
) -> None:
    """Names are any bytes but zero."""
    found = Found(
        digest="" if unfinished else DIGEST,
        unreadable="no" if unfinished else "",
        master_worker="/x.cfg:1",
        conditional_master_worker="/y.cfg:2",
        shared_ticket_keys="/z.cfg:3 and /z.cfg:4",
        server_state_file="/var/lib/haproxy/state",
        unfinished=unfinished,
        polled=polled,
        count=count,
        files=files,
        stale=stale,
        tags=tags,
        incomplete=incomplete,
        mentions=("init-state",),
        changed_checks=("app", "app/b"),
    )
    assert from_message(to_message(found)) == found


def test_a_million_names_are_a_number_and_the_first_of_them() -> None:
    """What PID 1 is told is bounded, whatever is on disk."""
    names = tuple(f"/etc/haproxy/certificates/{number:07}.pem" for number in range(1_000_000))
    message = to_message(Found(DIGEST, "", count=len(names), files=names, stale=names, tags=names, incomplete=names))
    assert len(message) < MOST_BYTES
    found = from_message(message)
    assert found.count == 1_000_000
    assert found.files == names[: len(found.files)]
    assert len(found.files) > 100


def test_a_name_that_is_longer_than_everything_is_left_out() -> None:
    """A line as well."""
    message = to_message(Found("", "no\0" * MOST_BYTES, files=("x" * MOST_BYTES, "y")))
    assert len(message) < MOST_BYTES
    assert from_message(message).files == ()


@given(st.binary() | st.lists(st.binary(max_size=3) | st.sampled_from([b"0", b"1", b"9" * 5000])).map(b"\0".join))
def test_anything_else_is_refused(message: bytes) -> None:
    """A ValueError is the only way."""
    with contextlib.suppress(ValueError):
        from_message(message)


@pytest.mark.parametrize("digest", ["", DIGEST])
def test_there_is_a_digest_or_a_reason_why_not(digest: str) -> None:
    """Nothing is believed of a look that says both, or neither."""
    message = to_message(Found(digest, "no" if digest else ""))
    with pytest.raises(ValueError, match="either"):
        from_message(message)


@given(NAMES, NAMES, st.booleans(), st.sampled_from(["", DIGEST]))
def test_what_is_known_arrives(
    reported: tuple[str, ...], names: tuple[str, ...], authorities: bool, digest: str
) -> None:
    """With the names that come after it."""
    known = Known(digest, reported, authorities)
    assert known_from(known_to_message(known, names).split(b"\0")) == (known, names)


@given(NAMES, st.floats(0, 60), st.booleans(), st.booleans(), st.sampled_from(["", "no"]))
def test_an_outcome_arrives(
    files: tuple[str, ...], seconds: float, refused: bool, authorities: bool, problem: str
) -> None:
    """With what was found on disk; something may have been taken of which no file is sure."""
    found = Found(DIGEST, applicable=True, count=1, files=("x",))
    for digest in (DIGEST,) if files else ("", DIGEST):
        outcome = Outcome(digest, files, seconds, problem, refused, authorities)
        assert outcome_from_message(outcome_to_message(outcome, found)) == (outcome, found)


def test_an_outcome_of_a_million_files_is_short() -> None:
    """The first of them are named."""
    names = tuple(f"/etc/haproxy/certificates/{number:07}.pem" for number in range(100_000))
    found = Found(DIGEST, count=len(names), files=names, stale=names, incomplete=names)
    message = outcome_to_message(Outcome(DIGEST, names, 1.0, "no\0" * MOST_BYTES), found)
    assert len(message) < MOST_BYTES
    assert 100 < len(outcome_from_message(message)[0].files) < len(names)


def test_files_without_a_digest_are_not_believed() -> None:
    """What has been taken has one."""
    with pytest.raises(ValueError, match="do not fit"):
        outcome_from_message(outcome_to_message(Outcome("", ("x",)), Found(DIGEST)))


DAMAGED = st.lists(st.binary(max_size=3) | st.sampled_from([b"0", b"1", b"-1", b"nan", b"9" * 5000])).map(b"\0".join)


@given(st.binary() | DAMAGED, st.integers(0, 400), st.binary(max_size=3))
def test_a_damaged_message_is_an_error_of_one_kind(message: bytes, at: int, damage: bytes) -> None:
    """A ValueError is the only way."""
    whole = outcome_to_message(Outcome(DIGEST, ("x", "y"), 0.1), Found(DIGEST, count=1, files=("x",)))
    for text in (message, whole[:at] + damage + whole[at:], whole[:at] + damage + whole[at + 1 :], whole[:at]):
        with contextlib.suppress(ValueError):
            outcome_from_message(text)
        with contextlib.suppress(ValueError):
            known_from(text.split(b"\0"))
