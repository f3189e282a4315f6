"""What a person reads of an instance's status."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.client import report
from entrypoint.client.formatting import Style, duration
from entrypoint.client.status_fields import Status, serves
from entrypoint.core import history

NOW = 1_790_000_000.0
PLAIN = Style(colour=False)
WORDS = """\
[NOTICE]   (8) : haproxy version is 3.0.11
[ALERT]    (8) : config : parsing [/etc/lb/haproxy.cfg:14] : unknown keyword 'bnid' in 'frontend' section
[ALERT]    (8) : config : Error(s) found in configuration file : /etc/lb/haproxy.cfg"""
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "name": "lb",
    "pid": 1,
    "stage": "serving",
    "uptime_seconds": 11530.5,
    "pid_file": None,
    "generations": [
        {
            "number": 3, "pid": 17, "state": "current", "age_seconds": 1.25, "connections": 5, "sha256": "ab" * 32,
            "last_known_good": False, "asked_by": "SIGUSR1",
        },
        {
            "number": 2, "pid": 1200, "state": "draining", "age_seconds": 190.0, "connections": None,
            "sha256": "cd" * 32, "last_known_good": False, "asked_by": None,
        },
    ],
    "vips": [{"tag": "FD_WEB", "address": "127.0.0.1:80", "accepts": True}],
    "adopted": ["127.0.0.1:8080"],
    "configuration": {
        "sha256": "ab" * 32, "disk_sha256": "ab" * 32, "pending": False, "last_known_good": False,
        "files": ["/etc/lb/haproxy.cfg"], "unreadable": None,
    },
    "last_reload": {
        "result": "success", "trigger": "SIGUSR1", "generation": 3, "at": NOW - 90, "seconds": 0.0213,
        "message": "generation 3 serves", "words": "",
    },
    "last_success_at": NOW - 90,
    "watch": {"mode": "inotify", "stale_mounts": [], "files": 1},
    "restarts": {"in_a_row": 0, "limit": 5, "by_reason": {}},
    "reloads": [],
    "reload_seconds": {"buckets": [], "sum": 0.0, "count": 0},
}  # fmt: skip


def status(**changes: object) -> dict[str, Any]:
    """Return a status with some facts changed: `configuration__pending=True`."""
    changed = copy.deepcopy(STATUS)
    for path, value in changes.items():
        *folders, name = path.split("__")
        place = changed
        for folder in folders:
            place = place[folder]
        place[name] = value
    return changed


def lines(facts: dict[str, Any]) -> list[str]:
    """Return what is shown without colours."""
    return report.report(facts, NOW, PLAIN)


def test_all_is_well() -> None:
    """The whole of it, to the letter."""
    assert lines(STATUS) == [
        "lb  pid 1  serving  up 3h 12m  safe_reload 0.1.0",
        "",
        "generation   pid  state        age  connections  configuration  asked by",
        "         3    17  current     1.2s            5  abababababab   SIGUSR1",
        "         2  1200  draining  3m 10s            -  cdcdcdcdcdcd   -",
        "",
        "configuration  abababababab; the disk has the same",
        "last reload    success 1m 30s ago, asked for by SIGUSR1, generation 3, in 0.0213 s",
        "watch          inotify, 1 file",
        "restarts       none",
        "adopted        127.0.0.1:8080",
        "",
        "VIP     address",
        "FD_WEB  127.0.0.1:80  accepts",
    ]


def test_what_is_held_under_a_condition_is_shown_with_it() -> None:
    """Of one IPv6 address haproxy takes a socket over only if its `bind` says v6only."""
    shown = lines(status(adopted=["[::1]:81", "[::]:82"]))
    assert "adopted        [::1]:81 (bound anew by each generation unless its `bind` says v6only)" in shown
    assert "adopted        [::]:82" in shown


def test_a_failed_reload_is_shown_with_haproxy_s_error_its_place_and_what_to_do() -> None:
    """The first alert, the file and the line, that nothing has changed, and the last success."""
    failure = {**STATUS["last_reload"], "result": "failure", "trigger": "files", "generation": 4, "words": WORDS}
    text = "\n".join(lines(status(last_reload=failure, last_success_at=NOW - 7200)))
    assert "last reload    FAILURE 1m 30s ago, asked for by files, generation 4, in 0.0213 s\n" in text
    assert WORDS.splitlines()[1] in text
    assert "the current generation still serves; correct line 14 of /etc/lb/haproxy.cfg, and it is loaded" in text
    assert "the last success was 2h ago" in text
    assert "haproxy version" not in text


def test_a_failed_reload_without_a_place_says_what_to_do_all_the_same() -> None:
    """haproxy may have died without words."""
    failure = {**STATUS["last_reload"], "result": "failure", "message": "not ready in time", "words": ""}
    text = "\n".join(lines(status(last_reload=failure, last_success_at=None)))
    assert "not ready in time" in text
    assert "; correct the configuration, and it is loaded" in text
    assert "none has succeeded since the start" in text


def test_what_serves_is_not_said_to_be_as_before_when_it_is_the_last_known_good() -> None:
    """A crash after the failed reload may have brought an older one."""
    failure = {**STATUS["last_reload"], "result": "failure", "words": WORDS}
    text = "\n".join(lines(status(last_reload=failure, configuration__last_known_good=True)))
    assert "still serves" not in text
    assert "correct line 14 of /etc/lb/haproxy.cfg, and it is loaded" in text
    assert text.count("LAST KNOWN GOOD") == 1


def test_a_refused_file_is_shown_once_and_it_is_the_file_that_is_to_be_corrected() -> None:
    """The configuration is well, and haproxy's words are part of the message."""
    what = "site.pem: unable to load certificate from file 'site.pem': no start line"
    message = f"generation 3 (pid 17) refuses a changed file and goes on with the old one: {what}"
    failure = {**STATUS["last_reload"], "result": "failure", "kind": history.APPLIED, "message": message, "words": what}
    text = "\n".join(lines(status(last_reload=failure)))
    assert "FAILURE 1m 30s ago, a changed file was refused\n" in text
    assert text.count(what) == 1
    assert "; correct the file, and it is taken\n" in text


@pytest.mark.parametrize(
    ("alert", "advice"),
    [
        (
            "'bind :1' : inconsistencies between private key and certificate loaded '/a.pem'.",
            ", or the file that it names",
        ),
        ("invalid args in converter 'map' : failed to open pattern file </a.map>.", ", or the file that it names"),
        ("unknown keyword 'bnid' in 'frontend' section", ""),
    ],
)
def test_a_file_that_the_line_names_may_be_what_is_wrong(alert: str, advice: str) -> None:
    """haproxy has no other place for a bad certificate than the line of the bind."""
    words = f"[ALERT]    (8) : config : parsing [/etc/lb/haproxy.cfg:14] : {alert}"
    failure = {**STATUS["last_reload"], "result": "failure", "words": words}
    text = "\n".join(lines(status(last_reload=failure)))
    assert f"; correct line 14 of /etc/lb/haproxy.cfg{advice}, and it is loaded" in text


def test_a_reload_is_advised_only_where_no_file_is_watched() -> None:
    """Elsewhere a corrected file is one."""
    failure = {**STATUS["last_reload"], "result": "failure", "words": WORDS}
    told = "correct line 14 of /etc/lb/haproxy.cfg, try it with `safe_reload check`, then `safe_reload reload`"
    assert told in "\n".join(lines(status(last_reload=failure, watch__mode="off")))
    for mode in ("inotify", "poll"):
        assert "safe_reload reload" not in "\n".join(lines(status(last_reload=failure, watch__mode=mode)))


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("generation 4 (pid 8) was killed by SIGKILL before it was ready; the reload has failed", True),
        ("generation 4 (pid 8) is not ready within --ready-timeout: it was killed; the reload has failed", False),
        ("generation 4 was not started: Cannot allocate memory; the reload has failed", False),
    ],
)
def test_a_failure_for_another_reason_does_not_ask_to_correct_the_configuration(message: str, memory: bool) -> None:
    """It is tried again; and the likeliest cause of a SIGKILL is named."""
    failure = {**STATUS["last_reload"], "result": "failure", "message": message, "words": ""}
    text = "\n".join(lines(status(last_reload=failure, configuration__retries=1)))
    assert "the current generation still serves; the configuration is not the cause: it is tried again" in text
    assert "correct" not in text
    assert ("out of memory" in text) is memory


def test_a_start_that_failed_is_no_reload() -> None:
    """Nobody has asked for it, it has no time, and where nobody serves nothing is as before."""
    failure = {**STATUS["last_reload"], "result": "failure", "trigger": history.START, "seconds": None, "words": WORDS}
    text = "\n".join(lines(status(last_reload=failure, generations=[])))
    assert "last start     FAILURE 1m 30s ago, generation 3\n" in text
    assert "last reload" not in text
    assert "asked for by" not in text.partition("\n\n")[2].partition("\n\n")[2]
    assert "still serves" not in text


def test_a_change_that_was_undone_is_not_shown_as_a_reload() -> None:
    """The event is shown, without a time."""
    back = {**STATUS["last_reload"], "seconds": None, "message": "the files are again what runs: the failure is over"}
    told = "last reload    success 1m 30s ago, the files are again what runs: the failure is over"
    assert told in lines(status(last_reload=back))


def test_files_that_were_applied_are_shown_as_such() -> None:
    """Which, and how fast; nobody is said to have asked for it."""
    message = "applied /etc/lb/site.pem without a reload (6 ms)"
    last = {**STATUS["last_reload"], "kind": "applied", "trigger": "files", "seconds": 0.006, "message": message}
    shown = lines(status(last_reload=last))
    assert f"last reload    success 1m 30s ago, {message}" in shown
    assert not any("asked for by files" in line for line in shown)
    assert "last reload    success 1m 30s ago, asked for by SIGUSR1, generation 3, in 0.0213 s" in lines(STATUS)


def test_a_refused_file_is_shown_in_haproxy_s_words_and_with_what_to_do() -> None:
    """The generation goes on, and there is no time and no candidate."""
    message = (
        "generation 3 (pid 17) refuses a changed file and goes on with the old one: /etc/lb/site.pem: no start line"
    )
    last = {**STATUS["last_reload"], "kind": "applied", "trigger": "files", "seconds": None, "message": message}
    shown = lines(status(last_reload={**last, "result": "failure"}, last_success_at=NOW - 7200))
    at = shown.index("last reload    FAILURE 1m 30s ago, a changed file was refused")
    assert [line.strip() for line in shown[at + 1 : at + 4]] == [
        message,
        "the current generation still serves; correct the file, and it is taken",
        "the last success was 2h ago",
    ]


@pytest.mark.parametrize(("sha256", "kept"), [(None, False), ("ab" * 32, False), ("ab" * 32, True)])
@pytest.mark.parametrize("on_disk", [None, "ab" * 32, "ef" * 32])
@pytest.mark.parametrize("generations", [[], STATUS["generations"]])
@pytest.mark.parametrize("mode", ["inotify", "off"])
def test_nothing_is_said_of_the_disk_that_is_not_known(
    sha256: str | None, kept: bool, on_disk: str | None, generations: list[object], mode: str
) -> None:
    """The same and another one are said only where both are known; and where nobody looks, as of what it had."""
    facts = status(
        generations=generations,
        watch__mode=mode,
        configuration__sha256=sha256,
        configuration__disk_sha256=on_disk,
        configuration__pending=bool(on_disk and sha256 != on_disk),
        configuration__last_known_good=kept,
    )
    (line,) = [one for one in lines(facts) if one.startswith("configuration ")]
    compared = bool(sha256 and on_disk)
    assert ("another one" in line) is (compared and sha256 != on_disk)
    assert ("the same" in line) is (compared and sha256 == on_disk and not kept)
    assert ("what the disk has is not known" in line) is (not on_disk or (kept and sha256 == on_disk))
    assert ("; the disk has " in line) <= (mode != "off" and compared)
    assert ("LAST KNOWN GOOD" in line) is kept
    assert "  -" not in line


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"configuration__last_known_good": True, "configuration__pending": True},
            "abababababab, the LAST KNOWN GOOD one; the disk has another one, abababababab: a reload would take it",
        ),
        (
            {"configuration__pending": True, "configuration__disk_sha256": "ef" * 32},
            "abababababab; the disk has another one, efefefefefef: a reload would take it",
        ),
        ({"configuration__unreadable": "/x: no such file"}, "abababababab; the disk: /x: no such file"),
        ({"watch__stale_mounts": ["/etc/lb/a.pem"]}, "STALE MOUNT /etc/lb/a.pem: what is mounted has"),
        ({"watch__stale_mounts": ["/x"]}, "abababababab; the disk has the same, but some of it can never change again"),
        ({"watch__mode": "off"}, "off: only signals and commands reload"),
        ({"restarts__by_reason": {"SIGKILL": 2, "status 1": 1}}, "2 after SIGKILL, 1 after status 1"),
        (
            {"restarts__by_reason": {"SIGKILL": 2}, "restarts__in_a_row": 2},
            "2 after SIGKILL; 2 in a row, the limit is 5",
        ),
        ({"last_reload": None}, "none since the start"),
        ({"stage": "stopping"}, "lb  pid 1  stopping  up"),
        ({"stage": "lingering"}, "lb  pid 1  stopping, and still accepting (--stop-delay)  up"),
        ({"stage": "backing_off"}, "lb  pid 1  haproxy has died, and is started again after a pause  up"),
        ({"generations": []}, "lb  pid 1  no generation is current  up"),
        ({"vips": [{"tag": "FD_X", "address": "[::1]:1", "accepts": False}]}, "refuses: no bind of the current"),
        ({"vips": [{"tag": "FD_X", "address": "[::1]:1", "accepts": None}]}, "listens; haproxy does not say whether"),
    ],
)
def test_each_problem_is_shown(changes: dict[str, object], told: str) -> None:
    """Each fact by itself."""
    assert told in "\n".join(lines(status(**changes)))
    assert told not in "\n".join(lines(STATUS))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"configuration__last_known_good": True, "configuration__pending": True}, True),
        ({"stage": "backing_off"}, True),
        ({"stage": "lingering"}, False),
        ({"stage": "stopping"}, False),
        ({"generations": []}, False),
    ],
)
def test_what_counts_as_serving(changes: dict[str, object], expected: bool) -> None:
    """A current generation that is not being stopped, whatever else is wrong."""
    assert serves(status(**changes)) is expected


def test_long_lists_are_cut_and_say_so() -> None:
    """4,096 VIPs do not scroll everything else away, and those that refuse clients are shown first."""
    vips = [{"tag": f"FD_{n}", "address": f"127.0.0.1:{n}", "accepts": n != 4000} for n in range(1, 4097)]
    shown = lines(status(vips=vips))
    assert len(shown) < 50
    assert shown[-1] == "and 4076 more: --json has all"
    assert any(line.startswith("FD_4000 ") for line in shown)


def test_colours_are_added_and_nothing_else() -> None:
    """Without its escape sequences a coloured report is the plain one, aligned as it is."""
    failure = {**STATUS["last_reload"], "result": "failure", "words": WORDS}
    facts = status(last_reload=failure, configuration__last_known_good=True)
    coloured = "\n".join(report.report(facts, NOW, Style(colour=True)))
    assert "\x1b[1;31mabababababab, the LAST KNOWN GOOD" in coloured
    for code in ("31", "32", "33", "1", "1;31", "0"):
        coloured = coloured.replace(f"\x1b[{code}m", "")
    assert coloured == "\n".join(lines(facts))


def test_an_escape_sequence_in_haproxy_s_words_does_not_reach_the_terminal() -> None:
    """A configuration is quoted in errors, and it may hold anything."""
    failure = {**STATUS["last_reload"], "result": "failure", "words": "[ALERT] \x1b]0;owned\x07 \x9b2J"}
    text = "\n".join(lines(status(last_reload=failure, name="\x1b[2Jlb")))
    assert not set(text) & {"\x1b", "\x07", "\x9b"}


LEAVES = st.sampled_from([None, True, False, -1, 0.5, 10**400, float("nan"), float("-inf"), "", "current", "\x1b"])
RECORDS = st.dictionaries(st.sampled_from(["state", "at", "result", "number", "age_seconds", "stale_mounts"]), LEAVES)
JSON = LEAVES | RECORDS | st.lists(LEAVES | RECORDS, max_size=3)


@given(st.dictionaries(st.sampled_from(list(STATUS)), JSON))
def test_no_answer_makes_it_stumble(changes: dict[str, object]) -> None:
    """Whatever an instance of another version says is shown as far as it can be understood."""
    facts = {**STATUS, **changes}
    found: list[tuple[str, Status | str]] = [("lb", facts), ("x", "dead")]
    for style in (PLAIN, Style(colour=True)):
        assert report.report(facts, NOW, style)
        assert report.instances(found, NOW, style)
    assert serves(facts) in {True, False}
    assert report.current(facts)


def test_instances_are_listed_the_dead_ones_too() -> None:
    """Name, pid, stage, generation and last reload of each."""
    failure = {**STATUS["last_reload"], "result": "failure"}
    found: list[tuple[str, Status | str]] = [("a", STATUS), ("b2", status(last_reload=failure, pid=77))]
    found.append(("c", "dead: nobody listens"))
    assert report.instances(found, NOW, PLAIN) == [
        "name  pid  stage                 generation  last reload",
        "a     1    serving               3           success 1m 30s ago",
        "b2    77   serving               3           failure 1m 30s ago",
        "c     -    dead: nobody listens",
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Success=1\n--\n", (True, "", [])),
        (
            "Success=1\n--\n[WARNING] x\ngeneration 2 (pid 9) is current; asked for by the CLI\n",
            (True, "generation 2 (pid 9) serves", ["[WARNING] x"]),
        ),
        ("Success=0\n--\n[ALERT] a\n[ALERT] b\n", (False, "", ["[ALERT] a", "[ALERT] b"])),
        ("Success=0\n", (False, "", [])),
        ("Unknown command: 'reload'\n", (None, "", [])),
        ("", (None, "", [])),
        ("Success=1\n--\ngeneration 1 (pid 7) drains\n", (True, "", ["generation 1 (pid 7) drains"])),
    ],
)
def test_the_answer_to_a_reload_is_taken_apart(answer: str, expected: tuple[bool | None, str, list[str]]) -> None:
    """The result, what serves, and haproxy's words."""
    assert report.read_reload(answer) == expected


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (WORDS, ("/etc/lb/haproxy.cfg", 14)),
        ("[ALERT] (1) : Starting frontend x: cannot bind socket [127.0.0.1:80]", None),
        ("[ALERT] (1) : Starting frontend x: cannot bind socket [:::80]", None),
        ("[ALERT] (1) : Binding [/a b.cfg:3] for frontend x: cannot bind (no) for [fe80::1%eth0:80]", ("/a b.cfg", 3)),
        ("[ALERT] (1) : [frontend x] cannot bind socket (no) for [lb.example:80]", None),
        ("[WARNING] (1) : config : parsing [/x.cfg:3] : odd\n[ALERT] (1) : config : no proxy", None),
        ("[WARNING] (1) : [/x.cfg:3] : odd\n[ALERT] (1) : no\n[ALERT] (1) : parsing [/y.cfg:4] : no", ("/y.cfg", 4)),
        ("[WARNING] (1) : config : parsing [/x.cfg:3] : odd", None),
        ("", None),
        ("killed", None),
    ],
)
def test_the_place_of_an_error(words: str, place: tuple[str, int] | None) -> None:
    """As haproxy names it."""
    assert report.place_of(words) == place


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"), (-3, "0.0s"), (9.96, "10.0s"), (10, "10s"), (60, "1m"), (61, "1m 1s"), (3600, "1h"),
        (3601, "1h"), (90061, "1d 1h"), (None, "-"), ("x", "-"), (float("nan"), "-"), (True, "-"),
    ],
)  # fmt: skip
def test_time_spans(seconds: object, text: str) -> None:
    """Two units are enough."""
    assert duration(seconds) == text


def test_a_configuration_that_has_failed_is_not_offered() -> None:
    """A reload would not take what haproxy has refused."""
    configuration = {"sha256": "aa", "disk_sha256": "bb", "pending": True, "failed_sha256": "bb"}
    lines = report.report({"configuration": configuration}, 0.0, Style(colour=False))
    assert any("the disk has another one, bb: it has FAILED" in line for line in lines)
    assert not any("would take it" in line for line in lines)


@pytest.mark.parametrize(("lost", "line"), [(0, ""), (1, "1 line is lost"), (17, "17 lines are lost")])
def test_lost_log_lines_are_shown(lost: int, line: str) -> None:
    """Nothing is shown if none is lost."""
    lines = report.report({"log": {"lines_lost": lost}}, 0.0, Style(colour=False))
    assert [one for one in lines if "lost" in one] == (
        [f"log          {line}: stderr was full, and nobody read it"] if line else []
    )
