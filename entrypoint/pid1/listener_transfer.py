"""Asks the current generation for its ordinary listeners; the core decides whether to ask again."""

from collections.abc import Callable

from entrypoint.core import events
from entrypoint.haproxy import runtime_api
from entrypoint.pid1.ordinary_listeners import OrdinaryListeners
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.getsocks.request import SocketRequest
from entrypoint.system.haproxy_cli import CliChannel, Conversation


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
