"""Writes JSON for status and log lines without the `json` module, which imports `re` and takes a MiB."""

from __future__ import annotations

from _json import encode_basestring_ascii

from entrypoint.lean.collections import Mapping
from entrypoint.lean.one_line import valid

_LARGEST = 1.7976931348623157e308


def json_text(value: object) -> str:
    """Return a value as one line of JSON (RFC 8259); what is not valid UTF-8 is escaped as by `valid`.

    Raises:
        TypeError: JSON has no such type.

    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return str(encode_basestring_ascii(valid(value)))
        case int():
            return str(int(value))
        case float():
            # JSON has no NaN and no infinity.
            return repr(value) if abs(value) <= _LARGEST else "null"
        case Mapping():
            return "{" + ", ".join(f"{json_text(str(key))}: {json_text(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(json_text, value)) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} is not a value of JSON")
