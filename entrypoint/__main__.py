"""`python -m entrypoint` and `safe_reload`: the same door.

The first statement blocks every signal: one that reaches PID 1 before there is a handler is dropped by the kernel,
and everything imported below takes time. `_signal` is built into the interpreter; `signal` would import `enum`.
"""

import _signal

_MASK = frozenset(map(int, _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())))

import os  # noqa: E402
import sys  # noqa: E402

from entrypoint.core.command import is_question  # noqa: E402


def main() -> None:
    """Run the command line and exit with its status."""
    if is_question(sys.argv[1:]):
        # Probes ask often: what only PID 1 needs would add a tenth to the price of a question.
        from entrypoint.client import run as ask  # noqa: PLC0415

        sys.exit(ask(sys.argv[1:], _environment()))
    from entrypoint.cli import run  # noqa: PLC0415

    sys.exit(run(sys.argv[1:], _environment(), _MASK, _tags_of_instance))


def _tags_of_instance(runtime_dir: str, name: str | None) -> frozenset[str]:
    from entrypoint.client import tags_of_instance  # noqa: PLC0415  # only `check` asks, and seldom

    return tags_of_instance(runtime_dir, name)


def _environment() -> dict[str, str]:
    """Return the variables as our parent left them: CPython adds LC_CTYPE where no locale is set (PEP 538)."""
    environment = dict(os.environ)
    try:
        with open("/proc/self/environ", "rb") as file:
            ours = not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0"))
    except OSError:
        ours = False
    if ours:
        environment.pop("LC_CTYPE", None)
    return environment


if __name__ == "__main__":
    main()
