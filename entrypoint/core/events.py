"""What happened, a closed union, and the timers that can run out.

Generations are named by their number, processes by nothing else: the shell knows which pid is whose.
"""

from __future__ import annotations

from entrypoint.lean.enum import StrEnum
from entrypoint.lean.record import record

EXPORTER = 0
"""Stands for the exporter where generations have numbers."""


@record(frozen=True)
class Began:
    """Everything that can fail before the first process has been done: VIPs are bound, signals are caught."""

    vips: tuple[tuple[str, int], ...] = ()
    """Tag and descriptor of each VIP; the descriptor has the same number in every haproxy."""
    taking_turns: frozenset[int] = frozenset()
    """Those of the VIPs that are another socket in every haproxy, because they take datagrams."""


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
    """Named in log lines: a signal, or what else asked."""
    client: int = 0
    """The client that waits for the answer; 0 if nobody does."""
    forget: bool = False
    """Do not keep the states of servers."""


@record(frozen=True)
class ReloadAsked:
    """A reload is asked for, not by a signal."""

    request: Request


@record(frozen=True)
class StopAsked:
    """A stop is asked for, not by a signal."""

    trigger: str
    quick: bool = False


@record(frozen=True)
class UpgradeAsked:
    """A client asks for safe_reload itself to be replaced."""

    client: int


@record(frozen=True)
class Rehearsed:
    """The program that is to replace this one has done its dry run."""

    client: int
    failure: str = ""
    """Why it cannot go on, in its own words; empty if it can."""


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
    """What looks half written, a line each; haproxy may accept it all the same."""
    unfinished: bool = False
    """The look failed (time, memory, or its process died): what is on disk is not known."""
    applicable: bool = False
    """It differs from what the current generation runs, but only in files that haproxy may take while it runs."""


class Why(StrEnum):
    """What a look at the disk is for."""

    START = "start"
    """A generation is to be started from it."""
    CANDIDATE = "candidate"
    """A candidate has answered: have the files changed since it was started?"""
    SETTLED = "settled"
    """Files have changed, and are quiet now."""
    POLLED = "polled"
    """The poll interval is over."""


@record(frozen=True)
class Seen:
    """What a look at the disk found. Every Look gets one, also when it was given up."""

    why: Why
    disk: Disk
    number: int = 0
    """The candidate that it is about."""


@record(frozen=True)
class Applied:
    """The current generation has been given changed files, all of them or not. Every Apply gets one."""

    number: int
    disk: Disk = Disk()
    """What was on disk then; without a digest if that is not known."""
    digest: str = ""
    """What it runs now, if all of that is on disk or not; empty if nothing was changed."""
    files: tuple[str, ...] = ()
    """What it has taken."""
    seconds: float = 0.0
    """How long that took."""
    problem: str = ""
    """Why it has not taken the rest, as one line; empty if there is no rest."""
    refused: bool = False
    """haproxy has said that a certificate is bad: a reload would not be better."""


@record(frozen=True)
class Learned:
    """The current generation reads files that were not known: what is on disk has another digest now."""

    before: str
    after: str


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
    """A generation has no process; `reason` is one line for the user."""

    number: int
    reason: str
    status: int
    """What safe_reload exits with when this was the first generation."""
    refused: bool = False
    """Because of its configuration, and not because the kernel has no process or descriptor left."""


@record(frozen=True)
class Exited:
    """The process of a generation is gone and reaped.

    `status` is as `os.waitstatus_to_exitcode` gives it: an exit status, or a signal's number made negative.
    """

    number: int
    status: int
    transient: bool = False
    """Another try with the same configuration may succeed (`core.exit_status.is_transient`)."""


@record(frozen=True)
class Reaped:
    """A process that is no generation has died and was reaped."""

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
    """What it did that no haproxy does, as the end of a sentence; empty if asking again may help."""


@record(frozen=True)
class Poked:
    """safe_reload has tried to connect to VIPs."""

    missed: tuple[str, ...]
    """The tags of those that could not be reached: a foreign address, a firewall, a TCP-MD5 key."""


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

    timer: Timer


Event = (
    Began
    | Restored
    | Signalled
    | ReloadAsked
    | StopAsked
    | UpgradeAsked
    | Rehearsed
    | Seen
    | Applied
    | Learned
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
    """A candidate waits this long for a look at the disk, then goes on without it."""
    READY = "ready"
    """A candidate has this long to prove ready."""
    SERVED = "served"
    """A current generation that lives this long is restarted without delay when it dies."""
    PROVEN = "proven"
    """A current generation that lives this long clears the count of deaths in a row."""
    ASK_AGAIN = "ask again"
    """The next look at whether a retiring generation has let go of the VIPs."""
    HANDSHAKES = "handshakes"
    """A generation with a successor has this long to finish its QUIC handshakes."""
    RETIRE = "retire"
    """A retiring generation that does not answer is told to leave anyway."""
    DRAIN = "drain"
    """`--drain-timeout`."""
    KILL = "kill"
    """A process that was told to end at once, or was killed, has this long."""
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
    APPLY = "apply"
    """The current generation has this long to take changed files; then there is a reload."""
    INCOMPLETE = "incomplete"
    """Files that look incomplete are taken as they are after this long."""
    RETRY = "retry"
    """The delay before a reload is tried again that has failed for a reason other than the configuration."""
    EXPORTER = "exporter"
    """The delay before a dead exporter is started again."""
    EXPORTS = "exports"
    """An exporter that lives this long clears the count of its deaths in a row."""
    STOP_DELAY = "stop delay"
    """`--stop-delay`."""
    STOP_TIMEOUT = "stop timeout"
    """`--stop-timeout`."""


@record(frozen=True)
class Timer:
    """A running timer. Equal timers are one timer: it is not restarted while the state keeps it."""

    clock: Clock
    number: int = 0
    """The generation it is about; 0 for none."""
    round: int = 0
