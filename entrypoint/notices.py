"""What systemd, or podman, is told: that we are ready, reload, stop, live, and how many connections there are.

Follows from the state alone, so that a reload has the same messages whatever asked for it, and each RELOADING its READY
(sd_notify(3)). HAProxy's own notes leave the number of connections to future work.
"""

import socket
from collections.abc import Callable

from entrypoint.core.events import Level, Log
from entrypoint.core.state import Candidate, Current, Ended, Lingering, State, Stopping
from entrypoint.sources import Sources
from entrypoint.survey import Survey
from entrypoint.system.notify import Notifier, monotonic_usec

_REFRESH = 5.0
"""Seconds between two looks at how many connections there are; only where somebody listens."""
_EXTENSION = 30.0
"""Seconds that a stop asks for at a time; asked for again after a third of it, so that a missed one does no harm."""
_SLICE = 64
"""So many VIPs are stored at once: each one is a message that systemd has to take in."""


class Notices:
    """Tells systemd what follows from the state."""

    def __init__(
        self,
        notifier: Notifier,
        sources: Sources,
        session: Callable[[int], socket.socket | None],
        log: Callable[[Log], None],
    ) -> None:
        """Begin; nothing is said yet."""
        self._notifier = notifier
        self._sources = sources
        self._session = session
        self._log = log
        self._ready = self._reloading = self._stopping = False
        self._failure = ""
        self._state: State | None = None
        self._connections: int | None = None
        self._status = ""
        self._unstored: list[tuple[str, int]] = []
        if notifier.unusable:
            log(Log(Level.WARNING, "notify", notifier.unusable))

    def store(self, forgotten: tuple[str, ...], descriptors: dict[str, int]) -> None:
        """Have systemd keep the VIPs for our next life, a few at a time."""
        for name in forgotten:
            self._tell(self._notifier.remove(name))
        if self._notifier.stores:
            self._unstored = list(descriptors.items())

    def _store_some(self) -> None:
        some, self._unstored = self._unstored[:_SLICE], self._unstored[_SLICE:]
        self._tell(self._notifier.store(dict(some)))
        if self._unstored:
            self._sources.alarm("store", 0.01, self._store_some)

    def resume(self) -> None:
        """Go on where our last life has ended: systemd has been told that we are ready."""
        self._ready = True
        if self._notifier.active:
            self._watch()
            self._sources.alarm("refresh", _REFRESH, self._refresh)

    def reload_failed(self, message: str) -> None:
        """Note why the last reload failed; an empty text when it did not."""
        self._failure = message

    def update(self, state: State) -> None:
        """Say what has become true."""
        self._state = state
        if not self._notifier.active:
            return
        reloads = any(isinstance(one.phase, Candidate) and one.phase.asked_by for one in state.generations)
        stopping = isinstance(state.stage, Lingering | Stopping | Ended)
        if stopping and not self._stopping:
            self._stopping = True
            self._send(STOPPING=1)
            self._extend()
        elif state.started and not self._ready:
            self._ready = True
            self._send(READY=1)
            self._watch()
            self._refresh()
            self._store_some()
        elif reloads and not self._reloading and self._ready and not self._stopping:
            self._send(RELOADING=1, MONOTONIC_USEC=monotonic_usec())
        elif self._reloading and not reloads and not self._stopping:
            self._send(READY=1)
            self._refresh()
        self._reloading = reloads
        self._send_status()

    def _send(self, **lines: object) -> None:
        self._status = self._words()
        self._tell(self._notifier.send(**lines, STATUS=self._status))

    def _send_status(self) -> None:
        if self._words() != self._status and self._ready:
            self._send()

    def _words(self) -> str:
        state = self._state
        assert state
        current = state.current
        words = []
        if isinstance(state.stage, Lingering | Stopping | Ended):
            words.append(f"stopping, {len(state.generations)} generations left")
        elif current:
            words.append(f"generation {current.number} (pid {current.pid})")
        else:
            words.append("no generation serves; the VIPs are open")
        if self._connections is not None and current:
            words.append(f"{self._connections} connections")
        old = sum(not isinstance(one.phase, Candidate | Current) for one in state.generations)
        if old and not isinstance(state.stage, Stopping | Ended):
            words.append(f"{old} draining")
        if current and current.kept:
            words.append("runs the LAST KNOWN GOOD configuration")
        if self._failure:
            words.append(f"the last reload failed: {self._failure}")
        return ", ".join(words)

    # ---- what is said again and again ------------------------------------------------------------------------------

    def _watch(self) -> None:
        interval = self._notifier.watchdog_interval
        if interval:
            self._tell(self._notifier.send(WATCHDOG=1))
            self._sources.alarm("watchdog", interval, self._watch)

    def _extend(self) -> None:
        self._tell(self._notifier.send(EXTEND_TIMEOUT_USEC=int(_EXTENSION * 1_000_000)))
        self._sources.alarm("extend", _EXTENSION / 3, self._extend)

    def _refresh(self) -> None:
        """Count the connections, and say so if it is another number."""
        state = self._state
        assert state
        numbers = [one.number for one in state.generations if not isinstance(one.phase, Candidate)]
        Survey(self._sources, self._session).ask(numbers, self._counted)
        self._sources.alarm("refresh", _REFRESH, self._refresh)

    def _counted(self, found: dict[int, int | None]) -> None:
        self._connections = sum(count or 0 for count in found.values())
        self._send_status()

    def _tell(self, failure: str | None) -> None:
        if failure:
            self._log(Log(Level.WARNING, "notify", failure))
