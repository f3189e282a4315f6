"""What is measured. Each measure takes one way once; the runner repeats them, in turn."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from bench.applied import AFTERWARDS, WAYS_TO_APPLY, applied
from bench.applied import KINDS as KINDS_APPLIED
from bench.behind import behind
from bench.http3 import INTERVALS_OF_HTTP3, KILLS, WAYS_OF_HTTP3, http3
from bench.lives import PORT, Life, StuckError, configuration, cpu, cpu_ms, memory, wait_for, wake_ups
from bench.load import KINDS, Load, Values, named
from bench.ways import BARE, WAYS, Outside, Way

INTERVALS = (300, 100, 20)
"""Milliseconds from one request for a reload to the next."""
RATE = 2000
"""Requests a second where the machine is not to be saturated."""
BACKENDS = (1, 100, 10_000)
DRAINING = (0, 1, 5)
VIPS = (1, 100, 4096)
TURNS = 6
"""How often a way and a bare haproxy take turns while the throughput is measured."""
QUIET = 0.1
"""Seconds between an answer and the next reload that is timed: a master that has just executed itself is deaf."""


@dataclass(frozen=True)
class Size:
    """How long things take, in seconds, and how often they are done."""

    repetitions: int
    storm: float
    crash: float
    latency: float
    load: float
    idle: float
    reloads: int
    inter: float
    """From one check of a server to the next."""


FULL = Size(repetitions=5, storm=8.0, crash=8.0, latency=6.0, load=3.0, idle=10.0, reloads=6, inter=2.0)
QUICK = Size(repetitions=1, storm=0.8, crash=2.0, latency=0.8, load=0.4, idle=0.7, reloads=2, inter=0.5)


@contextmanager
def running(way: Way, *, backends: int = 0, vips: int = 1) -> Iterator[Life]:
    """Start a way and wait until it answers; end it afterwards."""
    with way.life(backends=backends, vips=vips) as life:
        way.start(life)
        life.until_it_answers()
        time.sleep(way.settle)
        yield life


def reload_while(way: Way, life: Life, load: Load, milliseconds: int) -> int:
    """Ask for a reload at fixed times until the load ends; return how often."""
    asked = 0
    due = time.monotonic() + milliseconds / 1000
    while load.runs():
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(min(pause, 0.05))
            continue
        asked += way.reload(life)
        due += milliseconds / 1000
    return asked


def settled(way: Way, life: Life, timeout: float) -> bool:
    """Wait until one generation is left, and no reload that was still to come has made another."""
    deadline = time.monotonic() + timeout
    while wait_for(lambda: len(way.generations(life)) <= 1, deadline - time.monotonic(), 0.02):
        time.sleep(QUIET)
        if len(way.generations(life)) <= 1:
            return True
    return False


def failures(way: Way, size: Size) -> Values:
    """Reload every so often at saturation."""
    values: Values = {}
    for interval in INTERVALS:
        with running(way) as life:
            load = Load(size.storm)
            asked = reload_while(way, life, load, interval)
            counts = load.result()
            alone = settled(way, life, 2)
            values |= named(
                str(interval), counts, ("requests", "failed", "rate", "processes_seen", "longest_us", *KINDS)
            )
            left_over = 0 if alone else len(way.generations(life)) - 1
            values |= {f"{interval}.asked": asked, f"{interval}.left_over": left_over}
    return values


def crash(way: Way, size: Size) -> Values:
    """Kill the haproxy that serves; where nobody looks after it, start all of it again after a moment."""
    with running(way) as life:
        load = Load(size.crash, clients=4000, rate=RATE)
        killed = 0
        outside = Outside(way, life)
        due = time.monotonic() + min(1.2, size.crash * 0.6)
        end = time.monotonic() + size.crash - 0.5
        while load.runs():
            now = time.monotonic()
            if due <= now < end and way.generations(life):
                os.kill(way.generations(life)[-1], 9)
                killed += 1
                due = now + 2.5
            if killed:
                outside.look()
            time.sleep(0.002)
        counts = load.result()
    values = named("crash", counts, ("requests", "failed", "longest_us", "longest_gap_us", *KINDS))
    return {**values, "crash.kills": killed, "crash.failed_per_kill": counts["failed"] / max(1, killed)}


def latency(way: Way, size: Size) -> Values:
    """Ask at a fixed rate, without reloads and with one every 300 ms."""
    keys = ("p50_us", "p99_us", "p999_us", "longest_us", "failed")
    with running(way) as life:
        quiet = Load(size.latency, clients=4000, rate=RATE).result()
        load = Load(size.latency, clients=4000, rate=RATE)
        reload_while(way, life, load, 300)
        return named("quiet", quiet, keys) | named("reloads", load.result(), keys)


def reload_once(way: Way, life: Life) -> float:
    """Change the configuration and reload; return the seconds until the first answer of the new one."""
    life.edit()
    start = time.monotonic()
    wait_for(lambda: way.reload(life), 5, 0.001)
    life.until_it_answers()
    return time.monotonic() - start


def draining(way: Way, size: Size) -> Values:
    """Load the newest generation while older ones are each held by a connection."""
    values: Values = {}
    held: list[socket.socket] = []
    with running(way) as life:
        for count in DRAINING:
            while len(held) < count:
                connection = socket.create_connection(("127.0.0.1", PORT))
                connection.sendall(b"GET / HTTP/1.1\r\n")
                held.append(connection)
                time.sleep(0.05)  # so that the generation of this moment accepts it, and not the next
                reload_once(way, life)
            time.sleep(0.1)
            old = way.generations(life)[:-1]
            before = sum(map(cpu, old))
            counts = Load(size.load, clients=100).result()
            values |= named(str(count), counts, ("rate", "failed"))
            values[f"{count}.old_cpu_percent"] = (sum(map(cpu, old)) - before) / counts["seconds"]
        for connection in held:
            connection.close()
    return values


def reloads(way: Way, size: Size) -> Values:
    """Time from the request for a reload to the first answer of the new configuration."""
    if way is CHECK:
        return check(size)
    values: Values = {}
    for backends in BACKENDS:
        with running(way, backends=backends) as life:
            for number in range(size.reloads):
                values[f"{backends}.ms.{number}"] = reload_once(way, life) * 1000
                settled(way, life, 5)
    return values


class Check(Way):
    """What many scripts run before they ask for a reload; no way, but measured in turn with the ways."""

    key = "check"
    title = "haproxy -c alone"


CHECK = Check()


def check(size: Size) -> Values:
    """Time `haproxy -c`."""
    values: Values = {}
    with BARE.life() as life:
        for backends in BACKENDS:
            life.file.write_text(configuration("plain", mark="x", backends=backends))
            for number in range(size.reloads):
                start = time.monotonic()
                if life.spawn(["haproxy", "-c", "-q", "-f", str(life.file)]).wait():
                    raise StuckError("haproxy -c refuses what the benchmark wrote")
                values[f"{backends}.ms.{number}"] = (time.monotonic() - start) * 1000
    return values


def throughput(way: Way, size: Size) -> Values:
    """Load without a reload, in short turns with a bare haproxy, so that noise hits both alike."""
    values: Values = {}
    with running(BARE) as bare, running(way) as life:
        for kind in ("close", "keep"):
            found: dict[Life, list[Values]] = {bare: [], life: []}
            for turn in range(TURNS):
                for one in (bare, life) if turn % 2 else (life, bare):
                    one.enter()
                    found[one].append(Load(size.load / TURNS, clients=100, keep=kind == "keep").result())
            pairs = zip(found[life], found[bare], strict=True)
            values |= {f"{kind}.of_bare.{turn}": ours["rate"] / its["rate"] for turn, (ours, its) in enumerate(pairs)}
            keys = ("rate", "p50_us", "p99_us")
            values |= {f"{kind}.{key}": median(one[key] for one in found[life]) for key in keys}
            values[f"{kind}.failed"] = sum(one["failed"] for one in found[life])
    return values


def idle(way: Way, size: Size) -> Values:
    """Memory and wake-ups after a few reloads, with nothing to do."""
    with way.life() as life:
        start = time.monotonic()
        way.start(life)
        life.until_it_answers()
        values = {"start.ms": (time.monotonic() - start) * 1000, "start.cpu_ms": cpu_ms(way.supervisors(life))}
        time.sleep(way.settle)
        for _ in range(size.reloads):
            reload_once(way, life)
            settled(way, life, 5)
        time.sleep(size.idle * 1.1)  # timers that follow a reload have run by then
        supervisors = way.supervisors(life)
        everyone = life.pids()
        values |= {f"supervisor.{key}": value for key, value in memory(supervisors).items()}
        values["everything.pss_kib"] = memory(everyone)["pss_kib"]
        before = wake_ups(supervisors), wake_ups(everyone)
        time.sleep(size.idle)
        after = wake_ups(supervisors), wake_ups(everyone)
        values["supervisor.wake_ups_a_minute"] = (after[0] - before[0]) * 60 / size.idle
        values["everything.wake_ups_a_minute"] = (after[1] - before[1]) * 60 / size.idle
        return values


def vips(way: Way, size: Size) -> Values:
    """What many VIPs cost."""
    values: Values = {}
    for count in VIPS:
        with way.life(vips=count) as life:
            start = time.monotonic()
            way.start(life)
            life.until_it_answers()
            values[f"{count}.start_ms"] = (time.monotonic() - start) * 1000
            values[f"{count}.cpu_ms"] = cpu_ms(way.supervisors(life))
            time.sleep(way.settle)
            for number in range(max(1, size.reloads // 2)):
                values[f"{count}.reload_ms.{number}"] = reload_once(way, life) * 1000
                settled(way, life, 5)
            values[f"{count}.pss_kib"] = memory(way.supervisors(life))["pss_kib"]
    return values


@dataclass(frozen=True)
class Measure:
    """A measure, and which ways it is for."""

    key: str
    run: Callable[[Way, Size], Values]
    ways: tuple[Way, ...]
    seconds: Callable[[Size], float]
    """About how long one way takes once."""


MEASURES: tuple[Measure, ...] = (
    Measure("failures", failures, WAYS, lambda size: 3 * (size.storm + 0.7)),
    Measure("crash", crash, WAYS, lambda size: size.crash + 0.5),
    Measure("behind", lambda way, size: behind(way, size.inter), WAYS, lambda size: 12.0 * size.inter + 1),
    Measure(
        "applied",
        lambda way, size: applied(way, size.reloads),
        WAYS_TO_APPLY,
        lambda size: len(KINDS_APPLIED) * (3 + size.reloads * (AFTERWARDS + 0.5)),
    ),
    Measure(
        "http3",
        lambda way, size: http3(way, size.storm),
        WAYS_OF_HTTP3,
        lambda size: len(INTERVALS_OF_HTTP3) * (size.storm + 5) + KILLS * 15,
    ),
    Measure("latency", latency, WAYS, lambda size: 2 * size.latency + 0.4),
    Measure("draining", draining, WAYS, lambda size: 3 * size.load + 2),
    Measure("reloads", reloads, (CHECK, *WAYS), lambda size: 1.5 + size.reloads * 0.9),
    Measure("throughput", throughput, (BARE, *WAYS), lambda size: 4 * size.load + 0.8),
    Measure("idle", idle, WAYS, lambda size: 2.1 * size.idle + 0.7 + 0.2 * size.reloads),
    Measure("vips", vips, tuple(way for way in WAYS if way.key in "acefg"), lambda size: 3.0 + size.reloads),
)
