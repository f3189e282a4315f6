"""Changed files: when they are looked at, when that is a reload, and that it is one and not two."""

import signal

import pytest

from entrypoint.core.candidate import MOST_TRIES
from entrypoint.core.effects import Effect, Keep, Look, NoteServers, Reply, Send, Spawn
from entrypoint.core.events import (
    Answered,
    Clock,
    Disk,
    Elapsed,
    Event,
    Exited,
    NotSpawned,
    ReloadAsked,
    Request,
    Seen,
    Spawned,
    Stirred,
    StopAsked,
    Timer,
    Why,
)
from entrypoint.core.state import (
    INCOMPLETE_WITHIN,
    MOST_DEBOUNCES,
    Candidate,
    Current,
    Draining,
    Retiring,
    State,
    timers,
)
from entrypoint.options.settings import Settings
from tests.core.world import OFF, begin, happens, listening, logged, pid_of, settings, starts

DEBOUNCE = 0.5
POLL = 7.0
WATCHING = settings(debounce=DEBOUNCE, poll=POLL)


class Story:
    """What happens, one thing after the other; `effects` are those of the last one."""

    def __init__(self, chosen: Settings = WATCHING) -> None:
        """Begin with a current generation that runs "a"."""
        self.state: State = begin(chosen)
        self.effects: tuple[Effect, ...] = ()
        self.starts("a")
        self.serves("a")

    def happens(self, *events: Event) -> None:
        """Let the core decide."""
        self.state, self.effects = happens(self.state, *events)

    def number(self) -> int:
        """Return the number of the candidate."""
        assert self.state.candidate
        return self.state.candidate.number

    def starts(self, digest: str) -> None:
        """Start the candidate that was to be spawned, from this."""
        number = self.number()
        self.happens(Seen(Why.START, Disk(digest), number))
        current = self.state.current
        assert self.effects == (*((NoteServers(current.number),) if current else ()), Spawn(number))
        self.happens(Spawned(number, pid_of(number)))

    def answers(self) -> None:
        """Have the candidate say that it is ready."""
        number = self.number()
        self.happens(Answered(number, listening(pid_of(number))))
        assert self.effects == (Look(Why.CANDIDATE, number),)

    def serves(self, digest: str, *, polled: bool = False) -> None:
        """Have the candidate say that it is ready, while the disk holds this; the old one leaves."""
        number = self.number()
        self.answers()
        self.happens(Seen(Why.CANDIDATE, Disk(digest, polled=polled), number))
        for old in self.state.generations:
            if isinstance(old.phase, Retiring | Draining):
                self.happens(Exited(old.number, 0))

    def runs_from(self, digest: str) -> None:
        """Start the candidate from this, and have it become current."""
        self.starts(digest)
        self.serves(digest)
        assert self.runs == digest

    def tears(self, digest: str) -> None:
        """Have the candidate say that it is ready, while the disk holds this by now."""
        number = self.number()
        self.answers()
        self.happens(Seen(Why.CANDIDATE, Disk(digest), number))

    def old_one_lets_go(self) -> None:
        """Have the generation that retires say that it holds no VIP any more."""
        (number,) = [one.number for one in self.state.generations if isinstance(one.phase, Retiring)]
        self.happens(Answered(number, listening(pid_of(number), polled=False)))

    def dies(self, *, transient: bool = False) -> None:
        """Have the candidate end before it was ready."""
        self.happens(Exited(self.number(), 1, transient))

    def settles(self, digest: str = "", unreadable: str = "", incomplete: tuple[str, ...] = ()) -> None:
        """Change the files to this, and let them be quiet."""
        self.happens(Stirred())
        self.happens(Elapsed(self.quiet))
        assert Look(Why.SETTLED) in self.effects
        self.happens(Seen(Why.SETTLED, Disk(digest, unreadable, incomplete=incomplete)))

    @property
    def quiet(self) -> Timer:
        """The timer that runs until the files are quiet."""
        return next(timer for timer in timers(self.state) if timer.clock is Clock.QUIET)

    @property
    def clocks(self) -> dict[Clock, float]:
        """What runs for the sake of the files, and for how long."""
        of_files = {Clock.QUIET, Clock.SETTLE, Clock.POLL, Clock.INCOMPLETE, Clock.RETRY}
        return {timer.clock: length for timer, length in timers(self.state).items() if timer.clock in of_files}

    @property
    def spawned(self) -> bool:
        """Whether the last event has begun with a candidate."""
        return any(isinstance(effect, Spawn) or _is_for_start(effect) for effect in self.effects)

    @property
    def said(self) -> list[str]:
        """The names of the last event's log lines."""
        return [effect.event for effect in logged(self.effects)]

    @property
    def runs(self) -> str:
        """What the current generation was started from."""
        assert self.state.current
        return self.state.current.digest


def _is_for_start(effect: Effect) -> bool:
    return isinstance(effect, Look) and effect.why is Why.START


@pytest.fixture
def story() -> Story:
    """Somebody runs "a", and the disk holds it."""
    return Story()


# ---- when they are looked at ---------------------------------------------------------------------------------------


def test_nothing_runs_while_nothing_happens(story: Story) -> None:
    """Where the kernel tells of changes there is no timer, and so no wake-up."""
    assert story.clocks == {}


def test_a_change_is_looked_at_after_a_quiet_debounce(story: Story) -> None:
    """Not at once: the first event of a change comes when the file is empty."""
    story.happens(Stirred())
    assert [*story.effects] == []
    assert story.clocks == {Clock.QUIET: DEBOUNCE, Clock.SETTLE: MOST_DEBOUNCES * DEBOUNCE}
    story.happens(Elapsed(story.quiet))
    assert [*story.effects] == [Look(Why.SETTLED)]
    assert story.clocks == {}


def test_each_change_begins_the_wait_anew_but_never_the_longest_one(story: Story) -> None:
    """The timer of the quiet is another one after each change, that of all the changes together is not."""
    story.happens(Stirred())
    first = story.quiet
    story.happens(Stirred())
    assert story.quiet != first
    assert {timer for timer in timers(story.state) if timer.clock is Clock.SETTLE} == {Timer(Clock.SETTLE)}
    story.happens(Elapsed(first))
    assert [*story.effects] == []
    story.happens(Elapsed(Timer(Clock.SETTLE)))
    assert [*story.effects] == [Look(Why.SETTLED)]
    assert story.clocks == {}


def test_a_change_is_ignored_with_watch_off() -> None:
    """With `--watch off` no timer runs, whatever is on the disk."""
    state = begin(settings(watch=OFF))
    state, effects = happens(state, Stirred())
    assert effects == ()
    state, _ = happens(state, Seen(Why.SETTLED, Disk("b", polled=True)))
    assert not any(timer.clock in {Clock.QUIET, Clock.SETTLE, Clock.POLL} for timer in timers(state))


# ---- where the kernel does not tell --------------------------------------------------------------------------------


def test_where_changes_may_be_missed_the_disk_is_looked_at_again_and_again() -> None:
    """Each look at the same content is followed by the next one, and by nothing else."""
    story = Story()
    story.happens(Seen(Why.SETTLED, Disk("a", polled=True)))
    for polls in range(3):
        assert story.clocks == {Clock.POLL: POLL}
        story.happens(Elapsed(Timer(Clock.POLL, 0, polls)))
        assert [*story.effects] == [Look(Why.POLLED)]
        story.happens(Seen(Why.POLLED, Disk("a", polled=True)))
        assert [*story.effects] == []


def test_a_difference_that_a_poll_has_found_settles_first(story: Story) -> None:
    """It may be half of a change: it is looked at once more after the debounce, and only then is it a reload."""
    story.happens(Seen(Why.SETTLED, Disk("a", polled=True)))
    story.happens(Elapsed(Timer(Clock.POLL)), Seen(Why.POLLED, Disk("half of b", polled=True)))
    assert [*story.effects] == []
    assert story.clocks == {Clock.QUIET: DEBOUNCE, Clock.SETTLE: MOST_DEBOUNCES * DEBOUNCE}
    story.happens(Elapsed(story.quiet), Seen(Why.SETTLED, Disk("b", polled=True)))
    assert story.spawned


# ---- what a change is ----------------------------------------------------------------------------------------------


def test_new_content_is_one_reload(story: Story) -> None:
    """A candidate is started when it has settled, and no second one when it serves."""
    story.settles("b")
    assert story.spawned
    story.runs_from("b")
    assert story.state.candidate is None
    assert story.clocks == {}


def test_the_same_content_is_no_reload(story: Story) -> None:
    """A touch, a chmod, the same bytes once more."""
    story.settles("a")
    assert [*story.effects] == []


def test_the_same_content_does_not_start_a_dead_one_s_successor_before_its_time(story: Story) -> None:
    """A correction does."""
    story.happens(Exited(1, 11), Seen(Why.SETTLED, Disk("a")))
    assert not story.state.candidate
    story.happens(Seen(Why.SETTLED, Disk("b")))
    assert story.state.candidate


def test_what_cannot_be_read_is_said_once_and_waited_for(story: Story) -> None:
    """An empty file is no configuration yet; should the kernel not tell of its end, the poll finds it."""
    story.settles(unreadable="x is empty")
    assert story.said == ["unreadable"]
    assert not story.spawned
    assert story.clocks == {Clock.POLL: POLL}
    story.settles(unreadable="x is empty")
    assert [*story.effects] == []

    story.happens(Elapsed(Timer(Clock.POLL)), Seen(Why.POLLED, Disk("b")))
    story.happens(Elapsed(story.quiet))
    story.happens(Seen(Why.SETTLED, Disk("b")))
    assert story.spawned
    assert story.clocks == {}


# ---- what looks incomplete -----------------------------------------------------------------------------------------

EMPTY = ("x is empty",)


def test_what_looks_incomplete_is_waited_for_but_not_for_ever(story: Story) -> None:
    """It is said once in one line; after a while it counts as it is, which is said as well."""
    story.settles("b", incomplete=EMPTY)
    assert story.said == ["incomplete"]
    assert not story.spawned
    assert story.clocks == {Clock.INCOMPLETE: INCOMPLETE_WITHIN}
    story.settles("c", incomplete=EMPTY)
    assert story.said == []
    assert Clock.INCOMPLETE in story.clocks
    story.happens(Elapsed(Timer(Clock.INCOMPLETE)))
    assert story.said[0] == "incomplete"
    assert story.spawned
    number = story.number()
    story.happens(Seen(Why.START, Disk("c", incomplete=EMPTY), number), Spawned(number, pid_of(number)))
    story.serves("c")
    assert story.runs == "c"

    # Now that it runs with that, nothing is waited for because of it.
    story.settles("d", incomplete=EMPTY)
    assert story.spawned


def test_what_becomes_complete_in_time_is_one_reload(story: Story) -> None:
    """It is not waited for any longer; nor is what goes back."""
    story.settles("b", incomplete=EMPTY)
    story.settles("c")
    assert story.spawned
    assert story.clocks == {}
    story.runs_from("c")
    story.settles("b", incomplete=EMPTY)
    story.settles("c")
    assert not story.spawned
    assert story.clocks == {}


def test_a_generation_that_was_started_with_it_is_no_reason_to_wait() -> None:
    """An empty file among those that the first one was given: every later change is a reload."""
    disk = Disk("a", incomplete=EMPTY)
    state, _ = happens(begin(WATCHING), Seen(Why.START, disk, 1), Spawned(1, pid_of(1)))
    state, _ = happens(state, Answered(1, listening(pid_of(1))), Seen(Why.CANDIDATE, disk, 1), Stirred())
    state, effects = happens(state, Seen(Why.SETTLED, Disk("b", incomplete=EMPTY)))
    assert any(map(_is_for_start, effects))
    assert not state.patient


def test_a_requested_reload_does_not_wait_for_missing_files(story: Story) -> None:
    """Nor does the next generation after a death: anything is better than an outage."""
    story.settles("b", incomplete=EMPTY)
    story.happens(ReloadAsked(Request("a client", 7)))
    assert story.spawned


# ---- failures ------------------------------------------------------------------------------------------------------


def _failed(story: Story, digest: str = "bad") -> None:
    story.settles(digest)
    assert story.spawned
    story.starts(digest)
    story.dies()
    assert "reload_failed" in story.said
    assert story.runs == "a"


def test_what_has_failed_is_not_tried_again_until_it_is_something_else(story: Story) -> None:
    """Events without a new content are none; another bad one is tried once, too."""
    _failed(story)
    assert not story.spawned
    story.settles("bad")
    assert [*story.effects] == []
    story.settles(unreadable="x is empty")
    story.settles("bad")
    assert not story.spawned
    _failed(story, "bad, too")
    story.settles("good")
    assert story.spawned


def test_a_failed_content_is_tried_again_on_request(story: Story) -> None:
    """The client has a reason to ask."""
    _failed(story)
    story.happens(ReloadAsked(Request("a client", 7)))
    assert story.spawned


def test_the_way_back_to_what_runs_clears_the_failure(story: Story) -> None:
    """It is said of the generation that runs, nothing is started, and what had failed would be tried again."""
    _failed(story)
    story.settles("a")
    assert story.said == ["back"]
    (line,) = logged(story.effects)
    assert story.state.current
    assert line.fields["generation"] == story.state.current.number
    assert not story.spawned
    assert story.state.failed == ""
    story.settles("bad")
    assert story.spawned


def test_a_failed_reload_of_what_runs_is_not_over_because_of_a_neighbour(story: Story) -> None:
    """haproxy has refused what is still there: nothing that is looked at makes that good."""
    story.happens(ReloadAsked(Request("a client", 7)))
    story.starts("a")
    story.dies()
    assert "reload_failed" in story.said
    story.settles("a")
    assert story.said == []
    assert story.state.failed == "a"
    # The next one that succeeds does.
    story.happens(ReloadAsked(Request("a client", 7)))
    story.runs_from("a")
    assert story.state.failed == ""


def _retry(story: Story) -> float:
    (timer,) = [timer for timer in timers(story.state) if timer.clock is Clock.RETRY]
    length = timers(story.state)[timer]
    story.happens(Elapsed(timer))
    assert story.spawned
    return length


def test_what_failed_for_another_reason_is_tried_again_later_and_later(story: Story) -> None:
    """Until it succeeds; a touched neighbour is no reason to try at once, and what succeeds ends it."""
    story.settles("b")
    delays = []
    for _ in range(8):
        story.starts("b")
        story.dies(transient=True)
        assert not story.spawned
        story.settles("b")
        assert not story.spawned
        delays.append(_retry(story))
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]
    story.runs_from("b")
    assert story.clocks == {}
    assert story.state.retries == 0


@pytest.mark.parametrize("end", ["not spawned", "killed", "not ready"])
def test_every_other_reason_is_one(story: Story, end: str) -> None:
    """No process, killed from outside, --ready-timeout; of what haproxy refused there is no other try."""
    story.settles("b")
    if end == "not spawned":
        number = story.number()
        story.happens(Seen(Why.START, Disk("b"), number))
        story.happens(NotSpawned(number, "was not started: Cannot allocate memory", 1))
    elif end == "killed":
        story.starts("b")
        story.happens(Exited(story.number(), -9, transient=True))
    else:
        story.starts("b")
        story.happens(Elapsed(Timer(Clock.READY, story.number())), Exited(story.number(), -9))
    assert "reload_failed" in story.said
    assert _retry(story) == 1
    story.starts("b")
    story.dies()
    assert story.clocks == {}
    assert story.state.failed == "b"


def test_a_requested_reload_is_retried_too(story: Story) -> None:
    """Also of the content that runs already; the client has been answered."""
    story.happens(ReloadAsked(Request("a client", 7)))
    story.starts("a")
    story.dies(transient=True)
    assert [effect.success for effect in story.effects if isinstance(effect, Reply)] == [False]
    story.settles("a")
    assert story.said == []
    _retry(story)
    story.runs_from("a")
    assert story.clocks == {}


def test_what_is_gone_from_the_disk_is_not_tried_again(story: Story) -> None:
    """The way back ends it, and something else is tried at once."""
    story.settles("b")
    story.starts("b")
    story.dies(transient=True)
    story.settles("a")
    assert story.said == ["back"]
    assert story.clocks == {}
    story.settles("b")
    story.starts("b")
    story.dies(transient=True)
    story.settles("c")
    assert story.spawned


# ---- news while a candidate starts ---------------------------------------------------------------------------------


def test_news_while_a_candidate_starts_are_one_more_reload(story: Story) -> None:
    """However often files change meanwhile, and not before the first one is done."""
    story.settles("b")
    story.starts("b")
    for digest in ("c", "d", "c"):
        story.settles(digest)
        assert not story.spawned
    # It read "b" in full, and haproxy failed for a reason of its own.
    story.dies()
    assert story.spawned
    story.runs_from("c")
    assert story.state.candidate is None


def test_a_change_that_is_undone_while_a_candidate_starts_needs_no_reload(story: Story) -> None:
    """The waiting reload is dropped when the disk is again what the candidate was given."""
    story.settles("b")
    story.starts("b")
    story.settles("c")
    story.settles("b")
    story.serves("b")
    assert story.runs == "b"
    assert story.state.candidate is None


def test_a_candidate_under_which_files_have_changed_is_passed_over(story: Story) -> None:
    """Nobody knows what it has read: the current one goes on, and another one follows when this one has let go."""
    story.settles("b")
    story.starts("b")
    story.tears("c")
    assert story.said[0] == "torn"
    assert story.runs == "a"
    assert story.state.candidate is None
    story.old_one_lets_go()
    assert story.spawned
    assert story.state.failed == ""
    story.runs_from("c")


def test_a_candidate_that_is_passed_over_finishes_what_it_has(story: Story) -> None:
    """It listens already, and clients have come: it is never killed, but retires, and is told to leave at the end."""
    story.settles("b")
    story.starts("b")
    torn = story.state.last_number
    story.tears("c")
    assert not any(isinstance(effect, Send) for effect in story.effects)
    story.old_one_lets_go()
    sent = [effect for effect in story.effects if isinstance(effect, Send)]
    assert [(one.number, one.signum) for one in sent] == [(torn, signal.SIGUSR1)]


def test_one_in_the_place_of_a_dead_one_serves_even_if_the_files_have_changed() -> None:
    """It is better than nobody; the next one starts at once, and it leaves softly when that one is ready."""
    story = Story()
    assert story.state.current
    story.happens(Exited(story.state.current.number, -9), Elapsed(Timer(Clock.RESTART, 1)))
    story.starts("b")
    story.tears("c")
    assert story.spawned
    assert not any(isinstance(effect, Send) for effect in story.effects)
    assert [type(one.phase) for one in story.state.generations] == [Current, Candidate]
    story.runs_from("c")


def test_a_stop_answers_the_client_of_a_candidate_that_is_not_used() -> None:
    """While the VIPs linger, no other candidate is started."""
    story = Story(settings(stop_delay=1.0))
    story.happens(ReloadAsked(Request("a client", 7)))
    story.starts("b")
    story.happens(StopAsked("somebody"))
    story.tears("c")
    assert [effect.success for effect in story.effects if isinstance(effect, Reply)] == [False]
    story.old_one_lets_go()
    assert not story.spawned
    assert story.runs == "a"


def test_a_change_back_needs_no_other_candidate(story: Story) -> None:
    """If the disk is again what the current generation runs, only somebody who has asked gets another one."""
    story.settles("b")
    story.starts("b")
    story.tears("a")
    story.old_one_lets_go()
    assert not story.spawned
    assert story.state.waiting == ()
    assert story.runs == "a"
    assert story.state.torn == 0


def test_files_that_never_stop_changing_cannot_put_a_reload_off_for_ever(story: Story) -> None:
    """So many candidates are passed over and no more; whoever asked is answered once, by the last."""
    answers: list[Reply] = []
    story.happens(ReloadAsked(Request("a client", 7)))
    for attempt in range(MOST_TRIES):
        story.starts(f"{attempt}")
        story.tears(f"{attempt + 1}")
        answers += [effect for effect in story.effects if isinstance(effect, Reply)]
        story.old_one_lets_go()
        assert story.spawned
        assert story.runs == "a"
    story.starts(f"{MOST_TRIES}")
    story.tears("yet another")
    answers += [effect for effect in story.effects if isinstance(effect, Reply)]
    assert answers == []
    assert story.runs == f"{MOST_TRIES}"
    story.old_one_lets_go()
    answers += [effect for effect in story.effects if isinstance(effect, Reply)]

    assert [(answer.client, answer.success) for answer in answers] == [(7, True)]
    # The change of which nobody knows whether it was read is still news once it is quiet.
    story.settles("yet another")
    assert story.spawned


def test_a_disk_that_is_good_again_ends_the_last_known_good() -> None:
    """Once the files are what the generation runs, it does not matter where it got them from."""
    story = Story()
    story.happens(Elapsed(Timer(Clock.SERVED, 1)), Elapsed(Timer(Clock.PROVEN, 1)), Exited(1, -9))
    story.starts("b")
    story.happens(Exited(story.number(), 1))
    (spawn,) = [effect for effect in story.effects if isinstance(effect, Spawn)]
    assert spawn.kept
    number = spawn.number
    story.happens(Spawned(number, pid_of(number)), Answered(number, listening(pid_of(number))))
    assert story.state.current
    assert story.state.current.kept

    story.happens(Seen(Why.SETTLED, Disk("a")))
    assert story.state.current
    assert not story.state.current.kept
    assert story.state.failed == ""


def test_what_the_kernel_refuses_is_not_the_configuration_s_fault() -> None:
    """Without descriptors the last known good configuration could not be started either, and nothing counts as bad."""
    story = Story()
    story.happens(Elapsed(Timer(Clock.SERVED, 1)), Elapsed(Timer(Clock.PROVEN, 1)), Exited(1, -9))
    story.happens(Seen(Why.START, Disk("a"), story.number()))
    story.happens(NotSpawned(story.number(), "was not started: Too many open files", 1))
    assert not story.spawned
    assert story.state.failed == ""


def test_a_configuration_that_is_refused_before_it_is_started_is_not_tried_again() -> None:
    """`master-worker` is seen before there is a process: the content counts as failed all the same."""
    story = Story()
    story.happens(Seen(Why.SETTLED, Disk("b")))
    story.happens(Seen(Why.START, Disk("b"), story.number()))
    story.happens(NotSpawned(story.number(), "was not started: remove master-worker", 1, refused=True))
    assert story.state.failed == "b"
    story.happens(Seen(Why.SETTLED, Disk("b")))
    assert not story.spawned


def test_a_first_generation_serves_even_if_the_files_have_changed_meanwhile() -> None:
    """Better than nobody: it becomes current, and one more reload follows; what cannot be read is only waited for."""
    for disk, follows in ((Disk("b"), 1), (Disk(unreadable="empty"), 0)):
        state = starts(begin(WATCHING), 1, "a")
        state, effects = happens(state, Answered(1, listening(pid_of(1))), Seen(Why.CANDIDATE, disk, 1))
        assert state.current
        assert state.current.number == 1
        # It is not known what it runs.
        assert not [effect for effect in effects if isinstance(effect, Keep)]
        assert len([effect for effect in effects if _is_for_start(effect)]) == follows


def test_before_anybody_serves_nothing_is_waited_for() -> None:
    """haproxy reads what is there, and says itself what is wrong with it; later on it is said that we wait."""
    told = []
    for state in (State(settings()), State(settings(), started=True)):
        effects = happens(state, Seen(Why.SETTLED, Disk(unreadable="x cannot be read")))[1]
        told.append([effect.event for effect in logged(effects)])
    assert told == [[], ["unreadable"]]
