"""What one life leaves to the next, for tests that are about something else."""

from typing import Any

from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean.record import replace

NOTHING = UpgradeState(
    state={},
    pids={},
    helpers={},
    channels={},
    stderr_pipes={},
    versions={},
    listeners=(),
    datagram_turns={},
    adopted=(),
    configurations={},
    ticket_keys=(-1, 0.0),
    readers=(),
    control=None,
    sessions=(),
    systemd={},
    history={},
    began=0.0,
    startup_logs=("", "", ""),
    servers={"known": "", "kept": ""},
    log={},
    descriptors=(),
)


def left(**changes: Any) -> UpgradeState:
    """Return what a life leaves that has nothing but this."""
    return replace(NOTHING, **changes)
