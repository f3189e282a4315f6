"""The verbs' own options: which instance is meant, and how long it may take."""

import pytest

from entrypoint.options.command_line import VERBS as NAMES
from entrypoint.options.parser import split
from entrypoint.options.settings import OptionError
from entrypoint.options.verbs import VERBS, Question, help_text, read_question


def read(line: str, **environment: str) -> Question:
    """Read a command line that begins with a verb, or with options before it."""
    words = split(line.split())
    return read_question(words.given, words.operands, environment)


def test_every_verb_has_its_help() -> None:
    """Whatever can be given is described, with its exit statuses."""
    assert {verb.name for verb in VERBS} == set(NAMES)
    for verb in VERBS:
        text = help_text(verb.name)
        assert text.startswith(f"safe_reload {verb.name}: ")
        assert all(option.shown in text for option in (*verb.options, *verb.which))
        assert max(map(len, text.splitlines())) <= 120


def test_an_instance_is_named_by_the_same_rule_as_it_names_itself() -> None:
    """By --name, or by the pid file; without either it is to be found."""
    assert read("reload --name lb").name == "lb"
    assert read("reload --pid-file /run/ha1/pid").name == "ha1"
    assert read("reload").name is None
    assert read("reload").runtime_dir == "/run/safe_reload"


def test_options_may_be_on_either_side_of_the_verb() -> None:
    """Before it and after it they mean the same."""
    line = "--name lb --runtime-dir /x"
    assert read(f"{line} status") == read(f"status {line}")


def test_the_environment_names_the_instance_and_the_command_line_wins() -> None:
    """SAFE_RELOAD_NAME, _PID_FILE and _RUNTIME_DIR are what PID 1 itself was started with; empty is not set."""
    assert read("status", SAFE_RELOAD_NAME="lb", SAFE_RELOAD_RUNTIME_DIR="/x").runtime_dir == "/x"
    assert read("status", SAFE_RELOAD_NAME="lb", SAFE_RELOAD_PID_FILE="/run/a.pid").name == "lb"
    assert read("status --name b", SAFE_RELOAD_NAME="lb").name == "b"
    assert read("status --pid-file /run/b.pid", SAFE_RELOAD_NAME="lb").name == "b"
    assert read("status", SAFE_RELOAD_NAME="").name is None


def test_what_pid_1_was_given_otherwise_does_not_matter() -> None:
    """A variable that only PID 1 reads cannot keep a question from being asked."""
    assert read("status", SAFE_RELOAD_VIPS="nonsense", SAFE_RELOAD_BACKLOG="x").verb == "status"


def test_a_reload_takes_as_long_as_it_takes_and_a_look_does_not() -> None:
    """The defaults of --timeout; 0 is never."""
    assert read("reload").timeout is None
    assert read("stop").timeout is None
    assert read("status").timeout == 5
    assert read("status --timeout 0").timeout is None
    assert read("reload --timeout 1.5").timeout == 1.5


def test_flags_are_passed_to_the_server() -> None:
    """--json of status and of list, and --now of stop."""
    assert read("status --json").flags == {"json"}
    assert read("list --json").flags == {"json"}
    assert read("stop --now").flags == {"now"}
    assert read("stop").flags == frozenset()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reload now", "reload does not take 'now'"),
        ("reload --json", "--json is not an option"),
        ("reload --timout 3", "--timout is not an option; did you mean --timeout?"),
        ("status --vips x", "--vips is not an option"),
        ("--backlog 3 status", "--backlog does nothing for status"),
        ("list --name lb", "--name is not an option"),
        ("reload --timeout soon", "--timeout: 'soon' is not a number of seconds, such as 30 or 0.5"),
        ("reload --timeout", "--timeout needs a value: --timeout SECONDS"),
        ("reload --name a/b", "--name: 'a/b' is not a name for a file: no slash, no leading dot, not empty"),
        ("reload -q", "reload does not take '-q'"),
    ],
)
def test_what_is_wrong_is_named(line: str, message: str) -> None:
    """One line that says what is wrong."""
    with pytest.raises(OptionError) as caught:
        read(line)
    assert str(caught.value) == message


def test_a_wrong_variable_is_named() -> None:
    """As PID 1 names it."""
    with pytest.raises(OptionError, match=r"^SAFE_RELOAD_NAME: "):
        read("status", SAFE_RELOAD_NAME="a/b")
