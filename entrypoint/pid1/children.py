"""All child processes: started, signalled and reaped here."""

from __future__ import annotations

from entrypoint.core.effects import Log
from entrypoint.core.events import EXPORTER, Exited, Reaped, Spawned
from entrypoint.core.exit_status import is_transient
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean import signal
from entrypoint.lean.collections import Callable, Collection
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
_RETRY_AFTER = 1.0
"""Seconds until a signal is retried after a MemoryError."""


class Children:
    """Owns the processes, and a `Child` for each generation of haproxy."""

    def __init__(self, runtime: Runtime, processes: Processes, *, to_groups: bool) -> None:
        """Begin without any; with `to_groups` signals go to process groups."""
        self._runtime = runtime
        self._processes = processes
        self._to_groups = to_groups
        self._taken: Callable[[], None] = lambda: None
        self._gone: Callable[[int], None] = lambda _: None
        self._servers_changed: Callable[[int], None] = lambda _: None
        self.lend: Callable[[Child, int], None] = lambda *_: None
        """Called with a process and its pid before its soft stop, which closes its CLI."""
        self._children: dict[int, Child] = {}
        """By the number of their generation."""
        self._dead: dict[int, Child] = {}
        """Exited processes whose events the core has not handled yet."""
        self._helpers: dict[int, Callable[[int], None]] = {}

    def tell(
        self,
        *,
        taken: Callable[[], None],
        gone: Callable[[int], None],
        servers_changed: Callable[[int], None],
    ) -> None:
        """Set the callbacks.

        Args:
            taken: called once a candidate's offered listeners are transferred, or never will be.
            gone: called with the number of a generation that has exited.
            servers_changed: called with the number of a generation in which the state of a server has changed.

        """
        self._taken, self._gone, self._servers_changed = taken, gone, servers_changed

    def servers_may_have_changed(self, number: int) -> None:
        """Note that a generation was told something; 0 for none."""
        if number:
            self._servers_changed(number)

    def find(self, number: int) -> Child | None:
        """Return the process of a generation; None after its exit."""
        return self._children.get(number)

    def channel_of(self, number: int) -> CliChannel | None:
        """Return the channel to the CLI of a generation; None after its exit."""
        child = self._children.get(number)
        return child.channel if child else None

    def version_of(self, number: int) -> str:
        """Return the version of a generation's haproxy; empty while it is not known."""
        child = self._children.get(number)
        return child.version if child else ""

    def stderr_of(self, number: int) -> str:
        """Return the end of a generation's stderr, also when it has just exited."""
        child = self._children.get(number) or self._dead.get(number)
        return child.said() if child else ""

    def may_take(self) -> bool:
        """Tell whether a candidate may still take its offered listeners."""
        return any(child.may_take for child in self._children.values())

    # ---- launch ------------------------------------------------------------------------------------------------------

    def spawn(self, number: int, prepared: PreparedChild) -> None:
        """Start the process of a generation.

        Raises:
            Exception: there is no process, and everything is closed.

        """
        try:
            pid = self._processes.spawn(number, prepared.spec)
            self._runtime.submit(Spawned(number, pid))
        except BaseException as error:
            prepared.spawned()
            prepared.close()
            # If there is a process, the core cannot be told of it.
            self._processes.send(number, signal.SIGKILL)
            if isinstance(error, OSError):
                raise OSError(f"fork: {error.strerror}") from None
            raise
        # The process exists: nothing below may raise.
        self._runtime.isolated(prepared.spawned)
        self._runtime.isolated(self._connect, number, prepared)

    def _connect(self, number: int, prepared: PreparedChild) -> None:
        self._new_child(number).connect(prepared.channel, prepared.stderr, prepared.offer)

    def _new_child(self, number: int) -> Child:
        runtime = self._runtime
        child = Child(number, runtime.event_loop, runtime.logger, runtime.submit, self._taken, self._servers_changed)
        self._children[number] = child
        return child

    def spawn_exporter(self, spec: SpawnSpec) -> None:
        """Start the exporter.

        Raises:
            OSError: no process can be started.

        """
        self._runtime.submit(Spawned(EXPORTER, self._processes.spawn(EXPORTER, spec)))

    def start_helper(self, number: int, spec: SpawnSpec, ended: Callable[[int], None]) -> None:
        """Start a process that is no generation; call `ended` with its status, as in Exited.

        Raises:
            OSError: no process can be started.

        """
        self._processes.spawn(number, spec)
        self._helpers[number] = ended

    def fork_helper(self, number: int, run: Callable[[], None], ended: Callable[[int], None]) -> None:
        """Fork a process that calls `run` and exits; call `ended` with its status, as in Exited.

        Raises:
            OSError: no process can be started.

        """
        self._processes.fork(number, run)
        self._helpers[number] = ended

    def restore_helper(self, number: int, ended: Callable[[int], None]) -> None:
        """Call `ended` after the exit of a helper that the previous program started."""
        self._helpers[number] = ended

    # ---- signals -----------------------------------------------------------------------------------------------------

    def send(self, number: int, signum: int, line: Log | None, sent: Callable[[Log], None]) -> None:
        """Send a signal; a soft stop closes the CLI, so open a session that outlives it before.

        Args:
            number: of the generation.
            signum: the signal.
            line: to be logged once it is sent.
            sent: gets that line.

        """

        def send() -> None:
            try:
                self._processes.send(number, signum, to_group=self._to_groups)
            except PermissionError:
                self._say_denied(number)
            except OSError as error:
                self._runtime.log(Log(Level.ERROR, "system_error", f"send: {reason(error)}"))
            except MemoryError:
                self._runtime.event_loop.call_later(("send", number, signum), _RETRY_AFTER, send)
            else:
                if line:
                    sent(line)

        child = self._children.get(number)
        if child and signum == _SOFT_STOP:
            # First: the soft stop is sent when haproxy has accepted a later session.
            self._runtime.isolated(self.lend, child, self._processes.pids().get(number, 0))
            child.soft_stop(send)
        else:
            send()

    def _say_denied(self, number: int) -> None:
        """Log once for each process that we may not signal it, and what follows."""
        child, pid = self._children.get(number), self._processes.pids().get(number)
        if not child or child.is_denied or pid is None:
            return
        child.is_denied = True
        what = "cannot be stopped: it keeps its connections and its own listeners until it exits by itself"
        line = f"generation {number} (pid {pid}) {what}; {why_not_signalled()}"
        self._runtime.log(Log(Level.ERROR, "not_permitted", line, {"generation": number, "pid": pid}))

    def kill(self, number: int) -> None:
        """Kill a process that is no generation."""
        self._processes.send(number, signal.SIGKILL)

    # ---- exits -------------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Reap all that have exited, and submit their events."""
        for death in self._processes.reap():
            self._runtime.isolated(self._handle_death, death)

    def _handle_death(self, death: Exited | Reaped) -> None:
        if isinstance(death, Exited) and death.number in self._helpers:
            self._helpers.pop(death.number)(death.status)
            return
        try:
            if isinstance(death, Exited):
                self._forget(death.number)
                death = replace(death, transient=is_transient(death.status, self.stderr_of(death.number)))
        finally:
            # Whatever failed, the process has exited.
            self._runtime.submit(death)

    def _forget(self, number: int) -> None:
        child = self._children.pop(number, None)
        if child:
            self._dead[number] = child
            self._runtime.isolated(child.close)
        self._runtime.isolated(self._gone, number)

    def has_pid(self, pid: int) -> bool:
        """Tell whether this is a living child of ours."""
        return pid in self._processes.pids().values()

    def alive(self) -> Collection[int]:
        """Return the numbers of all that are not reaped yet."""
        return self._processes.pids()

    def forget_dead(self) -> None:
        """Forget the stderr of exited processes: the core has handled their events."""
        self._dead.clear()

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return the children and their channels as plain values."""
        for child in self._children.values():
            child.send_soft_stop()
        pids = self._processes.pids()
        children = self._children.items()
        return {
            "pids": {number: pid for number, pid in pids.items() if number >= EXPORTER},
            "helpers": {number: pid for number, pid in pids.items() if number < EXPORTER},
            "channels": {number: child.channel.fileno() for number, child in children if child.channel},
            "stderr_pipes": {number: saved for number, child in children if (saved := child.saved_stderr())},
            "versions": {number: child.version for number, child in children if child.version},
        }

    def restore(self, saved: UpgradeState) -> None:
        """Restore the previous program's children.

        Raises:
            OSError: a descriptor is missing.

        """
        self._processes.restore({**saved.pids, **saved.helpers})
        channels, pipes = saved.channels, saved.stderr_pipes
        for number in filter(None, saved.pids):
            child = self._new_child(number)
            child.version = saved.versions.get(number, "")
            child.connect(
                CliChannel(channels[number]) if number in channels else None,
                StderrPipe(*pipes[number]) if number in pipes else None,
            )
