"""The verbs that ask a running instance over its control socket: reload, status, list, stop, upgrade and metrics.

This never runs in PID 1, so the import budget of PID 1 does not apply. It imports little all the same, because probes
run it often.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entrypoint import __version__
from entrypoint.client import report
from entrypoint.client.connection import Connection, DeniedError
from entrypoint.client.formatting import Style, printable
from entrypoint.client.status_fields import Status, serves
from entrypoint.lean.json_text import json_text
from entrypoint.options.parser import split
from entrypoint.options.settings import OptionError
from entrypoint.options.verbs import SHORT, Question, help_text, read_question
from entrypoint.system import files
from entrypoint.system.instances import NoInstanceError, find, look, names, path_of
from entrypoint.system.log import text_line, write, write_to_stderr

_STDOUT, _STDERR = 1, 2
_FAILED = 1
_NO_INSTANCE = 3
_LATE = 124
"""As timeout(1)."""
_LONGEST_WAIT = 3600.0
"""Seconds; poll(2) takes no more than 24 days."""
_PAUSE_MS = 20


class UnwrittenError(Exception):
    """The result could not be written to stdout; its text is one line for the user."""


class LateError(Exception):
    """The --timeout has passed."""


class Deadline:
    """A point in time."""

    def __init__(self, seconds: float | None) -> None:
        """Set it to so many seconds from now; None is never."""
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Return how many seconds are left; infinity without a limit.

        Raises:
            LateError: none are left.

        """
        if self._end is None:
            return float("inf")
        left = self._end - time.monotonic()
        if left <= 0:
            raise LateError
        return left


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the verb on the command line; return the exit status.

    Args:
        arguments: without the program's name, for which `is_question` is true.
        environment: all variables.

    """
    # If stdout is closed, the next socket would get its number.
    files.fill_standard_descriptors(inheritable=False)
    try:
        parsed = split(arguments)
        question = read_question(parsed.given, parsed.operands, environment)
        if question.verb == "exporter" and not question.text:
            return int(_exporter_package().main(question))
        # __main__ has blocked every signal, because PID 1 needs that. SIGPIPE stays ignored: a closed stdout must not
        # change the exit status of a reload.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if question.text:
            _print(help_text(question.verb) if question.text == "help" else f"safe_reload {__version__}")
            return 0
        return _run(question, Style(colour=_wants_colour(environment)))
    except OptionError as error:
        return _fail(f"{error}; see safe_reload {parsed.operands[0]} --help", _FAILED)
    except NoInstanceError as error:
        return _fail(str(error), _NO_INSTANCE)
    except (ImportError, UnwrittenError) as error:
        return _fail(str(error), _FAILED)


def tags_of_instance(runtime_dir: str, name: str | None) -> dict[str, list[str]]:
    """Return the tags of the VIPs of a running instance, each with the scheme of each of its sockets.

    Args:
        runtime_dir: where its control socket is.
        name: the instance's; None for the only one.

    Returns:
        Empty if no instance answers, or if several instances run and no name is given.

    """
    try:
        return report.tags(_status_of(_find(runtime_dir, name), Deadline(SHORT)))
    except (NoInstanceError, LateError):
        return {}


def _run(question: Question, style: Style) -> int:
    deadline = Deadline(question.timeout)
    if question.verb == "list":
        return _list(question, style)
    path = _find(question.runtime_dir, question.name)
    verbs = {"reload": _reload, "stop": _stop, "upgrade": _upgrade, "metrics": _metrics}
    try:
        if question.verb == "status":
            return _status(path, question, deadline, style)
        return verbs[question.verb](path, question, deadline)
    except LateError:
        more = "; the reload goes on, safe_reload status shows its result" if question.verb == "reload" else ""
        return _fail(f"{path} did not answer within {deadline.seconds:g} s (--timeout){more}", _LATE)


# ---- the verbs -----------------------------------------------------------------------------------------------------


def _reload(path: str, question: Question, deadline: Deadline) -> int:
    command = "reload forget" if "forget" in question.flags else "reload"
    success, current, others = report.read_reload(_ask(path, command, deadline))
    if others:
        _try_print(_STDERR, "\n".join(others))
    if success is None:
        return _fail(f"{path} does not know how to reload: its answer does not begin with Success=", _FAILED)
    if not success:
        return _FAILED
    _try_print(_STDOUT, current or report.current(_status_of(path, deadline)))
    return 0


def _status(path: str, question: Question, deadline: Deadline, style: Style) -> int:
    with _connected(path, deadline) as connection:
        line = _exchange(connection, "status", deadline)
        status = connection.status()
    lines = [line.rstrip("\n")] if "json" in question.flags else report.report(status, time.time(), style)
    _print("\n".join(lines))
    return 0 if serves(status) else _FAILED


def _list(question: Question, style: Style) -> int:
    found: list[tuple[str, Status | str]] = []
    for name in names(question.runtime_dir):
        path = path_of(question.runtime_dir, name)
        try:
            found.append((name, _status_of(path, Deadline(question.timeout))))
        except NoInstanceError as error:
            alive = look(path)[0]
            found.append((name, str(error).removeprefix(f"{path}: ") if alive else "dead: nobody listens"))
        except LateError:
            found.append((name, "it does not answer"))
    if not found:
        raise NoInstanceError(f"{question.runtime_dir}: no instance has its control socket there (--runtime-dir)")
    as_json = "json" in question.flags
    lines = [json_text(report.records(found))] if as_json else report.instances(found, time.time(), style)
    _print("\n".join(lines))
    return 0 if any(not isinstance(status, str) for _, status in found) else _NO_INSTANCE


def _stop(path: str, question: Question, deadline: Deadline) -> int:
    with _connected(path, deadline) as connection:
        # Before the command: later the pid may be another process's.
        process = _open_process(connection.pid)
        try:
            answer = _exchange(connection, "stop now" if "now" in question.flags else "stop", deadline)
        except DeniedError:
            raise
        except NoInstanceError:
            answer = ""  # it has exited already
    try:
        if _is_refusal(answer):
            return _fail(printable(answer.strip()), _FAILED)
        _wait_for_end(path, process, deadline)
    finally:
        if process is not None:
            os.close(process)
    return 0


def _open_process(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process exits (pidfd_open(2)); None if it is not visible."""
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None


def _wait_for_end(path: str, process: int | None, deadline: Deadline) -> None:
    if process is None:
        while _is_alive(path):
            _pause(deadline)
        return
    while not _is_readable(process, deadline):
        pass


def _is_refusal(answer: str) -> bool:
    return answer.startswith(("Unknown command", "Success=0"))


def _upgrade(path: str, _: Question, deadline: Deadline) -> int:
    try:
        answer = _ask(path, "upgrade", deadline)
    except DeniedError:
        raise
    except NoInstanceError:
        if not _is_alive(path):
            raise
        answer = ""  # it has executed the new version without answering
    if _is_refusal(answer):
        return _fail(printable(answer.strip().removeprefix("Success=0").strip("\n -")) or "refused", _FAILED)
    while True:
        try:
            status = _status_of(path, deadline)
        except NoInstanceError:
            _pause(deadline)
        else:
            version, pid = (printable(status.get(name)) for name in ("version", "pid"))
            _try_print(_STDOUT, f"safe_reload {version} (pid {pid}) runs")
            return 0


def _metrics(path: str, _: Question, deadline: Deadline) -> int:
    _print(_exporter_package().render(_status_of(path, deadline)).decode().rstrip("\n"))
    return 0


def _exporter_package() -> Any:  # noqa: ANN401  # a module that an installation may lack
    try:
        return importlib.import_module("entrypoint.client.exporter")
    except ModuleNotFoundError as error:
        raise ImportError(f"there is no exporter in this installation: {error}") from None


# ---- which instance ------------------------------------------------------------------------------------------------


def _find(runtime_dir: str, name: str | None) -> str:
    """Return the path of the control socket or raise NoInstanceError; warn of sockets that are not trusted."""
    return find(runtime_dir, name, lambda line: write_to_stderr(text_line("WARN ", line)))


def _is_alive(path: str) -> bool:
    """Tell whether the instance still listens, even if it refuses to answer us."""
    alive, why = look(path)
    return alive and not why


# ---- asking --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(path: str, deadline: Deadline) -> Iterator[Connection]:
    """Connect, even if the listen queue is full at first, and close the connection in the end."""
    connection = Connection(path)
    try:
        while not connection.connect():
            _pause(deadline)
        yield connection
    finally:
        connection.close()


def _exchange(connection: Connection, command: str, deadline: Deadline) -> str:
    """Send a command; return the answer, or raise NoInstanceError or LateError."""
    connection.ask(command)
    while not (_is_readable(connection.socket or -1, deadline) and connection.read()):
        pass
    return connection.answer


def _is_readable(descriptor: int | socket.socket, deadline: Deadline) -> bool:
    """Wait for a descriptor; False after _LONGEST_WAIT."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(min(deadline.left(), _LONGEST_WAIT) * 1000))


def _ask(path: str, command: str, deadline: Deadline) -> str:
    with _connected(path, deadline) as connection:
        return _exchange(connection, command, deadline)


def _status_of(path: str, deadline: Deadline) -> Status:
    with _connected(path, deadline) as connection:
        _exchange(connection, "status", deadline)
        return connection.status()


def _pause(deadline: Deadline) -> None:
    select.select((), (), (), min(deadline.left(), _PAUSE_MS / 1000))


# ---- output --------------------------------------------------------------------------------------------------------


def _wants_colour(environment: Mapping[str, str]) -> bool:
    """Tell whether stdout is a terminal with colours and the user wants them (https://no-color.org)."""
    return os.isatty(_STDOUT) and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _fail(message: str, status: int) -> int:
    write_to_stderr(text_line("FATAL", message))
    return status


def _try_print(descriptor: int, text: str) -> None:
    """Write a text, or ignore that it cannot be written: the exit status has the result as well."""
    with contextlib.suppress(OSError):
        write(descriptor, text)


def _print(text: str) -> None:
    """Write the result to stdout, or raise UnwrittenError so that the verb fails."""
    try:
        write(_STDOUT, text)
    except OSError as error:
        raise UnwrittenError(f"stdout: {error.strerror}") from None
