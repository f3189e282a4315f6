"""How the current generation is asked for its ordinary listeners; whether to ask again is the core's decision."""

from collections.abc import Callable

from entrypoint.core import events
from entrypoint.haproxy import runtime_api
from entrypoint.pid1.ordinary_listeners import OrdinaryListeners
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.getsocks.request import SocketRequest
from entrypoint.system.haproxy_cli import CliChannel, Conversation


class ListenerTransfer:
    """Owns the one request that is pending, if any."""

    def __init__(
        self,
        event_loop: EventLoop,
        channel_of: Callable[[int], CliChannel | None],
        ordinary: OrdinaryListeners,
        submit: Callable[[events.Event], None],
    ) -> None:
        """Begin without any.

        Args:
            event_loop: where to wait.
            channel_of: returns the line to a generation; None when it is gone.
            ordinary: who gets the listeners.
            submit: is given Adopted or NotAdopted, once for each request that is answered.

        """
        self._event_loop = event_loop
        self._channel_of = channel_of
        self._ordinary = ordinary
        self._submit = submit
        self._question: SocketRequest | Conversation | None = None
        self._number = 0

    def ask(self, number: int, *, last: bool) -> None:
        """Ask a generation, and nobody else any more.

        Args:
            number: of the generation.
            last: it is not asked again, so any answer is taken as it is.

        Raises:
            OSError: there are no descriptors left.

        """
        self._stop()
        channel = self._channel_of(number)
        if channel:
            self._number = number
            request = SocketRequest(channel.session())
            self._wait_for(request, lambda: self._hear(request, last=last))

    def forget(self, number: int) -> None:
        """Ask a generation no more that is gone."""
        if number == self._number:
            self._stop()

    def _wait_for(self, question: SocketRequest | Conversation, action: Callable[[], None]) -> None:
        self._question = question
        self._event_loop.add_reader(question, action)

    def _hear(self, request: SocketRequest, *, last: bool) -> None:
        # Before it reads: at the end it closes its descriptor.
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
            # EOF without data means "no listeners", but also that haproxy dies or is out of descriptors.
            try:
                witness = channel.ask((runtime_api.WHO,))
            except OSError:
                self._submit(events.NotAdopted(self._number))
            else:
                self._wait_for(witness, lambda: self._hear_witness(request, witness, last=last))

    def _hear_witness(self, request: SocketRequest, witness: Conversation, *, last: bool) -> None:
        if not witness.read():
            return
        self._stop()
        is_gone = witness.failure or runtime_api.pid(witness.answer) is None
        if is_gone or (not last and self._ordinary.binds_itself(self._number, witness.answer)):
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
