"""Replaces safe_reload itself: same pid, same sockets, same children, another program.

The new program has the same command line and one more descriptor, from which it reads the state of this one. It is
rehearsed first: a child does everything that it does before its first wait, without effects outside. On success the
child reports the token from its state, because exit status 0 proves nothing: an empty file exits so, too. It also
reports its files. This process executes the new program only if they are still the same.

After the exec only the new program has the sockets and the children. If it cannot start, it retries until it can
(`retry_start`); haproxy goes on meanwhile.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

from entrypoint.core.upgrade_state import UpgradeState, UpgradeStateError, as_plain, parse
from entrypoint.lean import contextlib, signal
from entrypoint.lean.collections import Callable, Iterable, Mapping
from entrypoint.system.processes import SpawnSpec, find_program, undisturbed
from entrypoint.system.signals import block_all

STATE_VARIABLE = "SAFE_RELOAD_HEIR"
"""Holds the descriptor from which the new program reads the state. Older releases know it by this name."""
REHEARSAL_VARIABLE = "SAFE_RELOAD_REHEARSAL"
"""Set in a rehearsal: the descriptor for its report."""
REHEARSAL = -1
"""The process number of the rehearsal."""
REHEARSE_WITHIN = 10.0
"""Seconds."""
_RETRY_AFTER = 1.0
"""Seconds."""
_MARSHAL_VERSION = 2
"""Read by every Python since 2.5."""


def own_command() -> tuple[str, ...]:
    """Return the command of this program without its arguments, but with the interpreter, which sys.argv lacks."""
    return tuple(sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1])


def write_state(saved: UpgradeState) -> int:
    """Return a descriptor from which the new program can read the state.

    Raises:
        OSError: no descriptors, or no memory, are left.

    """
    descriptor = os.memfd_create("safe_reload", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(marshal.dumps(as_plain(saved), _MARSHAL_VERSION))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_state(environment: Mapping[str, str]) -> UpgradeState | None:
    """Return the previous program's state, if there was one.

    Raises:
        UpgradeStateError: it cannot be read.

    """
    number = environment.get(STATE_VARIABLE)
    if not number:
        return None
    try:
        # Left open: `retry_start` reads it again.
        with open(int(number), "rb", closefd=False) as file:
            file.seek(0)
            saved = marshal.loads(file.read())  # noqa: S302  # written by ourselves, into a descriptor of our own
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UpgradeStateError(f"{STATE_VARIABLE}={number}: {error}") from None
    return parse(saved)


def is_successor(environment: Mapping[str, str]) -> bool:
    """Tell whether this process has replaced a previous program, and alone has its sockets and children."""
    return bool(environment.get(STATE_VARIABLE) and not environment.get(REHEARSAL_VARIABLE))


def close_state(environment: Mapping[str, str]) -> None:
    """Close the state descriptor: this program can no longer restart from it."""
    os.close(int(environment[STATE_VARIABLE]))


def rehearsal(
    state_fd: int, environment: Mapping[str, str], descriptors: tuple[int, ...], stderr: int, answer: int
) -> SpawnSpec:
    """Return how the rehearsal is started.

    Args:
        state_fd: from `write_state`.
        environment: the variables of the new program.
        descriptors: inherited under the same numbers.
        stderr: the descriptor for its stderr.
        answer: the descriptor for its report.

    """
    variables = {**environment, STATE_VARIABLE: str(state_fd), REHEARSAL_VARIABLE: str(answer)}
    return SpawnSpec(tuple(sys.orig_argv), variables, (state_fd, answer, *descriptors), stderr=stderr)


def report_success(environment: Mapping[str, str], token: str) -> None:
    """Report a successful rehearsal: the token, and the files of this program.

    Raises:
        OSError: the report cannot be written.

    """
    wanted = environment[REHEARSAL_VARIABLE]
    if not wanted.isdecimal():
        # Release 0.1.0 only checks the exit status.
        return
    paths = {sys.argv[0], find_program(sys.orig_argv[0], environment) or ""}
    for module in list(sys.modules.values()):
        paths |= {path for path in (getattr(module, "__file__", ""), getattr(module, "__cached__", "")) if path}
    lines = [token, *map(_identity, sorted(os.path.abspath(path) for path in paths if path))]
    with open(int(wanted), "wb", closefd=False) as file:
        file.write(os.fsencode("\0".join(lines)))


def _identity(path: str) -> str:
    """Return a line that changes if the file is replaced or written: its identity, and its path."""
    try:
        found = os.stat(path)
    except OSError:
        return f"- {path}"
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns} {path}"


def read_report(data: bytes, token: str) -> tuple[str, ...] | None:
    """Return the lines about files from a rehearsal's report; None if the rehearsal failed."""
    reported, *files = os.fsdecode(data).split("\0")
    return tuple(files) if reported == token else None


def changed(files: Iterable[str]) -> str:
    """Return the path of a file that has changed since the report; empty if none has."""
    paths = (line.partition(" ")[2] for line in files if line != _identity(line.partition(" ")[2]))
    return next(paths, "")


def execute(
    state_fd: int, environment: Mapping[str, str], descriptors: tuple[int, ...], resend: Callable[[], Iterable[int]]
) -> None:
    """Execute the new program; returns only by an exception.

    Args:
        state_fd: from `write_state`.
        environment: the variables of the new program.
        descriptors: inherited under the same numbers.
        resend: returns the signals that have arrived and are not handled yet.

    Raises:
        OSError: it cannot be executed; everything is as before, and the signals are raised again.

    """
    command = sys.orig_argv
    program = find_program(command[0], environment)
    if not program:
        raise FileNotFoundError(2, f"{command[0]} is not there any more")
    with undisturbed():
        try:
            for descriptor in (state_fd, *descriptors):
                os.set_inheritable(descriptor, True)
            # Blocked signals stay pending through the exec. SIGCHLD makes the new program reap. Not by kill(2): a
            # signal that the kernel sends for one of our own writes looks like that.
            for signum in resend():
                signal.raise_signal(signum)
            signal.raise_signal(signal.SIGCHLD)
            os.execve(program, command, {**environment, STATE_VARIABLE: str(state_fd)})
        finally:
            for descriptor in (state_fd, *descriptors):
                os.set_inheritable(descriptor, False)


def retry_start(environment: Mapping[str, str], report: Callable[[str], None], error: BaseException) -> None:
    """Execute this program again until it can start, or is asked to stop; never returns.

    Call it inside the exception handler: the traceback keeps all descriptors of its frames open.
    """
    report(f"cannot go on after the upgrade, and tries again: {error!r}")
    block_all()
    state_fd = int(environment[STATE_VARIABLE])
    while True:
        time.sleep(_RETRY_AFTER)  # noqa: TID251  # nothing else can be done here
        try:
            saved = read_state(environment)
            assert saved
            _exit_if_stopped(saved)
            execute(state_fd, environment, tuple(filter(_is_open, saved.descriptors)), list)
        except Exception as another:  # noqa: BLE001  # an exit would be worse than any error
            report(f"cannot start again: {another!r}")


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _exit_if_stopped(saved: UpgradeState) -> None:
    """If a stop signal is pending, stop all children, wait for them, and exit."""
    pending = signal.sigpending() & {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
    if not pending:
        return
    stop = signal.SIGTERM if signal.SIGQUIT in pending else signal.SIGUSR1
    signalled = []
    for pid in saved.pids.values():
        with contextlib.suppress(OSError):
            os.kill(pid, stop)
            signalled.append(pid)
            os.kill(pid, signal.SIGCONT)
    # Only for these: a reader may hang with its disk, and a process that we may not signal goes on serving.
    for pid in signalled:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    os._exit(0)
