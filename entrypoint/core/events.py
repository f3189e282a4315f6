"""What happened, a closed union, and the timers that can run out.

Generations are named by their number, processes by nothing else: the shell knows which pid is whose.
"""

from enum import StrEnum

from entrypoint.lean.record import record

EXPORTER = 0
"""Stands for the exporter where generations have numbers."""


@record(frozen=True)
class Began:
    """Everything that can fail before the first process has been done: VIPs are bound, signals are caught."""

    vips: tuple[tuple[str, int], ...] = ()
    """Tag and descriptor of each VIP; the descriptor has the same number in every haproxy."""


@record(frozen=True)
class Restored:
    """The state directory holds a last known good configuration, which has been read."""

    digest: str


@record(frozen=True)
class Signalled:
    """A signal arrived."""

    signum: int


@record(frozen=True)
class Request:
    """Who asks for a reload."""

    trigger: str
    """What people are told: a signal's name, or what else asked."""
    client: int = 0
    """Whom the control socket owes an answer; 0 for a request that nobody waits for."""


@record(frozen=True)
class ReloadAsked:
    """Somebody other than a signal asks for a reload."""

    request: Request


@record(frozen=True)
class StopAsked:
    """Somebody other than a signal asks for a stop."""

    trigger: str
    quick: bool = False


@record(frozen=True)
class UpgradeAsked:
    """A client asks for safe_reload itself to be replaced."""

    client: int


@record(frozen=True)
class Rehearsed:
    """The program that is to take our place has been tried."""

    client: int
    failure: str = ""
    """Why it could not go on, in its own words; empty when it could."""


@record(frozen=True)
class Disk:
    """What the disk holds: the configuration and all files that it names, as one digest."""

    digest: str = ""
    """Empty while it cannot be read."""
    unreadable: str = ""
    """Why not, in one line."""
    polled: bool = False
    """The kernel does not tell of every change of these files."""
    incomplete: tuple[str, ...] = ()
    """What of it looks as if somebody were still writing it, a line each: haproxy may take it all the same."""
    unfinished: bool = False
    """Reading took too long, too much memory, or its process: nothing is known of what is there."""


class Why(StrEnum):
    """What a look at the disk is for."""

    START = "start"
    """A generation is to be started: what is it given?"""
    CANDIDATE = "candidate"
    """A candidate has answered: is what it read still there?"""
    SETTLED = "settled"
    """Files changed, and have been quiet since."""
    POLLED = "polled"
    """It was time to."""


@record(frozen=True)
class Seen:
    """What a look at the disk found; of one that was given up as well, so that each Look has one."""

    why: Why
    disk: Disk
    number: int = 0
    """The candidate that it is about."""


@record(frozen=True)
class Stirred:
    """The kernel reports that a watched file may have changed."""


@record(frozen=True)
class Spawned:
    """The process of a generation exists."""

    number: int
    pid: int


@record(frozen=True)
class NotSpawned:
    """A generation got no process, or may not have one; `reason` is one line for the user."""

    number: int
    reason: str
    status: int
    """What safe_reload exits with when this was the first generation."""
    refused: bool = False
    """The configuration is why; not the kernel, for want of a process or a descriptor."""


@record(frozen=True)
class Exited:
    """The process of a generation is gone and reaped.

    `status` is as `os.waitstatus_to_exitcode` gives it: an exit status, or a signal's number made negative.
    """

    number: int
    status: int
    transient: bool = False
    """It may go otherwise when it is tried again with the same configuration (`core.endings.is_transient`)."""


@record(frozen=True)
class Reaped:
    """A process that was nobody's generation died and was reaped."""

    pid: int


@record(frozen=True)
class Answered:
    """A generation's CLI answered what was asked."""

    number: int
    text: str


@record(frozen=True)
class Unanswered:
    """A generation's CLI closed without an answer, or could not be reached."""

    number: int
    failure: str = ""
    """What it did that no haproxy does, as the end of a sentence; empty when it may do better if it is asked again."""


@record(frozen=True)
class Poked:
    """We have tried to connect to VIPs."""

    missed: tuple[str, ...]
    """The tags of those to which nothing got through: the address is not on this host, a firewall, a key."""


@record(frozen=True)
class Adopted:
    """A generation's ordinary listeners are held, or it has none."""

    number: int


@record(frozen=True)
class NotAdopted:
    """A generation has not passed its ordinary listeners, and may have some."""

    number: int


@record(frozen=True)
class Elapsed:
    """A timer of the state ran out."""

    timer: "Timer"


Event = (
    Began
    | Restored
    | Signalled
    | ReloadAsked
    | StopAsked
    | UpgradeAsked
    | Rehearsed
    | Seen
    | Stirred
    | Spawned
    | NotSpawned
    | Exited
    | Reaped
    | Answered
    | Unanswered
    | Poked
    | Adopted
    | NotAdopted
    | Elapsed
)


# ---- timers: part of the state, not of the effects -----------------------------------------------------------------


class Clock(StrEnum):
    """What a timer is for."""

    LOOK = "look"
    """A candidate waits this long for a look at the disk, and goes on without."""
    READY = "ready"
    """A candidate has this long to prove ready."""
    SERVED = "served"
    """A current generation that lives this long is restarted without delay when it dies."""
    PROVEN = "proven"
    """A current generation that lives this long clears the count of deaths in a row."""
    ASK_AGAIN = "ask again"
    """The next look at whether a retiring generation has let go of the VIPs."""
    RETIRE = "retire"
    """A retiring generation that does not answer is told to leave anyway."""
    DRAIN = "drain"
    """`--drain-timeout`."""
    KILL = "kill"
    """A process that was told to end at once has this long; one that was killed, too."""
    ADOPT = "adopt"
    """A generation that is asked for its ordinary listeners has this long to answer."""
    ADOPT_AGAIN = "adopt again"
    """The delay before it is asked again."""
    RESTART = "restart"
    """The delay before a dead generation is replaced."""
    QUIET = "quiet"
    """`--debounce`: files that changed must not change for this long."""
    SETTLE = "settle"
    """Files that never are quiet are looked at after this long all the same."""
    POLL = "poll"
    """`--poll`."""
    INCOMPLETE = "incomplete"
    """Files that look incomplete are taken as they are after this long."""
    RETRY = "retry"
    """The delay before a reload is tried again that has failed for a reason other than the configuration."""
    EXPORTER = "exporter"
    """The delay before a dead exporter is started again."""
    EXPORTS = "exports"
    """When an exporter has lived long enough for its death to be news."""
    STOP_DELAY = "stop delay"
    """`--stop-delay`."""
    STOP_TIMEOUT = "stop timeout"
    """`--stop-timeout`."""


@record(frozen=True)
class Timer:
    """A running timer. Two equal timers are the same one: it is not started again while it stays in the state."""

    clock: Clock
    number: int = 0
    """The generation it is about, or what else tells two timers of one clock apart."""
    round: int = 0
