"""Processes: the one place where they are born and where they are reaped.

A parent that waits for every child (as PID 1 must) cannot let anything else wait for one: hence no `subprocess`.
"""

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from entrypoint.core.events import Exited, Reaped
from entrypoint.lean.record import record

_STDERR = 2
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_PTRACE_DETACH = 17
"""From linux/ptrace.h."""
_NO_TERMINAL = frozenset({errno.ENOTTY, errno.ENXIO, errno.EBADF})
"""EBADF is a closed stdin, which is no reason not to run."""


@record(frozen=True)
class SpawnSpec:
    """Everything about a new process but its signals."""

    words: Sequence[str]
    environment: Mapping[str, str] | None
    """None for our own, to the letter: what is no NAME=VALUE and what is there twice, too."""
    descriptors: Sequence[int] = ()
    """Those of ours that it inherits, under the same numbers."""
    foreground: bool = False
    """Whether it gets the terminal that is our stdin, if there is one."""
    stderr: int | None = None
    """What becomes its stderr; None for ours."""


class Processes:
    """The children, by the number of their generation."""

    def __init__(
        self,
        prepare: Callable[[], None],
        complain: Callable[[str], None],
        owed: tuple[Collection[int], Collection[int]] | None = None,
    ) -> None:
        """Begin without children.

        Args:
            prepare: restores signals; called in each forked child last before exec.
            complain: writes one line for the user; called in a child that cannot exec.
            owed: what `prepare` does as far as posix_spawn(3) can do it, the mask and the signals to be reset; None
                where that does not suffice.

        """
        self._prepare = prepare
        self._owed = owed
        self._complain = complain
        self._pids: dict[int, int] = {}
        self._numbers: dict[int, int] = {}

    def spawn(self, number: int, spec: SpawnSpec) -> int:
        """Start a process in a process group of its own and return its pid.

        A program that cannot be executed shows as a child that exits as tini's would: 127 when it is not there, 126
        when it may not be executed, 1 for the rest.

        Raises:
            OSError: there can be no new process now (fork(2)).

        """
        pid = self._spawned(spec) or self._forked(spec)
        try:
            self._pids[number] = pid
            self._numbers[pid] = number
        except MemoryError:
            # Nobody would know whose it is.
            self._pids.pop(number, None)
            os.kill(pid, signal.SIGKILL)
            raise
        return pid

    def fork(self, number: int, run: Callable[[], None]) -> int:
        """Start a process that is a copy of this one, runs this and ends; return its pid.

        Raises:
            OSError: there can be no new process now (fork(2)).

        """
        with _undisturbed():
            pid = os.fork()
            if pid == 0:
                _run_and_end(run)
        self._pids[number] = pid
        self._numbers[pid] = number
        return pid

    def _spawned(self, spec: SpawnSpec) -> int | None:
        """Start it by posix_spawn(3), or return None where only a fork will do.

        A fork copies our page tables, has parent and child copy most of the pages, and runs Python in the child: 4 ms
        of CPU, as much as half of haproxy's own start, and taken from the haproxy that serves. But a child of ours can
        take the terminal, ignore what we catch, and say in our words why something cannot be executed.
        """
        if spec.foreground or self._owed is None or spec.environment is None:
            return None
        program = find_program(spec.words[0], spec.environment) if spec.words else None
        if not program:
            return None
        # dup2 of a descriptor to itself has it inherited: glibc 2.29, musl 1.1.24, POSIX 2024.
        moves = [(os.POSIX_SPAWN_DUP2, one, one) for one in spec.descriptors]
        if spec.stderr is not None:
            moves.append((os.POSIX_SPAWN_DUP2, spec.stderr, _STDERR))
        mask, reset = self._owed
        spawn, words, environment = os.posix_spawn, list(spec.words), spec.environment
        try:
            return spawn(program, words, environment, file_actions=moves, setpgroup=0, setsigmask=mask, setsigdef=reset)
        except (OSError, ValueError):
            return None

    def _forked(self, spec: SpawnSpec) -> int:
        with _undisturbed():
            pid = os.fork()
            if pid == 0:
                self._become(spec)
        # Here as well as in the child, because a signal for the group may come before the child has run.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid

    def pids(self) -> dict[int, int]:
        """Return the pid of each number, for the program that takes our place."""
        return dict(self._pids)

    def restore(self, left: Mapping[int, int]) -> None:
        """Go on with the children that our last life has started."""
        self._pids.update(left)
        self._numbers.update({pid: number for number, pid in left.items()})

    def send(self, number: int, signum: int, *, to_group: bool = False) -> None:
        """Send a signal to a process that we have not reaped, so that the pid cannot be somebody else's.

        Raises:
            OSError: the kernel refuses.

        """
        pid = self._pids.get(number)
        if pid is not None:
            os.kill(-pid if to_group else pid, signum)

    def reap(self) -> Iterator[Exited | Reaped]:
        """Reap everything that has died; what asked to be traced by us (PTRACE_TRACEME) goes on untraced."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                # We have not asked for stops (WUNTRACED), so only a tracee's are told.
                _detach(pid, os.WSTOPSIG(status))
                continue
            number = self._numbers.pop(pid, None)
            if number is None:
                yield Reaped(pid)
            else:
                del self._pids[number]
                yield Exited(number, os.waitstatus_to_exitcode(status))

    def _become(self, spec: SpawnSpec) -> None:
        """Turn this new child into the program; never return."""
        status = 1
        try:
            os.setpgid(0, 0)
            if spec.foreground:
                _take_terminal()
            for descriptor in spec.descriptors:
                os.set_inheritable(descriptor, True)
            if spec.stderr is not None:
                os.dup2(spec.stderr, _STDERR)
            self._prepare()
            _execute(spec.words, spec.environment)
        except ValueError as error:
            self._fail(spec, str(error))
        except OSError as error:
            self._fail(spec, error.strerror)
            status = {errno.ENOENT: _NOT_FOUND, errno.EACCES: _NOT_EXECUTABLE}.get(error.errno or 0, 1)
        finally:
            os._exit(status)

    def _fail(self, spec: SpawnSpec, why: str | None) -> None:
        # Whoever read our stderr may have gone, and the status has to be another one than SIGPIPE's.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._complain(f"exec {spec.words[0]} failed: {why}")


def _detach(pid: int, signum: int) -> None:
    """Let a process go on that has made us its tracer: we are no debugger, and it would stop at each of its signals.

    Args:
        pid: of a tracee that has stopped.
        signum: what it stopped for; it gets that now, but for the SIGTRAP that tells a tracer of an exec (ptrace(2)).

    """
    try:
        import ctypes  # noqa: PLC0415  # a MiB, for what hardly ever happens
    except ImportError:
        # It ends by SIGKILL, and by nothing else.
        return
    passed_on = 0 if signum == signal.SIGTRAP else signum
    ctypes.CDLL(None).ptrace(_PTRACE_DETACH, pid, None, ctypes.c_void_p(passed_on))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Block every signal: one between fork and exec would be written into the pipe that child and parent share."""
    every_signal = signal.valid_signals()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, every_signal)
    try:
        yield
    finally:
        # Not SIG_SETMASK: the mask may have signals that Python does not know, and they are not to be touched.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, every_signal - mask)


def _run_and_end(run: Callable[[], None]) -> None:
    """Run this in a new child; never return, whatever happens."""
    status = 1
    try:
        run()
        status = 0
    finally:
        os._exit(status)


def _take_terminal() -> None:
    try:
        os.tcsetpgrp(0, os.getpgrp())
    except OSError as error:
        if error.errno not in _NO_TERMINAL:
            raise


def _execute(words: Sequence[str], environment: Mapping[str, str] | None) -> None:
    """Do what execvp(3) does, a script without an interpreter line included.

    Not `os.execvpe`, which imports a module on its way and so needs a descriptor that a child may no longer have.

    Raises:
        OSError: the last one, but "permission denied" in one folder counts more than "not found" in all others.

    """
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _candidates(words[0], os.environ if environment is None else environment):
        try:
            try:
                _exec(path, list(words), environment)
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                _exec("/bin/sh", ["sh", path, *words[1:]], environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            if "/" in words[0]:
                failure = error
        except PermissionError as error:
            failure = error
    raise failure


def _exec(path: str, words: list[str], environment: Mapping[str, str] | None) -> None:
    if environment is None:
        os.execv(path, words)
    else:
        os.execve(path, words, environment)


def _candidates(name: str, environment: Mapping[str, str]) -> list[str]:
    """Return the paths that execvp(3) tries."""
    if not name or "/" in name:
        return [name] if name else []
    return [os.path.join(folder, name) for folder in environment.get("PATH", os.defpath).split(":")]


def find_program(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the file that execvp(3) would execute, or None."""
    for path in _candidates(name, environment):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def raise_open_files(needed: int) -> None:
    """Make room for so many descriptors, here and in children, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    with contextlib.suppress(ValueError, OSError):
        possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
