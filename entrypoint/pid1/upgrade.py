"""Replacing safe_reload itself: same pid, same sockets, same children, another program.

The next life is the same command line with a descriptor more, from which it reads what this one leaves. It is rehearsed
first, by a child that does all that the next life does before its first wait, and touches nobody. Whoever has got that
far knows the token that was left for it, and says so; that it exits with 0 says nothing, as an empty file does that,
too. It also says which files it was made of: only while they are the same this process executes it.

From then on nobody else has the sockets and the children: a next life that cannot begin all the same does not end, but
begins anew, again and again, until it can (`begin_anew`). haproxy goes on meanwhile.
"""

import contextlib
import marshal
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from entrypoint.core.upgrade_state import UpgradeState, UpgradeStateError, as_plain, parse
from entrypoint.system.processes import SpawnSpec, find_program
from entrypoint.system.signals import block_all, let_through

HEIR_VARIABLE = "SAFE_RELOAD_HEIR"
"""The descriptor from which the next life reads what this one leaves."""
REHEARSAL_VARIABLE = "SAFE_RELOAD_REHEARSAL"
"""The next life is only to see whether it could go on; the descriptor to which it says so."""
REHEARSAL = -1
"""Stands for the rehearsal where generations have numbers."""
REHEARSE_WITHIN = 10.0
"""Seconds."""
_ANEW_AFTER = 1.0
"""Seconds."""
_MARSHAL_VERSION = 2
"""Read by every Python since 2.5."""


def own_command() -> tuple[str, ...]:
    """Return the command that started this program, without its arguments; sys.argv leaves out the interpreter."""
    return tuple(sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1])


def wrap(left: UpgradeState) -> int:
    """Return a descriptor from which the next life can read this.

    Raises:
        OSError: there are no descriptors left, or no memory.

    """
    descriptor = os.memfd_create("safe_reload", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(marshal.dumps(as_plain(left), _MARSHAL_VERSION))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unwrap(environment: Mapping[str, str]) -> UpgradeState | None:
    """Read what the last life has left, if there was one.

    Raises:
        UpgradeStateError: it cannot be read.

    """
    number = environment.get(HEIR_VARIABLE)
    if not number:
        return None
    try:
        # Left open: whoever must begin anew reads it again.
        with open(int(number), "rb", closefd=False) as file:
            file.seek(0)
            left = marshal.loads(file.read())  # noqa: S302  # written by ourselves, into a descriptor of our own
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UpgradeStateError(f"{HEIR_VARIABLE}={number}: {error}") from None
    return parse(left)


def is_heir(environment: Mapping[str, str]) -> bool:
    """Tell whether this life has taken the place of another one, and nobody else has what that one had."""
    return bool(environment.get(HEIR_VARIABLE) and not environment.get(REHEARSAL_VARIABLE))


def has_begun(environment: Mapping[str, str]) -> None:
    """Let go of what was left: this life goes on by itself."""
    os.close(int(environment[HEIR_VARIABLE]))


def rehearsal(
    heir: int, environment: Mapping[str, str], descriptors: tuple[int, ...], stderr: int, answer: int
) -> SpawnSpec:
    """Return how the rehearsal is started.

    Args:
        heir: from `wrap`.
        environment: the variables of the next life.
        descriptors: what it inherits under the same numbers.
        stderr: where it complains.
        answer: where it testifies.

    """
    variables = {**environment, HEIR_VARIABLE: str(heir), REHEARSAL_VARIABLE: str(answer)}
    return SpawnSpec(tuple(sys.orig_argv), variables, (heir, answer, *descriptors), stderr=stderr)


def testify(environment: Mapping[str, str], token: str) -> None:
    """Tell who rehearses us that we have got through, and which files we are made of.

    Raises:
        OSError: nobody listens.

    """
    wanted = environment[REHEARSAL_VARIABLE]
    if not wanted.isdecimal():
        # 0.1.0 asks for no more than the exit status.
        return
    paths = {sys.argv[0], find_program(sys.orig_argv[0], environment) or ""}
    for module in list(sys.modules.values()):
        paths |= {path for path in (getattr(module, "__file__", ""), getattr(module, "__cached__", "")) if path}
    lines = [token, *map(_identity, sorted(os.path.abspath(path) for path in paths if path))]
    with open(int(wanted), "wb", closefd=False) as file:
        file.write(os.fsencode("\0".join(lines)))


def _identity(path: str) -> str:
    """Return what changes when a file is replaced or written, and its path."""
    try:
        found = os.stat(path)
    except OSError:
        return f"- {path}"
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns} {path}"


def read_testimony(data: bytes, token: str) -> tuple[str, ...] | None:
    """Return the files of a program that has got through its rehearsal; None where it has not."""
    said, *files = os.fsdecode(data).split("\0")
    return tuple(files) if said == token else None


def changed(files: Iterable[str]) -> str:
    """Return the path of one of these files that is another one by now; empty while there is none."""
    paths = (line.partition(" ")[2] for line in files if line != _identity(line.partition(" ")[2]))
    return next(paths, "")


def execute(
    heir: int, environment: Mapping[str, str], descriptors: tuple[int, ...], resend: Callable[[], list[int]]
) -> None:
    """Become the next life; return only if that fails.

    Args:
        heir: from `wrap`.
        environment: its variables.
        descriptors: what it inherits under the same numbers.
        resend: returns the signals that have arrived and not been seen to.

    Raises:
        OSError: it cannot be executed; everything is as it was, and the signals have been sent again.

    """
    command = sys.orig_argv
    program = find_program(command[0], environment)
    if not program:
        raise FileNotFoundError(2, f"{command[0]} is not there any more")
    block_all()
    try:
        for descriptor in (heir, *descriptors):
            os.set_inheritable(descriptor, True)
        # Blocked they stay pending through the exec. A death that was noted and not reaped is asked for again. Not by
        # kill(2): that is how a signal looks that the kernel sends for a write of ours.
        for signum in {*resend(), signal.SIGCHLD}:
            signal.raise_signal(signum)
        os.execve(program, command, {**environment, HEIR_VARIABLE: str(heir)})
    finally:
        for descriptor in (heir, *descriptors):
            os.set_inheritable(descriptor, False)
        let_through()


def begin_anew(environment: Mapping[str, str], complain: Callable[[str], None], error: BaseException) -> None:
    """Begin this life once more, which cannot begin: until it can, or is asked to stop. Never returns.

    To be called while the exception is handled, so that nothing that it has to do with is closed.
    """
    complain(f"cannot go on after the upgrade, and tries again: {error!r}")
    block_all()
    heir = int(environment[HEIR_VARIABLE])
    while True:
        time.sleep(_ANEW_AFTER)  # noqa: TID251  # there is nothing else that could be done
        try:
            left = unwrap(environment)
            assert left
            _end_if_asked(left)
            execute(heir, environment, tuple(filter(_is_open, left.descriptors)), list)
        except Exception as another:  # noqa: BLE001  # whatever it is, the end would be worse
            complain(f"cannot begin anew: {another!r}")
            block_all()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _end_if_asked(left: UpgradeState) -> None:
    """End, as soon as all our children have, where somebody has asked for a stop in vain."""
    asked = signal.sigpending() & {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
    if not asked:
        return
    leave = signal.SIGTERM if signal.SIGQUIT in asked else signal.SIGUSR1
    told = []
    for pid in left.pids.values():
        with contextlib.suppress(OSError):
            os.kill(pid, leave)
            told.append(pid)
            os.kill(pid, signal.SIGCONT)
    # For those only: a process that reads files for us may hang with its disk, and who may not be signalled serves on.
    for pid in told:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    os._exit(0)
