"""What has happened to generations: what the status, the metrics and systemd are told, a closed union.

The line of the log is made of the same, and last (`core.lines`).
"""

from entrypoint.lean.record import record


@record(frozen=True)
class Starting:
    """A candidate begins."""

    number: int
    trigger: str = ""
    """Who has asked for it; empty where nobody has."""
    replaces_dead: bool = False


@record(frozen=True)
class Promoted:
    """A candidate has become current."""

    number: int
    pid: int
    trigger: str = ""
    """Who has asked for it; empty where nobody has."""
    replaces: int | None = None
    digest: str = ""
    """Of the configuration that it runs; empty where that is not known."""
    kept: bool = False
    """It runs the last known good configuration."""


@record(frozen=True)
class ReloadFailed:
    """A candidate that somebody has asked for is gone."""

    number: int
    pid: int | None
    trigger: str
    what: str
    """What has become of it."""
    forked: bool = False
    """Another process than the one that was started has answered, as with `master-worker`."""
    goes_on: tuple[int, int] | None = None
    """Number and pid of the current generation."""
    again_in: float = 0.0
    """Seconds after which it is tried again; 0 where it is not."""
    falls_back: bool = False
    """The next one starts with the last known good configuration."""


@record(frozen=True)
class StartFailed:
    """A candidate that nobody has asked for is gone: the first one, or one in the place of a dead one."""

    number: int
    pid: int | None
    what: str
    """What has become of it."""
    forked: bool = False
    """Another process than the one that was started has answered, as with `master-worker`."""
    falls_back: bool = False
    """The next one starts with the last known good configuration."""


@record(frozen=True)
class Died:
    """The current generation has died, and nobody has asked for it."""

    number: int
    pid: int | None
    status: int
    """As `os.waitstatus_to_exitcode` gives it."""


@record(frozen=True)
class Gone:
    """A generation that was to leave has left."""

    number: int
    pid: int | None
    status: int
    """As `os.waitstatus_to_exitcode` gives it."""


@record(frozen=True)
class Recovered:
    """The disk holds again what the current generation runs: the failure of something else is over."""

    number: int


Notice = Starting | Promoted | ReloadFailed | StartFailed | Died | Gone | Recovered
