"""The options: each from the command line and from the environment, and an error that helps for each bad value."""

import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.lean.level import Level
from entrypoint.options.parser import split
from entrypoint.options.settings import (
    INTERNAL_VARIABLES,
    OPTIONS,
    ApplyPolicy,
    LogFormat,
    Option,
    OptionError,
    Restart,
    ServerStatePolicy,
    Settings,
    instance_name,
    read_settings,
)
from entrypoint.options.vips import Vip

GOOD: dict[str, tuple[str, object, str, object]] = {
    "vips": ("10.0.0.1:80:A", (Vip("10.0.0.1", 80, "A"),), "*:1:B", (Vip("*", 1, "B"),)),
    "pid_file": ("/run/a.pid", "/run/a.pid", "b.pid", "b.pid"),
    "name": ("edge", "edge", "core-1", "core-1"),
    "runtime_dir": ("/run/a", "/run/a", "/tmp/b", "/tmp/b"),
    "backlog": ("1", 1, "4096", 4096),
    "freebind": ("yes", True, "yes", True),
    "watch": ("off", ("off",), "/etc/more", ("/etc/more",)),
    "apply": ("off", ApplyPolicy.OFF, "auto", ApplyPolicy.AUTO),
    "debounce": ("0.1", 0.1, "2", 2.0),
    "poll": ("1", 1.0, "60", 60.0),
    "state_dir": ("/var/lib/a", "/var/lib/a", "b", "b"),
    "exporter": (":9101", ":9101", "127.0.0.1:9", "127.0.0.1:9"),
    "exporter_counters": ("yes", True, "yes", True),
    "ready_timeout": ("0.5", 0.5, "90", 90.0),
    "drain_timeout": ("30", 30.0, "0", 0.0),
    "max_draining": ("1", 1, "64", 64),
    "restart": ("no", Restart.NO, "on-failure", Restart.ON_FAILURE),
    "restart_limit": ("1", 1, "9", 9),
    "server_state": ("forget", ServerStatePolicy.FORGET, "keep", ServerStatePolicy.KEEP),
    "stop_delay": ("2.5", 2.5, "0", 0.0),
    "stop_timeout": ("30", 30.0, "0", 0.0),
    "no_new_privs": ("yes", True, "yes", True),
    "drop_caps": ("yes", True, "yes", True),
    "log_format": ("json", LogFormat.JSON, "text", LogFormat.TEXT),
    "log_level": ("debug", Level.DEBUG, "ERROR", Level.ERROR),
}
"""For each long option two texts that are right, and what each one means."""

DEFAULTS: dict[str, object] = {
    "vips": (),
    "pid_file": None,
    "name": None,
    "runtime_dir": "/run/safe_reload",
    "backlog": None,
    "freebind": False,
    "watch": ("auto",),
    "apply": ApplyPolicy.AUTO,
    "debounce": 0.2,
    "poll": 10.0,
    "state_dir": None,
    "exporter": None,
    "exporter_counters": False,
    "ready_timeout": 60.0,
    "drain_timeout": 0.0,
    "max_draining": 16,
    "restart": Restart.ON_FAILURE,
    "restart_limit": 5,
    "server_state": ServerStatePolicy.KEEP,
    "stop_delay": 0.0,
    "stop_timeout": 0.0,
    "no_new_privs": False,
    "drop_caps": False,
    "log_format": LogFormat.TEXT,
    "log_level": None,
    "subreaper": False,
    "parent_death_signal": None,
    "verbose": 0,
    "warn_reaped": False,
    "kill_group": False,
    "expected_statuses": frozenset(),
}
"""The contract's defaults; None is for what depends on where safe_reload runs."""

FIELDS = tuple(Settings.__annotations__)
LONG = tuple(option for option in OPTIONS if option.long)
SHORT = tuple(option for option in OPTIONS if option.short)
each_long_option = pytest.mark.parametrize("option", LONG, ids=lambda option: option.long)

NOT_SECONDS = "is not a number of seconds, such as 30 or 0.5"
NOT_A_COUNT = "is not a whole number of 1 or more"
NOT_A_NAME = "is not a name for a file: no slash, no leading dot, not empty"
BAD = [
    ("--vips", "10.0.0.1:80", "VIPS entry 1 '10.0.0.1:80': it has 2 of three fields"),
    ("--pid-file", "", "it is empty; give a path"),
    ("--name", "a/b", f"'a/b' {NOT_A_NAME}"),
    ("--name", ".a", f"'.a' {NOT_A_NAME}"),
    ("--name", "", f"'' {NOT_A_NAME}"),
    ("--runtime-dir", "", "it is empty; give a path"),
    ("--backlog", "0", f"'0' {NOT_A_COUNT}"),
    ("--backlog", "-1", f"'-1' {NOT_A_COUNT}"),
    ("--backlog", "1.5", f"'1.5' {NOT_A_COUNT}"),
    ("--backlog", "\u0668", f"'\u0668' {NOT_A_COUNT}"),
    ("--backlog", "", f"'' {NOT_A_COUNT}"),
    ("--watch", "", "it is empty; give auto, off or a path"),
    ("--debounce", "0", "it must be longer than 0 seconds"),
    ("--poll", "often", f"'often' {NOT_SECONDS}"),
    ("--state-dir", "", "it is empty; give a path"),
    ("--exporter", "", "'' is not an address and a port, such as :9101"),
    ("--exporter", "9101", "'9101' is not an address and a port, such as :9101"),
    ("--exporter", "::1:9101", "'::1:9101' is not an address and a port"),
    ("--exporter", ":65536", "':65536' is not an address and a port"),
    ("--ready-timeout", "0", "it must be longer than 0 seconds"),
    ("--ready-timeout", "soon", f"'soon' {NOT_SECONDS}"),
    ("--drain-timeout", "-1", f"'-1' {NOT_SECONDS}"),
    ("--drain-timeout", "nan", f"'nan' {NOT_SECONDS}"),
    ("--drain-timeout", "inf", f"'inf' {NOT_SECONDS}"),
    ("--drain-timeout", "30s", f"'30s' {NOT_SECONDS}"),
    ("--max-draining", "0", f"'0' {NOT_A_COUNT}"),
    ("--restart", "always", "'always' is none of on-failure, no"),
    ("--apply", "lost", "'lost' is none of auto, off"),
    ("--server-state", "lost", "'lost' is none of keep, forget"),
    ("--restart-limit", "0", f"'0' {NOT_A_COUNT}"),
    ("--stop-delay", "x", f"'x' {NOT_SECONDS}"),
    ("--stop-timeout", "", f"'' {NOT_SECONDS}"),
    ("--log-format", "xml", "'xml' is none of text, json"),
    ("--log-level", "loud", "'loud' is none of error, warning, info, debug"),
    ("-p", "TERM", "'TERM' is not a signal's name, such as SIGTERM"),
    ("-p", "SIG_IGN", "'SIG_IGN' is not a signal's name"),
    ("-e", "256", "'256' is not an exit status from 0 to 255"),
    ("-e", "-1", "'-1' is not an exit status"),
    ("-e", "one", "'one' is not an exit status"),
]


def from_arguments(*arguments: str, **environment: str) -> Settings:
    """Read what a command line and an environment say, without warnings."""
    settings, warnings = read_settings(split(arguments).given, environment)
    assert warnings == ()
    return settings


def everything(settings: Settings) -> dict[str, object]:
    """Return every setting by its name."""
    return {name: getattr(settings, name) for name in FIELDS}


def complaint(read: Callable[[], object]) -> str:
    """Return what is said against a value, or nothing."""
    try:
        read()
    except OptionError as error:
        return str(error)
    return ""


def words(option: Option, text: str) -> tuple[str, ...]:
    """Write an option as a user does."""
    return (option.shown, text) if option.metavar else (option.shown,)


def value(settings: Settings, option: Option) -> Any:
    """Return what an option was set to."""
    return getattr(settings, option.field)


# ---- the table -----------------------------------------------------------------------------------------------------


def test_every_option_has_a_setting_and_every_setting_an_option() -> None:
    """The table and the settings name the same things, once each."""
    names = [option.field for option in OPTIONS]
    assert sorted(names) == sorted(FIELDS)
    assert len(names) == len(set(names))
    assert set(GOOD) == {option.field for option in LONG}


def test_every_option_has_a_name_and_one_short_line_of_help() -> None:
    """What the help text and the README are made from is there, and fits in a line."""
    for option in OPTIONS:
        assert re.fullmatch(r"--[a-z]+(-[a-z]+)*|-[a-z]", option.shown)
        assert option.help
        assert option.help == option.help.strip()
        assert len(f"  {option.shown} {option.metavar:<24} {option.help} [{option.default}]") < 120
    assert len({option.shown for option in OPTIONS}) == len(OPTIONS)


def test_the_variable_of_an_option_is_its_name_in_capitals() -> None:
    """--name-of-option is SAFE_RELOAD_NAME_OF_OPTION; tini's options have none of these."""
    assert {option.long: option.variable for option in LONG} == {
        option.long: "SAFE_RELOAD_" + option.long.upper().replace("-", "_") for option in LONG
    }
    assert [option.variable for option in SHORT] == [""] * len(SHORT)


def test_the_short_options_are_tinis() -> None:
    """The letters are those of tini 0.19, and those of them that take a value do so here."""
    assert {option.short: bool(option.metavar) for option in SHORT} == {
        "s": False,
        "p": True,
        "v": False,
        "w": False,
        "g": False,
        "e": True,
    }


def test_the_defaults_are_the_contracts() -> None:
    """Without any option the settings are those of the contract."""
    settings = from_arguments()
    assert everything(settings) == DEFAULTS


# ---- where a value comes from --------------------------------------------------------------------------------------


@each_long_option
def test_an_option_is_read_from_the_command_line(option: Option) -> None:
    """Each option sets its own setting and no other."""
    text, meaning, _, _ = GOOD[option.field]
    settings = from_arguments(*words(option, text))
    assert everything(settings) == {**DEFAULTS, option.field: meaning}


@each_long_option
def test_an_option_is_read_from_its_variable(option: Option) -> None:
    """Each variable means what the option means, and sets no other setting."""
    text, meaning, _, _ = GOOD[option.field]
    settings = from_arguments(**{option.variable: text})
    assert everything(settings) == {**DEFAULTS, option.field: meaning}


@each_long_option
def test_the_command_line_wins_over_the_variable(option: Option) -> None:
    """Where both are given the option counts."""
    first, _, second, meaning = GOOD[option.field]
    environment = {option.variable: first if option.metavar else "no"}
    assert value(from_arguments(*words(option, second), **environment), option) == meaning


@pytest.mark.parametrize("option", [o for o in LONG if o.field != "watch"], ids=lambda option: option.long)
def test_the_last_of_two_options_wins(option: Option) -> None:
    """An option that is given twice has the value that was given last."""
    first, _, second, meaning = GOOD[option.field]
    assert value(from_arguments(*words(option, first), *words(option, second)), option) == meaning


def test_watch_is_repeatable() -> None:
    """Several paths are watched, and off is not one of them."""
    assert from_arguments("--watch", "auto", "--watch", "/a", "--watch", "auto").watch == ("auto", "/a")
    refused = complaint(lambda: from_arguments("--watch", "off", "--watch", "/a"))
    assert refused == "--watch off cannot be given together with another --watch"


@pytest.mark.parametrize("option", [option for option in LONG if not option.metavar], ids=lambda option: option.long)
@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        *((text, True) for text in ("1", "true", "yes", "on", "ON", "True")),
        *((text, False) for text in ("0", "false", "no", "off", "Off", "")),
    ],
)
def test_a_flags_variable_says_yes_or_no(option: Option, text: str, meaning: bool) -> None:
    """The usual words for yes and no are understood, and an empty variable is no."""
    assert value(from_arguments(**{option.variable: text}), option) is meaning


@pytest.mark.parametrize("option", [option for option in LONG if not option.metavar], ids=lambda option: option.long)
def test_a_flags_variable_that_says_neither_is_an_error(option: Option) -> None:
    """Anything else names the variable and what is wrong."""
    with pytest.raises(OptionError, match=rf"^{option.variable}: 'maybe' is neither yes nor no$"):
        from_arguments(**{option.variable: "maybe"})


def test_an_unknown_variable_of_ours_is_a_warning() -> None:
    """Each misspelt SAFE_RELOAD_ variable is named in a line of its own, in order, and changes nothing."""
    settings, warnings = read_settings((), {"SAFE_RELOAD_VIP": "x", "SAFE_RELOAD_BACKLOGS": "1", "OTHER": "y"})
    assert settings == from_arguments()
    assert [line.split(" ", 1)[0] for line in warnings] == ["SAFE_RELOAD_BACKLOGS", "SAFE_RELOAD_VIP"]
    assert all("safe_reload --help" in line and len(line.splitlines()) == 1 for line in warnings)


def test_our_own_notes_are_no_unknown_variables() -> None:
    """What safe_reload and its launcher leave in the environment is not warned of."""
    assert read_settings((), dict.fromkeys(INTERNAL_VARIABLES, "x")) == (from_arguments(), ())


# ---- tini's options ------------------------------------------------------------------------------------------------


def test_tinis_flags_are_read() -> None:
    """-s, -g and -w are flags, alone or in one word."""
    assert from_arguments("-s").subreaper
    assert from_arguments("-g").kill_group
    assert from_arguments("-w").warn_reaped
    assert from_arguments("-sgw") == from_arguments("-s", "-g", "-w")


@pytest.mark.parametrize("text", ["", "0", "no", "anything"])
def test_tinis_variables_count_by_being_there(text: str) -> None:
    """TINI_SUBREAPER and TINI_KILL_PROCESS_GROUP mean yes whatever they are set to, as in tini."""
    assert from_arguments(TINI_SUBREAPER=text).subreaper
    assert not from_arguments(TINI_SUBREAPER=text).kill_group
    assert from_arguments(TINI_KILL_PROCESS_GROUP=text).kill_group
    assert not from_arguments(TINI_KILL_PROCESS_GROUP=text).subreaper


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("0", Level.ERROR),
        ("1", Level.WARNING),
        ("2", Level.INFO),
        ("3", Level.DEBUG),
        ("9", Level.DEBUG),
        (" 2", Level.INFO),
        ("\t\n 2", Level.INFO),
        ("02", Level.INFO),
        ("+2", Level.INFO),
        ("2x", Level.INFO),
        ("3 of 3", Level.DEBUG),
        ("-1", Level.DEBUG),
        ("", Level.ERROR),
        ("x3", Level.ERROR),
        ("- 3", Level.ERROR),
        ("\u0663", Level.ERROR),
        ("0x3", Level.ERROR),
    ],
)
def test_tinis_verbosity_is_read_as_atoi_does(text: str, level: Level) -> None:
    """Blanks, a sign, digits; what follows them does not matter, and no digits are 0."""
    assert from_arguments(TINI_VERBOSITY=text).log_level is level


@given(st.one_of(st.text(), st.from_regex(r"\s*[+-]?[0-9]{1,30}.*", fullmatch=True)))
def test_any_verbosity_is_a_level(text: str) -> None:
    """No content of TINI_VERBOSITY stops safe_reload from starting."""
    assert from_arguments(TINI_VERBOSITY=text).log_level in list(Level)


def test_tinis_verbosity_wins_over_the_letters() -> None:
    """TINI_VERBOSITY is read after -v, as tini does."""
    assert from_arguments("-vvv", TINI_VERBOSITY="0").log_level is Level.ERROR


@pytest.mark.parametrize("arguments", [("-vvv",), ("-v", "-v", "-v"), ("-vv", "-v"), ("-v", "-vv")])
def test_each_v_says_more(arguments: tuple[str, ...]) -> None:
    """The letters are counted, in one word or in several."""
    assert from_arguments(*arguments).verbose == 3
    assert from_arguments("-v").verbose == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGHUP", "SIGRTMIN", "SIGCHLD"])
def test_the_parents_death_signal_has_a_name(name: str) -> None:
    """-p takes any signal by the name that C gives it."""
    assert from_arguments("-p", name).parent_death_signal == signal.Signals[name]


def test_expected_statuses_add_up() -> None:
    """-e may be given several times, from 0 to 255; those statuses, and no others, become 0."""
    settings = from_arguments("-e", "0", "-e", "143", "-e255", "-e", "143")
    assert settings.expected_statuses == {0, 143, 255}
    assert [settings.status(status) for status in (0, 1, 142, 143, 144, 255)] == [0, 1, 142, 0, 144, 0]


# ---- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text", "reason"), BAD)
def test_a_bad_value_is_one_line_that_names_the_option(name: str, text: str, reason: str) -> None:
    """The error begins with the option, quotes the value, and says what would be right."""
    with pytest.raises(OptionError) as caught:
        from_arguments(name, text)
    assert str(caught.value).startswith(f"{name}: {reason}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "text", "reason"), [bad for bad in BAD if bad[0].startswith("--") and bad[1]])
def test_a_bad_value_in_a_variable_names_the_variable(name: str, text: str, reason: str) -> None:
    """The same error names the variable where the value is from there."""
    variable = "SAFE_RELOAD_" + name[2:].upper().replace("-", "_")
    with pytest.raises(OptionError) as caught:
        from_arguments(**{variable: text})
    assert str(caught.value).startswith(f"{variable}: {reason}")


@pytest.mark.parametrize(
    ("pid_file", "name"),
    [
        (None, "haproxy"),
        ("/var/run/ha1/pid", "ha1"),
        ("/run/ha1.pid", "ha1"),
        ("/run/front/haproxy.pid", "front"),
        ("/run/haproxy.pid", "haproxy"),
        ("pid", "haproxy"),
    ],
)
def test_an_instance_without_a_name_has_one_from_its_pid_file(pid_file: str | None, name: str) -> None:
    """Several instances on one host can be told apart in their logs."""
    assert instance_name(pid_file) == name


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.variable], ids=lambda option: option.field)
def test_a_variable_that_is_set_to_nothing_is_not_set(option: Option) -> None:
    """That is how a compose file writes a variable that need not be given."""
    assert from_arguments(**{option.variable: ""}) == from_arguments()


def test_every_option_with_a_grammar_has_a_bad_value_here() -> None:
    """The list of bad values leaves no option out that takes a value."""
    assert {bad[0] for bad in BAD} == {option.shown for option in OPTIONS if option.metavar}


@pytest.mark.parametrize("name", ["--backlog", "--max-draining", "--restart-limit", "-e"])
def test_a_number_that_is_absurdly_long_gets_an_answer_of_ours(name: str) -> None:
    """A number of 5,000 digits is either taken or refused in our words, not in those of Python's int()."""
    assert "set_int_max_str_digits" not in complaint(lambda: from_arguments(name, "1" * 5000))


@pytest.mark.parametrize("option", LONG, ids=lambda option: option.long)
@given(text=st.text())
def test_no_value_makes_it_stumble(option: Option, text: str) -> None:
    """Whatever a variable holds is taken, or refused in one line that names the variable."""
    message = complaint(lambda: from_arguments(**{option.variable: text}))
    assert not message or message.startswith(f"{option.variable}: ")
    assert len(message.splitlines()) <= 1


def test_the_settings_cannot_be_changed() -> None:
    """What was read at the start holds to the end."""
    with pytest.raises(AttributeError):
        from_arguments().backlog = 1  # type: ignore[misc]  # that is the test
