"""What is remembered of all that a haproxy says: how it began, every alert, how it ended, and what is missing.

haproxy warns before it says what is wrong, and a configuration can have thousands of warnings; what it was about when
it died comes last.
"""

from collections import deque
from collections.abc import Iterable

_HEAD = 8192
_ALERTS = 16384
_TAIL = 8192
_LONGEST = 4096
"""Bytes of a line; of a longer one its end is left out."""
_NOTICE = 48
"""Bytes that a notice of missing lines takes at most, with its end."""
BOUND = _HEAD + _ALERTS + _TAIL + 2 * _NOTICE
"""Bytes that an excerpt has at most."""
_ALERT = b"[ALERT]"


class Excerpt:
    """The head, every alert and the tail of a stream of lines, in their order, within a bound."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._kept: list[tuple[int, bytes]] = []
        """Lines, each with the number of those that are left out before it."""
        self._left_out = 0
        """After the last of them."""
        self._tail: deque[tuple[bytes, bool]] = deque()
        """The last lines, each with whether it is of an alert."""
        self._size = 0
        self._head, self._alerts = _HEAD, _ALERTS
        """What is left of the room for each."""
        self._in_alert = False

    def add(self, lines: Iterable[bytes]) -> None:
        """Take in lines, without their ends."""
        for line in lines:
            # The rest of an alert that has several lines is indented: the line of the configuration, and a mark below.
            self._in_alert = line.startswith(_ALERT) or (self._in_alert and line[:1] in {b" ", b"\t"})
            if len(line) > _LONGEST:
                line = line[: _LONGEST - _NOTICE] + b" (and %d bytes)" % (len(line) - _LONGEST + _NOTICE)  # noqa: PLW2901
            self._tail.append((line, self._in_alert))
            self._size += len(line) + 1
            while self._size > _TAIL:
                self._settle(*self._tail.popleft())

    def _settle(self, line: bytes, is_alert: bool) -> None:
        """Decide about a line that is no longer among the last ones."""
        cost = len(line) + 1
        self._size -= cost
        if cost <= self._head:
            self._head -= cost
        elif is_alert and cost + _NOTICE <= self._alerts:
            self._head = 0
            self._alerts -= cost + _NOTICE
        else:
            self._head = 0
            self._left_out += 1
            return
        self._kept.append((self._left_out, line))
        self._left_out = 0

    @property
    def content(self) -> bytes:
        """What is remembered, each line with its end."""
        parts = [_notice(missing) + line + b"\n" for missing, line in self._kept]
        parts.append(_notice(self._left_out))
        parts += (line + b"\n" for line, _ in self._tail)
        return b"".join(parts)


def _notice(missing: int) -> bytes:
    return b"(%d line%s left out here)\n" % (missing, b"" if missing == 1 else b"s") if missing else b""
