"""Reads a status. The instance may be of another version, so any field may be missing or of another type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

Status = Mapping[str, Any]

_LARGEST = 1e300
_LEAVING = ("lingering", "stopping")


def mapping(value: object) -> Status:
    """Return an object's fields; none if it is not an object."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> Sequence[object]:
    """Return an array's values; none if it is not an array."""
    return value if isinstance(value, list) else []


def mappings(value: object) -> list[Status]:
    """Return the objects in an array."""
    return [one for one in sequence(value) if isinstance(one, dict)]


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether this is a number: neither NaN nor infinity (not in RFC 8259), nor too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def current_generation(status: Status) -> Status:
    """Return the current generation; empty if there is none."""
    return next((one for one in mappings(status.get("generations")) if one.get("state") == "current"), {})


def serves(status: Status) -> bool:
    """Tell whether clients are served: a generation is current and the instance is not being stopped."""
    return status.get("stage") not in _LEAVING and bool(current_generation(status))


def not_ready(status: Status | None) -> str:
    """Return why this instance should get no traffic, in one line; empty if it should.

    A failed reload does not count: the current generation serves as before. Nor does a crash as long as a generation is
    current.
    """
    if status is None:
        return "PID 1's answer cannot be understood"
    if serves(status):
        return ""
    stage = status.get("stage")
    if stage in _LEAVING:
        return f"the instance is {stage}"
    return f"no generation of haproxy is current; the instance is {stage if isinstance(stage, str) else 'starting'}"
