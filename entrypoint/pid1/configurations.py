"""The configurations: the one on disk, those of the generations, and the last known good one.

Their text is never in PID 1's memory: the reader passes memory files, and only haproxy reads them.
"""

from __future__ import annotations

import os

from entrypoint.core import events
from entrypoint.core.effects import Log
from entrypoint.core.look import Found
from entrypoint.lean.collections import Callable, Collection, Mapping
from entrypoint.lean.level import Level
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import Any
from entrypoint.system.state_file import digest_of, for_haproxy


@record(frozen=True)
class Given:
    """The configuration of a generation."""

    digest: str
    texts: int | None
    """A memory file with the content of the -f files; None if there is none."""
    master_worker: str = ""
    """FILE:LINE of `master-worker`; empty if there is none."""
    mentions: tuple[str, ...] | None = None
    """See `Found.mentions`; None if they are not known."""
    changed_checks: frozenset[str] = frozenset()
    """See `Found.changed_checks`."""
    has_authorities: bool = False
    """The generation has taken a CA or CRL file while it runs."""


class Configurations:
    """Owns a memory file of every configuration that may still be needed."""

    def __init__(self, log: Callable[[Log], None], *, watches: bool) -> None:
        """Begin without any."""
        self._log = log
        self.watches = watches
        """Whether changes of files trigger reloads."""
        self._given: dict[int, Given] = {}
        self._last_known_good: int | None = None
        self._mentions: tuple[str, ...] | None = None
        """Of the last known good one."""
        self._polling = ""
        self.found = Found()
        self.reported: tuple[str, ...] = ()
        """Files that haproxy has read, as it says, and that the configuration seems not to name."""

    # ---- the disk ----------------------------------------------------------------------------------------------------

    def take(self, found: Found) -> events.Disk:
        """Remember what was found on disk; return the part that the core needs."""
        if not found.unfinished:
            for path in found.stale:
                if path not in self.found.stale and self.watches:
                    self._log(Log(Level.WARNING, "stale_mount", _never_changes(path), {"path": path}))
            if found.shared_ticket_keys not in {"", self.found.shared_ticket_keys}:
                self._log(Log(Level.WARNING, "shared_ticket_keys", found.shared_ticket_keys))
            self.found = found
        polled = found.polled or bool(self._polling)
        return events.Disk(found.digest, found.unreadable, polled, found.incomplete, found.unfinished, found.applicable)

    def polling(self, why: str) -> None:
        """Note why not all changes are reported; empty when all are."""
        if why and why != self._polling:
            self._log(Log(Level.WARNING, "polling", why))
        self._polling = why

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons why a reload does not read what is on the host's disk, a line each."""
        return tuple(map(_never_changes, self.found.stale))

    def mode(self, disk: events.Disk) -> str:
        """Return how changes are found: inotify, poll or off."""
        if not self.watches:
            return "off"
        return "poll" if disk.polled or self._polling else "inotify"

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return everything as plain values, and the descriptors among it."""
        given = {
            number: [one.digest, one.texts, one.mentions, one.has_authorities] for number, one in self._given.items()
        }
        descriptors = (self._last_known_good, *(one.texts for one in self._given.values()))
        plain = {
            "kept": self._last_known_good,
            "mentions": self._mentions,
            "given": given,
            "reported": self.reported,
        }
        return plain, tuple(one for one in descriptors if one is not None)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore the previous program's configurations.

        Raises:
            OSError: a descriptor is missing.

        """
        self._last_known_good = saved["kept"]
        self._mentions = saved["mentions"]
        self.reported = tuple(saved["reported"])
        self._given = {
            number: Given(digest, texts, mentions=mentions, has_authorities=has_authorities)
            for number, (digest, texts, mentions, has_authorities) in saved["given"].items()
        }
        for descriptor in self.serialize()[1]:
            os.set_inheritable(descriptor, False)

    # ---- generations -------------------------------------------------------------------------------------------------

    def give(self, number: int, found: Found, texts: int | None) -> None:
        """Remember the configuration of a generation.

        Raises:
            OSError: no descriptors are left.

        """
        copy = None if texts is None else os.dup(texts)
        self._drop(number)
        mentions = found.mentions if found.digest else None
        self._given[number] = Given(found.digest, copy, found.master_worker, mentions, frozenset(found.changed_checks))

    def applied(self, number: int, digest: str, texts: int, *, has_authorities: bool) -> None:
        """Remember that a generation has taken changed files.

        Args:
            number: of the generation.
            digest: of what it runs now.
            texts: like `Given.texts`, with that digest.
            has_authorities: see `Given`.

        Raises:
            OSError: no descriptors are left.

        """
        given = self._given.get(number)
        if given:
            copy = os.dup(texts)
            self._drop(number)
            self._given[number] = replace(given, digest=digest, texts=copy, has_authorities=has_authorities)

    def given(self, number: int) -> Given | None:
        """Return the configuration of a generation, if it is known."""
        return self._given.get(number)

    def texts(self, number: int) -> int | None:
        """Return a new descriptor of the content of a generation's -f files, if it is known.

        Raises:
            OSError: no descriptors are left.

        """
        given = self._given.get(number)
        return None if given is None or given.texts is None else os.dup(given.texts)

    def changed_checks(self, number: int) -> frozenset[str]:
        """Return `Found.changed_checks` of a generation's configuration; empty if they are not known."""
        given = self._given.get(number)
        return given.changed_checks if given else frozenset()

    def mentions(self, number: int, *, kept: bool) -> tuple[str, ...] | None:
        """Return `Found.mentions` of a generation's configuration; None if they are not known.

        Args:
            number: of the generation.
            kept: it is started from the last known good one.

        """
        given = self._given.get(number)
        if kept:
            return self._mentions
        return given.mentions if given else None

    def retain(self, numbers: Collection[int]) -> None:
        """Forget all but the configurations of these generations."""
        for number in [number for number in self._given if number not in numbers]:
            self._drop(number)

    def _drop(self, number: int) -> None:
        given = self._given.pop(number, None)
        if given and given.texts is not None:
            os.close(given.texts)

    # ---- the last known good one -------------------------------------------------------------------------------------

    def restored(self, texts: int) -> str:
        """Use what the state directory holds as the last known good one, if there is no other; return its digest.

        Raises:
            OSError: no descriptors are left.
            ValueError: it is damaged.

        """
        digest = digest_of(texts)
        if self._last_known_good is None:
            self._last_known_good = os.dup(texts)
        return digest

    def keep(self, number: int) -> int | None:
        """Make the configuration of this generation the last known good one; return a descriptor of it, if it is known.

        Raises:
            OSError: no descriptors are left.

        """
        given = self._given.get(number)
        if not given or given.texts is None:
            return None
        previous, self._last_known_good = self._last_known_good, os.dup(given.texts)
        self._mentions = given.mentions
        if previous is not None:
            os.close(previous)
        return self.copy()

    def copy(self) -> int | None:
        """Return a new descriptor of the last known good one, if there is one.

        Raises:
            OSError: no descriptors are left.

        """
        return None if self._last_known_good is None else os.dup(self._last_known_good)

    def last_known_good(self) -> list[int]:
        """Return a descriptor for each of its files, for haproxy to read as /dev/fd/N.

        Raises:
            OSError: no descriptors are left, or there is no last known good one.

        """
        if self._last_known_good is None:
            raise OSError("there is no last known good configuration")
        return for_haproxy(self._last_known_good)


def _never_changes(path: str) -> str:
    what = (
        f"{path} can never change again in this container: the mounted file was replaced outside, and this is the old"
    )
    return f"{what} one. Mount its folder instead, and restart the container"
