"""`safe_reload exporter`: /livez, /readyz and /metrics of a running instance, from a process of its own.

PID 1 speaks to no network; this process does, and asks PID 1 through its control socket. It is a separate program that
happens to live in the same package, so the import budget of PID 1 is not its own. PID 1's modules never import it.

**Privileges.** The control socket speaks to root and to the uid of the instance only, and it is asked once per request:
a process that changed its uid could not ask any more. So the uid stays, and everything else goes once the port is
bound: no_new_privs, every capability, and the bounding set. What is left to a root that has no capabilities is what
files owned by root allow their owner; a container that runs as another user leaves not even that. It cannot be traced
by others of its uid, and PID 1 gives it none of its own variables but those that Python needs.

**Lifetime.** Whoever listens on the control socket and is our parent supervises us: then its death is ours
(PR_SET_PDEATHSIG). An exporter that was started by anything else stays, and says that nobody answers.
"""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from typing import NoReturn

from entrypoint.core.events import Level, Log
from entrypoint.core.settings import ENVIRONMENT_PREFIX, LogFormat, instance_name
from entrypoint.exporter.collector import MissingError, render, require
from entrypoint.exporter.instance import RUNTIME_DIR, Instance
from entrypoint.exporter.server import AddressError, Server, listen
from entrypoint.system import signals
from entrypoint.system.log import Logger, text_line, write, write_to_stderr

__all__ = ["MissingError", "main", "render"]

_STDOUT = 1
_NAME = "reload_exporter"
"""For ps(1), at most 15 bytes; not safe_reload, so that `pgrep safe_reload` goes on to mean PID 1."""


class _UsageError(Exception):
    """A command line that cannot be used; its text is one line for the user."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}; see safe_reload exporter --help")

    def print_help(self, file: object = None) -> None:
        del file
        try:
            write(_STDOUT, self.format_help().rstrip("\n"))
        except OSError as error:
            raise _UsageError(f"stdout: {error.strerror}") from None


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Serve until TERM, INT or QUIT; return the exit status.

    Args:
        arguments: without `exporter` itself.
        environment: all variables; SAFE_RELOAD_LISTEN, _NAME, _PID_FILE, _RUNTIME_DIR and _LOG_FORMAT are options.

    """
    try:
        return _serve(_parser(environment).parse_args(arguments))
    except (_UsageError, AddressError, MissingError, signals.PrctlError) as error:
        write_to_stderr(text_line("FATAL", f"exporter: {error}"))
    except OSError as error:
        write_to_stderr(text_line("FATAL", f"exporter: cannot start: {error}"))
    except SystemExit as help_was_shown:
        return int(help_was_shown.code or 0)
    return 1


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    def given(option: str) -> str | None:
        return environment.get(ENVIRONMENT_PREFIX + option) or None

    parser = _Parser(
        prog="safe_reload exporter",
        description="Serve /livez, /readyz and /metrics of a running instance.",
        allow_abbrev=False,
    )
    parser.add_argument("--listen", metavar="ADDR", default=given("LISTEN"), help="such as :9101 or 127.0.0.1:9101")
    parser.add_argument("--name", default=given("NAME"), help="the instance [the only one in the runtime directory]")
    parser.add_argument("--pid-file", metavar="PATH", default=given("PID_FILE"), help="the instance with this pid file")
    parser.add_argument(
        "--runtime-dir", metavar="DIR", default=given("RUNTIME_DIR") or RUNTIME_DIR, help="[%(default)s]"
    )
    styles = tuple(map(str, LogFormat))
    parser.add_argument("--log-format", choices=styles, default=given("LOG_FORMAT") or LogFormat.TEXT, help="[text]")
    return parser


def _serve(options: argparse.Namespace) -> int:
    if not options.listen:
        raise _UsageError("--listen ADDR is missing: give an address such as :9101 or 127.0.0.1:9101")
    name = options.name or (instance_name(options.pid_file) if options.pid_file else None)
    if name is not None and "/" in name:
        raise _UsageError(f"--name {name!r} is not the name of an instance: it has a slash")
    require()
    logger = Logger(Level.INFO, LogFormat(options.log_format), name)
    arrivals = signals.Arrivals()
    signals.set_name(_NAME)
    listener = listen(options.listen)
    _drop_privileges(logger)
    instance = Instance(options.runtime_dir, name)
    logger.write(Log(Level.INFO, "exporter_listening", f"exporter: listening on {_shown(listener)}"))
    Server(listener, arrivals, instance).run()
    return 0


def _drop_privileges(logger: Logger) -> None:
    try:
        signals.forbid_tracing()
        signals.forbid_new_privileges()
        signals.keep_capabilities()
    except signals.PrctlError as error:
        if os.geteuid() == 0:
            what = f"exporter: root keeps its capabilities: {error}; install python3-prctl, or run it as another user"
            logger.write(Log(Level.WARNING, "privileges_kept", what))


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
