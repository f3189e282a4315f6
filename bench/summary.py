"""The table of the README: the numbers that one asks for first, of the last run of the benchmarks."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.measures import INTERVALS
from bench.values import named

Results = dict[str, Any]
COLUMNS = {
    "f": "safe_reload",
    "c": "`haproxy -W`",
    "a": "`haproxy -D -sf`",
    "e": "an fd-passing parent, by hand",
}
BEGIN, END = "<!-- benchmarks -->\n", "<!-- end -->"


def _all(results: Results, measure: str, way: str, key: str) -> list[float]:
    return named(key, results["results"][measure][way])


def _failed(results: Results, way: str) -> str:
    failed, requests = (
        sum(sum(_all(results, "failures", way, f"{interval}.{key}")) for interval in INTERVALS)
        for key in ("failed", "requests")
    )
    return f"{failed:,.0f} of {requests / 1e6:.1f} million"


def _refused(results: Results, way: str) -> str:
    refused, kills = (sum(_all(results, "crash", way, f"crash.{key}")) for key in ("refused", "kills"))
    return f"{refused / kills:,.0f}"


def _medians(measure: str, *keys: str, unit: str) -> Callable[[Results, str], str]:
    def cell(results: Results, way: str) -> str:
        return ", ".join(f"{median(_all(results, measure, way, key)):,.0f}" for key in keys) + f" {unit}"

    return cell


def _rate(results: Results, way: str) -> str:
    return f"{median(one['5.rate'] / one['0.rate'] for one in results['results']['draining'][way]):.2f}"


def _memory(results: Results, way: str) -> str:
    kib = median(_all(results, "idle", way, "supervisor.pss_kib"))
    return f"{kib / 1024:.1f} MiB" if kib else "there is none"


ROWS: dict[str, Callable[[Results, str], str]] = {
    f"failed requests at saturation, a reload every {', '.join(map(str, INTERVALS))} ms": _failed,
    "connections refused for each SIGKILL of haproxy, at 2,000 new ones a second": _refused,
    "from the request for a reload to the first answer, with 1, 100, 10,000 backends": _medians(
        "reloads", "1.ms.", "100.ms.", "10000.ms.", unit="ms"
    ),
    "rate of new connections while 5 old generations drain : while none does": _rate,
    "p99.9 under a reload every 300 ms, at 2,000 new connections a second": lambda results, way: (
        f"{median(_all(results, 'latency', way, 'reloads.p999_us')) / 1000:.1f} ms"
    ),
    "memory of the supervisor (PSS)": _memory,
    "from the start to the first answer": _medians("idle", "start.ms", unit="ms"),
}


def table(results: Results) -> str:
    """Draw it."""
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "| --- |" + " ---: |" * len(COLUMNS)]
    lines += [f"| {title} | {' | '.join(cell(results, way) for way in COLUMNS)} |" for title, cell in ROWS.items()]
    return "\n".join(lines) + "\n"


def write(results: Results, page: Path) -> None:
    """Put it where the page has the last one."""
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + BEGIN + table(results) + END + rest.partition(END)[2])
