"""What has failed and is not to be forgotten: done again later, but not for ever, for it may be our own mistake."""

from collections.abc import Callable, Iterator

from entrypoint.core.effects import Log
from entrypoint.lean.level import Level
from entrypoint.pid1.runtime import Runtime

_AGAIN_AFTER = 1.0
"""Seconds; it doubles."""
_MOST_TRIES = 5


class Retries:
    """Counts the tries of each thing."""

    def __init__(self, runtime: Runtime) -> None:
        """Begin with none."""
        self._runtime = runtime
        self._tries: dict[object, int] = {}
        self.any = False
        """Whether there is something that is to be done again."""

    def __iter__(self) -> Iterator[object]:
        """Yield what is to be done again."""
        return iter(self._tries)

    def failed(self, what: object, action: Callable[[], None]) -> None:
        """Do this later, once more."""
        tries = self._tries.pop(what, 0) + 1
        if tries > _MOST_TRIES:
            line = f"has failed {tries} times, and is not tried again: {what!r}"
            self._runtime.log(Log(Level.ERROR, "given_up", line))
            return
        self._tries[what] = tries
        self.any = True
        self._runtime.event_loop.call_later(("again", what), _AGAIN_AFTER * 2 ** (tries - 1), action)

    def succeeded(self, what: object) -> None:
        """Forget it."""
        if self._tries.pop(what, 0):
            self._runtime.event_loop.cancel(("again", what))
            self.any = bool(self._tries)
