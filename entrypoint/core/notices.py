"""What has happened to generations, a closed union. Status, metrics and systemd follow it.

Log lines are rendered from it, last (`core.log_lines`).
"""

from __future__ import annotations

from entrypoint.lean.record import record


@record(frozen=True)
class Starting:
    """A candidate begins."""

    number: int
    trigger: str = ""
    """Who asked for it; empty if nobody did."""
    replaces_dead: bool = False


@record(frozen=True)
class Promoted:
    """A candidate has become current."""

    number: int
    pid: int
    trigger: str = ""
    """Who asked for it; empty if nobody did."""
    replaces: int | None = None
    digest: str = ""
    """Of the configuration that it runs; empty where that is not known."""
    kept: bool = False
    """It runs the last known good configuration."""


@record(frozen=True)
class ReloadFailed:
    """A candidate that was asked for has failed."""

    number: int
    pid: int | None
    trigger: str
    what: str
    """What became of it, for the log."""
    forked: bool = False
    """Its CLI answered with the pid of another process, as with `master-worker`."""
    goes_on: tuple[int, int] | None = None
    """Number and pid of the current generation, which goes on."""
    again_in: float = 0.0
    """Seconds after which it is tried again; 0 where it is not."""
    falls_back: bool = False
    """The next one starts with the last known good configuration."""


@record(frozen=True)
class StartFailed:
    """A candidate that nobody asked for has failed: the first one, or the successor of a dead one."""

    number: int
    pid: int | None
    what: str
    """What became of it, for the log."""
    forked: bool = False
    """Its CLI answered with the pid of another process, as with `master-worker`."""
    falls_back: bool = False
    """The next one starts with the last known good configuration."""


@record(frozen=True)
class FilesApplied:
    """The current generation has taken changed files."""

    number: int
    files: tuple[str, ...]
    seconds: float
    trigger: str
    digest: str
    """Of what it runs now."""


@record(frozen=True)
class FilesRefused:
    """The current generation has refused a changed certificate, and serves with the old one."""

    number: int
    pid: int | None
    what: str
    """Why, mostly in haproxy's words."""
    trigger: str


@record(frozen=True)
class Died:
    """The current generation has died unasked."""

    number: int
    pid: int | None
    status: int
    """As `os.waitstatus_to_exitcode` gives it."""


@record(frozen=True)
class Gone:
    """A generation that was told to leave is gone."""

    number: int
    pid: int | None
    status: int
    """As `os.waitstatus_to_exitcode` gives it."""


@record(frozen=True)
class Recovered:
    """The disk holds again what the current generation runs: an earlier failure is over."""

    number: int


Notice = Starting | Promoted | ReloadFailed | StartFailed | FilesApplied | FilesRefused | Died | Gone | Recovered
