"""Files that the current generation takes while it runs: when they are given to it, and what each answer means."""

import signal

import pytest

from entrypoint.core import applying
from entrypoint.core.effects import Apply, Effect, Keep, Look, Reply, Spawn, Tell, Upgrade
from entrypoint.core.events import (
    Answered,
    Applied,
    Clock,
    Disk,
    Elapsed,
    Event,
    Exited,
    Learned,
    Rehearsed,
    Seen,
    Signalled,
    Spawned,
    Timer,
    UpgradeAsked,
    Why,
)
from entrypoint.core.notices import FilesApplied, FilesRefused, Recovered
from entrypoint.core.state import APPLY_WITHIN, BackingOff, Ended, Serving, State, Stopping, timers
from entrypoint.lean.record import replace
from entrypoint.options.settings import ApplyPolicy
from tests.core.explorer import explore
from tests.core.world import (
    APPLYING,
    HANGS,
    MIXED,
    OFF,
    begin,
    happens,
    listening,
    logged,
    outcomes,
    pid_of,
    settings,
)

FILES = ("map",)
B = Disk("b", applicable=True)
A = Disk("a")
BROKEN = Disk("b")
"""It has another configuration, too."""


def serving(number: int = 1, state: State | None = None, disk: Disk = A) -> State:
    """Return a state in which this generation has become current, from this disk, and the one before is gone."""
    listens = listening(pid_of(number), bound=(), others=1)
    events = (Seen(Why.START, disk, number), Spawned(number, pid_of(number)), Answered(number, listens))
    state, _ = happens(state or begin(APPLYING), *events, Seen(Why.CANDIDATE, disk, number))
    for old in state.generations:
        if old.number != number:
            state, _ = happens(state, Exited(old.number, 0))
    return state


def given(disk: Disk = B) -> State:
    """Return a state in which generation 1, which runs "a", is given what has changed."""
    state, effects = happens(serving(), Seen(Why.SETTLED, disk))
    assert effects == (Apply(1),)
    return state


def told(effects: tuple[Effect, ...]) -> list[object]:
    """Return what is told."""
    return [one.notice for one in effects if isinstance(one, Tell)]


def begins_a_reload(effects: tuple[Effect, ...]) -> bool:
    """Tell whether a candidate is begun."""
    return any(isinstance(one, Look) and one.why is Why.START for one in effects)


def _digest(state: State) -> str:
    return state.current.digest if state.current else "none"


# ---- what is applied -------------------------------------------------------------------------------------------------


def test_a_change_that_haproxy_can_take_is_no_reload() -> None:
    """It is told, and what runs has another digest; the disk is no news."""
    state, effects = happens(given(), Applied(1, B, "b", FILES, 0.006))
    assert told(effects) == [FilesApplied(1, FILES, 0.006, "files", "b")]
    assert not begins_a_reload(effects)
    assert _digest(state) == "b"
    state, effects = happens(state, Seen(Why.SETTLED, Disk("b")))
    assert effects == ()


@pytest.mark.parametrize(
    ("chosen", "disk"),
    [
        (settings(apply=ApplyPolicy.OFF), B),
        (APPLYING, BROKEN),
        (APPLYING, Disk("b", incomplete=("no key",))),
    ],
    ids=["switched off", "more has changed", "a key is missing"],
)
def test_other_changes_are_not_applied(chosen: object, disk: Disk) -> None:
    """They are a reload, or waited for."""
    state, effects = happens(serving(state=begin(chosen)), Seen(Why.SETTLED, disk))  # type: ignore[arg-type]
    assert not any(isinstance(one, Apply) for one in effects)
    assert begins_a_reload(effects) or state.patient


def test_the_last_known_good_one_is_given_nothing() -> None:
    """It does not run what is on disk but for a few files."""
    state = serving()
    assert state.current
    state, effects = happens(state.update(replace(state.current, kept=True)), Seen(Why.SETTLED, B))
    assert begins_a_reload(effects)


def test_a_generation_of_which_nothing_is_known_is_given_nothing() -> None:
    """There is no difference to give."""
    state = serving()
    assert state.current
    _, effects = happens(state.update(replace(state.current, digest="")), Seen(Why.SETTLED, B))
    assert begins_a_reload(effects)


def test_a_reload_that_is_asked_for_is_one() -> None:
    """Also if nothing else has changed than what could be applied."""
    state, _ = happens(serving(), Signalled(signal.SIGUSR1), Seen(Why.SETTLED, B))
    assert state.candidate
    assert not state.applying


def test_a_reload_whose_files_changed_meanwhile_goes_on_as_a_reload() -> None:
    """Files that never rest would otherwise be applied and reloaded in turns, for ever."""
    state, _ = happens(serving(), Seen(Why.SETTLED, BROKEN))
    c = Disk("c", applicable=True)
    ready = (Seen(Why.START, BROKEN, 2), Spawned(2, pid_of(2)), Answered(2, listening(pid_of(2), bound=(), others=1)))
    state, effects = happens(state, *ready, Seen(Why.CANDIDATE, c, 2))
    assert begins_a_reload(effects)
    assert not state.applying


def test_what_is_applied_is_the_last_known_good_one_if_that_was_what_ran() -> None:
    """A crash a moment later starts from the same files; what has not yet proved good is not kept."""
    _, effects = happens(given(), Applied(1, B, "b", FILES))
    assert Keep(1) in effects
    state = replace(given(), kept="older")
    state, effects = happens(state, Applied(1, B, "b", FILES))
    assert Keep(1) not in effects
    assert state.kept == "older"


# ---- what is not -----------------------------------------------------------------------------------------------------


def test_what_was_not_taken_is_a_reload_once() -> None:
    """The log says why; the same disk is not given again."""
    state, effects = happens(given(), Applied(1, B, problem="a.map: it has changed again"))
    assert begins_a_reload(effects)
    assert ["a.map: it has changed again" in line.message for line in logged(effects)][:1] == [True]
    state, effects = happens(state, Exited(2, 1), Seen(Why.START, B, 2), Seen(Why.SETTLED, B))
    assert not any(isinstance(one, Apply) for one in effects)


def test_a_refused_certificate_is_not_tried_again_until_the_disk_changes() -> None:
    """It is told as a failed reload; the old content is the end of the failure, and another one is given."""
    state, effects = happens(given(), Applied(1, B, problem="inconsistencies", refused=True))
    assert told(effects) == [FilesRefused(1, pid_of(1), "inconsistencies", "files")]
    assert not begins_a_reload(effects)
    assert happens(state, Seen(Why.SETTLED, B))[1] == ()
    back, effects = happens(state, Seen(Why.SETTLED, Disk("a")))
    assert told(effects) == [Recovered(1)]
    assert not back.failed
    _, effects = happens(state, Seen(Why.SETTLED, Disk("c", applicable=True)))
    assert effects == (Apply(1),)


def test_what_is_applied_ends_an_earlier_failure_and_nothing_else_does() -> None:
    """Another content was refused before, and is not on disk any more."""
    state, _ = happens(given(), Applied(1, B, problem="inconsistencies", refused=True))
    c = Disk("c", applicable=True)
    state, _ = happens(replace(state, retried="r", retries=2), Seen(Why.SETTLED, c))
    after, _ = happens(state, Applied(1, c, "c", FILES))
    assert (after.failed, after.retried, after.retries) == ("", "", 0)
    # It is again what it was before that: the next look says so.
    after, effects = happens(state, Applied(1, Disk("a")))
    assert (after.failed, after.retried, after.retries) == ("b", "r", 2)
    assert effects == ()
    assert told(happens(after, Seen(Why.SETTLED, Disk("a")))[1]) == [Recovered(1)]


def test_what_was_partly_taken_is_taken_back_with_the_disk() -> None:
    """The old content is a change then."""
    state, effects = happens(given(), Applied(1, B, MIXED, FILES, 0.1, "inconsistencies", refused=True))
    assert told(effects) == [
        FilesApplied(1, FILES, 0.1, "files", MIXED),
        FilesRefused(1, pid_of(1), "inconsistencies", "files"),
    ]
    _, effects = happens(state, Seen(Why.SETTLED, Disk("a", applicable=True)))
    assert effects == (Apply(1),)


@pytest.mark.parametrize(
    "lost", [Elapsed(Timer(Clock.APPLY, 1)), Applied(1, HANGS, problem="the reader died")], ids=["late", "dead"]
)
def test_after_a_lost_answer_the_old_content_is_not_what_runs(lost: Event) -> None:
    """haproxy may have taken some of it: a reload follows, and if that fails another one, for the old content."""
    state, effects = happens(given(), lost)
    assert begins_a_reload(effects)
    state, _ = happens(state, Seen(Why.START, BROKEN, 2), Spawned(2, pid_of(2)), Exited(2, 1))
    assert state.failed == "b"
    _, effects = happens(state, Seen(Why.SETTLED, Disk("a", applicable=True)))
    assert begins_a_reload(effects)
    assert told(effects)[:1] != [Recovered(1)]


def test_a_late_answer_still_says_what_runs() -> None:
    """The reload that has followed may fail."""
    state, _ = happens(given(), Elapsed(Timer(Clock.APPLY, 1)), Seen(Why.START, BROKEN, 2))
    state, effects = happens(state, Applied(1, B, "b", FILES, 12.0))
    assert _digest(state) == "b"
    assert told(effects) == [FilesApplied(1, FILES, 12.0, "files", "b")]
    assert not begins_a_reload(effects)
    # Its look at the disk is older than the reload's.
    assert state.disk == BROKEN


def test_what_looks_incomplete_in_what_runs_is_no_reason_to_wait() -> None:
    """It was so when it was applied; after a lost answer that is not known."""
    odd = ("/x is empty",)
    state, _ = happens(given(), Applied(1, replace(B, incomplete=odd), "b", FILES))
    assert state.current
    assert state.current.incomplete == odd
    state, _ = happens(state, Seen(Why.SETTLED, Disk("c", applicable=True, incomplete=odd)))
    assert state.applying
    state, _ = happens(state, Applied(1, HANGS, problem="the reader died"))
    assert state.current
    assert state.current.incomplete == odd


def test_a_doubt_is_known_but_nothing_is_told_as_applied() -> None:
    """haproxy has something else than before, and else than the file."""
    state, effects = happens(given(), Applied(1, B, MIXED, problem="haproxy has something else now than the file"))
    assert told(effects)[:1] != [FilesApplied(1, (), 0.0, "files", MIXED)]
    assert begins_a_reload(effects)
    assert _digest(state) == MIXED


def test_an_answer_about_another_generation_changes_nothing() -> None:
    """It was replaced meanwhile, and its successor has read the files."""
    state, _ = happens(given(), Signalled(signal.SIGUSR1))
    state = serving(2, state, Disk("b"))
    for event in outcomes(1):
        after, effects = happens(state, event)
        assert after == replace(state, applying=0)
        assert effects == ()


def test_the_successor_of_a_dead_generation_does_not_wait_for_its_answer() -> None:
    """What changes next is given to it at once; the dead one's answer is not taken for its own."""
    state, _ = happens(given(), Elapsed(Timer(Clock.PROVEN, 1)), Exited(1, -11), Elapsed(Timer(Clock.RESTART, 0)))
    state = serving(2, state, Disk("b"))
    assert state.applying == 1
    state, effects = happens(state, Seen(Why.SETTLED, Disk("c", applicable=True)))
    assert effects == (Apply(2),)
    state, effects = happens(state, Applied(1, HANGS, problem="it is gone"))
    assert (state.applying, effects) == (2, ())


def test_a_change_meanwhile_waits_for_the_answer() -> None:
    """Most of it is part of what is being applied; the rest follows."""
    state, effects = happens(given(), Seen(Why.SETTLED, Disk("c", applicable=True)))
    assert effects == ()
    _, effects = happens(state, Applied(1, Disk("c", applicable=True), "c", FILES))
    assert not any(isinstance(one, Apply) for one in effects)
    state, effects = happens(state, Applied(1, B, "b", FILES), Seen(Why.SETTLED, Disk("c", applicable=True)))
    assert effects == (Apply(1),)


def test_files_are_given_for_a_bounded_time() -> None:
    """An answer that is lost is not waited for."""
    assert timers(given())[Timer(Clock.APPLY, 1)] == APPLY_WITHIN


# ---- more files count ------------------------------------------------------------------------------------------------


def test_files_that_haproxy_names_are_no_change() -> None:
    """What is known under the old digest is known under the new one, and nothing else is."""
    state, _ = happens(given(), Applied(1, B, problem="no", refused=True))
    state = replace(state, kept="a", retried="a", overdue="a", disk=Disk("a"))
    state, effects = happens(state, Learned("a", "more"))
    assert effects == ()
    assert (_digest(state), state.kept, state.retried, state.overdue) == ("more", "more", "more", "more")
    assert (state.disk.digest, state.failed) == ("more", "b")
    _, effects = happens(state, Seen(Why.SETTLED, Disk("more")))
    assert not begins_a_reload(effects)


def test_they_are_no_reason_to_end_a_pause() -> None:
    """A generation that died of its configuration is not started at once because that has another digest now."""
    state = replace(serving(), stage=BackingOff("a"))
    state, _ = happens(state, Learned("a", "more"))
    assert state.stage == BackingOff("more")


# ---- every state -----------------------------------------------------------------------------------------------------


@pytest.mark.explores
def test_every_apply_has_an_end() -> None:
    """It is noted, and a timer runs."""
    seen = 0
    for taken in explore(APPLYING).transitions:
        numbers = [one.number for one in taken.effects if isinstance(one, Apply)]
        if numbers:
            seen += 1
            assert numbers == [taken.after.applying]
            assert taken.after.current
            assert taken.after.current.number == taken.after.applying
        if taken.after.applying and not isinstance(taken.after.stage, Stopping | Ended):
            assert Timer(Clock.APPLY, taken.after.applying) in timers(taken.after), taken
    assert seen > 50


@pytest.mark.explores
def test_the_digest_is_what_the_current_generation_runs_after_each_event() -> None:
    """It changes with an answer, and with a look that a candidate did not wait for; never otherwise."""
    seen = 0
    for taken in explore(APPLYING).transitions:
        before = taken.before.current
        after = before and taken.after.find(before.number)
        if not before or not after or taken.after.current != after:
            continue
        match taken.event:
            case Applied(number=before.number, digest=digest, disk=disk) if digest or disk.unfinished:
                seen += 1
                assert after.digest == digest, taken
            case Elapsed(timer=Timer(clock=Clock.APPLY, number=before.number)):
                assert after.digest == "", taken
            case Seen(why=Why.START, number=before.number):
                pass
            case _:
                assert after.digest == before.digest, taken
    assert seen > 50


@pytest.mark.explores
def test_a_reload_that_is_asked_for_never_waits_for_an_application() -> None:
    """It begins at once where nothing else starts or leaves."""
    seen = 0
    for taken in explore(APPLYING).transitions:
        before = taken.before
        if taken.event == Signalled(signal.SIGUSR1) and before.applying and isinstance(before.stage, Serving):
            seen += 1
            assert begins_a_reload(taken.effects) or before.retiring, taken
    assert seen > 50


@pytest.mark.explores
def test_a_generation_that_dies_meanwhile_is_replaced_as_any_other() -> None:
    """As if nothing was being applied, at once."""
    seen = 0
    for state in explore(APPLYING).states:
        if state.current and state.applying and not isinstance(state.stage, Stopping | Ended):
            seen += 1
            death = Exited(state.current.number, -signal.SIGSEGV)
            after, effects = happens(state, death)
            other, same = happens(replace(state, applying=0), death)
            assert (replace(after, applying=0), effects) == (other, same)
    assert seen > 50


@pytest.mark.explores
def test_an_upgrade_is_refused_meanwhile() -> None:
    """The answer would be the next program's."""
    seen = 0
    for state in explore(APPLYING).states:
        if state.applying and not isinstance(state.stage, Stopping | Ended):
            for event in (UpgradeAsked(7), Rehearsed(7)):
                seen += 1
                (reply,) = happens(state, event)[1]
                assert isinstance(reply, Reply)
                assert not reply.success
    assert seen > 50
    assert any(isinstance(one, Upgrade) for taken in explore(APPLYING).transitions for one in taken.effects)


@pytest.mark.explores
def test_one_change_is_tried_once_however_it_ends() -> None:
    """No loop of applying and reloading: with the same disk, at most one of each, then silence."""
    for outcome in outcomes(1):
        for candidate_is_good in (False, True):
            state, applied, begun = given(), 1, 0
            events: list[Event] = [outcome]
            for _ in range(40):
                event = events.pop(0) if events else Seen(Why.SETTLED, _as_is(state))
                state, effects = happens(state, event)
                for effect in effects:
                    match effect:
                        case Apply(number=number):
                            applied += 1
                            events.append(Applied(number, _as_is(state), "b", FILES))
                        case Look(why=why, number=number):
                            begun += why is Why.START
                            events.append(Seen(why, _as_is(state), number))
                        case Spawn(number=number):
                            pid = pid_of(number)
                            listens = Answered(number, listening(pid, bound=(), others=1))
                            events += [Spawned(number, pid), listens if candidate_is_good else Exited(number, 1)]
                        case _:
                            pass
            # An outcome for another content is another change.
            other = outcome.digest == "a"
            assert (applied, begun) <= (1 + other, 1), outcome
            assert begun == bool(outcome.problem and not outcome.refused), outcome
            assert applying.may_begin(state) is False or state.failed == "b"


def _as_is(state: State) -> Disk:
    """Return what is seen of a disk that holds "b"."""
    return Disk("b", applicable=_digest(state) not in {"", "b"})


def test_without_watching_nothing_is_applied() -> None:
    """Nobody has said that a file has changed."""
    _, effects = happens(serving(state=begin(settings(watch=OFF))), Seen(Why.CANDIDATE, B, 1))
    assert not any(isinstance(one, Apply) for one in effects)
