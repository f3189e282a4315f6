"""How new processes are started: command, environment, descriptors."""

from __future__ import annotations

import os
from itertools import pairwise

from entrypoint.haproxy import lua, quic
from entrypoint.haproxy.server_state import HOLD
from entrypoint.lean.collections import Callable, Mapping
from entrypoint.lean.record import record
from entrypoint.options.command_line import Serve, with_configuration, without_configurations
from entrypoint.options.inheritance import VARIABLE as INHERITED_VARIABLE
from entrypoint.options.settings import Settings
from entrypoint.pid1.configurations import Configurations
from entrypoint.pid1.datagram_turns import Turn
from entrypoint.system.getsocks.offer import Adopted, SocketOffer
from entrypoint.system.haproxy_cli import CliChannel
from entrypoint.system.listeners import Listeners
from entrypoint.system.processes import SpawnSpec
from entrypoint.system.stderr_pipe import StderrPipe
from entrypoint.system.ticket_keys import TicketKeys

GENERATION_VARIABLE = "SAFE_RELOAD_GENERATION"
"""Tells each haproxy its generation's number."""
TICKET_KEYS_VARIABLE = "SAFE_RELOAD_TLS_TICKET_KEYS"
"""The path of the keys for its TLS session tickets."""

IS_MASTER = "safe_reload is the master already"
_OURS = ("NOTIFY_SOCKET", "FDSTORE", INHERITED_VARIABLE, "SAFE_RELOAD_HEIR", "SAFE_RELOAD_REHEARSAL")
_OURS_BY_PREFIX = ("WATCHDOG_", "LISTEN_")

_EXPORTER_NEEDS = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH")
_EXPORTER_NEEDS_BY_PREFIX = ("LC_", "PYTHON")
"""Python needs them to be found and to start; the exporter reads no others."""


class RefusedError(Exception):
    """A generation must not be started; the text is one line for the user."""


@record(frozen=True)
class Prelude:
    """What a generation does before it serves."""

    script: int | None = None
    """A descriptor of a Lua script that it runs."""
    holds: bool = False
    """It accepts clients only once it is told to (`server_state.RELEASE`)."""


@record()
class PreparedChild:
    """A process that is about to be started, and our channels to it."""

    spec: SpawnSpec
    channel: CliChannel | None = None
    stderr: StderrPipe | None = None
    offer: SocketOffer | None = None
    passed: tuple[int, ...] = ()
    """Descriptors that only the new process needs."""

    def spawned(self) -> None:
        """Close what belongs to the new process."""
        for end in (self.channel, self.offer):
            if end:
                end.spawned()
        for descriptor in self.passed:
            os.close(descriptor)

    def close(self) -> None:
        """Close our channels to it."""
        for end in (self.channel, self.stderr, self.offer):
            if end:
                end.close()


@record(frozen=True)
class HaproxyLaunch:
    """How a generation of haproxy is started: with the VIPs, our channels to it, and no other descriptor of ours."""

    command: Serve
    environment: Mapping[str, str]
    listeners: Listeners
    adopted: Adopted
    configurations: Configurations
    ticket_keys: TicketKeys

    def of(self, number: int, *, kept: bool, prelude: Prelude, turn: Turn) -> PreparedChild:
        """Return what to start, and our channels to it.

        Args:
            number: of the generation.
            kept: start it from the last known good configuration.
            prelude: what it does before it serves.
            turn: its datagram sockets.

        Raises:
            RefusedError: the configuration has `master-worker`.
            OSError: the channels cannot be created.

        """
        if kept:
            passed = tuple(self.configurations.last_known_good())
            paths = [word for descriptor in passed for word in ("-f", f"/dev/fd/{descriptor}")]
            arguments = (*without_configurations(self.command.arguments), *paths)
            return self._prepared(number, arguments, passed, prelude, turn, kept=kept)
        given = self.configurations.given(number)
        if given and given.master_worker:
            raise RefusedError(REFUSAL.format(given.master_worker))
        return self._prepared(number, self.command.arguments, (), prelude, turn, kept=kept)

    def _prepared(
        self,
        number: int,
        arguments: tuple[str, ...],
        passed: tuple[int, ...],
        prelude: Prelude,
        turn: Turn,
        *,
        kept: bool,
    ) -> PreparedChild:
        prepared = PreparedChild(_NOTHING, passed=passed)
        try:
            mentions = self.configurations.mentions(number, kept=kept)
            if quic.always_retries(mentions):
                turn.secret = turn.inherited_secret
            fragment = (HOLD if prelude.holds else "") + quic.secret_fragment(turn.secret, mentions)
            script = () if prelude.script is None else (prelude.script,)
            if script:
                fragment += lua.fragment(f"/dev/fd/{prelude.script}", mentions or (), holds=prelude.holds)
            prepared.channel = channel = CliChannel(fragment=fragment)
            prepared.stderr = pipe = StderrPipe()
            prepared.offer = offer = self.adopted.offer(turn.in_place_of) if self.adopted.sockets else None
            ticket_keys = self.ticket_keys.of_a_candidate()
        except BaseException:
            prepared.spawned()
            prepared.close()
            raise
        environment = {
            **haproxy_environment(self.environment),
            **self.listeners.variables(),
            GENERATION_VARIABLE: str(number),
            TICKET_KEYS_VARIABLE: f"/dev/fd/{ticket_keys}",
        }
        taken = ("-x", offer.argument) if offer else ()
        datagrams = {number: one.fileno() for number, one in turn.vips.items()}
        vips = (descriptor for _, descriptor in self.listeners.descriptors() if descriptor not in datagrams)
        ours = (ticket_keys, *channel.inherited, *(offer.inherited if offer else ()), *script)
        descriptors = (*vips, *ours, *passed)
        prepared.spec = SpawnSpec(
            (self.command.program, "-db", *taken, *with_configuration(arguments, channel.configuration)),
            environment,
            descriptors,
            datagrams,
            stderr=pipe.writer,
        )
        return prepared


_NOTHING = SpawnSpec((), {})
REFUSAL = "{}: remove `master-worker`: " + IS_MASTER


def haproxy_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for haproxy: all but those that systemd sets for us (sd_notify(3), sd_listen_fds(3))."""
    return {n: v for n, v in environment.items() if n not in _OURS and not n.startswith(_OURS_BY_PREFIX)}


def variables_while_reading(command: Serve, environment: Mapping[str, str]) -> dict[str, str]:
    """Return haproxy's variables, with those that it sets before it reads a configuration (manual, section 2.3)."""
    arguments = without_configurations(command.arguments)
    given = [value for word, value in pairwise(arguments) if word == "-L"]
    return {**haproxy_environment(environment), "HAPROXY_LOCALPEER": given[-1] if given else os.uname().nodename}


def exporter_spec(
    settings: Settings, name: str, environment: Mapping[str, str], launcher: Callable[[], tuple[str, ...]]
) -> SpawnSpec:
    """Return how the exporter is started: with what it needs to find us, and no variables that may be secrets."""
    words = (*launcher(), "exporter", "--listen", settings.exporter or "", "--name", name)
    variables = {
        n: v for n, v in environment.items() if n in _EXPORTER_NEEDS or n.startswith(_EXPORTER_NEEDS_BY_PREFIX)
    }
    counters = ("--exporter-counters",) if settings.exporter_counters else ()
    log_format = ("--log-format", str(settings.log_format))
    return SpawnSpec((*words, "--runtime-dir", settings.runtime_dir, *log_format, *counters), variables)
