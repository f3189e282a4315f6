"""What the page of the benchmarks says: its sections, their tables and panels, and why another way is ahead."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.applied import CLIENTS, DEBOUNCE, PROTOCOLS
from bench.applied import KINDS as KINDS_APPLIED
from bench.behind import BEHIND_CLIENTS, BEHIND_RATE, DNS_TAKES, EVENTS, KINDS_OF_SERVERS, LOADS
from bench.http3 import DOWNLOADS, HELD, INTERVALS_OF_HTTP3, NEW_RATE, PERSISTENT, ROUND_TRIP
from bench.load import KINDS
from bench.measures import BACKENDS, DRAINING, INTERVALS, RATE, VIPS
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


def _sum(repetitions: list[dict[str, float]], keys: Sequence[str]) -> str:
    return f"{sum(one[key] for one in repetitions for key in keys):,.0f}"


def behind_table(results: Results, kind: str) -> str:
    """Draw the sums of what failed behind reloads and kills."""
    trials = [f"{kind}.{load}.{event}" for event in EVENTS for load in LOADS]
    loads = (f"{BEHIND_RATE} requests a second", f"{BEHIND_CLIENTS} clients")
    lines = ["| | " + " | ".join(f"{event}, {load}" for event in EVENTS for load in loads) + " |"]
    lines.append("| --- |" + " ---: |" * len(trials))
    for _, title, repetitions in ways_of(results, "behind"):
        cells = [
            f"{_sum(repetitions, [f'{trial}.behind'])} of {_sum(repetitions, [f'{trial}.requests'])}"
            f" ({_sum(repetitions, [f'{trial}.events'])})"
            for trial in trials
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kept_table(results: Results) -> str:
    """Draw how often a server was still in maintenance, and a TLS session was resumed."""
    lines = ["| | " + " | ".join(f"{what} after {event}" for what in KEPT.values() for event in EVENTS) + " |"]
    lines.append("| --- |" + " ---: |" * (len(KEPT) * len(EVENTS)))
    for _, title, repetitions in ways_of(results, "behind"):
        cells = []
        for what in KEPT:
            for event in EVENTS:
                trials = [f"{kind}.{load}.{event}" for kind in KINDS_OF_SERVERS for load in LOADS]
                kept, of = (_sum(repetitions, [f"{trial}.{key}" for trial in trials]) for key in (what, "events"))
                cells.append(f"{kept} of {of}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def applied_table(results: Results) -> str:
    """Draw the sums of what open connections have noticed of changed certificates."""
    heads = [f"{name} {what}" for name in PROTOCOLS.values() for what in ("closed", "requests lost")]
    lines = [f"| | changes | {' | '.join(heads)} | haproxies started |"]
    lines.append("| --- |" + " ---: |" * (len(heads) + 2))
    keys = ["changes", *(f"{name}.{key}" for name in PROTOCOLS for key in ("ended", "lost")), "started"]
    for _, title, repetitions in ways_of(results, "applied"):
        cells = [_sum(repetitions, [f"certificate.{key}"]) for key in keys]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def http3_table(results: Results) -> str:
    """Draw the sums of what was lost of HTTP/3."""
    kinds = {"new": "new connections lost", "downloads": "downloads cut", "requests": "requests lost"}
    heads = [f"{what}, every {interval / 1000:g} s" for interval in INTERVALS_OF_HTTP3 for what in kinds.values()]
    lines = [f"| | {' | '.join(heads)} | new connections lost in kills |", "| --- |" + " ---: |" * (len(heads) + 1)]
    for _, title, repetitions in ways_of(results, "http3"):
        cells = []
        for interval in INTERVALS_OF_HTTP3:
            for kind in kinds:
                lost = "downloads_cut" if kind == "downloads" else f"{kind}_lost"
                whole = _sum(repetitions, [f"{interval}.{kind}"])
                cells.append(f"{_sum(repetitions, [f'{interval}.{lost}'])} of {whole}")
        lost, whole = (f"{sum(named(key, repetitions)):,.0f}" for key in ("kill.new_lost.", "kill.new."))
        lines.append(f"| {title} | {' | '.join(cells)} | {lost} of {whole} |")
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


REMARK_APPLIED = (
    "`haproxy -W` is earlier because it does not wait: whoever sends its USR2 has to know when all files are there. "
    "safe_reload gives a large map to haproxy in pieces of less than 16 KB, and reads all of it again afterwards; a "
    "reload is sooner there, but it starts a haproxy and closes the connections."
)
LATENCIES = tuple(TEXT)
KEPT = {"maintained": "maintenance", "resumed": "sessions resumed"}
SECTIONS: tuple[Section, ...] = (
    Section(
        "failures",
        "Failed requests under reloads",
        "400 clients at saturation, each with a new connection for each request. *That served* is how many of the "
        "requested reloads gave a process that answered a request in the measured time; it is lower where reload "
        "requests coalesce, or a script waits for the previous reload. *Left over* counts processes besides the "
        "current one, 2 s after the load.",
        [storm(interval) for interval in INTERVALS],
        [share_of_all(f"a reload every {i} ms", f"{i}.failed", f"{i}.requests", 100_000, 1) for i in INTERVALS],
        "failed of 100,000 requests",
        alike=len(INTERVALS),
        remark=(
            "At 20 ms, which is about as often as a haproxy can start on this machine, the table shows how many "
            "each way starts, and what else a reload costs: CPU that the clients then lack. safe_reload asks the "
            "new haproxy whether it serves and makes the old one let go of the sockets; the parent written by hand "
            "does neither. `-W` starts the fewest, and serves the most requests of those that lose nothing."
        ),
    ),
    Section(
        "crash",
        "Failed requests when haproxy is killed",
        f"SIGKILL for the process that serves, at {RATE:,} new connections a second. If a way does not restart "
        "haproxy itself, all of it is started again 100 ms after it has exited, like Docker's first restart. Every "
        "way loses what the killed process had accepted. For each kill:",
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
            "The three ways that keep the sockets open lose what the killed process had accepted, one request in "
            "some kills. Their differences are chance, and the time without an answer is haproxy's own start."
        ),
    ),
    Section(
        "behind",
        "What is lost behind the listening sockets",
        "A backend has three servers. One answers, one answers 500 to checks and requests, and the port of one is "
        "closed: `option httpchk`, `check inter 2s fall 3 rise 2`, `retries 0`. The checks have found the two dead "
        "before each reload or SIGKILL. *Failed* is an answer of 500 or 503; connections that were refused or cut are "
        "in the sections above. If a way does not restart haproxy itself, all of it is started again 100 ms after it "
        f"has exited. {BEHIND_CLIENTS} clients ask again as soon as they have an answer, or 10 ms after a failure. In "
        "brackets: the number of reloads or kills.",
        [
            lambda results: f"Failed, two of three servers dead:\n\n{behind_table(results, 'dead')}",
            lambda results: (
                f"The same, servers named by DNS that takes {DNS_TAKES * 1000:.0f} ms (`resolvers`, `init-addr "
                f"none`):\n\n{behind_table(results, 'dns')}"
            ),
            lambda results: (
                "A server that was put into maintenance on the CLI, and is still in it; a TLS 1.3 session that was "
                f"resumed by its ticket; in all the runs above:\n\n{kept_table(results)}"
            ),
        ],
        [
            share_of_all(f"{event}, {words}", f"{kind}.rate.{event}.behind", f"{kind}.rate.{event}.events", 1, 1)
            for kind, words in (("dead", "addresses"), ("dns", "names"))
            for event in EVENTS
        ],
        f"failed requests for each, at {BEHIND_RATE} a second",
        alike=4,
        remark=(
            "A new haproxy takes every server for alive until it has checked it; with three servers and `inter 2s` "
            "the last first check comes after 1.3 s, so a longer `inter` costs more, and a shorter one less. "
            "safe_reload tells the new haproxy what the old one knew ([what is kept](what-is-kept.md)). With names, "
            "one request fails after each kill and after some reloads, with plain binds more often: haproxy accepts a "
            "client although it is held back, and answers it with 503, because it has no address yet. The sessions "
            "need `tls-ticket-keys` in the configuration ([TLS sessions](tls-sessions.md)). A file of keys written by "
            "hand does the same for every way, but nobody rotates it."
        ),
    ),
    Section(
        "applied",
        "From a changed certificate or map to the first client that gets it",
        "A file is replaced with rename(2). The time ends with the first TLS handshake that shows the new certificate, "
        "or the first answer with the new value of the map. safe_reload watches the files and waits until they have "
        f"been quiet for {DEBOUNCE * 1000:.0f} ms (`--debounce {DEBOUNCE:g}`); this is in its times. `haproxy -W` gets "
        "a USR2 at the moment of the change, and waits for nothing. *Of that, haproxy's CLI* is what safe_reload's log "
        "says: questions, transactions and the comparison of what haproxy has then. Milliseconds.",
        [
            plain(
                "applied",
                *(
                    column
                    for kind, words in KINDS_APPLIED.items()
                    for column in (
                        metric(words, f"{kind}.ms."),
                        metric("of that, haproxy's CLI", f"{kind}.own_ms."),
                    )
                ),
            ),
            lambda results: (
                f"{CLIENTS} connections of HTTP/1 and {CLIENTS} of HTTP/2 stay open while the certificate changes; "
                "each sends a request, waits for the answer, and pauses for 0.1 to 0.3 s. A client whose connection "
                f"ends opens another one:\n\n{applied_table(results)}"
            ),
        ],
        [metric(words, f"{kind}.ms.") for kind, words in KINDS_APPLIED.items()],
        "ms",
        remark=REMARK_APPLIED,
    ),
    Section(
        "http3",
        "HTTP/3 through reloads and kills",
        f"QUIC clients behind a relay that makes a round trip of {ROUND_TRIP * 1000:.0f} ms: {NEW_RATE} new "
        f"connections a second with a request each, {DOWNLOADS} downloads of 3 s begun before the first reload, and "
        f"{PERSISTENT} connections with a request every 0.1 s that are opened again when they end. Then haproxy is "
        f"killed while {HELD} connections are open: the time from the kill until a client knows that its connection is "
        "gone, while it sends a request every 50 ms. Milliseconds.",
        [plain("http3", metric("a client knows after a kill", "kill.ms.")), http3_table],
        [metric("a client knows after a kill", "kill.ms.")],
        "ms",
        remark=(
            "Requests on open connections are lost in every way: haproxy's soft stop says GOAWAY and CONNECTION_CLOSE "
            "at once, and a request that crosses them is not answered ([HTTP/3](http3.md)). With `haproxy -W` a "
            "client knows that its connection is gone when its own idle timeout is over."
        ),
    ),
    Section(
        "latency",
        "Latency during reloads",
        f"{RATE:,} new connections a second, first without reloads, then with one every 300 ms. A time counts from "
        "when the request was due, so that waiting clients are included. Milliseconds.",
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
            "No way avoids this: the new haproxy uses CPU while it starts, three times a second on two cores, and a "
            "thread of the old one that wakes up meanwhile may wait for the kernel's next tick (4 ms with "
            "CONFIG_HZ=250). Starting the new one under SCHED_IDLE or nice 19 did not change this, and no way "
            "reaches 1.5. The cost of a supervisor is the difference to the parent written by hand, which only "
            "starts haproxy. The differences between the other ways are within their spread."
        ),
    ),
    Section(
        "draining",
        "Accept rate while old generations drain",
        "New connections a second with 100 clients, while 0, 1 and 5 older generations are each kept alive by a "
        "connection, and the CPU that the older ones use meanwhile (100 is one core).",
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
            "All are equal within their spread, except the parent written by hand: its old generations are still "
            "woken up for each connection of the new one."
        ),
    ),
    Section(
        "reloads",
        "From the request for a reload to the first answer of the new configuration",
        "Milliseconds, for configurations of so many backends with one server each; nothing else runs. `haproxy -c` "
        "is what many scripts run before they request a reload; none of the ways here does.",
        [plain("reloads", *(metric(counted(count, "backend"), f"{count}.ms.", 0) for count in BACKENDS))],
        [metric(counted(count, "backend"), f"{count}.ms.", 0) for count in BACKENDS],
        "ms",
        remark=(
            "The parent written by hand only starts haproxy. Where it is faster, this is the reason: before "
            "safe_reload starts a haproxy, it reads every file that the configuration names, so that it knows "
            "afterwards what it has started, and whether haproxy read a mixture of two versions. The goals against "
            "`haproxy -W` assume a parent that takes 0.4 and 0.6 of `-W`'s time; nothing that starts a haproxy can "
            "be much faster than the parent in this table."
        ),
    ),
    Section(
        "throughput",
        "Throughput without reloads",
        "Requests a second with 100 clients: with a new connection for each request, and with kept connections. "
        "Each way takes short turns with a bare haproxy that runs beside it. *: bare* is the ratio of two turns; "
        "the value of the bare haproxy against another bare one shows how exact it is.",
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
        remark=("All are equal within their spread: no supervisor is in the path of a request."),
    ),
    Section(
        "idle",
        "Memory and wake-ups of what supervises",
        "After a few reloads, with nothing to do. PSS divides a shared page among its users; unique is what would "
        "be free without the process. With `-W` the supervisor is haproxy's master (under tini: both), which parses "
        "the configuration itself; with `-D` there is none.",
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
            "that reads files, which takes 5 MiB more. Together with haproxy, `-D` and `-W` need less, because a "
            "haproxy that forks after it has read its configuration maps only the pages that it has used since. "
            "safe_reload starts more slowly than haproxy's own ways because of Python and its own code. This "
            "happens once per container, and the engine takes most of a container's start: see below. tini wakes up "
            "once a second."
        ),
    ),
    Section(
        "vips",
        "Cost of many VIPs",
        "1, 100 and 4,096 listening addresses in one frontend: from the start to the first answer, the supervisor's "
        "CPU until then, reload, and the supervisor's memory (PSS). tcp_migrate_req and tini make no difference "
        "here, so these two ways are left out.",
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
            "A reload with 4,096 VIPs takes longer than the parent's, because safe_reload first asks the new "
            "generation on which of them it listens, with one line each. The old one keeps answering until then, so "
            "no client waits. At the start safe_reload does the same as the parent, one socket after the other with "
            "a variable for each; haproxy itself is faster. The memory is what Python needs for each VIP, and for "
            "that answer."
        ),
    ),
    Section(
        "container",
        "From `docker start` to the first answer",
        "Milliseconds; the engine itself takes most of them. `-D` is left out, because PID 1 of a container must "
        "not exit.",
        [plain("container", metric("ms", "container.ms"))],
        [metric("", "container.ms")],
        "ms",
        remark=(
            "The difference is the start of Python, which the parent written by hand also needs, and of "
            "safe_reload's code."
        ),
    ),
)
