"""The event loop: descriptors and timers, each with the function to call."""

from __future__ import annotations

import math
import select
import time

from entrypoint.lean import contextlib
from entrypoint.lean.collections import Callable
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


_Watched = tuple[HasDescriptor, int, Action]
"""A descriptor, whether it is to be readable or writable, and what is called then."""


class EventLoop:
    """The descriptors and timers of one process."""

    def __init__(self) -> None:
        """Begin without any."""
        # Not the module `selectors`: it imports `collections`.
        self._epoll = select.epoll()
        self._watched: dict[int, _Watched] = {}
        self._timers: dict[object, tuple[float, Action]] = {}

    def add_reader(self, source: HasDescriptor, action: Action) -> None:
        """Call this whenever the descriptor is readable, and no longer when it is writable."""
        self._wait_for(source, select.EPOLLIN, action)

    def add_writer(self, source: HasDescriptor, action: Action) -> None:
        """Call this whenever the descriptor is writable, and no longer when it is readable."""
        self._wait_for(source, select.EPOLLOUT, action)

    def _wait_for(self, source: HasDescriptor, wanted: int, action: Action) -> None:
        descriptor = source.fileno()
        before = self._watched.get(descriptor)
        if not before:
            self._epoll.register(descriptor, wanted)
        elif before[1] != wanted:
            # If this fails, the descriptor is another file's by now.
            del self._watched[descriptor]
            self._epoll.modify(descriptor, wanted)
        self._watched[descriptor] = (source, wanted, action)

    def remove(self, source: HasDescriptor) -> None:
        """Stop watching this descriptor; call it before the descriptor is closed."""
        descriptor = source.fileno()
        if descriptor < 0:
            # It is closed already, and the kernel has forgotten it.
            descriptor = next((number for number, one in self._watched.items() if one[0] is source), -1)
        if self._watched.pop(descriptor, None):
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

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
        for descriptor, watched in self._ready(timeout) or self._ready(0):
            # An earlier action of this round may have removed or closed it.
            if self._watched.get(descriptor) is watched:
                try:
                    watched[2]()
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

    def _ready(self, timeout: float | None) -> list[tuple[int, _Watched]]:
        # Python rounds up to milliseconds, so it does not return just before a timer is due.
        events = self._epoll.poll(timeout, max(1, len(self._watched)))
        return [(descriptor, self._watched[descriptor]) for descriptor, _ in events if descriptor in self._watched]
