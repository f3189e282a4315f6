"""The init mode: runs one program that is not haproxy, as tini would.

tini's behaviour is documented in its README and its source (`wait_and_forward_signal`, `reap_zombies`).
"""

from __future__ import annotations

import math

from entrypoint.core.effects import Log
from entrypoint.core.events import Exited, Reaped
from entrypoint.core.exit_status import shell_status
from entrypoint.lean import signal
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import reason
from entrypoint.options.settings import Settings
from entrypoint.pid1.runtime import Runtime, reason_of
from entrypoint.system.log import Logger
from entrypoint.system.processes import Processes, SpawnSpec
from entrypoint.system.signals import Arrivals, why_not_signalled

_ONLY = 1
"""The number of the only process."""
_NOT_STARTED = 1
_RETRY_AFTER = 1.0
"""Seconds until a signal is retried after a MemoryError."""


class InitMode:
    """Runs the program until it ends."""

    def __init__(self, spec: SpawnSpec, settings: Settings, processes: Processes, logger: Logger) -> None:
        """Begin; nothing is started before `run`."""
        self._spec = spec
        self._settings = settings
        self._processes = processes
        self._runtime = Runtime(logger)
        self._arrivals = Arrivals()
        self._denied = False
        """The log already says that we may not signal it."""
        self._status: int | None = None
        self._runtime.event_loop.add_reader(self._arrivals, self._signals_arrived)

    def run(self) -> int:
        """Start it, forward signals and reap until it exits; return its exit status like a shell."""
        try:
            pid = self._processes.spawn(_ONLY, self._spec)
        except (OSError, MemoryError) as error:
            self._log(Level.ERROR, "not_spawned", f"{self._spec.argv[0]} was not started: fork: {reason_of(error)}")
            self._status = _NOT_STARTED
        else:
            self._log(Level.INFO, "spawned", f"Spawned child process with pid {pid}", pid=pid)
        while self._status is None:
            try:
                self._runtime.wait(math.inf)
            except Exception as error:  # noqa: BLE001  # PID 1 may not die of it
                self._runtime.unexpected(error)
        self._runtime.isolated(self._runtime.logger.close)
        return self._status

    def _signals_arrived(self) -> None:
        try:
            for signum in self._arrivals.read():
                if signum != signal.SIGCHLD:
                    self._runtime.isolated(self._forward, signum)
        finally:
            # After any signal: a SIGCHLD is lost if the pipe is full, and waitpid(2) is cheap.
            for death in self._processes.reap():
                self._handle_death(death)

    def _forward(self, signum: int) -> None:
        try:
            self._log(Level.DEBUG, "forwarded", f"Passing {signal.name_of(signum)} to child")
            self._processes.send(_ONLY, signum, to_group=self._settings.kill_group)
        except PermissionError:
            self._say_denied()
        except OSError as error:
            self._log(Level.ERROR, "system_error", f"send: {reason(error)}")
        except MemoryError:
            self._runtime.event_loop.call_later(signum, _RETRY_AFTER, lambda: self._forward(signum))

    def _say_denied(self) -> None:
        if not self._denied:
            self._denied = True
            pid = self._processes.pids().get(_ONLY)
            what = f"the program (pid {pid}) does not get the signals that are sent to us; {why_not_signalled()}"
            self._log(Level.ERROR, "not_permitted", what, pid=pid)

    def _handle_death(self, death: Exited | Reaped) -> None:
        match death:
            case Exited(status=status):
                # Set before logging: even if that fails, the program has exited.
                self._status = shell_status(status)
                how = "signal" if status < 0 else "status"
                self._log(Level.INFO, "exited", f"Main child exited with {how} {abs(status)}")
            case Reaped(pid=pid):
                level = Level.WARNING if self._settings.warn_reaped else Level.DEBUG
                self._log(level, "reaped", f"Reaped zombie process with pid={pid}")

    def _log(self, level: Level, event: str, message: str, **fields: object) -> None:
        self._runtime.log(Log(level, event, message, fields))
