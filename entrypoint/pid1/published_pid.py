"""The pid file: it names the current haproxy to others, and the predecessor to us."""

from __future__ import annotations

from entrypoint.core.effects import Log
from entrypoint.lean.level import Level
from entrypoint.lean.typing import TYPE_CHECKING
from entrypoint.pid1.children import Children
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.files import PidFile
from entrypoint.system.signals import why_not_signalled

if TYPE_CHECKING:
    from entrypoint.system.predecessor import Predecessor

_RETRY_AFTER = 5.0
"""Seconds."""


class PublishedPid:
    """Owns the pid file, if there is one."""

    def __init__(
        self, runtime: Runtime, children: Children, file: PidFile | None, predecessor: Predecessor | None
    ) -> None:
        """Begin; `file` is None without --pid-file, and `predecessor` is the haproxy that it named before our start."""
        self._runtime = runtime
        self._children = children
        self._file = file
        self._predecessor = predecessor

    def publish(self, pid: int, *, again: bool = False) -> None:
        """Write the file; retry after a failure."""
        file, event_loop = self._file, self._runtime.event_loop
        if not file or (again and not self._children.has_pid(pid)):
            return
        event_loop.cancel(file)
        try:
            file.write(pid)
        except OSError as error:
            if not again:
                what = f"the pid file {file.path} cannot be written, and is tried again: {error.strerror}"
                self._runtime.log(Log(Level.ERROR, "pid_file", what))
            event_loop.call_later(file, _RETRY_AFTER, lambda: self.publish(pid, again=True))

    def take_over(self) -> None:
        """Stop the predecessor gracefully, if there is one."""
        if not self._predecessor:
            return
        who = f"the haproxy that served before (pid {self._predecessor.pid})"
        try:
            self._predecessor.retire()
        except PermissionError:
            what = (
                f"{who} cannot be stopped, and shares the clients with us: {why_not_signalled()}; or stop it yourself"
            )
            self._runtime.log(Log(Level.ERROR, "not_permitted", what))
        else:
            self._runtime.log(Log(Level.INFO, "taken_over", f"{who} is told to leave"))

    def close(self) -> None:
        """Remove the file."""
        if self._file:
            self._file.remove()
