"""Replacing safe_reload itself: same pid, same sockets, same children, another program.

The next life is the same command line with a descriptor more, from which it reads what this one leaves. It is rehearsed
first, by a child that reads everything and ends: whatever would keep the new program from starting shows there, and
nothing has happened yet. Only then this process executes it.
"""

import marshal
import os
import signal
import sys
from collections.abc import Callable, Mapping

from entrypoint.core.heritage import FORMAT, HeritageError
from entrypoint.core.types import Any
from entrypoint.system.processes import Birth, find_program
from entrypoint.system.signals import block_all, let_through

HEIR_VARIABLE = "SAFE_RELOAD_HEIR"
"""The descriptor from which the next life reads what this one leaves."""
REHEARSAL_VARIABLE = "SAFE_RELOAD_REHEARSAL"
"""The next life is only to see whether it could go on."""
REHEARSAL = -1
"""Stands for the rehearsal where generations have numbers."""
REHEARSE_WITHIN = 10.0
"""Seconds."""
_MARSHAL_VERSION = 2
"""Read by every Python since 2.5."""


def own_words() -> tuple[str, ...]:
    """Return the words that started this program, without its arguments; sys.argv leaves out the interpreter."""
    return tuple(sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1])


def wrap(left: Mapping[str, Any]) -> int:
    """Return a descriptor from which the next life can read this.

    Raises:
        OSError: there are no descriptors left, or no memory.

    """
    descriptor = os.memfd_create("safe_reload", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(marshal.dumps({"format": FORMAT, **left}, _MARSHAL_VERSION))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def unwrap(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Read what the last life has left, if there was one.

    Raises:
        HeritageError: it cannot be read.

    """
    number = environment.get(HEIR_VARIABLE)
    if not number:
        return None
    try:
        with open(int(number), "rb") as file:
            file.seek(0)
            left = marshal.loads(file.read())  # noqa: S302  # written by ourselves, into a descriptor of our own
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise HeritageError(f"{HEIR_VARIABLE}={number}: {error}") from None
    if not isinstance(left, dict) or left.get("format") != FORMAT:
        raise HeritageError(f"what the last life left has another format than {FORMAT}")
    return left


def rehearsal(heir: int, environment: Mapping[str, str], descriptors: tuple[int, ...], stderr: int) -> Birth:
    """Return how the rehearsal is started."""
    variables = {**environment, HEIR_VARIABLE: str(heir), REHEARSAL_VARIABLE: "yes"}
    return Birth(tuple(sys.orig_argv), variables, (heir, *descriptors), stderr=stderr)


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
    words = sys.orig_argv
    program = find_program(words[0], environment)
    if not program:
        raise FileNotFoundError(2, f"{words[0]} is not there any more")
    block_all()
    try:
        for descriptor in (heir, *descriptors):
            os.set_inheritable(descriptor, True)
        # Blocked they stay pending through the exec. A death that was noted and not reaped is asked for again. Not by
        # kill(2): that is how a signal looks that the kernel sends for a write of ours.
        for signum in {*resend(), signal.SIGCHLD}:
            signal.raise_signal(signum)
        os.execve(program, words, {**environment, HEIR_VARIABLE: str(heir)})
    finally:
        for descriptor in (heir, *descriptors):
            os.set_inheritable(descriptor, False)
        let_through()
