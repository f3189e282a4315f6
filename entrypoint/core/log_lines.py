"""Log lines about generations."""

from __future__ import annotations

from entrypoint.core.effects import Log
from entrypoint.core.exit_status import how_it_died, shell_status
from entrypoint.core.history import APPLIED
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
from entrypoint.core.state import Generation
from entrypoint.lean.level import Level
from entrypoint.lean.typing import assert_never

_MOST_NAMES = 3


def line_of(notice: Notice) -> Log:
    """Render a notice."""
    match notice:
        case Starting(number=number, trigger=trigger, replaces_dead=replaces_dead):
            why = f"asked for by {trigger}" if trigger else "to replace a dead one" if replaces_dead else "the first"
            return _line(number, None, "starting", f"is starting: {why}", Level.DEBUG)
        case Promoted(number=number, pid=pid, trigger=trigger):
            return _line(
                number,
                pid,
                "current",
                f"is current{f'; asked for by {trigger}' if trigger else ''}",
                trigger=trigger or None,
                replaces=notice.replaces,
                sha256=notice.digest or None,
                last_known_good=notice.kept or None,
            )
        case ReloadFailed(number=number, pid=pid, trigger=trigger, what=what):
            serves = ", generation {} (pid {}) goes on".format(*notice.goes_on) if notice.goes_on else ""
            again = f"; it is tried again in {notice.again_in:g} s" if notice.again_in else ""
            failed = f"{what}; the reload asked for by {trigger} has failed{serves}{again}{_then(notice)}"
            return _line(number, pid, "reload_failed", failed, Level.ERROR, trigger=trigger)
        case StartFailed(number=number, pid=pid, what=what):
            return _line(number, pid, "start_failed", f"{what}{_then(notice)}", Level.ERROR)
        case FilesApplied(number=number, files=files, seconds=seconds):
            what = f"applied {names(files)} without a reload ({1000 * seconds:.0f} ms)"
            fields = {"generation": number, "trigger": notice.trigger, "sha256": notice.digest, "kind": APPLIED}
            return Log(Level.INFO, "applied", what, fields)
        case FilesRefused(number=number, pid=pid, what=what, trigger=trigger):
            refused = f"refuses a changed file and goes on with the old one: {what}"
            return _line(number, pid, "reload_failed", refused, Level.ERROR, trigger=trigger, kind=APPLIED)
        case Died(number=number, pid=pid, status=status):
            how = how_it_died(status)
            return _line(number, pid, "died", f"{how}, unasked", Level.ERROR, status=shell_status(status), how=how)
        case Gone(number=number, pid=pid, status=status):
            return _line(number, pid, "gone", f"is gone: it {how_it_died(status)}", status=shell_status(status))
        case Recovered(number=number):
            what = "the files are again what the current generation runs: the failure is over"
            return Log(Level.INFO, "back", what, {"generation": number})
        case _:
            assert_never(notice)


def names(files: tuple[str, ...]) -> str:
    """Return the names of files for people, as many as fit into a line."""
    more = len(files) - _MOST_NAMES
    return ", ".join(files[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _then(notice: ReloadFailed | StartFailed) -> str:
    return "; the next generation starts with the last known good configuration" if notice.falls_back else ""


def say(generation: Generation, event: str, what: str, level: Level = Level.INFO) -> Log:
    """Return a line about a generation that only the log is told."""
    return _line(generation.number, generation.pid, event, what, level)


def _line(number: int, pid: int | None, event: str, what: str, level: Level = Level.INFO, **fields: object) -> Log:
    """Return a line about a generation, with its number and pid as fields."""
    who, named = (f"generation {number}", {}) if pid is None else (f"generation {number} (pid {pid})", {"pid": pid})
    return Log(level, event, f"{who} {what}", {"generation": number, **named, **fields})
