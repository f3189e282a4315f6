"""Processes: the only place where children are started and reaped.

PID 1 reaps every child, so nothing else may wait for one: hence no `subprocess`.
"""

from __future__ import annotations

import errno
import os
import resource

from entrypoint.core.events import Exited, Reaped
from entrypoint.lean import contextlib, signal
from entrypoint.lean.collections import Callable, Collection, Iterator, Mapping, MappingProxyType, Sequence
from entrypoint.lean.libc import libc_functions
from entrypoint.lean.record import record

_STDERR = 2
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_PTRACE_DETACH = 17
"""From linux/ptrace.h."""
_NO_TERMINAL = frozenset({errno.ENOTTY, errno.ENXIO, errno.EBADF})
"""How tcsetpgrp(3) says that stdin is no terminal of ours; EBADF is a closed stdin. The program runs all the same."""


NOTHING: Mapping[int, int] = MappingProxyType({})


@record(frozen=True)
class SpawnSpec:
    """Everything about a new process except its signals."""

    argv: Sequence[str]
    environment: Mapping[str, str] | None
    """None for our own, byte for byte, including entries without `=` and names that occur twice."""
    descriptors: Sequence[int] = ()
    """Descriptors of ours that it inherits under the same numbers."""
    renumbered: Mapping[int, int] = NOTHING
    """Descriptors of ours that it inherits, by the numbers that they have there."""
    foreground: bool = False
    """Whether it becomes the foreground process group of the terminal on stdin, if there is one."""
    stderr: int | None = None
    """The descriptor that becomes its stderr; None for ours."""


class Processes:
    """The children, each by the number of its generation."""

    def __init__(
        self,
        prepare: Callable[[], None],
        complain: Callable[[str], None],
        signal_setup: tuple[Collection[int], Collection[int]] | None = None,
    ) -> None:
        """Begin without children.

        Args:
            prepare: restores the signals; runs in each forked child just before exec.
            complain: writes one line for the user; runs in a child that cannot exec.
            signal_setup: the signal mask and the signals to reset, if posix_spawn(3) can do with them what `prepare`
                does; None if not.

        """
        self._prepare = prepare
        self._complain = complain
        self._signal_setup = signal_setup
        self._pids: dict[int, int] = {}
        self._numbers: dict[int, int] = {}

    def spawn(self, number: int, spec: SpawnSpec) -> int:
        """Start a process in a process group of its own and return its pid.

        If the program cannot be executed, the child exits as tini does: 127 if it does not exist, 126 if it may not be
        executed, 1 for anything else.

        Raises:
            OSError: no process can be started now (fork(2)).

        """
        pid = self._spawned(spec) or self._forked(spec)
        self._add(number, pid)
        return pid

    def fork(self, number: int, run: Callable[[], None]) -> int:
        """Start a copy of this process that calls `run` and exits; return its pid.

        Raises:
            OSError: no process can be started now (fork(2)).

        """
        with undisturbed():
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    run()
                    status = 0
                finally:
                    os._exit(status)
        self._add(number, pid)
        return pid

    def _add(self, number: int, pid: int) -> None:
        try:
            self._pids[number] = pid
            self._numbers[pid] = number
        except MemoryError:
            # A child that is in no table would never be stopped.
            self._pids.pop(number, None)
            os.kill(pid, signal.SIGKILL)
            raise

    def _spawned(self, spec: SpawnSpec) -> int | None:
        """Start it by posix_spawn(3), or return None if only a fork will do.

        A fork copies our page tables and then most of the pages, and the child runs Python: 4 ms of CPU, up to half of
        haproxy's own start, and taken from the haproxy that serves. Only a forked child can take the terminal, ignore a
        signal that we catch, and write our message if exec fails.
        """
        if spec.foreground or self._signal_setup is None or spec.environment is None:
            return None
        program = find_program(spec.argv[0], spec.environment) if spec.argv else None
        if not program:
            return None
        # dup2 of a descriptor to itself makes it inheritable: glibc 2.29, musl 1.1.24, POSIX 2024.
        moves = [(os.POSIX_SPAWN_DUP2, one, one) for one in spec.descriptors]
        moves += [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in spec.renumbered.items()]
        if spec.stderr is not None:
            moves.append((os.POSIX_SPAWN_DUP2, spec.stderr, _STDERR))
        mask, reset = self._signal_setup
        spawn, argv, environment = os.posix_spawn, list(spec.argv), spec.environment
        try:
            return spawn(program, argv, environment, file_actions=moves, setpgroup=0, setsigmask=mask, setsigdef=reset)
        except (OSError, ValueError):
            return None

    def _forked(self, spec: SpawnSpec) -> int:
        with undisturbed():
            pid = os.fork()
            if pid == 0:
                self._become(spec)
        # Also done in the child. Here because a signal to the group may come before the child has run.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid

    def pids(self) -> dict[int, int]:
        """Return the pid of each number, for the next program."""
        return dict(self._pids)

    def restore(self, left: Mapping[int, int]) -> None:
        """Take over the children of the previous program."""
        self._pids.update(left)
        self._numbers.update({pid: number for number, pid in left.items()})

    def send(self, number: int, signum: int, *, to_group: bool = False) -> None:
        """Send a signal to a process that has not been reaped: its pid cannot be somebody else's.

        Raises:
            OSError: the kernel refuses.

        """
        pid = self._pids.get(number)
        if pid is not None:
            os.kill(-pid if to_group else pid, signum)

    def reap(self) -> Iterator[Exited | Reaped]:
        """Reap every process that has died. Let a process that made us its tracer (PTRACE_TRACEME) continue."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                # Without WUNTRACED only the stops of tracees are reported.
                _detach(pid, os.WSTOPSIG(status))
                continue
            number = self._numbers.pop(pid, None)
            if number is None:
                yield Reaped(pid)
            else:
                del self._pids[number]
                yield Exited(number, os.waitstatus_to_exitcode(status))

    def _become(self, spec: SpawnSpec) -> None:
        status = 1
        try:
            os.setpgid(0, 0)
            if spec.foreground:
                _take_terminal()
            for descriptor in spec.descriptors:
                os.set_inheritable(descriptor, True)
            for theirs, ours in spec.renumbered.items():
                # dup2(2) of a descriptor to itself does nothing; posix_spawn(3) makes it inheritable.
                os.set_inheritable(os.dup2(ours, theirs), True)
            if spec.stderr is not None:
                os.dup2(spec.stderr, _STDERR)
            self._prepare()
            _execute(spec.argv, spec.environment)
        except ValueError as error:
            self._fail(spec, str(error))
        except OSError as error:
            self._fail(spec, error.strerror)
            status = {errno.ENOENT: _NOT_FOUND, errno.EACCES: _NOT_EXECUTABLE}.get(error.errno or 0, 1)
        finally:
            os._exit(status)

    def _fail(self, spec: SpawnSpec, why: str | None) -> None:
        # If nobody reads stderr any more, SIGPIPE must not replace the exit status.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._complain(f"exec {spec.argv[0]} failed: {why}")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Block every signal: a handler between fork and exec would write into the pipe that child and parent share.

    What is raised meanwhile arrives afterwards, or stays pending through an exec.
    Whatever needs memory comes before: a PID 1 that has none in the middle must not stay deaf to every signal. An
    iterator needs none when it is read, and pthread_sigmask() acts before it makes the set that it returns.
    """
    every_signal = signal.valid_signals()
    # Not the old mask with SIG_SETMASK: that would clear blocked signals that Python does not know.
    unblocked = iter(every_signal - signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, every_signal)
        yield
    finally:
        try:  # noqa: SIM105  # suppress() needs memory
            signal.pthread_sigmask(signal.SIG_UNBLOCK, unblocked)
        except MemoryError:
            pass


def _detach(pid: int, signum: int) -> None:
    """Stop tracing a process that made us its tracer and has stopped: it would stop at each of its signals.

    It gets the signal that it stopped for, except the SIGTRAP that reports an exec (ptrace(2)).
    """
    try:
        ptrace, _ = libc_functions("ptrace")
    except OSError:
        # It stays stopped; only SIGKILL ends it.
        return
    ptrace(_PTRACE_DETACH, pid, 0, 0 if signum == signal.SIGTRAP else int(signum))


def _take_terminal() -> None:
    try:
        os.tcsetpgrp(0, os.getpgrp())
    except OSError as error:
        if error.errno not in _NO_TERMINAL:
            raise


def _execute(argv: Sequence[str], environment: Mapping[str, str] | None) -> None:
    """Do what execvp(3) does, including a script without an interpreter line; raise the OSError that counts.

    "Permission denied" in one folder counts more than "not found" in all others. Not `os.execvpe`: it imports a module,
    and the child may have no descriptor left for that.
    """
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _candidates(argv[0], os.environ if environment is None else environment):
        try:
            try:
                _exec(path, list(argv), environment)
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                _exec("/bin/sh", ["sh", path, *argv[1:]], environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            if "/" in argv[0]:
                failure = error
        except PermissionError as error:
            failure = error
    raise failure


def _exec(path: str, argv: list[str], environment: Mapping[str, str] | None) -> None:
    if environment is None:
        os.execv(path, argv)
    else:
        os.execve(path, argv, environment)


def _candidates(name: str, environment: Mapping[str, str]) -> list[str]:
    """Return the paths that execvp(3) tries, in its order."""
    if not name or "/" in name:
        return [name] if name else []
    return [os.path.join(folder, name) for folder in environment.get("PATH", os.defpath).split(":")]


def find_program(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the file that execvp(3) would execute, or None."""
    candidates = _candidates(name, environment)
    return next((path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def raise_open_files(needed: int) -> None:
    """Raise the limit of open descriptors to this number, or to the hard limit; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    with contextlib.suppress(ValueError, OSError):
        possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
