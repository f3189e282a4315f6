"""The options: one table that is the parser, the environment's names, the defaults and the help text."""

import signal
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from entrypoint.lean.level import Level
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.options.vips import Vip, parse_vips

ENVIRONMENT_PREFIX = "SAFE_RELOAD_"
INTERNAL_VARIABLES = frozenset(
    f"SAFE_RELOAD_{name}" for name in ("INHERITED", "GENERATION", "HEIR", "REHEARSAL", "LISTEN", "TIMEOUT")
)
"""Variables of the prefix that are no options of the instance: the launcher's note, what each haproxy is told of
itself, what one life tells the next, and the options of the verbs."""


class OptionError(ValueError):
    """An option that cannot be used; its text is one line for the user."""


class Restart(StrEnum):
    """What to do when the current haproxy dies unasked."""

    ON_FAILURE = "on-failure"
    NO = "no"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


@record(frozen=True)
class Settings:
    """Every option's value. Times are in seconds."""

    vips: tuple[Vip, ...]
    pid_file: str | None
    name: str | None
    runtime_dir: str
    backlog: int | None
    freebind: bool
    watch: tuple[str, ...]
    debounce: float
    poll: float
    ready_timeout: float
    drain_timeout: float
    max_draining: int
    restart: Restart
    restart_limit: int
    state_dir: str | None
    stop_delay: float
    stop_timeout: float
    no_new_privs: bool
    drop_caps: bool
    exporter: str | None
    log_format: LogFormat
    log_level: Level | None
    verbose: int
    subreaper: bool
    parent_death_signal: int | None
    kill_group: bool
    warn_reaped: bool
    expected_statuses: frozenset[int]

    def status(self, status: int) -> int:
        """Return the exit status that the user wants to see for this one (`-e`)."""
        return 0 if status in self.expected_statuses else status


# ---- how a value is read -------------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise OptionError(f"{text!r} is not a number of seconds, such as 30 or 0.5")
    return value


def _positive_seconds(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise OptionError("it must be longer than 0 seconds")
    return value


_MOST_DIGITS = 9


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _count(lowest: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not _is_number(text) or int(text) < lowest:
            raise OptionError(f"{text[:40]!r} is not a whole number from {lowest} on, of {_MOST_DIGITS} digits at most")
        return int(text)

    return count


def _path(text: str) -> str:
    if not text:
        raise OptionError("it is empty; give a path")
    return text


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (colon and _is_number(port) and int(port) < 65536) or (":" in host and not host.startswith("[")):
        raise OptionError(f"{text!r} is not an address and a port, such as :9101, 127.0.0.1:9101 or [::1]:9101")
    return text


def _watch(text: str) -> tuple[str, ...]:
    if not text:
        raise OptionError("it is empty; give auto, off or a path")
    return (text,)


def _name(text: str) -> str:
    if not text or "/" in text or text.startswith("."):
        raise OptionError(f"{text!r} is not a name for a file: no slash, no leading dot, not empty")
    return text


def _choice(choices: type[StrEnum]) -> Callable[[str], StrEnum]:
    def choose(text: str) -> StrEnum:
        try:
            return choices(text)
        except ValueError:
            raise OptionError(f"{text!r} is none of {', '.join(choices)}") from None

    return choose


def _level(text: str) -> Level:
    try:
        return Level[text.upper()]
    except KeyError:
        raise OptionError(f"{text!r} is none of {', '.join(level.name.lower() for level in Level)}") from None


def _signal(text: str) -> int:
    try:
        return signal.Signals[text].value
    except KeyError:
        raise OptionError(f"{text!r} is not a signal's name, such as SIGTERM") from None


_HIGHEST_STATUS = 255


def _status(text: str) -> int:
    if not _is_number(text) or int(text) > _HIGHEST_STATUS:
        raise OptionError(f"{text[:40]!r} is not an exit status from 0 to {_HIGHEST_STATUS}")
    return int(text)


_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off", ""})


def _truth(text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise OptionError(f"{text!r} is neither yes nor no")


# ---- the table -----------------------------------------------------------------------------------------------------


@record(frozen=True)
class Option:
    """One option: its names, how its value is read, and its line of the help text."""

    field: str
    """The field of Settings that it sets; its long name is the same."""
    help: str
    metavar: str = ""
    """What stands for the value in the help text; empty for an option without one."""
    default: Any = False
    read: Callable[[str], Any] = _truth
    short: str = ""
    """tini's letter, for the options that tini has; those have no long name, and tini's variables."""

    @property
    def long(self) -> str:
        """The name after `--`; empty when there is none."""
        return "" if self.short else self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable that sets it; empty when there is none."""
        return "" if self.short else ENVIRONMENT_PREFIX + self.field.upper()

    @property
    def shown_default(self) -> str:
        """The default as the help text and the documentation write it; empty when there is none."""
        if isinstance(self.default, tuple):
            return ", ".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default or "")

    @property
    def shown(self) -> str:
        """The name as the help text and errors write it."""
        return f"-{self.short}" if self.short else f"--{self.long}"


OPTIONS = (
    Option("vips", 'the VIPs to bind, ADDRESS:PORT:TAG,...; in haproxy: bind "fd@${TAG}"', "LIST", (), parse_vips),
    Option("pid_file", "keep the current haproxy's pid in this file", "PATH", None, _path),
    Option("name", "the name for verbs and logs; from the pid file's path unless given", "NAME", None, _name),
    Option("runtime_dir", "control socket and transient files", "DIR", "/run/safe_reload", _path),
    Option("backlog", "listen backlog of the VIPs; the kernel's somaxconn unless given", "N", None, _count(1)),
    Option("freebind", "bind VIPs that are not on any interface yet"),
    Option("watch", "reload when files change: auto, off, or a PATH besides; repeatable", "WHAT", ("auto",), _watch),
    Option(
        "debounce",
        "how long changed files must be quiet, at most 10 times that in all",
        "SECONDS",
        0.2,
        _positive_seconds,
    ),
    Option("poll", "how often to look where the kernel reports no changes", "SECONDS", 10.0, _positive_seconds),
    Option("ready_timeout", "a new haproxy not ready by then is killed", "SECONDS", 60.0, _positive_seconds),
    Option("drain_timeout", "a draining haproxy is ended after it; 0 is never", "SECONDS", 0.0, _seconds),
    Option("max_draining", "beyond it the oldest draining haproxy is ended", "N", 16, _count(1)),
    Option("restart", "when haproxy dies unasked: on-failure or no", "WHEN", Restart.ON_FAILURE, _choice(Restart)),
    Option("restart_limit", "give up after so many deaths in a row", "N", 5, _count(1)),
    Option("state_dir", "keep the last known good configuration in this folder", "DIR", None, _path),
    Option("stop_delay", "after TERM, go on accepting for so long", "SECONDS", 0.0, _seconds),
    Option("stop_timeout", "a stop that takes longer becomes a quick one; 0 is never", "SECONDS", 0.0, _seconds),
    Option("no_new_privs", "nothing below may gain privileges by exec"),
    Option("drop_caps", "drop all capabilities that binding and switching user do not need"),
    Option("exporter", "serve /metrics, /livez and /readyz at this address, such as :9101", "ADDR", None, _address),
    Option("log_format", "text or json", "FORMAT", LogFormat.TEXT, _choice(LogFormat)),
    Option("log_level", "error, warning, info or debug", "LEVEL", None, _level),
    Option("subreaper", "be a child subreaper (TINI_SUBREAPER)", short="s"),
    Option("parent_death_signal", "get this signal when the parent dies, such as SIGTERM", "SIG", None, _signal, "p"),
    Option("verbose", "say more; up to three times (TINI_VERBOSITY)", "", 0, _count(0), "v"),
    Option("warn_reaped", "warn of each process that was not ours and is reaped", short="w"),
    Option("kill_group", "send signals to the process group (TINI_KILL_PROCESS_GROUP)", short="g"),
    Option("expected_statuses", "exit with 0 instead of this status; repeatable", "N", frozenset(), _status, "e"),
)

_NO_NAMES = frozenset({"", "pid", "haproxy"})


def instance_name(pid_file: str | None) -> str:
    """Return the name of an instance that was given none: /run/ha1.pid and /run/ha1/pid are both called ha1."""
    folder, _, name = (pid_file or "").rpartition("/")
    stem = name.removesuffix(".pid")
    if stem in _NO_NAMES:
        stem = folder.rpartition("/")[2]
    return "haproxy" if stem in _NO_NAMES or stem == "run" else stem


_TINI_FLAGS = {"TINI_SUBREAPER": "subreaper", "TINI_KILL_PROCESS_GROUP": "kill_group"}
_TINI_VERBOSITY = "TINI_VERBOSITY"


def read_settings(
    given: Sequence[tuple[Option, str]], environment: Mapping[str, str]
) -> tuple[Settings, tuple[str, ...]]:
    """Put the options together: the command line wins over the environment, that over the defaults.

    Args:
        given: the command line's options in order, each with its text; flags with "yes".
        environment: all variables.

    Returns:
        The settings, and warnings for the user, a line each.

    Raises:
        OptionError: one line that names the option or the variable and says what would be right.

    """
    values: dict[str, Any] = {option.field: option.default for option in OPTIONS}
    known = {option.variable: option for option in OPTIONS if option.variable}
    warnings = []
    for variable in sorted(environment):
        if not environment[variable]:
            # Set to nothing is not set: that is how compose files write "unless it is given".
            continue
        if variable in known:
            option = known[variable]
            values[option.field] = _read(option, environment[variable], variable)
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable not in INTERNAL_VARIABLES:
            warnings.append(f"{variable} does nothing: it is not a variable of safe_reload; see safe_reload --help")
    values.update({field: True for variable, field in _TINI_FLAGS.items() if variable in environment})
    watched: list[Any] = []
    for option, text in given:
        if option.field == "verbose":
            values["verbose"] += 1
        elif option.field == "expected_statuses":
            values["expected_statuses"] |= {_read(option, text, option.shown)}
        elif option.field == "watch":
            watched.append(_read(option, text, option.shown))
        else:
            values[option.field] = _read(option, text, option.shown)
    if watched:
        values["watch"] = tuple(dict.fromkeys(word for words in watched for word in words))
    if "off" in values["watch"] and len(values["watch"]) > 1:
        raise OptionError("--watch off cannot be given together with another --watch")
    if _TINI_VERBOSITY in environment and not any(option.field == "log_level" for option, _ in given):
        values["log_level"] = _tini_verbosity(environment[_TINI_VERBOSITY])
    return Settings(**values), tuple(warnings)


def _read(option: Option, text: str, name: str) -> object:
    try:
        return option.read(text)
    except ValueError as error:
        raise OptionError(f"{name}: {error}") from None


def _tini_verbosity(text: str) -> Level:
    """Read TINI_VERBOSITY as tini does, by atoi(3), and bounded by the levels that exist; below 0 is all of them."""
    number = text.lstrip()
    sign = number[:1] if number[:1] in {"+", "-"} else ""
    digits = ""
    for letter in number[len(sign) :]:
        if letter not in "0123456789":
            break
        digits += letter
    if sign == "-" and digits.strip("0"):
        return Level.DEBUG
    return Level(min(int(digits[:_MOST_DIGITS] or "0"), Level.DEBUG))
