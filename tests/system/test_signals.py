"""Signals: what was inherited is found out and given back, and what arrives is not lost."""

import fcntl
import os
import pty
import resource
import signal
import socket
import struct
import sys
import tempfile
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from entrypoint.options.inheritance import Inheritance
from entrypoint.system import signals
from entrypoint.system.signals import (
    CATCHABLE,
    CAUGHT,
    OWN_DOING,
    SYNCHRONOUS,
    TERMINAL,
    Arrivals,
    Inherited,
    bits_of,
    inherited,
    restore,
    spawn_setup,
)
from tests.system.apart import apart, in_child
from tests.system.lives import Program, lives, signals_in, status_fields
from tests.waiting import eventually

FIRST, SECOND = signal.SIGRTMIN, signal.SIGRTMIN + 1
MANY = 5000
F_SETSIG = 10


def with_ignored(numbers: Iterable[int], work: Callable[[], Inherited]) -> Inherited:
    """Do something in a child in which these signals, and no others, are ignored."""

    def in_child() -> Inherited:
        for number in CATCHABLE:
            signal.signal(number, signal.SIG_IGN if number in numbers else signal.SIG_DFL)
        return work()

    return apart(in_child)


# ---- what was inherited --------------------------------------------------------------------------------------------

HIDDEN = (signal.SIGPIPE, signal.SIGXFSZ)


@pytest.mark.parametrize("ignored", [(), HIDDEN, (signal.SIGHUP, FIRST), (*TERMINAL, signal.SIGCHLD), tuple(CATCHABLE)])
def test_the_launcher_is_believed(ignored: tuple[int, ...]) -> None:
    """Mask and ignored signals are what it told, not what Python code found."""
    blocked = frozenset({signal.SIGHUP, FIRST})
    told = Inheritance(bits_of(blocked), bits_of(ignored))
    found = with_ignored((*HIDDEN, signal.SIGUSR1), lambda: inherited(told, frozenset({signal.SIGINT})))
    assert found == Inherited(blocked, frozenset(ignored))


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,), (signal.SIGINT, signal.SIGCHLD, FIRST, signal.SIGRTMAX)])
def test_without_a_launcher_what_can_be_seen_is_seen(ignored: tuple[int, ...]) -> None:
    """Then SIGPIPE and SIGXFSZ, which CPython ignores itself, count as not ignored."""
    mask = frozenset({signal.SIGINT})
    assert with_ignored((*HIDDEN, *ignored), lambda: inherited(None, mask)) == Inherited(mask, frozenset(ignored))


def test_every_bit_is_every_signal_that_there_is() -> None:
    """SIGKILL, SIGSTOP and the C library's own two are not among them."""
    found = inherited(Inheritance(0xFFFFFFFFFFFFFFFF, 0), frozenset())
    assert found.blocked == CATCHABLE
    assert not found.blocked & {signal.SIGKILL, signal.SIGSTOP, 32, 33}


# ---- what arrives --------------------------------------------------------------------------------------------------


def by_another(*numbers: int) -> None:
    """Send this process signals from a child of its own."""
    process = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for number in numbers:
            os.kill(process, number)
        os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("ignored", [frozenset(), CATCHABLE], ids=["nothing", "everything"])
@in_child
def test_every_signal_is_caught_or_left_for_a_reason(ignored: frozenset[int]) -> None:
    """What may be our own doing, and the terminal's two, are blocked, our own faults' left, and all others caught."""
    parts = (CAUGHT, SYNCHRONOUS, TERMINAL, OWN_DOING)
    assert sorted(CATCHABLE) == sorted(number for part in parts for number in part)
    for number in CATCHABLE:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, CATCHABLE)
    arrivals = Arrivals()
    fields = status_fields("self")
    assert arrivals.fileno() > 2
    assert signals_in(fields["SigCgt"]) == CAUGHT
    assert signals_in(fields["SigIgn"]) == ignored - CAUGHT
    assert signals_in(fields["SigBlk"]) == OWN_DOING | TERMINAL


@pytest.mark.parametrize("ignored", [frozenset(), CATCHABLE], ids=["nothing", "everything"])
@in_child
def test_each_signal_arrives(ignored: frozenset[int]) -> None:
    """Each one that others may send is reported by its number, ignored by our parent or not."""
    for number in CATCHABLE:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    arrivals = Arrivals()
    found: list[int] = []
    for number in sorted(CATCHABLE - SYNCHRONOUS):
        by_another(number)
        found += {number} & set(all_of(arrivals))
    assert found == sorted(CAUGHT | OWN_DOING)


@in_child
def test_the_order_is_that_of_arrival() -> None:
    """A signal that comes twice is reported twice, where it came: a second TERM is another wish than the first."""
    order = [signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, FIRST, signal.SIGHUP, FIRST, signal.SIGTERM]
    arrivals = Arrivals()
    for number in order:
        signal.raise_signal(number)
    assert all_of(arrivals) == order


def break_a_pipe() -> None:
    """Write to it when nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")


def break_a_socket() -> None:
    """Send when the other end is closed."""
    one, other = socket.socketpair()
    other.close()
    with pytest.raises(BrokenPipeError):
        one.send(b"x")


def fill_a_file() -> None:
    """Write beyond RLIMIT_FSIZE."""
    with tempfile.TemporaryFile() as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="File too large"):
            os.write(file.fileno(), b"x")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def use_up_the_cpu() -> None:
    """Go on beyond the soft limit."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1, resource.RLIM_INFINITY))
    await_pending(signal.SIGXCPU)


def run_out_of(timer: int) -> Callable[[], None]:
    """Use the CPU until a timer that counts it goes off."""

    def work() -> None:
        signal.setitimer(timer, 0.001)
        await_pending(signal.SIGVTALRM if timer == signal.ITIMER_VIRTUAL else signal.SIGPROF)

    return work


def have_something_to_read(number: int) -> Callable[[], None]:
    """A process that shares a file description with us can choose the owner and the signal of SIGIO: fcntl(2)."""

    def work() -> None:
        one, other = socket.socketpair()
        fcntl.fcntl(one, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(one, F_SETSIG, number)
        fcntl.fcntl(one, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        other.send(b"x")
        await_pending(number or signal.SIGIO)

    return work


def have_urgent_data() -> None:
    """Own a connection that gets urgent data."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        ours, _ = listener.accept()
        fcntl.fcntl(ours, fcntl.F_SETOWN, os.getpid())
        client.send(b"x", socket.MSG_OOB)
        await_pending(signal.SIGURG)


def await_pending(number: int) -> None:
    """Use the CPU until the kernel has sent it."""
    while number not in signal.sigpending():
        pass


@pytest.mark.parametrize(
    ("number", "do"),
    [
        pytest.param(signal.SIGPIPE, break_a_pipe, id="PIPE of a pipe"),
        pytest.param(signal.SIGPIPE, break_a_socket, id="PIPE of a socket"),
        pytest.param(signal.SIGXFSZ, fill_a_file, id="XFSZ"),
        pytest.param(signal.SIGXCPU, use_up_the_cpu, id="XCPU"),
        pytest.param(signal.SIGVTALRM, run_out_of(signal.ITIMER_VIRTUAL), id="VTALRM"),
        pytest.param(signal.SIGPROF, run_out_of(signal.ITIMER_PROF), id="PROF"),
        pytest.param(signal.SIGIO, have_something_to_read(0), id="IO"),
        pytest.param(signal.SIGIO, have_something_to_read(signal.SIGIO), id="IO by name"),
        pytest.param(signal.SIGURG, have_urgent_data, id="URG"),
    ],
)
@in_child
def test_what_the_kernel_sends_for_our_own_doing_does_not_arrive(number: int, do: Callable[[], None]) -> None:
    """It was pending, and is taken and not reported; the same signal from somebody else is."""
    arrivals = Arrivals()
    do()
    assert number in signal.sigpending()
    own = all_of(arrivals)
    left = number in signal.sigpending()
    by_another(number)
    assert own == []
    assert not left
    assert [one for one in all_of(arrivals) if one != signal.SIGCHLD] == [number]


@in_child
def test_our_own_doing_does_not_hide_what_another_sends_at_the_same_time() -> None:
    """A write of ours that fails is this thread's, what is sent to the process is pending beside it."""
    arrivals = Arrivals()
    break_a_pipe()
    fill_a_file()
    by_another(signal.SIGPIPE, signal.SIGXFSZ)
    assert [one for one in all_of(arrivals) if one != signal.SIGCHLD] == [signal.SIGPIPE, signal.SIGXFSZ]


@in_child
def test_an_alarm_set_before_the_exec_arrives() -> None:
    """`perl -e 'alarm 9; exec @ARGV'` limits a program's time: the kernel's SIGALRM is not of our own making."""
    arrivals = Arrivals()
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    assert eventually(lambda: all_of(arrivals)) == [signal.SIGALRM]


@in_child
def test_what_a_terminal_sends_arrives() -> None:
    """HUP, CONT, INT, QUIT, TSTP and WINCH come from the kernel, too, and are meant for whoever is in front of it."""
    keyboard, screen = pty.openpty()
    os.setsid()
    fcntl.ioctl(screen, termios.TIOCSCTTY, 0)
    arrivals = Arrivals()
    found: set[int] = set()

    def await_arrival(*numbers: int) -> None:
        def arrived() -> bool:
            found.update(all_of(arrivals))
            return found >= set(numbers)

        eventually(arrived)

    os.write(keyboard, b"\x03\x1c")
    fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("4H", 10, 20, 0, 0))
    await_arrival(signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
    os.write(keyboard, b"\x1a")
    await_arrival(signal.SIGTSTP)
    os.close(screen)
    os.close(keyboard)
    await_arrival(signal.SIGHUP, signal.SIGCONT)
    of_terminals = {signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGTSTP, signal.SIGHUP, signal.SIGCONT}
    assert found == of_terminals


@in_child
def test_what_came_before_is_not_lost() -> None:
    """A signal that was blocked since the start arrives as soon as it can be heard."""
    signal.pthread_sigmask(signal.SIG_BLOCK, CATCHABLE)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert set(Arrivals().read()) == {signal.SIGTERM, signal.SIGUSR1}


@in_child
def test_nothing_is_read_when_nothing_came() -> None:
    """Reading without an arrival neither waits nor fails."""
    assert list(Arrivals().read()) == []


def all_of(arrivals: Arrivals) -> list[int]:
    """Read until there is no more."""
    found: list[int] = []
    while numbers := list(arrivals.read()):
        found += numbers
    return found


@in_child
def test_thousands_of_real_time_signals_are_all_heard() -> None:
    """Of 5,000 signals that were queued while nobody listened, twice, none is lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, CATCHABLE)
    for _ in range(MANY):
        os.kill(os.getpid(), FIRST)
        os.kill(os.getpid(), SECOND)
    assert Counter(all_of(Arrivals())) == {FIRST: MANY, SECOND: MANY}


@in_child
def test_a_storm_from_another_process_is_all_heard() -> None:
    """A child that sends 5,000 signals as fast as it can is heard 5,000 times."""
    arrivals = Arrivals()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for _ in range(MANY):
            os.kill(parent, FIRST)
        os._exit(0)
    os.waitpid(pid, 0)
    assert all_of(arrivals).count(FIRST) == MANY


def open_descriptors() -> frozenset[int]:
    """Return our open descriptors, without the one that is needed to list them."""
    return frozenset(number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/dev/fd/{number}"))


@in_child
def test_the_descriptor_is_not_for_children() -> None:
    """haproxy does not inherit what wakes us."""
    before = open_descriptors()
    arrivals = Arrivals()
    new = open_descriptors() - before
    assert len(new) == 4
    assert arrivals.fileno() in new
    assert not any(os.get_inheritable(descriptor) for descriptor in new)


# ---- what is given back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [
        Inherited(frozenset(), frozenset()),
        Inherited(frozenset({signal.SIGTERM, FIRST}), frozenset({signal.SIGHUP, signal.SIGPIPE, signal.SIGRTMAX})),
        Inherited(CATCHABLE, CATCHABLE),
    ],
    ids=["nothing", "some", "everything"],
)
@in_child
def test_what_was_inherited_is_given_back(wanted: Inherited) -> None:
    """After everything was caught, mask and dispositions are exactly as wanted, and nothing is caught any more."""
    Arrivals()
    restore(wanted)
    fields = status_fields("self")
    assert signals_in(fields["SigBlk"]) == wanted.blocked
    assert signals_in(fields["SigIgn"]) == wanted.ignored
    assert signals_in(fields["SigCgt"]) == frozenset()


@pytest.mark.parametrize(
    "wanted",
    [
        Inherited(frozenset(), frozenset()),
        Inherited(frozenset({signal.SIGTERM, FIRST}), frozenset({signal.SIGTTOU, signal.SIGPIPE})),
        Inherited(CATCHABLE, CATCHABLE - CAUGHT),
    ],
    ids=["nothing", "some", "as much as possible"],
)
@in_child
def test_posix_spawn_gives_back_the_same(wanted: Inherited) -> None:
    """A child that is not forked, and so restores nothing itself, is born with mask and dispositions as wanted."""
    for number in CATCHABLE:
        as_inherited = signal.SIG_IGN if number in {*wanted.ignored, *HIDDEN} else signal.SIG_DFL
        signal.signal(number, as_inherited)
    found = spawn_setup(wanted)
    Arrivals()
    assert found is not None
    mask, reset = found
    # While the child has our memory, no signal may find our handler there. glibc sees to that itself, musl may not.
    assert reset == CATCHABLE - wanted.ignored
    reader, writer = os.pipe()
    moves = [(os.POSIX_SPAWN_DUP2, writer, 1)]
    words = ["cat", "/proc/self/status"]
    os.posix_spawn("/bin/cat", words, {}, file_actions=moves, setsigmask=mask, setsigdef=reset)
    os.close(writer)
    with open(reader) as output:
        fields = dict(line.rstrip("\n").split(":", 1) for line in output)
    assert signals_in(fields["SigBlk"].strip()) == wanted.blocked
    assert signals_in(fields["SigIgn"].strip()) == wanted.ignored


@pytest.mark.parametrize(
    ("number", "is_ignored"), [*((n, True) for n in sorted(CAUGHT)), (signal.SIGPIPE, False), (signal.SIGTTIN, False)]
)
@in_child
def test_signals_that_posix_spawn_cannot_ignore_are_reported(number: int, is_ignored: bool) -> None:
    """A signal that is caught here, or was by an older version, can be ignored in a child only by a fork."""
    for one in CATCHABLE:
        signal.signal(one, signal.SIG_IGN if one == number and is_ignored else signal.SIG_DFL)
    assert spawn_setup(Inherited(frozenset(), frozenset({number}))) is None


LACKS_MEMORY_ONCE = """
from entrypoint.__main__ import main
from entrypoint.pid1.init_mode import InitMode
right, lacks = InitMode._log, iter([True])
def log(self, level, event, message, **fields):
    if event == "forwarded" and next(lacks, False):
        raise MemoryError
    right(self, level, event, message, **fields)
InitMode._log = log
main()
"""


def test_a_signal_that_cannot_be_forwarded_for_want_of_memory_is_forwarded_later() -> None:
    """Also if there is no memory for the line that says so."""
    with lives(Program((sys.executable, "-c", LACKS_MEMORY_ONCE))) as start:
        life = start("-s", "--", "sleep", "300")
        life.main("sleep", "300")
        life.popen.send_signal(signal.SIGTERM)
        assert life.status() == 128 + signal.SIGTERM


# ---- prctl(2) ------------------------------------------------------------------------------------------------------


@in_child
def test_a_subreaper_is_a_reaper() -> None:
    """A process becomes the one to which orphans go, and knows it."""
    before = signals.is_reaper()
    signals.become_subreaper()
    assert not before
    assert signals.is_reaper()


@in_child
def test_the_parents_death_is_signalled() -> None:
    """A process that asked for it gets the signal when its parent dies."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        ready, go = os.pipe()
        if os.fork() == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
            signals.set_parent_death_signal(signal.SIGUSR2)
            os.write(go, b"x")
            found = signal.sigtimedwait({signal.SIGUSR2}, 20)
            os.write(writer, b"signalled" if found else b"not signalled")
            os._exit(0)
        os.read(ready, 1)
        os._exit(0)
    assert os.read(reader, 100).decode() == "signalled"


def test_new_privileges_are_forbidden() -> None:
    """The kernel shows the flag, and a child has it, too."""

    def work() -> tuple[str, str]:
        signals.forbid_new_privileges()
        return status_fields("self")["NoNewPrivs"], apart(lambda: status_fields("self")["NoNewPrivs"])

    assert apart(work) == ("1", "1")


@pytest.mark.skipif(os.getuid() != 0, reason="who has no capabilities cannot drop any")
@in_child
def test_all_capabilities_but_a_few_are_dropped() -> None:
    """What was named is left, in every set, and all else is gone for ever."""
    setuid, net_bind_service = 7, 10
    signals.keep_capabilities("net_bind_service", "setuid")
    fields = status_fields("self")
    few = f"{1 << setuid | 1 << net_bind_service:016x}"
    assert [fields[name] for name in ("CapEff", "CapPrm", "CapBnd")] == [few] * 3
    assert fields["CapInh"] == f"{0:016x}"


@in_child
def test_dropping_capabilities_without_any_is_no_error() -> None:
    """Without root nothing is left to drop."""
    if os.getuid() == 0:
        os.setuid(65534)
    signals.keep_capabilities("net_bind_service")
    assert status_fields("self")["CapEff"] == f"{0:016x}"


@in_child
def test_the_process_can_be_found_by_its_name() -> None:
    """pgrep finds the name."""
    signals.set_name("safe_reload")
    assert status_fields("self")["Name"] == "safe_reload"
