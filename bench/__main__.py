"""`make bench`: build the image, run everything in it, measure containers from outside, draw.

    python -m bench [--quick] [--out FOLDER] [--here | --draw JSON] [what `bench.inside` takes]

Results: FOLDER/benchmarks.md, FOLDER/benchmarks.json, and pictures in FOLDER/benchmarks/. README.md has a table of what
is in docs/.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import host, inside, render, summary

# A network namespace for each run of each way, and tcp_migrate_req in it: what the container may do besides. The
# three security options are not more than that: the default profiles forbid it even where the capability is there.
PERMISSIONS = (
    "--cap-add=SYS_ADMIN",
    "--cap-add=NET_ADMIN",
    *(f"--security-opt={option}=unconfined" for option in ("systempaths", "apparmor", "seccomp")),
)


def in_container(words: list[str], folder: str) -> None:
    """Run `bench.inside` in the image, without a network; its results come through the folder."""
    mounts = ["-v", f"{Path(__file__).parent}:/opt/bench:ro", "-v", f"{folder}:/out"]
    settings = ["-e", "PYTHONPATH=/opt", "-e", "PYTHONDONTWRITEBYTECODE=1"]
    if original := os.environ.get("BENCH_ORIGINAL"):
        mounts += ["-v", f"{Path(original).resolve()}:/opt/original:ro"]
        settings += ["-e", "BENCH_ORIGINAL=/opt/original"]
    command = ["docker", "run", "--rm", "--network", "none", *PERMISSIONS, *mounts, *settings, host.BENCH_IMAGE]
    run = subprocess.run([*command, "python3", "-m", "bench.inside", *words, "/out/results.json"], check=False)
    if run.returncode:
        raise SystemExit("bench: the run in the container failed, its words are above")


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(prog="bench", description="safe_reload beside the other ways to reload haproxy")
    inside.options(parser)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the results go (docs)")
    parser.add_argument("--here", action="store_true", help="as root on this machine, without Docker")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="measure nothing, draw these results")
    arguments = parser.parse_args()
    if arguments.draw:
        results = json.loads(arguments.draw.read_text())
    else:
        start = time.monotonic()
        commit = inside.first_line("git", "describe", "--always", "--dirty")
        words = [f"--seed={arguments.seed}", f"--measures={arguments.measures}", f"--ways={arguments.ways}"]
        words += ["--quick"] if arguments.quick else []
        words += [f"--limit={arguments.limit}"] if arguments.limit else []
        words += [f"--repetitions={arguments.repetitions}"] if arguments.repetitions else []
        with tempfile.TemporaryDirectory(prefix="bench.") as folder:
            file = Path(folder, "results.json")
            if arguments.here:
                subprocess.run([sys.executable, "-m", "bench.inside", *words, str(file)], check=True)
            else:
                inside.say("building the image")
                host.build()
                in_container(words, folder)
            results = json.loads(file.read_text())
        if not arguments.here and not arguments.measures:
            inside.say("containers: the start to the first answer, sizes, and what each image costs")
            results["results"]["container"] = host.container_starts(2 if arguments.quick else 10, arguments.seed)
            results["sizes"] = host.sizes()
            results["images"] = host.images()
        results["run"]["seconds"] = round(time.monotonic() - start)
        results["run"]["commit"] = commit
    for path in render.everything(results, arguments.out):
        inside.say(f"wrote {path}")
    if arguments.out == Path("docs"):
        summary.write(results, Path("README.md"))


if __name__ == "__main__":
    main()
