"""Signals: what was inherited, what arrives, and what prctl(2) arranges around them.

Owns the process's signal mask and dispositions, and the pipe through which arrivals reach the loop.
"""

import os
import signal
from collections.abc import Iterator, Mapping

from entrypoint.core.records import dataclass
from entrypoint.core.types import Any

try:
    import prctl
except (ImportError, NameError) as _error:
    # NameError: python-prctl 1.8.1 uses `warnings` without importing it when the kernel's headers know one
    # capability more than it does. PID 1 must start all the same.
    prctl = None
    _WHY_NOT = f"python-prctl cannot be imported: {_error}"

CATCHABLE = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
SYNCHRONOUS = frozenset(
    {
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGSEGV,
        signal.SIGSYS,
    }
)
"""What the kernel sends when we err; forwarding it would make our fault the child's (tini does the same)."""
TERMINAL = frozenset({signal.SIGTTIN, signal.SIGTTOU})
"""Ignored, so that a terminal with `tostop` cannot stop us when we write to it (tini does the same)."""
CAUGHT = CATCHABLE - SYNCHRONOUS - TERMINAL

INHERITED_VARIABLE = "SAFE_RELOAD_INHERITED"
"""Set by the launcher: SigBlk and SigIgn of /proc/self/status (proc(5)) before Python started, with a colon between."""


class PrctlError(OSError):
    """Something that was asked for cannot be arranged; its text is one line for the user."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """The signal mask and the ignored signals as our parent left them, for our children."""

    blocked: frozenset[int]
    ignored: frozenset[int]


def inherited(environment: Mapping[str, str], mask: frozenset[int]) -> Inherited:
    """Find out what was inherited.

    Args:
        environment: all variables; the launcher's note in it is believed.
        mask: the mask as it was before Python code changed it.

    CPython has ignored SIGPIPE and SIGXFSZ before the first line of Python runs (Python/pylifecycle.c,
    `signal_install_handlers`): what they were is known from the note alone, and without it they count as not ignored.
    All other dispositions are still there to be seen, but for those of TERMINAL after an upgrade: they are our last
    life's, and the note says what they were before.

    """
    hidden = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
    ignored = frozenset(signum for signum in CATCHABLE - hidden if signal.getsignal(signum) is signal.SIG_IGN)
    try:
        blocked, noted = (_signals_of(int(part, 16)) for part in environment.get(INHERITED_VARIABLE, "").split(":"))
    except ValueError:
        return Inherited(mask, ignored)
    return Inherited(blocked, (ignored - TERMINAL) | (noted & (hidden | TERMINAL)))


def _signals_of(bits: int) -> frozenset[int]:
    return frozenset(signum for signum in CATCHABLE if bits >> (signum - 1) & 1)


class Arrivals:
    """The signals that arrive, as a readable descriptor.

    A pipe and not a socket pair: one byte a signal fits 65,536 times into a pipe, and some 280 times into a socket.
    """

    def __init__(self) -> None:
        """Catch everything catchable, then let through what has been blocked since the start."""
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for signum in CAUGHT:
            signal.signal(signum, _nothing)
        for signum in TERMINAL:
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reader

    def read(self) -> Iterator[int]:
        """Yield the signals that have arrived, in order."""
        try:
            yield from os.read(self._reader, 4096)
        except BlockingIOError:
            return


def _nothing(_signum: int, _frame: object) -> None:
    """Handle a signal: the interpreter has written its number to the pipe already."""


def block_all() -> None:
    """Let no signal through from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def let_through() -> None:
    """Let every signal through."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def note(inherited_ones: Inherited) -> str:
    """Write what was inherited as the launcher does, for a program that takes our place."""
    blocked, ignored = (
        sum(1 << (signum - 1) for signum in signums) for signums in (inherited_ones.blocked, inherited_ones.ignored)
    )
    return f"{blocked:016x}:{ignored:016x}"


def restore(wanted: Inherited) -> None:
    """Give this process, a child about to exec, the dispositions and then the mask that were inherited."""
    for signum in CATCHABLE:
        signal.signal(signum, signal.SIG_IGN if signum in wanted.ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, wanted.blocked)


def owed(wanted: Inherited) -> tuple[frozenset[int], frozenset[int]] | None:
    """Return what posix_spawn(3) has to do instead of `restore`: the mask, and what to reset; None where it cannot.

    exec(2) resets what is caught, and leaves ignored what is ignored: of what Arrivals catches a child can ignore
    nothing.
    """
    return None if wanted.ignored - TERMINAL else (wanted.blocked, TERMINAL - wanted.ignored)


# ---- prctl(2) ------------------------------------------------------------------------------------------------------


def become_subreaper() -> None:
    """Have orphaned descendants re-parented to us: PR_SET_CHILD_SUBREAPER."""
    _require().set_child_subreaper(True)


def can_signal_others() -> bool:
    """Tell whether a child that changes its uid can still be signalled: root needs CAP_KILL for that (kill(2))."""
    return os.geteuid() != 0 or prctl is None or bool(prctl.cap_effective.kill)


def is_reaper() -> bool:
    """Tell whether orphans come to us."""
    return os.getpid() == 1 or bool(prctl and prctl.get_child_subreaper())


def set_parent_death_signal(signum: int) -> None:
    """Be sent this signal when our parent dies: PR_SET_PDEATHSIG."""
    _require().set_pdeathsig(signum)


def forbid_new_privileges() -> None:
    """Make exec unable to give privileges, here and in every child, for ever: PR_SET_NO_NEW_PRIVS."""
    _require().set_no_new_privs(True)


def forbid_tracing() -> None:
    """Let nobody but root trace this process or read its memory, nor the kernel dump it: PR_SET_DUMPABLE."""
    _require().set_dumpable(False)


def keep_capabilities(*names: str) -> None:
    """Drop every other capability, here and in every child, for ever (capabilities(7)).

    Args:
        names: as prctl(2) writes them, in small letters without CAP_.

    """
    module = _require()
    # Without CAP_SETPCAP the bounding set may not be touched; a process without capabilities needs not.
    if module.cap_effective.setpcap:
        module.capbset.limit(*names)
    module.cap_effective.limit(*names)
    module.cap_permitted.limit(*names)


def set_name(name: str) -> None:
    """Be found by pgrep(1): PR_SET_NAME. Does what it can.

    Not python-prctl's `set_proctitle` as well: it dies of SIGSEGV where the arguments are longer than some 8 kB.
    """
    if prctl:
        prctl.set_name(name)


def _require() -> Any:  # python-prctl has no type information
    if prctl is None:
        raise PrctlError(_WHY_NOT)
    return prctl
