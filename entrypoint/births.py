"""What a new process is made of: its words, its variables, its descriptors."""

from collections.abc import Mapping

from entrypoint.core.command import Serve
from entrypoint.core.configuration import line_of_master_worker
from entrypoint.core.records import dataclass
from entrypoint.system import files
from entrypoint.system.cli_channel import CliChannel
from entrypoint.system.listeners import Listeners
from entrypoint.system.processes import Birth
from entrypoint.system.signals import INHERITED_VARIABLE

GENERATION_VARIABLE = "SAFE_RELOAD_GENERATION"
"""Tells each haproxy its generation's number."""

_OURS = ("NOTIFY_SOCKET", "FDSTORE", INHERITED_VARIABLE)
_OURS_BY_PREFIX = ("WATCHDOG_", "LISTEN_")


class RefusedError(Exception):
    """A generation that may not be started; its text is one line for the user."""


@dataclass(frozen=True, slots=True)
class ProgramBirth:
    """How any program that is not haproxy is started: with everything we have ourselves."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    descriptors: tuple[int, ...] = ()

    def of(self, _number: int) -> tuple[Birth, None]:
        """Return what to start."""
        environment = {name: value for name, value in self.environment.items() if name != INHERITED_VARIABLE}
        return Birth(self.words, environment, self.descriptors, foreground=True), None


@dataclass(frozen=True, slots=True)
class HaproxyBirth:
    """How a generation of haproxy is started: with the VIPs, a private line to its CLI, and nothing else of ours."""

    command: Serve
    environment: Mapping[str, str]
    listeners: Listeners

    def of(self, number: int) -> tuple[Birth, CliChannel]:
        """Return what to start, and the line to it.

        Raises:
            RefusedError: the configuration would defeat the purpose.
            OSError: the line cannot be made.

        """
        for path in files.configuration_files(self.command.configurations, self.command.folder):
            refuse_master_worker(path, files.read(path))
        channel = CliChannel()
        vips = self.listeners.tags()
        environment = {
            **haproxy_environment(self.environment),
            **{tag: str(descriptor) for tag, descriptor in vips.items()},
            GENERATION_VARIABLE: str(number),
        }
        words = (self.command.program, "-db", "-f", channel.configuration, *self.command.arguments)
        birth = Birth(words, environment, (*vips.values(), *channel.inherited))
        return birth, channel


def refuse_master_worker(path: str, text: bytes) -> None:
    """Refuse a configuration that would make haproxy fork behind our back.

    Raises:
        RefusedError: it would.

    """
    line = line_of_master_worker(text)
    if line:
        raise RefusedError(f"{path}:{line}: remove `master-worker`: safe_reload is the master already")


def haproxy_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for haproxy: all but what systemd means for us (sd_notify(3), sd_listen_fds(3))."""
    return {n: v for n, v in environment.items() if n not in _OURS and not n.startswith(_OURS_BY_PREFIX)}
