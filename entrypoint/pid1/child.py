"""One haproxy process: its private CLI, its stderr, and the listeners that it is offered."""

from __future__ import annotations

import time

from entrypoint.core.effects import Log
from entrypoint.core.events import Answered, Event, Unanswered
from entrypoint.haproxy import runtime_api, server_state
from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Callable, Iterable
from entrypoint.lean.contextlib import ExitStack
from entrypoint.lean.level import Level
from entrypoint.pid1.drain_monitor import DrainMonitor
from entrypoint.system.event_loop import EventLoop
from entrypoint.system.getsocks.offer import SocketOffer
from entrypoint.system.haproxy_cli import CliChannel, Conversation, FollowUp
from entrypoint.system.log import Logger
from entrypoint.system.stderr_pipe import StderrPipe


class Child:
    """Owns the process's private CLI, stderr and offered listeners until `close`."""

    def __init__(
        self,
        number: int,
        event_loop: EventLoop,
        logger: Logger,
        submit: Callable[[Event], None],
        taken: Callable[[], None],
        servers_changed: Callable[[int], None],
    ) -> None:
        """Begin unconnected.

        Args:
            number: of its generation.
            event_loop: watches its channels.
            logger: gets its stderr.
            submit: gets the events.
            taken: called once the offered listeners are transferred, or never will be.
            servers_changed: called with the number after haproxy has said that the state of a server has changed.

        """
        self.number = number
        self.version = ""
        """haproxy's version, once it has answered."""
        self.is_denied = False
        """The log already says that we may not signal it."""
        self.channel: CliChannel | None = None
        self.text = ""
        """The end of its stderr, once it has exited."""
        self._event_loop = event_loop
        self._logger = logger
        self._submit = submit
        self._taken = taken
        self._servers_changed = servers_changed
        self._conversation: Conversation | None = None
        self._stderr: StderrPipe | None = None
        self._offer: SocketOffer | None = None
        self._drain_monitor: DrainMonitor | None = None

    def connect(self, channel: CliChannel | None, stderr: StderrPipe | None, offer: SocketOffer | None = None) -> None:
        """Take over these channels and watch them.

        Raises:
            OSError: no more descriptors can be watched.

        """
        self.channel, self._stderr, self._offer = channel, stderr, offer
        if stderr:
            self._listen_to_stderr(stderr)
        if offer:
            self._wait_for_offer(offer)

    def close(self) -> None:
        """Pass on the rest of its stderr and close everything, after it has exited.

        Raises:
            Exception: one step failed; all others were done.

        """
        with ExitStack() as last:
            if self.channel:
                last.callback(self.channel.close)
                self.channel = None
            last.callback(self._end_offer)
            last.callback(self._end_stderr)
            if self._drain_monitor:
                last.callback(self._drain_monitor.close)
            last.callback(self._end_conversation)

    # ---- its CLI -----------------------------------------------------------------------------------------------------

    def session(self) -> socket.socket | None:
        """Open a connection to its CLI, if it has one.

        Raises:
            OSError: no descriptors are left.

        """
        return self.channel.session() if self.channel else None

    def ask(self, commands: tuple[str, ...], first: Iterable[str] = (), follow_up: FollowUp | None = None) -> None:
        """Send commands to its CLI and submit the answer; a pending question is cancelled.

        Args:
            commands: to be answered.
            first: see `Conversation`.
            follow_up: see `Conversation`.

        Raises:
            OSError: no descriptors are left.

        """
        self._end_conversation()
        if self.channel:
            self._listen_to(self.channel.ask(commands, first, follow_up))
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
            # No descriptors are left to continue, and half an answer is useless.
            conversation.close()
            answer = ""
        self._submit(Answered(self.number, answer) if answer else Unanswered(self.number))
        if answer:
            self.version = runtime_api.version(answer) or self.version
            if self._stderr:
                # It listens now, so it may have clients.
                self._stderr.started()

    def _end_conversation(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation:
            self._event_loop.remove(conversation)
            conversation.close()

    # ---- soft stop ---------------------------------------------------------------------------------------------------

    def soft_stop(self, send: Callable[[], None]) -> None:
        """Open a session that outlives its CLI, then call `send` once, after haproxy has accepted it or failed to.

        Args:
            send: sends the signal.

        """
        session = None
        if not (self._drain_monitor and self._drain_monitor.is_open):
            # Without descriptors or memory only its number of connections stays unknown.
            with contextlib.suppress(OSError, MemoryError):
                session = self.session()
        if session:
            self._drain_monitor = DrainMonitor(self._event_loop, session, send)
        else:
            send()

    def send_soft_stop(self) -> None:
        """Send a soft stop that is still pending: the next program does not know of it."""
        if self._drain_monitor:
            self._drain_monitor.soft_stop()

    @property
    def connections(self) -> int | None:
        """How many it has while it drains; None if unknown."""
        return self._drain_monitor.connections if self._drain_monitor else None

    # ---- its stderr --------------------------------------------------------------------------------------------------

    def said(self) -> str:
        """Return the end of its stderr, also when it has just exited."""
        if self._stderr:
            # Lines from before its answer may still be in the pipe.
            self._pass_on(self._stderr, self._stderr.unread)
            return self._stderr.text
        return self.text

    def saved_stderr(self) -> tuple[int, str, bytes] | None:
        """Return the arguments from which the next program makes its `StderrPipe`."""
        return (self._stderr.fileno(), self._stderr.text, self._stderr.begun) if self._stderr else None

    def _listen_to_stderr(self, stderr: StderrPipe) -> None:
        self._event_loop.add_reader(stderr, lambda: self._overhear(stderr))

    def _overhear(self, stderr: StderrPipe) -> None:
        """Pass on what has arrived, then pause: waking up for each line of an access log would cost more CPU."""
        logger, began = self._logger, time.monotonic()
        self._pass_on(stderr, stderr.share(full=logger.waits))
        self._event_loop.remove(stderr)
        if not stderr.ended:
            # A process that never stops writing gets at most half of our time.
            pause = stderr.pause if logger.waits or not stderr.unread else time.monotonic() - began
            self._event_loop.call_later(stderr, pause, lambda: self._listen_to_stderr(stderr))

    def _pass_on(self, stderr: StderrPipe, most: int) -> None:
        overrun = stderr.overrun
        lines = stderr.read(most)
        self._logger.pass_on(lines, self.number)
        if server_state.SERVER_LINE in lines:
            self._servers_changed(self.number)
        if stderr.overrun and not overrun:
            what = "may have lost lines: it has written to its stderr faster than they were read"
            line = Log(Level.WARNING, "stderr_overrun", f"generation {self.number} {what}", {"generation": self.number})
            self._logger.write(line, important=True)

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

    # ---- ordinary listeners that it is offered -----------------------------------------------------------------------

    @property
    def may_take(self) -> bool:
        """Whether it may still take the offered listeners."""
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
