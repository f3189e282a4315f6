"""A status as its readers find it: from another process, perhaps of another version, so any field may be anything."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

Status = Mapping[str, Any]

_LARGEST = 1e300


def mapping(value: object) -> Mapping[str, Any]:
    """Return the fields of an object; none where it is no object."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> Sequence[object]:
    """Return the values of an array; none where it is no array."""
    return value if isinstance(value, list) else []


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the objects of an array."""
    return [one for one in sequence(value) if isinstance(one, dict)]


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether this is a number: no NaN and no infinity, which RFC 8259 has not, and none too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def has_current(status: Status) -> bool:
    """Tell whether a generation is current."""
    return any(one.get("state") == "current" for one in mappings(status.get("generations")))
