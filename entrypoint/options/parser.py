"""Where the options end and the operands begin."""

from collections.abc import Mapping, Sequence

from entrypoint.lean.record import record
from entrypoint.options.settings import OPTIONS, Option, OptionError

TEXTS = {"-h": "help", "--help": "help", "-l": "licence", "--version": "version"}
"""Options that ask for a text and nothing else."""


@record(frozen=True)
class Arguments:
    """A command line, taken apart."""

    given: tuple[tuple[Option, str], ...] = ()
    """Our options in order, each with its text; those without a value with "yes"."""
    operands: tuple[str, ...] = ()
    after_dashes: bool = False
    """`--` ended the options."""
    text: str | None = None
    """The text that was asked for."""


def split(arguments: Sequence[str], options: Sequence[Option] = OPTIONS) -> Arguments:
    """Take a command line apart.

    Options end at the first operand, at `--`, and at the first word with one dash that has a letter which is not an
    option of ours: that and what follows is haproxy's, as in haproxy's own images.

    Args:
        arguments: the words.
        options: those that there are.

    Raises:
        OptionError: one line that names the option and says what would be right.

    """
    short = {option.short: option for option in options if option.short}
    long = {option.long: option for option in options if option.long}
    given: list[tuple[Option, str]] = []
    rest = list(arguments)
    while rest:
        word = rest[0]
        if word in TEXTS:
            return Arguments(text=TEXTS[word])
        if word == "--":
            return Arguments(tuple(given), tuple(rest[1:]), after_dashes=True)
        if word.startswith("--"):
            given.append(_long(long, rest))
            continue
        cluster = _cluster(short, rest)
        if cluster is None:
            break
        given += cluster
    return Arguments(tuple(given), tuple(rest))


def _long(long: Mapping[str, Option], rest: list[str]) -> tuple[Option, str]:
    """Take a long option, and its value, from the front."""
    name, equals, value = rest.pop(0)[2:].partition("=")
    option = long.get(name)
    if option is None:
        raise OptionError(f"--{name} is not an option{_hint(name, long)}")
    if not option.metavar:
        if equals:
            raise OptionError(f"--{name} takes no value")
        return option, "yes"
    return option, value if equals else _value(option, rest)


def _hint(name: str, long: Mapping[str, Option]) -> str:
    from entrypoint.options.did_you_mean import meant  # noqa: PLC0415  # for those only who have made a mistake

    texts = (word[2:] for word in TEXTS if word.startswith("--"))
    option = meant(name, (*long, *texts))
    return f"; did you mean --{option}?" if option else ""


def _cluster(short: Mapping[str, Option], rest: list[str]) -> list[tuple[Option, str]] | None:
    """Take a word of short options, and the last one's value, from the front; None when it is not ours."""
    word = rest[0]
    if len(word) < 2 or not word.startswith("-"):
        return None
    given = []
    for index, letter in enumerate(word[1:], start=2):
        option = short.get(letter)
        if option is None:
            return None
        if option.metavar:
            rest.pop(0)
            given.append((option, word[index:] or _value(option, rest)))
            return given
        given.append((option, "yes"))
    rest.pop(0)
    return given


def _value(option: Option, rest: list[str]) -> str:
    if not rest:
        raise OptionError(f"{option.shown} needs a value: {option.shown} {option.metavar}")
    return rest.pop(0)
