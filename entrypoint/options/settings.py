"""The options: one table with their names, variables, defaults, parsers and help texts; and the settings they make."""

from __future__ import annotations

from entrypoint.lean import signal
from entrypoint.lean.collections import Callable, Mapping, Sequence
from entrypoint.lean.enum import StrEnum
from entrypoint.lean.level import Level
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.options.vips import Vip, parse_vips

ENVIRONMENT_PREFIX = "SAFE_RELOAD_"
_MOST_DIGITS = 9
INTERNAL_VARIABLES = frozenset(
    f"SAFE_RELOAD_{name}"
    for name in ("INHERITED", "GENERATION", "TLS_TICKET_KEYS", "HEIR", "REHEARSAL", "LISTEN", "TIMEOUT")
)
"""Variables with the prefix that set no option of PID 1. INHERITED is the launcher's, GENERATION and TLS_TICKET_KEYS
are for haproxy, HEIR and REHEARSAL are for the version that an upgrade executes, and LISTEN and TIMEOUT are for
verbs."""


class OptionError(ValueError):
    """An invalid option; its text is one line for the user."""


class Restart(StrEnum):
    """What to do when the current haproxy dies."""

    ON_FAILURE = "on-failure"
    NO = "no"


class ServerStatePolicy(StrEnum):
    """What the next haproxy learns about the servers of the one before it."""

    KEEP = "keep"
    FORGET = "forget"


class ApplyPolicy(StrEnum):
    """Whether the current haproxy takes changed files that it can take while it runs."""

    AUTO = "auto"
    OFF = "off"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


@record(frozen=True)
class Settings:
    """The values of all options. Times are in seconds."""

    vips: tuple[Vip, ...]
    pid_file: str | None
    name: str | None
    runtime_dir: str
    backlog: int | None
    freebind: bool
    watch: tuple[str, ...]
    apply: ApplyPolicy
    debounce: float
    poll: float
    ready_timeout: float
    drain_timeout: float
    max_draining: int
    restart: Restart
    restart_limit: int
    state_dir: str | None
    server_state: ServerStatePolicy
    stop_delay: float
    stop_timeout: float
    no_new_privs: bool
    drop_caps: bool
    exporter: str | None
    exporter_counters: bool
    log_format: LogFormat
    log_level: Level | None
    verbose: int
    subreaper: bool
    parent_death_signal: int | None
    kill_group: bool
    warn_reaped: bool
    expected_statuses: frozenset[int]

    def status(self, status: int) -> int:
        """Return the exit status for this one of the child: 0 if it is an expected one (`-e`)."""
        return 0 if status in self.expected_statuses else status


# ---- parsers of values -------------------------------------------------------------------------------------------


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


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _count(lowest: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not _is_number(text) or int(text) < lowest:
            raise OptionError(
                f"{text[:40]!r} is not a whole number of {lowest} or more, with {_MOST_DIGITS} digits at most"
            )
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
        return signal.number_of(text)
    except KeyError:
        raise OptionError(f"{text!r} is not a signal's name, such as SIGTERM") from None


def _status(text: str) -> int:
    if not _is_number(text) or int(text) > 255:
        raise OptionError(f"{text[:40]!r} is not an exit status from 0 to 255")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off", ""}:
        return False
    raise OptionError(f"{text!r} is neither yes nor no")


# ---- the table -----------------------------------------------------------------------------------------------------


@record(frozen=True)
class Option:
    """One option."""

    field: str
    """The field of Settings that it sets, and its long name."""
    help: str
    metavar: str = ""
    """The name of the value in the help text; empty for an option without a value."""
    default: Any = False
    read: Callable[[str], Any] = _truth
    """Parses the value; raises a ValueError."""
    short: str = ""
    """The letter of an option that tini has; such an option has no long name, and tini's variable if any."""

    @property
    def long(self) -> str:
        """The name after `--`; empty if there is none."""
        return "" if self.short else self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable that sets it; empty if there is none."""
        return "" if self.short else ENVIRONMENT_PREFIX + self.field.upper()

    @property
    def shown_default(self) -> str:
        """The default in the help text and the documentation; empty if there is none."""
        if isinstance(self.default, tuple):
            return ", ".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default or "")

    @property
    def shown(self) -> str:
        """The name in the help text and in errors."""
        return f"-{self.short}" if self.short else f"--{self.long}"

    def parse(self, text: str, source: str) -> Any:
        """Return the value.

        Raises:
            OptionError: the text is invalid; the error names the source, an option or a variable.

        """
        try:
            return self.read(text)
        except ValueError as error:
            raise OptionError(f"{source}: {error}") from None


OPTIONS = (
    Option(
        "vips",
        'the VIPs, [quic@|udp@]ADDRESS:PORT:TAG,...; in haproxy: bind "[quic+]fd@${TAG}"',
        "LIST",
        (),
        parse_vips,
    ),
    Option("pid_file", "write the current haproxy's pid to this file", "PATH", None, _path),
    Option("name", "the name for verbs and logs; from the pid file's path unless given", "NAME", None, _name),
    Option("runtime_dir", "control socket and transient files", "DIR", "/run/safe_reload", _path),
    Option("backlog", "listen backlog of the VIPs; the kernel's somaxconn unless given", "N", None, _count(1)),
    Option("freebind", "bind VIPs that are not on any interface yet"),
    Option("watch", "reload when files change: auto, off, or one more PATH; repeatable", "WHAT", ("auto",), _watch),
    Option(
        "debounce",
        "wait until changed files are quiet for this time, 10 times it at most",
        "SECONDS",
        0.2,
        _positive_seconds,
    ),
    Option(
        "apply",
        "take changed certificates, maps and ACL files without a reload: auto or off",
        "WHEN",
        ApplyPolicy.AUTO,
        _choice(ApplyPolicy),
    ),
    Option("poll", "how often to look where the kernel reports no changes", "SECONDS", 10.0, _positive_seconds),
    Option("ready_timeout", "kill a new haproxy that is not ready after this time", "SECONDS", 60.0, _positive_seconds),
    Option("drain_timeout", "end a draining haproxy after this time; 0 means never", "SECONDS", 0.0, _seconds),
    Option("max_draining", "end the oldest draining haproxy when there are more", "N", 16, _count(1)),
    Option("restart", "restart haproxy when it dies: on-failure or no", "WHEN", Restart.ON_FAILURE, _choice(Restart)),
    Option("restart_limit", "give up after this many deaths in a row", "N", 5, _count(1)),
    Option("state_dir", "keep the last known good configuration and the states of servers here", "DIR", None, _path),
    Option(
        "server_state",
        "keep or forget which servers are down, in maintenance, reweighted",
        "WHAT",
        ServerStatePolicy.KEEP,
        _choice(ServerStatePolicy),
    ),
    Option("stop_delay", "after TERM, go on accepting for this time", "SECONDS", 0.0, _seconds),
    Option("stop_timeout", "stop at once if a graceful stop takes longer; 0 means never", "SECONDS", 0.0, _seconds),
    Option("no_new_privs", "no child may gain privileges by exec"),
    Option("drop_caps", "drop all capabilities that binding and switching user do not need"),
    Option("exporter", "serve /metrics, /livez and /readyz at this address, such as :9101", "ADDR", None, _address),
    Option("exporter_counters", "add haproxy's own counters to /metrics, summed over generations"),
    Option("log_format", "text or json", "FORMAT", LogFormat.TEXT, _choice(LogFormat)),
    Option("log_level", "error, warning, info or debug", "LEVEL", None, _level),
    Option("subreaper", "be a child subreaper (TINI_SUBREAPER)", short="s"),
    Option("parent_death_signal", "get this signal when the parent dies, such as SIGTERM", "SIG", None, _signal, "p"),
    Option("verbose", "say more; up to three times (TINI_VERBOSITY)", "", 0, _count(0), "v"),
    Option("warn_reaped", "warn of each reaped process that safe_reload did not start", short="w"),
    Option("kill_group", "send signals to the process group (TINI_KILL_PROCESS_GROUP)", short="g"),
    Option("expected_statuses", "exit with 0 instead of this status; repeatable", "N", frozenset(), _status, "e"),
)

_NO_NAMES = frozenset({"", "pid", "haproxy"})


def instance_name(pid_file: str | None) -> str:
    """Return an instance's default name: ha1 for the pid files /run/ha1.pid and /run/ha1/pid."""
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
    """Read all options. The command line wins over the environment, and the environment over the defaults.

    Args:
        given: the command line's options in order, each with its text; "yes" for an option without a value.
        environment: all variables.

    Returns:
        The settings, and warnings for the user, one line each.

    Raises:
        OptionError: an option or a variable is invalid.

    """
    values: dict[str, Any] = {option.field: option.default for option in OPTIONS}
    known = {option.variable: option for option in OPTIONS if option.variable}
    warnings = []
    for variable in sorted(environment):
        if not environment[variable]:
            # An empty variable counts as not set: compose files write one for a value that is not given.
            continue
        if variable in known:
            option = known[variable]
            values[option.field] = option.parse(environment[variable], variable)
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable not in INTERNAL_VARIABLES:
            warnings.append(f"{variable} does nothing: it is not a variable of safe_reload; see safe_reload --help")
    values.update({field: True for variable, field in _TINI_FLAGS.items() if variable in environment})
    watched: list[Any] = []
    for option, text in given:
        if option.field == "verbose":
            values["verbose"] += 1
        elif option.field == "expected_statuses":
            values["expected_statuses"] |= {option.parse(text, option.shown)}
        elif option.field == "watch":
            watched.append(option.parse(text, option.shown))
        else:
            values[option.field] = option.parse(text, option.shown)
    if watched:
        values["watch"] = tuple(dict.fromkeys(what for several in watched for what in several))
    if "off" in values["watch"] and len(values["watch"]) > 1:
        raise OptionError("--watch off cannot be given together with another --watch")
    if _TINI_VERBOSITY in environment and not any(option.field == "log_level" for option, _ in given):
        values["log_level"] = _tini_verbosity(environment[_TINI_VERBOSITY])
    return Settings(**values), tuple(warnings)


def _tini_verbosity(text: str) -> Level:
    """Read TINI_VERBOSITY as tini does, with atoi(3), limited to the levels that exist; a negative number is DEBUG."""
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
