"""What the core is told where an effect could not be carried out: nothing that it awaits may fail without a word.

The rule is here and nowhere else: an effect that the core awaits an answer for gets one by `failure_of`, what must be
true in the end is done again (`lasting`), and of what is left the log line is all that follows. Where an answer gets
lost in spite of this, timers of the state stand in for it (`core.state`).
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
"""What safe_reload exits with when its first generation could not be started."""


def failure_of(effect: Effect, why: str) -> Event | None:
    """Return the event of an effect's failure; None where nothing is awaited.

    Args:
        effect: what could not be carried out, wholly or in part.
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
            # That none was missed is not known, but worth another look.
            return Poked(())
        case Rehearse(client=client) | Upgrade(client=client):
            return Rehearsed(client, why)
        case Send() | Listen() | CloseVips() | Publish() | TakeOver() | Keep() | Reply() | Log() | Tell():
            return None
        case _:
            assert_never(effect)


def lasting(effect: Effect) -> object:
    """Return what tells an effect that is done again where it has failed from others; None where it is not."""
    match effect:
        case Listen() | CloseVips():
            # The last one counts.
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
