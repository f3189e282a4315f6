"""`python -m entrypoint` and `safe_reload`: the same door.

The first statement blocks every signal: one that reaches PID 1 before there is a handler is dropped by the kernel,
and everything imported below takes time. `_signal` is built into the interpreter; `signal` would import `enum`.
"""

import _signal

_MASK = frozenset(map(int, _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())))

import gc  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run the command line and exit with its status."""
    # Nothing that an import makes is garbage: to look for some costs 2 ms of a start. Frozen, what has been imported is
    # not looked through later either, which would copy its pages in a forked child.
    gc.disable()
    try:
        run = _door()
        environment = _environment()
        gc.freeze()
        gc.enable()
    except BaseException:
        _begin_anew()
        raise
    sys.exit(run(environment))


def _door() -> "Callable[[dict[str, str]], int]":
    """Import what the command line asks for."""
    from entrypoint.options.command_line import is_question  # noqa: PLC0415  # what cannot be imported may not end an heir

    if is_question(sys.argv[1:]):
        # Probes ask often: what only PID 1 needs would add a tenth to the price of a question.
        from entrypoint.client.main import run as ask  # noqa: PLC0415

        return lambda environment: ask(sys.argv[1:], environment)
    from entrypoint.pid1.cli import run  # noqa: PLC0415

    return lambda environment: run(sys.argv[1:], environment, _MASK, _tags_of_instance)


def _begin_anew() -> None:
    """Execute the same words again, a second later, where we have taken the place of another life: see `upgrade`.

    Not by what does that later on, because that may be what cannot be imported. All descriptors are as that life has
    left them. A stop that somebody asks for is the end.
    """
    if not os.environ.get("SAFE_RELOAD_HEIR") or os.environ.get("SAFE_RELOAD_REHEARSAL"):
        return
    if _signal.sigpending() & {_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT}:
        return
    import time  # noqa: PLC0415
    import traceback  # noqa: PLC0415

    traceback.print_exc()
    time.sleep(1)  # noqa: TID251  # there is nothing else that could be done
    os.execvpe(sys.orig_argv[0], sys.orig_argv, os.environ)


def _tags_of_instance(runtime_dir: str, name: str | None) -> dict[str, int]:
    from entrypoint.client.main import tags_of_instance  # noqa: PLC0415  # only `check` asks, and seldom

    return tags_of_instance(runtime_dir, name)


def _environment() -> dict[str, str]:
    """Take back what CPython and the launcher have changed; return the variables as our parent left them.

    The process's own are so too, afterwards, for what we execute with them: but for the launcher's.
    """
    from entrypoint.options.inheritance import VARIABLE, parse_inheritance  # noqa: PLC0415  # as in `_door`

    inheritance = parse_inheritance(os.environ.get(VARIABLE, ""))
    if inheritance and inheritance.standard:
        lc_ctype = inheritance.lc_ctype
        for standard, now in enumerate(inheritance.standard):
            if now != standard:
                os.dup2(now, standard)
                os.close(now)
    else:
        lc_ctype = _lc_ctype()
    # CPython has set it where the locale is C (PEP 538).
    if lc_ctype is None:
        os.environ.pop("LC_CTYPE", None)
    elif os.environ.get("LC_CTYPE") != lc_ctype:
        os.environ["LC_CTYPE"] = lc_ctype
    # Without the one that has no name, which cannot be given to execve(2) from here.
    environment = {name: value for name, value in os.environ.items() if name}
    os.environ.pop(VARIABLE, None)
    return environment


def _lc_ctype() -> str | None:
    """Return what the variable was when this process began; as it is where there is no /proc."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return os.environ.get("LC_CTYPE")
    found = (entry.removeprefix(b"LC_CTYPE=") for entry in entries if entry.startswith(b"LC_CTYPE="))
    first = next(found, None)
    return None if first is None else os.fsdecode(first)


if __name__ == "__main__":
    main()
