r"""Text from outside, such as the name of a file, as part of a line that people and programs read.

Nothing in it ends the line, moves a cursor or is no UTF-8: what Unicode does not count as printable is escaped as in
Python and C, and a byte that was no UTF-8 (PEP 383 has it as a surrogate) as `\xff`.
"""

_BYTES = range(0xDC80, 0xDD00)
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def one_line(text: str) -> str:
    """Return a text without anything but printable letters."""
    return text if text.isprintable() else "".join(map(_printable, text))


def reason(error: Exception) -> str:
    """Say why something has failed, as the kernel says it, without the number that programs know it by."""
    if not (isinstance(error, OSError) and error.strerror):
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def valid(text: str) -> str:
    """Return a text without what UTF-8 cannot say; ends of lines and controls stay."""
    return text if text.isascii() else "".join(_escape(one) if "\ud800" <= one <= "\udfff" else one for one in text)


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else _SHORT.get(letter) or _escape(letter)


def _escape(letter: str) -> str:
    code = ord(letter)
    if code in _BYTES:
        return f"\\x{code - _BYTES.start + 0x80:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
