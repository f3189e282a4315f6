"""What PID 1 is made of when it begins to serve."""

from collections.abc import Callable, Mapping

from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean.record import record
from entrypoint.options.settings import Settings
from entrypoint.pid1.configurations import Configurations
from entrypoint.pid1.launch import HaproxyLaunch
from entrypoint.system.files import PidFile
from entrypoint.system.getsocks.adopted import Adopted
from entrypoint.system.listeners.listeners import Listeners
from entrypoint.system.log import Logger
from entrypoint.system.packets import PacketSocket
from entrypoint.system.predecessor import Predecessor
from entrypoint.system.processes import Processes
from entrypoint.system.sd_notify import Notifier
from entrypoint.system.signals import Inherited


@record()
class Parts:
    """What was made before the first process is started; who made it closes nothing of it."""

    settings: Settings
    name: str
    environment: Mapping[str, str]
    logger: Logger
    processes: Processes
    listeners: Listeners
    adopted: Adopted
    configurations: Configurations
    launch: HaproxyLaunch
    notifier: Notifier
    read: Callable[[PacketSocket], None]
    """What the process does that reads files."""
    predecessor: Predecessor | None
    pid_file: PidFile | None
    inherited: Inherited
    left: UpgradeState | None = None
    """What our last life has handed down, if this one is the next."""
    rehearses: bool = False
    """This is but the rehearsal of that: nobody else may notice."""
