"""The pid file: by which others find the current haproxy, and by which we find the one that served before us."""

from entrypoint.core.effects import Log
from entrypoint.lean.level import Level
from entrypoint.pid1.children import Children
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.files import PidFile
from entrypoint.system.predecessor import Predecessor
from entrypoint.system.signals import why_not_signalled

_PUBLISH_AGAIN_AFTER = 5.0
"""Seconds."""


class PublishedPid:
    """Owns the pid file, if there is one."""

    def __init__(
        self, runtime: Runtime, children: Children, file: PidFile | None, predecessor: Predecessor | None
    ) -> None:
        """Begin; nothing is written.

        Args:
            runtime: what is waited for with.
            children: those whose pids are published.
            file: None where nobody wants one.
            predecessor: the haproxy that it named before us.

        """
        self._runtime = runtime
        self._children = children
        self._file = file
        self._predecessor = predecessor

    def publish(self, pid: int, *, again: bool = False) -> None:
        """Write it; where that cannot be done there is none, and it is tried again."""
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
            event_loop.call_later(file, _PUBLISH_AGAIN_AFTER, lambda: self.publish(pid, again=True))

    def take_over(self) -> None:
        """Tell the haproxy that served before to leave, if there is one."""
        if not self._predecessor:
            return
        who = f"the haproxy that served before (pid {self._predecessor.pid})"
        try:
            self._predecessor.retire()
        except PermissionError:
            what = f"{who} does not leave, and shares the clients with us: {why_not_signalled()}; or stop it yourself"
            self._runtime.log(Log(Level.ERROR, "not_permitted", what))
        else:
            self._runtime.log(Log(Level.INFO, "taken_over", f"{who} is told to leave"))

    def close(self) -> None:
        """Remove it."""
        if self._file:
            self._file.remove()
