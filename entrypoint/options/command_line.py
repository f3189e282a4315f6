"""Reads the operands of the command line: which form they have, what to run, and which arguments haproxy gets."""

from __future__ import annotations

from entrypoint.lean.collections import Callable, Iterator, Sequence
from entrypoint.lean.record import record, replace
from entrypoint.options.parser import Arguments, split
from entrypoint.options.settings import OptionError
from entrypoint.options.vips import VipError, parse_vips

DEFAULT_CONFIGURATION = "/usr/local/etc/haproxy/haproxy.cfg"
QUESTIONS = ("reload", "status", "list", "stop", "metrics", "upgrade", "exporter")
"""The verbs that need a running instance. They run in a process of their own (client/)."""
VERBS = (*QUESTIONS, "check")
_ORIGINAL = "PIDFILE VIPS HAPROXY [HAPROXY-ARGS...]"
SYNOPSIS = f"""\
safe_reload [OPTIONS] {_ORIGINAL}
safe_reload [OPTIONS] [--] [PROGRAM] [ARGS...]
safe_reload check [--vips LIST] [HAPROXY] [HAPROXY-ARGS...]
safe_reload reload | status | list | stop | metrics | upgrade | exporter [VERB-OPTIONS]"""

_HAPROXY = "haproxy"
_TAKES_A_VALUE = ("-f", "-C", "-L", "-m", "-n", "-N", "-S")
"""haproxy's options with a value in the next argument. These and all below are prefixes, because haproxy itself looks
at no more (init_args in its src/haproxy.c, from 2.6 to 3.5)."""
_TAKES_NONE = ("-d", "-V", "-q", "-4", "-D", "-W")
"""haproxy's options without a value. It answers any other option with its usage, unless a newer version knows it."""
_DOES_NOT_SERVE = ("-v", "-c", "-dC")
"""With these, haproxy prints or checks something and exits. -vq, -vqs and -vqb exist since 2.9, -dC since 2.8."""
_ANSWERED_BY_USAGE = frozenset({"-h", "--help", "--version"})
_DROPPED = {
    "-D": "safe_reload keeps haproxy in the foreground",
    "-W": "safe_reload is the master",
    "-db": "it is implied",
}
"""-W stands for -Ws and -Wx as well."""
_STOPS_OLD = "safe_reload itself stops old generations, and only when the new one serves"
_REFUSED = {
    "-sf": _STOPS_OLD,
    "-st": _STOPS_OLD,
    "-x": "the VIPs are handed over without it",
    "-p": "safe_reload writes the pid file: use its --pid-file",
}


class UsageError(ValueError):
    """Operands that cannot be used; its text is one line for the user."""


@record(frozen=True)
class Serve:
    """Run haproxy and keep it running."""

    program: str
    arguments: tuple[str, ...]
    """haproxy's arguments, without those that are dropped."""
    configurations: tuple[str, ...]
    """The files and folders that haproxy reads (`-f`), as given."""
    folder: str | None
    """What relative configuration paths are relative to (`-C`)."""
    pid_file: str | None = None
    """PIDFILE of the original form."""
    vips: str | None = None
    """VIPS of the original form."""
    warnings: tuple[str, ...] = ()
    master_cli: str = ""
    """The address of haproxy's master CLI (`-S`), which safe_reload does not serve; empty if not given."""


@record(frozen=True)
class RunOnce:
    """Run a haproxy that does not serve (`-c`, `-v`, ...), with stand-in sockets for the VIPs."""

    words: tuple[str, ...]


@record(frozen=True)
class Run:
    """Run any other program, as tini does."""

    words: tuple[str, ...]


@record(frozen=True)
class Check:
    """Have haproxy check a configuration, with stand-in sockets for the VIPs and for every tag that it names."""

    words: tuple[str, ...]
    configurations: tuple[str, ...]
    folder: str | None


Command = Serve | RunOnce | Run | Check


def verb_of(arguments: Arguments) -> str | None:
    """Return the verb that the operands begin with, if they do. After `--` it is the name of a program."""
    first = arguments.operands[0] if arguments.operands else ""
    return first if first in VERBS and not arguments.after_dashes else None


def is_question(arguments: Sequence[str]) -> bool:
    """Tell whether a command line is for a running instance. False if it is invalid: PID 1's code prints the error."""
    try:
        parsed = split(arguments)
    except OptionError:
        return False
    return parsed.text is None and verb_of(parsed) in QUESTIONS


def read_check(operands: Sequence[str], *, is_program: Callable[[str], bool]) -> tuple[Check, tuple[str, ...]]:
    """Read the operands of `check`: [HAPROXY] [HAPROXY-ARGS...].

    Returns:
        The command, and warnings for the user, one line each.

    Raises:
        UsageError: the operands are invalid.

    """
    program, arguments = _HAPROXY, tuple(operands)
    if arguments and not arguments[0].startswith("-"):
        program, arguments = arguments[0], arguments[1:]
        if program != _HAPROXY and not is_program(program):
            raise UsageError(f"{program} is not a program; to check a configuration: safe_reload check -f {program}")
    checked = tuple(argument for argument in arguments if argument != "-c")
    if not {"-f", "--"} & set(checked):
        checked += ("-f", DEFAULT_CONFIGURATION)
    command = _haproxy(program, checked)
    if not isinstance(command, Serve):
        raise UsageError(f"{' '.join(arguments)} checks nothing; run it without `check`: haproxy {' '.join(arguments)}")
    return Check((program, "-c", *command.arguments), command.configurations, command.folder), command.warnings


def read_command(operands: Sequence[str], *, after_dashes: bool, is_program: Callable[[str], bool]) -> Command:
    """Read operands that do not begin with a verb.

    Args:
        operands: what follows the options.
        after_dashes: whether `--` ended the options: then they are not PIDFILE VIPS HAPROXY.
        is_program: whether execvp(3) would find a program of this name.

    Raises:
        UsageError: the operands are invalid.

    """
    if not operands:
        return _haproxy(_HAPROXY, ("-f", DEFAULT_CONFIGURATION))
    first = operands[0]
    if first.startswith("-"):
        return _haproxy(_HAPROXY, operands)
    if not after_dashes and _is_original_form(operands) and not is_program(first):
        return _original(operands)
    if first.rpartition("/")[2] == _HAPROXY:
        return _haproxy(first, operands[1:])
    return Run(tuple(operands))


def _is_original_form(operands: Sequence[str]) -> bool:
    """Tell PIDFILE VIPS HAPROXY from a program that does not exist: a VIP list does not begin with a dash."""
    return (len(operands) > 2 and not operands[1].startswith("-")) or (len(operands) == 2 and ":" in operands[1])


def _original(operands: Sequence[str]) -> Serve:
    pid_file, vips = operands[:2]
    try:
        parse_vips(vips)
    except VipError as error:
        raise UsageError(f"{error} ({pid_file} is no program, so this is {_ORIGINAL})") from None
    if len(operands) == 2:
        raise UsageError(f"HAPROXY is missing after the VIPs: {_ORIGINAL}, such as /usr/sbin/haproxy -f a.cfg")
    command = _haproxy(operands[2], operands[3:])
    if not isinstance(command, Serve):
        raise UsageError(f"{' '.join(operands[2:])} does not serve; run it without PIDFILE and VIPS")
    return replace(command, pid_file=pid_file, vips=vips)


def with_configuration(arguments: Sequence[str], path: str) -> tuple[str, ...]:
    """Return haproxy's arguments with one more file, which haproxy reads after the others."""
    after_dashes = any(argument == "--" for argument, _ in _parsed(arguments))
    return (*arguments, path) if after_dashes else (*arguments, "-f", path)


def without_configurations(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return haproxy's arguments without the files and folders that it reads."""
    others: list[str] = []
    for argument, values in _parsed(arguments):
        if argument != "--" and not argument.startswith("-f"):
            others += [argument, *values]
    return tuple(others)


def read_by(arguments: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Return the files and folders that a haproxy with these arguments reads, as given, and its `-C`."""
    configurations: list[str] = []
    folder = None
    for argument, values in _parsed(arguments):
        if argument == "--" or argument.startswith("-f"):
            configurations += values
        elif argument.startswith("-C"):
            folder = next(iter(values), None)
    return tuple(configurations), folder


def _parsed(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each of haproxy's options with its values: none, one, or after `--` all that is left."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        many = len(rest) if argument == "--" else 1 if argument.startswith(_TAKES_A_VALUE) else 0
        yield argument, rest[:many]
        del rest[:many]


def _haproxy(program: str, arguments: Sequence[str]) -> Serve | RunOnce:
    """Read haproxy's arguments; raise UsageError for a forbidden one, a missing value, and no configuration."""
    passed: list[str] = []
    warnings: list[str] = []
    unknown = False
    master_cli = ""
    for argument, values in _parsed(arguments):
        if _does_not_serve(argument, passed):
            return RunOnce((program, *arguments))
        refused = next((why for option, why in _REFUSED.items() if argument.startswith(option)), None)
        if refused:
            raise UsageError(f"haproxy's {argument} must not be given: {refused}")
        dropped = next((why for option, why in _DROPPED.items() if argument.startswith(option)), None)
        if dropped:
            warnings.append(f"haproxy's {argument} is dropped: {dropped}")
            continue
        if argument.startswith(_TAKES_A_VALUE):
            if not values:
                raise UsageError(f"haproxy's {argument} needs a value after it")
            if argument.startswith("-S"):
                master_cli = values[0].partition(",")[0]
                continue
        elif argument != "--" and argument.startswith("-") and not argument.startswith(_TAKES_NONE):
            unknown = True
        passed += [argument, *values]
    configurations, folder = read_by(passed)
    if not configurations:
        if unknown:
            # haproxy needs a configuration to serve, so it only answers that option.
            return RunOnce((program, *arguments))
        raise UsageError(f"haproxy is given no configuration; add -f FILE, such as -f {DEFAULT_CONFIGURATION}")
    return Serve(program, tuple(passed), configurations, folder, warnings=tuple(warnings), master_cli=master_cli)


def _does_not_serve(argument: str, before: Sequence[str]) -> bool:
    """Tell whether haproxy exits after it has handled this argument, whatever the others are."""
    if argument.startswith("-dM"):
        return "help" in argument[3:].split(",")
    if argument == "-dthelp" or (argument == "help" and before[-1:] == ["-dt"]):
        return True
    return argument.startswith(_DOES_NOT_SERVE) or argument in _ANSWERED_BY_USAGE
