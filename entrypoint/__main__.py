"""The entry point of `python -m entrypoint` and `safe_reload`: imports and runs a client, or PID 1's code.

The first statement blocks all signals, because the kernel drops a signal to PID 1 that has no handler, and the imports
below take time. `_signal` is built into the interpreter; `signal` would import `enum`.
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
    # Imports make no garbage, so collecting during them only costs 2 ms. Frozen objects are not visited later either,
    # which would copy their pages in a forked child.
    gc.disable()
    try:
        run = _import_command()
        environment = _environment()
        gc.freeze()
        gc.enable()
    except BaseException:
        _retry_upgrade()
        raise
    sys.exit(run(environment))


def _import_command() -> "Callable[[dict[str, str]], int]":
    from entrypoint.options.command_line import is_question  # noqa: PLC0415  # `main` handles a failing import

    if is_question(sys.argv[1:]):
        # Probes run often: importing PID 1's code would make them a tenth slower.
        from entrypoint.client.main import run as ask  # noqa: PLC0415  # see above

        return lambda environment: ask(sys.argv[1:], environment)
    from entrypoint.pid1.cli import run  # noqa: PLC0415  # as above

    return lambda environment: run(sys.argv[1:], environment, _MASK, _tags_of_instance)


def _retry_upgrade() -> None:
    """Execute the same command line again after a second, if this is the version that an upgrade has executed.

    See `pid1/upgrade.py`, which may be what cannot be imported. The descriptors are still as the previous version left
    them. A pending stop signal ends the process instead.
    """
    if not os.environ.get("SAFE_RELOAD_HEIR") or os.environ.get("SAFE_RELOAD_REHEARSAL"):
        return
    if _signal.sigpending() & {_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT}:
        return
    import time  # noqa: PLC0415  # only after a failure
    import traceback  # noqa: PLC0415  # likewise

    traceback.print_exc()
    time.sleep(1)  # noqa: TID251  # no event loop runs yet
    os.execvpe(sys.orig_argv[0], sys.orig_argv, os.environ)


def _tags_of_instance(runtime_dir: str, name: str | None) -> dict[str, list[str]]:
    from entrypoint.client.main import tags_of_instance  # noqa: PLC0415  # only `check` needs it

    return tags_of_instance(runtime_dir, name)


def _environment() -> dict[str, str]:
    """Undo what CPython and the launcher have changed; return the environment variables as our parent set them.

    `os.environ` is restored as well, without the launcher's variable, for the programs that this process executes.
    """
    from entrypoint.options.inheritance import VARIABLE, parse_inheritance  # noqa: PLC0415  # as in `_import_command`

    inheritance = parse_inheritance(os.environ.get(VARIABLE, ""))
    if inheritance and inheritance.standard:
        lc_ctype = inheritance.lc_ctype
        for standard, now in enumerate(inheritance.standard):
            if now != standard:
                os.dup2(now, standard)
                os.close(now)
    else:
        lc_ctype = _lc_ctype()
    # CPython sets LC_CTYPE if the locale is C (PEP 538).
    if lc_ctype is None:
        os.environ.pop("LC_CTYPE", None)
    elif os.environ.get("LC_CTYPE") != lc_ctype:
        os.environ["LC_CTYPE"] = lc_ctype
    # Python cannot pass a variable with an empty name to execve(2).
    environment = {name: value for name, value in os.environ.items() if name}
    os.environ.pop(VARIABLE, None)
    return environment


def _lc_ctype() -> str | None:
    """Return LC_CTYPE as it was when this process started; its present value without /proc."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return os.environ.get("LC_CTYPE")
    found = (os.fsdecode(entry.removeprefix(b"LC_CTYPE=")) for entry in entries if entry.startswith(b"LC_CTYPE="))
    return next(found, None)


if __name__ == "__main__":
    main()
