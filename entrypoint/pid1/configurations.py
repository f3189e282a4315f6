"""The configurations: what was found on disk, what generations were given, and the last known good one.

What is in them is never in our memory: the reader hands over memory files, of which only haproxy sees the content.
"""

import os
from collections.abc import Callable, Collection, Mapping

from entrypoint.core import events
from entrypoint.core.effects import Log
from entrypoint.core.look import Found
from entrypoint.lean.level import Level
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.system.state_file import digest_of, for_haproxy


@record(frozen=True)
class Given:
    """What a generation is started from."""

    digest: str
    texts: int | None
    """A memory file with the content of the -f files; None where nobody has one."""
    master_worker: str = ""
    """FILE:LINE where `master-worker` stands; empty where it does not."""


class Configurations:
    """Owns a memory file of every configuration that may still be needed."""

    def __init__(self, log: Callable[[Log], None], *, watches: bool) -> None:
        """Begin without one.

        Args:
            log: writes a line.
            watches: changed files are of interest.

        """
        self._log = log
        self._watches = watches
        self._given: dict[int, Given] = {}
        self._kept: int | None = None
        self._polling = ""
        self.found = Found()

    # ---- the disk --------------------------------------------------------------------------------------------------

    def take(self, found: Found) -> events.Disk:
        """Note what was found on disk, for us; return it for the core."""
        if not found.unfinished:
            self._tell_stale(found.stale)
            self.found = found
        polled = found.polled or bool(self._polling)
        return events.Disk(found.digest, found.unreadable, polled, found.incomplete, found.unfinished)

    def _tell_stale(self, stale: tuple[str, ...]) -> None:
        for path in stale:
            if path not in self.found.stale and self._watches:
                self._log(Log(Level.WARNING, "stale_mount", _never_changes(path), {"path": path}))

    def polling(self, why: str) -> None:
        """Note that changes are not all reported, and why; empty when they are."""
        if why and why != self._polling:
            self._log(Log(Level.WARNING, "polling", why))
        self._polling = why

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody must know who believes that a reload has read what is on disk, a line each."""
        return tuple(map(_never_changes, self.found.stale))

    def mode(self, disk: events.Disk) -> str:
        """Return how changes are found: inotify, poll or off."""
        if not self._watches:
            return "off"
        return "poll" if disk.polled or self._polling else "inotify"

    # ---- another program takes our place -------------------------------------------------------------------------

    def serialize(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return what is remembered as plain values, and the descriptors among it."""
        given = {number: [one.digest, one.texts] for number, one in self._given.items()}
        descriptors = (self._kept, *(one.texts for one in self._given.values()))
        return {"kept": self._kept, "given": given}, tuple(one for one in descriptors if one is not None)

    def restore(self, left: Mapping[str, Any]) -> None:
        """Go on with what our last life has handed down.

        Raises:
            OSError: a descriptor is not there.

        """
        self._kept = left["kept"]
        self._given = {number: Given(digest, texts) for number, (digest, texts) in left["given"].items()}
        for descriptor in self.serialize()[1]:
            os.set_inheritable(descriptor, False)

    # ---- what generations were given -------------------------------------------------------------------------------

    def give(self, number: int, found: Found, texts: int | None) -> None:
        """Remember what a generation is started from.

        Raises:
            OSError: there are no descriptors left.

        """
        copy = None if texts is None else os.dup(texts)
        self._drop(number)
        self._given[number] = Given(found.digest, copy, found.master_worker)

    def given(self, number: int) -> Given | None:
        """Return what a generation is started from, if it was looked at."""
        return self._given.get(number)

    def retain(self, numbers: Collection[int]) -> None:
        """Let go of what only other generations needed."""
        for number in [number for number in self._given if number not in numbers]:
            self._drop(number)

    def _drop(self, number: int) -> None:
        given = self._given.pop(number, None)
        if given and given.texts is not None:
            os.close(given.texts)

    # ---- the last known good one -----------------------------------------------------------------------------------

    def restored(self, texts: int) -> str:
        """Take what the state directory held for the last known good one; return its digest.

        Raises:
            OSError: there are no descriptors left.
            ValueError: it is damaged.

        """
        digest = digest_of(texts)
        if self._kept is None:
            self._kept = os.dup(texts)
        return digest

    def keep(self, number: int) -> int | None:
        """Make what a generation was started from the last known good one; return a descriptor of it, if it is known.

        Raises:
            OSError: there are no descriptors left.

        """
        given = self._given.get(number)
        if not given or given.texts is None:
            return None
        kept = os.dup(given.texts)
        if self._kept is not None:
            os.close(self._kept)
        self._kept = kept
        return self.kept()

    def kept(self) -> int | None:
        """Return a descriptor of the last known good one, if there is one.

        Raises:
            OSError: there are no descriptors left.

        """
        return None if self._kept is None else os.dup(self._kept)

    def last_known_good(self) -> list[int]:
        """Return a descriptor for each file of it, which haproxy can be given as /dev/fd/N.

        Raises:
            OSError: there are no descriptors left, or there is no last known good one.

        """
        if self._kept is None:
            raise OSError("there is no last known good configuration")
        return for_haproxy(self._kept)


def _never_changes(path: str) -> str:
    what = f"{path} can never change again in here: what is mounted has been replaced outside, and this is the old one."
    return f"{what} Mount the folder above it instead, and start the container anew"
