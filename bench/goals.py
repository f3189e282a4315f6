"""What safe_reload wants to reach in a run of the benchmarks, and whether it did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.measures import BACKENDS, INTERVALS
from bench.values import named

Results = dict[str, Any]
OURS, MASTER, PARENT = "f", "c", "e"
"""The ways that are compared: safe_reload with fd@, haproxy -W, and a parent as people write it by hand."""
SLACK_MS = 3
"""What a reload may take longer than 1.1 times that of the parent written by hand."""


@dataclass(frozen=True)
class Goal:
    """A number, in what it is told, and between which bounds it should be."""

    title: str
    value: Callable[[Results], float | None]
    most: float
    least: float = 0
    digits: int = 2

    def row(self, results: Results) -> str:
        """Draw the line of the table; a goal that was not measured says so."""
        value = self.value(results)
        bound = f"{self.least:g} to {self.most:g}" if self.least else f"at most {self.most:g}" if self.most else "0"
        if self.most == float("inf"):
            bound = f"at least {self.least:g}"
        if value is None:
            return f"| {self.title} | {bound} | not measured | |"
        verdict = "reached" if self.least <= value <= self.most else "**missed**"
        return f"| {self.title} | {bound} | {value:,.{self.digits}f} | {verdict} |"


def _found(results: Results, measure: str, way: str, key: str) -> list[float]:
    return named(key, results["results"].get(measure, {}).get(way, ()))


def _sum(measure: str, *keys: str) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        found = [one for way in (OURS, "g") for key in keys for one in _found(results, measure, way, key)]
        return sum(found) if found else None

    return value


def _median(measure: str, key: str, scale: float = 1) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        found = _found(results, measure, OURS, key)
        return median(found) * scale if found else None

    return value


def _quotient(measure: str, of: tuple[str, str], by: tuple[str, str], less: float = 0) -> Callable[[Results], Any]:
    """Divide the medians of two (way, key), after taking something from the first."""

    def value(results: Results) -> float | None:
        above, below = (_found(results, measure, *one) for one in (of, by))
        return (median(above) - less) / median(below) if above and below else None

    return value


def _reloads(way: str, backends: int, less: float = 0) -> Callable[[Results], Any]:
    key = f"{backends}.ms."
    return _quotient("reloads", (OURS, key), (way, key), less)


GOALS: Sequence[Goal] = (
    Goal(
        "failed requests under reloads, fd@ and ordinary `bind`, all runs",
        _sum("failures", *(f"{interval}.failed" for interval in INTERVALS)),
        0,
        digits=0,
    ),
    Goal(
        "refused connections when haproxy is killed, fd@ and ordinary `bind`, all runs",
        _sum("crash", "crash.refused", "crash.reset_connecting"),
        0,
        digits=0,
    ),
    *(
        Goal(
            f"request for a reload to first answer, {count:,} backend{'s' * (count > 1)}: "
            f"{SLACK_MS} ms less than ours : a parent written by hand",
            _reloads(PARENT, count, SLACK_MS),
            1.1,
        )
        for count in BACKENDS
    ),
    Goal("the same, 1 backend: ours : `haproxy -W`", _reloads(MASTER, 1), 0.6),
    Goal("the same, 10,000 backends: ours : `haproxy -W`", _reloads(MASTER, 10_000), 0.8),
    Goal(
        "accept rate with 5 draining generations : with none",
        _quotient("draining", (OURS, "5.rate"), (OURS, "0.rate")),
        float("inf"),
        0.95,
    ),
    Goal(
        "p99.9 during reloads : without",
        _quotient("latency", (OURS, "reloads.p999_us"), (OURS, "quiet.p999_us")),
        1.5,
    ),
    Goal(
        "throughput, new connections: ours : bare haproxy",
        _quotient("throughput", (OURS, "close.rate"), ("bare", "close.rate")),
        float("inf"),
        0.98,
    ),
    Goal(
        "throughput, kept connections: ours : bare haproxy",
        _quotient("throughput", (OURS, "keep.rate"), ("bare", "keep.rate")),
        float("inf"),
        0.98,
    ),
    Goal("PID 1 after some reloads, resident, MiB", _median("idle", "supervisor.rss_kib", 1 / 1024), 14, digits=1),
    Goal("the same, unique, MiB", _median("idle", "supervisor.unique_kib", 1 / 1024), 8, digits=1),
    Goal("wake-ups of PID 1 a minute when idle", _median("idle", "supervisor.wake_ups_a_minute"), 0, digits=0),
    Goal("CPU of PID 1 until 4,096 VIPs are served, s", _median("vips", "4096.cpu_ms", 1e-3), 1),
)


def table(results: Results) -> str:
    """Draw all of them."""
    lines = ["| | goal | measured | |", "| --- | ---: | ---: | --- |"]
    return "\n".join([*lines, *(goal.row(results) for goal in GOALS)])
