"""The control server: who asks over the control socket, what for, and the answers, which may take their time.

Decides nothing about generations: a request becomes an event, and the core's effect the answer. Nobody who asks can
hold up the loop: everything is non-blocking and bounded.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping

from entrypoint import __version__
from entrypoint.core.events import ReloadAsked, Request, StopAsked, UpgradeAsked
from entrypoint.core.state import Candidate, Current, Draining, State
from entrypoint.lean.json_text import json_text
from entrypoint.lean.typing import Any
from entrypoint.pid1 import master_cli
from entrypoint.pid1.children import Children
from entrypoint.pid1.connection_counts import ConnectionCounts
from entrypoint.pid1.master_cli import Process
from entrypoint.pid1.outcomes import Outcomes
from entrypoint.pid1.runtime import Runtime
from entrypoint.pid1.session import Session
from entrypoint.system.control_socket import Client, Control

_MOST_SESSIONS = 1280
"""Each costs a descriptor and some KiB. Beyond it who is missed least makes room, or all wait in the kernel."""
_MOST_RELOADERS = 1024
"""So many may wait for a reload; they never make room, and leave some for those who ask whether we live."""
_GRACE = 1.0
"""Seconds within which nobody is hung up on: who has just connected is about to ask, who has just asked to read."""
_ROOM = 65536
_LOOK_AFTER = 1.0
"""Seconds after which it is looked whether somebody who waits for an answer is still there."""
_REST = 0.1
"""Seconds without new connections, when there are no descriptors left."""
_THIS_CONNECTION = (["prompt"], ["quit"], ["exit"])
"""Commands about the session itself; never forwarded to a worker, as in haproxy's master."""
TRIGGER = "the control socket"
_MASTER = "master"
"""What the prompt calls us; programs that drive haproxy's master wait for `master> `."""
_DRAINS = "generation {} (pid {}) drains, and haproxy has closed its CLI: status says how many connections it has\n\n"
_NOBODY = "Can't find the target PID matching the prefix '@{}'\n\n"
_REPLACED = "Success=0\n--\nsafe_reload has been replaced meanwhile: ask again\n\n"


class ControlServer:
    """Serves the clients of one control socket.

    A client's commands are taken one in a turn of the loop, and the next one only when the answer before it has been
    read: so nobody can have PID 1 work, or remember, more than one answer at a time.
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
        """Begin to listen.

        Args:
            control: the socket.
            runtime: what clients are waited for with.
            children: the generations, whom clients may ask through us.
            outcomes: how starts and reloads have ended.
            state: returns the core's.
            status: puts the status together, given the number of connections of each generation.

        """
        self._control = control
        self._runtime = runtime
        self._event_loop = runtime.event_loop
        self._children = children
        self._outcomes = outcomes
        self._state = state
        self._status = status
        self._sessions: dict[int, Session] = {}
        """By the client's number, oldest first."""
        self._reloaders: set[int] = set()
        """The numbers of those who wait for a reload."""
        self._asked: list[Session] = []
        """Those who wait for the counts that are being asked for."""
        self._counts: ConnectionCounts | None = None
        self._event_loop.add_reader(control, self._accept)

    # ---- coming and going ------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            room = len(self._sessions) < _MOST_SESSIONS or self._make_room()
            client = self._control.accept() if room else None
        except OSError:
            self._make_room()
            room, client = False, None
        if client:
            self._let_in(client)
        elif not room:
            self._event_loop.remove(self._control)
            self._event_loop.call_later(self._control, _REST, self._listen)

    def _listen(self) -> None:
        self._event_loop.add_reader(self._control, self._accept)

    def _let_in(self, client: Client) -> None:
        session = self._sessions[client.number] = Session(client)
        self._go_on(session)

    def move_to(self, control: Control) -> None:
        """Serve at this socket from now on; those who wait at the old one are let in first."""
        self._event_loop.remove(self._control)
        self._event_loop.cancel(self._control)
        with contextlib.suppress(OSError):
            while client := self._control.accept():
                self._let_in(client)
        self._control.renew(control)
        self._event_loop.add_reader(self._control, self._accept)

    def _make_room(self) -> bool:
        """Hang up on who is missed least, and has been there for longest; tell whether there is one."""
        now = time.monotonic()
        quiet = [one for one in self._sessions.values() if one.patience < 3 and now - one.stirred_at >= _GRACE]
        session = min(quiet, key=lambda one: one.patience, default=None)
        if session:
            self._dismiss(session)
        return session is not None

    def _dismiss(self, session: Session) -> None:
        client = session.client
        self._sessions.pop(client.number, None)
        self._reloaders.discard(client.number)
        if session in self._asked:
            self._asked.remove(session)
        self._end_upstream(session)
        self._event_loop.cancel(client)
        self._event_loop.remove(client)
        client.close()

    def _go_on(self, session: Session) -> None:
        """Wait for what comes next: room to write, an answer, our next turn, what it asks next; or let it go."""
        client = session.client
        self._event_loop.cancel(client)
        if client.number not in self._sessions:
            return
        if client.waits:
            self._event_loop.add_writer(client, lambda: self._written(session))
            return
        if session.waits_for:
            self._event_loop.remove(client)
            if session.patience < 3:
                self._event_loop.call_later(client, _LOOK_AFTER, lambda: self._look(session))
        elif session.commands:
            self._event_loop.remove(client)
            self._event_loop.call_later(client, 0.0, lambda: self._serve(session))
        elif session.ends:
            self._dismiss(session)
        else:
            self._event_loop.add_reader(client, lambda: self._hear(session))

    def _written(self, session: Session) -> None:
        if not session.client.flush():
            self._dismiss(session)
        elif not session.client.waits:
            upstream = session.upstream
            if upstream:
                self._listen_to(session, upstream)
            self._go_on(session)

    def _look(self, session: Session) -> None:
        """Let go of a client that has not waited for its answer; who asked for a reload counts until it is over."""
        if session.client.has_gone():
            self._dismiss(session)
        else:
            self._go_on(session)

    # ---- commands --------------------------------------------------------------------------------------------------

    def _hear(self, session: Session) -> None:
        data = session.client.receive()
        if data is None:
            self._dismiss(session)
            return
        session.stirred_at = time.monotonic()
        try:
            for command in session.reader.read(data):
                session.spoke = True
                session.commands.append(command)
        except master_cli.TooLongError as error:
            session.ends = True
            self._say(session, f"{error}\n\n")
        self._go_on(session)

    def _serve(self, session: Session) -> None:
        """Carry out the next command."""
        if not session.commands:
            return
        command = session.commands.popleft()
        try:
            self._do(session, command)
        except OSError as error:
            session.waits_for = ""
            self._say(session, f"Cannot do it now: {error.strerror or error}\n\n")
        except Exception:
            session.waits_for = ""
            self._say(session, "Cannot do it, because of an error that the log tells\n\n")
            raise
        finally:
            self._go_on(session)

    def _do(self, session: Session, command: str) -> None:
        if not command:
            self._say(session, "\n")
            return
        setting = master_cli.remembered(command)
        if setting:
            session.settings[setting[0]] = setting[1]
            self._say(session, "")
            return
        target = master_cli.passed(command)
        if not target and session.target and not command.startswith("@"):
            target = master_cli.Pass(session.target, command)
        if target and target.command.split()[:1] in _THIS_CONNECTION:
            # Passed on, a `prompt` would never end, and its connection would keep the generation from leaving.
            self._answer(session, target.command)
            return
        if target and target.command:
            self._pass(session, target)
            return
        if target:
            self._turn_to(session, target.target)
            return
        if command.startswith("@"):
            command = command.partition(" ")[2].strip()
            if not command:
                session.target = ""
                self._say(session, "")
                return
        self._answer(session, command)

    def _turn_to(self, session: Session, target: str) -> None:
        """From now on everything is for this one, as with haproxy's master; until it is no more."""
        generation = master_cli.find(self._state(), target)
        if generation:
            session.target = f"!{generation.pid}"
        self._say(session, "" if generation else _NOBODY.format(target))

    def _answer(self, session: Session, command: str) -> None:
        match command.split():
            case ["reload"]:
                if len(self._reloaders) >= _MOST_RELOADERS:
                    session.ends = not session.prompt
                    why = f"{_MOST_RELOADERS} wait for a reload already: try again later"
                    self._say(session, f"Success=0\n--\n{why}\n\n")
                    return
                session.waits_for = "reload"
                self._reloaders.add(session.client.number)
                session.ends = not session.prompt
                self._runtime.submit(ReloadAsked(Request(TRIGGER, session.client.number)))
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
            case ["show", "proc", *_]:
                self._say(session, self._show_proc())
            case ["show", "startup-logs"]:
                self._say(session, self._outcomes.startup_words + "\n")
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
        session.stirred_at = time.monotonic()
        prompt = f"{session.target[1:] or _MASTER}> " if session.prompt else ""
        if not session.client.send((text + prompt).encode(errors="replace")):
            self._dismiss(session)

    def _finish(self, session: Session, text: str) -> None:
        """Give the answer that a client has waited for, and go on with its next command."""
        session.waits_for = ""
        self._reloaders.discard(session.client.number)
        self._say(session, text)
        self._go_on(session)

    def serialize(self, number: int) -> tuple[str, int, int]:
        """Return the socket's path and descriptor, and that of one client, for the program that takes our place."""
        session = self._sessions.get(number)
        return self._control.path, self._control.fileno(), session.client.fileno() if session else -1

    def take_in(self, descriptor: int, text: str) -> None:
        """Give a client of our last life the answer that it waits for.

        Raises:
            OSError: the descriptor is not there.

        """
        client = self._control.take_in(descriptor)
        session = self._sessions[client.number] = Session(client)
        session.spoke = session.ends = True
        self._finish(session, text)

    def serialize_others(self, number: int) -> tuple[list[dict[str, Any]], list[int]]:
        """Return all clients but one as plain values, and their descriptors."""
        left = [session.serialize() for other, session in self._sessions.items() if other != number]
        return left, [one for plain in left for one in (plain["client"], plain["upstream"]) if one >= 0]

    def resume(self, others: Iterable[Mapping[str, Any]]) -> None:
        """Go on with the clients of our last life, each where it was.

        Raises:
            OSError: a descriptor is not there.

        """
        for left in others:
            client = self._control.take_in(left["client"], left["unsent"])
            session = self._sessions[client.number] = Session.restore(client, left)
            if session.waits_for in {"reload", "upgrade"}:
                # Nobody waits for one when we are replaced, but an answer it shall be.
                self._finish(session, _REPLACED)
            elif session.waits_for == "status":
                self._ask_all(session)
            elif session.upstream and not client.waits:
                self._listen_to(session, session.upstream)
            self._go_on(session)

    def _listen_to(self, session: Session, upstream: socket.socket) -> None:
        self._event_loop.add_reader(upstream, lambda: self._copy(session, upstream))

    def reply(self, number: int, text: str) -> None:
        """Give a client what it has waited for, if it still is there."""
        session = self._sessions.get(number)
        if session and session.waits_for in {"reload", "upgrade"}:
            self._finish(session, text)

    # ---- what takes time -------------------------------------------------------------------------------------------

    def _ask_all(self, session: Session) -> None:
        """Have all generations asked, once for all who want to know at the same time."""
        session.waits_for = "status"
        self._asked.append(session)
        if not self._counts:
            numbers = [one.number for one in self._state().generations if not isinstance(one.phase, Candidate)]
            self._counts = ConnectionCounts(self._event_loop, self._children.find)
            self._counts.ask(numbers, self._counted)

    def _counted(self, found: dict[int, int | None]) -> None:
        sessions, self._asked, self._counts = self._asked, [], None
        text = "There is no status, because of an error that the log tells\n\n"
        try:
            text = json_text(self._status(found)) + "\n" if sessions else ""
        finally:
            # Whatever has failed, who waits gets an answer.
            for session in sessions:
                self._finish(session, text)

    def _pass(self, session: Session, target: master_cli.Pass) -> None:
        """Put a command to a generation, and copy what it answers."""
        generation = master_cli.find(self._state(), target.target)
        if generation and isinstance(generation.phase, Draining):
            self._say(session, _DRAINS.format(generation.number, generation.pid))
            return
        child = self._children.find(generation.number) if generation else None
        upstream = child.session() if child else None
        if not upstream:
            self._say(session, _NOBODY.format(target.target))
            return
        settings = [setting for setting in session.settings.values() if setting]
        session.empty_lines = len(settings)
        with contextlib.suppress(OSError):
            upstream.send(";".join([*settings, target.command]).encode(errors="surrogateescape") + b"\n")
            # What is never whole, such as a payload without an end, ends here; a connection that stays open would
            # keep the generation from leaving.
            upstream.shutdown(socket.SHUT_WR)
        session.waits_for = f"@{target.target}"
        session.upstream = upstream
        self._listen_to(session, upstream)

    def _copy(self, session: Session, upstream: socket.socket) -> None:
        try:
            data = upstream.recv(_ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_upstream(session)
            self._finish(session, "")
            return
        while session.empty_lines and data.startswith(b"\n"):
            session.empty_lines -= 1
            data = data[1:]
        if data:
            session.empty_lines = 0
        session.stirred_at = time.monotonic()
        if not session.client.send(data):
            self._dismiss(session)
        elif session.client.waits:
            # What the client does not read stays with the generation.
            self._event_loop.remove(upstream)
            self._go_on(session)

    def _end_upstream(self, session: Session) -> None:
        upstream, session.upstream = session.upstream, None
        if upstream:
            self._event_loop.remove(upstream)
            upstream.close()

    def _show_proc(self) -> str:
        outcomes, state = self._outcomes, self._state()
        reloads = f"{max(0, state.last_number - 1)} [failed: {outcomes.history.failures}]"
        master = Process(os.getpid(), "master", reloads, time.monotonic() - outcomes.began, __version__)
        current: list[Process] = []
        old: list[Process] = []
        for one in reversed(state.generations):
            if one.pid is None or isinstance(one.phase, Candidate):
                continue
            child = self._children.find(one.number)
            version = (child and child.version) or "-"
            process = Process(one.pid, "worker", str(state.last_number - one.number), outcomes.age(one.number), version)
            (current if isinstance(one.phase, Current) else old).append(process)
        return master_cli.show_proc(master, current, old)

    def close(self) -> None:
        """Hang up on everybody, and remove the socket."""
        for session in list(self._sessions.values()):
            self._dismiss(session)
        self._event_loop.remove(self._control)
        self._event_loop.cancel(self._control)
        self._control.close()
