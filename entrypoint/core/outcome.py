"""What the reader says of changed files that it has given to the current generation."""

from __future__ import annotations

from entrypoint.core.look import Found, first, from_message, to_message
from entrypoint.lean.record import record

_FIELDS = 7
_LONGEST_LINE = 1024


@record(frozen=True)
class Outcome:
    """What the current generation has taken of the changed files."""

    digest: str = ""
    """Of what it runs now; empty if it has taken nothing."""
    files: tuple[str, ...] = ()
    """What it has taken for sure."""
    seconds: float = 0.0
    """How long that took."""
    problem: str = ""
    """Why it has not taken the rest, in one line; empty if there is no rest."""
    refused: bool = False
    """haproxy has said that a certificate is bad."""
    has_authorities: bool = False
    """It has taken a CA or CRL file, now or before."""


def outcome_to_message(outcome: Outcome, found: Found) -> bytes:
    """Write it, with what was found on disk."""
    files = first(outcome.files)
    fields = [
        outcome.digest,
        repr(outcome.seconds),
        outcome.problem[:_LONGEST_LINE],
        "1" if outcome.refused else "",
        "1" if outcome.has_authorities else "",
        str(len(files)),
        *files,
    ]
    text = b"\0".join(field.replace("\0", "").encode("utf-8", "surrogateescape") for field in fields)
    return text + b"\0" + to_message(found)


def outcome_from_message(message: bytes) -> tuple[Outcome, Found]:
    """Read what `outcome_to_message` wrote.

    Raises:
        ValueError: it did not.

    """
    fields = message.split(b"\0", _FIELDS - 1)
    if len(fields) < _FIELDS:
        raise ValueError(f"{len(fields)} fields")
    *texts, last = fields
    digest, seconds, problem, refused, authorities, count = (one.decode("utf-8", "surrogateescape") for one in texts)
    *files, rest = last.split(b"\0", max(int(count), 0))
    if len(files) != int(count) or {refused, authorities} - {"", "1"} or (files and not digest):
        raise ValueError("fields that do not fit")
    names = tuple(name.decode("utf-8", "surrogateescape") for name in files)
    outcome = Outcome(digest, names, float(seconds), problem, bool(refused), bool(authorities))
    return outcome, from_message(rest)
