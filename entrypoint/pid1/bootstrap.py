"""Puts together what serves haproxy: everything that can fail before the first process, or what the last life left."""

import os
from collections.abc import Mapping

from entrypoint.core.effects import Log
from entrypoint.core.state import State
from entrypoint.core.upgrade_state import UpgradeState, UpgradeStateError, restore
from entrypoint.lean.level import Level
from entrypoint.lean.record import record
from entrypoint.options.command_line import Serve
from entrypoint.options.settings import Settings
from entrypoint.options.vips import parse_vips
from entrypoint.pid1.configurations import Configurations
from entrypoint.pid1.launch import HaproxyLaunch, variables_while_reading
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.supervisor import Supervisor
from entrypoint.pid1.upgrade import REHEARSAL_VARIABLE, testify, unwrap
from entrypoint.system import files, instances, signals
from entrypoint.system.files import PidFile
from entrypoint.system.getsocks.adopted import Adopted
from entrypoint.system.listeners.listeners import Listeners
from entrypoint.system.listeners.places import ListenError
from entrypoint.system.log import Logger
from entrypoint.system.packets import PacketSocket
from entrypoint.system.predecessor import find
from entrypoint.system.processes import Processes, raise_open_files
from entrypoint.system.sd_notify import Notifier

SPARE_DESCRIPTORS = 1792
"""Room for what is not a VIP: some for each generation, one for each client (see `control_server`), and our own few."""
_KEPT_CAPABILITIES = ("net_bind_service", "setuid", "setgid", "sys_chroot", "kill")
"""What haproxy needs to bind and to switch user and root, and what we need to signal it afterwards."""
_MOST_TOLD = 10
_AUTO, _OFF = "auto", "off"
"""Words that `--watch` takes instead of a path."""


@record(frozen=True)
class Setting:
    """What every mode of safe_reload has arranged already."""

    name: str
    environment: Mapping[str, str]
    logger: Logger
    processes: Processes
    inherited: signals.Inherited


def serve(command: Serve, settings: Settings, setting: Setting) -> int:
    """Serve until the end; return the exit status.

    Raises:
        ListenError: a VIP, or the pid file, cannot be had.
        UpgradeStateError: what the last life left cannot be taken over.
        OSError: something else cannot.

    """
    environment, logger = setting.environment, setting.logger
    left = unwrap(environment)
    vips = parse_vips(command.vips) if command.vips is not None else settings.vips
    path = command.pid_file or settings.pid_file
    files.keep_from_children()
    raise_open_files(2 * len(vips) + SPARE_DESCRIPTORS)
    if signals.is_root() and not signals.can_signal_others():
        what = "root without CAP_KILL: a haproxy that switches its user could never be told to leave; add KILL"
        logger.write(Log(Level.WARNING, "no_cap_kill", what))
    listeners, adopted = Listeners(settings.backlog), Adopted()
    configurations = Configurations(logger.write, watches=settings.watch != (_OFF,))
    begun = State(settings)
    predecessor = None
    if left:
        begun = restore(settings, left.state)
        _inherit(left, listeners, adopted, configurations)
    else:
        if path and _is_taken(settings.runtime_dir, setting.name):
            what = f"the pid file {path}, or the name {setting.name}, belongs to a running instance: "
            raise ListenError(what + "stop that one, or give this one another pid file, or another --name")
        listeners.adopt(environment)
        listeners.bind(vips, freebind=settings.freebind)
        _tell_vips(logger, listeners)
        predecessor = find(path, vips) if path else None
    pid_file = _pid_file(path) if path else None
    rehearses = bool(left and environment.get(REHEARSAL_VARIABLE))
    if pid_file and begun.current and begun.current.pid:
        pid_file.restore(begun.current.pid)
    if settings.drop_caps:
        signals.keep_capabilities(*_KEPT_CAPABILITIES)
    parts = Parts(
        settings,
        setting.name,
        environment,
        logger,
        setting.processes,
        listeners,
        adopted,
        configurations,
        HaproxyLaunch(command, environment, listeners, adopted, configurations),
        Notifier({} if rehearses else environment),
        lambda line: _read(line, command, settings, setting, (path,) if path else (), frozenset(listeners.tags())),
        predecessor,
        pid_file,
        setting.inherited,
        left,
        rehearses,
    )
    supervisor = Supervisor(begun, parts)
    if left and rehearses:
        _rehearse(supervisor, environment, left)
        return 0
    return settings.status(supervisor.run())


def _rehearse(supervisor: Supervisor, environment: Mapping[str, str], left: UpgradeState) -> None:
    """Try, in the next life, all that it does first and might not survive, and touch nobody.

    Raises:
        UpgradeStateError: it cannot go on from this.

    """
    try:
        supervisor.rehearse()
    except Exception as error:  # noqa: BLE001  # whatever it is, it would keep the next life from serving
        raise UpgradeStateError(f"it would not go on: {error!r}") from None
    testify(environment, left.token)


def _is_taken(folder: str, name: str) -> bool:
    """Tell whether a running instance has this name."""
    alive, doubt = instances.look(instances.path_of(folder, name))
    return alive and not doubt


def _inherit(left: UpgradeState, listeners: Listeners, adopted: Adopted, configurations: Configurations) -> None:
    """Take over what the last life left, but for its children, its clients and its pid file."""
    listeners.restore(left.listeners)
    adopted.restore(left.adopted)
    configurations.restore(left.configurations)


def _read(
    line: PacketSocket,
    command: Serve,
    settings: Settings,
    setting: Setting,
    ours: tuple[str, ...],
    tags: frozenset[str],
) -> None:
    """Be the process that reads files; what only it needs is imported now, and never is in PID 1's memory."""
    from entrypoint.pid1.reading import Task, run  # noqa: PLC0415
    from entrypoint.system.config_snapshot.config_files import ConfigFiles  # noqa: PLC0415
    from entrypoint.system.state_file import StateFile  # noqa: PLC0415

    variables = variables_while_reading(command, setting.environment)
    watches = settings.watch != (_OFF,)
    extra = tuple(os.path.abspath(path) for path in settings.watch if path not in {_AUTO, _OFF})
    disk = ConfigFiles(command.configurations, command.folder, extra, variables, follow=watches, ours=ours)
    state_file = StateFile(settings.state_dir, setting.name) if settings.state_dir else None
    run(line, Task(disk, state_file, tags | setting.environment.keys(), watches))


def _tell_vips(logger: Logger, listeners: Listeners) -> None:
    """Say which tags a configuration can use, and where clients connect; the likeliest mistake is a wrong one."""
    told = listeners.addresses(_MOST_TOLD)
    if told:
        shown = [f"{tag} ({', '.join(addresses)})" for tag, addresses in told.items()]
        others = len(listeners.variables()) - len(told)
        more = f" and {others} more" if others else ""
        logger.write(Log(Level.INFO, "bound", f"bound the VIPs {', '.join(shown)}{more}"))
    else:
        logger.write(Log(Level.INFO, "no_vips", "no VIPs (--vips): haproxy binds, and safe_reload holds what it binds"))


def _pid_file(path: str) -> PidFile:
    try:
        return PidFile(path)
    except OSError as error:
        raise ListenError(f"the pid file {path} cannot be written: {error.strerror or error}") from error
