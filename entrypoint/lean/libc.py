"""Functions of the C library that Python does not offer.

By `_ctypes` and not `ctypes`, which costs four times as much CPU at the start.
"""

import errno
from collections.abc import Callable


def libc_functions(*names: str) -> tuple[Callable[..., int], ...]:
    """Return functions that take integers and bytes and return an int, and after them one that returns errno.

    Raises:
        OSError: there is no _ctypes in this Python, or no such function in the C library.

    """
    try:
        import _ctypes  # noqa: PLC0415  # a Python may lack it, and then only what needs it is missing
    except ImportError as error:
        raise OSError(errno.ENOSYS, f"{names[0]}: {error}") from error

    class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001  # as in ctypes, and generic only there
        _type_ = "i"

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
        _restype_ = Int

    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # the program itself
    return (*(Function(_ctypes.dlsym(library, name)) for name in names), _ctypes.get_errno)
