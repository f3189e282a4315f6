"""The levels of the log."""

from __future__ import annotations

from entrypoint.lean.enum import IntEnum


class Level(IntEnum):
    """The level of a log line; the numbers are tini's verbosity (0 to 3)."""

    ERROR = 0
    WARNING = 1
    INFO = 2
    DEBUG = 3
