"""One process of haproxy, or the one program that is not: every line to it, and what is known through them."""

import contextlib
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from entrypoint.core.effects import Log
from entrypoint.core.events import Answered, Event, Unanswered
from entrypoint.haproxy import runtime_api
from entrypoint.lean.level import Level
from entrypoint.pid1.drain_monitor import DrainMonitor
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.getsocks.offer import SocketOffer
from entrypoint.system.haproxy_cli import CliChannel, Conversation
from entrypoint.system.log import Logger
from entrypoint.system.stderr_pipe import StderrPipe


class Child:
    """Owns its private CLI, its stderr and what it is offered, until `close`."""

    def __init__(
        self,
        number: int,
        event_loop: EventLoop,
        logger: Logger,
        submit: Callable[[Event], None],
        taken: Callable[[], None],
    ) -> None:
        """Begin without a line to it.

        Args:
            number: of its generation.
            event_loop: where to wait for what it says.
            logger: gets what it writes to its stderr.
            submit: is given what its CLI answers.
            taken: is called when it has taken what it was offered, or never will.

        """
        self.number = number
        self.version = ""
        """Of its haproxy, as soon as it has answered."""
        self.is_denied = False
        """It has been said that we may not signal it."""
        self.channel: CliChannel | None = None
        self.text = ""
        """What is remembered of what it has said, once it is gone."""
        self._event_loop = event_loop
        self._logger = logger
        self._submit = submit
        self._taken = taken
        self._conversation: Conversation | None = None
        self._stderr: StderrPipe | None = None
        self._offer: SocketOffer | None = None
        self._held: DrainMonitor | None = None

    def connect(self, channel: CliChannel | None, stderr: StderrPipe | None, offer: SocketOffer | None = None) -> None:
        """Wait for what it says through these, which are its own from now on.

        Raises:
            OSError: there is no room for another descriptor to wait for.

        """
        self.channel, self._stderr, self._offer = channel, stderr, offer
        if stderr:
            self._listen_to_stderr(stderr)
        if offer:
            self._wait_for_offer(offer)

    def close(self) -> None:
        """Close every line to it, now that it is gone; its last stderr are passed on before.

        Raises:
            Exception: something of it has failed, and all else is done.

        """
        with ExitStack() as last:
            if self.channel:
                last.callback(self.channel.close)
                self.channel = None
            last.callback(self._end_offer)
            last.callback(self._end_stderr)
            if self._held:
                last.callback(self._held.close)
            last.callback(self._end_conversation)

    # ---- its CLI ---------------------------------------------------------------------------------------------------

    def session(self) -> socket.socket | None:
        """Open a connection to its CLI, if it has one.

        Raises:
            OSError: there are no descriptors left.

        """
        return self.channel.session() if self.channel else None

    def ask(self, commands: tuple[str, ...]) -> None:
        """Put these commands to its CLI, instead of what it was asked before; the answer is submitted.

        Raises:
            OSError: there are no descriptors left.

        """
        self._end_conversation()
        if self.channel:
            self._listen_to(self.channel.ask(commands))
        else:
            self._submit(Unanswered(self.number))

    def _listen_to(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._event_loop.add_reader(conversation, lambda: self._hear(conversation))

    def _hear(self, conversation: Conversation) -> None:
        if not conversation.read():
            return
        self._event_loop.remove(conversation)
        self._conversation = None
        if conversation.failure:
            conversation.close()
            self._submit(Unanswered(self.number, conversation.failure))
            return
        try:
            if conversation.proceed():
                self._listen_to(conversation)
                return
            answer = conversation.answer
        except (OSError, MemoryError):
            # No descriptors are left for its next line, and half an answer is none.
            conversation.close()
            answer = ""
        self._submit(Answered(self.number, answer) if answer else Unanswered(self.number))
        if answer:
            self.version = runtime_api.version(answer) or self.version
            if self._stderr:
                # Now it listens, so it may have clients.
                self._stderr.started()

    def _end_conversation(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation:
            self._event_loop.remove(conversation)
            conversation.close()

    # ---- how it leaves ---------------------------------------------------------------------------------------------

    def leave(self, tell: Callable[[], None]) -> None:
        """Begin a session that outlives its CLI, and tell it to leave as soon as it has accepted that, or does not.

        Args:
            tell: tells it; called once.

        """
        session = None
        if not (self._held and self._held.is_open):
            # Without descriptors or memory left nobody will know how many connections it has; that is all.
            with contextlib.suppress(OSError, MemoryError):
                session = self.session()
        if session:
            self._held = DrainMonitor(self._event_loop, session, tell)
        else:
            tell()

    def tell_to_leave(self) -> None:
        """Tell it now if it is to leave: who takes our place does not know of it."""
        if self._held:
            self._held.tell()

    @property
    def connections(self) -> int | None:
        """How many it has, if it drains; None if nobody knows."""
        return self._held.connections if self._held else None

    # ---- its stderr ------------------------------------------------------------------------------------------------

    def said(self) -> str:
        """Return what is remembered of what it has said, also when it has just died."""
        if self._stderr:
            # What it said before it answered may still be in the pipe.
            self._pass_on(self._stderr, self._stderr.unread)
            return self._stderr.text
        return self.text

    def stderr_left(self) -> tuple[int, str, bytes] | None:
        """Return its stderr as `StderrPipe` takes it, for the program that takes our place."""
        return (self._stderr.fileno(), self._stderr.text, self._stderr.begun) if self._stderr else None

    def _listen_to_stderr(self, stderr: StderrPipe) -> None:
        self._event_loop.add_reader(stderr, lambda: self._overhear(stderr))

    def _overhear(self, stderr: StderrPipe) -> None:
        """Pass on what it has said, and then let some more come.

        Lines come one by one, such as those of an access log: waking up for each would cost more than they do.
        """
        logger, began = self._logger, time.monotonic()
        self._pass_on(stderr, stderr.share(full=logger.waits))
        self._event_loop.remove(stderr)
        if not stderr.ended:
            # One that never stops has half of our time at most.
            pause = stderr.pause if logger.waits or not stderr.unread else time.monotonic() - began
            self._event_loop.call_later(stderr, pause, lambda: self._listen_to_stderr(stderr))

    def _pass_on(self, stderr: StderrPipe, most: int) -> None:
        overrun = stderr.overrun
        self._logger.pass_on(stderr.read(most), self.number)
        if stderr.overrun and not overrun:
            what = "may have lost lines: it has written to its stderr faster than they were read"
            line = Log(Level.WARNING, "stderr_overrun", f"generation {self.number} {what}", {"generation": self.number})
            self._logger.write(line, kept=True)

    def _end_stderr(self) -> None:
        stderr, self._stderr = self._stderr, None
        if stderr:
            self._event_loop.remove(stderr)
            self._event_loop.cancel(stderr)
            try:
                self._logger.pass_on(stderr.drain(), self.number)
                self.text = stderr.text
            finally:
                stderr.close()

    # ---- what it is offered of the ordinary listeners --------------------------------------------------------------

    @property
    def may_take(self) -> bool:
        """Whether it may still take what it was offered."""
        return self._offer is not None

    def _wait_for_offer(self, offer: SocketOffer) -> None:
        self._event_loop.add_reader(offer, lambda: self._proceed(offer))

    def _proceed(self, offer: SocketOffer) -> None:
        self._event_loop.remove(offer)
        if offer.proceed():
            self._end_offer()
        else:
            self._wait_for_offer(offer)

    def _end_offer(self) -> None:
        offer, self._offer = self._offer, None
        if offer:
            self._event_loop.remove(offer)
            offer.close()
            self._taken()
