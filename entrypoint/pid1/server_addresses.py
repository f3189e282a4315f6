"""How a candidate waits for DNS: until its backends have the addresses that the current generation had."""

from __future__ import annotations

import time

from entrypoint.core.events import Unanswered
from entrypoint.haproxy import runtime_api, server_state
from entrypoint.lean.collections import Callable, Mapping
from entrypoint.pid1.children import Children
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.haproxy_cli import Conversation

_WITHIN = 5.0
_ALL_WITHIN = 1.0
"""Seconds that a candidate waits until each backend has one of its addresses, and until it has all."""
_AGAIN_AFTER = 0.01


class ServerAddresses:
    """Owns the question to a candidate that waits, if there is one."""

    def __init__(self, runtime: Runtime, children: Children, most: float) -> None:
        """Begin idle; no candidate waits longer than `most` seconds."""
        self._runtime = runtime
        self._children = children
        self._most = most
        self._question: Conversation | None = None

    def wait(self, number: int, paused: tuple[str, ...], waits: Mapping[str, int], then: Callable[[], None]) -> None:
        """Ask a candidate again and again; an earlier wait is cancelled.

        Args:
            number: of the generation.
            paused: frontends that it pauses first.
            waits: by backend, how many servers should have an address.
            then: called once they have, or it has waited for long enough; may raise OSError or MemoryError.

        Raises:
            OSError: no descriptors are left.

        """
        self._ask(number, paused, waits, then, time.monotonic())

    def cancel(self) -> None:
        """Stop waiting."""
        self._runtime.event_loop.cancel(self)
        question, self._question = self._question, None
        if question:
            self._runtime.event_loop.remove(question)
            question.close()

    def _ask(
        self, number: int, paused: tuple[str, ...], waits: Mapping[str, int], then: Callable[[], None], began: float
    ) -> None:
        self.cancel()
        channel = self._children.channel_of(number)
        if not channel:
            self._runtime.submit(Unanswered(number))
            return
        pause = (f"disable frontend {frontend}" for frontend in paused)
        question = channel.ask((*pause, *server_state.about(waits), runtime_api.WHO))

        def hear() -> None:
            if question.read():
                self.cancel()
                try:
                    decide()
                except (OSError, MemoryError):
                    self._runtime.submit(Unanswered(number))

        def decide() -> None:
            if question.failure or runtime_api.pid(question.answer) is None:
                self._runtime.submit(Unanswered(number, question.failure))
            elif self._is_patient(waits, question.answer, time.monotonic() - began):
                again = (number, paused, waits, then, began)
                self._runtime.event_loop.call_later(self, _AGAIN_AFTER, lambda: self._ask(*again))
            else:
                then()

        self._question = question
        self._runtime.event_loop.add_reader(question, hear)

    def _is_patient(self, waits: Mapping[str, int], answer: str, seconds: float) -> bool:
        """Tell whether a candidate should still wait, after so many seconds; some servers may have gone from DNS."""
        if seconds > self._most:
            return False
        numbers, missing = server_state.resolved(answer)
        wanting = any(backend in missing and numbers.get(backend, 0) < number for backend, number in waits.items())
        without = any(backend in missing and not numbers.get(backend) for backend in waits)
        return (wanting and seconds < _ALL_WITHIN) or (without and seconds < _WITHIN)
