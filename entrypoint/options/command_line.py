"""The operands: which of the two forms they are, what is to be run, and what haproxy may be told."""

from collections.abc import Callable, Sequence

from entrypoint.lean.record import record, replace
from entrypoint.options.parser import Arguments, split
from entrypoint.options.settings import OptionError
from entrypoint.options.vips import VipError, parse_vips

DEFAULT_CONFIGURATION = "/usr/local/etc/haproxy/haproxy.cfg"
QUESTIONS = ("reload", "status", "list", "stop", "metrics", "upgrade", "exporter")
"""Verbs that are put to a running instance, and one that serves what it answers: a program of its own."""
VERBS = (*QUESTIONS, "check")
_ORIGINAL = "PIDFILE VIPS HAPROXY [HAPROXY-ARGS...]"
SYNOPSIS = f"""\
safe_reload [OPTIONS] {_ORIGINAL}
safe_reload [OPTIONS] [--] [PROGRAM] [ARGS...]
safe_reload check [--vips LIST] [HAPROXY] [HAPROXY-ARGS...]
safe_reload reload | status | list | stop | metrics | upgrade | exporter [VERB-OPTIONS]"""

_HAPROXY = "haproxy"
_TAKES_A_VALUE = ("-f", "-C", "-L", "-m", "-n", "-N", "-S")
"""haproxy's options that are followed by a value, which is not looked at as an option. By their beginnings, as
everything below: haproxy itself looks at no more (init_args in its src/haproxy.c, from 2.6 to 3.5)."""
_TAKES_NONE = ("-d", "-V", "-q", "-4", "-D", "-W")
"""Those of one that serves. Any other one is answered by its usage, or a newer haproxy knows it."""
_DOES_NOT_SERVE = ("-v", "-c", "-dC")
"""-vq, -vqs and -vqb are from 2.9 on; -dC, which shows the configuration, is from 2.8 on."""
_ANSWERED_BY_USAGE = frozenset({"-h", "--help", "--version"})
_DROPPED = {
    "-D": "safe_reload keeps haproxy in the foreground",
    "-W": "safe_reload is the master",
    "-db": "it is implied",
}
"""-Ws is a -W, and so is -Wx."""
_REFUSED = {
    "-sf": "safe_reload itself tells old generations to leave, and only when the new one serves",
    "-st": "safe_reload itself tells old generations to leave, and only when the new one serves",
    "-x": "the VIPs are handed over without it",
    "-p": "safe_reload keeps the pid file: use its --pid-file",
}


class UsageError(ValueError):
    """Operands that cannot be used; its text is one line for the user."""


@record(frozen=True)
class Serve:
    """Run haproxy and keep it running."""

    program: str
    arguments: tuple[str, ...]
    """haproxy's arguments without those that safe_reload gives itself."""
    configurations: tuple[str, ...]
    """The files and folders that haproxy reads, as given."""
    folder: str | None
    """Where haproxy looks for relative ones (`-C`)."""
    pid_file: str | None = None
    """PIDFILE of the original form."""
    vips: str | None = None
    """VIPS of the original form."""
    warnings: tuple[str, ...] = ()
    master_cli: str = ""
    """Where haproxy's master would have its CLI (`-S`), which is not served."""


@record(frozen=True)
class RunOnce:
    """Run a haproxy that does not serve (`-c`, `-v`, ...), with stand-ins for the VIPs."""

    words: tuple[str, ...]


@record(frozen=True)
class Run:
    """Run any other program: be tini, no more."""

    words: tuple[str, ...]


@record(frozen=True)
class Check:
    """Have haproxy check a configuration, with stand-ins for the VIPs and for every tag that the text names."""

    words: tuple[str, ...]
    configurations: tuple[str, ...]
    folder: str | None


Command = Serve | RunOnce | Run | Check


def verb_of(words: Arguments) -> str | None:
    """Return the verb that a command line begins with, if it does: `--` before it makes it a program's name."""
    first = words.operands[0] if words.operands else ""
    return first if first in VERBS and not words.after_dashes else None


def is_question(arguments: Sequence[str]) -> bool:
    """Tell whether a command line is for a running instance; one that cannot be read is for whoever says so."""
    try:
        words = split(arguments)
    except OptionError:
        return False
    return words.text is None and verb_of(words) in QUESTIONS


def read_check(operands: Sequence[str], *, is_program: Callable[[str], bool]) -> tuple[Check, tuple[str, ...]]:
    """Tell what `check` is to look at: [HAPROXY] [HAPROXY-ARGS...].

    Returns:
        What to do, and warnings for the user, a line each.

    Raises:
        UsageError: one line that says what is wrong and what would be right.

    """
    program, arguments = _HAPROXY, tuple(operands)
    if arguments and not arguments[0].startswith("-"):
        program, arguments = arguments[0], arguments[1:]
        if program != _HAPROXY and not is_program(program):
            raise UsageError(f"{program} is not a program; a configuration is given so: safe_reload check -f {program}")
    without = tuple(word for word in arguments if word != "-c")
    if not {"-f", "--"} & set(without):
        without += ("-f", DEFAULT_CONFIGURATION)
    command = _haproxy(program, without)
    if not isinstance(command, Serve):
        raise UsageError(f"{' '.join(arguments)} checks nothing; run it without `check`: haproxy {' '.join(arguments)}")
    return Check((program, "-c", *command.arguments), command.configurations, command.folder), command.warnings


def read_command(operands: Sequence[str], *, after_dashes: bool, is_program: Callable[[str], bool]) -> Command:
    """Tell what the operands ask for.

    Args:
        operands: what follows the options, if it is no verb (`verb_of`).
        after_dashes: whether `--` ended the options: then it is the container form.
        is_program: whether a name can be executed, as execvp(3) would look for it.

    Raises:
        UsageError: one line that says what is wrong and what would be right.

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
    """Tell PIDFILE VIPS HAPROXY from a program that is missing: a VIP list is never an option."""
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
    """Return haproxy's arguments with one more file, which it reads after the others."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            return (*arguments, path)
        if word.startswith(_TAKES_A_VALUE):
            next(words, None)
    return (*arguments, "-f", path)


def without_configurations(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return haproxy's arguments without the files and folders that it reads."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        value = [text for text in (next(words, None),) if text is not None] if word.startswith(_TAKES_A_VALUE) else []
        if not word.startswith("-f"):
            kept += [word, *value]
    return tuple(kept)


def _haproxy(program: str, arguments: Sequence[str]) -> Serve | RunOnce:
    kept: list[str] = []
    configurations: list[str] = []
    warnings: list[str] = []
    unknown = False
    master_cli = ""
    folder = None
    words = iter(arguments)
    for word in words:
        if _does_not_serve(word, kept):
            return RunOnce((program, *arguments))
        refused = next((why for option, why in _REFUSED.items() if word.startswith(option)), None)
        if refused:
            raise UsageError(f"haproxy's {word} is not for the user to give: {refused}")
        dropped = next((why for option, why in _DROPPED.items() if word.startswith(option)), None)
        if dropped:
            warnings.append(f"haproxy's {word} is dropped: {dropped}")
            continue
        kept.append(word)
        if word == "--":
            rest = list(words)
            kept += rest
            configurations += rest
        elif word.startswith(_TAKES_A_VALUE):
            value = next(words, None)
            if value is None:
                raise UsageError(f"haproxy's {word} needs a value after it")
            if word.startswith("-S"):
                kept.pop()
                master_cli = value.partition(",")[0]
                continue
            kept.append(value)
            if word.startswith("-f"):
                configurations.append(value)
            elif word.startswith("-C"):
                folder = value
        elif word.startswith("-") and not word.startswith(_TAKES_NONE):
            unknown = True
    if unknown and not configurations:
        # Without one no haproxy serves: whatever it makes of that option is the answer.
        return RunOnce((program, *arguments))
    if not configurations:
        raise UsageError(f"haproxy is given no configuration; add -f FILE, such as -f {DEFAULT_CONFIGURATION}")
    return Serve(program, tuple(kept), tuple(configurations), folder, warnings=tuple(warnings), master_cli=master_cli)


def read_by(arguments: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Return the files and folders that a haproxy with these arguments reads, as given, and where it looks for them."""
    configurations: list[str] = []
    folder = None
    words = iter(arguments)
    for word in words:
        if word == "--":
            configurations += words
        elif word.startswith(_TAKES_A_VALUE):
            value = next(words, "")
            if word.startswith("-f"):
                configurations.append(value)
            elif word.startswith("-C"):
                folder = value
    return tuple(configurations), folder


def _does_not_serve(word: str, before: Sequence[str]) -> bool:
    """Tell whether haproxy ends after it has answered this, whatever else it is told."""
    if word.startswith("-dM"):
        return "help" in word[3:].split(",")
    if word == "-dthelp" or (word == "help" and before[-1:] == ["-dt"]):
        return True
    return word.startswith(_DOES_NOT_SERVE) or word in _ANSWERED_BY_USAGE
