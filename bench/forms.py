"""The forms of safe_reload in one run: what each one's start costs, and what PID 1 has in memory when it serves.

    python -m bench.forms [--rounds N] NAME=IMAGE[=PROGRAM[,ARGUMENT...]] ...

A form is an image and the program in it, /usr/local/bin/safe_reload unless given. All forms take turns, so that what
else the machine does touches all alike. Memory needs a haproxy in the image; where there is none it is left out.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.host import docker
from bench.lives import wait_for

HERE = Path(__file__).parent
PROGRAM = "/usr/local/bin/safe_reload"
RUNS = 5
"""Starts in each container."""
ROUNDS = 6
CONFIGURATION = """\
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend web
    bind "fd@${FD_WEB}"
    http-request return status 200 content-type text/plain string one
"""
KINDS = ("program", "libraries", "memory")
"""Of a mapping: the program's own file, other files, and what is no file."""


@dataclass(frozen=True)
class Form:
    """A form of safe_reload."""

    name: str
    image: str
    command: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Form":
        """Read NAME=IMAGE[=PROGRAM[,ARGUMENT...]]."""
        name, image, *command = text.split("=", 2)
        return cls(name, image, tuple(command[0].split(",")) if command else (PROGRAM,))


def build(folder: str) -> None:
    """Compile the measuring program, once as `start` and once as `haproxy`."""
    compiler = next((name for name in ("musl-gcc", "cc") if shutil.which(name)), None)
    if not compiler:
        raise SystemExit("bench.forms: install musl-tools, or another C compiler")
    for name in ("start", "haproxy"):
        subprocess.run([compiler, "-static", "-O2", "-o", f"{folder}/{name}", HERE / "start.c"], check=True)


def starts(form: Form, folder: str) -> dict[str, list[float]]:
    """Start the form a few times; return milliseconds of CPU until haproxy's exec, and until the end of all."""
    words = ["run", "--rm", "--network", "none", "-v", f"{folder}:/bench:ro", "--entrypoint", "/bench/start"]
    words += [form.image, str(RUNS), *form.command, "--vips", "*:8080:FD_WEB", "/bench/haproxy", "-f", "/dev/null"]
    found: dict[str, list[float]] = {"exec": [], "end": []}
    for line in docker(*words).splitlines():
        kind, _, microseconds = line.partition(" ")
        found[kind].append(int(microseconds) / 1000)
    if not found["exec"]:
        raise SystemExit(f"bench.forms: {form.name}: {form.command[0]} in {form.image} starts no haproxy")
    return found


def memory(form: Form) -> dict[str, int] | None:
    """Let the form serve and reload once; return what PID 1 has in memory, in KiB, by kind and in all."""
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        os.chmod(folder, 0o755)  # haproxy may run as another user
        file = Path(folder, "haproxy.cfg")
        file.write_text(CONFIGURATION)
        words = ["run", "-d", "--network", "none", "-v", f"{folder}:/lb:ro", "--entrypoint", form.command[0]]
        words += [form.image, *form.command[1:], "--vips", "*:8080:FD_WEB", "haproxy", "-f", "/lb/haproxy.cfg"]
        name = docker(*words).strip()
        try:
            if not wait_for(lambda: _is_current(name, 1), 20, 0.1):
                return None
            docker("kill", "-s", "USR1", name)
            if not wait_for(lambda: _is_current(name, 2), 20, 0.1):
                return None
            pid = int(docker("inspect", "-f", "{{.State.Pid}}", name))
            return sizes(Path(f"/proc/{pid}/smaps").read_text(), os.readlink(f"/proc/{pid}/exe"))
        finally:
            docker("rm", "-f", name)


def _is_current(name: str, number: int) -> bool:
    run = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=False)
    return any(f"generation {number} (" in line and " is current" in line for line in run.stderr.splitlines())


def sizes(smaps: str, program: str) -> dict[str, int]:
    """Add up a process's mappings."""
    found = dict.fromkeys(("rss", "pss", "private", *KINDS), 0)
    kind = "memory"
    for line in smaps.splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            path = rest[4] if len(rest) > 4 else ""
            kind = "program" if path == program else "libraries" if path.startswith("/") else "memory"
        elif key == "Rss:":
            found["rss"] += int(rest[0])
            found[kind] += int(rest[0])
        elif key == "Pss:":
            found["pss"] += int(rest[0])
        elif key in {"Private_Clean:", "Private_Dirty:"}:
            found["private"] += int(rest[0])
    return found


def image_size(image: str) -> float:
    """Return MB."""
    return int(docker("image", "inspect", "-f", "{{.Size}}", image)) / 1e6


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="bench.forms", description="the forms of safe_reload beside each other")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("forms", nargs="+", type=Form.read, metavar="NAME=IMAGE[=PROGRAM]")
    arguments = parser.parse_args()
    costs: dict[str, dict[str, list[float]]] = {form.name: {"exec": [], "end": []} for form in arguments.forms}
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        os.chmod(folder, 0o755)
        build(folder)
        for number in range(arguments.rounds):
            sys.stderr.write(f"bench.forms: round {number + 1} of {arguments.rounds}\n")
            for form in arguments.forms:
                for kind, values in starts(form, folder).items():
                    costs[form.name][kind] += values
    memories = {form.name: memory(form) for form in arguments.forms}
    of_memory = f"resident KiB: {', '.join(KINDS)} | PSS | private"
    print(f"| form | image MB | CPU ms to haproxy's exec: least, median | to the end | {of_memory} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for form in arguments.forms:
        cost, used = costs[form.name], memories[form.name]
        parts = "- | - | -"
        if used:
            kinds = ", ".join(str(used[kind]) for kind in KINDS)
            parts = f"{used['rss']}: {kinds} | {used['pss']} | {used['private']}"
        print(
            f"| {form.name} | {image_size(form.image):.1f} | {min(cost['exec']):.1f}, {median(cost['exec']):.1f}"
            f" | {median(cost['end']):.1f} | {parts} |"
        )


if __name__ == "__main__":
    main()
