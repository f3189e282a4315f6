"""Counters and times of what has happened, for status and metrics."""

from __future__ import annotations

from entrypoint.core.exit_status import cause_of_death
from entrypoint.core.notices import (
    Died,
    FilesApplied,
    FilesRefused,
    Gone,
    Notice,
    Promoted,
    Recovered,
    ReloadFailed,
    StartFailed,
    Starting,
)
from entrypoint.lean.collections import Mapping
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any, assert_never

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds in seconds of how long reloads took."""
RELOAD = "reload"
"""The kind of a reload that starts a new generation."""
APPLIED = "applied"
"""The kind of one for which the current generation takes changed files."""
START = "a start"
"""The trigger name for starts that nobody requested: the first start and restarts after a crash."""
_MOST_REASONS = 20
"""More kinds of death than this are counted together, so that exit statuses cannot fill the memory."""


@record(frozen=True)
class Reload:
    """The last reload that ended."""

    success: bool
    trigger: str
    number: int
    at: float
    """Seconds since the epoch."""
    seconds: float | None
    """From the start of the candidate to the end; None if there was no candidate."""
    message: str
    kind: str = RELOAD


class History:
    """Counts starts, reloads and deaths, and knows the age of each generation."""

    def __init__(self, now: float) -> None:
        """Begin to count.

        Args:
            now: seconds since the epoch.

        """
        self.began = now
        self.born: dict[int, float] = {}
        """When each generation started, on the monotonic clock."""
        self.asked_by: dict[int, str] = {}
        self.reloads: dict[tuple[str, str, str], int] = {}
        """How many there were, by trigger, result and kind."""
        self.buckets = [0] * len(BUCKETS)
        self.seconds = 0.0
        self.finished = 0
        self.last: Reload | None = None
        self.last_success: float | None = None
        self.restarts: dict[str, int] = {}

    def serialize(self) -> dict[str, Any]:
        """Return everything as plain values, for the next program."""
        last = self.last
        return {
            "began": self.began,
            "born": self.born,
            "asked_by": self.asked_by,
            "reloads": [[*key, count] for key, count in self.reloads.items()],
            "buckets": self.buckets,
            "seconds": self.seconds,
            "finished": self.finished,
            "last": last and [last.success, last.trigger, last.number, last.at, last.seconds, last.message, last.kind],
            "last_success": self.last_success,
            "restarts": self.restarts,
        }

    @classmethod
    def restore(cls, left: Mapping[str, Any]) -> History:
        """Go on with the counts of the previous program."""
        history = cls(left["began"])
        history.born, history.asked_by = dict(left["born"]), dict(left["asked_by"])
        history.reloads = {(trigger, result, kind): count for trigger, result, kind, count in left["reloads"]}
        if len(left["buckets"]) == len(BUCKETS):
            history.buckets, history.seconds, history.finished = left["buckets"], left["seconds"], left["finished"]
        history.last = Reload(*left["last"]) if left["last"] else None
        history.last_success, history.restarts = left["last_success"], dict(left["restarts"])
        return history

    def note(self, notice: Notice, message: str, now: float, clock: float) -> None:
        """Count what has happened.

        Args:
            notice: what it is.
            message: the same for people.
            now: seconds since the epoch.
            clock: seconds on the monotonic clock.

        """
        number = notice.number
        match notice:
            case Starting():
                self.born[number] = clock
            case Promoted(trigger=trigger, kept=kept):
                if trigger:
                    self.asked_by[number] = trigger
                    seconds = clock - self.born.get(number, clock)
                    self._finish(Reload(True, trigger, number, now, seconds, message))
                elif self.last_success is None:
                    self.last_success = now
                if self.last and self.last.trigger == START and not kept:
                    self.last = None
            case ReloadFailed(trigger=trigger):
                seconds = clock - self.born.get(number, clock)
                self._finish(Reload(False, trigger, number, now, seconds, message))
                self.forget(number)
            case FilesApplied(trigger=trigger, seconds=seconds):
                self._finish(Reload(True, trigger, number, now, seconds, message, APPLIED))
            case FilesRefused(trigger=trigger):
                self._finish(Reload(False, trigger, number, now, None, message, APPLIED))
            case Recovered():
                # The configuration that failed is gone from the disk.
                if self.last:
                    self.last = Reload(True, "files", number, now, None, message)
                    self.last_success = now
            case Died(status=status):
                cause = cause_of_death(status)
                if cause not in self.restarts and len(self.restarts) >= _MOST_REASONS:
                    cause = "other"
                self.restarts[cause] = self.restarts.get(cause, 0) + 1
                self.forget(number)
            case StartFailed():
                self.last = Reload(False, START, number, now, None, message)
                self.forget(number)
            case Gone():
                self.forget(number)
            case _:
                assert_never(notice)

    @property
    def failures(self) -> int:
        """How many reloads have failed."""
        return sum(count for (_, result, _), count in self.reloads.items() if result == "failure")

    def forget(self, number: int) -> None:
        """Forget a generation that is gone."""
        self.born.pop(number, None)
        self.asked_by.pop(number, None)

    def _finish(self, reload: Reload) -> None:
        self.last = reload
        # The first trigger only: each combination of triggers would be a time series of its own.
        result = "success" if reload.success else "failure"
        key = (reload.trigger.partition(", ")[0], result, reload.kind)
        self.reloads[key] = self.reloads.get(key, 0) + 1
        if reload.success:
            self.last_success = reload.at
        if reload.kind == RELOAD and reload.seconds is not None:
            self.finished += 1
            self.seconds += reload.seconds
            for index, bound in enumerate(BUCKETS):
                self.buckets[index] += reload.seconds <= bound
