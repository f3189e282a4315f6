"""Signals: the inherited mask and dispositions, arriving signals, and what prctl(2) sets for this process.

Owns the process's signal mask and dispositions, and the descriptor that tells the event loop of signals.
"""

from __future__ import annotations

import os
import select
import struct
import sys

from entrypoint.lean import contextlib, signal
from entrypoint.lean.collections import Iterable, Iterator
from entrypoint.lean.libc import libc_functions
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.options.inheritance import Inheritance

try:
    # The C half of python-prctl. The other half, the module `prctl`, makes 300 functions and properties: 1 ms.
    import _prctl
except ImportError as _error:
    _prctl = None
    _WHY_NOT = f"python-prctl cannot be imported: {_error}"

CATCHABLE = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
SYNCHRONOUS = frozenset(
    {signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS}
)
"""What the kernel sends for a fault of our own; if we forwarded it, our fault would hit the child (tini does the
same)."""
TERMINAL = frozenset({signal.SIGTTIN, signal.SIGTTOU})
"""Blocked, so that a terminal with `tostop` cannot stop us when we write to it, and dropped (tini ignores them)."""
OWN_DOING = frozenset(
    {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGXCPU, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGURG}
)
"""Signals that the kernel may send because of what we did: wrote, used CPU, owned descriptors. Not SIGALRM: somebody
who sends that wants the program to end (`perl -e 'alarm 9; exec @ARGV'`). Not what a terminal sends to its whole
process group."""
CAUGHT = CATCHABLE - SYNCHRONOUS - TERMINAL - OWN_DOING

_SI_USER = 0
_HIDDEN = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_SIGINFO = "IiiI"
_SIGINFO_BYTES = 128  # struct signalfd_siginfo: uint32_t signo; int32_t errno, code; uint32_t pid; and more
_MOST_AT_ONCE = 64 * _SIGINFO_BYTES
_SIGSET_BYTES = 128
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


class PrctlError(OSError):
    """Raised if something that was asked for cannot be set; its text is one line for the user."""


@record(frozen=True)
class Inherited:
    """The signal mask and the ignored signals that our parent left us; children get the same."""

    blocked: frozenset[int]
    ignored: frozenset[int]


def inherited(inheritance: Inheritance | None, mask: frozenset[int]) -> Inherited:
    """Return what was inherited.

    CPython ignores SIGPIPE and SIGXFSZ before the first line of Python runs (Python/pylifecycle.c,
    `signal_install_handlers`): without the launcher they count as not ignored.

    Args:
        inheritance: what the launcher reports; taken as it is.
        mask: the mask as it was before Python code changed it.

    """
    if inheritance:
        return Inherited(_signals_of(inheritance.blocked), _signals_of(inheritance.ignored))
    ignored = (signum for signum in CATCHABLE - _HIDDEN if signal.getsignal(signum) is signal.SIG_IGN)
    return Inherited(mask, frozenset(ignored))


def _signals_of(bits: int) -> frozenset[int]:
    return frozenset(signum for signum in CATCHABLE if bits >> (signum - 1) & 1)


def bits_of(signums: Iterable[int]) -> int:
    """Return these signals as a mask in the format of proc(5)."""
    return sum(1 << (signum - 1) for signum in signums)


class Arrivals:
    """The signals that arrive, as a readable descriptor.

    Most have a handler that does nothing: the interpreter writes their numbers into a pipe, so that a second SIGTERM
    counts while the loop is busy. A pipe, not a socket pair: a pipe holds 65,536 bytes, one a signal, a socket some
    280. Those of OWN_DOING stay blocked and are read from a signalfd(2), which alone tells the sender.
    """

    def __init__(self) -> None:
        """Catch everything catchable, then unblock what has been blocked since the start.

        Raises:
            OSError: no signalfd can be opened.

        """
        self._reader, writer = os.pipe2(_NONBLOCK_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for signum in CAUGHT:
            signal.signal(signum, _nothing)
        blocked = OWN_DOING | TERMINAL
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CATCHABLE - blocked)
        self._signalfd = _signalfd(blocked)
        self._pid = os.getpid()
        self._both = select.epoll()
        for descriptor in (self._reader, self._signalfd):
            self._both.register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._both.fileno()

    def read(self) -> Iterator[int]:
        """Yield the numbers of the signals that have arrived, in order, without those that we have caused ourselves."""
        yield from _read(self._reader, 4096)
        infos = _read(self._signalfd, _MOST_AT_ONCE)
        for start in range(0, len(infos), _SIGINFO_BYTES):
            signum, _, code, pid = struct.unpack_from(_SIGINFO, infos, start)
            # From the kernel (SI_KERNEL, or a descriptor's event) if code > 0. The signal for a failed write of ours
            # looks as if we had sent it to ourselves.
            own_doing = code > 0 or (code == _SI_USER and pid == self._pid)
            if signum not in TERMINAL and not own_doing:
                yield signum


def _nothing(_signum: int, _frame: object) -> None:
    """Do nothing: the interpreter has written the signal's number into the pipe already."""


def _signalfd(signums: Iterable[int]) -> int:
    signalfd, errno = libc_functions("signalfd")
    mask = bits_of(signums).to_bytes(8, sys.byteorder).ljust(_SIGSET_BYTES, b"\0")
    descriptor = signalfd(-1, mask, _NONBLOCK_CLOEXEC)
    if descriptor < 0:
        code = errno()
        raise OSError(code, f"signalfd: {os.strerror(code)}")
    return descriptor


def _read(descriptor: int, most: int) -> bytes:
    try:
        return os.read(descriptor, most)
    except BlockingIOError:
        return b""


def block_all() -> None:
    """Block every signal from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def restore(wanted: Inherited) -> None:
    """Set the inherited dispositions and then the mask; for a child about to exec.

    Not SIG_SETMASK: the C library would remove its own two signals from the mask, which are still as inherited.
    """
    for signum in CATCHABLE:
        signal.signal(signum, signal.SIG_IGN if signum in wanted.ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted.blocked)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CATCHABLE - wanted.blocked)


def spawn_setup(wanted: Inherited) -> tuple[frozenset[int], frozenset[int]] | None:
    """Return what posix_spawn(3) has to do instead of `restore`: the mask, and the signals to reset; None if it cannot.

    exec(2) resets caught signals and leaves ignored ones ignored. So a child cannot ignore a signal that Arrivals
    catches, or that an older version of this program caught before an upgrade. All others are reset before that: the
    child shares our memory until the exec, and a signal to it would run our handler and count as one to us. The C
    library of the static file does not know which signals are caught (docker/static/program.c).
    """
    if any(signum in CAUGHT or signal.getsignal(signum) is not signal.SIG_IGN for signum in wanted.ignored):
        return None
    return wanted.blocked, CATCHABLE - wanted.ignored


# ---- prctl(2) ------------------------------------------------------------------------------------------------------


def become_subreaper() -> None:
    """Make orphaned descendants our children: PR_SET_CHILD_SUBREAPER.

    Raises:
        PrctlError: there is no python-prctl.
        OSError: the kernel refuses.

    """
    _set("PR_SET_CHILD_SUBREAPER", True)


def can_signal_others() -> bool:
    """Tell whether we may signal a process of another uid: even root needs CAP_KILL for that (kill(2))."""
    return _prctl is None or _has_capability(_prctl.CAP_KILL)


def why_not_signalled() -> str:
    """Return why kill(2) has failed with EPERM, and what to do about it."""
    if can_signal_others():
        return "it may not be signalled, though we have CAP_KILL: a security module, or a seccomp filter, forbids it"
    return "it runs as another user, and without CAP_KILL we may not signal it: add KILL, or have it keep our user"


def is_reaper() -> bool:
    """Tell whether orphans become our children; False if we may not ask."""
    try:
        return os.getpid() == 1 or bool(_prctl and _prctl.prctl(_prctl.PR_GET_CHILD_SUBREAPER))
    except OSError:
        return False


def set_parent_death_signal(signum: int) -> None:
    """Have the kernel send this signal to us when our parent dies: PR_SET_PDEATHSIG."""
    _set("PR_SET_PDEATHSIG", signum)


def forbid_new_privileges() -> None:
    """Make exec unable to grant privileges, here and in every child, for ever: PR_SET_NO_NEW_PRIVS."""
    _set("PR_SET_NO_NEW_PRIVS", True)


def forbid_tracing() -> None:
    """Forbid core dumps, and tracing and reading our memory to everybody but root: PR_SET_DUMPABLE."""
    _set("PR_SET_DUMPABLE", False)


def keep_capabilities(*names: str) -> None:
    """Drop every capability but these, here and in every child, for ever (capabilities(7)).

    Names are in lower case without CAP_, as in prctl(2).
    """
    module = _require()
    kept = {getattr(module, f"CAP_{name.upper()}") for name in names}
    others = [capability for capability in range(module.CAP_LAST_CAP + 1) if capability not in kept]
    # Changing the bounding set needs CAP_SETPCAP; a process without capabilities need not change it.
    if _has_capability(module.CAP_SETPCAP):
        for capability in others:
            _set("PR_CAPBSET_DROP", capability)
    # Lists to set and to clear: effective, permitted, inheritable. What is effective must be permitted.
    module.set_caps([], [], [], others, [], [])
    module.set_caps([], [], [], [], others, [])


def _has_capability(capability: int) -> bool:
    return bool(_prctl.get_caps([capability], [], [])[_prctl.CAP_EFFECTIVE][capability])


def set_name(name: str) -> None:
    """Set the name that pgrep(1) finds: PR_SET_NAME. Failures are ignored, because a seccomp filter may forbid it.

    Not python-prctl's `set_proctitle` as well: it dies of SIGSEGV if the arguments are longer than some 8 kB.
    """
    if _prctl:
        with contextlib.suppress(OSError):
            _prctl.prctl(_prctl.PR_SET_NAME, name)


def _set(option: str, value: int) -> None:
    module = _require()
    try:
        module.prctl(getattr(module, option), value)
    except OSError as error:
        raise OSError(error.errno, f"the kernel refuses prctl({option}): {error.strerror}") from error


def _require() -> Any:  # python-prctl has no type information
    if _prctl is None:
        raise PrctlError(_WHY_NOT)
    return _prctl
