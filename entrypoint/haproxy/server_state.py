"""What a new haproxy has to be told about its servers, so that it goes on where the one before it was.

`show servers state` says what there is, `set server` repeats it (HAProxy's management guide, section 9.3). The values
are those of `server-t.h` and `check-t.h` in HAProxy's source; they are the same from HAProxy 2.6 to 3.5.

Only what differs from a server's beginning is kept: it is down, somebody has changed its administrative state or its
weight, or has disabled its checks. All other servers begin as haproxy begins them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from entrypoint.lean.record import record, replace

TABLE = "show servers state"
STIRRED = b"Server "
"""In each line that haproxy writes to stderr when the state of a server changes."""
_MOST_BACKENDS = 20
"""For more backends than this, one question about all of them is shorter."""
_LEGAL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:")
"""The letters of names (manual, section 4.2). haproxy is not trusted: a name must not become a command."""

_STOPPED, _STOPPING = "0", "3"
_FORCED_MAINTENANCE, _CONFIGURED_MAINTENANCE, _FORCED_DRAIN = 0x01, 0x04, 0x08
_DNS_MAINTENANCE = 0x20
"""DNS has no address."""
_ANY_MAINTENANCE = 0x03 | _DNS_MAINTENANCE
"""Forced, inherited from a tracked server, or because DNS has no address."""
_CHECK_CONFIGURED, _CHECK_ENABLED = 0x02, 0x04

_COLUMNS = (
    *("be_name", "srv_name", "srv_op_state", "srv_admin_state", "srv_uweight", "srv_iweight"),
    *("srv_check_state", "srv_agent_state", "srv_fqdn", "srvrecord", "srv_addr", "srv_port"),
    *("srv_use_ssl", "srv_check_port", "srv_check_addr", "srv_agent_addr", "srv_agent_port"),
)

INIT_STATE = "init-state"
LUA = "lua-load"
_DNS = "resolvers"
_RATE = "maxconnrate"
NO_SCRIPT = ("zero-warning", "tune.lua.maxmem", "tune.lua.openlibs")
MENTIONS = (INIT_STATE, LUA, _DNS, _RATE, *NO_SCRIPT)
"""Words of a configuration that make a difference here."""

HEALTH, STATE, WEIGHT, CHECKS, AGENT = "health", "state", "weight", "checks", "agent"
_TOLD = {
    HEALTH: "set server {0} health {1}",
    STATE: "set server {0} state {1}",
    WEIGHT: "set server {0} weight {1}",
    CHECKS: "disable health {0}",
    AGENT: "disable agent {0}",
}
_UNDONE = {
    STATE: "set server {0} state ready",
    WEIGHT: "set server {0} weight 100%",
    CHECKS: "enable health {0}",
    AGENT: "enable agent {0}",
}
_CHANGES = frozenset(
    {
        *((HEALTH, value) for value in ("up", "down", "stopping")),
        *((STATE, value) for value in ("maint", "drain", "ready")),
        *((CHECKS, ""), (AGENT, "")),
    }
)
"""Each that has no number."""
_SHOWN = {CHECKS: "checks disabled", AGENT: "agent disabled"}


@record(frozen=True)
class ServerState:
    """What is kept of one server."""

    name: str
    """BACKEND/SERVER."""
    configured: tuple[str, ...]
    """What the configuration says about it."""
    weight: str
    """Its configured weight."""
    changes: tuple[tuple[str, str], ...]
    """What is different now, each with its value."""

    def __str__(self) -> str:
        """Return it for people, such as `app/b DOWN`."""
        words = (
            _SHOWN.get(what) or (f"weight {value}" if what == WEIGHT else value.upper()) for what, value in self.changes
        )
        return f"{self.name} {', '.join(words)}"


@record(frozen=True)
class _Row:
    """A server in an answer to `show servers state`."""

    name: str
    operational: str
    administrative: int
    weight: str
    initial_weight: str
    check: int
    agent: int
    configured: tuple[str, ...]

    @property
    def is_checked(self) -> bool:
        return bool((self.check | self.agent) & _CHECK_CONFIGURED)

    @property
    def is_disabled(self) -> bool:
        """Whether the configuration says `disabled`."""
        return bool(self.administrative & _CONFIGURED_MAINTENANCE)


def kept(answer: str, mentions: Collection[str] | None = ()) -> dict[str, ServerState]:
    """Return what is to be kept, by name, from the answer to `show servers state`.

    Args:
        answer: of the haproxy whose servers these are.
        mentions: those of MENTIONS that its configuration has; None if they are not known.

    """
    found = {}
    begin_up = INIT_STATE not in (mentions or ())
    for fields in _lines(answer, usual=not begin_up):
        row = _row(fields)
        changes = tuple(_changes(row, begins_up=begin_up)) if row else ()
        if row and changes:
            found[row.name] = ServerState(row.name, row.configured, row.initial_weight, changes)
    return found


_USUAL = frozenset(
    str(state) for state in range(32) if state & (_CHECK_CONFIGURED | _CHECK_ENABLED) != _CHECK_CONFIGURED
)
"""States of checks that nobody has disabled."""


def resolved(answer: str) -> tuple[dict[str, int], frozenset[str]]:
    """Return what DNS has found, from an answer to `show servers state`.

    Returns:
        By backend the number of servers with a name and an address; and the backends that have a name without one.

    """
    numbers: dict[str, int] = {}
    missing = set()
    for fields in _lines(answer):
        backend, administrative, fqdn, srv = fields[0], fields[3], fields[8], fields[9]
        if (fqdn, srv) == ("-", "-"):
            continue
        if administrative.isdigit() and int(administrative) & _DNS_MAINTENANCE:
            missing.add(backend)
        else:
            numbers[backend] = numbers.get(backend, 0) + 1
    return numbers, frozenset(missing)


def uses_dns(mentions: Collection[str] | None) -> bool:
    """Tell whether DNS may find addresses while haproxy serves."""
    return mentions is not None and _DNS in mentions


def _lines(answer: str, *, usual: bool = True) -> Iterator[tuple[str, ...]]:
    """Yield the fields of each server, in the order of _COLUMNS; `usual` are those that have nothing to keep."""
    places: list[int] = []
    width = most = 0
    for line in answer.splitlines():
        if line.startswith("# be_id "):
            names = line[2:].split(" ")
            width = len(names)
            # An older HAProxy has fewer columns; a dash stands for the others.
            places = [names.index(column) if column in names else width for column in _COLUMNS]
            _, _, operational, administrative, weight, initial, check, agent, *_ = places
            most = agent + 1
            continue
        if not places:
            continue
        if not usual:
            # There can be 10,000 servers, of which nearly all end here.
            first = line.split(" ", most)
            if (
                len(first) > most
                and first[operational] == "2"
                and first[administrative] == "0"
                and first[weight] == first[initial]
                and first[check] in _USUAL
                and first[agent] in _USUAL
            ):
                continue
        fields = (*line.split(" "), "-")
        if len(fields) == width + 1:
            yield tuple([fields[place] for place in places])


def _row(fields: tuple[str, ...]) -> _Row | None:
    """Return a server; None if haproxy would not say that."""
    backend, server, operational, administrative, weight, initial, check, agent, fqdn, srv, address, *rest = fields
    try:
        flags, check_flags, agent_flags = int(administrative), int(check), int(agent)
    except ValueError:
        return None
    if not weight.isdigit() or not _LEGAL.issuperset(backend) or not _LEGAL.issuperset(server):
        return None
    port, *others = rest
    # DNS finds the address of a name, and with an SRV record the name and the port as well.
    place = (srv,) if srv != "-" else (fqdn, port) if fqdn != "-" else (address, port)
    bits = (check_flags & _CHECK_CONFIGURED, agent_flags & _CHECK_CONFIGURED, flags & _CONFIGURED_MAINTENANCE)
    configured = (*place, *others, *map(str, bits))
    return _Row(f"{backend}/{server}", operational, flags, weight, initial, check_flags, agent_flags, configured)


def _changes(row: _Row, *, begins_up: bool) -> Iterator[tuple[str, str]]:
    if row.check & (_CHECK_CONFIGURED | _CHECK_ENABLED) == _CHECK_CONFIGURED:
        yield CHECKS, ""
    if row.agent & (_CHECK_CONFIGURED | _CHECK_ENABLED) == _CHECK_CONFIGURED:
        yield AGENT, ""
    # Without checks it would stay down for ever.
    if row.is_checked and not row.administrative & _ANY_MAINTENANCE:
        if row.operational == _STOPPED:
            yield HEALTH, "down"
        elif row.operational == _STOPPING:
            yield HEALTH, "stopping"
        elif not begins_up:
            # With `init-state` a server may begin down.
            yield HEALTH, "up"
    state = _administrative(row)
    if state:
        yield STATE, state
    if row.weight != row.initial_weight:
        yield WEIGHT, row.weight


def _administrative(row: _Row) -> str:
    """Return what somebody has set at run time; empty if nobody has."""
    if row.administrative & _FORCED_DRAIN:
        return "drain"
    if row.administrative & _FORCED_MAINTENANCE:
        return "" if row.is_disabled else "maint"
    return "ready" if row.is_disabled else ""


def without_health(states: Mapping[str, ServerState], changed: Collection[str]) -> dict[str, ServerState]:
    """Return the states without the health of servers that are checked differently now.

    Args:
        states: by the server's name.
        changed: names of backends, and of servers as BACKEND/SERVER.

    """
    found = {}
    for name, state in states.items():
        changes = state.changes
        if name in changed or name.partition("/")[0] in changed:
            changes = tuple(change for change in changes if change[0] != HEALTH)
        if changes:
            found[name] = replace(state, changes=changes)
    return found


def commands(states: Iterable[ServerState]) -> Iterator[str]:
    """Yield the commands that tell a new haproxy all of it. One that does not apply is answered with an error."""
    for state in states:
        for what, value in state.changes:
            yield _TOLD[what].format(state.name, value)


HOLD = f"  {_RATE} 1\n"
"""For the `global` section: haproxy accepts one client, and others wait until RELEASE."""
RELEASE = "set rate-limit connections global 0"


def may_hold(mentions: Collection[str] | None) -> bool:
    """Tell whether HOLD and RELEASE change nothing of the configuration."""
    return mentions is not None and _RATE not in mentions


def questions(states: Iterable[ServerState]) -> tuple[str, ...]:
    """Return the commands that ask a new haproxy how these servers are configured."""
    return about(dict.fromkeys(state.name.partition("/")[0] for state in states))


def about(backends: Collection[str]) -> tuple[str, ...]:
    """Return the commands that ask for the states of the servers of these backends."""
    if len(backends) > _MOST_BACKENDS:
        return (TABLE,)
    return tuple(f"{TABLE} {backend}" for backend in backends)


@record(frozen=True)
class Corrections:
    """What is left of the states that a new haproxy was told."""

    kept: tuple[ServerState, ...]
    """What applies there."""
    commands: tuple[str, ...]
    """What undoes the rest."""


def corrections(told: Mapping[str, ServerState], now: Mapping[str, ServerState], answer: str) -> Corrections:
    """Compare what a new haproxy was told with its own configuration.

    Args:
        told: what it was told, by the server's name.
        now: what it would be told now; it may have changed since.
        answer: its answer to `questions`.

    """
    remaining: list[ServerState] = []
    undo: list[str] = []
    for fields in _lines(answer):
        state = told.get(f"{fields[0]}/{fields[1]}")
        row = _row(fields) if state else None
        if not state or not row:
            continue
        if row.configured != state.configured or now.get(row.name) != state:
            undo += _undone(row, state.changes)
            continue
        changes = state.changes
        if row.initial_weight != state.weight:
            changes = tuple(change for change in changes if change[0] != WEIGHT)
            undo += _undone(row, (change for change in state.changes if change[0] == WEIGHT))
        if changes:
            remaining.append(replace(state, changes=changes))
    later = [state for name, state in now.items() if told.get(name) != state]
    return Corrections(tuple(remaining), (*undo, *commands(later)))


def _undone(row: _Row, changes: Iterable[tuple[str, str]]) -> Iterator[str]:
    for what, _ in changes:
        if what == HEALTH:
            # A server that leaves maintenance begins as at the start of haproxy.
            yield _TOLD[STATE].format(row.name, "maint")
        yield _UNDONE.get(what, _UNDONE[STATE]).format(row.name)
    if row.is_disabled:
        yield _TOLD[STATE].format(row.name, "maint")


# ---- as text ---------------------------------------------------------------------------------------------------------


def to_text(states: Iterable[ServerState]) -> str:
    """Write them, a line each."""
    return "".join(
        f"{state.name} {state.weight} {','.join('='.join(change) for change in state.changes)}"
        f" {' '.join(state.configured)}\n"
        for state in states
    )


def from_text(text: str) -> dict[str, ServerState]:
    """Read what `to_text` wrote, by name.

    Raises:
        ValueError: it did not.

    """
    found = {}
    for line in text.splitlines():
        name, weight, listed, *configured = line.split(" ")
        changes = tuple((what, value) for what, _, value in (change.partition("=") for change in listed.split(",")))
        valid = all(change in _CHANGES or (change[0] == WEIGHT and change[1].isalnum()) for change in changes)
        if not valid or not _LEGAL.issuperset(name.replace("/", "", 1)):
            raise ValueError(f"not the state of a server: {line[:80]!r}")
        found[name] = ServerState(name, tuple(configured), weight, changes)
    return found
