"""Mounts of its own for a child of tests.system.apart, so that bind mounts are real and vanish with it."""

import ctypes
import functools
import os
from pathlib import Path

from tests.system.apart import apart

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def own_mounts() -> None:
    """Give this process, a child, mounts of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", Path("/"), None, _MS_REC | _MS_PRIVATE)


def mount(source: str, target: Path, kind: str | None, flags: int = 0) -> None:
    """Mount something (mount(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), os.fsencode(target), kind.encode() if kind else None, flags, None):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def bind(source: Path, target: Path) -> None:
    """Mount a file on a file or a folder on a folder."""
    mount(str(source), target, None, _MS_BIND)


@functools.cache
def why_no_mounts() -> str:
    """Return the reason why a process cannot have mounts of its own here, or nothing."""
    try:
        apart(own_mounts)
    except AssertionError as error:
        return str(error).splitlines()[-1]
    return ""
