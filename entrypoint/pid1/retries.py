"""Retries failed actions with a limit: the cause may be a bug of ours."""

from collections.abc import Callable, Iterator

from entrypoint.core.effects import Log
from entrypoint.lean.level import Level
from entrypoint.pid1.runtime import Runtime

_RETRY_AFTER = 1.0
"""Seconds, doubling."""
_MOST_TRIES = 5


class Retries:
    """Counts the attempts of each action."""

    def __init__(self, runtime: Runtime) -> None:
        """Begin with none."""
        self._runtime = runtime
        self._tries: dict[object, int] = {}
        self.any = False
        """Whether a retry is pending."""

    def __iter__(self) -> Iterator[object]:
        """Yield the keys of all pending retries."""
        return iter(self._tries)

    def failed(self, what: object, action: Callable[[], None]) -> None:
        """Retry an action later; `what` is its key."""
        tries = self._tries.pop(what, 0) + 1
        if tries > _MOST_TRIES:
            line = f"has failed {tries} times, and is not tried again: {what!r}"
            self._runtime.log(Log(Level.ERROR, "given_up", line))
            return
        self._tries[what] = tries
        self.any = True
        self._runtime.event_loop.call_later(("again", what), _RETRY_AFTER * 2 ** (tries - 1), action)

    def succeeded(self, what: object) -> None:
        """Forget it."""
        if self._tries.pop(what, 0):
            self._runtime.event_loop.cancel(("again", what))
            self.any = bool(self._tries)
