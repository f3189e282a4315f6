"""How safe_reload gets what the current generation has bound itself: it asks, and again where no answer is none."""

from collections.abc import Callable

from entrypoint.haproxy import runtime_api
from entrypoint.pid1.ordinary_listeners import OrdinaryListeners
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.getsocks.request import SocketRequest
from entrypoint.system.haproxy_cli import CliChannel, Conversation

_WITHIN = 5.0
"""Seconds; a generation that is stopped never passes its listeners."""
_AGAIN_AFTER = 1.0
"""Seconds; a shortage of descriptors, here or there, may be over by then."""
_MOST_TRIES = 5


class ListenerTransfer:
    """Keeps at most one pending request, to the newest current generation: listeners of older ones are out of date."""

    def __init__(
        self, event_loop: EventLoop, channel_of: Callable[[int], CliChannel | None], keeper: OrdinaryListeners
    ) -> None:
        """Begin without any.

        Args:
            event_loop: where to wait.
            channel_of: returns the line to a generation; None when it is gone.
            keeper: who gets the listeners.

        """
        self._event_loop = event_loop
        self._channel_of = channel_of
        self._keeper = keeper
        self._question: SocketRequest | Conversation | None = None
        self._number = 0
        self._tries = 0
        self._again = False

    def ask(self, number: int, tries: int = 0) -> None:
        """Ask a generation that has become current, after so many tries in vain."""
        self._stop()
        channel = self._channel_of(number)
        if not channel:
            return
        self._number, self._tries = number, tries
        try:
            taking = SocketRequest(channel.session())
        except OSError:
            self._ask_again()
        else:
            self._wait_for(taking, lambda: self._taken(taking))

    @property
    def pending(self) -> int:
        """The number of the generation that is yet to pass its listeners; 0 for none."""
        return self._number if self._question or self._again else 0

    def forget(self, number: int) -> None:
        """Ask a generation no more that is gone."""
        if number == self._number:
            self._stop()

    def _wait_for(self, question: SocketRequest | Conversation, action: Callable[[], None]) -> None:
        self._question = question
        self._event_loop.add_reader(question, action)
        self._event_loop.call_later(self, _WITHIN, self._ask_again)

    def _taken(self, taking: SocketRequest) -> None:
        # Before it reads: at the end it closes its descriptor.
        self._event_loop.remove(taking)
        if not taking.read():
            self._event_loop.add_reader(taking, lambda: self._taken(taking))
            return
        self._stop()
        channel = self._channel_of(self._number)
        if not channel:
            return
        if taking.failure and self._tries < _MOST_TRIES:
            self._ask_again()
            return
        if taking.sockets or taking.failure or not self._keeper.holds:
            self._keeper.passed(taking)
            return
        # EOF without data means "no listeners", but it also happens when haproxy dies or is out of file descriptors.
        try:
            witness = channel.ask((runtime_api.WHO,))
        except OSError:
            self._ask_again()
        else:
            self._wait_for(witness, lambda: self._testified(taking, witness))

    def _testified(self, taking: SocketRequest, witness: Conversation) -> None:
        if not witness.read():
            return
        self._stop()
        if witness.failure or runtime_api.pid(witness.answer) is None:
            # It dies, and then it is forgotten; or it has no descriptors for this question, either.
            self._ask_again()
        elif self._tries < _MOST_TRIES and self._keeper.binds_itself(self._number, witness.answer):
            self._ask_again()
        else:
            self._keeper.passed(taking)

    def _ask_again(self) -> None:
        self._stop()
        if self._tries < _MOST_TRIES:
            self._again = True
            self._event_loop.call_later(self, _AGAIN_AFTER, lambda: self.ask(self._number, self._tries + 1))
        else:
            self._keeper.unanswered(self._number)

    def _stop(self) -> None:
        self._event_loop.cancel(self)
        self._again = False
        if self._question:
            self._event_loop.remove(self._question)
            self._question.close()
            self._question = None
