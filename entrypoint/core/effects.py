"""What is to be done, a closed union. Whoever carries it out answers with events (`core.events`)."""

from collections.abc import Mapping
from types import MappingProxyType

from entrypoint.core.events import Why
from entrypoint.core.notices import Notice
from entrypoint.lean.level import Level
from entrypoint.lean.record import record

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
class Keep:
    """Make the configuration of this generation the last known good one."""

    number: int


@record(frozen=True)
class Adopt:
    """Ask this generation for its ordinary listeners, and hold them from now on.

    Answered by Adopted or NotAdopted.
    """

    number: int
    last: bool = False
    """It is not asked again: take any answer as it is."""


@record(frozen=True)
class Reply:
    """Answer a client that asked for a reload."""

    client: int
    success: bool
    message: str
    number: int = 0
    """The generation whose own words belong to the answer."""


@record(frozen=True)
class Rehearse:
    """Try whether another program could go on from here. Answered by Rehearsed."""

    client: int


@record(frozen=True)
class Upgrade:
    """Become another program, which answers the client; where that fails, answer it, and all goes on."""

    client: int


@record(frozen=True)
class TakeOver:
    """Tell a haproxy to leave that served before us, if there is one."""


@record(frozen=True)
class Ask:
    """Put these commands to the generation's CLI, instead of what it was asked before.

    Answered by Answered or Unanswered.
    """

    number: int
    commands: tuple[str, ...]


@record(frozen=True)
class Send:
    """Send a signal to the process of this generation."""

    number: int
    signum: int
    line: "Log | None" = None
    """Written once it is sent, and true only then."""


@record(frozen=True)
class Poke:
    """Connect to these VIPs and close at once. Answered by Poked."""

    tags: tuple[str, ...]


@record(frozen=True)
class Listen:
    """Let these VIPs accept, and no other one: a VIP that no `bind` uses refuses."""

    tags: tuple[str, ...]
    doubtful: tuple[str, ...] = ()
    """Let these accept as well: whether a `bind` uses them is not known."""


@record(frozen=True)
class CloseVips:
    """Let go of every VIP, for ever."""


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
    """Have the status, the metrics and systemd know this, and write its line."""

    notice: Notice


Effect = (
    Spawn
    | SpawnExporter
    | Ask
    | Send
    | Poke
    | Listen
    | Adopt
    | CloseVips
    | Publish
    | TakeOver
    | Look
    | Keep
    | Reply
    | Rehearse
    | Upgrade
    | Log
    | Tell
)
