"""The verbs: what each one takes, and its help text."""

from collections.abc import Mapping, Sequence

from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.options.command_line import DEFAULT_CONFIGURATION
from entrypoint.options.parser import split
from entrypoint.options.settings import OPTIONS, LogFormat, Option, OptionError, instance_name

_OF_PID_1 = {option.field: option for option in OPTIONS}
_WHICH = tuple(_OF_PID_1[field] for field in ("name", "pid_file", "runtime_dir"))
_SECONDS = _OF_PID_1["stop_timeout"].read
SHORT = 5.0
"""Seconds that an answer which PID 1 has at hand may take."""


def _timeout(default: float) -> Option:
    return Option("timeout", "give up after so long; 0 is never", "SECONDS", default, _SECONDS)


@record(frozen=True)
class Verb:
    """One verb."""

    name: str
    summary: str
    options: tuple[Option, ...]
    """Those besides --name, --pid-file and --runtime-dir."""
    statuses: tuple[tuple[str, str], ...]
    """Its exit statuses and what each one means."""
    operands: str = ""
    details: tuple[str, ...] = ()
    """More lines of help."""
    which: tuple[Option, ...] = _WHICH
    """How an instance is found."""
    variables: bool = False
    """Its other options can be given as variables as well."""


_NOBODY = ("3", "no instance answered")
_WRONG = ("1", "something is wrong with the command line")
_LATE = ("124", "--timeout was over first")

VERBS = (
    Verb(
        "reload",
        "have a running instance read its configuration again, and wait for the result",
        (_timeout(0.0),),
        (
            ("0", "the new generation serves"),
            ("1", "it was refused, haproxy's own words are on stderr; or the command line is wrong"),
            _NOBODY,
            ("124", "--timeout was over first; the reload goes on"),
        ),
        details=("Whatever haproxy says is on stderr; what serves now is one line on stdout.",),
    ),
    Verb(
        "status",
        "what a running instance does",
        (Option("json", "print the instance's answer as it is: one line of JSON"), _timeout(SHORT)),
        (
            ("0", "it serves: a generation is current, and it is not being stopped"),
            ("1", "it answers and does not serve: starting, between crashes, stopping; or the command line is wrong"),
            _NOBODY,
            _LATE,
        ),
        details=("A failed reload, files that differ and the last known good configuration do not change the status.",),
    ),
    Verb(
        "list",
        "every instance in the runtime directory",
        (Option("json", "print one line of JSON: each one's name and status, or null and an error"), _timeout(SHORT)),
        (("0", "there is one that answers"), _WRONG, _NOBODY),
        details=("A socket that nobody answers on is shown as dead; --timeout is for each one.",),
        which=(_OF_PID_1["runtime_dir"],),
    ),
    Verb(
        "stop",
        "stop a running instance, and wait until it is gone",
        (Option("now", "at once, without waiting for requests to end"), _timeout(0.0)),
        (
            ("0", "it is gone"),
            ("1", "it refused; or the command line is wrong"),
            _NOBODY,
            ("124", "--timeout was over first; it goes on stopping"),
        ),
        details=("Inside a container whose PID 1 it is, the container ends with it, and so does this command.",),
    ),
    Verb(
        "metrics",
        "what the exporter's /metrics says, once, on stdout",
        (_timeout(SHORT),),
        (
            ("0", "they are on stdout"),
            ("1", "prometheus_client is missing; or the command line is wrong"),
            _NOBODY,
            _LATE,
        ),
    ),
    Verb(
        "upgrade",
        "have a running instance take up the safe_reload that is installed now",
        (_timeout(30.0),),
        (
            ("0", "it answers again"),
            ("1", "it refused; or the command line is wrong"),
            _NOBODY,
            _LATE,
        ),
    ),
    Verb(
        "check",
        "have haproxy check the configuration on disk, with stand-in sockets for VIPs; no instance is needed",
        (_OF_PID_1["vips"],),
        (
            ("0", "haproxy would take it"),
            ("1", "it would not, in haproxy's own words; or the command line is wrong"),
            ("n", "haproxy's own status"),
        ),
        operands="[HAPROXY] [HAPROXY-ARGS...]",
        details=(
            f"Without -f it is {DEFAULT_CONFIGURATION}.",
            "The sockets are bound to no address. Nothing is started or changed, and a port in use does not matter.",
            "A tag (fd@${TAG}) that is not in --vips gets a stand-in socket as well, and a warning names it.",
            "Without --vips the VIPs are those of the instance that runs here, if there is one.",
        ),
        which=(),
    ),
    Verb(
        "exporter",
        "serve /metrics, /livez and /readyz for a running instance",
        (
            Option("listen", "the address, such as :9101, 127.0.0.1:9101 or [::1]:9101", "ADDR", None, str),
            _OF_PID_1["log_format"],
        ),
        (
            ("0", "it was told to end (TERM, INT or QUIT)"),
            ("1", "it cannot listen, prometheus_client is missing, or the command line is wrong"),
        ),
        details=("Each option can be given as a variable as well, such as SAFE_RELOAD_LISTEN.",),
        operands="--listen ADDR",
        variables=True,
    ),
)
_BY_NAME = {verb.name: verb for verb in VERBS}


@record(frozen=True)
class Question:
    """What is asked of which instance."""

    verb: str
    name: str | None
    """None when it is to be found."""
    runtime_dir: str
    timeout: float | None
    """In seconds; None for as long as it takes."""
    flags: frozenset[str]
    """Those of `json` and `now` that were given."""
    listen: str | None = None
    log_format: LogFormat = LogFormat.TEXT
    text: str | None = None
    """The text that was asked for instead."""


def read_question(
    given: Sequence[tuple[Option, str]], operands: Sequence[str], environment: Mapping[str, str]
) -> Question:
    """Read a verb and its options. The command line wins over the environment.

    Args:
        given: the options before the verb.
        operands: the verb, and what follows it.
        environment: all variables; only those that say which instance is meant are looked at.

    Raises:
        OptionError: one line that says what is wrong and what would be right.

    """
    verb = _BY_NAME[operands[0]]
    options = (*verb.which, *verb.options)
    words = split(operands[1:], options)
    if words.operands:
        raise OptionError(f"{verb.name} does not take {words.operands[0]!r}")
    values: dict[str, Any] = {option.field: option.default for option in (*_WHICH, *options)}
    for option in (*verb.which, *(verb.options if verb.variables else ())):
        text = environment.get(option.variable)
        if text:
            values[option.field] = _read(option, text, option.variable)
    mine = {option.field for option in options}
    for option, text in (*given, *words.given):
        if option.field not in mine:
            raise OptionError(f"{option.shown} does nothing for {verb.name}")
        if option.field == "pid_file":
            values["name"] = None
        values[option.field] = _read(option, text, option.shown)
    named = values["name"] or (instance_name(values["pid_file"]) if values["pid_file"] else None)
    flags = frozenset(flag for flag in ("json", "now") if values.get(flag))
    timeout = values.get("timeout") or None
    listen, log_format = values.get("listen"), values.get("log_format", LogFormat.TEXT)
    return Question(verb.name, named, values["runtime_dir"], timeout, flags, listen, log_format, words.text)


def _read(option: Option, text: str, name: str) -> object:
    try:
        return option.read(text)
    except ValueError as error:
        raise OptionError(f"{name}: {error}") from None


def help_text(name: str) -> str:
    """Return what `safe_reload VERB --help` shows."""
    verb = _BY_NAME[name]
    operands = f" {verb.operands}" if verb.operands else ""
    lines = [f"safe_reload {name}: {verb.summary}", "", f"usage: safe_reload {name} [OPTIONS]{operands}", ""]
    for option in (*verb.options, *verb.which):
        default = f" [{option.shown_default}]" if option.shown_default and option.field not in _OTHER_WORDS else ""
        lines.append(f"  {f'{option.shown} {option.metavar}'.rstrip():<20} {help_line(option)}{default}")
    if len(verb.which) == len(_WHICH):
        lines += ["", "Without --name and --pid-file it is the only instance in the runtime directory."]
    lines += ["", *verb.details] if verb.details else []
    lines += ["", "exit status:", *(f"  {status:<4} {meaning}" for status, meaning in verb.statuses)]
    return "\n".join(lines)


_OTHER_WORDS = {
    "name": "the instance of this name",
    "pid_file": "the instance that keeps this pid file",
    "runtime_dir": f"where the control sockets are [{_OF_PID_1['runtime_dir'].default}]",
}


def help_line(option: Option) -> str:
    """Return what an option means to somebody who asks."""
    return _OTHER_WORDS.get(option.field, option.help)
