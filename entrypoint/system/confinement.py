"""What a forked child that does somebody else's work does to itself before it begins."""

import contextlib
import gc
import os
import resource
import signal

_STANDARD = 3
_FEWEST_BYTES = 16 << 20
_SHARE = 4
"""A process that helps gets at most this part of what all of its control group may use."""


def confine(name: str, keep: int, most_bytes: int) -> int:
    """Keep nothing of the parent but one descriptor, take no signal of its, and be the first to go where memory is out.

    Args:
        name: what the process is called from now on.
        keep: the descriptor.
        most_bytes: of memory, beyond what there is already; less where the control group has little.

    Returns:
        How many bytes it may use.

    """
    _rename(name)
    # In a session of its own: what a terminal sends is for others. What anybody sends by mistake (`pkill -f`) is
    # ignored: its end is that of the line to its parent.
    with contextlib.suppress(OSError):
        os.setsid()
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # What the kernel sends for our own faults cannot be ignored, and must not be caught.
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
    # Objects of the parent's are never destroyed in here: they would close descriptors that are others by now.
    gc.freeze()
    null = _nothing()
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


def _nothing() -> int:
    """Return a descriptor from which nothing comes, and to which what is written is lost."""
    try:
        return os.open("/dev/null", os.O_RDWR)
    except OSError:
        return os.memfd_create("nothing")


def _rename(name: str) -> None:
    """Be called this, by comm and by the command line: who looks for our parent must not find two (proc(5))."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as file:
            # After the name, which may have any byte in it, the third field comes first.
            fields = file.read().rpartition(b") ")[2].split()
        start, end = (int(fields[number - 3]) for number in (48, 49))
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(name.encode()[: end - start - 1].ljust(end - start, b"\0"))


def _most_descriptors() -> int:
    """Return a number that no open descriptor reaches."""
    try:
        return max(map(int, os.listdir("/proc/self/fd"))) + 1
    except (OSError, ValueError):
        return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)


def _size() -> int:
    """Return the bytes of address space that are in use (proc_pid_statm(5))."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _group_limit() -> int:
    """Return the bytes of memory that the control group may use (cgroups(7)); very many where nothing limits it."""
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
