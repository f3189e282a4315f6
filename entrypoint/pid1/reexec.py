"""Another safe_reload takes our place: it is tried first, and it never begins without knowing all that we know."""

import contextlib
import os
from collections.abc import Callable

from entrypoint.core.effects import Log
from entrypoint.core.events import Rehearsed
from entrypoint.core.exit_status import how_it_died
from entrypoint.core.upgrade_state import UpgradeState
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
_ROOM = 65536


Serialize = Callable[..., UpgradeState]
"""Returns everything that the next life needs; may raise OSError.

It is given who has asked for it (`client`), and whether all other clients are left as well (`others`).
"""


class Reexec:
    """Owns the rehearsal that runs, if one does."""

    def __init__(
        self,
        runtime: Runtime,
        children: Children,
        arrivals: Arrivals,
        parts: Parts,
        serialize: Serialize,
    ) -> None:
        """Begin without one.

        Args:
            runtime: what it is waited for with.
            children: where the rehearsal is born.
            arrivals: the signals, of which none may be lost.
            parts: what PID 1 is made of.
            serialize: see there.

        """
        self._runtime = runtime
        self._children = children
        self._arrivals = arrivals
        self._environment = parts.environment
        self._inherited = parts.inherited
        self._serialize = serialize
        self._rehearses = False
        self._files: tuple[str, ...] = ()
        """What the program that was rehearsed last is made of."""

    def rehearse(self, client: int) -> None:
        """Have the next life do all that it does first, and end."""
        if self._rehearses or any(isinstance(event, Rehearsed) for event in self._runtime.events):
            self._runtime.submit(Rehearsed(client, "another upgrade is under way"))
            return
        try:
            self._start(client)
        except OSError as error:
            self._runtime.submit(Rehearsed(client, f"the new program cannot be tried: {error.strerror or error}"))

    def _start(self, client: int) -> None:
        runtime, token = self._runtime, os.urandom(16).hex()
        left = replace(self._serialize(client, others=False), token=token)
        descriptors = left.descriptors
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as theirs:
            heir = upgrade.wrap(left)
            theirs.callback(os.close, heir)
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            theirs.callback(os.close, writer)
            on_failure.callback(os.close, reader)
            stderr = StderrPipe()
            on_failure.callback(stderr.close)

            def ended(status: int) -> None:
                """Tell what became of it; once, as soon as it has died or is not worth waiting for."""
                runtime.event_loop.cancel(_ALARM)
                self._rehearses = False
                with contextlib.ExitStack() as last:
                    last.callback(stderr.close)
                    last.callback(os.close, reader)
                    runtime.submit(Rehearsed(client, self._judge(status, _read(reader), token, stderr)))

            def kill() -> None:
                runtime.event_loop.call_later(_ALARM, upgrade.REHEARSE_WITHIN, kill)
                self._children.kill(upgrade.REHEARSAL)

            runtime.event_loop.call_later(_ALARM, upgrade.REHEARSE_WITHIN, kill)
            on_failure.callback(runtime.event_loop.cancel, _ALARM)
            spec = upgrade.rehearsal(heir, self._variables(), descriptors, stderr.writer, writer)
            self._children.start_helper(upgrade.REHEARSAL, spec, ended)
            self._rehearses = True
            on_failure.pop_all()

    def _judge(self, status: int, testimony: bytes, token: str, stderr: StderrPipe) -> str:
        """Return why the program that was rehearsed may not take our place; empty where it may."""
        said = stderr.drain().decode(errors="replace").replace("\n", " ").strip()
        if status:
            return f"the new program {how_it_died(status)}: {said or 'it says nothing'}"
        files = upgrade.read_testimony(testimony, token)
        if files is None:
            what = "the new program ends before it would serve, without an error: is it installed completely?"
            return f"{what} {said}".rstrip()
        self._files = files
        return ""

    def take_place(self, client: int) -> None:
        """Become the next life; what has happened and is not decided comes first, because nobody would remember it."""
        runtime = self._runtime
        if runtime.events:
            runtime.submit(Rehearsed(client, ""))
            return
        try:
            left = self._serialize(client, others=True)
            heir = upgrade.wrap(left)
        except OSError as error:
            runtime.submit(Rehearsed(client, f"it cannot be handed down: {error.strerror or error}"))
            return
        try:
            # As late as can be.
            changed = upgrade.changed(self._files)
            if changed:
                runtime.submit(Rehearsed(client, f"{changed} has changed since the new program was tried: try again"))
                return
            runtime.log(Log(Level.INFO, "upgrading", "safe_reload is replaced; every socket and process stays"))
            upgrade.execute(heir, self._variables(), left.descriptors, lambda: list(self._arrivals.read()))
        except OSError as error:
            runtime.submit(Rehearsed(client, f"exec: {error.strerror or error}"))
        finally:
            os.close(heir)

    def _variables(self) -> dict[str, str]:
        """Return the environment of the next life."""
        environment = dict(self._environment)
        for name in (upgrade.HEIR_VARIABLE, upgrade.REHEARSAL_VARIABLE):
            environment.pop(name, None)
        blocked, ignored = bits_of(self._inherited.blocked), bits_of(self._inherited.ignored)
        inheritance = Inheritance(blocked, ignored, (0, 1, 2), environment.get("LC_CTYPE"))
        return {**environment, INHERITED_VARIABLE: format_inheritance(inheritance)}


def _read(reader: int) -> bytes:
    """Return what is in a pipe; somebody may hold it open for ever."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(reader, _ROOM):
            data += more
    return data
