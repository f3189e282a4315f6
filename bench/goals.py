"""What safe_reload wants to reach in a run of the benchmarks, and whether it did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.behind import EVENTS, LOADS
from bench.host import IMAGES, RELOADS
from bench.measures import BACKENDS, INTERVALS
from bench.values import cell, named

Results = dict[str, Any]
OURS, MASTER, PARENT = "f", "c", "e"
"""The ways that are compared: safe_reload with fd@, haproxy -W, and a parent as people write it by hand."""
SLACK_MS = 3
"""What a reload may take longer than 1.1 times that of the parent written by hand."""


Values = Callable[[Results], list[float]]
"""What was found in a run: of each repetition, or one number for all; nothing where it was not measured."""


@dataclass(frozen=True)
class Goal:
    """A number, in what it is told, and between which bounds its median should be."""

    title: str
    values: Values
    most: float
    least: float = 0
    digits: int = 2

    def row(self, results: Results) -> str:
        """Draw the line of the table; a goal that was not measured says so."""
        values = self.values(results)
        bound = f"{self.least:g} to {self.most:g}" if self.least else f"at most {self.most:g}" if self.most else "0"
        if self.most == float("inf"):
            bound = f"at least {self.least:g}"
        if not values:
            return f"| {self.title} | {bound} | not measured | |"
        verdict = "reached" if self.least <= median(values) <= self.most else "**missed**"
        return f"| {self.title} | {bound} | {cell(values, self.digits)} | {verdict} |"


def _found(results: Results, measure: str, way: str, key: str) -> list[float]:
    return named(key, results["results"].get(measure, {}).get(way, ()))


def _sum(measure: str, *keys: str) -> Values:
    def values(results: Results) -> list[float]:
        found = [one for way in (OURS, "g") for key in keys for one in _found(results, measure, way, key)]
        return [sum(found)] if found else []

    return values


def _all(measure: str, key: str, scale: float = 1) -> Values:
    return lambda results: [one * scale for one in _found(results, measure, OURS, key)]


def _each(measure: str, of: str, by: str) -> Values:
    """Divide two numbers of each repetition."""
    return lambda results: [one[of] / one[by] for one in results["results"].get(measure, {}).get(OURS, ())]


def _reloads(way: str, backends: int, less: float = 0) -> Values:
    """Divide the median of what a reload takes, less something, by another way's."""

    def values(results: Results) -> list[float]:
        ours, its = (_found(results, "reloads", one, f"{backends}.ms.") for one in (OURS, way))
        return [(median(ours) - less) / median(its)] if ours and its else []

    return values


def _of_image(image: str, key: str, scale: float = 1) -> Values:
    return lambda results: [one * scale for one in results.get("images", {}).get(image, {}).get(key, ())]


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
    Goal(
        "failed requests behind reloads and kills, two of three servers dead, fd@ and ordinary `bind`, all runs",
        _sum("behind", *(f"dead.{load}.{event}.behind" for load in LOADS for event in EVENTS)),
        0,
        digits=0,
    ),
    *(
        Goal(
            f"request for a reload to first answer, {count:,} backend{'s' * (count > 1)}: "
            f"(ours - {SLACK_MS} ms) : a parent written by hand",
            _reloads(PARENT, count, SLACK_MS),
            1.1,
        )
        for count in BACKENDS
    ),
    Goal("the same, 1 backend: ours : `haproxy -W`", _reloads(MASTER, 1), 0.6),
    Goal("the same, 10,000 backends: ours : `haproxy -W`", _reloads(MASTER, 10_000), 0.8),
    Goal(
        "accept rate with 5 draining generations : with none",
        _each("draining", "5.rate", "0.rate"),
        float("inf"),
        0.95,
    ),
    Goal(
        "p99.9 during reloads : without",
        _each("latency", "reloads.p999_us", "quiet.p999_us"),
        1.5,
    ),
    Goal("throughput, new connections: ours : bare haproxy", _all("throughput", "close.of_bare."), 1.02, 0.98),
    Goal("throughput, kept connections: ours : bare haproxy", _all("throughput", "keep.of_bare."), 1.02, 0.98),
    *(
        Goal(
            f"PID 1 after {RELOADS} reloads, resident, MiB, {words}",
            _of_image(image, "resident_kib", 1 / 1024),
            14,
            digits=1,
        )
        for image, words in IMAGES.items()
    ),
    Goal("PID 1 after some reloads, unique, MiB", _all("idle", "supervisor.unique_kib", 1 / 1024), 8, digits=1),
    *(
        Goal(f"CPU from exec to haproxy's exec, ms, {words}", _of_image(image, "safe_reload_cpu_ms"), 45, digits=0)
        for image, words in IMAGES.items()
    ),
    Goal("wake-ups of PID 1 a minute when idle", _all("idle", "supervisor.wake_ups_a_minute"), 0, digits=0),
    Goal("CPU of PID 1 until 4,096 VIPs are served, s", _all("vips", "4096.cpu_ms", 1e-3), 1),
)


def table(results: Results) -> str:
    """Draw all of them."""
    lines = ["| | goal | measured | |", "| --- | ---: | ---: | --- |"]
    return "\n".join([*lines, *(goal.row(results) for goal in GOALS)])
