"""What a new haproxy is told about its servers: real answers, and a model of what must be kept."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoint.haproxy import lua, server_state
from entrypoint.haproxy.server_state import ServerState, commands, corrections, kept, questions

ANSWERS = Path(__file__).parent / "answers"
VERSIONS = ("2.6", "3.0", "3.2")


def recorded(version: str) -> str:
    """Return what haproxy has said of the servers that tests/container/test_server_state.py makes."""
    return (ANSWERS / f"{version}-show-servers-state.txt").read_text()


# ---- real answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_what_somebody_has_changed_is_read_from_real_answers(version: str) -> None:
    """Each kind of change, and nothing of a server that is as it began."""
    found = {name: str(state).partition(" ")[2] for name, state in kept(recorded(version)).items()}
    expected = {
        "b/down": "DOWN",
        "b/stopping": "STOPPING",
        "b/maint": "MAINT",
        "b/drain": "DRAIN",
        "b/drained-down": "DRAIN, DOWN",
        "b/weight": "weight 7",
        "b/weightless": "weight 0",
        "b/all": "checks disabled, DRAIN, DOWN, weight 9",
        "b/nocheck": "checks disabled",
        "b/noagent": "agent disabled",
        "b/agent": "DOWN",
        "b/backup": "DOWN",
        "b/follows-in-drain": "DRAIN, weight 3",
        "b/plain-maint": "MAINT, weight 5",
        "b/enabled": "READY",
        "b/enabled-down": "READY, DOWN",
        "b/enabled-drain": "DRAIN",
        "b/t1": "DOWN",
        "b/t2": "MAINT",
        "b/dynamic": "MAINT",
        "old-name/down": "DOWN",
    }
    assert {name: found.get(name) for name in expected} == expected
    for name in ("usual", "follows-down", "follows-maint", "plain-down", "disabled", "not-disabled"):
        assert f"b/{name}" not in found


@pytest.mark.parametrize("version", VERSIONS)
def test_servers_that_are_up_are_kept_where_they_may_begin_down(version: str) -> None:
    """Those with checks; a server without any cannot be down."""
    found = kept(recorded(version), begin_up=False)
    assert str(found["b/usual"]) == "b/usual UP"
    assert str(found["b/weight"]) == "b/weight UP, weight 7"
    assert "b/follows-in-drain" in found
    assert not any(what == "health" for what, _ in found["b/follows-in-drain"].changes)
    assert "b/disabled" not in found


def test_the_commands_and_the_script_say_the_same() -> None:
    """One for each change, in the same order."""
    states = [kept(recorded("3.0"))[name] for name in ("b/all", "b/enabled-down", "b/noagent")]
    assert list(commands(states)) == [
        "disable health b/all",
        "set server b/all state drain",
        "set server b/all health down",
        "set server b/all weight 9",
        "set server b/enabled-down state ready",
        "set server b/enabled-down health down",
        "disable agent b/noagent",
    ]
    calls = re.findall(r'tell\("b", "(.*)", function\(s\) s:(.*) end\)', lua.script(states))
    assert calls == [
        ("all", "check_disable()"),
        ("all", "set_drain()"),
        ("all", "check_force_down()"),
        ("all", 'set_weight("9")'),
        ("enabled-down", "set_ready()"),
        ("enabled-down", "check_force_down()"),
        ("noagent", "agent_disable()"),
    ]
    assert lua.script(()) == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_has_to_be_corrected_in_the_same_haproxy(version: str) -> None:
    """All that it was told applies where nothing is configured otherwise."""
    told = kept(recorded(version))
    result = corrections(told, told, recorded(version))
    assert result.commands == ()
    assert {state.name: state for state in result.kept} == told


def test_servers_that_are_not_there_are_not_kept() -> None:
    """A renamed backend and a dynamic server: the answer does not have them."""
    told = kept(recorded("3.0"))
    answer = "".join(line for line in recorded("3.0").splitlines(keepends=True) if " dynamic " not in line)
    result = corrections(told, told, answer.replace(" old-name ", " new-name "))
    assert set(told) - {state.name for state in result.kept} == {"b/dynamic", "old-name/down"}
    assert result.commands == ()


# ---- what is asked -------------------------------------------------------------------------------------------------


def test_only_the_backends_that_matter_are_asked_about() -> None:
    """Each once; all together if they are many."""
    few = [_state(f"{backend}/{server}") for backend in "ab" for server in "xy"]
    assert questions(few) == ("show servers state a", "show servers state b")
    assert questions(()) == ()
    assert len(questions([_state(f"{number}/x") for number in range(20)])) == 20
    assert questions([_state(f"{number}/x") for number in range(21)]) == ("show servers state",)


def _state(name: str) -> ServerState:
    return ServerState(name, ("10.0.0.1", "80"), "-", "1", (("state", "maint"),))


def test_a_script_only_where_it_changes_nothing_else() -> None:
    """Not where a warning ends the start, or where scripts are limited; not where nobody knows."""
    assert lua.may_run_scripts(("lua-load", "init-state", "resolvers", "maxconnrate"))
    for word in ("zero-warning", "tune.lua.maxmem", "tune.lua.openlibs"):
        assert not lua.may_run_scripts((word,))
        assert word in server_state.MENTIONS
    assert not lua.may_run_scripts(None)
    assert server_state.may_hold(())
    assert not server_state.may_hold(("maxconnrate",))
    assert not server_state.may_hold(None)
    assert server_state.may_begin_down(("init-state",))
    assert not server_state.may_begin_down(("resolvers",))
    assert not server_state.may_begin_down(None)
    assert server_state.uses_dns(("resolvers",))
    assert not server_state.uses_dns(("init-state",))
    assert not server_state.uses_dns(None)


def test_the_tunable_is_left_to_a_configuration_with_scripts_of_its_own() -> None:
    """HAProxy 3.1 and later warn if it comes after a script."""
    assert "bool-sample-conversion" in lua.fragment("/dev/fd/9", (), holds=False)
    alone = lua.fragment("/dev/fd/9", ("lua-load",), holds=False)
    assert alone == ".if feature(LUA)\n  lua-load /dev/fd/9\n.else\n  maxconnrate 1\n.endif\n"
    assert "maxconnrate" not in lua.fragment("/dev/fd/9", ("maxconnrate",), holds=False)
    assert "maxconnrate" not in lua.fragment("/dev/fd/9", (), holds=True)  # haproxy takes it once


def test_what_is_over_meanwhile_is_undone() -> None:
    """Or is another thing by then; the configuration is the same."""
    down, drained = row("b", "s", srv_op_state=0), row("b", "s", srv_admin_state=8)
    told = kept(answer(down))
    assert corrections(told, {}, answer(down)) == server_state.Corrections(
        (), ("set server b/s state maint", "set server b/s state ready")
    )
    now = kept(answer(drained))
    result = corrections(told, now, answer(down))
    assert result.kept == tuple(now.values())
    assert result.commands[-1] == "set server b/s state drain"
    assert corrections({}, now, answer(row("b", "s"))).commands == ("set server b/s state drain",)
    assert corrections({}, now, answer(row("b", "s", srv_port=81))) == server_state.Corrections((), ())


@pytest.mark.parametrize("what", ["drain", "maint", "ready"])
def test_a_server_that_is_disabled_now_is_in_maintenance(what: str) -> None:
    """It is never ready in between."""
    before = {"drain": 8, "maint": 1, "ready": 4}[what]
    told = kept(answer(row("b", "s", srv_admin_state=before)))
    found = answer(row("b", "s", srv_admin_state=5, srv_op_state=0, srv_port=81))
    assert corrections(told, told, found).commands == ("set server b/s state maint",)


def test_health_is_forgotten_alone() -> None:
    """Of servers, or of all of a backend; what else is known of them stays."""
    rows = [row(backend, server, srv_op_state=0, srv_admin_state=8) for backend in "ab" for server in "xy"]
    states = kept(answer(*rows, row("a", "z", srv_op_state=0)))
    found = server_state.without_health(states, ("a/x", "b"))
    assert {name: str(state).partition(" ")[2] for name, state in found.items()} == {
        "a/x": "DRAIN",
        "a/y": "DRAIN, DOWN",
        "b/x": "DRAIN",
        "b/y": "DRAIN",
        "a/z": "DOWN",
    }
    assert "a/z" not in server_state.without_health(states, ("a/z",))
    assert server_state.without_health(states, ()) == states


# ---- names that DNS resolves ---------------------------------------------------------------------------------------

HEAD = recorded("3.0").splitlines()[1]


def row(backend: str, server: str, **columns: object) -> str:
    """Return a row of an answer, as of a server with checks that is as it began, but for these columns."""
    usual = dict.fromkeys(HEAD[2:].split(), "0")
    usual |= dict.fromkeys(("srv_fqdn", "srvrecord", "srv_check_addr", "srv_agent_addr"), "-")
    usual |= {"be_name": backend, "srv_name": server, "srv_addr": "10.0.0.1", "srv_port": "80", "srv_op_state": "2"}
    usual |= {"srv_uweight": "1", "srv_iweight": "1", "srv_check_state": "6"}
    return " ".join(str(value) for value in (usual | columns).values())


def answer(*rows: str) -> str:
    """Return an answer with these rows."""
    return "\n".join(("1", HEAD, *rows, "", ""))


def test_a_server_in_maintenance_has_an_address() -> None:
    """It is not missing in DNS, whatever else is set."""
    rows = [row("b", f"s{flags}", srv_fqdn="app.test", srv_admin_state=flags) for flags in (1, 4, 8, 13, 16)]
    assert server_state.resolved(answer(*rows)) == ({"b": 5}, frozenset())


def test_a_check_that_is_under_way_can_be_disabled() -> None:
    """It is one bit of several (CHK_ST_INPROGRESS, CHK_ST_PAUSED)."""
    for flags in (2, 3, 10, 11, 18, 19):
        assert str(kept(answer(row("b", "s", srv_check_state=flags)))["b/s"]) == "b/s checks disabled"
        assert str(kept(answer(row("b", "s", srv_agent_state=flags)))["b/s"]) == "b/s agent disabled"
    for flags in (0, 1, 6, 7, 14, 15, 22):
        assert kept(answer(row("b", "s", srv_check_state=flags, srv_agent_state=flags))) == {}


def test_columns_that_a_version_does_not_have_are_not_needed() -> None:
    """Those after the first that every version has."""
    wanted = kept(answer(row("b", "s", srv_admin_state=1)))
    for missing in ("srvrecord", "srv_use_ssl", "srv_check_port", "srv_check_addr", "srv_agent_addr", "srv_agent_port"):
        names = HEAD.split()
        place = names.index(missing) - 1
        columns = row("b", "s", srv_admin_state=1).split()
        text = f"1\n{' '.join(name for name in names if name != missing)}\n"
        text += " ".join(columns[:place] + columns[place + 1 :]) + "\n"
        assert str(kept(text)["b/s"]) == str(wanted["b/s"])


def test_another_address_of_the_same_name_may_be_up() -> None:
    """What is down is the address; maintenance and weight are of the server."""
    at = {"srv_fqdn": "app.test", "srv_addr": "10.0.0.1", "srv_admin_state": 8, "srv_uweight": 7}
    told = kept(answer(row("b", "s", **at, srv_op_state=0)))
    assert str(told["b/s"]) == "b/s DRAIN, DOWN, weight 7"
    same = corrections(told, told, answer(row("b", "s", **at)))
    assert same.commands == ()
    moved = corrections(told, told, answer(row("b", "s", **{**at, "srv_addr": "10.0.0.2"})))
    assert [str(state) for state in moved.kept] == ["b/s DRAIN, weight 7"]
    assert moved.commands[:2] == ("set server b/s state maint", "set server b/s state ready")
    assert "set server b/s state drain" in moved.commands
    assert not any("health" in command for command in moved.commands)


@pytest.mark.parametrize(
    ("change", "applies"),
    [
        ({"srv_fqdn": "other.test"}, False),
        ({"srv_port": 81}, False),
        ({"srvrecord": "_http._tcp.test"}, False),
        ({"srv_addr": "10.0.0.9"}, True),
    ],
)
def test_a_name_is_the_configuration_of_a_server(change: dict[str, object], applies: bool) -> None:
    """Its address is not."""
    told = kept(answer(row("b", "s", srv_fqdn="app.test", srv_admin_state=1, srv_op_state=0)))
    found = answer(row("b", "s", **{"srv_fqdn": "app.test", "srv_admin_state": 1, "srv_op_state": 0} | change))
    result = corrections(told, told, found)
    assert bool(result.kept) == applies
    assert bool(result.commands) != applies


def test_an_srv_record_decides_about_name_and_port() -> None:
    """DNS finds them, so they are not the configuration."""
    by = {"srvrecord": "_http._tcp.test", "srv_admin_state": 1, "srv_op_state": 0}
    told = kept(answer(row("b", "s", **by, srv_fqdn="one.test", srv_port=80)))
    assert corrections(told, told, answer(row("b", "s", **by, srv_fqdn="two.test", srv_port=81))).kept


def test_a_server_without_an_address_is_not_down_but_unknown() -> None:
    """Its state is not kept; its backend's addresses are counted."""
    rows = (
        row("b", "s1", srv_fqdn="app.test"),
        row("b", "s2", srv_fqdn="app.test", srv_addr="-", srv_admin_state=32, srv_op_state=0),
        row("c", "s", srvrecord="_http._tcp.test", srv_admin_state=32, srv_op_state=0),
        row("d", "s"),
    )
    assert kept(answer(*rows)) == {}
    assert server_state.resolved(answer(*rows)) == ({"b": 1}, frozenset({"b", "c"}))
    # A haproxy that somebody has taken over.
    assert server_state.resolved(answer(row("b", "s", srv_fqdn="a", srv_admin_state="²"))) == ({"b": 1}, frozenset())


# ---- the model -----------------------------------------------------------------------------------------------------

UP, STOPPING, DOWN = "2", "3", "0"
_OPERATIONAL = {"up": UP, "stopping": STOPPING, "down": DOWN}
_LUA = {
    "check_force_up()": "set server {0} health up",
    "check_force_down()": "set server {0} health down",
    "check_force_nolb()": "set server {0} health stopping",
    "set_maint()": "set server {0} state maint",
    "set_drain()": "set server {0} state drain",
    "set_ready()": "set server {0} state ready",
    "check_disable()": "disable health {0}",
    "agent_disable()": "disable agent {0}",
}


@dataclass(frozen=True)
class Configured:
    """What a configuration says about a server."""

    address: str = "10.0.0.1"
    port: int = 80
    weight: int = 1
    check: bool = True
    check_port: int = 0
    agent: bool = False
    disabled: bool = False
    ssl: bool = False
    begins_down: bool = False

    @property
    def begins(self) -> str:
        """How it begins."""
        return DOWN if self.check and self.begins_down else UP


@dataclass
class Server:
    """A server of a haproxy, as far as the runtime API can change it."""

    configured: Configured
    operational: str = ""
    admin: int = 0
    weight: int = 0
    checks: bool = False
    agent: bool = False

    def __post_init__(self) -> None:
        """Begin."""
        it = self.configured
        self.admin = 5 if it.disabled else 0
        self.operational = DOWN if it.disabled else it.begins
        self.weight, self.checks, self.agent = it.weight, it.check, it.agent

    def turn(self, state: str) -> None:
        """Change the administrative state, as `srv_adm_set_maint` and its neighbours in HAProxy's server.h do."""
        was_in_maintenance = self.admin & 1
        self.admin = self.admin & 4 | {"ready": 0, "maint": 1, "drain": 8}[state]
        if self.admin & 1:
            self.operational = DOWN
        elif was_in_maintenance:
            self.operational = self.configured.begins

    def row(self, backend: str, name: str) -> str:
        """Return its row."""
        it = self.configured
        return row(
            backend,
            name,
            srv_addr=it.address,
            srv_port=it.port,
            srv_iweight=it.weight,
            srv_uweight=self.weight,
            srv_op_state=self.operational,
            srv_admin_state=self.admin,
            srv_use_ssl=int(it.ssl),
            srv_check_port=it.check_port,
            srv_check_state=(2 if it.check else 0) + (4 if self.checks else 0),
            srv_agent_state=16 + (2 if it.agent else 0) + (4 if self.agent else 0),
        )


@dataclass
class Haproxy:
    """A haproxy with servers, which does what it is told."""

    servers: dict[str, Server] = field(default_factory=dict)

    @classmethod
    def of(cls, configuration: dict[str, Configured]) -> "Haproxy":
        """Begin with a configuration."""
        return cls({name: Server(configured) for name, configured in configuration.items()})

    def do(self, told: Iterable[str]) -> None:
        """Carry out commands; unknown servers are ignored, and unknown commands are not."""
        for command in told:
            match command.split(" "):
                case ["set", "server", name, what, value]:
                    if name in self.servers:
                        self._set(self.servers[name], what, value)
                case ["disable" | "enable" as verb, "health" | "agent" as what, name]:
                    server = self.servers.get(name)
                    if server and what == "health" and server.configured.check:
                        server.checks = verb == "enable"
                    if server and what == "agent" and server.configured.agent:
                        server.agent = verb == "enable"
                case _:
                    raise AssertionError(command)

    def _set(self, server: Server, what: str, value: str) -> None:
        match what:
            case "health":
                # Also in maintenance, but there it shows nowhere.
                if not server.admin & 1:
                    server.operational = _OPERATIONAL[value]
            case "state":
                server.turn(value)
            case "weight":
                server.weight = server.configured.weight if value == "100%" else int(value)
            case _:
                raise AssertionError(what)

    def run(self, script: str) -> None:
        """Carry out a script."""
        for backend, name, call in re.findall(r'tell\("(.*)", "(.*)", function\(s\) s:(.*) end\)', script):
            weight = re.fullmatch(r'set_weight\("([0-9]+)"\)', call)
            command = f"set server {{0}} weight {weight[1]}" if weight else _LUA[call]
            self.do([command.format(f"{backend}/{name}")])

    def answer(self, asked: Iterable[str] = (server_state.TABLE,)) -> str:
        """Answer `show servers state` about all or some backends."""
        wanted = {question.removeprefix(server_state.TABLE).strip() for question in asked}
        rows = {name: server.row(*name.split("/")) for name, server in self.servers.items()}
        found = [row for name, row in rows.items() if name.partition("/")[0] in wanted or "" in wanted]
        return answer(*found) if wanted else ""


NAMES = st.sampled_from([f"{backend}/{server}" for backend in ("a", "b.c") for server in ("x", "y-1")])
CONFIGURED = st.builds(
    Configured,
    address=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    port=st.sampled_from([80, 81]),
    weight=st.integers(0, 3),
    check=st.booleans(),
    check_port=st.sampled_from([0, 9]),
    agent=st.booleans(),
    disabled=st.booleans(),
    ssl=st.booleans(),
    begins_down=st.booleans(),
)
CONFIGURATIONS = st.dictionaries(NAMES, CONFIGURED, min_size=1)
DEEDS = st.sampled_from(
    [
        *(f"set server {{0}} health {health}" for health in _OPERATIONAL),
        *(f"set server {{0}} state {state}" for state in ("ready", "maint", "drain")),
        *(f"set server {{0}} weight {weight}" for weight in (0, 1, 7)),
        *(f"{verb} {what} {{0}}" for verb in ("enable", "disable") for what in ("health", "agent")),
    ]
)
HISTORIES = st.lists(st.tuples(NAMES, DEEDS).map(lambda pair: pair[1].format(pair[0])), max_size=12)
Edit = Configured | tuple[str, Configured] | None
FIELDS = st.sampled_from([one.name for one in fields(Configured)])
EDITS = st.dictionaries(NAMES, st.one_of(st.none(), CONFIGURED, st.tuples(FIELDS, CONFIGURED)))
"""Of a server: it goes, it is another one, one thing about it is another."""


def edited(configuration: dict[str, Configured], edits: dict[str, Edit]) -> dict[str, Configured]:
    """Return a configuration after edits."""
    result = dict(configuration)
    for name, edit in edits.items():
        if edit is None:
            result.pop(name, None)
        elif isinstance(edit, Configured):
            result[name] = edit
        elif name in result:
            what, other = edit
            result[name] = replace(result[name], **{what: getattr(other, what)})
    return result


def _fixed(configured: Configured) -> Configured:
    return replace(configured, weight=0, begins_down=False)


def expected(old: Server | None, configured: Configured) -> Server:
    """Return how a server must be in a new haproxy."""
    new = Server(configured)
    # `init-state` is not in the answers.
    if not old or _fixed(old.configured) != _fixed(configured):
        return new
    new.admin, new.checks, new.agent = old.admin, old.checks, old.agent
    if old.configured.weight == configured.weight:
        new.weight = old.weight
    if old.admin & 1:
        new.operational = DOWN
    elif configured.check or configured.agent:
        new.operational = old.operational
    else:
        new.operational = configured.begins
    return new


@settings(max_examples=1000, deadline=None)
@given(CONFIGURATIONS, HISTORIES, EDITS, HISTORIES, st.booleans())
def test_a_new_haproxy_is_as_the_one_before_it_where_the_configuration_is_the_same(
    configuration: dict[str, Configured],
    history: list[str],
    edits: dict[str, Edit],
    meanwhile: list[str],
    by_script: bool,
) -> None:
    """And as haproxy begins it everywhere else, also if something happens in the old one while the new one starts."""
    changed = edited(configuration, edits)
    begin_up = not any(one.begins_down for one in (*configuration.values(), *changed.values()))
    old, new = Haproxy.of(configuration), Haproxy.of(changed)
    old.do(history)
    told = kept(old.answer(), begin_up=begin_up)
    if by_script:
        new.run(lua.script(told.values()))
    old.do(meanwhile)
    now = kept(old.answer(), begin_up=begin_up)
    new.do(commands(told.values()))
    result = corrections(told, now, new.answer(questions({**told, **now}.values())))
    new.do(result.commands)

    wanted = {name: expected(old.servers.get(name), configured) for name, configured in changed.items()}
    assert new.servers == wanted
    begun = Haproxy.of(changed).servers
    for name, server in new.servers.items():
        if server != begun[name]:
            assert name in {state.name for state in result.kept}


@given(CONFIGURATIONS, HISTORIES)
def test_what_is_written_is_read_again(configuration: dict[str, Configured], history: list[str]) -> None:
    """As text, in the same order."""
    old = Haproxy.of(configuration)
    old.do(history)
    states = kept(old.answer(), begin_up=False)
    again = server_state.from_text(server_state.to_text(states.values()))
    assert list(again.items()) == list(states.items())


# ---- a haproxy that is not to be trusted -----------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=24, max_size=24))
def test_no_answer_becomes_another_command(fields: list[str]) -> None:
    """Whatever haproxy says: names are names, and numbers are numbers."""
    fields[5] = "0"
    for columns in (
        fields,
        ["4", "b", "1", "s", "-", "0", *fields[6:]],
        ["4", *fields[1:4], *row("b", "s").split()[4:]],
    ):
        text = answer(" ".join(columns))
        server_state.resolved(text)
        states = kept(text, begin_up=False)
        for command in commands(states.values()):
            words = r"[A-Za-z0-9_.:-]+/[A-Za-z0-9_.:-]+"
            assert re.fullmatch(
                rf"set server {words} (health|state|weight) [a-z0-9]+|disable (health|agent) {words}", command
            )
        assert lua.script(states.values()).count("\n") in {0, 5 + len(list(commands(states.values())))}


@pytest.mark.parametrize(
    "name", ['b";os.execute("x")', "b;shutdown", "b\\", "b'", "b\u00e9", "b<x>", "b{0}", "b@", "#b", "b=", "b,"]
)
def test_a_name_that_is_none_is_left_out(name: str) -> None:
    """haproxy would not accept it in a configuration (manual, section 4.2)."""
    good = row("b", "good", srv_admin_state=1)
    assert set(kept(answer(row(name, "s", srv_admin_state=1), row("b", name, srv_admin_state=1), good))) == {"b/good"}


@pytest.mark.parametrize("number", ["-", "", "x", "-1", "²", "9" * 5000, "1_0", " 1"])
@pytest.mark.parametrize("column", ["srv_admin_state", "srv_check_state", "srv_agent_state", "srv_uweight"])
def test_a_number_that_is_none_leaves_the_server_out(column: str, number: str) -> None:
    """And its neighbours in."""
    bad, good = row("b", "bad", srv_op_state=0, **{column: number}), row("b", "good", srv_op_state=0)
    assert set(kept(answer(bad, good))) == {"b/good"}


@pytest.mark.parametrize(
    "text", ["", "\n", "Unknown command\n", "1\n", f"{HEAD}\n", f"1\n{HEAD}\n1 2 3\n", row("b", "s")]
)
def test_an_answer_without_servers_has_none(text: str) -> None:
    """No header, no rows, or rows of another width."""
    assert kept(text, begin_up=False) == {}
    assert server_state.resolved(text) == ({}, frozenset())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "b/s - 1",
        "b/s - 1 state=off 10.0.0.1",
        "b/s - 1 health=down;x 10.0.0.1",
        "b/s - 1 weight=x 10.0.0.1",
        "b/s - 1 health=7 10.0.0.1",
        "b/s - 1 checks=7 10.0.0.1",
        "b/s - 1 weight= 10.0.0.1",
        "b/s - 1  10.0.0.1",
        'b/s"x - 1 state=maint 10.0.0.1',
        "b/s/t - 1 state=maint 10.0.0.1",
    ],
)
def test_text_that_is_damaged_is_refused(line: str) -> None:
    """A line that nobody has written."""
    good = server_state.to_text([_state("b/good")])
    assert set(server_state.from_text(good)) == {"b/good"}
    with pytest.raises(ValueError, match=r"."):
        server_state.from_text(f"{good}{line}\n")


def test_a_state_file_has_only_the_addresses_that_dns_has_found() -> None:
    """All else would win over the configuration; and it is the same text as long as the addresses are."""
    named = {"srv_fqdn": "app.test", "srv_addr": "192.0.2.1"}
    rows = [
        row("b", "found", **named, srv_time_since_last_change=7),
        row("b", "srv", srvrecord="_http._tcp.app.test", srv_fqdn="app.test"),
        row("b", "static"),
        row("b", "down", **named, srv_op_state=0),
        row("b", "maint", **named, srv_admin_state=1),
        row("b", "weighted", **named, srv_uweight=7),
    ]
    found = server_state.addresses(answer(*rows) + "Name: HAProxy\nPid: 7\n\n")
    assert found.startswith("1\n# be_id be_name ")
    assert [line.split()[3] for line in found.splitlines()[2:]] == ["found", "srv"]
    again = row("b", "found", **named, srv_time_since_last_change=9)
    assert server_state.addresses(answer(again, *rows[1:])) == found
