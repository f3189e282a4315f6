"""The front desk: who asks over the control socket, what for, and the answers, which may take their time.

Decides nothing about generations: a request becomes an event, and the core's effect the answer. Nobody who asks can
hold up the loop: everything is non-blocking and bounded.
"""

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from entrypoint import __version__
from entrypoint.core.events import ReloadAsked, Request, StopAsked, UpgradeAsked
from entrypoint.core.state import Candidate, Current, Draining, State
from entrypoint.lean.json_text import json_text
from entrypoint.lean.typing import Any
from entrypoint.pid1 import master_cli
from entrypoint.pid1.children import Children
from entrypoint.pid1.connection_counts import Survey
from entrypoint.pid1.master_cli import Process
from entrypoint.pid1.outcomes import Outcomes
from entrypoint.pid1.runtime import Loop
from entrypoint.system.control_socket import Client, Control

_MOST_VISITS = 1280
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
"""What is about the connection itself, whomever the rest is for; as with haproxy's master."""
TRIGGER = "the control socket"
_MASTER = "master"
"""What the prompt calls us; programs that drive haproxy's master wait for `master> `."""
_DRAINS = "generation {} (pid {}) drains, and haproxy has closed its CLI: status says how many connections it has\n\n"
_NOBODY = "Can't find the target PID matching the prefix '@{}'\n\n"
_HANDED_DOWN = ("target", "settings", "empty_lines", "prompt", "spoke", "ends", "waits_for")
"""Of a visit, what is a plain value."""
_REPLACED = "Success=0\n--\nsafe_reload has been replaced meanwhile: ask again\n\n"


class Visit:
    """A client, and where it is in its questions."""

    def __init__(self, client: Client) -> None:
        """Begin with a client that has said nothing."""
        self.client = client
        self.commands: deque[str] = deque()
        self.target = ""
        """The generation that its commands without a prefix are for; empty for us."""
        self.settings: dict[str, str] = {}
        """What is said to a generation before each command."""
        self.empty_lines = 0
        """So many answer that, and are not for the client."""
        self.prompt = False
        self.spoke = False
        self.ends = False
        """It is over when everything has been answered."""
        self.waits_for = ""
        """What it awaits: reload, upgrade, status, or a generation; nothing while its next command can be taken."""
        self.session: socket.socket | None = None
        """The CLI of the generation whose answer is copied."""
        self.reader = master_cli.CommandReader()
        self.stirred_at = time.monotonic()
        """When it last said something, or was given something."""

    def hand_down(self) -> dict[str, Any]:
        """Return everything about it as plain values."""
        return {
            "client": self.client.fileno(),
            "unsent": self.client.unsent,
            "session": self.session.fileno() if self.session else -1,
            "commands": list(self.commands),
            "reader": self.reader.hand_down(),
            **{name: getattr(self, name) for name in _HANDED_DOWN},
        }

    @classmethod
    def inherit(cls, client: Client, left: Mapping[str, Any]) -> "Visit":
        """Go on with a client where our last life has left it."""
        visit = cls(client)
        visit.commands.extend(left["commands"])
        visit.reader = master_cli.CommandReader.inherit(left["reader"])
        if left["session"] >= 0:
            visit.session = socket.socket(fileno=left["session"])
            visit.session.set_inheritable(False)
            visit.session.setblocking(False)
        for name in _HANDED_DOWN:
            setattr(visit, name, left[name])
        return visit

    @property
    def patience(self) -> int:
        """How much harm it would do to hang up."""
        if self.waits_for in {"reload", "upgrade"}:
            return 3
        return 2 if self.waits_for else int(self.spoke)


class Desk:
    """Serves the clients of one control socket.

    A client's commands are taken one in a turn of the loop, and the next one only when the answer before it has been
    read: so nobody can have PID 1 work, or remember, more than one answer at a time.
    """

    def __init__(
        self,
        control: Control,
        loop: Loop,
        children: Children,
        outcomes: Outcomes,
        state: Callable[[], State],
        status: Callable[[dict[int, int | None]], dict[str, object]],
    ) -> None:
        """Begin to listen.

        Args:
            control: the socket.
            loop: what clients are waited for with.
            children: the generations, whom clients may ask through us.
            outcomes: how starts and reloads have ended.
            state: returns the core's.
            status: puts the status together, given the number of connections of each generation.

        """
        self._control = control
        self._loop = loop
        self._sources = loop.sources
        self._children = children
        self._outcomes = outcomes
        self._state = state
        self._status = status
        self._visits: dict[int, Visit] = {}
        """By the client's number, oldest first."""
        self._reloaders: set[int] = set()
        """The numbers of those who wait for a reload."""
        self._asked: list[Visit] = []
        """Those who wait for the survey that runs."""
        self._survey: Survey | None = None
        self._sources.add(control, self._accept)

    # ---- coming and going ------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            room = len(self._visits) < _MOST_VISITS or self._make_room()
            client = self._control.accept() if room else None
        except OSError:
            self._make_room()
            room, client = False, None
        if client:
            self._let_in(client)
        elif not room:
            self._sources.remove(self._control)
            self._sources.alarm(self._control, _REST, lambda: self._sources.add(self._control, self._accept))

    def _let_in(self, client: Client) -> None:
        visit = self._visits[client.number] = Visit(client)
        self._go_on(visit)

    def move_to(self, control: Control) -> None:
        """Serve at this socket from now on; those who wait at the old one are let in first."""
        self._sources.remove(self._control)
        self._sources.cancel(self._control)
        with contextlib.suppress(OSError):
            while client := self._control.accept():
                self._let_in(client)
        self._control.renew(control)
        self._sources.add(self._control, self._accept)

    def _make_room(self) -> bool:
        """Hang up on who is missed least, and has been there for longest; tell whether there is one."""
        now = time.monotonic()
        quiet = [one for one in self._visits.values() if one.patience < 3 and now - one.stirred_at >= _GRACE]
        visit = min(quiet, key=lambda one: one.patience, default=None)
        if visit:
            self._dismiss(visit)
        return visit is not None

    def _dismiss(self, visit: Visit) -> None:
        client = visit.client
        self._visits.pop(client.number, None)
        self._reloaders.discard(client.number)
        if visit in self._asked:
            self._asked.remove(visit)
        self._end_session(visit)
        self._sources.cancel(client)
        self._sources.remove(client)
        client.close()

    def _go_on(self, visit: Visit) -> None:
        """Wait for what comes next: room to write, an answer, our next turn, what it asks next; or let it go."""
        client = visit.client
        self._sources.cancel(client)
        if client.number not in self._visits:
            return
        if client.waits:
            self._sources.pause(client, lambda: self._written(visit))
            return
        if visit.waits_for:
            self._sources.remove(client)
            if visit.patience < 3:
                self._sources.alarm(client, _LOOK_AFTER, lambda: self._look(visit))
        elif visit.commands:
            self._sources.remove(client)
            self._sources.alarm(client, 0.0, lambda: self._serve(visit))
        elif visit.ends:
            self._dismiss(visit)
        else:
            self._sources.add(client, lambda: self._hear(visit))

    def _written(self, visit: Visit) -> None:
        if not visit.client.flush():
            self._dismiss(visit)
        elif not visit.client.waits:
            session = visit.session
            if session:
                self._listen_to(visit, session)
            self._go_on(visit)

    def _look(self, visit: Visit) -> None:
        """Let go of a client that has not waited for its answer; who asked for a reload counts until it is over."""
        if visit.client.has_gone():
            self._dismiss(visit)
        else:
            self._go_on(visit)

    # ---- commands --------------------------------------------------------------------------------------------------

    def _hear(self, visit: Visit) -> None:
        data = visit.client.receive()
        if data is None:
            self._dismiss(visit)
            return
        visit.stirred_at = time.monotonic()
        try:
            for command in visit.reader.read(data):
                visit.spoke = True
                visit.commands.append(command)
        except master_cli.TooLongError as error:
            visit.ends = True
            self._say(visit, f"{error}\n\n")
        self._go_on(visit)

    def _serve(self, visit: Visit) -> None:
        """Carry out the next command."""
        if not visit.commands:
            return
        command = visit.commands.popleft()
        try:
            self._do(visit, command)
        except OSError as error:
            visit.waits_for = ""
            self._say(visit, f"Cannot do it now: {error.strerror or error}\n\n")
        except Exception:
            visit.waits_for = ""
            self._say(visit, "Cannot do it, because of an error that the log tells\n\n")
            raise
        finally:
            self._go_on(visit)

    def _do(self, visit: Visit, command: str) -> None:
        if not command:
            self._say(visit, "\n")
            return
        setting = master_cli.remembered(command)
        if setting:
            visit.settings[setting[0]] = setting[1]
            self._say(visit, "")
            return
        target = master_cli.passed(command)
        if not target and visit.target and not command.startswith("@"):
            target = master_cli.Pass(visit.target, command)
        if target and target.command.split()[:1] in _THIS_CONNECTION:
            # Passed on, a `prompt` would never end, and its connection would keep the generation from leaving.
            self._answer(visit, target.command)
            return
        if target and target.command:
            self._pass(visit, target)
            return
        if target:
            self._turn_to(visit, target.target)
            return
        if command.startswith("@"):
            command = command.partition(" ")[2].strip()
            if not command:
                visit.target = ""
                self._say(visit, "")
                return
        self._answer(visit, command)

    def _turn_to(self, visit: Visit, target: str) -> None:
        """From now on everything is for this one, as with haproxy's master; until it is no more."""
        generation = master_cli.find(self._state(), target)
        if generation:
            visit.target = f"!{generation.pid}"
        self._say(visit, "" if generation else _NOBODY.format(target))

    def _answer(self, visit: Visit, command: str) -> None:
        match command.split():
            case ["reload"]:
                if len(self._reloaders) >= _MOST_RELOADERS:
                    visit.ends = not visit.prompt
                    why = f"{_MOST_RELOADERS} wait for a reload already: try again later"
                    self._say(visit, f"Success=0\n--\n{why}\n\n")
                    return
                visit.waits_for = "reload"
                self._reloaders.add(visit.client.number)
                visit.ends = not visit.prompt
                self._loop.submit(ReloadAsked(Request(TRIGGER, visit.client.number)))
            case ["upgrade"]:
                visit.waits_for = "upgrade"
                visit.ends = not visit.prompt
                self._loop.submit(UpgradeAsked(visit.client.number))
            case ["stop", *how] if how in ([], ["now"]):
                self._loop.submit(StopAsked(TRIGGER, quick=bool(how)))
                visit.ends = not visit.prompt
                self._say(visit, "stopping\n\n")
            case ["status"]:
                visit.ends = not visit.prompt
                self._ask_all(visit)
            case ["show", "proc", *_]:
                self._say(visit, self._show_proc())
            case ["show", "startup-logs"]:
                self._say(visit, self._outcomes.startup_words + "\n")
            case ["show", "version"]:
                self._say(visit, f"safe_reload {__version__}\n\n")
            case ["quit" | "exit"]:
                visit.commands.clear()
                visit.ends = True
            case ["prompt", *how]:
                visit.prompt = {"i": False, "n": False, "p": True}.get("".join(how), not visit.prompt)
                self._say(visit, "")
            case ["help", *_]:
                self._say(visit, master_cli.HELP + "\n")
            case ["set", "severity-output", *_]:
                self._say(visit, "one of 'none', 'number', 'string' is a required argument\n\n")
            case ["expert-mode" | "experimental-mode" | "mcli-debug-mode", *_]:
                self._say(visit, "")
            case _:
                self._say(visit, f"Unknown command: '{command[:80]}', try 'help'\n\n")

    def _say(self, visit: Visit, text: str) -> None:
        visit.stirred_at = time.monotonic()
        prompt = f"{visit.target[1:] or _MASTER}> " if visit.prompt else ""
        if not visit.client.send((text + prompt).encode(errors="replace")):
            self._dismiss(visit)

    def _finish(self, visit: Visit, text: str) -> None:
        """Give the answer that a client has waited for, and go on with its next command."""
        visit.waits_for = ""
        self._reloaders.discard(visit.client.number)
        self._say(visit, text)
        self._go_on(visit)

    def hand_down(self, number: int) -> tuple[str, int, int]:
        """Return the socket's path and descriptor, and that of one client, for the program that takes our place."""
        visit = self._visits.get(number)
        return self._control.path, self._control.fileno(), visit.client.fileno() if visit else -1

    def take_in(self, descriptor: int, text: str) -> None:
        """Give a client of our last life the answer that it waits for.

        Raises:
            OSError: the descriptor is not there.

        """
        client = self._control.take_in(descriptor)
        visit = self._visits[client.number] = Visit(client)
        visit.spoke = visit.ends = True
        self._finish(visit, text)

    def hand_down_others(self, number: int) -> tuple[list[dict[str, Any]], list[int]]:
        """Return all clients but one as plain values, and their descriptors."""
        left = [visit.hand_down() for other, visit in self._visits.items() if other != number]
        return left, [one for plain in left for one in (plain["client"], plain["session"]) if one >= 0]

    def resume(self, others: Iterable[Mapping[str, Any]]) -> None:
        """Go on with the clients of our last life, each where it was.

        Raises:
            OSError: a descriptor is not there.

        """
        for left in others:
            client = self._control.take_in(left["client"], left["unsent"])
            visit = self._visits[client.number] = Visit.inherit(client, left)
            if visit.waits_for in {"reload", "upgrade"}:
                # Nobody waits for one when we are replaced, but an answer it shall be.
                self._finish(visit, _REPLACED)
            elif visit.waits_for == "status":
                self._ask_all(visit)
            elif visit.session and not client.waits:
                self._listen_to(visit, visit.session)
            self._go_on(visit)

    def _listen_to(self, visit: Visit, session: socket.socket) -> None:
        self._sources.add(session, lambda: self._copy(visit, session))

    def reply(self, number: int, text: str) -> None:
        """Give a client what it has waited for, if it still is there."""
        visit = self._visits.get(number)
        if visit and visit.waits_for in {"reload", "upgrade"}:
            self._finish(visit, text)

    # ---- what takes time -------------------------------------------------------------------------------------------

    def _ask_all(self, visit: Visit) -> None:
        """Have all generations asked, once for all who want to know at the same time."""
        visit.waits_for = "status"
        self._asked.append(visit)
        if not self._survey:
            numbers = [one.number for one in self._state().generations if not isinstance(one.phase, Candidate)]
            self._survey = Survey(self._sources, self._children.find)
            self._survey.ask(numbers, self._surveyed)

    def _surveyed(self, found: dict[int, int | None]) -> None:
        visits, self._asked, self._survey = self._asked, [], None
        text = "There is no status, because of an error that the log tells\n\n"
        try:
            text = json_text(self._status(found)) + "\n" if visits else ""
        finally:
            # Whatever has failed, who waits gets an answer.
            for visit in visits:
                self._finish(visit, text)

    def _pass(self, visit: Visit, target: master_cli.Pass) -> None:
        """Put a command to a generation, and copy what it answers."""
        generation = master_cli.find(self._state(), target.target)
        if generation and isinstance(generation.phase, Draining):
            self._say(visit, _DRAINS.format(generation.number, generation.pid))
            return
        child = self._children.find(generation.number) if generation else None
        session = child.session() if child else None
        if not session:
            self._say(visit, _NOBODY.format(target.target))
            return
        settings = [setting for setting in visit.settings.values() if setting]
        visit.empty_lines = len(settings)
        with contextlib.suppress(OSError):
            session.send(";".join([*settings, target.command]).encode(errors="surrogateescape") + b"\n")
            # What is never whole, such as a payload without an end, ends here; a connection that stays open would
            # keep the generation from leaving.
            session.shutdown(socket.SHUT_WR)
        visit.waits_for = f"@{target.target}"
        visit.session = session
        self._listen_to(visit, session)

    def _copy(self, visit: Visit, session: socket.socket) -> None:
        try:
            data = session.recv(_ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_session(visit)
            self._finish(visit, "")
            return
        while visit.empty_lines and data.startswith(b"\n"):
            visit.empty_lines -= 1
            data = data[1:]
        if data:
            visit.empty_lines = 0
        visit.stirred_at = time.monotonic()
        if not visit.client.send(data):
            self._dismiss(visit)
        elif visit.client.waits:
            # What the client does not read stays with the generation.
            self._sources.remove(session)
            self._go_on(visit)

    def _end_session(self, visit: Visit) -> None:
        session, visit.session = visit.session, None
        if session:
            self._sources.remove(session)
            session.close()

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
        for visit in list(self._visits.values()):
            self._dismiss(visit)
        self._sources.remove(self._control)
        self._sources.cancel(self._control)
        self._control.close()
