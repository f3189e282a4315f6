"""Assembles PID 1: does everything that can fail before the first process, or restores the previous program's state."""

from __future__ import annotations

import os

from entrypoint.core.effects import Log
from entrypoint.core.state import State
from entrypoint.core.upgrade_state import UpgradeState, UpgradeStateError, restore
from entrypoint.lean.collections import Mapping
from entrypoint.lean.level import Level
from entrypoint.lean.record import record
from entrypoint.options.command_line import Serve
from entrypoint.options.settings import Settings
from entrypoint.options.vips import parse_vips
from entrypoint.pid1.configurations import Configurations
from entrypoint.pid1.launch import HaproxyLaunch, variables_while_reading
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.supervisor import Supervisor
from entrypoint.pid1.upgrade import REHEARSAL_VARIABLE, read_state, report_success
from entrypoint.system import files, instances, signals
from entrypoint.system.files import PidFile
from entrypoint.system.getsocks.offer import Adopted
from entrypoint.system.listeners import Listeners
from entrypoint.system.listeners.places import ListenError
from entrypoint.system.log import Logger
from entrypoint.system.packets import PacketSocket
from entrypoint.system.processes import Processes, raise_open_files
from entrypoint.system.sd_notify import Notifier
from entrypoint.system.ticket_keys import TicketKeys

SPARE_DESCRIPTORS = 1792
"""For everything but VIPs: a few for each generation, one for each client (see `control_server`), and our own."""
_KEPT_CAPABILITIES = ("net_bind_service", "setuid", "setgid", "sys_chroot", "kill")
"""haproxy needs them to bind and to switch user and root; PID 1 needs them to signal it afterwards."""
_MOST_LISTED = 10
_AUTO, _OFF = "auto", "off"
"""Values of `--watch` that are not paths."""


@record(frozen=True)
class Setting:
    """What all modes of safe_reload share."""

    name: str
    environment: Mapping[str, str]
    logger: Logger
    processes: Processes
    inherited: signals.Inherited


def serve(command: Serve, settings: Settings, setting: Setting) -> int:
    """Serve until the end; return the exit status.

    Raises:
        ListenError: a VIP cannot be bound, or the pid file cannot be written.
        UpgradeStateError: the previous program's state cannot be restored.
        OSError: another system call failed.

    """
    environment, logger = setting.environment, setting.logger
    saved = read_state(environment)
    vips = parse_vips(command.vips) if command.vips is not None else settings.vips
    path = command.pid_file or settings.pid_file
    files.keep_from_children()
    raise_open_files(sum(8 if vip.scheme else 2 for vip in vips) + SPARE_DESCRIPTORS)
    if os.geteuid() == 0 and not signals.can_signal_others():
        what = "root without CAP_KILL: cannot stop a haproxy that switches its user; add KILL"
        logger.write(Log(Level.WARNING, "no_cap_kill", what))
    listeners, adopted = Listeners(settings.backlog), Adopted()
    configurations = Configurations(logger.write, watches=settings.watch != (_OFF,))
    state = State(settings)
    predecessor = None
    if saved:
        state = restore(settings, saved.state)
        listeners.restore(saved.listeners)
        adopted.restore(saved.adopted)
        configurations.restore(saved.configurations)
    else:
        alive, doubt = instances.look(instances.path_of(settings.runtime_dir, setting.name)) if path else (False, "")
        if alive and not doubt:
            what = f"the pid file {path}, or the name {setting.name}, belongs to a running instance: "
            raise ListenError(what + "stop that one, or give this one another pid file, or another --name")
        listeners.adopt(environment)
        listeners.bind(vips, freebind=settings.freebind)
        _log_vips(logger, listeners)
        if path:
            from entrypoint.system.predecessor import find  # noqa: PLC0415  # without a pid file there is none to find

            predecessor = find(path, vips)
    ticket_keys = TicketKeys(saved.ticket_keys if saved else None)
    pid_file = _pid_file(path) if path else None
    rehearses = bool(saved and environment.get(REHEARSAL_VARIABLE))
    if pid_file and state.current and state.current.pid:
        pid_file.restore(state.current.pid)
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
        ticket_keys,
        HaproxyLaunch(command, environment, listeners, adopted, configurations, ticket_keys),
        Notifier({} if rehearses else environment),
        lambda line: _read(line, command, settings, setting, (path,) if path else (), frozenset(listeners.tags())),
        predecessor,
        pid_file,
        setting.inherited,
        saved,
        rehearses,
    )
    supervisor = Supervisor(state, parts)
    if saved and rehearses:
        _rehearse(supervisor, environment, saved)
        return 0
    return settings.status(supervisor.run())


def _rehearse(supervisor: Supervisor, environment: Mapping[str, str], saved: UpgradeState) -> None:
    """Dry run in the new process: check what could make it crash right after the exec."""
    try:
        supervisor.rehearse()
    except Exception as error:  # noqa: BLE001  # any exception would keep the new program from serving
        raise UpgradeStateError(f"it would not serve: {error!r}") from None
    report_success(environment, saved.token)


def _read(
    line: PacketSocket,
    command: Serve,
    settings: Settings,
    setting: Setting,
    ours: tuple[str, ...],
    tags: frozenset[str],
) -> None:
    """Run in the reader process; its imports stay out of PID 1's memory."""
    from entrypoint.core.look import KEEP, KEEP_SERVERS, RESTORE, RESTORE_SERVERS  # noqa: PLC0415
    from entrypoint.pid1.reading import Task, run  # noqa: PLC0415
    from entrypoint.system.config_snapshot import ConfigFiles  # noqa: PLC0415
    from entrypoint.system.state_file import StateFile  # noqa: PLC0415

    variables = variables_while_reading(command, setting.environment)
    watches = settings.watch != (_OFF,)
    extra = tuple(os.path.abspath(path) for path in settings.watch if path not in {_AUTO, _OFF})
    disk = ConfigFiles(command.configurations, command.folder, extra, variables, follow=watches, ours=ours)
    state_files = {}
    if settings.state_dir:
        configuration = StateFile(settings.state_dir, setting.name)
        servers = StateFile(settings.state_dir, setting.name, "server-state")
        state_files = {KEEP: configuration, RESTORE: configuration, KEEP_SERVERS: servers, RESTORE_SERVERS: servers}
    run(line, Task(disk, state_files, tags | setting.environment.keys(), watches, variables, command.folder or ""))


def _log_vips(logger: Logger, listeners: Listeners) -> None:
    """Log the tags and addresses of the VIPs: a wrong tag is the likeliest mistake."""
    listed = listeners.addresses(_MOST_LISTED)
    if listed:
        shown = [f"{tag} ({', '.join(addresses)})" for tag, addresses in listed.items()]
        others = len(listeners.variables()) - len(listed)
        more = f" and {others} more" if others else ""
        logger.write(Log(Level.INFO, "bound", f"bound the VIPs {', '.join(shown)}{more}"))
    else:
        logger.write(Log(Level.INFO, "no_vips", "no VIPs (--vips): haproxy binds, and safe_reload holds what it binds"))


def _pid_file(path: str) -> PidFile:
    try:
        return PidFile(path)
    except OSError as error:
        raise ListenError(f"the pid file {path} cannot be written: {error.strerror or error}") from error
