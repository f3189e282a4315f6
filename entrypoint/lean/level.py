"""How much a line of the log matters."""

from enum import IntEnum


class Level(IntEnum):
    """How much a log line matters; the numbers are tini's verbosity (0 to 3)."""

    ERROR = 0
    WARNING = 1
    INFO = 2
    DEBUG = 3
