"""What a new haproxy has to be told about its servers, so that it goes on where the one before it was.

`show servers state` says what there is, `set server` repeats it (HAProxy's management guide, section 9.3). The values
are those of `server-t.h` and `check-t.h` in HAProxy's source; they are the same from HAProxy 2.6 to 3.5.

Only what differs from a server's beginning is kept: it is down, somebody has changed its administrative state or its
weight, or has disabled its checks. All other servers begin as haproxy begins them.
"""

from __future__ import annotations

from entrypoint.haproxy.runtime_api import decimal
from entrypoint.lean.collections import Collection, Iterable, Iterator, Mapping
from entrypoint.lean.record import record, replace

TABLE = "show servers state"
SERVER_LINE = b"Server "
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
"""Every change but a weight, which has a number."""
_SHOWN = {CHECKS: "checks disabled", AGENT: "agent disabled"}


@record(frozen=True)
class ServerState:
    """What is kept of one server."""

    name: str
    """BACKEND/SERVER."""
    configured: tuple[str, ...]
    """What the configuration says about it."""
    address: str
    """It is not configured if the server has a name."""
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
    address: str

    @property
    def is_disabled(self) -> bool:
        """Whether the configuration says `disabled`."""
        return bool(self.administrative & _CONFIGURED_MAINTENANCE)


def kept(answer: str, *, begin_up: bool = True) -> dict[str, ServerState]:
    """Return what is to be kept, by name, from the answer to `show servers state`.

    Args:
        answer: of the haproxy whose servers these are.
        begin_up: a server that is up need not be kept, because it begins so.

    """
    found = {}
    for fields in _lines(answer, usual=not begin_up):
        row = _row(fields)
        changes = tuple(_changes(row, begins_up=begin_up)) if row else ()
        if row and changes:
            found[row.name] = ServerState(row.name, row.configured, row.address, row.initial_weight, changes)
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
        if (decimal(administrative) or 0) & _DNS_MAINTENANCE:
            missing.add(backend)
        else:
            numbers[backend] = numbers.get(backend, 0) + 1
    return numbers, frozenset(missing)


def addresses(answer: str) -> str:
    """Return what DNS has found as the content of a state file, from an answer to `show servers state`.

    The file has nothing else, because haproxy would take it even where the configuration says something else.
    """
    place: dict[str, int] = {}
    found = []
    for line in answer.splitlines(keepends=True):
        fields = line.split(" ")
        if line == "1\n" or line.startswith("# be_id "):
            place = {name: number - 1 for number, name in enumerate(line.split())}
            found.append(line)
        elif place and len(fields) == len(place) - 1:
            named = {fields[place["srv_fqdn"]], fields[place["srvrecord"]]} != {"-"}
            state = [fields[place[name]] for name in ("srv_op_state", "srv_admin_state", "srv_uweight")]
            if named and state == ["2", "0", fields[place["srv_iweight"]]]:
                # Otherwise the file would differ each time.
                fields[place["srv_time_since_last_change"]] = "0"
                found.append(" ".join(fields))
    return "".join(found)


def may_begin_down(mentions: Collection[str] | None) -> bool:
    """Tell whether servers may begin down (`init-state`)."""
    return INIT_STATE in (mentions or ())


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
    flags, check_flags, agent_flags = decimal(administrative), decimal(check), decimal(agent)
    if flags is None or check_flags is None or agent_flags is None or decimal(weight) is None:
        return None
    if not _LEGAL.issuperset(backend + server):
        return None
    port, *others = rest
    # DNS finds the address of a name, and with an SRV record the name and the port as well.
    place = (srv,) if srv != "-" else (fqdn, port) if fqdn != "-" else (address, port)
    bits = (check_flags & _CHECK_CONFIGURED, agent_flags & _CHECK_CONFIGURED, flags & _CONFIGURED_MAINTENANCE)
    configured = (*place, *others, *map(str, bits))
    name = f"{backend}/{server}"
    return _Row(name, operational, flags, weight, initial, check_flags, agent_flags, configured, address)


def _changes(row: _Row, *, begins_up: bool) -> Iterator[tuple[str, str]]:
    if row.check & (_CHECK_CONFIGURED | _CHECK_ENABLED) == _CHECK_CONFIGURED:
        yield CHECKS, ""
    if row.agent & (_CHECK_CONFIGURED | _CHECK_ENABLED) == _CHECK_CONFIGURED:
        yield AGENT, ""
    state = _administrative(row)
    if state:
        yield STATE, state
    # After the administrative state, because a server that leaves maintenance is up. Without checks it would stay down.
    if (row.check | row.agent) & _CHECK_CONFIGURED and not row.administrative & _ANY_MAINTENANCE:
        if row.operational == _STOPPED:
            yield HEALTH, "down"
        elif row.operational == _STOPPING:
            yield HEALTH, "stopping"
        elif not begins_up:
            yield HEALTH, "up"
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
        name = f"{fields[0]}/{fields[1]}"
        before, after = told.get(name), now.get(name)
        row = _row(fields) if before or after else None
        if not row:
            continue
        changes = _applicable(row, after) if after else ()
        gone = [change for change in before.changes if change not in changes] if before else []
        undo += _undone(row, gone)
        if after and changes:
            state = replace(after, changes=changes)
            remaining.append(state)
            if gone or before != after:
                # What is undone may have undone more.
                undo += commands((state,))
    return Corrections(tuple(remaining), tuple(undo))


def _applicable(row: _Row, state: ServerState) -> tuple[tuple[str, str], ...]:
    if row.configured != state.configured:
        return ()
    # Another configured weight wins, and another address may belong to a server that is up.
    wins = {WEIGHT: row.initial_weight != state.weight, HEALTH: row.address != state.address}
    return tuple(change for change in state.changes if not wins.get(change[0]))


def _undone(row: _Row, changes: Iterable[tuple[str, str]]) -> Iterator[str]:
    for what, _ in changes:
        if what == HEALTH or (what == STATE and row.is_disabled):
            # A server that leaves maintenance begins as at the start of haproxy; a disabled one stays there.
            yield _TOLD[STATE].format(row.name, "maint")
        if what not in {HEALTH, STATE} or not row.is_disabled:
            yield _UNDONE.get(what, _UNDONE[STATE]).format(row.name)


# ---- as text ---------------------------------------------------------------------------------------------------------


def to_text(states: Iterable[ServerState]) -> str:
    """Write them, a line each."""
    return "".join(
        f"{state.name} {state.address} {state.weight} {','.join('='.join(change) for change in state.changes)}"
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
        name, address, weight, listed, *configured = line.split(" ")
        changes = tuple((what, value) for what, _, value in (change.partition("=") for change in listed.split(",")))
        valid = all(
            change in _CHANGES or (change[0] == WEIGHT and decimal(change[1]) is not None) for change in changes
        )
        if not valid or not _LEGAL.issuperset(name.replace("/", "", 1)):
            raise ValueError(f"not the state of a server: {line[:80]!r}")
        found[name] = ServerState(name, tuple(configured), address, weight, changes)
    return found
