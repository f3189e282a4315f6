"""Calls functions of the C library.

It uses `_ctypes`, because importing `ctypes` takes four times as much CPU time. The static file has no symbols to look
up by name: a built-in module has the few functions that are used (docker/static/program.c).
"""

from __future__ import annotations

import errno

from entrypoint.lean.collections import Callable


def libc_functions(*names: str) -> tuple[Callable[..., int], ...]:
    """Return C functions that take integers and bytes and return an int, followed by a function that returns errno.

    Raises:
        OSError: this Python has no _ctypes, or the C library has no such function.

    """
    try:
        import _libc  # noqa: PLC0415  # only the static file has it
    except ImportError:
        return _dynamic(names)
    try:
        return (*(getattr(_libc, name) for name in names), _libc.errno)
    except AttributeError as error:
        raise OSError(errno.ENOSYS, str(error)) from error


def _dynamic(names: tuple[str, ...]) -> tuple[Callable[..., int], ...]:
    try:
        import _ctypes  # noqa: PLC0415  # if a Python lacks it, only what needs it fails
    except ImportError as error:
        raise OSError(errno.ENOSYS, f"{names[0]}: {error}") from error

    class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001  # as in ctypes, and generic only there
        _type_ = "i"

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
        _restype_ = Int

    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # the program itself
    return (*(Function(_ctypes.dlsym(library, name)) for name in names), _ctypes.get_errno)
