"""How a haproxy that does not serve is started: for `safe_reload check`, or with options such as haproxy's own -c."""

from __future__ import annotations

from entrypoint.core.effects import Log
from entrypoint.haproxy.config_text import line_of_master_worker, sharing_ticket_keys, tags
from entrypoint.lean import contextlib
from entrypoint.lean.collections import Callable, Iterable, Mapping, Sequence
from entrypoint.lean.level import Level
from entrypoint.options.command_line import Check, RunOnce, read_by
from entrypoint.options.settings import Settings, instance_name
from entrypoint.options.vips import UDP
from entrypoint.pid1.bootstrap import SPARE_DESCRIPTORS
from entrypoint.pid1.launch import GENERATION_VARIABLE, REFUSAL, TICKET_KEYS_VARIABLE, RefusedError, haproxy_environment
from entrypoint.system import files
from entrypoint.system.listeners import Listeners
from entrypoint.system.log import Logger
from entrypoint.system.processes import SpawnSpec, raise_open_files
from entrypoint.system.ticket_keys import TicketKeys

_MOST_LISTED = 10
_TagsOf = Callable[[str, str | None], Mapping[str, list[str]]]


def spec_of(
    command: RunOnce | Check,
    settings: Settings,
    environment: Mapping[str, str],
    logger: Logger,
    listeners: Listeners,
    tags_of_instance: _TagsOf,
) -> SpawnSpec:
    """Return how a haproxy that does not serve is started.

    Args:
        command: what was asked for.
        settings: from options and environment.
        environment: for haproxy.
        logger: gets warnings.
        listeners: own the stand-in sockets, and must live until haproxy has been started.
        tags_of_instance: returns the tags of the instance that runs, given the runtime directory and a name.

    Raises:
        OSError: a file cannot be read, or a stand-in socket cannot be made.
        RefusedError: the configuration would make haproxy fork.

    """
    if isinstance(command, Check):
        found = _tags_to_check(command, logger)
        environment = {**environment, GENERATION_VARIABLE: "1"}
    else:
        found = _tags_of(*read_by(command.words[1:]))
    running = _running(settings, found, tags_of_instance)
    if isinstance(command, Check):
        _warn_of_unknown([tag for tag in _missing(settings, found) if tag not in running], logger, beside=bool(running))
    return _with_stand_ins(command.words, settings, environment, listeners, found, running)


def _tags_to_check(command: Check, logger: Logger) -> dict[str, bool]:
    found: dict[str, bool] = {}
    paths = files.configuration_files(command.configurations, command.folder)
    texts = [(path, files.read(path)) for path in paths]
    for path, text in texts:
        line = line_of_master_worker(text)
        if line:
            raise RefusedError(REFUSAL.format(f"{path}:{line}"))
        found |= tags(text)
    shared = sharing_ticket_keys(texts)
    if shared:
        logger.write(Log(Level.WARNING, "shared_ticket_keys", shared))
    return found


def _warn_of_unknown(unknown: Sequence[str], logger: Logger, *, beside: bool) -> None:
    """Warn of tags that are no VIPs, neither of these options nor, `beside` one, of the running instance."""
    if not unknown:
        return
    more = f" and {len(unknown) - _MOST_LISTED} more" if len(unknown) > _MOST_LISTED else ""
    names = f"{', '.join(unknown[:_MOST_LISTED])}{more}"
    what = f"not in --vips: {names}; checked with a stand-in socket for each: to run it, give these VIPs"
    if beside:
        what = f"the instance that runs here has no VIP {names}: it would refuse this; checked with a stand-in socket"
    logger.write(Log(Level.WARNING, "stand_ins", what))


def _missing(settings: Settings, named: Iterable[str]) -> list[str]:
    declared = {vip.tag for vip in settings.vips}
    return [tag for tag in named if tag not in declared]


def _running(settings: Settings, named: Iterable[str], tags_of_instance: _TagsOf) -> Mapping[str, list[str]]:
    """Return the tags of the running instance, if --vips is empty and the configuration needs some."""
    if settings.vips or not _missing(settings, named):
        return {}
    name = settings.name or (instance_name(settings.pid_file) if settings.pid_file else None)
    return tags_of_instance(settings.runtime_dir, name)


def _tags_of(configurations: Sequence[str], folder: str | None) -> dict[str, bool]:
    """Return the tags in these files; haproxy itself reports files that cannot be read."""
    found: dict[str, bool] = {}
    for configuration in configurations:
        with contextlib.suppress(OSError):
            for path in files.configuration_files((configuration,), folder):
                found |= tags(files.read(path))
    return found


def _with_stand_ins(
    words: tuple[str, ...],
    settings: Settings,
    environment: Mapping[str, str],
    listeners: Listeners,
    named: Mapping[str, bool],
    running: Mapping[str, list[str]],
) -> SpawnSpec:
    """Return how a haproxy that does not serve is started: with a stand-in socket for each VIP.

    A tag gets as many sockets as in the running instance, because some `bind` keywords allow only one.
    """
    missing = _missing(settings, named)
    others = [(tag, scheme) for tag in missing for scheme in running.get(tag, [UDP if named[tag] else ""])]
    raise_open_files(2 * len(settings.vips) + len(others) + SPARE_DESCRIPTORS)
    listeners.stand_in(settings.vips, others)
    ticket_keys = TicketKeys().of_a_candidate()
    variables = {
        **haproxy_environment(environment),
        **listeners.variables(),
        TICKET_KEYS_VARIABLE: f"/dev/fd/{ticket_keys}",
    }
    descriptors = (*(descriptor for _, descriptor in listeners.descriptors()), ticket_keys)
    return SpawnSpec(words, variables, descriptors, foreground=True)
