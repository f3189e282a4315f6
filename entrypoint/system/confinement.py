"""Confinement: what a forked helper process does to itself before it begins its work."""

from __future__ import annotations

import gc
import os
import resource

from entrypoint.lean import contextlib, signal

_STANDARD = 3
_FEWEST_BYTES = 16 << 20
_SHARE = 4
"""A helper process may use at most this fraction of its control group's memory limit."""


def confine(name: str, keep: int, most_bytes: int) -> int:
    """Detach this forked child from its parent, limit its memory, and return the bytes that it may use.

    It keeps one descriptor (`keep`), gets a new `name`, ignores every signal that can be ignored, and is the first to
    be killed if memory runs out. It may use `most_bytes` beyond what it has, less if the control group's limit is low.
    """
    _rename(name)
    # A session of its own: no signals from the terminal. Signals sent by mistake (`pkill -f`) are ignored: it ends
    # when the connection to its parent closes.
    with contextlib.suppress(OSError):
        os.setsid()
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # The kernel's signals for faults of our own cannot be ignored, and must not be caught.
        default = signum in {
            signal.SIGSEGV,
            signal.SIGBUS,
            signal.SIGILL,
            signal.SIGFPE,
            signal.SIGABRT,
            signal.SIGCHLD,
        }
        signal.signal(signum, signal.SIG_DFL if default else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Never destroy the parent's objects here: they would close descriptor numbers that are in use for something else.
    gc.freeze()
    try:
        null = os.open("/dev/null", os.O_RDWR)
    except OSError:
        null = os.memfd_create("nothing")
    for descriptor in range(_STANDARD):
        os.dup2(null, descriptor)
    os.closerange(_STANDARD, keep)
    os.closerange(keep + 1, max(_most_descriptors(), keep + 1))
    most = max(min(most_bytes, _group_limit() // _SHARE), _FEWEST_BYTES)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = _size() + most
        limits = [limit for limit in (soft, hard, wanted) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    return most


def _rename(name: str) -> None:
    """Set comm and the command line, so that a search for our parent does not find two processes (proc(5))."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as file:
            # Behind the name, which may contain any byte, the third field comes first.
            fields = file.read().rpartition(b") ")[2].split()
        start, end = (int(fields[number - 3]) for number in (48, 49))
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(name.encode()[: end - start - 1].ljust(end - start, b"\0"))


def _most_descriptors() -> int:
    """Return a number higher than that of any open descriptor."""
    try:
        return max(map(int, os.listdir("/proc/self/fd"))) + 1
    except (OSError, ValueError):
        return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)


def _size() -> int:
    """Return the bytes of address space in use (proc_pid_statm(5))."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _group_limit() -> int:
    """Return the control group's memory limit in bytes (cgroups(7)); 2**62 if there is none."""
    group = ""
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        group = next((line.rstrip("\n")[3:] for line in file if line.startswith("0::")), "")
    for path in (f"{group}/memory.max", "/memory.max", "/memory/memory.limit_in_bytes"):
        try:
            with open(f"/sys/fs/cgroup{path}", encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 1 << 62
