"""haproxy's counters, summed: what is read, what a total is, and when a series ends."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoint.client.exporter import counters
from entrypoint.client.exporter.counters import Table, Totals
from tests.promtool import needs_promtool, promtool

HEADER = "# pxname,svname,qcur,stot,bin,hrsp_2xx,chkfail,last_chk,type,"
KINDS = {"frontend": "0", "backend": "1", "server": "2", "listener": "3"}


def line(kind: str, proxy: str, server: str = "-", stot: object = "", bin_: object = "", more: str = ",,") -> str:
    """Return a row: a session count and a byte count; `more` has the fields up to the kind."""
    return f"{proxy},{server},0,{stot},{bin_},{more},{KINDS[kind]},"


def answer(*lines: str) -> bytes:
    """Return what haproxy says to `show stat`."""
    return "\n".join((HEADER, *lines, "", "")).encode()


def table(*lines: str, piece: int = 1 << 20) -> Table:
    """Parse an answer that arrives in pieces of so many bytes."""
    data, read = answer(*lines), Table()
    for at in range(0, len(data), piece):
        assert read.feed(data[at : at + piece])
    assert read.is_complete
    return read


def samples(totals: Totals) -> dict[str, int]:
    """Return all samples by their names with labels."""
    lines = totals.text(openmetrics=False).decode().splitlines()
    pairs = (text.rpartition(" ") for text in lines if not text.startswith("#"))
    return {name: int(value) for name, _, value in pairs}


SESSIONS = 'haproxy_server_sessions_total{proxy="app",server="one"}'


def sessions(totals: Totals) -> int | None:
    """Return the sessions of app/one."""
    return samples(totals).get(SESSIONS)


def server(count: object, name: str = "one") -> str:
    """Return the row of app/NAME."""
    return line("server", "app", name, count)


# ---- the answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 64, 100_000])
def test_each_kind_has_its_names(piece: int) -> None:
    """Frontends, backends and servers have the names of HAProxy's own exporter; what is empty has no sample."""
    totals = Totals()
    totals.read(
        1,
        table(
            line("frontend", "web", "FRONTEND", 5, 60, "7,,"),
            line("backend", "app", "BACKEND", 4, 50),
            line("server", "app", "one", 3, 40, ",2,"),
            line("listener", "web", "sock-1", 5, 60),
            piece=piece,
        ),
    )
    assert samples(totals) == {
        'haproxy_frontend_sessions_total{proxy="web"}': 5,
        'haproxy_frontend_bytes_in_total{proxy="web"}': 60,
        'haproxy_frontend_http_responses_total{proxy="web",code="2xx"}': 7,
        'haproxy_backend_sessions_total{proxy="app"}': 4,
        'haproxy_backend_bytes_in_total{proxy="app"}': 50,
        SESSIONS: 3,
        'haproxy_server_bytes_in_total{proxy="app",server="one"}': 40,
        'haproxy_server_check_failures_total{proxy="app",server="one"}': 2,
    }


def test_a_quoted_field_does_not_move_the_others() -> None:
    """A field may have commas and quotes: the text of the last check does."""
    totals = Totals()
    totals.read(1, table(line("server", "app", "one", 3, 4, ',5,"no, ""really"""')))
    assert samples(totals)['haproxy_server_check_failures_total{proxy="app",server="one"}'] == 5


@pytest.mark.parametrize(
    "what", [b"Unknown command\n\n", b"", b"\n\n", b"# pxname\n\n", answer("app", "app,one", ",,,")]
)
def test_what_is_no_table_has_no_rows(what: bytes) -> None:
    """Another answer, or half a row, counts nothing."""
    read = Table()
    assert read.feed(what)
    assert not read.rows


@pytest.mark.parametrize("count", ["-1", "x", "9" * 19, "1.5", "²", " "])
def test_what_is_no_count_is_left_out(count: str) -> None:
    """Whatever haproxy says, a sample is a number that fits."""
    totals = Totals()
    totals.read(1, table(server(count)))
    assert sessions(totals) is None


def test_a_line_without_end_is_given_up() -> None:
    """An answer that never has a newline is not kept."""
    read = Table()
    assert read.feed(b"x" * 60_000)
    assert not read.feed(b"x" * 60_000)


def test_a_generation_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond it is counted, and the rest is right."""
    monkeypatch.setattr(counters, "MOST_OBJECTS", 3)
    totals = Totals()
    totals.read(1, table(*(server(7, f"s{number}") for number in range(5))))
    assert len(samples(totals)) == 3
    assert totals.left_out == 2


@needs_promtool
@pytest.mark.parametrize("openmetrics", [False, True])
def test_promtool_agrees(openmetrics: bool) -> None:
    """The text is valid, whatever the names are."""
    totals = Totals()
    totals.read(1, table(line("frontend", 'we"b\\', "FRONTEND", 5, 60, "7,,"), server(3)))
    text = totals.text(openmetrics=openmetrics).decode()
    if not openmetrics:
        promtool("check", "metrics", text=text.encode())
    assert r'proxy="we\"b\\"' in text
    families = re.findall(r"# TYPE (\S+) counter", text)
    assert families
    assert all(name.endswith("_total") is not openmetrics for name in families)


# ---- the sums ------------------------------------------------------------------------------------------------------


def test_a_total_is_of_the_living_and_the_dead() -> None:
    """What a dead generation had stays in the total, and what the new one has is added."""
    totals = Totals()
    totals.read(1, table(server(10)))
    totals.read(2, table(server(3)))
    totals.living({1, 2})
    assert sessions(totals) == 13
    totals.read(1, table(server(12)))
    totals.living({2})
    assert sessions(totals) == 15
    assert not totals.knows(1)


def test_cleared_counters_go_on() -> None:
    """`clear counters all` does not make a total go down, and every counter of the object goes on."""
    totals = Totals()
    totals.read(1, table(line("server", "app", "one", 10, 1000)))
    # More sessions than before, but fewer bytes: all were cleared.
    totals.read(1, table(line("server", "app", "one", 11, 900)))
    assert sessions(totals) == 21
    assert samples(totals)['haproxy_server_bytes_in_total{proxy="app",server="one"}'] == 1900


def test_a_hidden_counter_is_not_a_cleared_one() -> None:
    """haproxy does not show the counters of disabled checks: nothing is counted twice when it does again."""
    totals = Totals()
    for failures in ("4", "", "5"):
        totals.read(1, table(line("server", "app", "one", 10, 1000, f",{failures},")))
    assert samples(totals)['haproxy_server_check_failures_total{proxy="app",server="one"}'] == 5
    assert sessions(totals) == 10


def test_a_series_ends_with_the_last_generation_that_has_it() -> None:
    """A renamed server: its series stays while an old generation drains, and is gone after it."""
    totals = Totals()
    totals.read(1, table(server(10)))
    totals.read(2, table(server(1, "two")))
    totals.living({1, 2})
    assert sessions(totals) == 10
    totals.living({2})
    assert sessions(totals) is None
    totals.read(3, table(server(2)))
    totals.living({2, 3})
    assert sessions(totals) == 2


def test_nothing_ends_before_the_new_one_is_read() -> None:
    """After a crash nobody has been read for a while; an answer that breaks off tells nothing either."""
    totals = Totals()
    totals.read(1, table(server(10)))
    totals.living(set())
    assert sessions(totals) == 10
    half = Table()
    assert half.feed(answer(server(1, "two"), server(1))[:-20])
    totals.read(2, half)
    totals.living({2})
    assert sessions(totals) == 10
    totals.read(2, table(server(1, "two"), server(1)))
    totals.living({2})
    assert sessions(totals) == 11


def test_a_deleted_server_ends() -> None:
    """`del server` in the only generation."""
    totals = Totals()
    totals.read(1, table(server(10), server(5, "two")))
    totals.living({1})
    totals.read(1, table(server(5, "two")))
    totals.living({1})
    assert sessions(totals) is None


# ---- any life ------------------------------------------------------------------------------------------------------

SERVERS = ("one", "two")


@settings(max_examples=300)
@given(st.data())
def test_a_total_is_the_truth_up_to_the_last_reading(data: st.DataObject) -> None:
    """Generations come, count, are cleared, and die: each total is the sum of what was read, and never goes down."""
    totals = Totals()
    living: dict[int, dict[str, int]] = {}
    unread: dict[int, dict[str, int]] = {}
    truth, number = dict.fromkeys(SERVERS, 0), 0

    def read(generation: int) -> None:
        totals.read(generation, table(*(server(count, name) for name, count in living[generation].items())))
        for name in SERVERS:
            truth[name] += unread[generation][name]
            unread[generation][name] = 0

    for _ in range(data.draw(st.integers(1, 25))):
        act = data.draw(st.sampled_from(("begin", "count", "count", "read", "die", "clear")))
        if act == "begin" or not living:
            number += 1
            living[number], unread[number] = dict.fromkeys(SERVERS, 0), dict.fromkeys(SERVERS, 0)
            read(number)
        one = data.draw(st.sampled_from(sorted(living)))
        match act:
            case "count":
                more = data.draw(st.integers(1, 5))
                for counts in (living, unread):
                    counts[one][SERVERS[more % 2]] += more
            case "read":
                read(one)
            case "clear":
                read(one)
                living[one] = dict.fromkeys(SERVERS, 0)
                read(one)
            case "die":
                del living[one]
        before = samples(totals)
        totals.living(set(living))
        found = samples(totals)
        for name in SERVERS:
            key = SESSIONS.replace("one", name)
            assert before[key] == found[key] == truth[name]
