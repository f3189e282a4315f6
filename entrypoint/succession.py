"""Another safe_reload takes our place: it is tried first, and it never begins without knowing all that we know."""

import contextlib
import os
from collections.abc import Callable, Mapping

from entrypoint import upgrade
from entrypoint.core.endings import how_it_died
from entrypoint.core.events import Event, Level, Log, Rehearsed
from entrypoint.core.heritage import HeritageError
from entrypoint.core.history import History
from entrypoint.core.types import Any, Protocol
from entrypoint.sources import Sources
from entrypoint.system.processes import Birth
from entrypoint.system.words import Words

_ALARM = "rehearsal"


class Loop(Protocol):
    """What runs us."""

    sources: Sources

    @property
    def has_more(self) -> bool:
        """Whether something has happened that the core does not know yet."""

    def is_to_be_decided(self, kind: type[Event]) -> bool:
        """Tell whether an event of this kind has happened that the core does not know yet."""

    def submit(self, event: Event) -> None:
        """Have the core decide about this, after what has happened before it."""

    def log(self, line: Log) -> None:
        """Write a line."""

    def start_helper(self, number: int, birth: Birth, ended: Callable[[int], None]) -> None:
        """Start a process that is no generation; may raise OSError."""

    def kill(self, number: int) -> None:
        """Kill such a process."""

    def unseen(self) -> list[int]:
        """Return the signals that have arrived and that nobody has seen to."""


class HandDown(Protocol):
    """What we leave."""

    def __call__(self, client: int, *, others: bool) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return everything that the next life needs, and the descriptors among it; may raise OSError.

        Args:
            client: who has asked for it.
            others: with all other clients, or without.

        """


class Succession:
    """Owns the rehearsal that runs, if one does."""

    def __init__(
        self,
        loop: Loop,
        variables: Callable[[], dict[str, str]],
        hand_down: HandDown,
    ) -> None:
        """Begin without one.

        Args:
            loop: what runs us.
            variables: returns the environment of the next life.
            hand_down: see there.

        """
        self._loop = loop
        self._variables = variables
        self._hand_down = hand_down
        self._rehearses = False

    def rehearse(self, client: int) -> None:
        """Have the next life try to read everything, and end."""
        if self._rehearses or self._loop.is_to_be_decided(Rehearsed):
            self._loop.submit(Rehearsed(client, "another upgrade is under way"))
            return
        try:
            self._start(client)
        except OSError as error:
            self._loop.submit(Rehearsed(client, f"the new program cannot be tried: {error.strerror or error}"))

    def _start(self, client: int) -> None:
        loop = self._loop
        left, descriptors = self._hand_down(client, others=False)
        with contextlib.ExitStack() as on_failure:
            heir = upgrade.wrap(left)
            on_failure.callback(os.close, heir)
            words = Words()
            on_failure.callback(words.close)

            def ended(status: int) -> None:
                self._rehearses = False
                loop.sources.cancel(_ALARM)
                said = words.drain().decode(errors="replace").replace("\n", " ").strip()
                words.close()
                failure = "" if status == 0 else f"the new program {how_it_died(status)}: {said or 'it says nothing'}"
                loop.submit(Rehearsed(client, failure))

            birth = upgrade.rehearsal(heir, self._variables(), descriptors, words.writer)
            loop.start_helper(upgrade.REHEARSAL, birth, ended)
            on_failure.pop_all()
        self._rehearses = True
        os.close(heir)
        loop.sources.alarm(_ALARM, upgrade.REHEARSE_WITHIN, lambda: loop.kill(upgrade.REHEARSAL))

    def take_place(self, client: int) -> None:
        """Become the next life; what has happened and is not decided comes first, because nobody would remember it."""
        if self._loop.has_more:
            self._loop.submit(Rehearsed(client, ""))
            return
        try:
            left, descriptors = self._hand_down(client, others=True)
            heir = upgrade.wrap(left)
        except OSError as error:
            self._loop.submit(Rehearsed(client, f"it cannot be handed down: {error.strerror or error}"))
            return
        self._loop.log(Log(Level.INFO, "upgrading", "safe_reload is replaced; every socket and process stays"))
        try:
            upgrade.execute(heir, self._variables(), descriptors, self._loop.unseen)
        except OSError as error:
            os.close(heir)
            self._loop.submit(Rehearsed(client, f"exec: {error.strerror or error}"))


def rehearsed(left: Mapping[str, Any]) -> None:
    """Try, in the next life, what it does first and would not survive, without doing any of it.

    Raises:
        HeritageError: it cannot go on from this.

    """
    try:
        # As late as in the life that is tried.
        for name in ("entrypoint.desk", "entrypoint.notices", "entrypoint.presence"):
            __import__(name)
        History.inherit(left["history"])
    except Exception as error:  # noqa: BLE001  # whatever it is, it would end PID 1
        raise HeritageError(f"it would not go on: {error!r}") from None
