"""The verbs: the options, exit statuses and help text of each one."""

from __future__ import annotations

from entrypoint.lean.collections import Mapping, Sequence
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.options.command_line import DEFAULT_CONFIGURATION
from entrypoint.options.parser import split
from entrypoint.options.settings import OPTIONS, LogFormat, Option, OptionError, instance_name

_OF_PID_1 = {option.field: option for option in OPTIONS}
_WHICH = tuple(_OF_PID_1[field] for field in ("name", "pid_file", "runtime_dir"))
_SECONDS = _OF_PID_1["stop_timeout"].read
SHORT = 5.0
"""The default timeout, in seconds, for an answer that PID 1 need not wait for."""


def _timeout(default: float) -> Option:
    return Option("timeout", "give up after this time; 0 means never", "SECONDS", default, _SECONDS)


@record(frozen=True)
class Verb:
    """One verb."""

    name: str
    summary: str
    options: tuple[Option, ...]
    """The options besides `which`."""
    statuses: tuple[tuple[str, str], ...]
    """The exit statuses, each with its meaning."""
    operands: str = ""
    details: tuple[str, ...] = ()
    """More lines of help."""
    which: tuple[Option, ...] = _WHICH
    """The options that say which instance is meant."""
    variables: bool = False
    """`options` can be given as variables as well."""


_NOBODY = ("3", "no instance answered")
_WRONG = ("1", "something is wrong with the command line")
_LATE = ("124", "--timeout was over first")

VERBS = (
    Verb(
        "reload",
        "have a running instance read its configuration again, and wait for the result",
        (Option("forget", "this once, let all servers begin anew"), _timeout(0.0)),
        (
            ("0", "the new generation serves"),
            ("1", "it failed, and haproxy's messages are on stderr; or the command line is wrong"),
            _NOBODY,
            ("124", "--timeout was over first; the reload goes on"),
        ),
        details=("haproxy's messages go to stderr; one line on stdout says which generation serves now.",),
    ),
    Verb(
        "status",
        "show the state of a running instance",
        (Option("json", "print the instance's answer unchanged: one line of JSON"), _timeout(SHORT)),
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
        "show every instance in the runtime directory",
        (
            Option("json", "print one line of JSON: for each instance its name, and its status or an error"),
            _timeout(SHORT),
        ),
        (("0", "an instance answers"), _WRONG, _NOBODY),
        details=("A socket on which nothing listens is shown as dead. --timeout applies to each instance.",),
        which=(_OF_PID_1["runtime_dir"],),
    ),
    Verb(
        "stop",
        "stop a running instance, and wait until it is gone",
        (Option("now", "stop at once, without waiting for requests to end"), _timeout(0.0)),
        (
            ("0", "it is gone"),
            ("1", "it refused; or the command line is wrong"),
            _NOBODY,
            ("124", "--timeout was over first; the stop goes on"),
        ),
        details=("If the instance is the PID 1 of a container, the container ends, and this command in it.",),
    ),
    Verb(
        "metrics",
        "print the metrics that the exporter serves at /metrics",
        (_timeout(SHORT),),
        (
            ("0", "the metrics are on stdout"),
            ("1", "prometheus_client is missing; or the command line is wrong"),
            _NOBODY,
            _LATE,
        ),
    ),
    Verb(
        "upgrade",
        "have a running instance execute the version of safe_reload that is installed now",
        (_timeout(30.0),),
        (("0", "the new version answers"), ("1", "it refused; or the command line is wrong"), _NOBODY, _LATE),
    ),
    Verb(
        "check",
        "have haproxy check the configuration on disk, with stand-in sockets for VIPs; no instance is needed",
        (_OF_PID_1["vips"],),
        (
            ("0", "the configuration is valid"),
            ("1", "haproxy rejects it, and says why; or the command line is wrong"),
            ("n", "haproxy's own status"),
        ),
        operands="[HAPROXY] [HAPROXY-ARGS...]",
        details=(
            f"Without -f it checks {DEFAULT_CONFIGURATION}.",
            "The stand-in sockets are not bound, so a port in use does not matter. Nothing is started or changed.",
            "A tag (fd@${TAG}) that is not in --vips gets a stand-in socket as well, and a warning names it.",
            "Without --vips it takes the VIPs of the instance that runs here, if there is one.",
        ),
        which=(),
    ),
    Verb(
        "exporter",
        "serve /metrics, /livez and /readyz for a running instance",
        (
            Option("listen", "the address, such as :9101, 127.0.0.1:9101 or [::1]:9101", "ADDR", None, str),
            _OF_PID_1["exporter_counters"],
            _OF_PID_1["log_format"],
        ),
        (
            ("0", "a signal has ended it (TERM, INT or QUIT)"),
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
    """A verb with its options."""

    verb: str
    name: str | None
    """The instance's; None for the only one."""
    runtime_dir: str
    timeout: float | None
    """In seconds; None for no limit."""
    flags: frozenset[str]
    """The options `json`, `now` and `exporter_counters`, if given."""
    listen: str | None = None
    log_format: LogFormat = LogFormat.TEXT
    text: str | None = None
    """Which text is to be printed, and nothing else done (`parser.TEXTS`)."""


def read_question(
    given: Sequence[tuple[Option, str]], operands: Sequence[str], environment: Mapping[str, str]
) -> Question:
    """Read a verb and its options. The command line wins over the environment.

    Args:
        given: the options before the verb.
        operands: the verb, and what follows it.
        environment: all variables.

    Raises:
        OptionError: an option is invalid or not one of this verb, or there are operands.

    """
    verb = _BY_NAME[operands[0]]
    options = (*verb.which, *verb.options)
    parsed = split(operands[1:], options)
    if parsed.operands:
        raise OptionError(f"{verb.name} does not take {parsed.operands[0]!r}")
    values: dict[str, Any] = {option.field: option.default for option in (*_WHICH, *options)}
    for option in (*verb.which, *(verb.options if verb.variables else ())):
        text = environment.get(option.variable)
        if text:
            values[option.field] = option.parse(text, option.variable)
    mine = {option.field for option in options}
    for option, text in (*given, *parsed.given):
        if option.field not in mine:
            raise OptionError(f"{option.shown} does nothing for {verb.name}")
        if option.field == "pid_file":
            values["name"] = None
        values[option.field] = option.parse(text, option.shown)
    named = values["name"] or (instance_name(values["pid_file"]) if values["pid_file"] else None)
    names = ("forget", "json", "now", "exporter_counters")
    flags = frozenset(flag for flag in names if values.get(flag))
    timeout = values.get("timeout") or None
    listen, log_format = values.get("listen"), values.get("log_format", LogFormat.TEXT)
    return Question(verb.name, named, values["runtime_dir"], timeout, flags, listen, log_format, parsed.text)


def help_text(name: str) -> str:
    """Return what `safe_reload VERB --help` prints."""
    verb = _BY_NAME[name]
    operands = f" {verb.operands}" if verb.operands else ""
    lines = [f"safe_reload {name}: {verb.summary}", "", f"usage: safe_reload {name} [OPTIONS]{operands}", ""]
    for option in (*verb.options, *verb.which):
        default = f" [{option.shown_default}]" if option.shown_default and option.field not in _HELP_OF_VERBS else ""
        lines.append(f"  {f'{option.shown} {option.metavar}'.rstrip():<20} {help_line(option)}{default}")
    if len(verb.which) == len(_WHICH):
        lines += ["", "Without --name and --pid-file it is the only instance in the runtime directory."]
    lines += ["", *verb.details] if verb.details else []
    lines += ["", "exit status:", *(f"  {status:<4} {meaning}" for status, meaning in verb.statuses)]
    return "\n".join(lines)


_HELP_OF_VERBS = {
    "name": "the instance of this name",
    "pid_file": "the instance with this pid file",
    "runtime_dir": f"the directory of the control sockets [{_OF_PID_1['runtime_dir'].default}]",
}


def help_line(option: Option) -> str:
    """Return the help for an option of a verb, which differs from PID 1's for those that choose an instance."""
    return _HELP_OF_VERBS.get(option.field, option.help)
