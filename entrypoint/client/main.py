"""The client: puts a question to a running instance through its control socket, and tells what it answers.

It is a process of its own that never becomes PID 1's, so its imports are its own business; but it is run in probes,
so they are few.
"""

import contextlib
import importlib
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entrypoint import __version__
from entrypoint.client import report
from entrypoint.client.connection import Connection, DeniedError
from entrypoint.client.formatting import Style, printable
from entrypoint.client.status_fields import Status
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
    """The answer could not be written; its text is one line for the user."""


class LateError(Exception):
    """The timeout was over first."""


class Deadline:
    """A moment until which something may take."""

    def __init__(self, seconds: float | None) -> None:
        """Begin to count; None is for ever."""
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Return how many seconds are left; infinity where nothing ends it.

        Raises:
            LateError: none.

        """
        if self._end is None:
            return float("inf")
        left = self._end - time.monotonic()
        if left <= 0:
            raise LateError
        return left


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Put the question that the command line asks; return the exit status.

    Args:
        arguments: without the program's name; `is_question` has found a verb in them.
        environment: all variables.

    """
    # Before a socket gets the number of a stdout that is closed.
    files.fill_standard_descriptors(inheritable=False)
    try:
        words = split(arguments)
        question = read_question(words.given, words.operands, environment)
        if question.verb == "exporter" and not question.text:
            return int(_exporter_package().main(question))
        # The door has blocked every signal, for PID 1's sake. SIGPIPE stays ignored: that nobody reads what a reload
        # has to say does not change what became of it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if question.text:
            help_wanted = question.text == "help"
            _answer_with(help_text(question.verb) if help_wanted else f"safe_reload {__version__}")
            return 0
        return _answer(question, Style(colour=_wants_colour(environment)))
    except OptionError as error:
        return _fail(f"{error}; see safe_reload {words.operands[0]} --help", _FAILED)
    except NoInstanceError as error:
        return _fail(str(error), _NO_INSTANCE)
    except (ImportError, UnwrittenError) as error:
        return _fail(f"{error}", _FAILED)


def tags_of_instance(runtime_dir: str, name: str | None) -> dict[str, int]:
    """Return the tags of the VIPs of a running instance, each with the number of its sockets.

    None where none answers, or where it may be several.

    Args:
        runtime_dir: where its control socket is.
        name: the instance's; None for the only one.

    """
    try:
        path = _find(Question("status", name, runtime_dir, SHORT, frozenset()))
        return report.tags(_status_of(path, Deadline(SHORT)))
    except (NoInstanceError, LateError):
        return {}


def _answer(question: Question, style: Style) -> int:
    deadline = Deadline(question.timeout)
    if question.verb == "list":
        return _list(question, style)
    path = _find(question)
    verbs = {"reload": _reload, "stop": _stop, "upgrade": _upgrade, "metrics": _metrics}
    try:
        if question.verb == "status":
            return _status(path, question, deadline, style)
        return verbs[question.verb](path, question, deadline)
    except LateError:
        more = "; the reload goes on, safe_reload status tells its end" if question.verb == "reload" else ""
        return _fail(f"{path} did not answer within {deadline.seconds:g} s (--timeout){more}", _LATE)


# ---- the verbs -----------------------------------------------------------------------------------------------------


def _reload(path: str, _: Question, deadline: Deadline) -> int:
    success, serves, words = report.read_reload(_ask(path, "reload", deadline))
    if words:
        _say(_STDERR, "\n".join(words))
    if success is None:
        return _fail(f"{path} does not know how to reload: its answer does not begin with Success=", _FAILED)
    if not success:
        return _FAILED
    _say(_STDOUT, serves or report.current(_status_of(path, deadline)))
    return 0


def _status(path: str, question: Question, deadline: Deadline, style: Style) -> int:
    with _connected(path, deadline) as connection:
        line = _answer_to(connection, "status", deadline)
        status = connection.status()
    lines = [line.rstrip("\n")] if "json" in question.flags else report.report(status, time.time(), style)
    _answer_with("\n".join(lines))
    return 0 if report.serves(status) else _FAILED


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
    _answer_with("\n".join(lines))
    return 0 if any(not isinstance(status, str) for _, status in found) else _NO_INSTANCE


def _stop(path: str, question: Question, deadline: Deadline) -> int:
    with _connected(path, deadline) as connection:
        # Before it is told to end, so that this is it, and not another process that has got its number since.
        life = _life(connection.pid)
        try:
            answer = _answer_to(connection, "stop now" if "now" in question.flags else "stop", deadline)
        except DeniedError:
            raise
        except NoInstanceError:
            answer = ""  # it went at once
    try:
        if _is_refusal(answer):
            return _fail(printable(answer.strip()), _FAILED)
        _wait_for_end(path, life, deadline)
    finally:
        if life is not None:
            os.close(life)
    return 0


def _life(pid: int) -> int | None:
    """Return a descriptor that becomes readable when a process ends (pidfd_open(2)); None where it cannot be seen."""
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None


def _wait_for_end(path: str, life: int | None, deadline: Deadline) -> None:
    if life is not None:
        poller = select.poll()
        poller.register(life, select.POLLIN)
        while not poller.poll(min(deadline.left(), _LONGEST_WAIT) * 1000):
            pass
        return
    while _is_alive(path):
        _pause(deadline)


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
        answer = ""  # it has become the new one without an answer
    if _is_refusal(answer):
        return _fail(printable(answer.strip().removeprefix("Success=0").strip("\n -")) or "refused", _FAILED)
    while True:
        try:
            status = _status_of(path, deadline)
        except NoInstanceError:
            _pause(deadline)
        else:
            version, pid = (printable(status.get(name)) for name in ("version", "pid"))
            _say(_STDOUT, f"safe_reload {version} (pid {pid}) runs")
            return 0


def _metrics(path: str, _: Question, deadline: Deadline) -> int:
    status = _status_of(path, deadline)
    _answer_with(_exporter_package().render(status).decode().rstrip("\n"))
    return 0


def _exporter_package() -> Any:  # noqa: ANN401  # a module that an installation may lack
    try:
        return importlib.import_module("entrypoint.client.exporter")
    except ModuleNotFoundError as error:
        raise ImportError(f"there is no exporter in this installation: {error}") from None


# ---- which instance ------------------------------------------------------------------------------------------------


def _find(question: Question) -> str:
    """Return the path of the control socket of the instance that is meant; strangers are named on stderr.

    Raises:
        NoInstanceError: none is, or several may be.

    """
    return find(question.runtime_dir, question.name, lambda line: write_to_stderr(text_line("WARN ", line)))


def _is_alive(path: str) -> bool:
    """Tell whether the instance still listens, though it may not listen to us."""
    alive, why = look(path)
    return alive and not why


# ---- asking --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(path: str, deadline: Deadline) -> Iterator[Connection]:
    """Connect, and hang up in the end.

    Raises:
        NoInstanceError: nobody is there, or nobody who speaks to us, or one who is not believed.
        LateError: nobody accepted in time.

    """
    connection = Connection(path)
    try:
        while not connection.connect():
            _pause(deadline)
        yield connection
    finally:
        connection.close()


def _answer_to(connection: Connection, command: str, deadline: Deadline) -> str:
    """Send a line and return the answer.

    Raises:
        NoInstanceError: there is none.
        LateError: it takes too long.

    """
    connection.ask(command)
    poller = select.poll()
    poller.register(connection.socket or -1, select.POLLIN)
    while True:
        if poller.poll(min(deadline.left(), _LONGEST_WAIT) * 1000) and connection.read():
            return connection.answer


def _ask(path: str, command: str, deadline: Deadline) -> str:
    with _connected(path, deadline) as connection:
        return _answer_to(connection, command, deadline)


def _status_of(path: str, deadline: Deadline) -> Status:
    with _connected(path, deadline) as connection:
        _answer_to(connection, "status", deadline)
        return connection.status()


def _pause(deadline: Deadline) -> None:
    select.select((), (), (), min(deadline.left(), _PAUSE_MS / 1000))


# ---- telling -------------------------------------------------------------------------------------------------------


def _wants_colour(environment: Mapping[str, str]) -> bool:
    """Tell whether colours are seen and wanted: no-color.org."""
    return os.isatty(_STDOUT) and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _fail(message: str, status: int) -> int:
    write_to_stderr(text_line("FATAL", message))
    return status


def _say(descriptor: int, text: str) -> None:
    """Tell how it went, as the exit status does: without the words it went the same way."""
    with contextlib.suppress(OSError):
        write(descriptor, text)


def _answer_with(text: str) -> None:
    """Write what was asked for.

    Raises:
        UnwrittenError: it cannot be written, so the question is not answered.

    """
    try:
        write(_STDOUT, text)
    except OSError as error:
        raise UnwrittenError(f"stdout: {error.strerror}") from None
