"""The children of a safe_reload, looked at from outside while it goes on."""

import contextlib
from pathlib import Path

READER = "sr-reader"
"""What the process is called that reads files for PID 1."""


def children_of(pid: int) -> list[int]:
    """Return the pids of what it has started, oldest first: haproxy, the exporter, and not its reader."""
    everybody = _everybody(pid)
    readers = [child for child in everybody if _is_reader(child, pid)]
    return [child for child in everybody if child not in readers]


def readers_of(pid: int) -> list[int]:
    """Return the pids of its readers, those that are dead and not reaped excepted."""
    return [child for child in _everybody(pid) if _is_reader(child, pid) and _read(child, "cmdline")]


def _everybody(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_reader(child: int, parent: int) -> bool:
    with contextlib.suppress(OSError):
        if Path(f"/proc/{child}/comm").read_text() == f"{READER}\n":
            return True
    # It has just been forked, and has no name of its own yet.
    return all(_read(child, name) == _read(parent, name) for name in ("cmdline", "environ"))


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
