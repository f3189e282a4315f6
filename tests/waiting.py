"""The one way in which tests wait: ask again until it is true. No test sleeps and hopes."""

import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.05


def eventually(condition: Callable[[], T], timeout: float = 60.0) -> T:
    """Return the first truthy value of `condition`, asked for again and again.

    Raises:
        AssertionError: none came in time; the text says what was waited for and what was seen last.

    """
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        late = time.monotonic() >= deadline  # read first, so that the condition is asked once more after the deadline
        value = condition()
        if value:
            return value
        if late:
            raise AssertionError(f"not within {timeout:g} s: {_words_of(condition)}\nlast seen: {value!r}")
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _words_of(condition: Callable[[], object]) -> str:
    """Describe a condition by its source: nothing says it better."""
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
