"""The parts that exist before PID 1 starts its first process."""

from __future__ import annotations

from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean.collections import Callable, Mapping
from entrypoint.lean.record import record
from entrypoint.lean.typing import TYPE_CHECKING
from entrypoint.options.settings import Settings
from entrypoint.pid1.configurations import Configurations
from entrypoint.pid1.launch import HaproxyLaunch
from entrypoint.system.files import PidFile
from entrypoint.system.getsocks.offer import Adopted
from entrypoint.system.listeners import Listeners
from entrypoint.system.log import Logger
from entrypoint.system.packets import PacketSocket
from entrypoint.system.processes import Processes
from entrypoint.system.sd_notify import Notifier
from entrypoint.system.signals import Inherited
from entrypoint.system.ticket_keys import TicketKeys

if TYPE_CHECKING:
    from entrypoint.system.predecessor import Predecessor


@record()
class Parts:
    """Everything that `bootstrap` makes for the supervisor, which owns it from then on."""

    settings: Settings
    name: str
    environment: Mapping[str, str]
    logger: Logger
    processes: Processes
    listeners: Listeners
    adopted: Adopted
    configurations: Configurations
    ticket_keys: TicketKeys
    launch: HaproxyLaunch
    notifier: Notifier
    read: Callable[[PacketSocket], None]
    """Runs in the reader process."""
    predecessor: Predecessor | None
    pid_file: PidFile | None
    inherited: Inherited
    saved: UpgradeState | None = None
    """The previous program's state, after an upgrade."""
    rehearses: bool = False
    """This process only rehearses the upgrade: it must have no effect outside."""
