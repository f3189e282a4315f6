"""The ordinary listeners: how the current generation is asked for them, and how they are held for the next one.

The core decides whether it is asked again (`core.transfer`).
"""

from __future__ import annotations

from entrypoint.core import events
from entrypoint.core.effects import Log
from entrypoint.haproxy import runtime_api
from entrypoint.lean.collections import Callable
from entrypoint.lean.level import Level
from entrypoint.options.vips import needs_v6only
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.getsocks import Passed
from entrypoint.system.getsocks.offer import Adopted
from entrypoint.system.getsocks.request import SocketRequest
from entrypoint.system.haproxy_cli import CliChannel, Conversation


class OrdinaryListeners:
    """Replaces the held listeners by those that a generation passes, once no candidate takes the held ones any more."""

    def __init__(
        self,
        adopted: Adopted,
        vips: Callable[[], frozenset[int]],
        log: Callable[[Log], None],
        may_take: Callable[[], bool],
        binds_of: Callable[[int], int | None],
    ) -> None:
        """Begin.

        Args:
            adopted: the held listeners.
            vips: returns the inodes of the sockets of all VIPs.
            log: writes a line.
            may_take: tells whether a candidate may still take the held listeners.
            binds_of: returns the number of a generation's listeners on VIPs; None after its exit.

        """
        self._adopted = adopted
        self._vips = vips
        self._log = log
        self._may_take = may_take
        self._binds_of = binds_of
        self._waiting: tuple[Passed, ...] | None = None
        self._logged = adopted.addresses
        self._closed = False

    @property
    def holds(self) -> bool:
        """Whether any are held."""
        return bool(self._adopted.sockets)

    def binds_itself(self, number: int, answer: str) -> bool:
        """Tell from a generation's answer to `show info` whether it has ordinary listeners."""
        binds = self._binds_of(number)
        return binds is not None and runtime_api.listens_elsewhere(answer, binds)

    def passed(self, request: SocketRequest) -> None:
        """Hold the listeners that a generation has passed, once no candidate takes the held ones."""
        if request.failure:
            what = f"the ordinary listeners are not held by safe_reload: the generation {request.failure}"
            self._log(Log(Level.WARNING, "not_adopted", what))
            return
        self._drop_waiting()
        self._waiting = request.sockets
        if self._closed:
            # Listeners requested before the stop would only keep clients waiting.
            self._drop_waiting()
        self.taken()

    def taken(self) -> None:
        """Hold the waiting listeners, unless a candidate still takes the held ones."""
        if self._waiting is None or self._may_take():
            return
        waiting, self._waiting = self._waiting, None
        self._adopted.renew(waiting, self._vips())
        after = self._adopted.addresses
        if after != self._logged:
            self._logged = after
            held = f"holds the ordinary listeners {', '.join(after)}" if after else "holds no ordinary listener"
            dual = ", ".join(filter(needs_v6only, after))
            hint = f"; without v6only in its `bind` each generation binds its own instead: {dual}" if dual else ""
            self._log(Log(Level.INFO, "adopted", f"safe_reload {held}{hint}"))

    def close(self) -> None:
        """Close all of them, and those that are passed later."""
        self._closed = True
        try:
            self._drop_waiting()
        finally:
            self._adopted.close()

    def _drop_waiting(self) -> None:
        for one in self._waiting or ():
            one.socket.close()
        self._waiting = None


class ListenerTransfer:
    """Owns the pending request, if any."""

    def __init__(
        self,
        event_loop: EventLoop,
        channel_of: Callable[[int], CliChannel | None],
        ordinary: OrdinaryListeners,
        submit: Callable[[events.Event], None],
    ) -> None:
        """Begin idle; `submit` gets Adopted or NotAdopted, once for each answered request."""
        self._event_loop = event_loop
        self._channel_of = channel_of
        self._ordinary = ordinary
        self._submit = submit
        self._question: SocketRequest | Conversation | None = None
        self._number = 0

    def ask(self, number: int, *, last: bool) -> None:
        """Ask a generation; a pending request is cancelled.

        Args:
            number: of the generation.
            last: it is not asked again, so accept any answer.

        Raises:
            OSError: no descriptors are left.

        """
        self._stop()
        channel = self._channel_of(number)
        if channel:
            self._number = number
            request = SocketRequest(channel.session())
            self._wait_for(request, lambda: self._hear(request, last=last))

    def forget(self, number: int) -> None:
        """Cancel a request to a generation that has exited."""
        if number == self._number:
            self._stop()

    def _wait_for(self, question: SocketRequest | Conversation, action: Callable[[], None]) -> None:
        self._question = question
        self._event_loop.add_reader(question, action)

    def _hear(self, request: SocketRequest, *, last: bool) -> None:
        # Before read(), which closes the descriptor at EOF.
        self._event_loop.remove(request)
        if not request.read():
            self._event_loop.add_reader(request, lambda: self._hear(request, last=last))
            return
        self._stop()
        channel = self._channel_of(self._number)
        if not channel:
            return
        if request.failure and not last:
            self._submit(events.NotAdopted(self._number))
        elif request.sockets or request.failure or not self._ordinary.holds:
            self._passed(request)
        else:
            # EOF without data means "no listeners", but it also happens when haproxy dies or is out of descriptors.
            try:
                check = channel.ask((runtime_api.WHO,))
            except OSError:
                self._submit(events.NotAdopted(self._number))
            else:
                self._wait_for(check, lambda: self._hear_check(request, check, last=last))

    def _hear_check(self, request: SocketRequest, check: Conversation, *, last: bool) -> None:
        if not check.read():
            return
        self._stop()
        is_gone = check.failure or runtime_api.pid(check.answer) is None
        if is_gone or (not last and self._ordinary.binds_itself(self._number, check.answer)):
            self._submit(events.NotAdopted(self._number))
        else:
            self._passed(request)

    def _passed(self, request: SocketRequest) -> None:
        self._ordinary.passed(request)
        self._submit(events.Adopted(self._number))

    def _stop(self) -> None:
        if self._question:
            self._event_loop.remove(self._question)
            self._question.close()
            self._question = None
