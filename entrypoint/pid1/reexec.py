"""Replaces this program by a new one: rehearses it first, then executes it with all of our state."""

from __future__ import annotations

import os

from entrypoint.core.effects import Log
from entrypoint.core.events import Rehearsed
from entrypoint.core.exit_status import how_it_died
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean import contextlib
from entrypoint.lean.collections import Callable
from entrypoint.lean.level import Level
from entrypoint.lean.record import replace
from entrypoint.options.inheritance import VARIABLE as INHERITED_VARIABLE
from entrypoint.options.inheritance import Inheritance, format_inheritance
from entrypoint.pid1 import upgrade
from entrypoint.pid1.children import Children
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.runtime import Runtime
from entrypoint.system.signals import Arrivals, bits_of
from entrypoint.system.stderr_pipe import StderrPipe

_ALARM = "rehearsal"
_ROOM = 1 << 20


Serialize = Callable[..., UpgradeState]
"""Returns the state for the new program; may raise OSError.

Takes the number of the client that asked for the upgrade, and `others`: whether to include all other clients. A
rehearsal does not, because it would hold their connections open.
"""


class Reexec:
    """Owns the running rehearsal, if any."""

    def __init__(
        self,
        runtime: Runtime,
        children: Children,
        arrivals: Arrivals,
        parts: Parts,
        serialize: Serialize,
    ) -> None:
        """Begin without one; no signal of `arrivals` may be lost."""
        self._runtime = runtime
        self._children = children
        self._arrivals = arrivals
        self._environment = parts.environment
        self._inherited = parts.inherited
        self._serialize = serialize
        self._rehearses = False
        self._files: tuple[str, ...] = ()
        """The files that the last successful rehearsal reported, as `upgrade.read_report` returns them."""

    def rehearse(self, client: int) -> None:
        """Start the new program in a child that does all before its first wait, and exits."""
        if self._rehearses or any(isinstance(event, Rehearsed) for event in self._runtime.events):
            self._runtime.submit(Rehearsed(client, "another upgrade is under way"))
            return
        try:
            self._start(client)
        except OSError as error:
            self._runtime.submit(Rehearsed(client, f"the new program cannot be tried: {error.strerror or error}"))

    def _start(self, client: int) -> None:
        runtime, token = self._runtime, os.urandom(16).hex()
        saved = replace(self._serialize(client, others=False), token=token)
        descriptors = saved.descriptors
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as theirs:
            state_fd = upgrade.write_state(saved)
            theirs.callback(os.close, state_fd)
            # A file, not a pipe: nobody reads before the end, and where other processes of this user have many pipes, a
            # pipe has only one or two pages (pipe(7)). Several hundred paths are longer.
            report = os.memfd_create("safe_reload", os.MFD_CLOEXEC)
            on_failure.callback(os.close, report)
            stderr = StderrPipe()
            on_failure.callback(stderr.close)

            def ended(status: int) -> None:
                runtime.event_loop.cancel(_ALARM)
                self._rehearses = False
                with contextlib.ExitStack() as last:
                    last.callback(stderr.close)
                    last.callback(os.close, report)
                    runtime.submit(Rehearsed(client, self._judge(status, _content(report), token, stderr)))

            def kill() -> None:
                runtime.event_loop.call_later(_ALARM, upgrade.REHEARSE_WITHIN, kill)
                self._children.kill(upgrade.REHEARSAL)

            runtime.event_loop.call_later(_ALARM, upgrade.REHEARSE_WITHIN, kill)
            on_failure.callback(runtime.event_loop.cancel, _ALARM)
            spec = upgrade.rehearsal(state_fd, self._variables(), descriptors, stderr.writer, report)
            self._children.start_helper(upgrade.REHEARSAL, spec, ended)
            self._rehearses = True
            on_failure.pop_all()

    def _judge(self, status: int, report: bytes, token: str, stderr: StderrPipe) -> str:
        """Return why the new program may not replace this one; empty if it may."""
        output = stderr.drain().decode(errors="replace").replace("\n", " ").strip()
        if status:
            return f"the new program {how_it_died(status)}: {output or 'without an error message'}"
        files = upgrade.read_report(report, token)
        if files is None:
            what = "the new program exits before it would serve, without an error: is it installed completely?"
            return f"{what} {output}".rstrip()
        self._files = files
        return ""

    def execute(self, client: int) -> None:
        """Execute the new program, after all queued events: the exec would lose them."""
        runtime = self._runtime
        if runtime.events:
            runtime.submit(Rehearsed(client, ""))
            return
        try:
            saved = self._serialize(client, others=True)
            state_fd = upgrade.write_state(saved)
        except OSError as error:
            runtime.submit(Rehearsed(client, f"the state cannot be written: {error.strerror or error}"))
            return
        try:
            # As late as possible.
            changed = upgrade.changed(self._files)
            if changed:
                runtime.submit(Rehearsed(client, f"{changed} has changed since the new program was tried: try again"))
                return
            runtime.log(Log(Level.INFO, "upgrading", "safe_reload is replaced; every socket and process stays"))
            upgrade.execute(state_fd, self._variables(), saved.descriptors, self._arrivals.read)
        except OSError as error:
            runtime.submit(Rehearsed(client, f"exec: {error.strerror or error}"))
        finally:
            os.close(state_fd)

    def _variables(self) -> dict[str, str]:
        environment = dict(self._environment)
        for name in (upgrade.STATE_VARIABLE, upgrade.REHEARSAL_VARIABLE):
            environment.pop(name, None)
        blocked, ignored = bits_of(self._inherited.blocked), bits_of(self._inherited.ignored)
        inheritance = Inheritance(blocked, ignored, (0, 1, 2), environment.get("LC_CTYPE"))
        return {**environment, INHERITED_VARIABLE: format_inheritance(inheritance)}


def _content(file: int) -> bytes:
    """Return what a file holds, wherever the position is, which the new program shares."""
    return os.pread(file, _ROOM, 0)
