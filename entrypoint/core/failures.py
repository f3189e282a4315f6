"""What follows when an effect fails.

If the core waits for an answer, the failure is one (`failure_of`). What has to become true in the end is done again
(`lasting`). Of anything else there is only a log line. If an answer is lost in spite of this, the state's timers stand
in for it (`core.state`).
"""

from entrypoint.core.effects import (
    Adopt,
    Ask,
    CloseVips,
    Effect,
    Keep,
    Listen,
    Log,
    Look,
    Poke,
    Publish,
    Rehearse,
    Reply,
    Send,
    Spawn,
    SpawnExporter,
    TakeOver,
    Tell,
    Upgrade,
)
from entrypoint.core.events import EXPORTER, Disk, Event, NotAdopted, NotSpawned, Poked, Rehearsed, Seen, Unanswered
from entrypoint.lean.typing import assert_never

_FAILED = 1
"""The exit status of safe_reload when its first generation could not be started."""


def failure_of(effect: Effect, why: str) -> Event | None:
    """Return the answer to an effect that has failed; None where the core does not wait for one.

    Args:
        effect: what has failed, wholly or in part.
        why: in words for the user, without a line's end.

    """
    match effect:
        case Spawn(number=number):
            return NotSpawned(number, f"was not started: {why}", _FAILED)
        case SpawnExporter():
            return NotSpawned(EXPORTER, f"was not started: {why}", _FAILED)
        case Look(why=reason, number=number):
            return Seen(reason, Disk(unreadable=f"it could not be looked at: {why}", unfinished=True), number)
        case Ask(number=number):
            return Unanswered(number)
        case Adopt(number=number):
            return NotAdopted(number)
        case Poke():
            # Which VIPs cannot be reached is not known: assume none.
            return Poked(())
        case Rehearse(client=client) | Upgrade(client=client):
            return Rehearsed(client, why)
        case Send() | Listen() | CloseVips() | Publish() | TakeOver() | Keep() | Reply() | Log() | Tell():
            return None
        case _:
            assert_never(effect)


def lasting(effect: Effect) -> object:
    """Return the key under which an effect is tried again; None if it is not.

    A later effect with the same key replaces an earlier one.
    """
    match effect:
        case Listen() | CloseVips():
            return type(effect)
        case Send(number=number, signum=signum):
            return Send(number, signum)
        case Reply():
            return effect
        case (Spawn() | SpawnExporter() | Look() | Ask() | Rehearse() | Upgrade()) | (
            Poke() | Adopt() | Publish() | TakeOver() | Keep() | Log() | Tell()
        ):
            return None
        case _:
            assert_never(effect)
