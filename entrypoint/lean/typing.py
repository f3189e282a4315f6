"""The words of `typing` that are needed at run time, without its 3 ms at the start of PID 1 and its half MiB.

The type checker sees the standard library's; at run time they are placeholders, for nothing in here looks at them.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, assert_never
else:
    Any = object

    class Protocol:
        """A class that says what others must have."""

    def assert_never(value: object) -> None:
        """Fail: the type checker has proved that this cannot be reached."""
        raise AssertionError(f"unexpected: {value!r}")


__all__ = ["TYPE_CHECKING", "Any", "Protocol", "assert_never"]
