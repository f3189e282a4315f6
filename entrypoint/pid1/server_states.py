"""The states of servers: what the current generation says of them, and how the next one is told.

A candidate is told in its first conversation, before it serves a client. Nothing is polled: the current generation is
asked when a candidate begins, when its stderr says that the state of a server has changed, and when somebody asks for
the status.
"""

from __future__ import annotations

import time
from itertools import islice

from entrypoint.core.events import Unanswered
from entrypoint.core.log_lines import say
from entrypoint.core.state import Candidate, Generation, State
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.haproxy import lua, runtime_api, server_state
from entrypoint.haproxy.server_state import ServerState
from entrypoint.lean.collections import Callable, Iterator, Mapping, MappingProxyType
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import Any
from entrypoint.options.settings import ServerStatePolicy
from entrypoint.pid1.children import Children
from entrypoint.pid1.launch import Prelude
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.runtime import Runtime
from entrypoint.pid1.server_addresses import ServerAddresses
from entrypoint.system.haproxy_cli import Conversation
from entrypoint.system.script_pipe import ScriptPipe

_ANSWERS_WITHIN = 1.0
"""Seconds that a candidate waits for the current generation's answer; then it learns what was known before."""
_ASK_AGAIN_AFTER = 1.0
"""Seconds between two questions after changes: with 10,000 servers each answer costs haproxy 30 ms."""
_RESTORED_WITHIN = 600.0
"""Seconds: what an older container has saved is not used."""
_ABOUT_SCRIPTS = "Lua"
_MOST_TOLD = 10000
"""Servers; all others begin as haproxy begins them."""
MOST_LISTED = 10
"""Servers that a log line or a status names."""


_NOTHING: Mapping[str, Any] = MappingProxyType({})


@record(frozen=True)
class _Candidate:
    number: int
    told: Mapping[str, ServerState] = _NOTHING
    """What it is told, by the server's name."""
    waits: Mapping[str, int] = _NOTHING
    """By backend, how many servers should have an address before it serves."""
    needs_release: bool = False
    """It accepts only one client before it is released; with a script only if it was built without Lua."""
    paused: tuple[str, ...] = ()
    """Frontends that accept nobody from its first conversation until it is released."""


class ServerStates:
    """Owns what is known of the servers of the current generation."""

    def __init__(self, runtime: Runtime, children: Children, parts: Parts, state: Callable[[], State]) -> None:
        """Begin without any.

        Args:
            runtime: has the event loop, the log and the events.
            children: the generations' processes.
            parts: has the configurations of the generations, and haproxy's arguments.
            state: returns the core's state.

        """
        self._runtime = runtime
        self._children = children
        self._configurations = parts.configurations
        self._is_strict = any(word.startswith("-dW") for word in parts.launch.command.arguments)
        self._state = state
        self.ask: Callable[[int], None] = self.ask_candidate
        """Asks a candidate again; the supervisor replaces it by one that never raises."""
        self.keep: Callable[[str], None] = lambda _: None
        """Saves a text for `restored` in the next container."""
        self.keep_table: Callable[[str], None] = lambda _: None
        """Gets the addresses that DNS has found, as a state file of haproxy."""
        self._table = ""
        self._saved = ("", 0.0)
        """The last saved text, without its time, and when it was saved, in seconds on the monotonic clock."""
        self._answers_within = min(_ANSWERS_WITHIN, state().settings.ready_timeout / 4)
        self._keeps = state().settings.server_state is ServerStatePolicy.KEEP
        self._known: dict[str, ServerState] = {}
        """What the next candidate is told, by the server's name."""
        self.kept: tuple[ServerState, ...] = ()
        """What the current generation has from the one before it."""
        self._resolved: dict[str, int] = {}
        """By backend, the number of servers of which DNS has found the address."""
        self._candidate = _Candidate(0)
        self._applied: tuple[int, tuple[ServerState, ...]] = (0, ())
        """The number of the last candidate that has answered, and what applies to it of what it was told."""
        self._changed: set[int] = set()
        """Candidates that have said that the state of a server has changed."""
        self._addresses = ServerAddresses(runtime, children, state().settings.ready_timeout / 2)
        self._question: Conversation | None = None
        self._asked_at = 0.0
        self._has_changed = 0
        """The current generation if it is to be asked, because the state of a server has changed; else 0."""
        self._wants_up = False
        """In a candidate servers may begin down, so those that are up are known as well."""
        self._scripted = False
        """The last candidate was given a script, and has not become current."""
        self._failed = False
        """It has exited, and its stderr says something about Lua."""
        self._script: ScriptPipe | None = None
        """From which the last candidate reads its script."""
        self._pending: tuple[int, Mapping[str, ServerState]] = (0, {})
        """The candidate that is being asked, and what it learns with that question."""
        self._asked = 0
        """The candidate that is asked once the current generation has answered; 0 if there is none."""

    # ---- from the current generation ---------------------------------------------------------------------------------

    def note(self, number: int) -> None:
        """Ask a generation for the states of its servers.

        Raises:
            OSError: no descriptors are left.

        """
        self._hang_up()
        channel = self._children.channel_of(number) if self._keeps else None
        if channel:
            self._has_changed = 0
            self._asked_at = time.monotonic()
            # `show info` comes last, so an answer with the pid is complete.
            question = channel.ask((server_state.TABLE, runtime_api.WHO))
            self._question = question
            self._runtime.event_loop.add_reader(question, lambda: self._hear(number, question))
            self._runtime.event_loop.call_later("server states", self._answers_within, self._give_up)

    def changed(self, number: int) -> None:
        """Ask a generation soon: the state of one of its servers has changed, or may have."""
        if number != self._current():
            self._changed.add(number)
        elif self._keeps:
            self._has_changed = number
            # A candidate must not miss what somebody sets while it starts.
            wait = 0.0 if self._state().candidate else _ASK_AGAIN_AFTER
            pause = max(0.0, self._asked_at + wait - time.monotonic())
            self._runtime.event_loop.call_later(self, pause, lambda: self._note_again(number))

    def _note_again(self, number: int) -> None:
        if self._question:
            self._runtime.event_loop.call_later(self, _ASK_AGAIN_AFTER, lambda: self._note_again(number))
        elif number == self._current():
            self.note(number)

    def _hear(self, number: int, question: Conversation) -> None:
        if question.read():
            self._hang_up()
            complete = not question.failure and runtime_api.pid(question.answer) is not None
            if complete:
                current = self._state().current
                mentions = self._configurations.mentions(number, kept=bool(current and current.kept))
                begin_up = not (self._wants_up or server_state.may_begin_down(mentions))
                self._known = server_state.kept(question.answer, begin_up=begin_up)
                dns = server_state.uses_dns(mentions)
                self._resolved = server_state.resolved(question.answer)[0] if dns else {}
                self._save_changes()
                table = server_state.addresses(question.answer)
                if table != self._table:
                    self._table = table
                    self.keep_table(table)
            self._answered()

    def _current(self) -> int:
        current = self._state().current
        return current.number if current else 0

    def _hang_up(self) -> None:
        question, self._question = self._question, None
        if question:
            self._runtime.event_loop.remove(question)
            question.close()

    # ---- to a candidate ----------------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        self._hang_up()
        self._answered()

    def _answered(self) -> None:
        """Tell a candidate that waits for it: the current generation has answered, or has not in time."""
        self._runtime.event_loop.cancel("server states")
        candidate = self._candidate
        if not candidate.told:
            waits = self._resolved if candidate.needs_release else candidate.waits
            candidate = self._candidate = replace(candidate, told=self._to_tell(candidate.number), waits=waits)
        if self._script:
            self._script.write(lua.script(candidate.told.values()))
        asked, self._asked = self._asked, 0
        number, learns = self._pending
        if number and self._to_tell(number) != learns:
            # It is still busy with its configuration, and has not heard the first question.
            asked = number
        if asked:
            self.ask(asked)

    def prelude(self, number: int, *, kept: bool) -> Prelude:
        """Return what a new candidate does before it serves: a Lua script tells it the states.

        haproxy reads our part of its configuration last, and waits there for the script until the current generation
        has answered. A candidate that cannot have a script, or knows no addresses yet, is held back until its first
        conversation is over.

        Args:
            number: of the generation.
            kept: it is started from the last known good configuration.

        Raises:
            OSError: no descriptors are left.

        """
        if self._script:
            self._script.close()
            self._script = None
        self._addresses.cancel()
        # One that failed because of its script is not followed by another one with a script.
        failed, self._scripted, self._failed = self._failed, False, False
        mentions = self._configurations.mentions(number, kept=kept)
        wanted, self._wants_up = self._wants_up, server_state.may_begin_down(mentions)
        if self._wants_up and not wanted:
            self.note(self._current())
        told = {} if self._question else self._to_tell(number)
        asking = self._question is not None
        self._scripted = bool(told or asking) and not failed and not self._is_strict and lua.may_run_scripts(mentions)
        dns = self._keeps and server_state.uses_dns(mentions)
        waits = self._resolved if dns else {}
        may_wait = bool(waits) or (dns and asking)
        may_hold = server_state.may_hold(mentions)
        holds = may_hold and (may_wait or (bool(told or asking) and not self._scripted))
        current = self._state().current
        binds = current.binds if current and may_wait else ()
        paused = {bind.frontend: None for bind in binds if runtime_api.can_pause(bind) and not bind.mixed}
        self._candidate = candidate = _Candidate(
            number, told, waits if holds else {}, holds or (self._scripted and may_hold), tuple(paused)
        )
        if self._scripted:
            self._script = ScriptPipe()
        if self._script and not asking:
            self._script.write(lua.script(candidate.told.values()))
        return Prelude(self._script.reader if self._script else None, holds)

    def gone(self, number: int) -> None:
        """Note that a generation has exited."""
        if self._scripted and number == self._candidate.number:
            self._failed = _ABOUT_SCRIPTS in self._children.stderr_of(number)

    def spawned(self) -> None:
        """Close what belongs to the new process."""
        if self._script:
            self._script.spawned()

    def backends_down(self) -> Iterator[str]:
        """Yield the backends with a server whose health is kept."""
        healthy = (state.name for state in self._known.values() if dict(state.changes).get(server_state.HEALTH))
        yield from dict.fromkeys(name.partition("/")[0] for name in healthy)

    def _to_tell(self, number: int) -> dict[str, ServerState]:
        candidate = self._state().find(number)
        if not self._keeps or (candidate and isinstance(candidate.phase, Candidate) and candidate.phase.forgets):
            return {}
        is_from_disk = candidate and not candidate.kept
        changed = self._configurations.changed_checks(number) if is_from_disk else ()
        states = server_state.without_health(self._known, changed) if changed else self._known
        return dict(islice(states.items(), _MOST_TOLD))

    def ask_candidate(self, number: int) -> None:
        """Ask a candidate whether it is ready, once it knows the states and the addresses of servers.

        Raises:
            OSError: no descriptors are left.

        """
        candidate = self._candidate if self._candidate.number == number else _Candidate(number)
        if self._has_changed and not self._question:
            self.note(self._has_changed)
        if self._question:
            self._asked = number
        elif candidate.waits:
            self._addresses.wait(number, candidate.paused, candidate.waits, lambda: self._ask(candidate))
        else:
            self._ask(candidate)

    def _ask(self, candidate: _Candidate) -> None:
        child, told = self._children.find(candidate.number), candidate.told
        if not child:
            self._runtime.submit(Unanswered(candidate.number))
            return
        # What the current generation has said since must fit as well.
        learns = self._to_tell(candidate.number)
        self._pending = (candidate.number, learns)
        states = {**told, **learns}.values()
        child.ask(
            runtime_api.of_a_candidate(server_state.questions(states)),
            server_state.commands(told.values()),
            lambda answer: self._corrections(candidate, answer),
        )

    def _corrections(self, candidate: _Candidate, answer: str) -> tuple[str, ...]:
        corrections = server_state.corrections(candidate.told, self._to_tell(candidate.number), answer)
        self._applied, self._pending = (candidate.number, corrections.kept), (0, {})
        resume = (f"enable frontend {frontend}" for frontend in candidate.paused)
        return (*corrections.commands, *resume, *((server_state.RELEASE,) if candidate.needs_release else ()))

    def promoted(self, current: Generation) -> None:
        """Note that a candidate has become current."""
        number = current.number
        self.kept = self._applied[1] if self._applied[0] == number else ()
        self._scripted = self._failed = False
        # What is still asked is asked of the one before.
        self._hang_up()
        self._has_changed = 0
        self._known = {state.name: state for state in self.kept}
        if self.kept:
            self._runtime.log(say(current, "server_state", f"kept the state of {shown(self.kept)}"))
        if self.kept or number in self._changed or self._configurations.found.server_state_file:
            self.changed(number)
        self._changed.clear()

    # ---- the state directory -----------------------------------------------------------------------------------------

    def _save_changes(self) -> None:
        text, saved_at = self._saved
        if server_state.to_text(self._known.values()) != text or time.monotonic() - saved_at > _RESTORED_WITHIN / 2:
            self.save()

    def end(self) -> None:
        """Save what is known, and what the current generation still says.

        Raises:
            OSError: no descriptors are left.

        """
        self.save()
        if self._has_changed and not self._question:
            self.note(self._has_changed)

    def save(self) -> None:
        """Save what is known.

        Raises:
            OSError: no descriptors are left.

        """
        if self._keeps:
            text = server_state.to_text(self._known.values())
            self._saved = (text, time.monotonic())
            # Rounded down: a later container must not see a time that is still to come.
            self.keep(f"{int(time.time())}\n{text}")

    def restored(self, text: str) -> None:
        """Use what the previous container saved.

        Raises:
            ValueError: it is damaged.

        """
        saved_at, _, states = text.partition("\n")
        if self._keeps and not self._known and 0 <= time.time() - int(saved_at) <= _RESTORED_WITHIN:
            self._known = server_state.from_text(states)

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"known": server_state.to_text(self._known.values()), "kept": server_state.to_text(self.kept)}

    def restore(self, saved: UpgradeState) -> None:
        """Restore what the previous program knew, and ask for what it did not."""
        self._known = server_state.from_text(saved.servers["known"])
        self.kept = tuple(server_state.from_text(saved.servers["kept"]).values())
        self.changed(self._current())


def shown(states: tuple[ServerState, ...]) -> str:
    """Return the states for people, as many as fit into a line."""
    more = f" and {len(states) - MOST_LISTED} more" if len(states) > MOST_LISTED else ""
    servers = "1 server" if len(states) == 1 else f"{len(states)} servers"
    return f"{servers}: {', '.join(map(str, states[:MOST_LISTED]))}{more}"
