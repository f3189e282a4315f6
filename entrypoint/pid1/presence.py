"""Keeps the control socket's file in place: creates it at the start, and again after its removal.

It may be removed by a cleaner of temporary files, or anything else that writes to the runtime folder. inotify(7)
notices this without waking an idle PID 1; without inotify, it is checked every --poll seconds.
"""

from __future__ import annotations

import time

from entrypoint.core.effects import Log
from entrypoint.lean.collections import Callable
from entrypoint.lean.level import Level
from entrypoint.system import control_socket, instances
from entrypoint.system.control_socket import Control
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.files import make_folder
from entrypoint.system.inotify import Inotify

_PAUSE = 0.2
"""Seconds between an event and the check, so that constant writes in the folder cost little."""
_REMAKE_AFTER = 1.0
"""Seconds between two re-creations, so that repeated removals do not fill the log."""


class Presence:
    """Owns the watch on the runtime folder; the socket belongs to `opened` (see `begin`)."""

    def __init__(self, folder: str, name: str, poll: float, event_loop: EventLoop, log: Callable[[Log], None]) -> None:
        """Begin without a socket; if inotify does not work, its file is checked every `poll` seconds."""
        self._folder = folder
        self._name = name
        self._poll = poll
        self._event_loop = event_loop
        self._log = log
        self._opened: Callable[[Control], None] = lambda _: None
        self._control: Control | None = None
        self._made_at = 0.0
        self._inotify: Inotify | None = None
        self._failure = ""

    def begin(
        self, opened: Callable[[Control], None], saved: tuple[str, int] | None, *, rehearses: bool = False
    ) -> None:
        """Open the socket, and keep it in place.

        Args:
            opened: takes the socket, and later each one that replaces it.
            saved: path and descriptor of the previous program's socket, if there was one.
            rehearses: only restore that one.

        """
        self._opened = opened
        if saved:
            self._control = control_socket.restore(*saved)
            opened(self._control)
        if not rehearses:
            self._keep()

    def _keep(self) -> None:
        """Create the socket if its file is missing, and wait for the next change."""
        watched = self._watch()
        if not (self._control and self._control.is_in_place):
            too_early = self._made_at and self._made_at + _REMAKE_AFTER - time.monotonic()
            if too_early > 0:
                self._event_loop.call_later(self, too_early, self._keep)
                return
            watched = self._make() and self._watch()
        if not watched:
            self._event_loop.call_later(self, self._poll, self._keep)
        if self._inotify:
            self._event_loop.add_reader(self._inotify, self._stirred)

    def _stirred(self) -> None:
        assert self._inotify
        self._inotify.read()
        self._event_loop.remove(self._inotify)
        self._event_loop.call_later(self, _PAUSE, self._keep)

    def _watch(self) -> bool:
        """Watch the folder; return whether that works."""
        try:
            self._inotify = self._inotify or Inotify()
        except OSError:
            return False
        return self._inotify.watch([self._folder])

    def _make(self) -> bool:
        try:
            fresh = self._open()
        except OSError as error:
            problem = f"{error.strerror}: {self._folder}" if error.strerror else str(error)
            if problem != self._failure:
                self._failure = problem
                what = f"no control socket, so no `safe_reload reload`, status or metrics (--runtime-dir): {problem}"
                self._log(Log(Level.WARNING, "no_control", what))
            return False
        self._failure = ""
        self._made_at = time.monotonic()
        if self._control:
            what = f"the control socket {fresh.path} had been removed or replaced, and is made again"
            self._log(Log(Level.WARNING, "control_made_again", what))
        self._control = fresh
        self._opened(fresh)
        return True

    def _open(self) -> Control:
        path = instances.path_of(self._folder, self._name)
        make_folder(self._folder)
        alive, doubt = instances.look(path)
        if alive and not doubt:
            raise OSError(f"{path} belongs to a running instance: give this one another --name")
        try:
            fresh = control_socket.listen(self._folder, self._name)
        except OSError as error:
            if doubt:
                raise OSError(f"{doubt}; it cannot be replaced: {error.strerror or error}") from None
            raise
        if doubt:
            self._log(Log(Level.WARNING, "control_of_a_stranger", f"{doubt}; it has been replaced"))
        return fresh

    def close(self) -> None:
        """Stop watching."""
        self._event_loop.cancel(self)
        if self._inotify:
            self._event_loop.remove(self._inotify)
            self._inotify.close()
            self._inotify = None
