"""The control server: the clients of the control socket, their commands, and the answers, which may take a while.

It decides nothing about generations: a request becomes an event, and the core's effect the answer. No client can block
the loop: everything is non-blocking and bounded.
"""

from __future__ import annotations

import time

from entrypoint import __version__
from entrypoint.core.events import ReloadAsked, Request, StopAsked, UpgradeAsked
from entrypoint.core.state import Candidate, Draining, State
from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Callable, Iterable, Mapping
from entrypoint.lean.json_text import json_text
from entrypoint.lean.typing import Any
from entrypoint.pid1 import master_cli
from entrypoint.pid1.child import Child
from entrypoint.pid1.children import Children
from entrypoint.pid1.connection_counts import ConnectionCounts
from entrypoint.pid1.outcomes import Outcomes
from entrypoint.pid1.runtime import Runtime
from entrypoint.pid1.session import Session, WorkerConnection
from entrypoint.pid1.status import show_proc
from entrypoint.system.control_socket import Client, Control

_MOST_SESSIONS = 1280
"""Each costs a descriptor and some KiB. Beyond it an unimportant client is dropped, or new ones wait in the backlog."""
_MOST_RELOADERS = 1024
"""So many may wait for a reload. They are never dropped, and leave room for health checks."""
_GRACE = 1.0
"""Seconds of inactivity before a client may be dropped: a new one is about to ask, or to read its answer."""
_LOOK_AFTER = 1.0
"""Seconds between checks whether a waiting client is still connected."""
_REST = 0.1
"""Seconds without accepting, when no descriptors are left."""
_THIS_CONNECTION = (["prompt"], ["quit"], ["exit"])
"""Commands about the session itself; never forwarded to a worker, as in haproxy's master."""
TRIGGER = "the control socket"
_MASTER = "master"
"""Our name in the prompt; programs that drive haproxy's master wait for `master> `."""
_TOO_MANY = f"Success=0\n--\n{_MOST_RELOADERS} wait for a reload already: try again later\n\n"


class ControlServer:
    """Serves the clients of one control socket.

    It takes one command of a client in each turn of the loop, and the next one only when the client has read the
    answer. So PID 1 never works on, or stores, more than one answer for a client.
    """

    def __init__(
        self,
        control: Control,
        runtime: Runtime,
        children: Children,
        outcomes: Outcomes,
        state: Callable[[], State],
        status: Callable[[dict[int, int | None]], dict[str, object]],
    ) -> None:
        """Begin to listen; `status` takes the number of connections of each generation."""
        self._control = control
        self._runtime = runtime
        self._event_loop = runtime.event_loop
        self._children = children
        self._outcomes = outcomes
        self._state = state
        self._status = status
        self._sessions: dict[int, Session] = {}
        """By client number, oldest first."""
        self._reloaders: set[int] = set()
        """Numbers of the clients that wait for a reload."""
        self._counts = ConnectionCounts(runtime.event_loop, children.find)
        children.lend = self._lend
        self._listen()

    # ---- connections -------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            room = len(self._sessions) < _MOST_SESSIONS or self._make_room()
            client = self._control.accept() if room else None
        except OSError:
            self._make_room()
            room, client = False, None
        if client:
            self._add(client)
        elif not room:
            self._event_loop.remove(self._control)
            self._event_loop.call_later(self._control, _REST, self._listen)

    def _add(self, client: Client) -> None:
        session = self._sessions[client.number] = Session(client)
        self._continue(session)

    def move_to(self, control: Control) -> None:
        """Serve at this socket from now on; clients in the old one's backlog are accepted first."""
        self._stop_listening()
        with contextlib.suppress(OSError):
            while client := self._control.accept():
                self._add(client)
        self._control.renew(control)
        self._listen()

    def _listen(self) -> None:
        self._event_loop.add_reader(self._control, self._accept)

    def _stop_listening(self) -> None:
        self._event_loop.remove(self._control)
        self._event_loop.cancel(self._control)

    def _make_room(self) -> bool:
        """Drop the oldest of the least important idle clients; tell whether there was one."""
        now = time.monotonic()
        quiet = [one for one in self._sessions.values() if one.priority < 3 and now - one.active_at >= _GRACE]
        session = min(quiet, key=lambda one: one.priority, default=None)
        if session:
            self._drop(session)
        return session is not None

    def _drop(self, session: Session) -> None:
        client = session.client
        self._sessions.pop(client.number, None)
        self._reloaders.discard(client.number)
        self._close_worker(session)
        self._event_loop.cancel(client)
        self._event_loop.remove(client)
        client.close()

    def _continue(self, session: Session) -> None:
        """Wait for whatever comes next for this client, or drop it."""
        client = session.client
        self._event_loop.cancel(client)
        if client.number not in self._sessions:
            return
        if client.waits:
            self._event_loop.add_writer(client, lambda: self._written(session))
        elif session.waits_for:
            self._event_loop.remove(client)
            if session.priority < 3:
                self._event_loop.call_later(client, _LOOK_AFTER, lambda: self._look(session))
        elif session.commands:
            self._event_loop.remove(client)
            self._event_loop.call_later(client, 0.0, lambda: self._serve(session))
        elif session.ends:
            self._drop(session)
        else:
            self._event_loop.add_reader(client, lambda: self._hear(session))

    def _written(self, session: Session) -> None:
        if not session.client.flush():
            self._drop(session)
        elif not session.client.waits:
            if session.worker:
                session.worker.resume()
            self._continue(session)

    def _look(self, session: Session) -> None:
        (self._drop if session.client.has_gone() else self._continue)(session)

    # ---- commands ----------------------------------------------------------------------------------------------------

    def _hear(self, session: Session) -> None:
        data = session.client.receive()
        if data is None:
            self._drop(session)
            return
        session.active_at = time.monotonic()
        try:
            for command in session.reader.read(data):
                session.spoke = True
                session.commands.append(command)
        except master_cli.TooLongError as error:
            session.ends = True
            self._say(session, f"{error}\n\n")
        self._continue(session)

    def _serve(self, session: Session) -> None:
        """Carry out the next command."""
        if not session.commands:
            return
        command = session.commands.popleft()
        try:
            self._do(session, command)
        except OSError as error:
            self._close_worker(session)
            self._finish(session, f"Cannot do it now: {error.strerror or error}\n\n")
        except Exception:
            self._close_worker(session)
            self._finish(session, "Cannot do it, because of an error: see the log\n\n")
            raise
        finally:
            self._continue(session)

    def _do(self, session: Session, command: str) -> None:
        setting = master_cli.remembered(command)
        target, rest = master_cli.addressed(command, session.target)
        if not command:
            self._say(session, "\n")
        elif setting:
            session.settings[setting[0]] = setting[1]
            self._say(session, "")
        elif not rest:
            self._set_target(session, target)
        elif target and rest.split()[:1] not in _THIS_CONNECTION:
            self._forward(session, target, rest)
        else:
            # A forwarded `prompt` never ends, and its connection would keep the generation alive.
            self._answer(session, rest)

    def _set_target(self, session: Session, target: str) -> None:
        """Forward commands without a prefix to this generation until it exits, as haproxy's master does."""
        generation = master_cli.find(self._state(), target)
        if generation or not target:
            session.target = f"!{generation.pid}" if generation else ""
        self._say(session, "" if generation or not target else master_cli.NOBODY.format(target))

    def _answer(self, session: Session, command: str) -> None:
        match command.split():
            case ["reload", *how] if how in ([], ["forget"]):
                session.ends = not session.prompt
                if len(self._reloaders) >= _MOST_RELOADERS:
                    self._say(session, _TOO_MANY)
                    return
                session.waits_for = "reload"
                self._reloaders.add(session.client.number)
                self._runtime.submit(ReloadAsked(Request(TRIGGER, session.client.number, forget=bool(how))))
            case ["upgrade"]:
                session.waits_for = "upgrade"
                session.ends = not session.prompt
                self._runtime.submit(UpgradeAsked(session.client.number))
            case ["stop", *how] if how in ([], ["now"]):
                self._runtime.submit(StopAsked(TRIGGER, quick=bool(how)))
                session.ends = not session.prompt
                self._say(session, "stopping\n\n")
            case ["status"]:
                session.ends = not session.prompt
                self._ask_all(session)
            case ["borrow", "sessions"]:
                session.borrows = True
                self._say(session, "")
            case ["show", "proc", *_]:
                self._say(session, show_proc(self._outcomes, self._state(), self._children.version_of))
            case ["show", "startup-logs"]:
                self._say(session, self._outcomes.startup_logs + "\n")
            case ["show", "version"]:
                self._say(session, f"safe_reload {__version__}\n\n")
            case ["quit" | "exit"]:
                session.commands.clear()
                session.ends = True
            case ["prompt", *how]:
                session.prompt = {"i": False, "n": False, "p": True}.get("".join(how), not session.prompt)
                self._say(session, "")
            case ["help", *_]:
                self._say(session, master_cli.HELP + "\n")
            case ["set", "severity-output", *_]:
                self._say(session, "one of 'none', 'number', 'string' is a required argument\n\n")
            case ["expert-mode" | "experimental-mode" | "mcli-debug-mode", *_]:
                self._say(session, "")
            case _:
                self._say(session, f"Unknown command: '{command[:80]}', try 'help'\n\n")

    def _say(self, session: Session, text: str) -> None:
        session.active_at = time.monotonic()
        prompt = f"{session.target[1:] or _MASTER}> " if session.prompt else ""
        if not session.client.send((text + prompt).encode(errors="replace")):
            self._drop(session)

    def _finish(self, session: Session, text: str) -> None:
        """Send the answer that a client has waited for, and go on with its next command."""
        session.waits_for = ""
        self._reloaders.discard(session.client.number)
        self._say(session, text)
        self._continue(session)

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self, number: int) -> tuple[str, int, int]:
        """Return the socket's path and descriptor, and the descriptor of one client or -1."""
        session = self._sessions.get(number)
        return self._control.path, self._control.fileno(), session.client.fileno() if session else -1

    def answer_upgrade(self, descriptor: int, text: str) -> None:
        """Restore the client that asked for the upgrade, and answer it.

        Raises:
            OSError: the descriptor is missing.

        """
        client = self._control.take_in(descriptor)
        session = self._sessions[client.number] = Session(client)
        session.spoke = session.ends = True
        self._finish(session, text)

    def serialize_others(self, number: int) -> tuple[list[dict[str, Any]], list[int]]:
        """Return all clients but one as plain values, and their descriptors."""
        saved = [session.serialize() for other, session in self._sessions.items() if other != number]
        return saved, [one for plain in saved for one in (plain["client"], plain["worker"]) if one >= 0]

    def resume(self, others: Iterable[Mapping[str, Any]]) -> None:
        """Restore the other clients, each in its previous state.

        Raises:
            OSError: a descriptor is missing.

        """
        for saved in others:
            client = self._control.take_in(saved["client"], saved["unsent"])
            session = self._sessions[client.number] = Session.restore(client, saved)
            if session.waits_for in {"reload", "upgrade"}:
                # No client should wait for these during an upgrade. If one does, answer it.
                self._finish(session, master_cli.REPLACED)
            elif session.waits_for == "status":
                self._ask_all(session)
            elif saved["worker"] >= 0:
                connection = socket.socket(fileno=saved["worker"])
                session.worker = self._connect(session, connection, saved["empty_lines"])
                if not client.waits:
                    session.worker.resume()
            self._continue(session)

    def reply(self, number: int, text: str) -> None:
        """Answer a client that waits for a reload or an upgrade, if it is still connected."""
        session = self._sessions.get(number)
        if session and session.waits_for in {"reload", "upgrade"}:
            self._finish(session, text)

    def _lend(self, child: Child, pid: int) -> None:
        for session in [one for one in self._sessions.values() if one.borrows]:
            if not session.lend(child, pid):
                self._drop(session)

    # ---- answers that take time --------------------------------------------------------------------------------------

    def _ask_all(self, session: Session) -> None:
        """Count connections, in one round for all clients that ask at the same time."""
        session.waits_for = "status"
        if not self._counts.is_running:
            numbers = [one.number for one in self._state().generations if not isinstance(one.phase, Candidate)]
            self._counts.ask(numbers, self._counted)

    def _counted(self, found: dict[int, int | None]) -> None:
        sessions = [session for session in self._sessions.values() if session.waits_for == "status"]
        text = "There is no status, because of an error: see the log\n\n"
        try:
            text = json_text(self._status(found)) + "\n" if sessions else ""
        finally:
            # Even after an error, every waiting client gets an answer.
            for session in sessions:
                self._finish(session, text)

    def _forward(self, session: Session, target: str, command: str) -> None:
        """Send a command to a generation, and copy its answer."""
        generation = master_cli.find(self._state(), target)
        if generation and isinstance(generation.phase, Draining):
            self._say(session, master_cli.DRAINS.format(generation.number, generation.pid))
            return
        child = self._children.find(generation.number) if generation else None
        connection = child.session() if child else None
        if not generation or not connection:
            self._say(session, master_cli.NOBODY.format(target))
            return
        session.waits_for = f"@{target}"
        session.worker = worker = self._connect(session, connection)
        worker.ask(session.settings.values(), command)
        session.told = 0 if command.startswith("show") else generation.number

    def _connect(self, session: Session, connection: socket.socket, empty_lines: int = 0) -> WorkerConnection:
        return WorkerConnection(
            self._event_loop, connection, lambda data: self._hear_worker(session, data), empty_lines
        )

    def _hear_worker(self, session: Session, data: bytes) -> None:
        if not data:
            self._close_worker(session)
            # haproxy tells nobody of a new weight.
            self._children.servers_may_have_changed(session.told)
            self._finish(session, "")
            return
        session.active_at = time.monotonic()
        if not session.client.send(data):
            self._drop(session)
        elif session.client.waits and session.worker:
            # Answers stay in the generation until the client reads.
            session.worker.pause()
            self._continue(session)

    def _close_worker(self, session: Session) -> None:
        worker, session.worker = session.worker, None
        if worker:
            worker.close()

    def close(self) -> None:
        """Drop all clients, and remove the socket."""
        for session in list(self._sessions.values()):
            self._drop(session)
        self._stop_listening()
        self._control.close()
