r"""Escapes text from outside, such as a file's name, so that it cannot break a line, move a cursor or be invalid UTF-8.

Characters that Unicode does not count as printable are escaped as in Python and C. A byte that is not UTF-8, which
Python holds as a surrogate (PEP 383), becomes `\xff`.
"""

from __future__ import annotations

_BYTES = range(0xDC80, 0xDD00)
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def one_line(text: str) -> str:
    """Return a text with all characters escaped that are not printable."""
    return text if text.isprintable() else "".join(map(_printable, text))


def reason(error: Exception) -> str:
    """Return an error's message; of an OSError without the errno number."""
    if not (isinstance(error, OSError) and error.strerror):
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def valid(text: str) -> str:
    """Return a text with surrogates escaped, so that it can be encoded as UTF-8; control characters stay."""
    return text if text.isascii() else "".join(_escape(one) if "\ud800" <= one <= "\udfff" else one for one in text)


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else _SHORT.get(letter) or _escape(letter)


def _escape(letter: str) -> str:
    code = ord(letter)
    if code in _BYTES:
        return f"\\x{code - _BYTES.start + 0x80:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
