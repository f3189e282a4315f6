"""Where the options end: tini's way of giving them, the official image's way of giving haproxy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.options.parser import Arguments, split
from entrypoint.options.settings import OPTIONS, OptionError


def given_in(*arguments: str) -> list[tuple[str, str]]:
    """Return the names and texts of the options in a command line."""
    return [(option.shown, text) for option, text in split(arguments).given]


def test_nothing_is_nothing() -> None:
    """An empty command line has no options and no operands."""
    assert split(()) == Arguments()


@pytest.mark.parametrize(
    ("arguments", "options", "operands"),
    [
        (("--backlog", "9", "sleep", "1"), [("--backlog", "9")], ("sleep", "1")),
        (("--backlog=9", "sleep"), [("--backlog", "9")], ("sleep",)),
        (("--name=", "sleep"), [("--name", "")], ("sleep",)),
        (("--name", "a=b", "sleep"), [("--name", "a=b")], ("sleep",)),
        (("--name=a=b", "sleep"), [("--name", "a=b")], ("sleep",)),
        (("--name", "--", "sleep"), [("--name", "--")], ("sleep",)),
        (("--name", "-h", "sleep"), [("--name", "-h")], ("sleep",)),
        (("--freebind", "sleep", "--backlog", "9"), [("--freebind", "yes")], ("sleep", "--backlog", "9")),
        (("-s", "-w", "sleep", "-g"), [("-s", "yes"), ("-w", "yes")], ("sleep", "-g")),
        (("-swg", "sleep"), [("-s", "yes"), ("-w", "yes"), ("-g", "yes")], ("sleep",)),
        (("-e", "1", "sleep"), [("-e", "1")], ("sleep",)),
        (("-e1", "sleep"), [("-e", "1")], ("sleep",)),
        (("-ge1", "sleep"), [("-g", "yes"), ("-e", "1")], ("sleep",)),
        (("-ge", "1", "sleep"), [("-g", "yes"), ("-e", "1")], ("sleep",)),
        (("-pSIGTERM", "-vvv"), [("-p", "SIGTERM"), *[("-v", "yes")] * 3], ()),
        (("-", "x"), [], ("-", "x")),
        (("", "x"), [], ("", "x")),
    ],
)
def test_options_end_at_the_first_operand(
    arguments: tuple[str, ...], options: list[tuple[str, str]], operands: tuple[str, ...]
) -> None:
    """Options come first, long or short, with their values apart or joined; what follows is the program's."""
    assert given_in(*arguments) == options
    assert split(arguments).operands == operands
    assert not split(arguments).after_dashes


@pytest.mark.parametrize(
    "arguments", [("-f", "a.cfg"), ("-c",), ("-sf", "1"), ("-st", "1"), ("-db",), ("-Ws",), ("-dM", "-s"), ("-vx",)]
)
def test_haproxys_own_options_are_operands(arguments: tuple[str, ...]) -> None:
    """A word with a letter that is not an option of ours is haproxy's, and so is what follows."""
    assert split(arguments) == Arguments(operands=arguments)
    assert split(("-g", *arguments)).operands == arguments
    assert given_in("-g", *arguments) == [("-g", "yes")]


def test_two_dashes_end_the_options() -> None:
    """What follows `--` is never an option of ours, and that `--` was there is known."""
    assert split(("--", "-s", "--", "x")) == Arguments(operands=("-s", "--", "x"), after_dashes=True)
    assert split(("-s", "--")).after_dashes
    assert split(("-s", "--")).operands == ()
    assert given_in("-s", "--") == [("-s", "yes")]


@pytest.mark.parametrize(
    ("word", "text"), [("-h", "help"), ("--help", "help"), ("-l", "licence"), ("--version", "version")]
)
def test_a_text_can_be_asked_for(word: str, text: str) -> None:
    """-h, --help, -l and --version ask for a text, after other options too, but not as a value or an operand."""
    assert split((word,)).text == text
    assert split(("--backlog", "9", "-s", word, "sleep")).text == text
    assert split(("--name", word)).text is None
    assert split(("sleep", word)).text is None
    assert split(("--", word)).text is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--no-such",), "--no-such is not an option"),
        (("--vip", "x"), "--vip is not an option; did you mean --vips?"),
        (("--restart_limit=3",), "--restart_limit is not an option; did you mean --restart-limit?"),
        (("--verison",), "--verison is not an option; did you mean --version?"),
        (("--no-such=1",), "--no-such is not an option"),
        (("--freebind=yes",), "--freebind takes no value"),
        (("--backlog",), "--backlog needs a value: --backlog N"),
        (("-e",), "-e needs a value: -e N"),
        (("-gp",), "-p needs a value: -p SIG"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_option(arguments: tuple[str, ...], message: str) -> None:
    """An unknown long option, a value too many and a value too few are each named."""
    with pytest.raises(OptionError) as caught:
        split(arguments)
    assert str(caught.value) == message


WORDS = st.one_of(
    st.sampled_from([option.shown for option in OPTIONS]),
    st.sampled_from(["--", "-", "-sw", "-e1", "-f", "--name=x", "haproxy", "-h"]),
    st.text(max_size=5),
)


@given(st.lists(WORDS, max_size=6))
def test_no_command_line_makes_it_stumble(arguments: list[str]) -> None:
    """Any words are taken apart, or refused in our words; the operands are always the end of what was given."""
    try:
        found = split(arguments)
    except OptionError as error:
        found, message = Arguments(operands=tuple(arguments)), str(error)
    else:
        message = "-"
    assert message.startswith("-")
    assert tuple(arguments[len(arguments) - len(found.operands) :]) == found.operands
