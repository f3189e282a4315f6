"""A program that announces `ready`, then prints each signal it gets as `ROLE NUMBER from WHOM`, until it is KILLed.

Arguments: the roles. The first is played by the process itself, each further one by a child in the same process
group. WHOM is `init` (the parent of the first), `kernel`, or `other`. All signals are blocked and awaited, so none can
be missed, and of several that are pending the one with the lowest number is printed first.
"""

import os
import signal
import sys


def main(roles: list[str]) -> None:
    """Become all roles, then listen."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    init = os.getppid()
    role = roles[0]
    for other in roles[1:]:
        if os.fork() == 0:
            role = other
            break
    say(f"ready {role}")
    while True:
        got = signal.sigwaitinfo(signal.valid_signals())
        whom = "kernel" if got.si_code > 0 else "init" if got.si_pid == init else "other"
        say(f"{role} {got.si_signo} from {whom}")


def say(line: str) -> None:
    """One line, in one write."""
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
