"""What haproxy has learnt about its servers survives everything; a configuration that changes a server wins."""

import re
from dataclasses import dataclass, replace

import pytest

from tests.container import client
from tests.container.cli import ask
from tests.container.conftest import DEFAULTS, IMAGES, NEWEST_STABLE, Balancer, Start
from tests.container.trouble import Crowd, Death, Ends, current, end, reload, say, status
from tests.waiting import eventually

ADMIN = "/tmp/admin.sock"
PLACE, ELSEWHERE = "127.0.0.1:8081", "127.0.0.1:8082"
"""haproxy itself, so checks succeed; too few of them to make a server UP that is DOWN."""
OFTEN = ("--restart-limit", "100000")
UP, DOWN, STOPPING = "UP", "DOWN", "STOPPING"


@dataclass(frozen=True)
class Case:
    """A server, what somebody does to it, and what must be of it afterwards."""

    line: str
    """The configuration, without `server NAME`."""
    does: tuple[str, ...] = ()
    """The ends of `set server b/NAME ...`, or whole commands with {}."""
    kept: str = UP
    """Its state afterwards, and in each haproxy with the same configuration."""
    later: str | None = None
    """The configuration in the end, if it is another one; empty if the server is not in it."""
    wins: str = ""
    """Its state with that configuration."""
    since: tuple[int, int] = (0, 0)
    """The first HAProxy that can do this."""


CHECKED = f"{PLACE} check"
AGENT = f"{PLACE} agent-check agent-port 7009 agent-inter 600s"
EVERYTHING = ("weight 9", "state drain", "health down", "disable health {}")
CASES = {
    "usual": Case(CHECKED),
    "down": Case(CHECKED, ("health down",), DOWN),
    "stopping": Case(CHECKED, ("health stopping",), STOPPING),
    "maint": Case(CHECKED, ("state maint",), "maint"),
    "drain": Case(CHECKED, ("state drain",), "UP drain"),
    "drained-down": Case(CHECKED, ("health down", "state drain"), "DOWN drain"),
    "weight": Case(CHECKED, ("weight 7",), "UP weight=7"),
    "weightless": Case(CHECKED, ("weight 0",), "UP weight=0"),
    "all": Case(CHECKED, EVERYTHING, "DOWN drain weight=9 nocheck"),
    "nocheck": Case(CHECKED, ("disable health {}",), "UP nocheck"),
    "noagent": Case(AGENT, ("disable agent {}",), "UP noagent"),
    "agent": Case(AGENT, ("agent down",), DOWN),
    "backup": Case(f"{CHECKED} backup", ("health down",), DOWN),
    "backup-maint": Case(f"{CHECKED} backup", ("state maint",), "maint"),
    # Tracking servers follow; what they are told themselves is kept.
    "follows-down": Case(f"{PLACE} track b/down", (), DOWN),
    "follows-maint": Case(f"{PLACE} track b/maint", (), "follows maint"),
    "follows-in-drain": Case(f"{PLACE} track b/usual", ("state drain", "weight 3"), "UP drain weight=3"),
    # Nothing would ever set it up again.
    "plain-down": Case(PLACE, ("health down",), DOWN, wins=UP),
    "plain-maint": Case(PLACE, ("state maint", "weight 5"), "maint weight=5"),
    "disabled": Case(f"{CHECKED} disabled", (), "maint"),
    "enabled": Case(f"{CHECKED} disabled", ("state ready",), "UP"),
    "enabled-down": Case(f"{CHECKED} disabled", ("state ready", "health down"), DOWN),
    "enabled-drain": Case(f"{CHECKED} disabled", ("state drain",), "UP drain"),
    # A configuration that changes a server wins.
    "moved": Case(CHECKED, ("health down",), DOWN, f"{ELSEWHERE} check", UP),
    "moved-maint": Case(CHECKED, ("state maint", "weight 7"), "maint weight=7", "127.0.0.2:8081 check", UP),
    "moved-all": Case(
        CHECKED,
        EVERYTHING,
        "DOWN drain weight=9 nocheck",
        f"{ELSEWHERE} check",
        UP,
    ),
    "moved-plain": Case(PLACE, ("state drain",), "UP drain", ELSEWHERE, UP),
    "moved-agent": Case(AGENT, ("disable agent {}",), "UP noagent", AGENT.replace("8081", "8082"), UP),
    "check-port": Case(CHECKED, ("health down",), DOWN, f"{CHECKED} port 8082", UP),
    "check-added": Case(PLACE, ("state maint",), "maint", CHECKED, UP),
    "check-gone": Case(CHECKED, ("health down",), DOWN, PLACE, UP),
    "check-gone-maint": Case(CHECKED, ("state maint",), "maint", PLACE, UP),
    "tls": Case(CHECKED, ("health down",), DOWN, f"{CHECKED} ssl verify none no-check-ssl", UP),
    "disabled-now": Case(CHECKED, ("health down",), DOWN, f"{CHECKED} disabled", "maint"),
    "disabled-drain": Case(CHECKED, ("state drain",), "UP drain", f"{CHECKED} disabled", "maint"),
    "disabled-maint": Case(CHECKED, ("state maint",), "maint", f"{CHECKED} disabled", "maint"),
    "not-disabled": Case(f"{CHECKED} disabled", (), "maint", CHECKED, UP),
    "not-disabled-ready": Case(f"{CHECKED} disabled", ("state ready", "health down"), DOWN, CHECKED, UP),
    "reweighted": Case(f"{CHECKED} weight 5", ("weight 7",), "UP weight=7", f"{CHECKED} weight 10", "UP weight=10"),
    "reweighted-down": Case(
        f"{CHECKED} weight 5", ("weight 7", "health down"), "DOWN weight=7", f"{CHECKED} weight 10", "DOWN weight=10"
    ),
    "gone": Case(CHECKED, ("state maint",), "maint", ""),
    "begins-down-now": Case(CHECKED, (), UP, f"{CHECKED} init-state fully-down", UP, (3, 1)),
}
"""By the name of the server."""
BEGINS_ANYHOW = {
    "begins-up": Case(f"{CHECKED} init-state up", ("health down",), DOWN),
    "begins-down": Case(f"{CHECKED} init-state fully-down", ("health up",), UP),
    "begins-down-moved": Case(
        f"{CHECKED} init-state fully-down", ("health up",), UP, f"{ELSEWHERE} check init-state fully-down", DOWN
    ),
}
"""The same, for HAProxy 3.1 and later."""

HEAD = f"""\
global
    nbthread 2
    stats socket {ADMIN} level admin
    %s
{DEFAULTS}frontend web
    bind "fd@${{FD_WEB}}"
    http-request return status 200 content-type text/plain string "one"
frontend ordinary
    bind 127.0.0.1:8081
    bind 127.0.0.2:8081
    bind 127.0.0.1:8082
    http-request return status 200 content-type text/plain string "one"
"""
_USUALLY = "balance roundrobin\n    default-server inter 600s fastinter 600s downinter 600s rise 9 fall 9"


def _cases(version: str) -> dict[str, Case]:
    numbers = tuple(map(int, version.split(".")))
    return {name: case for name, case in CASES.items() if numbers >= case.since}


def _text(cases: dict[str, Case], extra: str = "", *, later: bool = False) -> str:
    """Return a configuration."""
    lines = []
    for name, case in cases.items():
        line = case.line if not later or case.later is None else case.later
        if line:
            lines.append(f"    server {name} {line}\n")
    template = f"    server-template t 2 {PLACE} check\n"
    more = f"    server new {CHECKED}\n" if later else ""
    renamed = f"backend {'new' if later else 'old'}-name\n    {_USUALLY}\n    server down {CHECKED}\n"
    return f"{HEAD % extra}backend b\n    {_USUALLY}\n{''.join(lines)}{template}{more}{renamed}"


_OPERATIONAL = {"0": DOWN, "1": UP, "2": UP, "3": STOPPING}


def states(lb: Balancer) -> dict[str, str]:
    """Return the state of each server in words, by its name, with the backend's unless it is `b`."""
    names: list[str] = []
    found = {}
    for line in ask(lb, ADMIN, "show servers state\n").splitlines():
        if line.startswith("# "):
            names = line[2:].split()
        elif names and line.strip():
            row = dict(zip(names, line.split(), strict=True))
            backend, server = row["be_name"], row["srv_name"]
            found[server if backend == "b" else f"{backend}/{server}"] = _words(row)
    return found


def _words(row: dict[str, str]) -> str:
    flags = int(row["srv_admin_state"])
    words = []
    if flags & 0x01:
        words.append("maint")
    elif flags & 0x02:
        words.append("follows maint")
    else:
        words.append(_OPERATIONAL[row["srv_op_state"]])
    if flags & 0x08:
        words.append("drain")
    if row["srv_uweight"] != "1":
        words.append(f"weight={row['srv_uweight']}")
    words += [f"no{name}" for name in ("check", "agent") if int(row[f"srv_{name}_state"]) & 6 == 2]
    return " ".join(words)


def _kept(cases: dict[str, Case], *, first: bool = False, later: bool = False) -> dict[str, str]:
    """Return what is expected: of the haproxy in which it was set, of another one, and of one that was changed."""
    found = {}
    for name, case in cases.items():
        state = case.kept if first or not (case.wins and case.later is None) else case.wins
        if later and case.later is not None:
            state = case.wins
        if case.later != "" or not later:
            found[name] = state
    found |= {"t1": DOWN, "t2": "maint"}
    if later:
        return found | {"new": UP, "new-name/down": UP}
    return found | {"old-name/down": DOWN} | ({"dynamic": "maint"} if first else {})


def _set(lb: Balancer, cases: dict[str, Case]) -> None:
    """Do to the servers what the cases say, and add one."""
    commands = [
        (f"set server b/{name} {what}" if "{}" not in what else what.format(f"b/{name}"))
        for name, case in cases.items()
        for what in case.does
    ]
    commands += ["set server b/t1 health down", "set server b/t2 state maint", "set server old-name/down health down"]
    commands += [f"add server b/dynamic {PLACE}", "enable server b/dynamic", "set server b/dynamic state maint"]
    answer = ask(lb, ADMIN, f"{';'.join(commands)}\n").split("\n")
    assert {line for line in answer if line} <= {"New server registered."}


@pytest.mark.parametrize("version", IMAGES)
def test_everything_about_servers_survives_everything(start: Start, version: str) -> None:
    """Each case after a reload, a crash, an upgrade, a crash into the last known good configuration, and a change."""
    cases = _cases(version)
    lb = start(IMAGES[version], options=OFTEN, text=_text(cases)).begins("one")
    (lb.folder / "own.lua").write_text("core.register_init(function() core.Info('its own script') end)\n")
    _set(lb, cases)
    assert states(lb) == _kept(cases, first=True)

    for what in ("", "zero-warning", "lua-load /etc/lb/own.lua"):
        lb.edit(_text(cases, what))
        reload(lb)
        assert states(lb) == _kept(cases), f"after a reload with {what}"
        _crash(lb)
        assert states(lb) == _kept(cases), f"after a crash with {what}"

    assert lb.run("safe_reload", "upgrade")[0] == 0
    _crash(lb)
    assert states(lb) == _kept(cases), "after an upgrade and a crash"
    assert lb.run("safe_reload", "upgrade")[0] == 0
    reload(lb)
    assert states(lb) == _kept(cases), "after an upgrade and a reload"

    lb.edit("what is this")
    _crash(lb)
    assert status(lb)["configuration"]["last_known_good"]
    assert states(lb) == _kept(cases), "after a crash into the last known good configuration"

    lb.edit(_text(cases, later=True))
    reload(lb)
    assert states(lb) == _kept(cases, later=True), "with a configuration that has changed"
    if tuple(map(int, version.split("."))) >= (3, 1):
        _begins_anyhow(lb)
    ask(lb, ADMIN, "set server b/usual state maint;set weight b/new 0\n")
    assert states(lb)["usual"] == "maint"
    assert lb.run("safe_reload", "reload", "--forget")[0] == 0
    assert (states(lb)["usual"], states(lb)["new"]) == (UP, UP)


def _begins_anyhow(lb: Balancer) -> None:
    """Servers with `init-state`."""
    lb.edit(_text(CASES | BEGINS_ANYHOW))
    reload(lb)
    _set(lb, BEGINS_ANYHOW)
    assert lb.run("safe_reload", "status")[0] == 0
    for again in (reload, _crash):
        again(lb)
        assert {name: states(lb)[name] for name in BEGINS_ANYHOW} == {n: c.kept for n, c in BEGINS_ANYHOW.items()}
    lb.edit(_text(CASES | BEGINS_ANYHOW, later=True))
    reload(lb)
    assert states(lb)["begins-down-moved"] == DOWN
    assert states(lb)["begins-down"] == UP


def _crash(lb: Balancer) -> None:
    """Kill haproxy, and wait for another one."""
    end(current(lb))
    current(lb)


# ---- under load ----------------------------------------------------------------------------------------------------

SERVERS = f"""\
{DEFAULTS}frontend good
    bind 127.0.0.1:7001
    http-request return status 200 content-type text/plain string "one"
frontend bad
    bind 127.0.0.1:7002
    http-request return status 500
"""
TWO_OF_THREE_ARE_DEAD = f"""\
{DEFAULTS}    retries 0
    option httpchk
frontend web
    bind "fd@${{FD_WEB}}"
    bind 127.0.0.1:8081
    http-response set-header x-number MARK
    default_backend b
backend b
    default-server check inter 2s fall 3 rise 2
    server good 127.0.0.1:7001
    server bad 127.0.0.1:7002
    server closed 127.0.0.1:7003
"""


def _under_load(lb: Balancer, times: int) -> tuple[Ends, list[Death]]:
    """Reload and kill under 100 requests a second, and under a closed loop of 40 clients on the ordinary listener."""
    deaths = []
    with Crowd(lb, 100, 1) as crowd, Crowd(replace(lb, port=8081), 2000, 1, most_open=40) as others:
        for number in range(times):
            lb.edit(TWO_OF_THREE_ARE_DEAD.replace("MARK", str(number)))
            reload(lb)
            crowd.goes_on_for(0.6)
            deaths.append(end(current(lb)))
            current(lb)
            crowd.goes_on_for(0.6)
    ends = crowd.ends
    say(f"{times} reloads, {len(deaths)} deaths; {ends}; in the loop {others.ends}")
    ends.ends.update(others.ends.ends)
    ends.failures += others.ends.failures
    return ends, deaths


def _with_two_dead_servers(start: Start, image: str, *options: str) -> Balancer:
    lb = start(image, options=(*OFTEN, *options), text=TWO_OF_THREE_ARE_DEAD)
    (lb.folder / "servers.cfg").write_text(SERVERS)
    lb.begin_sh("haproxy -db -f /etc/lb/servers.cfg")
    eventually(lambda: {"b/bad", "b/closed"} <= set(re.findall(r"Server (\S+) is DOWN", lb.log)))
    return lb.begins("one")


def test_servers_that_are_dead_get_no_request_after_a_reload_or_a_crash(start: Start, image: str) -> None:
    """One answers 500 to checks and requests, the port of another one is closed: nobody is answered 500 or 503."""
    ends, deaths = _under_load(_with_two_dead_servers(start, image), 4)
    assert ends.ok > 400
    assert ends.unexplained(deaths) == []


def test_dead_servers_get_requests_where_states_are_forgotten(start: Start) -> None:
    """So the load does find what is lost, and `--server-state forget` forgets."""
    ends, deaths = _under_load(_with_two_dead_servers(start, NEWEST_STABLE, "--server-state", "forget"), 1)
    assert {kind for kind, _, _ in ends.unexplained(deaths)} == {client.BAD}
