"""Passes the core's requests about configuration files to the reader, and the reader's answers to the core."""

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
    """Owns the reader, and submits what it finds."""

    def __init__(
        self,
        runtime: Runtime,
        children: Children,
        parts: Parts,
        is_known: Callable[[int], bool],
    ) -> None:
        """Begin without a process; `is_known` tells whether the state has a generation with this number."""
        self._runtime = runtime
        self._children = children
        self._configurations = parts.configurations
        self._is_known = is_known
        self._has_state_dir = bool(parts.settings.state_dir)
        self.reader = Reader(runtime, children, parts.read, self)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def keep(self, number: int) -> None:
        """Make the configuration of this generation the last known good one.

        Raises:
            OSError: no descriptors are left.

        """
        texts = self._configurations.keep(number)
        if texts is None:
            return
        if self._has_state_dir:
            self.reader.write_state_file(texts)
        else:
            os.close(texts)

    def read_state_file(self) -> None:
        """Read the state directory, if there is one."""
        if self._has_state_dir:
            self.reader.read_state_file()

    def resume(self) -> None:
        """Repeat what the previous program may not have finished: write the state directory, or read it.

        Raises:
            OSError: no descriptors are left.

        """
        if not self._has_state_dir:
            return
        texts = self._configurations.copy()
        if texts is None:
            self.reader.read_state_file()
        else:
            self.reader.write_state_file(texts)

    # ---- answers of the reader ---------------------------------------------------------------------------------------

    def found(self, found: Found, texts: int | None, asked: tuple[Asked, ...]) -> None:
        """Submit what a look at the disk has found, once for each request."""
        disk = Disk(unreadable="it could not be read", unfinished=True)
        try:
            # A candidate that exited while the disk was read must not replace the current generation.
            self._children.reap()
            disk = self._configurations.take(found)
            for why, number in asked:
                if why is Why.START and self._is_known(number):
                    self._configurations.give(number, found, texts)
        except OSError as error:
            self._runtime.log(Log(Level.ERROR, "system_error", f"look: {reason(error)}"))
        finally:
            # Even after an error: a candidate waits for this.
            for why, number in asked:
                self._runtime.submit(Seen(why, disk, number))

    def restored(self, problem: str, texts: int | None) -> None:
        """Submit the last known good configuration that the state directory holds."""
        try:
            if texts is not None:
                self._runtime.submit(Restored(self._configurations.restored(texts)))
        except (OSError, ValueError) as error:
            problem = reason(error)
        if problem:
            what = f"there is no last known good configuration from --state-dir: {problem}"
            self._runtime.log(Log(Level.WARNING, "state_ignored", what))

    def not_kept(self, problem: str) -> None:
        """Log that the state directory could not be written."""
        what = f"the last known good configuration is kept in memory only: --state-dir cannot be written: {problem}"
        self._runtime.log(Log(Level.WARNING, "not_kept", what))

    def stirred(self) -> None:
        """Submit that a file may have changed."""
        self._runtime.submit(Stirred())

    def polling(self, why: str) -> None:
        """Note why not every change is reported; the core learns it by looking now."""
        self._configurations.polling(why)
        self._runtime.submit(Stirred())
