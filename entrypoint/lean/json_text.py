"""JSON for status and log lines, without the `json` module, which brings `re` and a MiB."""

from _json import encode_basestring_ascii
from collections.abc import Mapping

from entrypoint.lean.one_line import valid

Json = None | bool | int | float | str | list["Json"] | tuple["Json", ...] | Mapping[str, "Json"]


def json_text(value: object) -> str:
    """Write a value on one line (RFC 8259), what is no UTF-8 in it as text.

    Raises:
        TypeError: it is none that JSON knows.

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
            # What is not finite has no place in JSON.
            return repr(value) if abs(value) <= _LARGEST else "null"
        case Mapping():
            return "{" + ", ".join(f"{json_text(str(key))}: {json_text(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(json_text, value)) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} is not a value of JSON")


_LARGEST = 1.7976931348623157e308
