"""What the loop waits for: descriptors and alarms, each with what is to be done when it is time."""

import math
import selectors
import time
from collections.abc import Callable

from entrypoint.lean.typing import Protocol

_LONGEST_WAIT = 86400.0
"""Seconds; epoll_wait(2) takes no more than 24 days."""

_AGAIN_AFTER = 1.0
"""Seconds after which an alarm comes again whose action has failed."""

Action = Callable[[], None]


class HasDescriptor(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """Return it."""


class EventLoop:
    """The descriptors and alarms of one process."""

    def __init__(self) -> None:
        """Begin with none."""
        self._selector = selectors.DefaultSelector()
        self._alarms: dict[object, tuple[float, Action]] = {}

    def add_reader(self, source: HasDescriptor, action: Action, *, writes: bool = False) -> None:
        """Call this whenever the descriptor is readable; with `writes` also whenever it is writable."""
        self._wait_for(source, selectors.EVENT_READ | (selectors.EVENT_WRITE if writes else 0), action)

    def add_writer(self, source: HasDescriptor, action: Action) -> None:
        """Wait only until this descriptor is writable."""
        self._wait_for(source, selectors.EVENT_WRITE, action)

    def _wait_for(self, source: HasDescriptor, wanted: int, action: Action) -> None:
        try:
            self._selector.modify(source, wanted, action)
        except KeyError:
            self._selector.register(source, wanted, action)

    def remove(self, source: HasDescriptor) -> None:
        """Wait for it no longer; to be called before it is closed."""
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            return

    def call_later(self, key: object, seconds: float, action: Action) -> None:
        """Call this once, after so many seconds; one of the same key is replaced."""
        self._alarms[key] = (time.monotonic() + seconds, action)

    def cancel(self, key: object) -> None:
        """Forget an alarm."""
        self._alarms.pop(key, None)

    def wait(self, deadline: float) -> None:
        """Wait for the next thing to happen, at most until a point in time of the monotonic clock, and do it.

        Raises:
            ExceptionGroup: something of it has failed. All else has been done; an alarm that failed for want of
                something comes again.

        """
        failures: list[Exception] = []
        deadline = min(deadline, min((due for due, _ in self._alarms.values()), default=math.inf))
        timeout = None if deadline == math.inf else min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT)
        # After SIGSTOP and SIGCONT epoll may return a timeout although events are pending. Poll once more, so that
        # events win over the timer.
        for key, _ in self._selector.select(timeout) or self._selector.select(0):
            # What was done before it in this round may have taken it off the list, or closed it.
            if self._selector.get_map().get(key.fd) == key:
                try:
                    key.data()
                except Exception as error:  # noqa: BLE001  # of any kind: the others must have their turn
                    failures.append(error)
        now = time.monotonic()
        for name, (due, action) in list(self._alarms.items()):
            # An action before it may have cancelled it.
            if due <= now and name in self._alarms:
                del self._alarms[name]
                try:
                    action()
                except Exception as error:  # noqa: BLE001  # as above
                    failures.append(error)
                    if isinstance(error, OSError | MemoryError):
                        self._alarms.setdefault(name, (now + _AGAIN_AFTER, action))
        if failures:
            raise ExceptionGroup("what was waited for", failures)
