"""Passes requests about configuration files and the state directory to the reader, and its answers on."""

from __future__ import annotations

import os
from itertools import islice

from entrypoint.core import look
from entrypoint.core.effects import Log
from entrypoint.core.events import Applied, Disk, Learned, Restored, Seen, Stirred, Why
from entrypoint.core.look import Found, Known
from entrypoint.core.outcome import Outcome
from entrypoint.core.state import Generation, State
from entrypoint.lean.collections import Callable, Iterable
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import reason
from entrypoint.pid1.children import Children
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.reader import Asked, Reader
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.state_file import contents_of, in_memory

_MOST_BACKENDS = 200
"""Whose health checks are compared, so that their names fit into a message."""
_WHAT = {
    look.RESTORE: "is no last known good configuration",
    look.RESTORE_SERVERS: "are no states of servers",
    look.KEEP: "the last known good configuration is kept in memory only: --state-dir",
    look.KEEP_SERVERS: "the states of servers are kept in memory only: --state-dir",
    look.KEEP_TABLE: "haproxy's server-state-file",
}


class ConfigStore:
    """Owns the reader, and submits what it finds."""

    def __init__(
        self,
        runtime: Runtime,
        children: Children,
        parts: Parts,
        state: Callable[[], State],
        servers_restored: Callable[[str], None],
    ) -> None:
        """Begin without a process.

        Args:
            runtime: has the log and the events.
            children: has the reader's process.
            parts: has the configurations and the settings.
            state: returns the core's state.
            servers_restored: gets the saved states of servers; raises ValueError if it cannot use them.

        """
        self._runtime = runtime
        self._children = children
        self._configurations = parts.configurations
        self._state = state
        self._servers_restored = servers_restored
        self._problems: dict[bytes, str] = {}
        """Why the states of servers could not be written, as the log says."""
        self._has_state_dir = bool(parts.settings.state_dir)
        self.reader = Reader(runtime, children, parts.read, self)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def look(self, why: Why, number: int, down: Iterable[str] = ()) -> None:
        """Look at the disk.

        Args:
            why: what it is for.
            number: of the generation that it is about.
            down: backends of the current generation with servers that are down: are they checked differently now?

        Raises:
            OSError: no descriptors are left.

        """
        current = self._state().current
        backends = tuple(islice(down, _MOST_BACKENDS)) if why is Why.START else ()
        texts = self._configurations.texts(current.number) if current and backends and not current.kept else None
        self.reader.look(why, number, backends, texts)

    def apply(self, number: int) -> None:
        """Give this generation what has changed on disk since it has read it.

        Raises:
            OSError: no descriptors are left, or it has no CLI.

        """
        channel = self._children.channel_of(number)
        if not channel:
            raise OSError("it is gone")
        self.reader.apply(number, channel.copy())

    def learn(self, current: Generation) -> None:
        """Ask the current generation which files it has read, if it matters.

        Raises:
            OSError: no descriptors are left.

        """
        channel = self._children.channel_of(current.number)
        if channel and self._configurations.watches and current.digest and not current.kept:
            self.reader.learn(channel.copy())

    def keep(self, number: int) -> None:
        """Make the configuration of this generation the last known good one.

        Raises:
            OSError: no descriptors are left.

        """
        texts = self._configurations.keep(number)
        if texts is None:
            return
        if self._has_state_dir:
            self.reader.write_state_file(look.KEEP, texts)
        else:
            os.close(texts)

    def keep_servers(self, states: str) -> None:
        """Save the states of servers in the state directory, if there is one.

        Raises:
            OSError: no descriptors are left.

        """
        if self._has_state_dir:
            content = in_memory("", (("server-state", states.encode()),))
            self.reader.write_state_file(look.KEEP_SERVERS, content)

    def keep_table(self, table: str) -> None:
        """Make this the content of the file from which haproxy loads the states of servers, if there is one.

        Raises:
            OSError: no descriptors are left.

        """
        if self._configurations.found.server_state_file:
            self.reader.write_state_file(look.KEEP_TABLE, in_memory("", (("server-state-file", table.encode()),)))

    def read_state_files(self) -> None:
        """Read the state directory, if there is one."""
        if self._has_state_dir:
            self.reader.read_state_file(look.RESTORE)
            self.reader.read_state_file(look.RESTORE_SERVERS)

    def resume(self) -> None:
        """Repeat what the previous program may not have finished: write the state directory, or read it.

        Raises:
            OSError: no descriptors are left.

        """
        if not self._has_state_dir:
            return
        texts = self._configurations.copy()
        if texts is None:
            self.reader.read_state_file(look.RESTORE)
        else:
            self.reader.write_state_file(look.KEEP, texts)

    # ---- answers of the reader ---------------------------------------------------------------------------------------

    def known(self) -> Known:
        """Return what is known of the current generation."""
        current = self._state().current
        given = self._configurations.given(current.number) if current else None
        digest = current.digest if current else ""
        return Known(digest, self._configurations.reported, bool(given and given.has_authorities))

    def found(self, found: Found, texts: int | None, asked: tuple[Asked, ...]) -> None:
        """Submit what a look at the disk has found, once for each request."""
        disk = Disk(unreadable="it could not be read", unfinished=True)
        try:
            # A candidate that exited while the disk was read must not replace the current generation.
            self._children.reap()
            disk = self._configurations.take(found)
            for why, number in asked:
                if why is Why.START and self._state().find(number):
                    self._configurations.give(number, found, texts)
        except OSError as error:
            self._runtime.log(Log(Level.ERROR, "system_error", f"look: {reason(error)}"))
        finally:
            # Even after an error: a candidate waits for this.
            for why, number in asked:
                self._runtime.submit(Seen(why, disk, number))

    def applied(self, number: int, outcome: Outcome, found: Found, texts: int | None) -> None:
        """Submit what a generation has taken of the changed files."""
        disk = Disk(unreadable="it could not be read", unfinished=True)
        try:
            self._children.reap()
            disk = self._configurations.take(found)
            if texts is not None:
                authorities = outcome.has_authorities
                self._configurations.applied(number, outcome.digest, texts, has_authorities=authorities)
        except OSError as error:
            self._runtime.log(Log(Level.ERROR, "system_error", f"apply: {reason(error)}"))
        finally:
            # Even after an error: the core waits for this.
            self._runtime.submit(
                Applied(number, disk, outcome.digest, outcome.files, outcome.seconds, outcome.problem, outcome.refused)
            )

    def learned(self, before: Known, after: Known) -> None:
        """Submit that more files count, or others."""
        if after.digest and after.reported != before.reported:
            self._configurations.reported = after.reported
            self._runtime.submit(Learned(before.digest, after.digest))
            # The status names the files of the last look.
            self.reader.look(Why.POLLED, 0)

    def restored(self, kind: bytes, problem: str, content: int | None) -> None:
        """Submit the last known good configuration that the state directory holds, or use the states of servers."""
        try:
            if content is None:
                pass
            elif kind == look.RESTORE:
                self._runtime.submit(Restored(self._configurations.restored(content)))
            else:
                self._servers_restored(next(contents_of(content)).decode())
        except (OSError, ValueError) as error:
            problem = reason(error) if isinstance(error, OSError) else str(error)
        if problem:
            what = f"there {_WHAT[kind]} from --state-dir: {problem}"
            self._runtime.log(Log(Level.WARNING, "state_ignored", what))

    def not_kept(self, kind: bytes, problem: str) -> None:
        """Log that the state directory could not be written."""
        if kind != look.KEEP and self._problems.get(kind) == problem:
            return
        self._problems[kind] = problem
        what = f"{_WHAT[kind]} cannot be written: {problem}"
        self._runtime.log(Log(Level.WARNING, "not_kept", what))

    def stirred(self) -> None:
        """Submit that a file may have changed."""
        self._runtime.submit(Stirred())

    def polling(self, why: str) -> None:
        """Note why not every change is reported; the core learns it by looking now."""
        self._configurations.polling(why)
        self._runtime.submit(Stirred())
