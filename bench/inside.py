"""Runs the measures on this machine, as root, and writes one JSON file: what happens in the benchmarks' container.

    python3 -m bench.inside [--quick] [--measures KEY,...] [--ways KEY,...] [--seed N] [--limit SECONDS] FILE

Every repetition takes all ways once, in an order drawn from the seed, so that noise hits all of them alike.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.lives import StuckError
from bench.load import Values
from bench.measures import FULL, MEASURES, QUICK, Measure, Size
from bench.ways import WAYS, Way


def first_line(*words: str) -> str:
    """Return the first line that a program prints, or nothing when it is not there."""
    try:
        output = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (output.stdout or output.stderr).strip().partition("\n")[0]


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    system = dict(line.rstrip().split("=", 1) for line in _lines("/etc/os-release") if "=" in line)
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": int(memory) // 1024,
        "kernel": platform.release(),
        "system": system.get("PRETTY_NAME", "").strip('"'),
        "haproxy": first_line("haproxy", "-v"),
        "python": platform.python_version(),
        "tini": first_line("tini", "--version"),
        "safe_reload": first_line("safe_reload", "--version"),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "load_average_before": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


class Run:
    """The trials, their order, and what came of them."""

    def __init__(self, measures: list[Measure], ways: list[Way], size: Size, seed: int) -> None:
        """Draw the order."""
        self.size = size
        chance = random.Random(seed)
        self.skipped = {way.key: way.missing() for way in ways if way.missing()}
        self.trials: list[tuple[Measure, Way]] = []
        for measure in measures:
            for _ in range(size.repetitions):
                round_ = [
                    way for way in measure.ways if way not in WAYS or (way in ways and way.key not in self.skipped)
                ]
                chance.shuffle(round_)
                self.trials += [(measure, way) for way in round_]
        self.results: dict[str, dict[str, list[Values]]] = {measure.key: {} for measure in measures}
        self.errors: list[str] = []
        self.unfinished = len(self.trials)

    @property
    def estimate(self) -> float:
        """Return about how many seconds it takes."""
        return sum(measure.seconds(self.size) for measure, _ in self.trials)

    def go(self, limit: float) -> None:
        """Take the trials one by one; stop before the limit is exceeded."""
        begin = time.monotonic()
        for number, (measure, way) in enumerate(self.trials, 1):
            if time.monotonic() - begin + measure.seconds(self.size) > limit:
                say(f"the limit of {limit:.0f} s is near: {self.unfinished} trials are left out")
                return
            start = time.monotonic()
            try:
                values = measure.run(way, self.size)
            except (StuckError, OSError, subprocess.TimeoutExpired) as error:
                self.errors.append(f"{measure.key}, {way.title}: {error}")
                say(self.errors[-1])
            else:
                self.results[measure.key].setdefault(way.key, []).append(values)
            self.unfinished -= 1
            done = time.monotonic()
            say(
                f"[{number}/{len(self.trials)}] {int(done - begin) // 60}:{int(done - begin) % 60:02} "
                f"{measure.key}: {way.title} ({done - start:.1f} s)"
            )


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def chosen(text: str, known: list[str], what: str) -> list[str]:
    """Read a list of keys; exit with one line about an unknown one."""
    keys = text.split(",") if text else known
    for key in keys:
        if key not in known:
            sys.exit(f"bench: there is no {what} {key!r}; there are: {', '.join(known)}")
    return keys


def options(parser: argparse.ArgumentParser) -> None:
    """Declare what chooses the trials."""
    parser.add_argument("--quick", action="store_true", help="under 4 minutes: few repetitions, wide spread")
    parser.add_argument("--measures", default="", help=",".join(measure.key for measure in MEASURES))
    parser.add_argument("--ways", default="", help=",".join(way.key for way in WAYS))
    parser.add_argument("--seed", type=int, default=1, help="draws the order of the ways in each round (1)")
    parser.add_argument(
        "--limit", type=float, default=None, help="seconds after which no trial begins (5400; quick: 220)"
    )
    parser.add_argument("--repetitions", type=int, default=None, help="rounds of each measure (5; quick: 1)")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="bench.inside")
    options(parser)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    if arguments.repetitions:
        size = Size(**{**vars(size), "repetitions": arguments.repetitions})
    keys = chosen(arguments.measures, [measure.key for measure in MEASURES], "measure")
    ways = chosen(arguments.ways, [way.key for way in WAYS], "way")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run = Run([m for m in MEASURES if m.key in keys], [w for w in WAYS if w.key in ways], size, arguments.seed)
    for key, why in run.skipped.items():
        say(f"way {key} is left out; not here: {why}")
    about = machine()
    say(
        f"{about['haproxy']}; {about['cpus']} CPUs, {about['cpu']}; "
        f"{len(run.trials)} trials, about {run.estimate:.0f} s"
    )
    start = time.time()
    try:
        run.go(arguments.limit or (220 if arguments.quick else 5400))
    except KeyboardInterrupt:
        say("interrupted; what there is so far is written")
    results = {
        "machine": about,
        "run": {
            "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(start)),
            "seconds": round(time.time() - start),
            "quick": arguments.quick,
            "seed": arguments.seed,
            "size": vars(size),
            "skipped": run.skipped,
            "left_out": run.unfinished,
            "errors": run.errors,
        },
        "ways": {way.key: way.title for measure in MEASURES for way in measure.ways},
        "results": run.results,
    }
    arguments.file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
