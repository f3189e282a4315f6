"""Signals: what was inherited is found out and given back, and what arrives is not lost."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from entrypoint.system import signals
from entrypoint.system.signals import (
    CATCHABLE,
    CAUGHT,
    SYNCHRONOUS,
    TERMINAL,
    Arrivals,
    Inherited,
    inherited,
    owed,
    restore,
)
from tests.system.apart import apart
from tests.system.lives import signals_in, status_fields

FIRST, SECOND = signal.SIGRTMIN, signal.SIGRTMIN + 1
MANY = 5000


def bits(*numbers: int) -> str:
    """Write signals as proc(5) writes them."""
    return f"{sum(1 << (number - 1) for number in numbers):016x}"


def with_ignored(numbers: Iterable[int], work: Callable[[], Inherited]) -> Inherited:
    """Do something in a child in which these signals, and no others, are ignored."""

    def in_child() -> Inherited:
        for number in CATCHABLE:
            signal.signal(number, signal.SIG_IGN if number in numbers else signal.SIG_DFL)
        return work()

    return apart(in_child)


# ---- what was inherited --------------------------------------------------------------------------------------------


def test_the_launchers_note_is_believed_for_the_mask() -> None:
    """The mask is the note's, not the one that Python code found."""
    note = {"SAFE_RELOAD_INHERITED": f"{bits(signal.SIGHUP, FIRST)}:{bits()}"}
    found = with_ignored((), lambda: inherited(note, frozenset({signal.SIGINT})))
    assert found == Inherited(frozenset({signal.SIGHUP, FIRST}), frozenset())


@pytest.mark.parametrize("noted", [(), (signal.SIGPIPE,), (signal.SIGXFSZ,), (signal.SIGPIPE, signal.SIGXFSZ)])
def test_the_launchers_note_tells_what_python_hides(noted: tuple[int, ...]) -> None:
    """SIGPIPE and SIGXFSZ, which CPython ignores itself, were ignored only if the note says so."""
    note = {"SAFE_RELOAD_INHERITED": f"{bits()}:{bits(*noted)}"}
    found = with_ignored((signal.SIGPIPE, signal.SIGXFSZ), lambda: inherited(note, frozenset()))
    assert found.ignored == frozenset(noted)


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,), (signal.SIGINT, signal.SIGCHLD, FIRST, signal.SIGRTMAX)])
@pytest.mark.parametrize("noted", [False, True])
def test_what_is_ignored_is_seen(ignored: tuple[int, ...], noted: bool) -> None:
    """All other dispositions are found, real-time signals included, whether there is a note or not."""
    note = {"SAFE_RELOAD_INHERITED": f"{bits()}:{bits(*ignored)}"} if noted else {}
    assert with_ignored(ignored, lambda: inherited(note, frozenset())).ignored == frozenset(ignored)


@pytest.mark.parametrize("noted", [(), (signal.SIGTTIN,), (signal.SIGTTIN, signal.SIGTTOU)])
def test_after_an_upgrade_our_own_refusal_of_the_terminals_signals_is_not_inherited(noted: tuple[int, ...]) -> None:
    """Our last life has ignored them, and its note says what they were before."""
    note = {"SAFE_RELOAD_INHERITED": f"{bits()}:{bits(*noted)}"}
    assert with_ignored(tuple(TERMINAL), lambda: inherited(note, frozenset())).ignored == frozenset(noted)


@pytest.mark.parametrize("note", ["", ":", "x", "0", "0:0:0", "0:x", "0 0"])
def test_without_a_usable_note_the_mask_is_the_one_that_was_found(note: str) -> None:
    """Then the mask is what Python code saw first, and SIGPIPE and SIGXFSZ count as not ignored."""
    hidden = (signal.SIGPIPE, signal.SIGXFSZ)
    mask = frozenset({signal.SIGINT})
    found = with_ignored(
        (*hidden, signal.SIGHUP), lambda: inherited({"SAFE_RELOAD_INHERITED": note} if note else {}, mask)
    )
    assert found == Inherited(mask, frozenset({signal.SIGHUP}))


def test_a_note_of_every_bit_is_every_signal_that_there_is() -> None:
    """SIGKILL, SIGSTOP and the C library's own two are not among them."""
    found = inherited({"SAFE_RELOAD_INHERITED": "ffffffffffffffff:0"}, frozenset())
    assert found.blocked == CATCHABLE
    assert not found.blocked & {signal.SIGKILL, signal.SIGSTOP, 32, 33}


# ---- what arrives --------------------------------------------------------------------------------------------------


def test_every_signal_is_caught_or_left_for_a_reason() -> None:
    """What the kernel sends for our own faults keeps its default, the terminal's two are ignored, all others arrive."""
    assert CAUGHT | SYNCHRONOUS | TERMINAL == CATCHABLE
    assert not CAUGHT & (SYNCHRONOUS | TERMINAL)

    def work() -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
        for number in CATCHABLE:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, CATCHABLE)
        arrivals = Arrivals()
        fields = status_fields("self")
        assert arrivals.fileno() > 2
        return signals_in(fields["SigCgt"]), signals_in(fields["SigIgn"]), signals_in(fields["SigBlk"])

    caught, ignored, blocked = apart(work)
    assert caught == CAUGHT
    assert ignored == TERMINAL
    assert blocked == frozenset()


def test_each_caught_signal_arrives() -> None:
    """Each one that can be caught is reported by its number, in the order in which they were sent."""

    def work() -> list[int]:
        arrivals = Arrivals()
        for number in sorted(CAUGHT, reverse=True):
            os.kill(os.getpid(), number)
        return list(arrivals.read())

    assert apart(work) == sorted(CAUGHT, reverse=True)


def test_the_order_is_that_of_arrival() -> None:
    """A signal that comes twice is reported twice, where it came."""
    order = [signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, FIRST, signal.SIGHUP, FIRST]

    def work() -> list[int]:
        arrivals = Arrivals()
        for number in order:
            signal.raise_signal(number)
        return list(arrivals.read())

    assert apart(work) == order


def test_what_came_before_is_not_lost() -> None:
    """A signal that was blocked since the start arrives as soon as it can be heard."""

    def work() -> set[int]:
        signal.pthread_sigmask(signal.SIG_BLOCK, CATCHABLE)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        return set(Arrivals().read())

    assert apart(work) == {signal.SIGTERM, signal.SIGUSR1}


def test_nothing_is_read_when_nothing_came() -> None:
    """Reading without an arrival neither waits nor fails."""

    def work() -> list[int]:
        return list(Arrivals().read())

    assert apart(work) == []


def all_of(arrivals: Arrivals) -> list[int]:
    """Read until there is no more."""
    found: list[int] = []
    while numbers := list(arrivals.read()):
        found += numbers
    return found


def test_thousands_of_real_time_signals_are_all_heard() -> None:
    """Of 5,000 signals that were queued while nobody listened, twice, none is lost."""

    def work() -> Counter[int]:
        signal.pthread_sigmask(signal.SIG_BLOCK, CATCHABLE)
        for _ in range(MANY):
            os.kill(os.getpid(), FIRST)
            os.kill(os.getpid(), SECOND)
        return Counter(all_of(Arrivals()))

    assert apart(work) == {FIRST: MANY, SECOND: MANY}


def test_a_storm_from_another_process_is_all_heard() -> None:
    """A child that sends 5,000 signals as fast as it can is heard 5,000 times."""

    def work() -> int:
        arrivals = Arrivals()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for _ in range(MANY):
                os.kill(parent, FIRST)
            os._exit(0)
        os.waitpid(pid, 0)
        return all_of(arrivals).count(FIRST)

    assert apart(work) == MANY


def open_descriptors() -> frozenset[int]:
    """Return our open descriptors, without the one that is needed to list them."""
    return frozenset(number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/dev/fd/{number}"))


def test_the_pipe_is_not_for_children() -> None:
    """haproxy does not inherit our end of what wakes us."""

    def work() -> bool:
        before = open_descriptors()
        arrivals = Arrivals()
        new = open_descriptors() - before
        assert len(new) == 2
        assert arrivals.fileno() in new
        return any(os.get_inheritable(descriptor) for descriptor in new)

    assert apart(work) is False


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
def test_what_was_inherited_is_given_back(wanted: Inherited) -> None:
    """After everything was caught, mask and dispositions are exactly as wanted, and nothing is caught any more."""

    def work() -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
        Arrivals()
        restore(wanted)
        fields = status_fields("self")
        return signals_in(fields["SigBlk"]), signals_in(fields["SigIgn"]), signals_in(fields["SigCgt"])

    assert apart(work) == (wanted.blocked, wanted.ignored, frozenset())


@pytest.mark.parametrize(
    "wanted",
    [
        Inherited(frozenset(), frozenset()),
        Inherited(frozenset({signal.SIGTERM, FIRST}), frozenset({signal.SIGTTOU})),
        Inherited(CATCHABLE, TERMINAL),
    ],
    ids=["nothing", "some", "as much as possible"],
)
def test_posix_spawn_gives_back_the_same(wanted: Inherited) -> None:
    """A child that is not forked, and so restores nothing itself, is born with mask and dispositions as wanted."""

    def work() -> tuple[frozenset[int], frozenset[int]]:
        Arrivals()
        found = owed(wanted)
        assert found is not None
        mask, reset = found
        reader, writer = os.pipe()
        moves = [(os.POSIX_SPAWN_DUP2, writer, 1)]
        words = ["cat", "/proc/self/status"]
        os.posix_spawn("/bin/cat", words, {}, file_actions=moves, setsigmask=mask, setsigdef=reset)
        os.close(writer)
        with open(reader) as output:
            fields = dict(line.rstrip("\n").split(":", 1) for line in output)
        return signals_in(fields["SigBlk"].strip()), signals_in(fields["SigIgn"].strip())

    assert apart(work) == (wanted.blocked, wanted.ignored)


@pytest.mark.parametrize("signum", sorted(CAUGHT))
def test_what_posix_spawn_cannot_have_ignored_is_told(signum: int) -> None:
    """What is caught here can be reset in a child, and not ignored: that takes a fork."""
    assert owed(Inherited(frozenset(), frozenset({signum}))) is None


# ---- prctl(2) ------------------------------------------------------------------------------------------------------


def test_a_subreaper_is_a_reaper() -> None:
    """A process becomes the one to which orphans go, and knows it."""

    def work() -> tuple[bool, bool]:
        before = signals.is_reaper()
        signals.become_subreaper()
        return before, signals.is_reaper()

    assert apart(work) == (False, True)


def test_the_parents_death_is_signalled() -> None:
    """A process that asked for it gets the signal when its parent dies."""

    def work() -> str:
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
        return os.read(reader, 100).decode()

    assert apart(work) == "signalled"


def test_new_privileges_are_forbidden() -> None:
    """The kernel shows the flag, and a child has it, too."""

    def work() -> tuple[str, str]:
        signals.forbid_new_privileges()
        return status_fields("self")["NoNewPrivs"], apart(lambda: status_fields("self")["NoNewPrivs"])

    assert apart(work) == ("1", "1")


@pytest.mark.skipif(os.getuid() != 0, reason="who has no capabilities cannot drop any")
def test_all_capabilities_but_a_few_are_dropped() -> None:
    """What was named is left, in every set, and all else is gone for ever."""
    setuid, net_bind_service = 7, 10

    def work() -> dict[str, str]:
        signals.keep_capabilities("net_bind_service", "setuid")
        fields = status_fields("self")
        return {name: fields[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")}

    few = f"{1 << setuid | 1 << net_bind_service:016x}"
    assert apart(work) == {"CapEff": few, "CapPrm": few, "CapBnd": few, "CapInh": f"{0:016x}"}


def test_capabilities_can_be_dropped_by_who_has_none() -> None:
    """Without root nothing is left to drop, and that is no error."""

    def work() -> str:
        if os.getuid() == 0:
            os.setuid(65534)
        signals.keep_capabilities("net_bind_service")
        return status_fields("self")["CapEff"]

    assert apart(work) == f"{0:016x}"


def test_the_process_can_be_found_by_its_name() -> None:
    """pgrep finds the name."""

    def work() -> str:
        signals.set_name("safe_reload")
        return status_fields("self")["Name"]

    assert apart(work) == "safe_reload"
