"""The command line: arguments and environment in, an exit status out."""

from __future__ import annotations

from entrypoint import __version__
from entrypoint.core.effects import Log
from entrypoint.core.upgrade_state import UpgradeStateError
from entrypoint.lean import contextlib
from entrypoint.lean.collections import Callable, Iterator, Mapping, Sequence
from entrypoint.lean.level import Level
from entrypoint.options import command_line
from entrypoint.options.inheritance import VARIABLE as INHERITED_VARIABLE
from entrypoint.options.inheritance import parse_inheritance
from entrypoint.options.parser import split
from entrypoint.options.settings import (
    ENVIRONMENT_PREFIX,
    OPTIONS,
    LogFormat,
    Option,
    OptionError,
    Settings,
    instance_name,
    read_settings,
)
from entrypoint.pid1.bootstrap import Setting, serve
from entrypoint.pid1.launch import (
    RefusedError,
)
from entrypoint.pid1.runtime import reason_of
from entrypoint.pid1.upgrade import is_successor, retry_start
from entrypoint.system import files, signals
from entrypoint.system.listeners import Listeners
from entrypoint.system.listeners.places import ListenError
from entrypoint.system.log import Logger, text_line, write, write_to_stderr
from entrypoint.system.processes import Processes, SpawnSpec, find_program

_STDOUT = 1
_FAILED = 1
"""Exit status of errors before a process has been started, like tini's."""

_TEXTS = ("help", "version")
"""Verbs of other programs that are options here."""
TagsOf = Callable[[str, str | None], Mapping[str, list[str]]]
"""Takes a runtime directory and a name, None for the only instance; returns the tags of that instance's VIPs, each with
the scheme of each of its sockets."""

_LICENCE = """\
safe_reload is free software: you can redistribute it and/or modify it under the terms of the GNU General Public
License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later
version. It comes without any warranty; see <https://www.gnu.org/licenses/>."""

_NOT_A_REAPER = (
    "safe_reload is not running as PID 1 and isn't registered as a child subreaper.",
    "Zombie processes will not be re-parented to it: to reap them, run it as PID 1, or with -s or TINI_SUBREAPER.",
)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    mask: frozenset[int],
    tags_of_instance: TagsOf = lambda *_: {},
) -> int:
    """Carry out the command line; return the exit status.

    Args:
        arguments: without the program's name.
        environment: all variables.
        mask: the signals that were blocked when this process started; all are blocked now.
        tags_of_instance: see `TagsOf`.

    """
    fatal = _fatal((), environment)
    manual = "safe_reload --help"
    try:
        with _retry_if_successor(environment):
            parsed = split(arguments)
            fatal = _fatal(parsed.given, environment)
            if parsed.text:
                return _print(_text(parsed.text), fatal)

            def is_program(name: str) -> bool:
                return bool(find_program(name, environment))

            command: command_line.Command
            if command_line.verb_of(parsed) == "check":
                manual = "safe_reload check --help"
                rest = split(parsed.operands[1:])
                if rest.text:
                    return _print(_check_text(rest.text), fatal)
                settings, warnings = read_settings((*parsed.given, *rest.given), environment)
                command, more = command_line.read_check(rest.operands, is_program=is_program)
                warnings = (*warnings, *more)
            else:
                settings, warnings = read_settings(parsed.given, environment)
                dashes = parsed.after_dashes
                command = command_line.read_command(parsed.operands, after_dashes=dashes, is_program=is_program)
            return _start(command, settings, warnings, environment, mask, fatal, tags_of_instance)
    except (command_line.UsageError, OptionError) as error:
        fatal(f"{error}; see {manual}")
    except (ListenError, RefusedError, UpgradeStateError, signals.PrctlError) as error:
        fatal(str(error))
    except (OSError, MemoryError) as error:
        fatal(f"cannot start: {reason_of(error)}")
    finally:
        # The interpreter restores the default actions when it exits: a late signal must not change the status.
        signals.block_all()
    return _FAILED


@contextlib.contextmanager
def _retry_if_successor(environment: Mapping[str, str]) -> Iterator[None]:
    """After an upgrade, retry on any error: only this process has the children and the sockets."""
    try:
        yield
    except BaseException as error:
        if is_successor(environment):
            retry_start(environment, _fatal((), environment), error)
        raise


def _print(text: str, fatal: Callable[[str], None]) -> int:
    try:
        write(_STDOUT, text)
    except OSError as error:
        fatal(f"stdout: {error.strerror}")
        return _FAILED
    return 0


def _fatal(given: Sequence[tuple[Option, str]], environment: Mapping[str, str]) -> Callable[[str], None]:
    """Return the function that prints a fatal error in the requested log format, even if option parsing fails."""
    asked = [text for option, text in given if option.field == "log_format"]
    if (asked or [environment.get(f"{ENVIRONMENT_PREFIX}LOG_FORMAT", "")])[-1] != LogFormat.JSON:
        return lambda line: write_to_stderr(text_line("FATAL", line))
    logger = Logger(Level.ERROR, LogFormat.JSON)
    return lambda line: write_to_stderr(logger.line(Log(Level.ERROR, "fatal", line)))


# ---- texts -----------------------------------------------------------------------------------------------------------


def _text(name: str) -> str:
    if name == "help":
        return _help()
    return _LICENCE if name == "licence" else f"safe_reload {__version__}"


def _check_text(name: str) -> str:
    from entrypoint.options.verbs import help_text  # noqa: PLC0415  # PID 1 does not need these texts

    return help_text("check") if name == "help" else _text(name)


def _help() -> str:
    from entrypoint.options.verbs import VERBS  # noqa: PLC0415  # PID 1 does not need these texts

    lines = [
        f"safe_reload {__version__}: a PID 1 for HAProxy that never lets go of a listening socket",
        "",
        "usage: " + command_line.SYNOPSIS.replace("\n", "\n       "),
        "",
        "No operand means: haproxy -f /usr/local/etc/haproxy/haproxy.cfg; operands that begin with - are haproxy's.",
        "A PROGRAM that is not haproxy is run as tini would run it.",
        "USR1, USR2, HUP reload; TERM, INT stop gracefully, a second one at once; QUIT stops at once.",
        "",
        "VIPS is ADDRESS:PORT:TAG,... such as 10.0.0.1:80:FD_A,[2001:db8::1]:443:FD_B,*:8080:FD_C",
        'haproxy binds each one with: bind "fd@${TAG}"',
        "",
    ]
    for option in OPTIONS:
        name = f"{option.shown} {option.metavar}".rstrip()
        default = option.shown_default
        lines.append(f"  {name:<24} {option.help}{f' [{default}]' if default else ''}")
    lines += [
        f"  {'-h, --help':<24} show this text",
        f"  {'-l':<24} show the licence",
        f"  {'--version':<24} show the version",
        "",
        "Each --long-option can be given as the variable SAFE_RELOAD_LONG_OPTION; the command line wins.",
        "",
        "Verbs, each with a --help; most of them ask the instance with this --name, or the only one:",
        *(f"  {verb.name:<24} {verb.summary}" for verb in VERBS),
        "",
        "The exit status is 0 after a stop that was asked for, else haproxy's or the PROGRAM's: see safe_reload(8).",
    ]
    return "\n".join(lines)


# ---- start -----------------------------------------------------------------------------------------------------------


def _start(
    command: command_line.Command,
    settings: Settings,
    warnings: Sequence[str],
    environment: Mapping[str, str],
    mask: frozenset[int],
    fatal: Callable[[str], None],
    tags_of_instance: TagsOf,
) -> int:
    served = command if isinstance(command, command_line.Serve) else None
    serves = served is not None
    files.fill_standard_descriptors(inheritable=serves)
    pid_file = (served and served.pid_file) or settings.pid_file
    name = settings.name or instance_name(pid_file)
    logger = Logger(_level(settings, serves=serves), settings.log_format, name)
    for warning in (*warnings, *(served.warnings if served else ())):
        logger.write(Log(Level.WARNING, "configuration", warning))
    if served and served.master_cli:
        ours = f"{settings.runtime_dir}/{name}.sock"
        what = f"haproxy's -S is dropped: safe_reload is the master, and {ours} answers instead of {served.master_cli}"
        logger.write(Log(Level.WARNING, "configuration", what))
    inherited = signals.inherited(parse_inheritance(environment.get(INHERITED_VARIABLE, "")), mask)
    if settings.parent_death_signal:
        signals.set_parent_death_signal(settings.parent_death_signal)
    missing = _is_missing(command, environment)
    if not missing:
        _become_reaper(logger, serves=serves or isinstance(command, command_line.Check), asked=settings.subreaper)
    signals.set_name("safe_reload")

    def complain(line: str) -> None:
        fatal(line + _hint(command, environment))

    processes = Processes(lambda: signals.restore(inherited), complain, signals.spawn_setup(inherited))
    if settings.no_new_privs:
        signals.forbid_new_privileges()
    match command:
        case command_line.Serve():
            return serve(command, settings, Setting(name, environment, logger, processes, inherited))
        case command_line.Run(words=words):
            if settings.vips and not missing:
                what = f"--vips does nothing: {words[0]} is not called haproxy, so it is run as any other program"
                logger.write(Log(Level.WARNING, "configuration", what))
            spec = SpawnSpec(words, None, foreground=True)
        case command_line.RunOnce() | command_line.Check():
            from entrypoint.pid1.check import spec_of  # noqa: PLC0415  # a PID 1 that serves does not need it

            listeners = Listeners(settings.backlog)
            spec = spec_of(command, settings, environment, logger, listeners, tags_of_instance)
    from entrypoint.pid1.init_mode import InitMode  # noqa: PLC0415  # see above

    return settings.status(InitMode(spec, settings, processes, logger).run())


def _hint(command: command_line.Command, environment: Mapping[str, str]) -> str:
    """Suggest a verb or an option where the program does not exist; runs in the child."""
    if not isinstance(command, command_line.Run) or not _is_missing(command, environment):
        return ""
    from entrypoint.options.did_you_mean import meant  # noqa: PLC0415  # needed after a mistake only

    word = meant(command.words[0], (*command_line.VERBS, *_TEXTS))
    if word in _TEXTS:
        return f"; did you mean safe_reload --{word}?"
    return f"; did you mean the verb `{word}`?" if word else ""


def _is_missing(command: command_line.Command, environment: Mapping[str, str]) -> bool:
    return isinstance(command, command_line.Run) and not find_program(command.words[0], environment)


def _become_reaper(logger: Logger, *, serves: bool, asked: bool) -> None:
    if signals.is_reaper():
        return
    if asked:
        signals.become_subreaper()
        return
    if serves:
        # seccomp may forbid it, qemu-user does not know it. That is harmless: nobody asked for it, and haproxy has few
        # children.
        with contextlib.suppress(OSError):
            signals.become_subreaper()
            return
    for line in _NOT_A_REAPER:
        logger.write(Log(Level.WARNING, "not_a_reaper", line))


def _level(settings: Settings, *, serves: bool) -> Level:
    if settings.log_level is not None:
        return settings.log_level
    return Level(min((Level.INFO if serves else Level.WARNING) + settings.verbose, Level.DEBUG))
