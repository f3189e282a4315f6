"""All our children: born here, signalled here, buried here."""

import signal
from collections.abc import Callable, Collection

from entrypoint.core.effects import Log
from entrypoint.core.events import EXPORTER, Exited, Reaped, Spawned
from entrypoint.core.exit_status import is_transient
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import reason
from entrypoint.lean.record import replace
from entrypoint.lean.typing import Any
from entrypoint.pid1.child import Child
from entrypoint.pid1.launch import PreparedChild
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.haproxy_cli import CliChannel
from entrypoint.system.processes import Processes, SpawnSpec
from entrypoint.system.signals import why_not_signalled
from entrypoint.system.stderr_pipe import StderrPipe

_SOFT_STOP = signal.SIGUSR1
_AGAIN_AFTER = 1.0
"""Seconds after which a signal is sent again for which there was no memory."""


class Children:
    """Owns the processes, and the lines to those that are generations of haproxy."""

    def __init__(self, runtime: Runtime, processes: Processes, *, to_groups: bool) -> None:
        """Begin without any.

        Args:
            runtime: what they are waited for with.
            processes: where they are born and reaped.
            to_groups: signals go to their process groups.

        """
        self._runtime = runtime
        self._processes = processes
        self._to_groups = to_groups
        self._taken: Callable[[], None] = lambda: None
        self._gone: Callable[[int], None] = lambda _: None
        self._children: dict[int, Child] = {}
        """By the number of their generation."""
        self._buried: dict[int, Child] = {}
        """Those of whose death the core is being told."""
        self._helpers: dict[int, Callable[[int], None]] = {}

    def tell(self, *, taken: Callable[[], None], gone: Callable[[int], None]) -> None:
        """Tell who wants to know, from now on.

        Args:
            taken: is called when a candidate has taken what it was offered, or never will.
            gone: is told the number of a generation that is no more.

        """
        self._taken, self._gone = taken, gone

    def find(self, number: int) -> Child | None:
        """Return the process of a generation; None when it is gone."""
        return self._children.get(number)

    def channel_of(self, number: int) -> CliChannel | None:
        """Return the line to the CLI of a generation; None when it is gone."""
        child = self._children.get(number)
        return child.channel if child else None

    def version_of(self, number: int) -> str:
        """Return the version of a generation's haproxy; empty while it is not known."""
        child = self._children.get(number)
        return child.version if child else ""

    def stderr_of(self, number: int) -> str:
        """Return what is remembered of what a generation has said, also when it has just died."""
        child = self._children.get(number) or self._buried.get(number)
        return child.said() if child else ""

    def may_take(self) -> bool:
        """Tell whether a candidate may still take what it was offered."""
        return any(child.may_take for child in self._children.values())

    # ---- launch ----------------------------------------------------------------------------------------------------

    def spawn(self, number: int, prepared: PreparedChild) -> None:
        """Start the process of a generation.

        Raises:
            Exception: it has no process, and no line to one is left.

        """
        try:
            pid = self._processes.spawn(number, prepared.spec)
            self._runtime.submit(Spawned(number, pid))
        except BaseException as error:
            prepared.spawned()
            prepared.close()
            # One that the core cannot be told of; most likely there is none.
            self._processes.send(number, signal.SIGKILL)
            if isinstance(error, OSError):
                raise OSError(f"fork: {error.strerror}") from None
            raise
        # Whatever fails from here on, there is a process.
        self._runtime.isolated(prepared.spawned)
        self._runtime.isolated(self._connect, number, prepared)

    def _connect(self, number: int, prepared: PreparedChild) -> None:
        self._new_child(number).connect(prepared.channel, prepared.stderr, prepared.offer)

    def _new_child(self, number: int) -> Child:
        child = Child(number, self._runtime.event_loop, self._runtime.logger, self._runtime.submit, self._taken)
        self._children[number] = child
        return child

    def spawn_exporter(self, spec: SpawnSpec) -> None:
        """Start the exporter.

        Raises:
            OSError: there can be no new process now.

        """
        self._runtime.submit(Spawned(EXPORTER, self._processes.spawn(EXPORTER, spec)))

    def start_helper(self, number: int, spec: SpawnSpec, ended: Callable[[int], None]) -> None:
        """Start a process that is no generation; tell its end, with its status as in Exited.

        Raises:
            OSError: there can be no new process now.

        """
        self._processes.spawn(number, spec)
        self._helpers[number] = ended

    def fork_helper(self, number: int, run: Callable[[], None], ended: Callable[[int], None]) -> None:
        """Start a copy of ourselves that runs this and ends; tell its end, with its status as in Exited.

        Raises:
            OSError: there can be no new process now.

        """
        self._processes.fork(number, run)
        self._helpers[number] = ended

    def adopt_helper(self, number: int, ended: Callable[[int], None]) -> None:
        """Tell the end of such a process that our last life has started."""
        self._helpers[number] = ended

    # ---- signals ---------------------------------------------------------------------------------------------------

    def send(self, number: int, signum: int, line: Log | None, sent: Callable[[Log], None]) -> None:
        """Send a signal; before a soft stop, which closes the CLI, a session is begun that outlives it.

        Args:
            number: of the generation.
            signum: the signal.
            line: true once it is sent.
            sent: is given the line then.

        """

        def send() -> None:
            try:
                self._processes.send(number, signum, to_group=self._to_groups)
            except PermissionError:
                self._say_denied(number)
            except OSError as error:
                self._runtime.log(Log(Level.ERROR, "system_error", f"send: {reason(error)}"))
            except MemoryError:
                self._runtime.event_loop.call_later(("send", number, signum), _AGAIN_AFTER, send)
            else:
                if line:
                    sent(line)

        child = self._children.get(number)
        if child and signum == _SOFT_STOP:
            child.leave(send)
        else:
            send()

    def _say_denied(self, number: int) -> None:
        """Say once of each process that we may not signal it, and what follows."""
        child, pid = self._children.get(number), self._processes.pids().get(number)
        if not child or child.is_denied or pid is None:
            return
        child.is_denied = True
        what = "does not leave: it keeps its connections, and what it binds itself, until others end it"
        line = f"generation {number} (pid {pid}) {what}; {why_not_signalled()}"
        self._runtime.log(Log(Level.ERROR, "not_permitted", line, {"generation": number, "pid": pid}))

    def kill(self, number: int) -> None:
        """Kill a process that is no generation."""
        self._processes.send(number, signal.SIGKILL)

    # ---- deaths ----------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Note who has died."""
        for death in self._processes.reap():
            self._runtime.isolated(self._bury, death)

    def _bury(self, death: Exited | Reaped) -> None:
        if isinstance(death, Exited) and death.number in self._helpers:
            self._helpers.pop(death.number)(death.status)
            return
        try:
            if isinstance(death, Exited):
                self._forget(death.number)
                death = replace(death, transient=is_transient(death.status, self.stderr_of(death.number)))
        finally:
            # Whatever has failed, it is dead.
            self._runtime.submit(death)

    def _forget(self, number: int) -> None:
        """Close every line to a process that is gone, and pass on the rest of its stderr first."""
        child = self._children.pop(number, None)
        if child:
            self._buried[number] = child
            self._runtime.isolated(child.close)
        self._runtime.isolated(self._gone, number)

    def has_pid(self, pid: int) -> bool:
        """Tell whether this is a child of ours that lives."""
        return pid in self._processes.pids().values()

    def alive(self) -> Collection[int]:
        """Return the numbers of those that are not reaped yet."""
        return self._processes.pids()

    def forget_buried(self) -> None:
        """Let go of what the dead have said: the core has been told of their deaths."""
        self._buried.clear()

    # ---- another program takes our place ---------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return the children and our lines to them as plain values."""
        for child in self._children.values():
            child.tell_to_leave()
        pids = self._processes.pids()
        children = self._children.items()
        return {
            "pids": {number: pid for number, pid in pids.items() if number >= EXPORTER},
            "helpers": {number: pid for number, pid in pids.items() if number < EXPORTER},
            "channels": {number: child.channel.fileno() for number, child in children if child.channel},
            "stderr_pipes": {number: left for number, child in children if (left := child.stderr_left())},
            "versions": {number: child.version for number, child in children if child.version},
        }

    def restore(self, left: UpgradeState) -> None:
        """Go on with the children that our last life has handed down.

        Raises:
            OSError: a descriptor is not there.

        """
        self._processes.restore({**left.pids, **left.helpers})
        channels, pipes = left.channels, left.stderr_pipes
        for number in filter(None, left.pids):
            child = self._new_child(number)
            child.version = left.versions.get(number, "")
            child.connect(
                CliChannel(channels[number]) if number in channels else None,
                StderrPipe(*pipes[number]) if number in pipes else None,
            )
