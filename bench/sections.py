"""What the page of the benchmarks says: its sections, their tables and panels, and why another way is ahead."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.measures import BACKENDS, DRAINING, INTERVALS, KINDS, RATE, VIPS
from bench.values import cell, named

Results = dict[str, Any]
TEXT = {"p50_us": "p50", "p99_us": "p99", "p999_us": "p99.9", "longest_us": "longest"}
KIND_TEXT = {
    "refused": "refused",
    "reset_connecting": "reset while connecting",
    "reset": "reset before an answer",
    "cut": "closed without an answer",
    "torn": "answer torn",
    "timeout": "timed out",
    "bad": "wrong answer",
    "other": "other",
}


@dataclass(frozen=True)
class Column:
    """One number of a way: how it is called, its unit's digits, and where it is found."""

    title: str
    values: Callable[[list[dict[str, float]]], list[float]]
    digits: int = 0
    middle: Callable[[list[dict[str, float]]], float] | None = None
    """What stands for all values in a picture, where that is not their median."""


def metric(title: str, key: str, digits: int = 0, scale: float = 1) -> Column:
    """Take the values of one name, or of all whose names begin with it when it ends with a dot."""

    def values(repetitions: list[dict[str, float]]) -> list[float]:
        return [value * scale for value in named(key, repetitions)]

    return Column(title, values, digits)


def counted(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def share(title: str, part: str, whole: str, scale: float, digits: int = 0) -> Column:
    """Take the quotient of two values of each repetition."""
    return Column(title, lambda all_: [one[part] / one[whole] * scale for one in all_ if one.get(whole)], digits)


def share_of_all(title: str, part: str, whole: str, scale: float, digits: int) -> Column:
    """Take the same, and in a picture the quotient of the sums: what is rare may not hide behind a median."""
    each = share(title, part, whole, scale, digits)
    return replace(each, middle=lambda all_: sum(one[part] for one in all_) / sum(one[whole] for one in all_) * scale)


def ways_of(results: Results, measure: str) -> Iterator[tuple[str, str, list[dict[str, float]]]]:
    """Yield key, title and repetitions of each way that was measured, in the order of the table of ways."""
    found = results["results"].get(measure, {})
    for key in ("bare", "check", *results["ways"]):
        if key in found and key in results["ways"] | {"bare": ""}:
            yield key, results["ways"].get(key, key), found[key]
            found = {other: value for other, value in found.items() if other != key}


def table(results: Results, measure: str, columns: Sequence[Column]) -> str:
    """Draw a table of ways and columns."""
    lines = ["| | " + " | ".join(column.title for column in columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for _, title, repetitions in ways_of(results, measure):
        cells = [cell(column.values(repetitions), column.digits) for column in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures_table(results: Results, interval: int) -> str:
    """Draw the sums of one interval: nothing that failed may hide behind a median."""
    lines = ["| | requests | failed | in the worst run | how | reloads asked for | that served | left over |"]
    lines.append("| --- |" + " ---: |" * 3 + " --- |" + " ---: |" * 3)
    for _, title, repetitions in ways_of(results, "failures"):
        sums = {
            key: sum(one[f"{interval}.{key}"] for one in repetitions) for key in ("requests", "failed", "asked", *KINDS)
        }
        served = sum(one[f"{interval}.processes_seen"] - 1 for one in repetitions)
        how = ", ".join(f"{KIND_TEXT[kind]} {sums[kind]:,.0f}" for kind in KINDS if sums[kind]) or "-"
        worst = max(one[f"{interval}.failed"] for one in repetitions)
        left = max(one[f"{interval}.left_over"] for one in repetitions)
        lines.append(
            f"| {title} | {sums['requests']:,.0f} | {sums['failed']:,.0f} | {worst:,.0f} | {how} "
            f"| {sums['asked']:,.0f} | {served:,.0f} | {left:,.0f} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Section:
    """A heading, what was done, its tables, and the picture: panels side by side."""

    measure: str
    title: str
    words: str
    tables: Sequence[Callable[[Results], str]]
    panels: Sequence[Column]
    unit: str
    alike: int = 1
    """So many neighbouring panels have the same scale, because they are to be compared."""
    remark: str = ""
    """Why another way is ahead of safe_reload, where one is."""


def plain(measure: str, *columns: Column) -> Callable[[Results], str]:
    """Make a table of columns."""
    return lambda results: table(results, measure, columns)


def storm(interval: int) -> Callable[[Results], str]:
    """Make the table of an interval, with a heading."""
    return lambda results: f"A reload every {interval} ms:\n\n{failures_table(results, interval)}"


LATENCIES = tuple(TEXT)
SECTIONS: tuple[Section, ...] = (
    Section(
        "failures",
        "Failed requests under reloads",
        "400 clients, each with a new connection for each request, at saturation. "
        "*That served*: of the reloads asked for, how many new processes have answered a request in the measured time; "
        "where requests for a reload coalesce, or a script waits for the last one, these are fewer. "
        "*Left over*: processes besides the current one, 2 s after the load.",
        [storm(interval) for interval in INTERVALS],
        [share_of_all(f"a reload every {i} ms", f"{i}.failed", f"{i}.requests", 100_000, 1) for i in INTERVALS],
        "failed of 100,000 requests",
        alike=len(INTERVALS),
        remark=(
            "Every 20 ms, which is about as often as a haproxy can start here, it shows how many each way starts, and "
            "what else a reload costs: CPU that clients then lack. safe_reload asks the new haproxy whether it serves, "
            "and makes the old one let go of the sockets, which the parent written by hand does not. `-W` starts the "
            "fewest, and serves the most of those that lose nothing."
        ),
    ),
    Section(
        "crash",
        "Failed requests when haproxy is killed",
        f"SIGKILL for the process that serves, at {RATE:,} new connections a second. "
        "Where nothing inside brings it back, all of it is started again 100 ms after it has ended, "
        "as Docker's first restart does. What the killed process had accepted is lost in every way. For each kill:",
        [
            plain(
                "crash",
                metric("failed", "crash.failed_per_kill", 1),
                *(
                    share(KIND_TEXT[kind], f"crash.{kind}", "crash.kills", 1, 1)
                    for kind in ("refused", "reset", "cut", "timeout")
                ),
                metric("longest request, ms", "crash.longest_us", 0, 1e-3),
                metric("longest time without an answer, ms", "crash.longest_gap_us", 0, 1e-3),
            )
        ],
        [
            metric("failed requests for each kill", "crash.failed_per_kill", 1),
            metric("longest time without any answer, ms", "crash.longest_gap_us", 0, 1e-3),
        ],
        "",
        remark=(
            "The three that keep the sockets open lose what the killed process had accepted, one request in some "
            "kills: their differences are chance, and the time without an answer is that of haproxy's own start."
        ),
    ),
    Section(
        "latency",
        "Latency during reloads",
        f"{RATE:,} new connections a second, first without reloads, then with one every 300 ms. "
        "A time counts from when the request was due, so that waiting clients are not forgotten. Milliseconds.",
        [
            plain("latency", *(metric(f"{TEXT[k]}, none", f"quiet.{k}", 2, 1e-3) for k in LATENCIES)),
            plain("latency", *(metric(f"{TEXT[k]}, reloads", f"reloads.{k}", 2, 1e-3) for k in LATENCIES)),
        ],
        [
            metric("p99, no reloads", "quiet.p99_us", 1, 1e-3),
            metric("p99, reloads", "reloads.p99_us", 1, 1e-3),
            metric("p99.9, no reloads", "quiet.p999_us", 1, 1e-3),
            metric("p99.9, reloads", "reloads.p999_us", 1, 1e-3),
        ],
        "ms",
        alike=2,
        remark=(
            "What no way escapes: the new haproxy takes CPU while it starts, three times a second on two cores, and a "
            "thread of the old one that wakes up beside it may wait for the kernel's next tick (4 ms with "
            "CONFIG_HZ=250). Starting the new one under SCHED_IDLE or nice 19 changed nothing in that, and no way "
            "reaches 1.5. What a supervisor adds is the difference to the parent written by hand, which does nothing "
            "but start haproxy; what is between the other ways is within their spread."
        ),
    ),
    Section(
        "draining",
        "Accept rate while old generations drain",
        "New connections a second, 100 clients, while 0, 1 and 5 older generations are each held by a connection, "
        "and the CPU that the older ones use meanwhile (100 is one core).",
        [
            plain(
                "draining",
                *(metric(f"{count} draining", f"{count}.rate") for count in DRAINING),
                share("5 : 0", "5.rate", "0.rate", 1, 2),
                *(metric(f"CPU % of the {count}", f"{count}.old_cpu_percent") for count in DRAINING if count),
            )
        ],
        [metric(f"{count} draining", f"{count}.rate") for count in DRAINING],
        "connections a second",
        alike=3,
        remark=(
            "All are alike within their spread but the parent written by hand: its old generations go on being woken "
            "up for each connection of their successor."
        ),
    ),
    Section(
        "reloads",
        "From the request for a reload to the first answer of the new configuration",
        "Milliseconds, for configurations of so many backends, one server each; nothing else runs. "
        "`haproxy -c` is what many scripts run before they ask at all; none of the ways here does.",
        [plain("reloads", *(metric(counted(count, "backend"), f"{count}.ms.", 0) for count in BACKENDS))],
        [metric(counted(count, "backend"), f"{count}.ms.", 0) for count in BACKENDS],
        "ms",
        remark=(
            "The parent written by hand does nothing but start haproxy. Where it is ahead, it is by this: "
            "before safe_reload starts a haproxy it reads every file that the configuration names, so that it can tell "
            "afterwards what has been started, and whether it was half of two versions. The goals beside `haproxy -W` "
            "assume a parent that takes 0.4 and 0.6 of `-W`'s time; nothing that starts a haproxy can be much faster "
            "than the one in this table."
        ),
    ),
    Section(
        "throughput",
        "Throughput without reloads",
        "Requests a second, 100 clients: each on a connection of its own, and with connections kept. Each way takes "
        "short turns with a bare haproxy that runs beside it; *: bare* is the quotient of two turns, and what a bare "
        "haproxy has there, beside another one, is how exact it is.",
        [
            plain(
                "throughput",
                metric("new connections", "close.rate"),
                metric(": bare", "close.of_bare.", 2),
                metric("p99, ms", "close.p99_us", 1, 1e-3),
                metric("kept connections", "keep.rate"),
                metric(": bare", "keep.of_bare.", 2),
                metric("p99, ms", "keep.p99_us", 1, 1e-3),
            )
        ],
        [metric("new connections", "close.rate"), metric("kept connections", "keep.rate")],
        "requests a second",
        remark=("All are alike within their spread: no supervisor is in the path of a request."),
    ),
    Section(
        "idle",
        "Memory and wake-ups of what supervises",
        "After a few reloads, with nothing to do. PSS shares a page among those who use it; unique is what would be "
        "free without it. With `-W` the supervisor is haproxy's master (under tini: both), which parses the "
        "configuration itself; with `-D` there is none.",
        [
            plain(
                "idle",
                metric("supervisor, PSS, MiB", "supervisor.pss_kib", 1, 1 / 1024),
                metric("unique, MiB", "supervisor.unique_kib", 1, 1 / 1024),
                metric("with haproxy, PSS, MiB", "everything.pss_kib", 1, 1 / 1024),
                metric("wake-ups a minute", "supervisor.wake_ups_a_minute"),
                metric("wake-ups with haproxy", "everything.wake_ups_a_minute"),
                metric("start to first answer, ms", "start.ms"),
                metric("CPU of the supervisor until then, ms", "start.cpu_ms"),
            )
        ],
        [
            metric("supervisor, PSS", "supervisor.pss_kib", 1, 1 / 1024),
            metric("with haproxy, PSS", "everything.pss_kib", 1, 1 / 1024),
        ],
        "MiB",
        remark=(
            "The supervisor alone is smaller than haproxy's master, and shares half of its memory with the process "
            "that reads files, which takes 5 MiB more. With haproxy `-D` and `-W` need less: a "
            "haproxy that was forked after it had read its configuration maps only the pages that it has used since. "
            "The start takes longer than that of haproxy's own ways by Python's start and this program's; that "
            "happens once in a container's life, and most of a container's start is the engine's: see below. "
            "tini wakes up once a second."
        ),
    ),
    Section(
        "vips",
        "Cost of many VIPs",
        "1, 100 and 4,096 listening addresses in one frontend: start to the first answer, the supervisor's CPU until "
        "then, reload, and the supervisor's memory (PSS). tcp_migrate_req and tini change nothing in that, so these "
        "two ways are left out.",
        [
            plain("vips", *(metric(f"start, {count:,}, ms", f"{count}.start_ms") for count in VIPS)),
            plain("vips", *(metric(f"CPU of the start, {count:,}, ms", f"{count}.cpu_ms") for count in VIPS)),
            plain("vips", *(metric(f"reload, {count:,}, ms", f"{count}.reload_ms.") for count in VIPS)),
            plain("vips", *(metric(f"PSS, {count:,}, MiB", f"{count}.pss_kib", 1, 1 / 1024) for count in VIPS)),
        ],
        [
            *(metric(f"reload, {counted(count, 'VIP')}, ms", f"{count}.reload_ms.") for count in VIPS),
            metric("PSS, 4,096 VIPs, MiB", "4096.pss_kib", 1, 1 / 1024),
        ],
        "",
        remark=(
            "Why a reload with 4,096 VIPs takes longer than the parent's: the new generation is asked on which of "
            "them it listens, a line each, before the old one is paused, which goes on answering until then; nobody "
            "waits. safe_reload starts as the parent does, one socket after the other and a variable for each, which "
            "haproxy itself does faster. The memory is Python's for what it knows of each VIP, and for that answer."
        ),
    ),
    Section(
        "container",
        "From `docker start` to the first answer",
        "Milliseconds, most of them the engine's own. `-D` is left out: PID 1 of a container may not leave.",
        [plain("container", metric("ms", "container.ms"))],
        [metric("", "container.ms")],
        "ms",
        remark=(
            "The difference is the start of Python, which the parent written by hand pays, too, and of this program."
        ),
    ),
)
