"""What systemd, or podman, is told: that we are ready, reload, stop, live, and how many connections there are.

Follows from the state, so that a reload has the same messages whatever asked for it, and each RELOADING its READY
(sd_notify(3)). HAProxy's own notes leave the number of connections to future work.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping

from entrypoint.core.effects import Log
from entrypoint.core.exit_status import how_it_died
from entrypoint.core.notices import Died, Gone, Notice, Promoted, Recovered, ReloadFailed, StartFailed, Starting
from entrypoint.core.state import Candidate, Current, Ended, Lingering, State, Stopping
from entrypoint.lean.level import Level
from entrypoint.lean.typing import Any, assert_never
from entrypoint.pid1.child import Child
from entrypoint.pid1.connection_counts import ConnectionCounts
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.sd_notify import Notifier, monotonic_usec

_REFRESH = 5.0
"""Seconds between two looks at how many connections there are; only where somebody listens."""
_AGAIN_AFTER = 0.1
"""Seconds after which it is tried again whether systemd has room in its queue."""
_LAST_WORDS_WITHIN = 2.0
"""Seconds that the end waits for such room."""
_EXTENSION = 30.0
"""Seconds that are asked for at a time; asked for again after a third of it, so that a missed one does no harm."""
_SLICE = 64
"""So many VIPs are stored at once: each one is a message that systemd has to take in."""
_MOST_UNSENT = 8
"""What systemd has not taken in and what matters: of more, the last ones say how it is."""


class SystemdStatus:
    """Tells systemd what follows from the state."""

    def __init__(
        self,
        notifier: Notifier,
        event_loop: EventLoop,
        child_of: Callable[[int], Child | None],
        log: Callable[[Log], None],
    ) -> None:
        """Begin; nothing is said yet."""
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
        """What is to be said as soon as there is room, and of which only the newest value matters."""
        if notifier.unusable:
            log(Log(Level.WARNING, "notify", notifier.unusable))

    # ---- what has happened -----------------------------------------------------------------------------------------

    def note(self, notice: Notice, message: str, stderr: str) -> None:
        """Take in what has happened.

        Args:
            notice: what it is.
            message: the same for people.
            stderr: what the generation that it is about has said itself.

        """
        match notice:
            case ReloadFailed():
                self._failure = f"the last reload failed: {_first_alert(stderr) or message}"
            case StartFailed():
                self._failure = f"the last start failed: {_first_alert(stderr) or message}"
            case Recovered():
                self._failure = ""
            case Died(status=status):
                self._deaths += 1
                self._last_death = how_it_died(status)
            case Starting() | Promoted() | Gone():
                pass
            case _:
                assert_never(notice)

    def update(self, state: State) -> None:
        """Say what has become true."""
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
        self._be_patient(state)
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

    def _be_patient(self, state: State) -> None:
        """Have systemd wait for a candidate that takes long, as --ready-timeout does."""
        if self._stopping:
            return
        starting = state.candidate is not None
        if starting and not self._starting:
            self._event_loop.call_later("extend", _EXTENSION / 3, self._extend)
        elif self._starting and not starting:
            self._event_loop.cancel("extend")
        self._starting = starting

    # ---- another program takes our place ---------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return everything that has been said as plain values."""
        return {
            "current": self._current,
            "unsent": list(self._unsent),
            "failure": self._failure,
            "deaths": [self._deaths, self._last_death],
        }

    def resume(self, left: Mapping[str, Any]) -> None:
        """Go on where our last life has ended: systemd has heard that we are ready, and may have some of the VIPs."""
        self._ready = True
        self._current = left["current"]
        self._failure = left["failure"]
        self._deaths, self._last_death = left["deaths"]
        unsent = left["unsent"]
        if self._notifier.active:
            self._unsent.extend(unsent)
            self._event_loop.call_later("unsent", 0.0, self._send_all)
            self._event_loop.call_later("refresh", 0.0, self._refresh)
            self._event_loop.call_later("watchdog", 0.0, self._watch)
            self._store_some()

    # ---- messages --------------------------------------------------------------------------------------------------

    def _send(self, **lines: object) -> None:
        """Send what systemd has to know, in this order, however long it is deaf."""
        self._unsent.append(lines)
        self._send_all()

    def _send_all(self) -> None:
        """Send all that is to be said; what finds no room waits, and nobody with it."""
        status = self._text()
        while self._unsent:
            if not self._try(self._unsent[0], status):
                return
            self._unsent.popleft()
        if self._due:
            if not self._try(self._due):
                return
            self._due = {}
        # READY=1 is the first thing that is said: there are who read one message and no more.
        if status != self._status and (self._ready or self._stopping):
            self._try({}, status)

    def _try(self, lines: Mapping[str, object], status: str | None = None) -> bool:
        """Send one message, with a status if there is one; False where that has to be tried again."""
        self._tell(self._notifier.send(**lines, **({} if status is None else {"STATUS": status})))
        if self._notifier.deaf:
            self._event_loop.call_later("unsent", self._pause, self._send_all)
            return False
        if status is not None:
            self._status = status
        return True

    @property
    def _pause(self) -> float:
        """Seconds until it makes sense to try again."""
        return _AGAIN_AFTER if self._notifier.busy else _REFRESH

    def close(self) -> None:
        """Say what has found no room so far, as far as there is some now: nobody is served any more."""
        end = time.monotonic() + _LAST_WORDS_WITHIN
        while self._unsent and self._notifier.busy and time.monotonic() < end:
            self._notifier.wait(end - time.monotonic())
            self._send_all()

    def _text(self) -> str:
        state = self._state
        assert state
        current, candidate = state.current, state.candidate
        old = sum(not isinstance(one.phase, Candidate | Current) for one in state.generations)
        left = len(state.generations)
        said = []
        match state.stage:
            case Ended():
                said.append("stopped")
            case Lingering() | Stopping():
                said.append(f"stopping, {_count(left, 'generation')} left")
            case _ if current:
                said.append(f"generation {current.number} (pid {current.pid})")
            case _ if state.started:
                said.append("no generation serves; the VIPs are open, and clients wait")
            case _:
                said.append("not ready yet")
        if self._connections and left:
            said.append(self._connections)
        if not isinstance(state.stage, Stopping | Ended):
            said += [f"{old} draining"] if old else []
            said += [f"generation {candidate.number} is starting"] if candidate else []
        if current and current.kept:
            said.append("runs the LAST KNOWN GOOD configuration")
        if self._failure:
            said.append(self._failure)
        if self._deaths:
            said.append(f"haproxy has died unasked ({self._deaths}): the last one {self._last_death}")
        return ", ".join(said)

    def _tell(self, failure: str | None) -> None:
        if failure:
            self._log(Log(Level.WARNING, "notify", failure))

    # ---- the FD store ----------------------------------------------------------------------------------------------

    def store(self, forgotten: tuple[str, ...], descriptors: tuple[tuple[str, int], ...], kept: int) -> None:
        """Have systemd keep the VIPs for our next life, a few at a time, once we are ready.

        Args:
            forgotten: the names that are kept and no VIPs any more.
            descriptors: what is not kept yet, each with its name.
            kept: how many are.

        """
        self._forgotten.extend(forgotten)
        if self._notifier.stores:
            names, failure = self._notifier.fit((name for name, _ in descriptors), kept)
            self._tell(failure)
            chosen = frozenset(names)
            self._unstored.extend([one for one in descriptors if one[0] in chosen][: len(names)])

    def _store_some(self) -> None:
        for _ in range(min(_SLICE, len(self._forgotten) + len(self._unstored))):
            if self._forgotten:
                self._tell(self._notifier.remove(self._forgotten[0]))
            else:
                self._tell(self._notifier.store(*self._unstored[0]))
            if self._notifier.deaf:
                self._event_loop.call_later("store", self._pause, self._store_some)
                return
            (self._forgotten or self._unstored).popleft()
        if self._forgotten or self._unstored:
            self._event_loop.call_later("store", 0.01, self._store_some)

    # ---- what is said again and again ------------------------------------------------------------------------------

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
        """Count the connections, and say so if it is another number."""
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
    """Return the number of the first candidate of the reload that runs; 0 while none does.

    A candidate that found its files changed is followed by another one for the same reload.
    """
    candidate = state.candidate
    if candidate and isinstance(candidate.phase, Candidate) and candidate.phase.asked_by:
        return candidate.number - candidate.phase.tries
    return 0


def _first_alert(stderr: str) -> str:
    """Return the first line in which haproxy says what is wrong, without its mark."""
    for line in stderr.split("\n"):
        if line.startswith("[ALERT]"):
            return line.partition(" : ")[2].strip()
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
