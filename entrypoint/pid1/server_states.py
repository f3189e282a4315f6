"""The states of servers: what the current generation says of them, and how the next one is told.

A candidate is told in its first conversation, before it serves a client. Nothing is polled: the current generation is
asked when a candidate begins, when its stderr says that the state of a server has changed, and when somebody asks for
the status.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from entrypoint.core.events import Unanswered
from entrypoint.core.log_lines import say
from entrypoint.core.state import Candidate, Generation, State
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.haproxy import runtime_api, server_state
from entrypoint.haproxy.server_state import ServerState
from entrypoint.lean.typing import Any
from entrypoint.options.settings import ServerStatePolicy
from entrypoint.pid1.children import Children
from entrypoint.pid1.configurations import Configurations
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.haproxy_cli import Conversation

_ANSWERS_WITHIN = 1.0
"""Seconds that a candidate waits for the current generation's answer; then it learns what was known before."""
_ASK_AGAIN_AFTER = 1.0
"""Seconds between two questions after changes: with 10,000 servers each answer costs haproxy 30 ms."""
_MOST_TOLD = 10000
"""Servers; all others begin as haproxy begins them."""
MOST_LISTED = 10
"""Servers that a log line or a status names."""


class ServerStates:
    """Owns what is known of the servers of the current generation."""

    def __init__(
        self, runtime: Runtime, children: Children, configurations: Configurations, state: Callable[[], State]
    ) -> None:
        """Begin without any.

        Args:
            runtime: has the event loop, the log and the events.
            children: the generations' processes.
            configurations: of the generations.
            state: returns the core's state.

        """
        self._runtime = runtime
        self._children = children
        self._configurations = configurations
        self._state = state
        self._keeps = state().settings.server_state is ServerStatePolicy.KEEP
        self._known: dict[str, ServerState] = {}
        """What the next candidate is told, by the server's name."""
        self.kept: tuple[ServerState, ...] = ()
        """What the current generation has from the one before it."""
        self._told: tuple[int, dict[str, ServerState]] = (0, {})
        """The last candidate's number, and what it was told."""
        self._applied: tuple[int, tuple[ServerState, ...]] = (0, ())
        """The same, and what applies to it."""
        self._changed: set[int] = set()
        """Candidates that have said that the state of a server has changed."""
        self._question: Conversation | None = None
        self._asked_at = 0.0
        self._scripted = False
        """The last candidate was given a script, and has not become current."""
        self._waiting: list[Callable[[], None]] = []
        """Actions that wait for the answer."""

    # ---- from the current generation ---------------------------------------------------------------------------------

    def note(self, number: int) -> None:
        """Ask a generation for the states of its servers.

        Raises:
            OSError: no descriptors are left.

        """
        self._hang_up()
        channel = self._children.channel_of(number) if self._keeps else None
        if channel:
            self._asked_at = time.monotonic()
            # `show info` comes last, so an answer with the pid is complete.
            question = channel.ask((server_state.TABLE, runtime_api.WHO))
            self._question = question
            self._runtime.event_loop.add_reader(question, lambda: self._hear(number, question))

    def changed(self, number: int) -> None:
        """Ask a generation soon: the state of one of its servers has changed, or may have."""
        if number != self._current():
            self._changed.add(number)
        elif self._keeps:
            pause = max(0.0, self._asked_at + _ASK_AGAIN_AFTER - time.monotonic())
            self._runtime.event_loop.call_later(self, pause, lambda: self._note_again(number))

    def _note_again(self, number: int) -> None:
        if number == self._current() and not self._question:
            self.note(number)

    def _hear(self, number: int, question: Conversation) -> None:
        if question.read():
            self._hang_up()
            complete = not question.failure and runtime_api.pid(question.answer) is not None
            if complete and number == self._current():
                current = self._state().current
                mentions = self._configurations.mentions(number, kept=bool(current and current.kept))
                self._known = server_state.kept(question.answer, mentions)
            self._go_on()

    def _current(self) -> int:
        current = self._state().current
        return current.number if current else 0

    def _hang_up(self) -> None:
        question, self._question = self._question, None
        if question:
            self._runtime.event_loop.remove(question)
            question.close()

    # ---- to a candidate ----------------------------------------------------------------------------------------------

    @property
    def is_asking(self) -> bool:
        """Whether an answer of the current generation is awaited."""
        return self._question is not None

    def when_known(self, action: Callable[[], None]) -> None:
        """Call this once the current generation has answered, or has not in time."""
        self._waiting.append(action)
        self._runtime.event_loop.call_later("server states", _ANSWERS_WITHIN, self._give_up)

    def _give_up(self) -> None:
        self._hang_up()
        self._go_on()

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._runtime.event_loop.cancel("server states")
        for action in waiting:
            action()

    def script(self, number: int, *, kept: bool) -> str:
        """Return a Lua script that tells a new candidate the states before it serves; empty for none.

        A candidate without it learns them in its first conversation.

        Args:
            number: of the generation.
            kept: it is started from the last known good configuration.

        """
        failed, self._scripted = self._scripted, False
        self._told = (number, self._to_tell(number))
        if failed or not server_state.may_run_scripts(self._configurations.mentions(number, kept=kept)):
            return ""
        script = server_state.lua_script(self._told[1].values())
        self._scripted = bool(script)
        return script

    def _to_tell(self, number: int) -> dict[str, ServerState]:
        candidate = self._state().find(number)
        if not self._keeps or (candidate and isinstance(candidate.phase, Candidate) and candidate.phase.forgets):
            return {}
        return dict(islice(self._known.items(), _MOST_TOLD))

    def ask_candidate(self, number: int) -> None:
        """Ask a candidate whether it is ready; it learns the states of its servers first.

        Raises:
            OSError: no descriptors are left.

        """
        child = self._children.find(number)
        if not child:
            self._runtime.submit(Unanswered(number))
            return
        told = self._told[1] if self._told[0] == number else {}
        child.ask(
            runtime_api.of_a_candidate(server_state.questions(told.values())),
            server_state.commands(told.values()),
            lambda answer: self._corrections(number, told, answer),
        )

    def _corrections(self, number: int, told: dict[str, ServerState], answer: str) -> tuple[str, ...]:
        corrections = server_state.corrections(told, self._to_tell(number), answer)
        self._applied = (number, corrections.kept)
        return corrections.commands

    def promoted(self, current: Generation) -> None:
        """Note that a candidate has become current."""
        number = current.number
        self.kept = self._applied[1] if self._applied[0] == number else ()
        self._scripted = False
        self._known = {state.name: state for state in self.kept}
        if self.kept:
            self._runtime.log(say(current, "server_state", f"kept the state of {shown(self.kept)}"))
        if self.kept or number in self._changed:
            self.changed(number)
        self._changed.clear()

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"known": _plain(self._known.values()), "kept": _plain(self.kept)}

    def restore(self, saved: UpgradeState) -> None:
        """Restore what the previous program knew."""
        self._known = {state.name: state for state in _states(saved.servers["known"])}
        self.kept = tuple(_states(saved.servers["kept"]))


def _plain(states: Iterable[ServerState]) -> list[tuple[Any, ...]]:
    return [(state.name, state.configured, state.weight, state.changes) for state in states]


def _states(plain: Iterable[Sequence[Any]]) -> Iterator[ServerState]:
    for name, configured, weight, changes in plain:
        yield ServerState(name, tuple(configured), weight, tuple((what, value) for what, value in changes))


def shown(states: tuple[ServerState, ...]) -> str:
    """Return the states for people, as many as fit into a line."""
    more = f" and {len(states) - MOST_LISTED} more" if len(states) > MOST_LISTED else ""
    servers = "1 server" if len(states) == 1 else f"{len(states)} servers"
    return f"{servers}: {', '.join(map(str, states[:MOST_LISTED]))}{more}"
