"""Keeps the first lines, the alerts and the last lines of a haproxy's stderr, and counts the lines left out.

haproxy prints its warnings before the error, and a configuration can have thousands of warnings. What it was doing when
it died comes last.
"""

from __future__ import annotations

from entrypoint.lean.collections import Iterable, deque

_HEAD = 8192
_ALERTS = 16384
_TAIL = 8192
_LONGEST = 4096
"""Bytes of a line; the rest of a longer one is left out."""
_NOTICE = 48
"""The most bytes of a notice about missing lines, with its newline."""
BOUND = _HEAD + _ALERTS + _TAIL + 2 * _NOTICE
"""The most bytes of an excerpt."""
_ALERT = b"[ALERT]"


class Excerpt:
    """Owns at most BOUND bytes of a stream of lines, in their order."""

    def __init__(self) -> None:
        """Begin without lines."""
        self._lines: list[tuple[int, bytes]] = []
        """First lines and alerts, each with the number of lines left out before it."""
        self._left_out = 0
        """The number of lines left out after them."""
        self._tail: deque[tuple[bytes, bool]] = deque()
        """The last lines, each with whether it belongs to an alert."""
        self._tail_size = 0
        self._head_room, self._alert_room = _HEAD, _ALERTS
        self._in_alert = False

    def add(self, lines: Iterable[bytes]) -> None:
        """Add lines, without their newlines."""
        for line in lines:
            # Further lines of an alert are indented: the configuration's line, and below it a mark at the error.
            self._in_alert = line.startswith(_ALERT) or (self._in_alert and line[:1] in {b" ", b"\t"})
            if len(line) > _LONGEST:
                line = line[: _LONGEST - _NOTICE] + b" (and %d bytes)" % (len(line) - _LONGEST + _NOTICE)  # noqa: PLW2901
            self._tail.append((line, self._in_alert))
            self._tail_size += len(line) + 1
            while self._tail_size > _TAIL:
                self._settle(*self._tail.popleft())

    def _settle(self, line: bytes, is_alert: bool) -> None:
        """Keep or drop a line that is no longer one of the last ones."""
        cost = len(line) + 1
        self._tail_size -= cost
        if cost <= self._head_room:
            self._head_room -= cost
        elif is_alert and cost + _NOTICE <= self._alert_room:
            self._head_room = 0
            self._alert_room -= cost + _NOTICE
        else:
            self._head_room = 0
            self._left_out += 1
            return
        self._lines.append((self._left_out, line))
        self._left_out = 0

    @property
    def content(self) -> bytes:
        """The kept lines with their newlines, and notices of the lines left out."""
        parts = [_notice(missing) + line + b"\n" for missing, line in self._lines]
        parts.append(_notice(self._left_out))
        parts += (line + b"\n" for line, _ in self._tail)
        return b"".join(parts)


def _notice(missing: int) -> bytes:
    return b"(%d line%s left out here)\n" % (missing, b"" if missing == 1 else b"s") if missing else b""
