"""Trouble that comes from outside of a container, and what it left: deaths, load that counts each failure, leaks."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.container import client
from tests.container.conftest import ANSWER, DEFAULTS, Balancer
from tests.descriptors import descriptors
from tests.waiting import eventually

CLIENT = str(Path(client.__file__))

ORDINARY = f"{DEFAULTS}frontend web\n    bind :8080\n{ANSWER}"
"""A configuration as anybody has one: it knows nothing of VIPs."""


# ---- processes of a container, by the pids of this host ------------------------------------------------------------


def name_of(pid: int) -> str:
    """Return a process's name; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def haproxies(lb: Balancer) -> list[int]:
    """Return the generations that live, oldest first; one that is dead and not reaped yet does not."""
    return [pid for pid in lb.children() if name_of(pid) == "haproxy" and state_of(pid) not in {"", "Z", "X"}]


def inner_pid(pid: int) -> int:
    """Return the pid by which a process is known in its container; 0 when it is gone."""
    try:
        found = re.search(r"^NSpid:.*\s(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def inside(lb: Balancer, path: str) -> Path:
    """Return a path of the container as one of this host."""
    return Path(f"/proc/{lb.pid}/root{path}")


_IS_CURRENT = re.compile(r"generation \d+ \(pid (\d+)\) is current")


def current(lb: Balancer) -> int:
    """Wait for a generation that is current and lives; return its pid."""

    def living() -> int:
        said = _IS_CURRENT.findall(lb.log)
        return next((pid for pid in haproxies(lb) if said and inner_pid(pid) == int(said[-1])), 0)

    return eventually(living)


def reload(lb: Balancer) -> int:
    """Ask for a reload and wait until it is done; return the pid of the new generation."""
    current(lb)
    done = len(_IS_CURRENT.findall(lb.log))
    lb.kill("USR1")
    eventually(lambda: len(_IS_CURRENT.findall(lb.log)) > done)
    return current(lb)


def is_alone(lb: Balancer) -> bool:
    """Tell whether PID 1 has one child, which is a haproxy."""
    return len(lb.children()) == 1 and len(haproxies(lb)) == 1


def status(lb: Balancer) -> dict[str, Any]:
    """Return what `safe_reload status --json` says."""
    code, text = lb.run("safe_reload", "status", "--json")
    assert code == 0, text
    answer: dict[str, Any] = json.loads(text)
    return answer


# ---- deaths --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Death:
    """When a process died: after `begun`, and before `over`."""

    begun: float
    over: float


def end(pid: int, signum: int = signal.SIGKILL) -> Death:
    """Send a signal that ends a process, and wait until it has ended, its sockets included."""
    with _process(pid) as process:
        begun = time.monotonic()
        signal.pidfd_send_signal(process, signum)
        assert select.select([process], [], [], 60)[0], f"{pid} has survived {signal.Signals(signum).name}"
        return Death(begun, time.monotonic())


@contextmanager
def _process(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def state_of(pid: int) -> str:
    """Return the letter for a process's state (proc_pid_stat(5)); empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def halt(pid: int) -> None:
    """Stop a process, all its threads, and wait until it is stopped."""
    os.kill(pid, signal.SIGSTOP)

    def halted() -> bool:
        tasks = Path(f"/proc/{pid}/task")
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir())

    eventually(halted)


# ---- load ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ends:
    """How all connections of a crowd have ended."""

    ends: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, float, float]] = field(default_factory=list)
    """The kind, the time before connect(2), and the time after the end."""
    seconds: float = 0.0
    slowest: float = 0.0

    @property
    def ok(self) -> int:
        """How many have got a whole answer."""
        return self.ends["ok"]

    @property
    def refused(self) -> int:
        """How many nobody listened for."""
        return self.ends[client.REFUSED]

    def unexplained(self, deaths: Sequence[Death]) -> list[tuple[str, float, float]]:
        """Return the failures that no death explains: of each, the connection was not there while a process died.

        A connection that came after a process had died was in the queue of a listener. Were that reset, it would be
        reset before anybody had accepted it.
        """
        return [
            (kind, began, ended)
            for kind, began, ended in self.failures
            if kind not in {client.RESET_SENT, client.RESET_UNSENT, client.CUT}
            or not any(began <= death.over and ended >= death.begun for death in deaths)
        ]

    def __str__(self) -> str:
        """Say it on a line."""
        ends = ", ".join(f"{count} {kind}" for kind, count in self.ends.most_common())
        total = sum(self.ends.values())
        rate = total / max(self.seconds, 0.001)
        return f"{total} connections, {rate:.0f} a second, slowest {self.slowest:.2f} s: {ends}"


class Crowd:
    """Client processes in a container's network namespace; leave the `with` block and read `ends`."""

    def __init__(
        self, lb: Balancer, rate: float, processes: int = 2, patience: float = 100.0, most_open: int = 1500
    ) -> None:
        """Begin so many connections a second in all; each waits `patience` seconds for its answer.

        With a rate that is never reached, `most_open` clients of each process are a closed loop.
        """
        words = ["nsenter", "-t", str(lb.pid), "-n", sys.executable, "-S", "-E", CLIENT]
        words += ["--port", str(lb.port), "--rate", str(rate / processes), "--patience", str(patience)]
        words += ["--most-open", str(most_open)]
        self._clients = [
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
        ]
        self._patience = patience
        self.ends = Ends()

    def __enter__(self) -> Self:
        """Wait until each process has got an answer."""
        for process in self._clients:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin no more connections, wait for those that are open, and add up."""
        try:
            for process in self._clients:
                assert process.stdin is not None
                process.stdin.close()
                process.stdin = None
            for process in self._clients:
                report = json.loads(process.communicate(timeout=self._patience + 60)[0])
                self.ends.ends.update(report["ends"])
                self.ends.failures += [tuple(failure) for failure in report["failures"]]
                self.ends.seconds = max(self.ends.seconds, report["seconds"])
                self.ends.slowest = max(self.ends.slowest, report["slowest"])
        finally:
            for process in self._clients:
                process.kill()
                process.wait()

    def goes_on_for(self, seconds: float) -> None:
        """Let the clients do their work for so long; they never end of themselves."""
        try:
            code = self._clients[0].wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"the client ended with {code}")


def say(*words: object) -> None:
    """Print a line for whoever reads the test's output."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")


# ---- leaks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Traces:
    """What PID 1 holds."""

    pid: int
    began: str
    """When it was started, in the kernel's words: the same pid is not the same process."""
    descriptors: tuple[tuple[str, int], ...]
    """How many of each kind."""
    threads: int
    children: int
    memory: int
    """KiB that are its own, and not pages of files."""

    def no_more_than(self, other: "Traces") -> bool:
        """Tell whether nothing was leaked since the other look, of what can be counted: then something may be open."""
        rest = replace(self, memory=0, descriptors=()) == replace(other, memory=0, descriptors=())
        return rest and Counter(dict(self.descriptors)) <= Counter(dict(other.descriptors))


def traces(lb: Balancer) -> Traces:
    """Look at PID 1."""
    pid = lb.pid
    kinds: Counter[str] = Counter()
    kinds.update(re.sub(r"\d+", "N", link) for link in descriptors(pid).values())
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    anonymous = re.search(r"^Anonymous: +(\d+) kB", rollup, re.MULTILINE)
    assert anonymous
    return Traces(pid, fields[19], tuple(sorted(kinds.items())), int(fields[17]), len(lb.children()), int(anonymous[1]))


def nothing_leaked(lb: Balancer, before: Traces, most_kib: int = 1024) -> Traces:
    """Wait until PID 1 holds no more than it held before, and at most so much more memory."""
    seen = before

    def as_before() -> bool:
        nonlocal seen
        seen = traces(lb)
        return seen.no_more_than(before)

    try:
        eventually(as_before)
    except AssertionError:
        raise AssertionError(f"a leak:\nbefore {before}\nafter  {seen}") from None
    say(
        f"PID 1: {before.memory} KiB before, {seen.memory} KiB after; {sum(n for _, n in seen.descriptors)} descriptors"
    )
    assert seen.memory - before.memory < most_kib
    return seen
