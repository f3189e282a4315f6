"""The front desk: who asks over the control socket, what for, and the answers, which may take their time.

Decides nothing about generations: a request becomes an event, and the core's effect the answer. Nobody who asks can
hold up the loop: everything is non-blocking and bounded.
"""

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable

from entrypoint import __version__
from entrypoint.core import master_cli
from entrypoint.core.events import Event, ReloadAsked, Request, StopAsked, UpgradeAsked
from entrypoint.core.json_text import json_text
from entrypoint.core.master_cli import Process
from entrypoint.core.records import dataclass
from entrypoint.core.state import Candidate, Current, State
from entrypoint.sources import Sources
from entrypoint.survey import Survey
from entrypoint.system.control import Client, Control

_ROOM = 65536
_TRIGGER = "the control socket"


@dataclass(frozen=True, slots=True)
class House:
    """What the desk knows of the rest, and may ask of it."""

    state: Callable[[], State]
    submit: Callable[[Event], None]
    session: Callable[[int], socket.socket | None]
    """Opens a connection to the CLI of a generation."""
    status: Callable[[dict[int, int | None]], dict[str, object]]
    """Puts the status together, given the number of connections of each generation."""
    startup_words: Callable[[], str]
    """What the current generation said while it started."""
    versions: dict[int, str]
    """HAProxy's version of each generation that has answered."""
    began: float
    """On the monotonic clock."""
    ages: Callable[[int], float]


class Desk:
    """Serves the clients of one control socket."""

    def __init__(self, control: Control, sources: Sources, house: House) -> None:
        """Begin to listen."""
        self._control = control
        self._sources = sources
        self._house = house
        self._queues: dict[int, deque[str]] = {}
        self._busy: dict[int, Callable[[], None]] = {}
        """Those who wait for an answer, each with what is to be done if they hang up."""
        self._prompts: set[int] = set()
        sources.add(control, self._accept)

    # ---- coming and going ------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        client, evicted = self._control.accept()
        if evicted:
            self._dismiss(evicted)
        if client:
            self._queues[client.number] = deque()
            self._sources.add(client, lambda: self._hear(client))

    def _dismiss(self, client: Client) -> None:
        """Hang up on a client, or let it go."""
        cancel = self._busy.pop(client.number, None)
        if cancel:
            cancel()
        self._queues.pop(client.number, None)
        self._prompts.discard(client.number)
        self._control.forget(client)
        self._sources.remove(client)
        client.close()

    def _hear(self, client: Client) -> None:
        if not client.flush():
            self._dismiss(client)
            return
        lines = client.receive()
        if lines is None:
            # Who has said all it wants to may close its side; what it waits for is still sent.
            if self._busy.get(client.number) or client.waits:
                client.ends = True
                self._wait_to_write(client)
            else:
                self._dismiss(client)
            return
        queue = self._queues[client.number]
        for line in lines:
            # Without a prompt one line is all that is answered, as by haproxy's own CLI.
            if client.ends:
                break
            queue.extend(master_cli.split(line))
            client.ends = client.number not in self._prompts and "prompt" not in queue
            if not queue and not client.ends:
                self._say(client, "")
        self._serve(client)

    def _wait_to_write(self, client: Client) -> None:
        if client.waits:
            self._sources.pause(client, lambda: self._written(client))
        elif client.ends:
            self._sources.remove(client)
        else:
            self._sources.add(client, lambda: self._hear(client))

    def _written(self, client: Client) -> None:
        if not client.flush():
            self._dismiss(client)
        elif not client.waits:
            self._after(client)

    def _after(self, client: Client) -> None:
        """Go on with a client that has got everything that was written."""
        if client.number not in self._control.clients:
            return
        if client.ends and client.number not in self._busy and not self._queues.get(client.number):
            if client.waits:
                self._wait_to_write(client)
            else:
                self._dismiss(client)
            return
        self._wait_to_write(client)

    # ---- commands --------------------------------------------------------------------------------------------------

    def _serve(self, client: Client) -> None:
        """Carry out what a client has asked for, up to the first thing that takes time."""
        queue = self._queues[client.number]
        while queue and client.number not in self._busy:
            self._do(client, queue.popleft())
            if client.number not in self._control.clients:
                return
        self._after(client)

    def _do(self, client: Client, command: str) -> None:
        words = command.split()
        target = master_cli.passed(command)
        if target:
            self._pass(client, target)
            return
        match words:
            case ["reload"]:
                self._wait_for(client)
                self._house.submit(ReloadAsked(Request(_TRIGGER, client.number)))
            case ["upgrade"]:
                self._wait_for(client)
                self._house.submit(UpgradeAsked(client.number))
            case ["stop", *how] if how in ([], ["now"]):
                self._house.submit(StopAsked(_TRIGGER, quick=bool(how)))
                self._say(client, "stopping\n\n")
            case ["status"]:
                self._survey(client)
            case ["show", "proc", *_]:
                self._say(client, self._show_proc())
            case ["show", "startup-logs"]:
                self._say(client, self._house.startup_words() + "\n")
            case ["show", "version"]:
                self._say(client, f"safe_reload {__version__}\n\n")
            case ["quit" | "exit"]:
                client.ends = True
                self._prompts.discard(client.number)
                self._queues[client.number].clear()
            case ["prompt", *_]:
                self._prompts.add(client.number)
                client.ends = False
                self._say(client, "\n")
            case ["help", *_]:
                self._say(client, master_cli.HELP + "\n")
            case (
                ["set", "severity-output", *_] | ["mode", *_] | ["experimental-mode" | "expert-mode", *_] | ["@master"]
            ):
                self._say(client, "\n")
            case _:
                self._say(client, f"Unknown command: '{command[:80]}', try 'help'\n\n")

    def _say(self, client: Client, text: str) -> None:
        prompt = "safe_reload> " if client.number in self._prompts else ""
        client.send((text + prompt).encode(errors="replace"))

    def _wait_for(self, client: Client, cancel: Callable[[], None] = lambda: None) -> None:
        self._busy[client.number] = cancel

    def _finish(self, client: Client, text: str) -> None:
        """Give the answer that a client has waited for, and go on with its next command."""
        self._busy.pop(client.number, None)
        self._say(client, text)
        self._serve(client)

    def hand_down(self, number: int) -> tuple[str, int, int]:
        """Return the socket's path and descriptor, and that of one client, for the program that takes our place."""
        client = self._control.clients.get(number)
        return self._control.path, self._control.fileno(), client.fileno() if client else -1

    def take_in(self, descriptor: int, text: str) -> None:
        """Give a client of our last life the answer that it waits for.

        Raises:
            OSError: the descriptor is not there.

        """
        client = self._control.take_in(descriptor)
        self._queues[client.number] = deque()
        self._sources.add(client, lambda: self._hear(client))
        self._say(client, text)
        self._after(client)

    def reply(self, number: int, text: str) -> None:
        """Give a client what it has waited for, if it still is there."""
        client = self._control.clients.get(number)
        if client and number in self._busy:
            self._finish(client, text)

    # ---- what takes time -------------------------------------------------------------------------------------------

    def _survey(self, client: Client) -> None:
        numbers = [one.number for one in self._house.state().generations if not isinstance(one.phase, Candidate)]
        survey = Survey(self._sources, self._house.session)
        self._wait_for(client, survey.cancel)
        survey.ask(numbers, lambda found: self._finish(client, json_text(self._house.status(found)) + "\n"))

    def _pass(self, client: Client, target: master_cli.Pass) -> None:
        """Put a command to a generation, and copy what it answers."""
        generation = master_cli.find(self._house.state(), target.target)
        session = self._house.session(generation.number) if generation else None
        if not session:
            self._say(client, f"Can't find the target '@{target.target}'\n\n")
            return
        with contextlib.suppress(OSError):
            session.send(target.command.encode() + b"\n")
        self._wait_for(client, lambda: self._hang_up(session))
        self._sources.add(session, lambda: self._copy(client, session))

    def _copy(self, client: Client, session: socket.socket) -> None:
        if client.full:
            # What the client does not read is left where it is; it is looked at again in a moment.
            self._sources.remove(session)
            self._sources.alarm(session, 0.05, lambda: self._resume(client, session))
            return
        try:
            data = session.recv(_ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            client.send(data)
            if client.waits:
                self._sources.pause(client, lambda: self._written_more(client))
            return
        self._hang_up(session)
        self._finish(client, "")

    def _resume(self, client: Client, session: socket.socket) -> None:
        if client.number in self._control.clients:
            self._sources.add(session, lambda: self._copy(client, session))

    def _written_more(self, client: Client) -> None:
        if not client.flush():
            self._dismiss(client)
        elif not client.waits and not client.ends:
            self._sources.add(client, lambda: self._hear(client))
        elif not client.waits:
            self._sources.remove(client)

    def _hang_up(self, session: socket.socket) -> None:
        self._sources.cancel(session)
        self._sources.remove(session)
        session.close()

    def _show_proc(self) -> str:
        house = self._house
        state = house.state()
        master = Process(
            os.getpid(), "master", max(0, state.last_number - 1), time.monotonic() - house.began, __version__
        )
        current: list[Process] = []
        old: list[Process] = []
        for one in reversed(state.generations):
            if one.pid is None or isinstance(one.phase, Candidate):
                continue
            version = house.versions.get(one.number, "-")
            reloads = state.last_number - one.number
            process = Process(one.pid, "worker", reloads, house.ages(one.number), version)
            (current if isinstance(one.phase, Current) else old).append(process)
        return master_cli.show_proc(master, current, old)

    def close(self) -> None:
        """Hang up on everybody, and remove the socket."""
        for client in list(self._control.clients.values()):
            client.flush()
            self._dismiss(client)
        self._sources.remove(self._control)
        self._control.close()
