"""Formats the values of a status as text for people: times, digests, tables, colours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from entrypoint.client.status_fields import is_number
from entrypoint.lean.one_line import one_line

_DIGEST_LENGTH = 12


class Style:
    """Adds colours to text, or does not."""

    def __init__(self, *, colour: bool) -> None:
        """Take whether there are colours."""
        self._colour = colour

    def __call__(self, text: str, code: str) -> str:
        """Return a text with the ANSI escape sequence of this code around it, if there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and text else text


def printable(value: object) -> str:
    """Return a value as one line without control characters; `-` if it is missing or not a scalar."""
    if value is None or isinstance(value, dict | list):
        return "-"
    return one_line(str(value))


def duration(seconds: object) -> str:
    """Return a time span in its two largest units."""
    if not is_number(seconds):
        return "-"
    whole = int(max(0.0, min(seconds, 1e12)))
    if whole < 10:
        return f"{max(0.0, seconds):.1f}s"
    units = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    first = next(index for index, (count, _) in enumerate(units) if count)
    return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2] if count)


def ago(at: object, now: float) -> str:
    """Say how long ago this was; both are in seconds since the epoch."""
    return f"{duration(now - at)} ago" if is_number(at) else "at an unknown time"


def seconds(value: object) -> str:
    """Return a number of seconds with its unit."""
    return f"{value:.3g} s" if is_number(value) else "-"


def short(value: object) -> str:
    """Return the beginning of a sha256 digest."""
    return printable(value)[:_DIGEST_LENGTH]


def table(rows: Sequence[Sequence[str]], right: AbstractSet[int] = frozenset()) -> list[str]:
    """Return the lines of a table; the columns with these numbers, from 0, are aligned to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            cells.append(space + cell if index in right else cell + space)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(cell: str) -> int:
    return len(re.sub(r"\x1b\[[0-9;]*m", "", cell)) if "\x1b" in cell else len(cell)


def several(values: Sequence[object], most: int) -> Iterator[object]:
    """Yield at most so many values, and how many more there are."""
    yield from values[:most]
    if len(values) > most:
        yield f"and {len(values) - most} more"
