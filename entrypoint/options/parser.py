"""Splits a command line into options and operands."""

from __future__ import annotations

from entrypoint.lean.collections import Mapping, Sequence
from entrypoint.lean.record import record
from entrypoint.options.settings import OPTIONS, Option, OptionError

TEXTS = {"-h": "help", "--help": "help", "-l": "licence", "--version": "version"}
"""Options that only print a text."""


@record(frozen=True)
class Arguments:
    """A command line, split."""

    given: tuple[tuple[Option, str], ...] = ()
    """safe_reload's options in order, each with its text; "yes" for an option without a value."""
    operands: tuple[str, ...] = ()
    after_dashes: bool = False
    """`--` ended the options."""
    text: str | None = None
    """Which text is to be printed, and nothing else done."""


def split(arguments: Sequence[str], options: Sequence[Option] = OPTIONS) -> Arguments:
    """Split a command line.

    Options end at the first operand, at `--`, and at the first argument with one dash and a letter that is no option of
    safe_reload: that argument and all that follow are haproxy's, as in haproxy's own images.

    Args:
        arguments: without the program's name.
        options: the options that exist.

    Raises:
        OptionError: an option does not exist, or has no value, or has one too many.

    """
    short = {option.short: option for option in options if option.short}
    long = {option.long: option for option in options if option.long}
    given: list[tuple[Option, str]] = []
    rest = list(arguments)
    while rest:
        first = rest[0]
        if first in TEXTS:
            return Arguments(text=TEXTS[first])
        if first == "--":
            return Arguments(tuple(given), tuple(rest[1:]), after_dashes=True)
        if first.startswith("--"):
            given.append(_long(long, rest))
            continue
        cluster = _cluster(short, rest)
        if cluster is None:
            break
        given += cluster
    return Arguments(tuple(given), tuple(rest))


def _long(long: Mapping[str, Option], rest: list[str]) -> tuple[Option, str]:
    """Remove a long option and its value from the front."""
    name, equals, value = rest.pop(0)[2:].partition("=")
    option = long.get(name)
    if option is None:
        from entrypoint.options.did_you_mean import meant  # noqa: PLC0415  # difflib is large

        similar = meant(name, (*long, *(text[2:] for text in TEXTS if text.startswith("--"))))
        raise OptionError(f"--{name} is not an option{f'; did you mean --{similar}?' if similar else ''}")
    if not option.metavar:
        if equals:
            raise OptionError(f"--{name} takes no value")
        return option, "yes"
    return option, value if equals else _value(option, rest)


def _cluster(short: Mapping[str, Option], rest: list[str]) -> list[tuple[Option, str]] | None:
    """Remove one argument of short options, and the last one's value, from the front; None if it is not ours."""
    cluster = rest[0]
    if len(cluster) < 2 or not cluster.startswith("-"):
        return None
    given = []
    for index, letter in enumerate(cluster[1:], start=2):
        option = short.get(letter)
        if option is None:
            return None
        if option.metavar:
            rest.pop(0)
            given.append((option, cluster[index:] or _value(option, rest)))
            return given
        given.append((option, "yes"))
    rest.pop(0)
    return given


def _value(option: Option, rest: list[str]) -> str:
    if not rest:
        raise OptionError(f"{option.shown} needs a value: {option.shown} {option.metavar}")
    return rest.pop(0)
