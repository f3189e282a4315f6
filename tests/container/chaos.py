"""What chaos is made of: actions that do harm, each undone some actions later, in an order that a seed determines.

The seed fixes which actions come, with which numbers and pauses. What an action finds when it comes (how many
haproxies live, say) is up to the machine; an action picks among what is there by its number. The clock is not
touched: a container has none of its own for CLOCK_REALTIME, and what counts time in PID 1 is CLOCK_MONOTONIC.
"""

import contextlib
import errno
import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.children import readers_of
from tests.container.conftest import Balancer, configuration
from tests.container.trouble import Death, end, haproxies, inside

DISK = "/small"
"""A tmpfs on which the pid file and haproxy's own stats socket are."""
STORM = (
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT, signal.SIGURG),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGABRT, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP),
)
"""What PID 1 has to stand; those that haproxy would die of are never forwarded to it."""

Undo = Callable[[], None]


@dataclass(slots=True)
class Ground:
    """Where chaos takes place, and what has been done there so far."""

    lb: Balancer
    pid: int
    """PID 1's."""
    deaths: list[Death] = field(default_factory=list)
    edits: int = 0
    undone_after: list[tuple[int, Undo]] = field(default_factory=list)
    """What is to be undone, with the number of actions that come before."""

    def pick(self, number: float) -> int | None:
        """Return one of the haproxies that live, by a number from 0 to 1."""
        alive = haproxies(self.lb)
        return alive[int(number * len(alive))] if alive else None

    def good(self, mark: str = "", more: str = "") -> None:
        """Put a good configuration on the disk, replacing whatever is there at once."""
        self.edits += 1
        text = configuration(mark or f"good {self.edits}", f"global\n  stats socket {DISK}/admin.sock\n{more}")
        self.write(text)

    def write(self, text: str) -> None:
        """Replace the configuration by renaming."""
        fresh = self.lb.folder / "fresh"
        fresh.write_text(text)
        fresh.rename(self.lb.folder / "haproxy.cfg")

    def time_passes(self) -> None:
        """Count an action, and undo what is due."""
        self.undone_after = [(left - 1, undo) for left, undo in self.undone_after]
        due = [undo for left, undo in self.undone_after if left <= 0]
        self.undone_after = [(left, undo) for left, undo in self.undone_after if left > 0]
        for undo in due:
            undo()

    def undo_all(self) -> None:
        """Have peace again."""
        for _, undo in self.undone_after:
            undo()
        self.undone_after.clear()


@dataclass(frozen=True, slots=True)
class Step:
    """One action as the seed has it."""

    name: str
    number: float
    """From 0 to 1; what it means is up to the action."""
    lasts: int
    """So many actions later it is undone, if it can be."""
    pause: float
    """Seconds before the next one."""


def _reload(ground: Ground, step: Step) -> None:
    os.kill(ground.pid, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)[int(step.number * 3)])


def _good(ground: Ground, step: Step) -> None:
    ground.good()
    _reload(ground, step)


def _bad(ground: Ground, step: Step) -> None:
    kinds = ("nonsense\n", "frontend a\n  bind 127.0.0.1:1 ssl crt /nowhere\n", "global\n  user nobody-at-all\n")
    ground.write(configuration("bad", kinds[int(step.number * len(kinds))]))
    os.kill(ground.pid, signal.SIGUSR1)


def _half(ground: Ground, step: Step) -> None:
    text = configuration("half")
    (ground.lb.folder / "haproxy.cfg").write_text(text[: int(step.number * len(text))])
    os.kill(ground.pid, signal.SIGHUP)
    ground.good()


def _huge(ground: Ground, step: Step) -> None:
    count = int(step.number * 2000)
    ground.good(more="".join(f"backend b{n}\n  server s 127.0.0.1:{n + 10000} disabled\n" for n in range(count)))
    os.kill(ground.pid, signal.SIGUSR1)


def _deleted(ground: Ground, step: Step) -> None:
    (ground.lb.folder / "haproxy.cfg").unlink(missing_ok=True)
    os.kill(ground.pid, signal.SIGUSR1)
    ground.undone_after.append((step.lasts, ground.good))


def _kill(ground: Ground, step: Step) -> None:
    pid = ground.pick(step.number)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            ground.deaths.append(end(pid))


def _halt(ground: Ground, step: Step) -> None:
    pid = ground.pick(step.number)
    if pid is not None:
        _halt_until_undone(ground, step, pid)


def _reader(ground: Ground, step: Step) -> None:
    """Stop the process that reads files, or kill it."""
    for pid in readers_of(ground.pid):
        if step.number < 0.5:
            _halt_until_undone(ground, step, pid)
        else:
            os.kill(pid, signal.SIGKILL)


def _halt_until_undone(ground: Ground, step: Step, pid: int) -> None:
    # By descriptor: when it is undone, the pid may be another process's.
    process = os.pidfd_open(pid)

    def undo() -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGCONT)
        os.close(process)

    ground.undone_after.append((step.lasts, undo))
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGSTOP)


def _halt_pid_1(ground: Ground, step: Step) -> None:
    os.kill(ground.pid, signal.SIGSTOP)
    ground.undone_after.append((min(2, step.lasts), lambda: os.kill(ground.pid, signal.SIGCONT)))


def _storm(ground: Ground, step: Step) -> None:
    order = random.Random(step.number)
    for _ in range(200):
        os.kill(ground.pid, order.choice(STORM))


def _full_disk(ground: Ground, step: Step) -> None:
    disk = inside(ground.lb, DISK)
    mine = [disk / f"fill{number}" for number in range(64)]
    try:
        for path in mine:
            path.write_bytes(bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise

    def undo() -> None:
        for path in mine:
            path.unlink(missing_ok=True)

    ground.undone_after.append((step.lasts, undo))


def _no_descriptors(ground: Ground, pid: int, step: Step) -> None:
    try:
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        few = len(list(Path(f"/proc/{pid}/fd").iterdir())) + int(step.number * 4)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(few, limits[0]), limits[1]))
        process = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError):
        return

    def undo() -> None:
        # Not gone, so that the pid is still its own.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, 0)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limits[1], limits[1]))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        os.close(process)

    ground.undone_after.append((step.lasts, undo))


def _pid_1_without_descriptors(ground: Ground, step: Step) -> None:
    # One at a time: what a second one found would be the first one's limit.
    if resource.prlimit(ground.pid, resource.RLIMIT_NOFILE)[0] > 256:
        _no_descriptors(ground, ground.pid, step)


def _haproxy_without_descriptors(ground: Ground, step: Step) -> None:
    pid = ground.pick(step.number)
    if pid is not None:
        _no_descriptors(ground, pid, step)


def _pid_1_without_memory(ground: Ground, step: Step) -> None:
    limits = resource.prlimit(ground.pid, resource.RLIMIT_AS)
    if limits[0] != resource.RLIM_INFINITY:
        return
    pages = int(Path(f"/proc/{ground.pid}/statm").read_text().split()[0])
    some = pages * resource.getpagesize() + int(step.number * 512) * 1024
    resource.prlimit(ground.pid, resource.RLIMIT_AS, (some, limits[1]))

    def undo() -> None:
        resource.prlimit(ground.pid, resource.RLIMIT_AS, limits)

    ground.undone_after.append((step.lasts, undo))


def _pid_file_in_the_way(ground: Ground, step: Step) -> None:
    """Put a folder, or a FIFO, where the pid file is: it can be neither replaced nor written."""
    path = inside(ground.lb, f"{DISK}/lb.pid")
    if path.is_dir() or path.is_fifo():
        return
    path.unlink(missing_ok=True)
    try:
        path.mkdir() if step.number < 0.5 else os.mkfifo(path)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EEXIST}:
            raise
        return

    def undo() -> None:
        if path.is_dir():
            path.rmdir()
        elif path.is_fifo():
            path.unlink()

    ground.undone_after.append((step.lasts, undo))


def _touched_neighbours(ground: Ground, step: Step) -> None:
    """Change what lies beside the configuration, which nobody reads."""
    neighbour = ground.lb.folder / f"neighbour{int(step.number * 4)}.txt"
    neighbour.write_text(str(step.number))
    neighbour.with_suffix(".bak").unlink(missing_ok=True)
    neighbour.rename(neighbour.with_suffix(".bak"))


def _sessions_held_open(ground: Ground, step: Step) -> None:
    """Connect to the user's own `stats socket` as often as haproxy allows, and say nothing."""
    sessions: list[socket.socket] = []
    with contextlib.suppress(OSError):
        for _ in range(12):
            session = socket.socket(socket.AF_UNIX)
            sessions.append(session)
            session.setblocking(False)
            session.connect(str(inside(ground.lb, f"{DISK}/admin.sock")))

    def undo() -> None:
        for session in sessions:
            session.close()

    ground.undone_after.append((step.lasts, undo))


def _talkative(ground: Ground, step: Step) -> None:
    """Have haproxy warn of more than a pipe has room for."""
    count = int(step.number * 1000)
    ground.good(more="".join(f"backend w{n}\n  mode tcp\n  option forwardfor\n" for n in range(count)))
    os.kill(ground.pid, signal.SIGUSR1)


def _nothing(_ground: Ground, _step: Step) -> None:
    pass


ACTIONS: dict[str, tuple[Callable[[Ground, Step], None], int]] = {
    "nothing": (_nothing, 2),
    "reload": (_reload, 4),
    "a good configuration": (_good, 6),
    "a bad configuration": (_bad, 2),
    "half a configuration": (_half, 2),
    "a huge configuration": (_huge, 1),
    "no configuration": (_deleted, 1),
    "kill a haproxy": (_kill, 5),
    "stop a haproxy": (_halt, 3),
    "stop PID 1": (_halt_pid_1, 1),
    "a storm of signals": (_storm, 1),
    "a full disk": (_full_disk, 2),
    "PID 1 without descriptors": (_pid_1_without_descriptors, 1),
    "a haproxy without descriptors": (_haproxy_without_descriptors, 1),
    "a reader that hangs or dies": (_reader, 2),
    "PID 1 without memory": (_pid_1_without_memory, 1),
    "a pid file in the way": (_pid_file_in_the_way, 1),
    "touched neighbours": (_touched_neighbours, 2),
    "sessions held open": (_sessions_held_open, 2),
    "a talkative configuration": (_talkative, 1),
}
"""Each with its weight."""


def steps(seed: int) -> Iterator[Step]:
    """Yield the actions of this seed, without end."""
    order = random.Random(seed)
    names = list(ACTIONS)
    weights = [weight for _, weight in ACTIONS.values()]
    while True:
        (name,) = order.choices(names, weights)
        yield Step(name, order.random(), order.randint(1, 6), order.choice((0.0, 0.02, 0.1, 0.3, 1.0, 1.5)))
