"""A generation with QUIC leaves only once its handshakes are finished, and nobody waits for them for long."""

import signal

import pytest

from entrypoint.core import retiring
from entrypoint.core.effects import (
    Ask,
    AskHandshakes,
    CloseVips,
    Effect,
    Listen,
    ReadDatagrams,
    Reply,
    Send,
    Tell,
)
from entrypoint.core.events import (
    Answered,
    Began,
    Clock,
    Disk,
    Elapsed,
    Event,
    Exited,
    ReloadAsked,
    Request,
    Seen,
    Signalled,
    Timer,
    Unanswered,
    Why,
)
from entrypoint.core.notices import Promoted
from entrypoint.core.state import HANDSHAKES_WITHIN, Current, Draining, Generation, Retiring, State, timers
from entrypoint.core.upgrade_state import restore, serialize
from entrypoint.haproxy.runtime_api import Bind
from entrypoint.lean.level import Level
from tests.core.world import OFF, finished, happens, listening, logged, pid_of, settings, starts

VIPS = (("FD_TCP", 3), ("FD_QUIC", 4), ("FD_SHARED", 5))
OWN = frozenset({4})
"""The VIPs of which each generation has its own socket; 5 is a passed UDP socket that all share."""
CLEAN, BUSY, CUT_OFF = finished(pid_of(1)), finished(pid_of(1), 2), finished(pid_of(1)).partition("Pid: ")[0]
CHOSEN = settings(watch=OFF)


def answer(number: int, bound: tuple[int, ...] = (3, 4), quic: tuple[int, ...] = (4,), others: int = 0) -> Answered:
    """Have a candidate answer that it listens on these VIPs."""
    return Answered(number, listening(pid_of(number), bound=bound, quic=quic, others=others))


def current(bound: tuple[int, ...] = (3, 4), quic: tuple[int, ...] = (4,)) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after generation 1 has become current, and the effects of that."""
    state, _ = happens(State(CHOSEN), Began(VIPS, OWN))
    return happens(starts(state, 1), answer(1, bound, quic))


def followed(bound: tuple[int, ...] = (3, 4), quic: tuple[int, ...] = (4,)) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after generation 2 has followed generation 1, and the effects of that."""
    state, _ = happens(current(bound, quic)[0], ReloadAsked(Request("a client", 7)))
    return happens(starts(state, 2), answer(2, bound, quic))


def old(state: State) -> Generation:
    """Return generation 1."""
    found = state.find(1)
    assert found
    return found


def ask_again(state: State) -> Event:
    """Return the timer that asks once more."""
    return Elapsed(next(timer for timer in timers(state) if timer.clock is Clock.ASK_AGAIN and timer.number == 1))


def hear(state: State, *texts: str) -> tuple[State, tuple[Effect, ...]]:
    """Have generation 1 answer one question after the other; an empty text is no answer."""
    effects: tuple[Effect, ...] = ()
    for number, text in enumerate(texts):
        if number:
            state, effects = happens(state, ask_again(state))
            assert effects == (AskHandshakes(1),)
        state, effects = happens(state, Answered(1, text) if text else Unanswered(1))
    return state, effects


def lets_go(state: State, effects: tuple[Effect, ...]) -> bool:
    """Tell whether generation 1 has just begun to let go of its VIPs."""
    asked = any(isinstance(effect, Ask) and effect.number == 1 for effect in effects)
    phase = old(state).phase
    return asked and isinstance(phase, Retiring) and not phase.handshakes


def test_the_old_one_is_asked_for_its_handshakes_before_it_is_paused() -> None:
    """It still accepts, and its successor reads the datagrams already."""
    state, effects = followed()
    assert old(state).phase == Retiring(handshakes=True)
    assert AskHandshakes(1) in effects
    assert not any(isinstance(effect, Ask | Send) for effect in effects)
    reads = ReadDatagrams(2, pid_of(2), ("FD_TCP", "FD_QUIC"), (804,), 1)
    assert effects.index(reads) < effects.index(AskHandshakes(1))


def test_nothing_waits_before_there_is_an_old_one() -> None:
    """The first generation reads all datagrams of the VIPs that it binds; so does one that is told nothing of them."""
    _, effects = current()
    assert ReadDatagrams(1, pid_of(1), ("FD_TCP", "FD_QUIC"), (804,), 0) in effects
    state, _ = happens(State(CHOSEN), Began(VIPS, OWN))
    text = listening(pid_of(1), bound=(3,)).replace("Listeners: 2", "Listeners: 3")
    _, effects = happens(starts(state, 1), Answered(1, text))
    assert ReadDatagrams(1, pid_of(1), ("FD_TCP", "FD_QUIC", "FD_SHARED"), (), 0) in effects


def test_the_promotion_is_told_before_datagrams_are_read() -> None:
    """What is logged of the sockets follows the line that says which generation is current."""
    _, effects = followed()
    told = next(n for n, one in enumerate(effects) if isinstance(one, Tell) and isinstance(one.notice, Promoted))
    assert told < next(n for n, one in enumerate(effects) if isinstance(one, ReadDatagrams))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([CLEAN], False),
        ([CLEAN, CLEAN], True),
        ([BUSY, CLEAN], False),
        ([CLEAN, BUSY, CLEAN], False),
        ([CLEAN, BUSY, CLEAN, CLEAN], True),
        ([CLEAN, CUT_OFF, CLEAN], False),
        ([CUT_OFF, CUT_OFF, CUT_OFF], False),
        ([CLEAN, "", CLEAN], False),
        (["", CLEAN, CLEAN], True),
        (["", "", ""], False),
        ([BUSY] * 50, False),
        (["Unknown command\n\n" + CLEAN] * 2, True),
    ],
)
def test_it_lets_go_after_two_answers_without_a_handshake(texts: list[str], expected: bool) -> None:
    """In a row: haproxy may have read a first packet, or be about to accept. No answer, and half of one, are none."""
    state, effects = hear(followed()[0], *texts)
    assert lets_go(state, effects) == expected
    if not expected:
        assert effects == ()
        assert state.retiring


def test_it_is_asked_less_and_less_often() -> None:
    """A handshake takes some round trips; an old generation is not kept busy with questions."""
    state, pauses = followed()[0], []
    for _ in range(8):
        state, _ = hear(state, BUSY)
        pauses += [pause for timer, pause in timers(state).items() if timer.clock is Clock.ASK_AGAIN]
        state, _ = happens(state, ask_again(state))
    assert pauses == sorted(pauses)
    assert 0.01 <= pauses[0] < pauses[-1] < HANDSHAKES_WITHIN / 4


def test_one_that_was_asked_is_not_asked_again_before_it_has_answered() -> None:
    """The only timer is then the one that ends the waiting."""
    assert [timer.clock for timer in timers(followed()[0]) if timer.number == 1] == [Clock.HANDSHAKES]


@pytest.mark.parametrize("texts", [[], [BUSY], [CLEAN, ""]])
def test_handshakes_that_do_not_end_are_waited_for_no_longer(texts: list[str]) -> None:
    """A line says so, and the old one lets go."""
    state, _ = hear(followed()[0], *texts)
    assert timers(state)[Timer(Clock.HANDSHAKES, 1)] == HANDSHAKES_WITHIN
    state, effects = happens(state, Elapsed(Timer(Clock.HANDSHAKES, 1)))
    assert lets_go(state, effects)
    (line,) = [line for line in logged(effects) if line.event == "handshakes"]
    assert line.level is Level.INFO
    assert "has not finished its QUIC handshakes and datagrams within 1 s" in line.message
    assert Timer(Clock.HANDSHAKES, 1) not in timers(state)


def test_an_answer_that_comes_too_late_is_one_of_another_question() -> None:
    """It says nothing of the VIPs: the old one is asked about them again, or leaves as it is."""
    state, _ = happens(followed()[0], Elapsed(Timer(Clock.HANDSHAKES, 1)), Answered(1, CLEAN))
    assert old(state).phase != Retiring(handshakes=True)


@pytest.mark.parametrize("status", [0, -signal.SIGSEGV])
def test_an_old_one_that_dies_meanwhile_holds_up_nothing(status: int) -> None:
    """The reload is done, and the client is told."""
    state, effects = happens(followed()[0], Exited(1, status))
    assert not state.find(1)
    assert isinstance(state.current and state.current.phase, Current)
    assert [one.success for one in effects if isinstance(one, Reply)] == [True]
    assert any(isinstance(one, Listen) for one in effects)


def test_a_current_one_that_dies_meanwhile_is_replaced() -> None:
    """The old one goes on finishing, and leaves in its time."""
    state, _ = happens(followed()[0], Elapsed(Timer(Clock.SERVED, 2)), Exited(2, -signal.SIGSEGV))
    assert state.candidate
    state, effects = hear(state, CLEAN, CLEAN)
    assert lets_go(state, effects)


@pytest.mark.parametrize(("signum", "sent"), [(signal.SIGTERM, signal.SIGUSR1), (signal.SIGQUIT, signal.SIGTERM)])
def test_a_stop_does_not_wait_for_handshakes(signum: signal.Signals, sent: signal.Signals) -> None:
    """It is told to leave at once, as haproxy alone would."""
    state, effects = happens(followed()[0], Signalled(signum))
    assert CloseVips() in effects
    assert Send(1, sent) in effects
    assert not [timer for timer in timers(state) if timer.clock in {Clock.HANDSHAKES, Clock.ASK_AGAIN}]
    assert happens(state, Answered(1, CLEAN)) == (state, ())


def test_the_client_is_told_when_the_old_one_has_stopped_accepting() -> None:
    """Not while it still accepts TCP connections."""
    state, effects = followed()
    assert not any(isinstance(one, Reply) for one in effects)
    state, effects = hear(state, CLEAN, CLEAN)
    assert not any(isinstance(one, Reply) for one in effects)
    state, effects = happens(state, Answered(1, listening(pid_of(1), paused=True, polled=False)))
    assert [one.success for one in effects if isinstance(one, Reply)] == [True]
    assert old(state).phase == Draining()


def test_a_vip_with_a_socket_of_its_own_is_not_paused() -> None:
    """It gets nothing that is for the next generation, and still reads what it has."""
    _, effects = hear(followed()[0], CLEAN, CLEAN)
    (asked,) = [one for one in effects if isinstance(one, Ask)]
    assert asked.commands == ("disable frontend f3", "show info", "show fd 3")


def test_a_copy_of_a_tcp_socket_is_paused() -> None:
    """With `shards`; its descriptor is no VIP's, and yet it is the socket that the successor has."""
    copy = (
        listening(pid_of(1), bound=(14,))
        .partition("\n")[0]
        .replace("fe=f14", "fe=f3")
        .replace("lport=8014", "lport=803")
    )
    text = f"{copy}\n{listening(pid_of(1), bound=(3, 4), quic=(4,))}".replace("Listeners: 3", "Listeners: 4")
    state, _ = happens(State(CHOSEN), Began(VIPS, OWN))
    state, _ = happens(starts(state, 1), Answered(1, text))
    state, _ = happens(starts(happens(state, Signalled(signal.SIGUSR1))[0], 2), answer(2))
    _, effects = hear(state, CLEAN, CLEAN)
    (asked,) = [one for one in effects if isinstance(one, Ask)]
    assert asked.commands == ("disable frontend f3", "show info", "show fd 14", "show fd 3")


def test_a_shared_socket_is_paused() -> None:
    """Both generations would read it otherwise; until then the old one gets new handshakes, so it is not waited for."""
    state, effects = followed((4, 5), (4, 5))
    (asked,) = [one for one in effects if isinstance(one, Ask)]
    assert asked.commands == ("disable frontend f5", "show info", "show fd 5")
    assert old(state).binds == (Bind(5, "f5", datagrams=True),)


def test_one_with_datagrams_alone_drains_after_its_handshakes() -> None:
    """There is nothing to pause."""
    state, effects = hear(followed((4,), (4,))[0], CLEAN, CLEAN)
    assert effects[0] == Send(1, signal.SIGUSR1, effects[0].line)  # type: ignore[union-attr]
    assert old(state).phase == Draining()
    assert [one.success for one in effects if isinstance(one, Reply)] == [True]


def test_ordinary_quic_listeners_are_waited_for_as_well() -> None:
    """haproxy has bound them itself."""
    state, _ = happens(State(CHOSEN), Began(VIPS, OWN))
    text = listening(pid_of(1), bound=(3,), others=1, quic=(20,))
    state, _ = happens(starts(state, 1), Answered(1, text))
    assert state.current
    assert state.current.datagrams
    state, effects = happens(starts(happens(state, Signalled(signal.SIGUSR1))[0], 2), answer(2, (3,), ()))
    assert AskHandshakes(1) in effects
    assert lets_go(*hear(state, CLEAN, CLEAN))


def test_one_without_datagrams_is_paused_at_once() -> None:
    """As ever; its successor may have them."""
    state, _ = happens(current((3,), ())[0], Signalled(signal.SIGUSR1))
    state, effects = happens(starts(state, 2), answer(2))
    assert not any(isinstance(effect, AskHandshakes) for effect in effects)
    assert Ask(1, ("disable frontend f3", "show info", "show fd 3")) in effects
    assert Timer(Clock.HANDSHAKES, 1) not in timers(state)


def passed_over() -> tuple[State, tuple[Effect, ...]]:
    """Return the state after the files changed while generation 2 started."""
    state, _ = happens(State(settings()), Began(VIPS, OWN))
    state, _ = happens(starts(state, 1, "a"), answer(1), Seen(Why.CANDIDATE, Disk("a"), 1))
    state, _ = happens(state, Signalled(signal.SIGUSR1))
    return happens(starts(state, 2, "a"), answer(2), Seen(Why.CANDIDATE, Disk("b"), 2))


def test_a_candidate_that_is_passed_over_leaves_in_the_same_way() -> None:
    """Since it listens it may have clients; it never reads the datagrams of the one that serves."""
    state, effects = passed_over()
    assert not any(isinstance(effect, ReadDatagrams) for effect in effects)
    assert AskHandshakes(2) in effects
    assert state.current
    assert state.current.number == 1
    clean = Answered(2, finished(pid_of(2)))
    again = Elapsed(next(timer for timer in timers(state) if timer.number == 2))
    assert again.timer.clock is Clock.HANDSHAKES
    state, _ = happens(state, clean)
    again = Elapsed(next(timer for timer in timers(state) if timer.number == 2 and timer.clock is Clock.ASK_AGAIN))
    state, effects = happens(state, again, clean)
    assert Ask(2, ("disable frontend f3", "show info", "show fd 3")) in effects


def test_what_has_datagrams_is_known_after_an_upgrade() -> None:
    """The next program waits for the handshakes of what runs, and knows which sockets take turns."""
    state, _ = current()
    after = restore(CHOSEN, serialize(state))
    assert after.taking_turns == OWN
    assert after.current
    assert after.current.datagrams
    assert after.current.binds == (Bind(3, "f3"), Bind(4, "f4", datagrams=True))
    _, effects = retiring.retire(after, after.current)
    assert effects == (AskHandshakes(1),)
    without = restore(CHOSEN, serialize(current((3,), ())[0]))
    assert without.current
    assert not without.current.datagrams
