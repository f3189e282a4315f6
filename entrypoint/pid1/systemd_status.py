"""Messages to systemd, or podman: READY, RELOADING, STOPPING, WATCHDOG, and a STATUS with the number of connections.

They are derived from the state, so that a reload sends the same messages whatever triggered it, and each RELOADING is
followed by READY (sd_notify(3)).
"""

from __future__ import annotations

import time

from entrypoint.core.effects import Log
from entrypoint.core.exit_status import how_it_died
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
from entrypoint.core.state import Candidate, Current, Ended, Lingering, State, Stopping
from entrypoint.lean.collections import Callable, Mapping, deque
from entrypoint.lean.level import Level
from entrypoint.lean.typing import Any, assert_never
from entrypoint.pid1.child import Child
from entrypoint.pid1.connection_counts import ConnectionCounts
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.sd_notify import Notifier, monotonic_usec

_REFRESH = 5.0
"""Seconds between two counts of connections, if there is a socket to send them to."""
_RETRY_AFTER = 0.1
"""Seconds until a retry if systemd's queue is full."""
_FLUSH_WITHIN = 2.0
"""Seconds that `close` waits for room in systemd's queue."""
_EXTENSION = 30.0
"""Seconds per request for more time; repeated after a third of them, so that a lost message does no harm."""
_SLICE = 64
"""VIPs stored in one turn: each one is a message to systemd."""
_MOST_UNSENT = 8
"""Important messages that wait for room; the newest are kept."""


class SystemdStatus:
    """Tells systemd the state."""

    def __init__(
        self,
        notifier: Notifier,
        event_loop: EventLoop,
        child_of: Callable[[int], Child | None],
        log: Callable[[Log], None],
    ) -> None:
        """Begin; nothing is sent yet."""
        self._notifier = notifier
        self._event_loop = event_loop
        self._log = log
        self._state: State | None = None
        self._ready = self._starting = self._stopping = False
        self._reload = self._current = 0
        self._unsent: deque[dict[str, object]] = deque(maxlen=_MOST_UNSENT)
        self._status = ""
        self._failure = ""
        self._deaths = 0
        self._last_death = ""
        self._counts = ConnectionCounts(event_loop, child_of)
        self._connections = ""
        self._forgotten: deque[str] = deque()
        self._unstored: deque[tuple[str, int]] = deque()
        self._due: dict[str, object] = {}
        """Waits for room; only the newest value of each key matters."""
        if notifier.unusable:
            log(Log(Level.WARNING, "notify", notifier.unusable))

    # ---- notices and state -------------------------------------------------------------------------------------------

    def note(self, notice: Notice, message: str, stderr: str) -> None:
        """Remember a notice for the status; the arguments are those of `Outcomes.note`."""
        match notice:
            case ReloadFailed():
                self._failure = f"the last reload failed: {_first_alert(stderr) or message}"
            case StartFailed():
                self._failure = f"the last start failed: {_first_alert(stderr) or message}"
            case FilesRefused(what=what):
                self._failure = f"the last reload failed: {what}"
            case Recovered() | FilesApplied():
                self._failure = ""
            case Died(status=status):
                self._deaths += 1
                self._last_death = how_it_died(status)
            case Starting() | Promoted() | Gone():
                pass
            case _:
                assert_never(notice)

    def update(self, state: State) -> None:
        """Send what the new state implies."""
        self._state = state
        if not self._notifier.active:
            return
        current = state.current
        changed = current is not None and current.number != self._current
        if current and changed:
            self._current = current.number
            if not current.kept:
                self._failure = ""
        self._say_stages(state)
        self._send_all()
        self._extend_start_timeout(state)
        if changed:
            self._refresh()

    def _say_stages(self, state: State) -> None:
        reload = 0 if self._stopping else _reload_of(state)
        stopping = isinstance(state.stage, Lingering | Stopping | Ended)
        if state.started and not self._ready:
            self._ready = True
            self._send(READY=1)
            self._watch()
            self._store_some()
        elif self._reload and (reload != self._reload or stopping):
            self._send(READY=1)
        if stopping and not self._stopping:
            self._stopping = True
            self._send(STOPPING=1)
            self._extend()
        if reload and reload != self._reload and self._ready and not stopping:
            self._send(RELOADING=1, MONOTONIC_USEC=monotonic_usec())
        self._reload = 0 if stopping else reload

    def _extend_start_timeout(self, state: State) -> None:
        """Extend systemd's timeout while a candidate starts: --ready-timeout limits that."""
        if self._stopping:
            return
        starting = state.candidate is not None
        if starting and not self._starting:
            self._event_loop.call_later("extend", _EXTENSION / 3, self._extend)
        elif self._starting and not starting:
            self._event_loop.cancel("extend")
        self._starting = starting

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return everything that was sent, or waits, as plain values."""
        return {
            "current": self._current,
            "unsent": list(self._unsent),
            "failure": self._failure,
            "deaths": [self._deaths, self._last_death],
        }

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Continue after the previous program: systemd knows READY, and may store some of the VIPs."""
        self._ready = True
        self._current = saved["current"]
        self._failure = saved["failure"]
        self._deaths, self._last_death = saved["deaths"]
        unsent = saved["unsent"]
        if self._notifier.active:
            self._unsent.extend(unsent)
            self._event_loop.call_later("unsent", 0.0, self._send_all)
            self._event_loop.call_later("refresh", 0.0, self._refresh)
            self._event_loop.call_later("watchdog", 0.0, self._watch)
            self._store_some()

    # ---- messages ----------------------------------------------------------------------------------------------------

    def _send(self, **lines: object) -> None:
        """Send an important message; it keeps its order, and waits for room."""
        self._unsent.append(lines)
        self._send_all()

    def _send_all(self) -> None:
        """Send everything that is due; without room it waits, and nothing blocks."""
        status = self._text()
        while self._unsent:
            if not self._try(self._unsent[0], status):
                return
            self._unsent.popleft()
        if self._due:
            if not self._try(self._due):
                return
            self._due = {}
        # READY=1 comes first: some managers read only one message.
        if status != self._status and (self._ready or self._stopping):
            self._try({}, status)

    def _try(self, lines: Mapping[str, object], status: str | None = None) -> bool:
        """Send one message, with a status if given; False if it must be retried."""
        self._warn(self._notifier.send(**lines, **({} if status is None else {"STATUS": status})))
        if self._notifier.unreachable:
            self._event_loop.call_later("unsent", self._pause, self._send_all)
            return False
        if status is not None:
            self._status = status
        return True

    @property
    def _pause(self) -> float:
        """Seconds until the next retry."""
        return _RETRY_AFTER if self._notifier.busy else _REFRESH

    def close(self) -> None:
        """Send what still waits, blocking for a limited time: nothing is served any more."""
        end = time.monotonic() + _FLUSH_WITHIN
        while self._unsent and self._notifier.busy and time.monotonic() < end:
            self._notifier.wait(end - time.monotonic())
            self._send_all()

    def _text(self) -> str:
        state = self._state
        assert state
        current, candidate = state.current, state.candidate
        old = sum(not isinstance(one.phase, Candidate | Current) for one in state.generations)
        remaining = len(state.generations)
        parts = []
        match state.stage:
            case Ended():
                parts.append("stopped")
            case Lingering() | Stopping():
                parts.append(f"stopping, {_count(remaining, 'generation')} left")
            case _ if current:
                parts.append(f"generation {current.number} (pid {current.pid})")
            case _ if state.started:
                parts.append("no generation serves; the VIPs are open, and clients wait")
            case _:
                parts.append("not ready yet")
        if self._connections and remaining:
            parts.append(self._connections)
        if not isinstance(state.stage, Stopping | Ended):
            parts += [f"{old} draining"] if old else []
            parts += [f"generation {candidate.number} is starting"] if candidate else []
        if current and current.kept:
            parts.append("runs the LAST KNOWN GOOD configuration")
        if self._failure:
            parts.append(self._failure)
        if self._deaths:
            parts.append(f"haproxy has died unasked ({self._deaths}): the last one {self._last_death}")
        return ", ".join(parts)

    def _warn(self, failure: str | None) -> None:
        if failure:
            self._log(Log(Level.WARNING, "notify", failure))

    # ---- the FD store ------------------------------------------------------------------------------------------------

    def store(self, forgotten: tuple[str, ...], descriptors: tuple[tuple[str, int], ...], stored: int) -> None:
        """Store the VIPs in systemd for the next start, a few at a time, after READY.

        Args:
            forgotten: stored names that are no VIPs any more.
            descriptors: VIPs that are not stored yet: name and descriptor.
            stored: the number of stored ones.

        """
        self._forgotten.extend(forgotten)
        if self._notifier.stores:
            names, failure = self._notifier.fit((name for name, _ in descriptors), stored)
            self._warn(failure)
            chosen = frozenset(names)
            self._unstored.extend([one for one in descriptors if one[0] in chosen][: len(names)])

    def _store_some(self) -> None:
        for _ in range(min(_SLICE, len(self._forgotten) + len(self._unstored))):
            if self._forgotten:
                self._warn(self._notifier.remove(self._forgotten[0]))
            else:
                self._warn(self._notifier.store(*self._unstored[0]))
            if self._notifier.unreachable:
                self._event_loop.call_later("store", self._pause, self._store_some)
                return
            (self._forgotten or self._unstored).popleft()
        if self._forgotten or self._unstored:
            self._event_loop.call_later("store", 0.01, self._store_some)

    # ---- repeated messages -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        interval = self._notifier.watchdog_interval
        if interval:
            self._event_loop.call_later("watchdog", interval, self._watch)
            self._due["WATCHDOG"] = 1
            self._send_all()

    def _extend(self) -> None:
        self._event_loop.call_later("extend", _EXTENSION / 3, self._extend)
        self._due["EXTEND_TIMEOUT_USEC"] = int(_EXTENSION * 1_000_000)
        self._send_all()

    def _refresh(self) -> None:
        """Count the connections, and send a changed number."""
        state = self._state
        assert state
        self._event_loop.call_later("refresh", _REFRESH, self._refresh)
        numbers = [one.number for one in state.generations if not isinstance(one.phase, Candidate)]
        self._counts.ask(numbers, self._counted)

    def _counted(self, found: dict[int, int | None]) -> None:
        known = [count for count in found.values() if count is not None]
        least = "" if len(known) == len(found) else "at least "
        self._connections = f"{least}{_count(sum(known), 'connection')}" if known else ""
        self._send_all()


def _reload_of(state: State) -> int:
    """Return the number of the running reload's first candidate, or -1 while changed files are applied; 0 without both.

    A candidate whose files have changed is followed by another one for the same reload.
    """
    candidate = state.candidate
    if candidate and isinstance(candidate.phase, Candidate) and candidate.phase.asked_by:
        return candidate.number - candidate.phase.tries
    return -1 if state.applying else 0


def _first_alert(stderr: str) -> str:
    """Return haproxy's first [ALERT], without its prefix."""
    for line in stderr.split("\n"):
        if line.startswith("[ALERT]"):
            return line.partition(" : ")[2].strip()
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
