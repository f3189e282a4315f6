"""What the end of a process means, from its status as `os.waitstatus_to_exitcode` gives it."""

from __future__ import annotations

from entrypoint.lean import signal


def how_it_died(status: int) -> str:
    """Say how a process ended."""
    return f"{'was killed by' if status < 0 else 'exited with'} {cause_of_death(status)}"


def cause_of_death(status: int) -> str:
    """Name what has ended a process: a signal, or its exit status."""
    return f"status {status}" if status >= 0 else signal.name_of(-status)


def shell_status(status: int) -> int:
    """Turn a process's end into an exit status as shells and tini do: 128 and the signal's number."""
    return 128 - status if status < 0 else status


_BY_ITSELF = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})
_PASSES = (
    "could not resolve address",
    "cannot allocate",
    "could not allocate",
    "failed to allocate",
    "unable to allocate",
    "not enough memory",
    "out of memory",
    "too many open files",
    "resource temporarily unavailable",
    "address already in use",
    "cannot assign requested address",
    "cannot transfer the fd",
    "failed to get the sockets from the old process",
)
"""What haproxy complains of that is not its configuration's fault, in lower case."""
_NOT_EXECUTED = (126, 127)
"""Exit statuses of the dynamic loader without a library or memory, and of a failed exec."""


def is_transient(status: int, stderr: str) -> bool:
    """Tell whether a haproxy that was not ready yet may have ended for a reason other than its configuration.

    Another try with the same configuration may succeed then: somebody has killed it, the kernel was short of something,
    a name did not resolve. haproxy names the place of each error in a configuration: `parsing [FILE:LINE]`.

    Args:
        status: as `os.waitstatus_to_exitcode` gives it.
        stderr: what it has written to its stderr.

    """
    if status == 0 or (status < 0 and not any(status == -signal.number_of(name) for name in _BY_ITSELF)):
        return True
    alerts = [line.lower() for line in stderr.splitlines() if "[ALERT]" in line]
    if status in _NOT_EXECUTED and not alerts:
        return True
    passing = [line for line in alerts if any(complaint in line for complaint in _PASSES)]
    return bool(passing) and not any("parsing [" in line for line in alerts if line not in passing)
