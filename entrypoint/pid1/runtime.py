"""Shared by all parts of PID 1: the event loop, the queue of events, the log, retries, and the handling of bugs.

Once the first process has been started, no exception may end PID 1, because that would end the container. An unexpected
exception is logged with its traceback, and serving goes on.
"""

from __future__ import annotations

import time

from entrypoint.core.effects import Log
from entrypoint.core.events import Event
from entrypoint.lean import contextlib
from entrypoint.lean.collections import Callable, Iterator, deque
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import reason
from entrypoint.lean.typing import TYPE_CHECKING
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.log import Logger

if TYPE_CHECKING:
    from typing import ParamSpec

    _P = ParamSpec("_P")

_PAUSE_AFTER_ERROR = 0.1
"""Seconds; bounds the CPU use of a repeated failure."""
_SILENCE = 60.0
"""Seconds in which the same error is not logged again."""


class Runtime:
    """Owns the event loop, and the events that the core has not handled yet."""

    def __init__(self, logger: Logger) -> None:
        """Begin with nothing to wait for."""
        self.event_loop = EventLoop()
        self.logger = logger
        self.events: deque[Event] = deque()
        self._reported = ""
        self._silent_until = 0.0
        logger.open()

    def submit(self, event: Event) -> None:
        """Queue an event for the core."""
        self.events.append(event)

    def log(self, line: Log) -> None:
        """Write a line."""
        self.logger.write(line)

    def wait(self, deadline: float) -> None:
        """Wait for events, at most until a deadline on the monotonic clock, and run their callbacks.

        Raises:
            ExceptionGroup: some callbacks failed; all others ran.

        """
        if self.logger.waits:
            self.event_loop.add_writer(self.logger, self._flush_log)
        self.event_loop.wait(deadline)

    def _flush_log(self) -> None:
        self.logger.flush()
        if not self.logger.waits:
            self.event_loop.remove(self.logger)

    # ---- unexpected exceptions ---------------------------------------------------------------------------------------

    def isolated(self, action: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Call an action; report its exceptions, and go on."""
        try:
            action(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # any of them
            self.unexpected(error)

    def unexpected(self, error: Exception) -> None:
        """Report an unexpected exception; never raises."""
        try:
            self._report(error)
        except Exception as another:  # noqa: BLE001  # not even this may end PID 1
            with contextlib.suppress(Exception):
                self.log(Log(Level.ERROR, "bug", f"a bug could not be reported: {another!r}"))
        time.sleep(_PAUSE_AFTER_ERROR)  # noqa: TID251  # a loop that fails each time must not fill the disk

    def _report(self, error: Exception) -> None:
        now = time.monotonic()
        if repr(error) == self._reported and now < self._silent_until:
            return
        self._reported, self._silent_until = repr(error), now + _SILENCE
        if is_shortage(error):
            self.log(Log(Level.ERROR, "system_error", f"no memory was left ({_place(error)}); serving goes on"))
            return
        import traceback  # noqa: PLC0415  # half a MiB, needed after a bug only

        for line in "".join(traceback.format_exception(error)).splitlines():
            self.log(Log(Level.ERROR, "bug", line))
        self.log(Log(Level.ERROR, "bug", "a bug in safe_reload, please report it; serving goes on"))


def is_shortage(error: Exception) -> bool:
    """Tell whether the only error is a lack of memory."""
    if isinstance(error, ExceptionGroup):
        return all(map(is_shortage, error.exceptions))
    return isinstance(error, MemoryError)


def _place(error: BaseException) -> str:
    """Return FILE:LINE where an exception was raised."""
    if isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"


def reason_of(error: Exception) -> str:
    """Return a short description of an error."""
    if isinstance(error, MemoryError):
        return "no memory is left"
    return reason(error) if isinstance(error, OSError) else repr(error)


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
