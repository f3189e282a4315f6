"""The results of starts and reloads: counters, haproxy's stderr, and a hint where that does not say the cause."""

from __future__ import annotations

import time

from entrypoint.core.effects import Log
from entrypoint.core.history import History
from entrypoint.core.notices import (
    Died,
    FilesApplied,
    FilesRefused,
    Gone,
    Notice,
    Promoted,
    Recovered,
    ReloadFailed,
    StartFailed,
    Starting,
)
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean.collections import Callable
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import one_line
from entrypoint.lean.typing import Any, assert_never
from entrypoint.pid1.launch import IS_MASTER
from entrypoint.pid1.parts import Parts

_NO_DESCRIPTOR = "file descriptor ''"
"""All that haproxy says about `fd@${TAG}` if there is no such variable."""
_NO_NUMBER, _QUIC_DESCRIPTOR = "is not a valid integer in '", "quic+fd@"
"""The same if another word follows: haproxy takes that for the descriptor."""
_PROGRAM_ERRORS = ("'program' section", "unknown keyword 'program'")
"""haproxy's errors about it up to 3.2, and from 3.3 on."""
_PROGRAMS = (
    "a `program` section is for haproxy's own master, and gone from HAProxy 3.3 on: take it out, and run its command as"
    " a service, or a container, of its own"
)
_TWO_DESCRIPTORS = (",fd@", ",quic+fd@")
_TWO_SOCKETS_ERRORS = ("is not a valid integer", "can only be used with a single socket")
"""haproxy's errors about a `bind` that cannot have the two sockets of a VIP `*`."""
_TWO_SOCKETS = (
    'a VIP of * is a socket of each family: write bind "fd@${TAG}" in double quotes and without `id`, '
    "or give the VIP 0.0.0.0, which is one of IPv4 alone"
)
_WRONG_TYPE = "is of the wrong type"
"""haproxy's error about a TCP socket for a QUIC `bind`, and the other way round."""
_NO_QUIC_ERRORS = ("QUIC is not compiled in", "missing port specification in 'quic+fd@")
"""HAProxy 2.6's errors about QUIC where it was built without it, as Debian's is."""
_NO_QUIC = (
    "this haproxy has no QUIC: take the QUIC `bind` lines out, put them between `.if feature(QUIC)` and `.endif`, or "
    "use another one, such as Debian's 3.0 and later"
)
_MOST_LISTED = 10


class Outcomes:
    """Owns the history, and the stderr of the last start and the last reload."""

    def __init__(self, parts: Parts, log: Callable[[Log], None]) -> None:
        """Begin with empty counters."""
        self._parts = parts
        self._configurations = parts.configurations
        self._log = log
        self.history = History(time.time())
        self.began = time.monotonic()
        self.startup_logs = ""
        """haproxy's stderr of the last start or reload, failed or not."""
        self.logs_of_last = ""
        """Its stderr of the last reload, or of the last failed start."""
        self._hint = ""
        """The likely cause of the last failure, where haproxy's stderr does not say it."""

    def note(self, notice: Notice, message: str, stderr: str) -> str:
        """Record a notice; return its message with a hint added.

        Args:
            notice: what has happened.
            message: the same for people.
            stderr: of the generation in question.

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
            case FilesRefused(what=what):
                self.logs_of_last = f"{what}\n"
            case Recovered() | FilesApplied():
                self.logs_of_last = ""
            case Starting() | Died() | Gone():
                pass
            case _:
                assert_never(notice)
        self.history.note(notice, message, time.time(), time.monotonic())
        return message

    def age(self, number: int) -> float:
        """Return a generation's age in seconds."""
        now = time.monotonic()
        return now - self.history.born.get(number, now)

    def notes_for(self, *, failed: bool) -> str:
        """Return the lines that the answer to a reload shows beside its result.

        Args:
            failed: a generation was started for it, and has failed.

        """
        hints = (self._hint,) if self._hint and failed else ()
        return "".join(f"{one_line(line)}\n" for line in (*hints, *self._configurations.notes))

    def _hint_for(self, failed: ReloadFailed | StartFailed, stderr: str) -> Log | None:
        missing = self._missing_vips(quic=_QUIC_DESCRIPTOR in stderr)
        if _NO_DESCRIPTOR in stderr or (_NO_NUMBER in stderr and missing):
            event, hint = "missing_vips", missing
        elif any(two in stderr for two in _TWO_DESCRIPTORS) and any(one in stderr for one in _TWO_SOCKETS_ERRORS):
            event, hint = "two_sockets", _TWO_SOCKETS
        elif _WRONG_TYPE in stderr:
            event, hint = "wrong_scheme", self._wrong_scheme(stderr)
        elif any(error in stderr for error in _NO_QUIC_ERRORS):
            event, hint = "no_quic", _NO_QUIC
        elif failed.forked:
            event, hint = "master_worker", self._master_worker()
        elif any(error in stderr for error in _PROGRAM_ERRORS):
            event, hint = "program_section", _PROGRAMS
        else:
            return None
        return Log(Level.ERROR, event, hint) if hint else None

    def _missing_vips(self, *, quic: bool) -> str:
        known = {*self._parts.listeners.tags(), *self._parts.environment}
        missing = [tag for tag in self._configurations.found.tags if tag not in known]
        if not missing:
            return ""
        more = f" and {len(missing) - _MOST_LISTED} more" if len(missing) > _MOST_LISTED else ""
        names = f"{', '.join(missing[:_MOST_LISTED])}{more}"
        example = f"{'quic@*:443' if quic else '*:80'}:{missing[0]}"
        return f"not in --vips: {names}; correct the `bind`, or give the VIP, such as --vips '{example}'"

    def _wrong_scheme(self, stderr: str) -> str:
        kinds = {descriptor: (tag, scheme) for tag, descriptor, scheme in self._parts.listeners.schemes()}
        number = stderr.partition(_WRONG_TYPE)[0].rstrip(" '").rpartition("'")[2]
        tag, scheme = kinds.get(int(number) if number.isdecimal() else -1, ("", ""))
        if not tag:
            return ""
        place = f"ADDRESS:PORT:{tag}"
        has = f"has {scheme}" if scheme else "is TCP"
        quic, others = f'quic@{place} for bind "quic+fd@${{{tag}}}"', f"udp@{place} for a dgram-bind, {place} for bind"
        return f'the VIP {tag} {has}, but its line needs another kind: {quic}, {others} "fd@${{{tag}}}"'

    def _master_worker(self) -> str:
        where = self._configurations.found.conditional_master_worker
        return f"{where}: remove `master-worker`, whose condition holds: {IS_MASTER}" if where else ""

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "history": self.history.serialize(),
            "began": self.began,
            "startup_logs": (self.startup_logs, self.logs_of_last, self._hint),
        }

    def restore(self, saved: UpgradeState) -> None:
        """Restore the previous program's outcomes."""
        self.history = History.restore(saved.history)
        self.began = saved.began
        self.startup_logs, self.logs_of_last, self._hint = saved.startup_logs
