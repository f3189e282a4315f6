"""What safe_reload hands to the program that replaces it: one record of plain values.

An upgrade is refused while a generation starts or retires. So generations are current, draining or ending, and no
client waits for a reload.
"""

from __future__ import annotations

from entrypoint.core.state import Current, Draining, Ending, Generation, Phase, State, Transfer
from entrypoint.haproxy.runtime_api import Bind
from entrypoint.lean.collections import Mapping, Sequence
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import Any
from entrypoint.options.settings import Settings

FORMAT = 6
"""Any change of the fields needs a new number. A program with another one refuses, and the old program goes on."""

Plain = Mapping[str, Any]


class UpgradeStateError(ValueError):
    """The record cannot be used; the text is one line."""


@record(frozen=True)
class UpgradeState:
    """Everything that the next program needs. Descriptors are numbers, and are inherited under them."""

    state: Plain
    """The core's."""
    pids: Mapping[int, int]
    """Of each generation, and of the exporter."""
    helpers: Mapping[int, int]
    """The pids of our other children."""
    channels: Mapping[int, int]
    """The descriptor of each generation's private CLI."""
    stderr_pipes: Mapping[int, tuple[int, str, bytes]]
    """Of each generation's stderr: the descriptor, the remembered text, and the unfinished line."""
    versions: Mapping[int, str]
    """Version of each generation's haproxy, where it is known."""
    listeners: Sequence[tuple[str, int, bool, str, bool, Any, str, int, str]]
    datagram_turns: Plain
    """Which sockets the current generation reads, and its `cluster-secret`."""
    adopted: Sequence[tuple[int, bytes, bytes]]
    configurations: Plain
    ticket_keys: tuple[int, float]
    """The descriptor of the keys of TLS session tickets, and when they were made, on the monotonic clock."""
    readers: Sequence[int]
    """The numbers of the processes that read files."""
    control: Sequence[Any] | None
    """Path and descriptor of the control socket, and the descriptor of the client that asked for the upgrade, or -1."""
    sessions: Sequence[Plain]
    """The other clients of the control socket."""
    systemd: Plain
    """What systemd has been told."""
    history: Plain
    began: float
    """When safe_reload started, on the monotonic clock."""
    startup_logs: tuple[str, str, str]
    servers: Plain
    """The states of servers."""
    log: Plain
    descriptors: tuple[int, ...]
    """All descriptors above."""
    token: str = ""
    """A rehearsal proves with this that it got to its end; empty if this is no rehearsal."""


def as_plain(left: UpgradeState) -> dict[str, Any]:
    """Return it as plain values."""
    return {"format": FORMAT, **{name: getattr(left, name) for name in UpgradeState.__annotations__}}


def parse(plain: object) -> UpgradeState:
    """Check the record, and return it.

    Raises:
        UpgradeStateError: something is missing, or it has another format.

    """
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise UpgradeStateError(f"the state that was handed over has another format than {FORMAT}")
    found, wanted = {*plain} - {"format"}, {*UpgradeState.__annotations__}
    if found != wanted:
        names = ", ".join(sorted(map(str, found ^ wanted)))
        raise UpgradeStateError(f"the state that was handed over cannot be read, because of {names}")
    return UpgradeState(**{name: plain[name] for name in wanted})


def serialize(state: State) -> dict[str, Any]:
    """Return the state as plain values."""
    return {
        "generations": [
            {
                "number": one.number,
                "pid": one.pid,
                "phase": type(one.phase).__name__,
                "proven": isinstance(one.phase, Current) and one.phase.proven,
                "binds": [[bind.descriptor, bind.frontend, bind.mixed, bind.datagrams] for bind in one.binds],
                "doubt": one.doubt,
                "datagrams": one.datagrams,
                "digest": one.digest,
                "kept": one.kept,
                "incomplete": list(one.incomplete),
            }
            for one in state.generations
        ],
        "vips": [list(vip) for vip in state.vips],
        "taking_turns": list(state.taking_turns),
        "last_number": state.last_number,
        "deaths": state.deaths,
        "kept": state.kept,
        "failed": state.failed,
        "retried": state.retried,
        "retries": state.retries,
        "transfer": state.transfer is not None,
        "exporter": state.exporter,
        "exporters": state.exporters,
    }


def restore(settings: Settings, plain: Plain) -> State:
    """Return the state that was serialized.

    Raises:
        UpgradeStateError: it is not one.

    """
    try:
        generations = tuple(_generation(one) for one in plain["generations"])
        state = State(
            settings,
            vips=tuple((str(tag), int(descriptor)) for tag, descriptor in plain["vips"]),
            taking_turns=frozenset(map(int, plain["taking_turns"])),
            generations=generations,
            last_number=int(plain["last_number"]),
            started=True,
            deaths=int(plain["deaths"]),
            kept=str(plain["kept"]),
            failed=str(plain["failed"]),
            retried=str(plain["retried"]),
            retries=int(plain["retries"]),
            # The old program's request is gone: ask again.
            transfer=Transfer(asked=False) if plain["transfer"] else None,
            exporter=bool(plain["exporter"]),
            exporters=int(plain["exporters"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UpgradeStateError(f"the state that was handed over cannot be read: {error!r}") from None
    if not state.current:
        raise UpgradeStateError("the state that was handed over has no current generation")
    return replace(state, deaths=min(state.deaths, settings.restart_limit - 1))


def _generation(plain: Plain) -> Generation:
    phases: dict[str, Phase] = {
        "Current": Current(served=True, proven=bool(plain["proven"])),
        "Draining": Draining(),
        "Ending": Ending(),
    }
    return Generation(
        int(plain["number"]),
        phases[plain["phase"]],
        int(plain["pid"]),
        tuple(
            Bind(int(descriptor), str(frontend), bool(mixed), bool(datagrams))
            for descriptor, frontend, mixed, datagrams in plain["binds"]
        ),
        str(plain["doubt"]),
        bool(plain["datagrams"]),
        str(plain["digest"]),
        bool(plain["kept"]),
        tuple(map(str, plain["incomplete"])),
    )
