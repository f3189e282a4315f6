"""What is to be done, a closed union. Its results come back as events (`core.events`).

An effect may fail. Where the core waits for an answer, it gets the failure as the answer (`failure_of`). What has to
become true in the end is done again (`lasting`). Of anything else there is only a log line. If an answer is lost in
spite of this, the state's timers stand in for it (`core.state`).
"""

from __future__ import annotations

from entrypoint.core.events import (
    EXPORTER,
    Applied,
    Disk,
    Event,
    NotAdopted,
    NotSpawned,
    Poked,
    Rehearsed,
    Seen,
    Unanswered,
    Why,
)
from entrypoint.core.notices import Notice
from entrypoint.lean.collections import Mapping, MappingProxyType
from entrypoint.lean.level import Level
from entrypoint.lean.record import record
from entrypoint.lean.typing import assert_never

NO_FIELDS: Mapping[str, object] = MappingProxyType({})


@record(frozen=True)
class Spawn:
    """Start the process of this generation, from the disk. Answered by Spawned or NotSpawned."""

    number: int
    kept: bool = False
    """Start it from the last known good configuration."""


@record(frozen=True)
class SpawnExporter:
    """Start the exporter. Its death is an Exited with the number EXPORTER."""


@record(frozen=True)
class Look:
    """Read what the disk holds. Answered by Seen, sooner or later."""

    why: Why
    number: int = 0


@record(frozen=True)
class Apply:
    """Give the changed files on disk to this generation while it runs. Answered by Applied, sooner or later."""

    number: int


@record(frozen=True)
class Keep:
    """Make the configuration of this generation the last known good one."""

    number: int


@record(frozen=True)
class Adopt:
    """Get this generation's ordinary listeners, and hold them from now on.

    Answered by Adopted or NotAdopted.
    """

    number: int
    last: bool = False
    """It is not asked again: take its answer as it is."""


@record(frozen=True)
class Reply:
    """Answer a client that asked for a reload."""

    client: int
    success: bool
    message: str
    number: int = 0
    """The generation whose stderr belongs to the answer; 0 for none."""


@record(frozen=True)
class Rehearse:
    """Have the program that is to replace this one do a dry run. Answered by Rehearsed."""

    client: int


@record(frozen=True)
class Upgrade:
    """Exec the new program, which answers the client. If that fails, this one answers and goes on."""

    client: int


@record(frozen=True)
class TakeOver:
    """Tell the haproxy that served before safe_reload to leave, if there is one."""


@record(frozen=True)
class Ask:
    """Send these commands to the generation's CLI; drop a question that is still open.

    Answered by Answered or Unanswered.
    """

    number: int
    commands: tuple[str, ...]


@record(frozen=True)
class AskHandshakes:
    """Ask a generation that reads no new datagrams for its QUIC handshakes, once it has read the old ones.

    Answered by Answered or Unanswered.
    """

    number: int


@record(frozen=True)
class ReadDatagrams:
    """Have this generation read all new datagrams, and the one before none."""

    number: int
    pid: int
    tags: tuple[str, ...]
    """Of the VIPs that it binds, or may bind."""
    quic_ports: tuple[int, ...]
    """The ports of its QUIC listeners."""
    previous: int
    """The number of the one before; 0 for none."""


@record(frozen=True)
class NoteServers:
    """Note the states of this generation's servers, for the next one."""

    number: int


@record(frozen=True)
class AskCandidate:
    """Tell a candidate the noted states of servers, and ask it whether it is ready; drop a question that is still open.

    Answered by Answered or Unanswered.
    """

    number: int


@record(frozen=True)
class Send:
    """Send a signal to the process of this generation."""

    number: int
    signum: int
    line: Log | None = None
    """Written once the signal is sent."""


@record(frozen=True)
class Poke:
    """Connect to these VIPs and close at once. Answered by Poked."""

    tags: tuple[str, ...]


@record(frozen=True)
class Listen:
    """Have these VIPs listen, and no others: a VIP that no `bind` uses refuses its clients."""

    tags: tuple[str, ...]
    doubtful: tuple[str, ...] = ()
    """These go on listening: whether a `bind` uses them is not known."""


@record(frozen=True)
class CloseVips:
    """Close every VIP for good."""


@record(frozen=True)
class Publish:
    """Make this generation's pid the content of the pid file."""

    pid: int


@record(frozen=True)
class Log:
    """Write one line."""

    level: Level
    event: str
    """A stable name for programs."""
    message: str
    fields: Mapping[str, object] = NO_FIELDS


@record(frozen=True)
class Tell:
    """Tell status, metrics and systemd of this, and log it."""

    notice: Notice


Effect = (
    Spawn
    | SpawnExporter
    | Ask
    | AskHandshakes
    | ReadDatagrams
    | NoteServers
    | AskCandidate
    | Send
    | Poke
    | Listen
    | Adopt
    | CloseVips
    | Publish
    | TakeOver
    | Look
    | Apply
    | Keep
    | Reply
    | Rehearse
    | Upgrade
    | Log
    | Tell
)


# ---- what follows when an effect fails ------------------------------------------------------------------------------

FAILED = 1
"""The exit status of safe_reload where no process has one."""


def failure_of(effect: Effect, why: str) -> Event | None:
    """Return the answer to an effect that has failed; None where the core does not wait for one.

    Args:
        effect: what has failed, wholly or in part.
        why: in words for the user, without a line's end.

    """
    match effect:
        case Spawn(number=number):
            return NotSpawned(number, f"was not started: {why}", FAILED)
        case SpawnExporter():
            return NotSpawned(EXPORTER, f"was not started: {why}", FAILED)
        case Look(why=reason, number=number):
            return Seen(reason, Disk(unreadable=f"it could not be looked at: {why}", unfinished=True), number)
        case Apply(number=number):
            return Applied(number, problem=why)
        case Ask(number=number) | AskHandshakes(number=number) | AskCandidate(number=number):
            return Unanswered(number)
        case Adopt(number=number):
            return NotAdopted(number)
        case Poke():
            # Which VIPs cannot be reached is not known: assume none.
            return Poked(())
        case Rehearse(client=client) | Upgrade(client=client):
            return Rehearsed(client, why)
        case (Send() | Listen() | CloseVips() | Publish() | TakeOver()) | (
            ReadDatagrams() | NoteServers() | Keep() | Reply() | Log() | Tell()
        ):
            return None
        case _:
            assert_never(effect)


def lasting(effect: Effect) -> object:
    """Return the key under which an effect is tried again; None if it is not.

    A later effect with the same key replaces an earlier one.
    """
    match effect:
        case Listen() | ReadDatagrams() | CloseVips():
            return type(effect)
        case Send(number=number, signum=signum):
            return Send(number, signum)
        case Reply():
            return effect
        case (
            Spawn()
            | SpawnExporter()
            | Look()
            | Apply()
            | Ask()
            | AskHandshakes()
            | NoteServers()
            | AskCandidate()
            | Rehearse()
            | Upgrade()
        ) | (Poke() | Adopt() | Publish() | TakeOver() | Keep() | Log() | Tell()):
            return None
        case _:
            assert_never(effect)
