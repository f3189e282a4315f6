"""The benchmarks: what they say is what they measured. That they run is seen by running them: `make bench-quick`."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from socketserver import ThreadingUDPServer
from threading import Thread

import pytest

from bench import behind, conformity, forms, goals, render, sections, summary
from bench.load import KINDS
from bench.measures import MEASURES
from bench.ways import WAYS

BENCH = Path(__file__).parents[1] / "bench"
RUN = {"at": "then", "seconds": 61, "quick": False, "seed": 1, "size": {"repetitions": 3}}
MACHINE = {"cpu": "x", "cpus": 2, "memory_mib": 1024, "kernel": "6", "system": "Debian", "haproxy": "HAProxy"}
MACHINE |= {"python": "3", "tini": "tini", "safe_reload": "0", "load_average_before": 0.0}


def results(**measures: object) -> sections.Results:
    """Make results of a run."""
    nothing_odd = {"skipped": {}, "left_out": 0, "errors": []}
    ways = {way.key: way.title for way in WAYS}
    return {"machine": MACHINE, "run": {**RUN, **nothing_odd}, "ways": ways, "results": measures}


def test_each_way_and_each_measure_has_a_name_of_its_own() -> None:
    """What is chosen with --ways and --measures is one thing."""
    assert len({way.key for way in WAYS}) == len({way.title for way in WAYS}) == len(WAYS)
    assert len({measure.key for measure in MEASURES}) == len(MEASURES)


def test_the_page_shows_the_median_with_the_least_and_the_most() -> None:
    """One number hides nothing about its spread."""
    trials = [{"close.rate": rate, "close.p99_us": 1000.0} for rate in (50.0, 20_000.0, 100.0)]
    page = render.markdown(results(throughput={"f": trials}), {})
    assert "| safe_reload, fd@ | 100 (50 to 20,000) | - | 1.0 (1.0 to 1.0) | - | - | - |" in page


def test_one_failed_request_of_many_runs_is_not_lost_in_a_median() -> None:
    """Failures are added up, and the worst run is named."""
    zeros = dict.fromkeys((*KINDS, "failed", "left_over"), 0.0)
    run = {**zeros, "requests": 1000.0, "asked": 9.0, "processes_seen": 10.0}
    bad = {**run, "failed": 1.0, "reset": 1.0}
    trials = [{f"300.{key}": value for key, value in one.items()} for one in (run, run, bad)]
    table = sections.failures_table(results(failures={"f": trials}), 300)
    assert "| safe_reload, fd@ | 3,000 | 1 | 1 | reset before an answer 1 | 27 | 27 | 0 |" in table


def behind_trial(**values: float) -> dict[str, float]:
    """Make a repetition in which nothing was lost behind the sockets, but for some values."""
    every = {"requests": 100.0, "behind": 0.0, "otherwise": 0.0, "events": 2.0, "maintained": 2.0, "resumed": 2.0}
    trials = map(".".join, product(behind.KINDS_OF_SERVERS, behind.LOADS, behind.EVENTS))
    found = {f"{trial}.{key}": value for trial in trials for key, value in every.items()}
    return found | {key.replace("_", "."): value for key, value in values.items()}


def test_one_request_that_failed_behind_the_sockets_is_on_the_page() -> None:
    """Sums of all runs, for each load and each event, with addresses and with names, and no refused ones among them."""
    bad = behind_trial(dead_closed_kills_behind=1.0, dns_rate_reloads_behind=3.0, dead_rate_reloads_otherwise=50.0)
    page = render.markdown(results(behind={"f": [behind_trial(), bad]}), {})
    addresses, _, names = page.partition("The same, servers named by DNS")
    none = "0 of 200 (4)"
    assert f"| safe_reload, fd@ | {none} | {none} | {none} | 1 of 200 (4) |" in addresses
    assert f"| safe_reload, fd@ | 3 of 200 (4) | {none} | {none} | {none} |" in names
    assert "two of three servers dead, fd@ and ordinary `bind`, all runs | 0 | 1 | **missed** |" in page


def test_maintenance_and_sessions_are_counted_over_all_runs() -> None:
    """What one reload has forgotten is not made up for by the others."""
    bad = behind_trial(dead_rate_reloads_maintained=1.0, dns_closed_kills_resumed=0.0)
    table = sections.kept_table(results(behind={"c": [behind_trial(), bad]}))
    assert "| haproxy -W, USR2 | 15 of 16 | 16 of 16 | 16 of 16 | 14 of 16 |" in table


def test_a_section_of_another_run_says_so() -> None:
    """Nobody takes its numbers for those of the run at the top of the page."""
    own = results(behind={"f": [behind_trial()]}, idle={"f": [{"start.ms": 1.0}]})
    own["apart"] = {"behind": {"at": "later", "repetitions": 5, "commit": "abc", "load_average_before": 2.5}}
    _, _, text = render.markdown(own, {}).partition("## What is lost behind")
    section, _, others = text.partition("\n## ")
    assert "This section is from a run of its own: later, 5 repetitions, abc. Load average before it: 2.5." in section
    assert "a run of its own" not in others


@pytest.mark.parametrize(("kind", "addresses"), [(1, [b"\x7f\0\0\1"]), (28, [])], ids=["A", "AAAA"])
def test_the_name_server_answers_each_question_for_an_address(kind: int, addresses: list[bytes]) -> None:
    """haproxy's query has an OPT record after its question (RFC 6891); the answer repeats the question only."""
    question = b"\4good\4test\0" + bytes([0, kind, 0, 1])
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\1" + question + b"\0\0\x29\x10\0\0\0\0\0\0\0"
    with ThreadingUDPServer(("127.0.0.1", 0), behind.Names) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client.settimeout(30)
        client.sendto(query, server.server_address)
        answer = client.recv(4096)
        server.shutdown()
        thread.join()
    head, rest = answer[:12], answer[12:]
    assert head == b"\x12\x34\x84\0\0\1\0" + bytes([len(addresses)]) + b"\0\0\0\0"
    assert rest.startswith(question)
    assert [rest[-4:]] * bool(rest != question) == addresses


def test_a_goal_is_reached_missed_or_not_measured() -> None:
    """A run of a part of the measures claims nothing of the others."""
    trials = [{"5.rate": rate, "0.rate": 100.0} for rate in (80.0, 94.0, 99.0)]
    text = goals.table(results(draining={"f": trials}, idle={"f": [{"supervisor.wake_ups_a_minute": 0.0}]}))
    assert (
        "| accept rate with 5 draining generations : with none | at least 0.95 | 0.94 (0.80 to 0.99) | **missed** |"
        in text
    )
    assert "| wake-ups of PID 1 a minute when idle | 0 | 0 | reached |" in text
    assert text.count("not measured") == len(goals.GOALS) - 2


def test_the_pages_have_the_numbers_of_the_last_run() -> None:
    """`make bench` writes README's two tables and all of docs/benchmarks.md; nobody edits them."""
    last = json.loads((BENCH.parent / "docs/benchmarks.json").read_text())
    text = (BENCH.parent / "README.md").read_text()
    for begin, make in summary.TABLES.items():
        assert text.partition(begin)[2].partition(summary.END)[0] == make(last)
    pictures = {section.measure: f"benchmarks/{section.measure}.svg" for section in sections.SECTIONS}
    assert (BENCH.parent / "docs/benchmarks.md").read_text() == render.markdown(last, pictures)


def test_what_was_skipped_or_went_wrong_is_on_the_page() -> None:
    """A page without a number says why."""
    odd = results()
    odd["run"] |= {"skipped": {"h": "BENCH_ORIGINAL=PROGRAM"}, "left_out": 7, "errors": ["no\nanswer"]}
    page = render.markdown(odd, {})
    assert "safe_reload.c of 2017, fd@ (BENCH_ORIGINAL=PROGRAM)" in page
    assert "7 trials" in page
    assert "**Failed:** no answer" in page


@pytest.mark.parametrize("suite", [conformity.INIT, conformity.MASTER], ids=["inits", "masters"])
def test_a_conformity_page_has_a_line_for_each_promise(suite: conformity.Suite) -> None:
    """What is in the suite is in the table, and what passes in part says so; the page in docs/ is of this suite."""
    promises = conformity.promises(suite)
    name = next(iter(promises))
    cases = [(name, f"{number}-x", "passed" if number < 3 else "failed") for number in range(8)]

    page = conformity.page(suite, {"tini": conformity.count(cases), "one": conformity.count(cases, "7")}, ["catatonit"])

    assert len(promises) > 30
    assert f"| {promises[name]} | 3 of 8 | **no** |" in page
    assert page.count("\n| ") == len(promises) + 3
    assert "catatonit" in page
    written = (Path(conformity.__file__).parents[1] / "docs" / suite.page).read_text(encoding="utf-8")
    assert [
        promise for promise in promises.values() if f"\n| {promise.replace('|', chr(92) + '|')} | " not in written
    ] == []


class _Answers(BaseHTTPRequestHandler):
    """200 with a pid for most, a hang-up without an answer for every tenth, 503 for another tenth."""

    seen = 0

    def do_GET(self) -> None:
        """Answer, or do not."""
        _Answers.seen += 1
        if _Answers.seen % 10 == 0:
            return
        body = b"mark 4711"
        self.send_response(503 if _Answers.seen % 10 == 5 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server of which every tenth answer is missing, and another tenth is 503."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the client is C")
def test_the_client_counts_each_request_by_what_became_of_it(tmp_path: Path, port: int) -> None:
    """Answers, answers of 503, missing answers and refusals are told apart, and none is lost."""
    client = str(tmp_path / "client")
    flags = ["-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", client, str(BENCH / "client.c")], check=True)

    def counts(port: int) -> dict[str, float]:
        words = [client, "-c", "1", "-n", "100", "-s", "20", "127.0.0.1", str(port)]
        found: dict[str, float] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
        return found

    answered = counts(port)
    refused = counts(1)

    assert (answered["requests"], answered["ok"], answered["failed"]) == (100, 80, 20)
    assert answered["bad"] == 10
    assert answered["cut"] + answered["reset"] == 10
    assert answered["processes_seen"] == 1
    assert 0 < answered["p50_us"] <= answered["p99_us"] <= answered["longest_us"]
    assert (refused["ok"], refused["refused"]) == (0, 100)


def test_memory_is_told_apart_by_what_is_mapped() -> None:
    """The program's own file, other files, and what is no file; headers and other keys are no sizes."""
    smaps = (
        "00400000-00500000 r-xp 00000000 08:01 1 /safe_reload\nSize: 9 kB\nRss: 100 kB\nPss: 90 kB\n"
        "Private_Clean: 80 kB\nPrivate_Dirty: 7 kB\nVmFlags: rd ex\n"
        "7f00-7f01 r--p 00000000 08:01 2 /lib/libc.so.6\nRss: 20 kB\nPss: 10 kB\nPrivate_Clean: 0 kB\n"
        "7f02-7f03 rw-p 00000000 00:00 0 [heap]\nRss: 3 kB\nPss: 3 kB\nPrivate_Dirty: 3 kB\n"
        "7f04-7f05 rw-p 00000000 00:00 0\nRss: 1 kB\nPss: 1 kB\nPrivate_Dirty: 1 kB\n"
    )
    assert forms.sizes(smaps, "/safe_reload") == {
        "rss": 124,
        "pss": 104,
        "private": 91,
        "program": 100,
        "libraries": 20,
        "memory": 4,
    }


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a=image:tag", forms.Form("a", "image:tag", (forms.PROGRAM,))),
        ("a=image=/x,-v,b=c", forms.Form("a", "image", ("/x", "-v", "b=c"))),
    ],
)
def test_a_form_is_an_image_and_a_command(text: str, form: forms.Form) -> None:
    """The command is safe_reload unless it is given."""
    assert forms.Form.read(text) == form
