"""How starts and reloads have ended: counted, with haproxy's own words, and with a hint where these do not tell."""

import time
from collections.abc import Callable

from entrypoint.core.effects import Log
from entrypoint.core.history import History
from entrypoint.core.notices import Died, Gone, Notice, Promoted, Recovered, ReloadFailed, StartFailed, Starting
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import one_line
from entrypoint.lean.typing import Any, assert_never
from entrypoint.pid1.launch import IS_MASTER
from entrypoint.pid1.parts import Parts

_NO_DESCRIPTOR = "file descriptor ''"
"""What haproxy says of `fd@${TAG}` where there is no such variable, and all that it says of it."""
_ABOUT_PROGRAMS = ("'program' section", "unknown keyword 'program'")
"""What haproxy says of one up to 3.2, and from 3.3 on."""
_PROGRAMS = (
    "a `program` section is for haproxy's own master, and gone from HAProxy 3.3 on: take it out, and run its command as"
    " a service, or a container, of its own"
)
_TWO_DESCRIPTORS = ",fd@"
_CANNOT_BE_TWO = ("is not a valid integer", "can only be used with a single socket")
"""What haproxy says of a `bind` that cannot have the two sockets of a VIP `*`."""
_TWO_SOCKETS = (
    'a VIP of * is a socket of each family: write bind "fd@${TAG}" in double quotes and without `id`, '
    "or give the VIP 0.0.0.0, which is one of IPv4 alone"
)
_MOST_TOLD = 10


class Outcomes:
    """Owns the history, and what the last generations that started, or did not, have said."""

    def __init__(self, parts: Parts, log: Callable[[Log], None]) -> None:
        """Begin to count.

        Args:
            parts: what PID 1 is made of.
            log: writes a line.

        """
        self._parts = parts
        self._configurations = parts.configurations
        self._log = log
        self.history = History(time.time())
        self.began = time.monotonic()
        self.startup_logs = ""
        """What haproxy said at the last start or reload, failed or not."""
        self.logs_of_last = ""
        """What it said at the last reload, or the last start that failed."""
        self._hint = ""
        """What may have been wrong with the generation that failed last, where haproxy's own words do not tell."""

    def note(self, notice: Notice, message: str, stderr: str) -> str:
        """Note what has happened; return the message with what may have been wrong.

        Args:
            notice: what it is.
            message: the same for people.
            stderr: what the generation that it is about has said itself.

        """
        match notice:
            case ReloadFailed() | StartFailed():
                hint = self._hint_for(notice, stderr)
                self._hint = hint.message if hint else ""
                if hint:
                    self._log(hint)
                    message = f"{message}: {hint.message}"
                self.startup_logs = self.logs_of_last = stderr
            case Promoted(trigger=trigger):
                self.startup_logs = stderr
                if trigger:
                    self.logs_of_last = stderr
            case Recovered():
                self.logs_of_last = ""
            case Starting() | Died() | Gone():
                pass
            case _:
                assert_never(notice)
        self.history.note(notice, message, time.time(), time.monotonic())
        return message

    def age(self, number: int) -> float:
        """Return for how many seconds a generation has lived."""
        now = time.monotonic()
        return now - self.history.born.get(number, now)

    def beside(self, *, failed: bool) -> str:
        """Return what whoever asked for a reload must know beside its end, whole lines.

        Args:
            failed: a generation was started for it, and has failed.

        """
        hints = (self._hint,) if self._hint and failed else ()
        return "".join(f"{one_line(line)}\n" for line in (*hints, *self._configurations.notes))

    def _hint_for(self, failed: ReloadFailed | StartFailed, stderr: str) -> Log | None:
        """Return what may have been wrong, where haproxy's own words do not tell."""
        if _NO_DESCRIPTOR in stderr:
            event, hint = "missing_vips", self._missing_vips()
        elif _TWO_DESCRIPTORS in stderr and any(complaint in stderr for complaint in _CANNOT_BE_TWO):
            event, hint = "two_sockets", _TWO_SOCKETS
        elif failed.forked:
            event, hint = "master_worker", self._master_worker()
        elif any(complaint in stderr for complaint in _ABOUT_PROGRAMS):
            event, hint = "program_section", _PROGRAMS
        else:
            return None
        return Log(Level.ERROR, event, hint) if hint else None

    def _missing_vips(self) -> str:
        """Name the tags that are no VIPs."""
        known = {*self._parts.listeners.tags(), *self._parts.environment}
        missing = [tag for tag in self._configurations.found.tags if tag not in known]
        if not missing:
            return ""
        more = f" and {len(missing) - _MOST_TOLD} more" if len(missing) > _MOST_TOLD else ""
        names = f"{', '.join(missing[:_MOST_TOLD])}{more}"
        return f"not in --vips: {names}; correct the `bind`, or give the VIP, such as --vips '*:80:{missing[0]}'"

    def _master_worker(self) -> str:
        """Say that a `master-worker` must be what made haproxy fork, if there is one."""
        where = self._configurations.found.conditional_master_worker
        return f"{where}: remove `master-worker`, whose condition holds: {IS_MASTER}" if where else ""

    # ---- another program takes our place ---------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "history": self.history.serialize(),
            "began": self.began,
            "startup_logs": (self.startup_logs, self.logs_of_last, self._hint),
        }

    def restore(self, left: UpgradeState) -> None:
        """Go on with what our last life has handed down."""
        self.history = History.restore(left.history)
        self.began = left.began
        self.startup_logs, self.logs_of_last, self._hint = left.startup_logs
