"""What the end of a process means, from its status as `os.waitstatus_to_exitcode` gives it."""

import signal


def how_it_died(status: int) -> str:
    """Say how a process ended."""
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"exited with status {status}"


def shell_status(status: int) -> int:
    """Turn a process's end into an exit status as shells and tini do: 128 and the signal's number."""
    return 128 - status if status < 0 else status
