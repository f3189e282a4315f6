"""What the launcher tells: read as it was written."""

import pytest

from entrypoint.options.inheritance import Inheritance, format_inheritance, parse_inheritance


@pytest.mark.parametrize(
    "inheritance",
    [
        Inheritance(0, 0, (0, 1, 2)),
        Inheritance(0xFFFFFFFFFFFFFFFF, 0x8000000000000001, (7, 1, 12), "C"),
        Inheritance(1, 2, (0, 1, 2), ""),
        Inheritance(1, 2, (0, 1, 2), "a:b,c=\udcff"),
    ],
    ids=str,
)
def test_what_is_written_can_be_read(inheritance: Inheritance) -> None:
    """Every field, and what was not set is told from what was empty."""
    assert parse_inheritance(format_inheritance(inheritance)) == inheritance


def test_an_older_version_told_the_signals_alone() -> None:
    """It may be the one that this one has replaced."""
    assert parse_inheritance("0000000000000001:0000000000000002") == Inheritance(1, 2)


@pytest.mark.parametrize("text", ["", ":", "x", "0", "0:x", "0 0", "0:0:0", "0:0:0,1", "0:0:0,1,x", "0:0:0,1,2,3"])
def test_what_is_not_the_launchers_is_nothing(text: str) -> None:
    """A variable of that name may come from anywhere."""
    assert parse_inheritance(text) is None
