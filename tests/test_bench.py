"""The benchmarks: what they say is what they measured. That they run is seen by running them: `make bench-quick`."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bench import conformity, goals, render, sections, summary
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
    """200 with a pid for most, a hang-up without an answer for every tenth."""

    seen = 0

    def do_GET(self) -> None:
        """Answer, or do not."""
        _Answers.seen += 1
        if _Answers.seen % 10 == 0:
            return
        body = b"mark 4711"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server of which every tenth answer is missing."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the client is C")
def test_the_client_counts_each_request_by_what_became_of_it(tmp_path: Path, port: int) -> None:
    """Answers, missing answers and refusals are told apart, and none is lost."""
    client = str(tmp_path / "client")
    flags = ["-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", client, str(BENCH / "client.c")], check=True)

    def counts(port: int) -> dict[str, float]:
        words = [client, "-c", "1", "-n", "100", "-s", "20", "127.0.0.1", str(port)]
        found: dict[str, float] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
        return found

    answered = counts(port)
    refused = counts(1)

    assert (answered["requests"], answered["ok"], answered["failed"]) == (100, 90, 10)
    assert answered["cut"] + answered["reset"] == 10
    assert answered["processes_seen"] == 1
    assert 0 < answered["p50_us"] <= answered["p99_us"] <= answered["longest_us"]
    assert (refused["ok"], refused["refused"]) == (0, 100)
