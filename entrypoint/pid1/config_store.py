"""The configuration on disk, and what generations were given of it: asked of the reader, and told to the core."""

import os
from collections.abc import Callable

from entrypoint.core.effects import Log
from entrypoint.core.events import Disk, Restored, Seen, Stirred, Why
from entrypoint.core.look import Found
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import reason
from entrypoint.pid1.children import Children
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.reader import Asked, Reader
from entrypoint.pid1.runtime import Runtime


class ConfigStore:
    """Owns the reader, and has the core told what it finds."""

    def __init__(
        self,
        runtime: Runtime,
        children: Children,
        parts: Parts,
        is_known: Callable[[int], bool],
    ) -> None:
        """Begin; no reader is started.

        Args:
            runtime: what it is waited for with.
            children: where the reader is born.
            parts: what PID 1 is made of.
            is_known: tells whether a generation of this number lives or is about to.

        """
        self._runtime = runtime
        self._children = children
        self._configurations = parts.configurations
        self._is_known = is_known
        self._has_state_dir = bool(parts.settings.state_dir)
        self.reader = Reader(runtime, children, parts.read, self)

    # ---- what is wanted --------------------------------------------------------------------------------------------

    def keep(self, number: int) -> None:
        """Make what a generation was started from the last known good one.

        Raises:
            OSError: there are no descriptors left.

        """
        texts = self._configurations.keep(number)
        if texts is None:
            return
        if self._has_state_dir:
            self.reader.write_state_file(texts)
        else:
            os.close(texts)

    def read_state_file(self) -> None:
        """Have the state directory read, if there is one."""
        if self._has_state_dir:
            self.reader.read_state_file()

    def keep_again(self) -> None:
        """Have done what our last life may not have finished: the state directory written, or read.

        Raises:
            OSError: there are no descriptors left.

        """
        if not self._has_state_dir:
            return
        texts = self._configurations.kept()
        if texts is None:
            self.reader.read_state_file()
        else:
            self.reader.write_state_file(texts)

    # ---- what the reader says --------------------------------------------------------------------------------------

    def found(self, found: Found, texts: int | None, asked: tuple[Asked, ...]) -> None:
        """Tell the core what a look at the disk has found, once for each that it was for."""
        disk = Disk(unreadable="it could not be looked at", unfinished=True)
        try:
            # A candidate that has died while the disk was read takes nobody's place.
            self._children.reap()
            disk = self._configurations.take(found)
            for why, number in asked:
                if why is Why.START and self._is_known(number):
                    self._configurations.give(number, found, texts)
        except OSError as error:
            self._runtime.log(Log(Level.ERROR, "system_error", f"look: {reason(error)}"))
        finally:
            # Whatever happened: a candidate waits for this.
            for why, number in asked:
                self._runtime.submit(Seen(why, disk, number))

    def restored(self, problem: str, texts: int | None) -> None:
        """Tell the core that the state directory holds a last known good configuration."""
        try:
            if texts is not None:
                self._runtime.submit(Restored(self._configurations.restored(texts)))
        except (OSError, ValueError) as error:
            problem = reason(error)
        if problem:
            what = f"there is no last known good configuration from --state-dir: {problem}"
            self._runtime.log(Log(Level.WARNING, "state_ignored", what))

    def not_kept(self, problem: str) -> None:
        """Say that the state directory could not be written."""
        what = f"the last known good configuration is kept in memory only: --state-dir cannot be written: {problem}"
        self._runtime.log(Log(Level.WARNING, "not_kept", what))

    def stirred(self) -> None:
        """Tell the core that a file may have changed."""
        self._runtime.submit(Stirred())

    def polling(self, why: str) -> None:
        """Note that not every change will be reported; the core learns it with the next look, which is now."""
        self._configurations.polling(why)
        self._runtime.submit(Stirred())
