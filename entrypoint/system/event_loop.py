"""The event loop: descriptors and timers, each with the function to call."""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable

from entrypoint.lean.typing import Protocol

_LONGEST_WAIT = 86400.0
"""Seconds; epoll_wait(2) takes at most 24 days."""

_AGAIN_AFTER = 1.0
"""Seconds after which a timer fires again if its action failed for lack of something."""

Action = Callable[[], None]


class HasDescriptor(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


class EventLoop:
    """The descriptors and timers of one process."""

    def __init__(self) -> None:
        """Begin without any."""
        self._selector = selectors.DefaultSelector()
        self._timers: dict[object, tuple[float, Action]] = {}

    def add_reader(self, source: HasDescriptor, action: Action) -> None:
        """Call this whenever the descriptor is readable, and no longer when it is writable."""
        self._wait_for(source, selectors.EVENT_READ, action)

    def add_writer(self, source: HasDescriptor, action: Action) -> None:
        """Call this whenever the descriptor is writable, and no longer when it is readable."""
        self._wait_for(source, selectors.EVENT_WRITE, action)

    def _wait_for(self, source: HasDescriptor, wanted: int, action: Action) -> None:
        try:
            self._selector.modify(source, wanted, action)
        except KeyError:
            self._selector.register(source, wanted, action)

    def remove(self, source: HasDescriptor) -> None:
        """Stop watching this descriptor; call it before the descriptor is closed."""
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            return

    def call_later(self, key: object, seconds: float, action: Action) -> None:
        """Call this once after so many seconds, instead of an earlier call with the same key."""
        self._timers[key] = (time.monotonic() + seconds, action)

    def cancel(self, key: object) -> None:
        """Cancel a timer; it need not exist."""
        self._timers.pop(key, None)

    def wait(self, deadline: float) -> None:
        """Wait for events, at most until `deadline` on the monotonic clock, and call what is due.

        Raises:
            ExceptionGroup: some actions failed; all others have been called. A timer that failed with OSError or
                MemoryError fires again after a second.

        """
        failures: list[Exception] = []
        deadline = min(deadline, min((due for due, _ in self._timers.values()), default=math.inf))
        timeout = None if deadline == math.inf else min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT)
        # After SIGSTOP and SIGCONT epoll may return a timeout although events are pending. Poll once more, so that
        # events win over the timer.
        for key, _ in self._selector.select(timeout) or self._selector.select(0):
            # An earlier action of this round may have removed or closed it.
            if self._selector.get_map().get(key.fd) == key:
                try:
                    key.data()
                except Exception as error:  # noqa: BLE001  # of any kind: the other actions still have to run
                    failures.append(error)
        now = time.monotonic()
        for name, (due, action) in list(self._timers.items()):
            # An earlier action may have cancelled it.
            if due <= now and name in self._timers:
                del self._timers[name]
                try:
                    action()
                except Exception as error:  # noqa: BLE001  # as above
                    failures.append(error)
                    if isinstance(error, OSError | MemoryError):
                        self._timers.setdefault(name, (now + _AGAIN_AFTER, action))
        if failures:
            raise ExceptionGroup("actions of the event loop", failures)
