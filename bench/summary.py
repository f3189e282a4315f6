"""The table of the README: the numbers that one asks for first, of the last run of the benchmarks."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.behind import BEHIND_RATE
from bench.host import IMAGES
from bench.measures import INTERVALS
from bench.values import cell, named

Results = dict[str, Any]
COLUMNS = {
    "f": "safe_reload, `fd@`",
    "c": "`haproxy -W`",
    "a": "`haproxy -D -sf`",
    "e": "an fd-passing parent, by hand",
}
END = "<!-- end -->"


def _all(results: Results, measure: str, way: str, key: str) -> list[float]:
    return named(key, results["results"][measure][way])


def _failed(results: Results, way: str) -> str:
    failed, requests = (
        sum(sum(_all(results, "failures", way, f"{interval}.{key}")) for interval in INTERVALS)
        for key in ("failed", "requests")
    )
    return f"{failed:,.0f} of {requests / 1e6:.1f} million"


def _refused(results: Results, way: str) -> str:
    return f"{median(one['crash.refused'] / one['crash.kills'] for one in results['results']['crash'][way]):,.0f}"


def _behind(results: Results, way: str) -> str:
    failed, requests = (sum(_all(results, "behind", way, f"dead.rate.reloads.{key}")) for key in ("behind", "requests"))
    return f"{failed:,.0f} of {requests:,.0f}"


def _medians(measure: str, *keys: str, unit: str) -> Callable[[Results, str], str]:
    def cell(results: Results, way: str) -> str:
        return ", ".join(f"{median(_all(results, measure, way, key)):,.0f}" for key in keys) + f" {unit}"

    return cell


def _rate(results: Results, way: str) -> str:
    return cell([one["5.rate"] / one["0.rate"] for one in results["results"]["draining"][way]], 2)


def _memory(results: Results, way: str) -> str:
    alone, together = (
        median(_all(results, "idle", way, f"{who}.pss_kib")) / 1024 for who in ("supervisor", "everything")
    )
    return f"{f'{alone:.1f}' if alone else 'none'}, {together:.1f} MiB"


ROWS: dict[str, Callable[[Results, str], str]] = {
    f"failed requests at saturation, a reload every {', '.join(map(str, INTERVALS))} ms, in all": _failed,
    "connections refused for each SIGKILL of haproxy, at 2,000 new ones a second": _refused,
    f"failed requests behind a reload, two of three servers dead, at {BEHIND_RATE} a second": _behind,
    "from the request for a reload to the first answer, with 1, 100, 10,000 backends": _medians(
        "reloads", "1.ms.", "100.ms.", "10000.ms.", unit="ms"
    ),
    "rate of new connections while 5 old generations drain : while none does": _rate,
    "p99.9 under a reload every 300 ms, at 2,000 new connections a second": lambda results, way: (
        f"{median(_all(results, 'latency', way, 'reloads.p999_us')) / 1000:.1f} ms"
    ),
    "memory (PSS) of the supervisor, and with haproxy": _memory,
    "from the start to the first answer": _medians("idle", "start.ms", unit="ms"),
    "a reload with 4,096 VIPs": _medians("vips", "4096.reload_ms.", unit="ms"),
}


def table(results: Results) -> str:
    """Draw it."""
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "| --- |" + " ---: |" * len(COLUMNS)]
    lines += [f"| {title} | {' | '.join(cell(results, way) for way in COLUMNS)} |" for title, cell in ROWS.items()]
    return "\n".join(lines) + "\n"


def images(results: Results) -> str:
    """Draw what each image costs."""
    lines = ["| | CPU of the start, up to haproxy's own | of that, a bare Python | resident memory of PID 1 |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for image, costs in results["images"].items():
        ours, python = (median(costs[key]) for key in ("safe_reload_cpu_ms", "python_cpu_ms"))
        resident = costs["resident_kib"][0] / 1024
        lines.append(f"| {IMAGES[image]} | {ours:.0f} ms | {python:.0f} ms | {resident:.1f} MiB |")
    return "\n".join(lines) + "\n"


TABLES = {"<!-- benchmarks -->\n": table, "<!-- images -->\n": images}
"""The tables of the README, by what stands before them."""


def write(results: Results, page: Path) -> None:
    """Put them where the page has the last ones."""
    text = page.read_text()
    for begin, make in TABLES.items():
        before, _, rest = text.partition(begin)
        text = before + begin + make(results) + END + rest.partition(END)[2]
    page.write_text(text)
