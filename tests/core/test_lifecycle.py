"""The state machine: every state that can be reached is visited, and the promises hold in each."""

import signal
from collections.abc import Callable, Iterable

import pytest

from entrypoint.core import applying, retiring
from entrypoint.core.effects import (
    Adopt,
    Ask,
    AskCandidate,
    CloseVips,
    Effect,
    Keep,
    Listen,
    Log,
    Look,
    Poke,
    Publish,
    Reply,
    Send,
    Spawn,
    SpawnExporter,
)
from entrypoint.core.events import (
    EXPORTER,
    Answered,
    Clock,
    Disk,
    Elapsed,
    Exited,
    NotSpawned,
    Poked,
    Seen,
    Signalled,
    Spawned,
    StopAsked,
    Timer,
    Unanswered,
    Why,
)
from entrypoint.core.state import (
    FIRST_RESTART_DELAY,
    BackingOff,
    Candidate,
    Current,
    Draining,
    Ended,
    Ending,
    Generation,
    Lingering,
    Retiring,
    Serving,
    State,
    Stopping,
    timers,
)
from entrypoint.core.upgrade_state import restore, serialize
from entrypoint.core.watching import FILES
from entrypoint.haproxy import runtime_api
from entrypoint.lean.level import Level
from entrypoint.options.settings import Restart
from tests.core.explorer import Exploration, Transition, explore
from tests.core.test_runtime_api import PIDS, answer
from tests.core.world import (
    APPLYING,
    CLIENTS,
    HANGING,
    SMALL,
    VARIANTS,
    WATCHING,
    begin,
    happens,
    listening,
    logged,
    pid_of,
    serving,
    settings,
    starts,
)

pytestmark = pytest.mark.explores

ONE_VIP = (("FD_A", 3),)
TELLS_TO_LEAVE = {signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL}


@pytest.fixture(params=VARIANTS)
def explored(request: pytest.FixtureRequest) -> Exploration:
    """Everything that can be reached, with each variant of the settings."""
    return explore(VARIANTS[request.param])


@pytest.fixture
def states(explored: Exploration) -> set[State]:
    """Every reachable state."""
    return explored.states


@pytest.fixture
def transitions(explored: Exploration) -> list[Transition]:
    """Every step that can be taken."""
    return explored.transitions


def _phases(state: State) -> list[type]:
    return [type(generation.phase) for generation in state.generations]


def test_the_exploration_is_large_and_meets_every_phase_and_stage(states: set[State]) -> None:
    """The promises below are checked in hundreds of states, none of the machine's words left out."""
    phases = {phase for state in states for phase in _phases(state)}
    stages = {type(state.stage) for state in states}
    assert len(states) > 300
    without_listeners = {Retiring} if {state.settings for state in states} <= {WATCHING, HANGING, APPLYING} else set()
    assert phases == {Candidate, Current, Retiring, Draining, Ending} - without_listeners
    assert {Serving, Stopping, Ended} <= stages


def test_there_is_at_most_one_candidate_one_current_and_one_retiring_generation(states: set[State]) -> None:
    """At most one reload runs."""
    for state in states:
        for phase in (Candidate, Current, Retiring):
            assert _phases(state).count(phase) <= 1, state


def test_the_current_generation_is_told_to_leave_only_by_a_stop_or_after_its_successor_answered(
    transitions: list[Transition],
) -> None:
    """A bad configuration, a slow one, a storm of signals: none of it reaches the generation that serves."""
    for taken in transitions:
        current = taken.before.current
        told = {
            effect.number for effect in taken.effects if isinstance(effect, Send) and effect.signum in TELLS_TO_LEAVE
        }
        if current and current.number in told:
            successor = taken.after.current
            assert isinstance(taken.after.stage, Stopping | Ended) or (
                successor is not None and successor.number > current.number
            ), taken


def test_a_failed_candidate_leaves_the_current_generation_as_it_was(transitions: list[Transition]) -> None:
    """Whatever a candidate dies of, the generation that serves is the same before and after."""
    seen = 0
    for taken in transitions:
        candidate = taken.before.candidate
        if (
            candidate
            and taken.before.current
            and not _is_looked_for(candidate)
            and taken.event
            in (
                Exited(candidate.number, 0),
                Exited(candidate.number, -9),
                NotSpawned(candidate.number, "was not started: no", 1),
            )
        ):
            seen += 1
            assert taken.after.current == taken.before.current, taken
    assert seen


def test_vips_are_closed_exactly_when_safe_reload_begins_to_stop(transitions: list[Transition]) -> None:
    """Nothing but a stop takes the listeners down, and it does so once."""
    for taken in transitions:
        closes = sum(isinstance(effect, CloseVips) for effect in taken.effects)
        begins = isinstance(taken.after.stage, Stopping | Ended) and not isinstance(
            taken.before.stage, Stopping | Ended
        )
        assert closes == begins, taken


def test_something_always_goes_on(states: set[State]) -> None:
    """No state waits for nothing: there is a process whose exit, or a timer, that leads out of it."""
    for state in states:
        match state.stage:
            case Serving() | Lingering():
                assert state.current or state.candidate, state
            case BackingOff():
                assert not state.current
                assert any(timer.clock == "restart" for timer in timers(state)), state
            case Stopping():
                assert state.generations, state
                assert not state.current, state
                assert not state.candidate, state
            case Ended():
                assert not state.generations, state


def test_a_reload_waits_only_while_one_runs(states: set[State]) -> None:
    """A request that could be carried out now is not kept waiting, except that files wait for files being applied."""
    for state in states:
        if state.waiting and not (state.waiting == (FILES,) and applying.is_under_way(state)):
            assert state.candidate or state.retiring, state


def test_the_old_generation_is_paused_before_anything_else_is_asked(transitions: list[Transition]) -> None:
    """Until then it goes on answering with the configuration that was."""
    seen = 0
    for taken in transitions:
        kinds = [type(effect) for effect in taken.effects]
        if Adopt in kinds and Ask in kinds:
            seen += 1
            assert kinds.index(Ask) < kinds.index(Adopt), taken
    assert seen or {taken.before.settings for taken in transitions} <= {WATCHING, HANGING, APPLYING}


def test_only_a_ready_generation_becomes_the_pid_file_s_content(transitions: list[Transition]) -> None:
    """The pid file names the current haproxy and never another."""
    seen = 0
    for taken in transitions:
        for effect in taken.effects:
            if isinstance(effect, Publish):
                seen += 1
                assert taken.after.current is not None
                assert effect.pid == taken.after.current.pid
    assert seen


def test_a_candidate_that_listens_on_nothing_is_given_up(states: set[State]) -> None:
    """An empty file is one that haproxy would refuse were it not for our line to it; whoever serves goes on."""
    seen = 0
    for state in states:
        candidate = state.candidate
        if candidate and candidate.pid and candidate.phase == Candidate(looked=True):
            seen += 1
            after, effects = happens(state, Answered(candidate.number, listening(candidate.pid, bound=())))
            assert Send(candidate.number, signal.SIGKILL) in effects
            assert after.current == state.current
    assert seen


def test_the_client_is_told_why_a_candidate_was_killed(transitions: list[Transition]) -> None:
    """Not that it died of SIGKILL, which safe_reload itself has sent."""
    seen = 0
    for taken in transitions:
        match taken.before.candidate:
            case Generation(number=number, phase=Candidate(given_up=why)) if why and isinstance(taken.event, Exited):
                told = [effect.message for effect in logged(taken.effects) if _is_failure(effect)]
                told += [one.message for one in taken.effects if isinstance(one, Reply) and one.number == number]
                seen += len(told)
                assert all(f"{why}: it was killed" in message for message in told), taken
            case _:
                pass
    # Where only files change, no candidate is too late.
    assert seen or transitions[0].before.settings in {WATCHING, HANGING, APPLYING}


def _is_failure(line: Log) -> bool:
    return line.event in {"reload_failed", "start_failed"}


def test_a_new_generation_is_spawned_only_when_none_is_starting(transitions: list[Transition]) -> None:
    """Two candidates never compete."""
    for taken in transitions:
        begun = [effect.number for effect in taken.effects if isinstance(effect, Look) and effect.why is Why.START]
        born = [effect.number for effect in taken.effects if isinstance(effect, Spawn)]
        still = taken.before.candidate
        if begun or born:
            assert len(begun) + len(born) == 1
            assert still is None or taken.after.find(still.number) != still, taken
            assert taken.after.last_number == [*begun, *born][0]


@pytest.mark.parametrize(
    ("vips", "told"), [((("FD_A", 3),), "the VIPs stay open"), ((), "the listeners that safe_reload holds stay open")]
)
@pytest.mark.parametrize("served", [False, True])
def test_after_a_death_it_is_said_what_stays_open(vips: tuple[tuple[str, int], ...], told: str, served: bool) -> None:
    """Of VIPs nothing is said where there are none."""
    state = serving(SMALL, vips, bound=(), others=1)
    if served:
        state = happens(state, Elapsed(Timer(Clock.SERVED, 1)))[0]
    _, effects = happens(state, Exited(1, -signal.SIGSEGV))
    (line,) = [one.message for one in logged(effects) if "the next generation starts" in one.message]
    assert line.startswith(f"{told}, and the next generation starts ")


def test_a_success_is_reported_when_the_old_generation_has_stopped_accepting(transitions: list[Transition]) -> None:
    """Before that it may accept a connection that comes after the answer. All clients are answered in that step."""
    told = 0
    for taken in transitions:
        before, after = taken.before, taken.after
        successes = [one for one in taken.effects if isinstance(one, Reply) and one.success]
        told += len(successes)
        assert not (after.retiring and successes), taken
        assert bool(after.owed) <= bool(after.retiring), taken
        if before.owed and not after.retiring:
            assert set(before.owed) <= set(successes), taken
    assert bool(told) == (transitions[0].before.settings == CLIENTS)


def test_an_exit_without_a_request_says_why(transitions: list[Transition]) -> None:
    """Before it ends by itself it logs an error with the reason: a failed start, too many deaths, --restart no."""
    reasons = {"start_failed", "reload_failed", "restart_limit", "no_restart"}
    seen = set()
    for taken in transitions:
        before, after = taken.before, taken.after
        asked = isinstance(before.stage, Lingering | Stopping | Ended) or _stops(taken)
        if isinstance(after.stage, Stopping | Ended) and not asked:
            told = {one.event for one in logged(taken.effects) if one.level == Level.ERROR} & reasons
            assert told, taken
            seen |= told
    assert ("no_restart" in seen) == any(taken.after.settings.restart is Restart.NO for taken in transitions)


def _stops(taken: Transition) -> bool:
    match taken.event:
        case StopAsked() | Signalled(signum=signal.SIGTERM | signal.SIGQUIT):
            return True
        case _:
            return False


def test_without_a_restart_it_says_which_status_it_ends_with() -> None:
    """--restart no is named, and the status is the dead one's."""
    state = serving(settings(restart=Restart.NO), bound=(), others=1)
    state, effects = happens(state, Exited(1, -signal.SIGSEGV))
    assert state.stage == Ended(139)
    (line,) = [one for one in logged(effects) if one.event == "no_restart"]
    assert line.message == "haproxy is not started again (--restart no): safe_reload ends with its exit status, 139"


def test_the_last_known_good_one_is_announced_once_and_for_a_reason_that_is_true(transitions: list[Transition]) -> None:
    """One warning when it serves; the disk is called bad only where haproxy has refused what it holds."""
    for taken in transitions:
        lines = [one for one in logged(taken.effects) if "LAST KNOWN GOOD" in one.message]
        new = taken.after.current
        serves = bool(new and new.kept and not (taken.before.current and taken.before.current.number == new.number))
        assert [one.event for one in lines] == (["last_known_good"] if serves else []), taken
        for line in lines:
            refused = taken.after.failed == taken.after.disk.digest != ""
            assert ("is bad" in line.message) <= (refused and not taken.after.retries), taken
            assert ("reload" in line.message) <= (not taken.after.watches), taken


@pytest.mark.parametrize(
    ("delay", "timeout", "told"),
    [
        (0.0, 0.0, "stopping gracefully; open connections may finish, and a second stop ends them"),
        (0.0, 30.0, "stopping gracefully; open connections may finish within 30 s (--stop-timeout), and"),
        (5.0, 0.0, "stopping gracefully in 5 s (--stop-delay): until then new connections are accepted;"),
    ],
)
def test_a_stop_says_how_long_it_waits(delay: float, timeout: float, told: str) -> None:
    """For which option, and when that is over."""
    state = serving(settings(stop_delay=delay, stop_timeout=timeout), bound=(), others=1)
    state, effects = happens(state, Signalled(signal.SIGTERM))
    (line,) = [one for one in logged(effects) if one.event == "stopping"]
    assert line.message.startswith(f"SIGTERM: {told}")
    if delay:
        assert CloseVips() not in effects
        _, effects = happens(state, Elapsed(Timer(Clock.STOP_DELAY)))
        (line,) = logged(effects)
        assert line.message.startswith("--stop-delay is over: open connections may finish")
    assert CloseVips() in effects


def test_every_signal_goes_to_a_generation_that_lives(transitions: list[Transition]) -> None:
    """Nothing is sent to a process that has been reaped."""
    for taken in transitions:
        alive = {generation.number for generation in (*taken.before.generations, *taken.after.generations)}
        alive |= {EXPORTER} if taken.before.exporter else set()
        assert {effect.number for effect in taken.effects if isinstance(effect, Send)} <= alive, taken


def _finds_no_room(state: State) -> State:
    assert state.candidate
    number = state.candidate.number
    return happens(state, Seen(Why.START, Disk(), number), NotSpawned(number, "was not started: fork: no", 1))[0]


def test_a_failed_fork_is_not_counted_as_a_death() -> None:
    """Without processes or descriptors safe_reload waits, longer each time, however few deaths are allowed."""
    state = serving(SMALL, ONE_VIP)
    state = happens(state, Elapsed(Timer(Clock.SERVED, 1)), Exited(1, -signal.SIGSEGV))[0]
    delays = []
    for _ in range(12):
        state = _finds_no_room(state)
        ((timer, delay),) = timers(state).items()
        delays.append(delay)
        state = happens(state, Elapsed(timer))[0]
    assert delays == sorted(delays)
    assert delays[-1] == 30
    assert state.candidate
    number = state.candidate.number
    state = happens(starts(state, number), Answered(number, listening(pid_of(number))))[0]
    assert state.current


def test_failed_forks_of_reloads_do_not_delay_a_later_restart() -> None:
    """Reloads that could not be started are not held against the successor of a generation that dies."""
    state = happens(serving(SMALL, ONE_VIP), Elapsed(Timer(Clock.SERVED, 1)))[0]
    for _ in range(12):
        state = happens(state, Signalled(signal.SIGUSR1))[0]
        state = _finds_no_room(state)
    state = _finds_no_room(happens(state, Exited(1, -signal.SIGKILL))[0])
    assert set(timers(state).values()) == {2 * FIRST_RESTART_DELAY}  # a death, and one start without room


def test_a_candidate_that_answers_what_no_haproxy_does_is_killed() -> None:
    """To ask again would be to be answered so again."""
    unending = Unanswered(1, "answers without an end")
    state, effects = happens(begin(SMALL, ONE_VIP), Spawned(1, pid_of(1)), unending)
    assert Send(1, signal.SIGKILL) in effects
    state, effects = happens(state, Exited(1, -signal.SIGKILL))
    lines = [effect.message for effect in logged(effects)]
    assert f"generation 1 (pid {pid_of(1)}) answers without an end: it was killed" in lines
    assert state.stage == Ended(1)  # and not with 137, which would read like a shortage of memory


def test_a_candidate_that_could_not_be_asked_is_asked_again() -> None:
    """It may serve already: what was missing was our own descriptor, or the end of its answer."""
    state = starts(begin(SMALL, ONE_VIP), 1)
    for nothing in (Unanswered(1), Answered(1, listening(pid_of(1)).partition("Name: ")[0])):
        state = happens(state, nothing)[0]
        assert timers(state)[Timer(Clock.READY, 1)] == SMALL.ready_timeout
        state, effects = happens(state, Elapsed(Timer(Clock.ASK_AGAIN, 1)))
        assert effects == (AskCandidate(1),)
    state = happens(state, Answered(1, listening(pid_of(1))))[0]
    assert state.current


def test_a_candidate_that_has_answered_in_time_is_never_too_late() -> None:
    """PID 1 may have been stopped since, or the disk is slow: whoever is ready is not killed for it."""
    state = starts(begin(SMALL, ONE_VIP), 1, "a")
    state = happens(state, Answered(1, listening(pid_of(1))))[0]
    assert happens(state, Elapsed(Timer(Clock.READY, 1))) == (state, ())


def test_an_exporter_that_cannot_live_is_started_less_and_less_often() -> None:
    """Its port may be taken for good: the delay doubles to half a minute, until one has lived for ten seconds."""

    def die(state: State) -> tuple[State, float]:
        state, effects = happens(state, Exited(EXPORTER, 1))
        ((timer, delay),) = [(one, delay) for one, delay in timers(state).items() if one.clock is Clock.EXPORTER]
        (line,) = logged(effects)
        assert f"it is started again in {delay:g} s (--exporter :9101)" in line.message
        state, effects = happens(state, Elapsed(timer))
        assert effects == (SpawnExporter(),)
        return happens(state, Spawned(EXPORTER, 77))[0], delay

    state = happens(begin(CLIENTS, ()), Spawned(EXPORTER, 77))[0]
    assert not [one for one in timers(state) if one.clock in {Clock.EXPORTER, Clock.EXPORTS}]
    delays = []
    for _ in range(8):
        state, delay = die(state)
        delays.append(delay)
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]
    assert timers(state)[Timer(Clock.EXPORTS)] == 10
    state = happens(state, Elapsed(Timer(Clock.EXPORTS)))[0]
    assert die(state)[1] == 1


def _was_told(generation: Generation, *, stubborn: bool) -> bool:
    match generation.phase:
        case Ending(killed=True):
            return True
        case Candidate(given_up=why):
            return bool(why)
        case Ending() | Draining():
            return not stubborn
        case _:
            return False


def _is_looked_for(generation: Generation) -> bool:
    return isinstance(generation.phase, Candidate) and not generation.phase.looked


def _stop(state: State, *, stubborn: bool) -> int:
    """Send TERM until it has ended; return the exit status. A stubborn process dies of SIGKILL only."""
    dying = [generation.number for generation in state.generations if _was_told(generation, stubborn=stubborn)]
    for _ in range(3):
        state, effects = happens(state, Signalled(signal.SIGTERM))
        for _ in range(40):
            sent = (effect for effect in effects if isinstance(effect, Send))
            dying += [effect.number for effect in sent if effect.signum == signal.SIGKILL or not stubborn]
            if isinstance(state.stage, Ended):
                return state.stage.status
            unborn = [one for one in state.generations if one.pid is None and not _is_looked_for(one)]
            if unborn:
                state, effects = happens(state, Spawned(unborn[0].number, pid_of(unborn[0].number)))
            elif dying:
                state, effects = happens(state, Exited(dying.pop(), -9))
            else:
                due = sorted(timers(state), key=repr)
                if not due:
                    break
                state, effects = happens(state, Elapsed(due[0]))
    pytest.fail(f"never ends: {state}")


@pytest.mark.parametrize("stubborn", [False, True], ids=["that obey", "that only SIGKILL ends"])
def test_term_leads_to_the_end_from_every_state(states: set[State], stubborn: bool) -> None:
    """Stopping always works: from everywhere, with processes that obey and with those that do not."""
    for state in states:
        if not isinstance(state.stage, Ended):
            already = state.stage.status if isinstance(state.stage, Stopping) else 0
            assert _stop(state, stubborn=stubborn) == already, state


def test_a_process_that_must_end_gets_sigcont(transitions: list[Transition]) -> None:
    """A process that Ctrl-Z has stopped would handle no signal but SIGKILL, and never exit."""
    ended = 0
    for taken in transitions:
        sent = [effect for effect in taken.effects if isinstance(effect, Send) and effect.number != EXPORTER]
        if isinstance(taken.event, Spawned):
            # Nobody has had the time to stop it.
            continue
        to_end = {effect.number for effect in sent if effect.signum == signal.SIGTERM}
        if isinstance(taken.after.stage, Stopping) and not isinstance(taken.before.stage, Stopping):
            to_end |= {one.number for one in taken.after.generations if not isinstance(one.phase, Ending)}
        ended += len(to_end)
        assert to_end <= {effect.number for effect in sent if effect.signum == signal.SIGCONT}, taken
    assert ended


def _vips_are_left_to_the_current_one(
    transitions: list[Transition], leaves: Callable[[State], Generation | None]
) -> None:
    seen = 0
    for taken in transitions:
        leaver, current = leaves(taken.before), taken.before.current
        if leaver and current and taken.event == Exited(leaver.number, 0):
            seen += 1
            bound = {bind.descriptor for bind in current.binds}
            wanted = tuple(tag for tag, descriptor in taken.before.vips if descriptor in bound)
            assert Listen(wanted) in taken.effects, taken
    assert seen


def test_a_failed_candidate_leaves_the_vips_to_the_current_generation(transitions: list[Transition]) -> None:
    """Whatever it listened on before it failed listens no longer, unless the current generation uses it."""
    _vips_are_left_to_the_current_one(transitions, lambda state: state.candidate)


def test_one_that_dies_before_it_has_let_go_leaves_the_vips_to_its_successor() -> None:
    """A dead process cannot wake up any more: VIPs that nobody uses now refuse their clients at once."""
    _vips_are_left_to_the_current_one(explore(VARIANTS["every limit near"]).transitions, lambda state: state.retiring)


@pytest.mark.parametrize("version", ["2.6", "3.0", "3.2"])
def test_half_an_answer_closes_no_vip(version: str) -> None:
    """A candidate may be killed while it answers: what it had no time to say is not what it does not use."""
    vips = tuple((f"FD_{number}", number) for number in range(3, 10))
    whole = "\n" + "".join(answer(version, command.replace(" ", "-")) for command in runtime_api.of_a_candidate()[1:])
    seen = set()
    for length in range(0, len(whole), 7):
        state, effects = happens(begin(CLIENTS, vips), Seen(Why.START, Disk(), 1), Spawned(1, PIDS[version]))
        assert AskCandidate(1) in effects
        state, effects = happens(state, Answered(1, whole[:length]))
        seen |= {effect for effect in effects if isinstance(effect, Listen)}
        used = tuple(f"FD_{number}" for number in range(3, 9))
        assert seen <= {Listen(used), Listen(used, ("FD_9",))}, whole[:length]
    assert Listen(used) in seen


def _current(more: str = "", listeners: int = 0) -> tuple[State, list[Effect]]:
    """Return the state in which the first generation has become current with VIP 3, and what followed from that."""
    state = starts(begin(SMALL), 1)
    text = listening(pid_of(1), bound=(3,), others=listeners)
    state, effects = happens(state, Answered(1, more + text))
    return state, list(effects)


def _retiring() -> tuple[State, str]:
    """Return the state in which the second generation has become current, and what the first was asked."""
    state, _ = happens(_current()[0], Signalled(signal.SIGUSR1))
    state, effects = happens(starts(state, 2), Answered(2, listening(pid_of(2))))
    return state, next(";".join(effect.commands) for effect in effects if isinstance(effect, Ask))


def _events(effects: Iterable[Effect]) -> list[str]:
    return [effect.event for effect in logged(effects)]


def test_a_vip_that_no_bind_uses_stops_listening_where_both_answers_agree() -> None:
    """What `show fd` lists is as much as `show info` counts."""
    _, effects = _current(listeners=2)
    assert Listen(("FD_A",)) in effects
    assert "unused_vips" in _events(effects)


SOMEBODY_ELSES = "     20 : st=0x000023( prmsk=0x1 l.st=RDY fe=x lport=1\nListeners: 3\n"


@pytest.mark.parametrize("more", ["Listeners: 9\n", SOMEBODY_ELSES], ids=["not listed", "not known"])
def test_a_vip_that_may_be_used_goes_on_listening(more: str) -> None:
    """Where one answer does not account for the other, nothing is closed, and a warning says so."""
    state, effects = _current(more)
    assert Listen(("FD_A",), ("FD_B",)) in effects
    assert _events(effects).count("doubtful_vips") == 1
    assert "unused_vips" not in _events(effects)
    (line,) = [effect.message for effect in logged(effects) if effect.event == "doubtful_vips"]
    assert "FD_B" in line
    assert "FD_A" not in line
    assert retiring.follow(restore(SMALL, serialize(state))) == (Listen(("FD_A",), ("FD_B",)),)


def test_one_that_was_asked_in_vain_is_asked_again() -> None:
    """That a command line is too long, or any other error, is not that nobody polls."""
    state, asked = _retiring()
    assert asked == "disable frontend f3;show info;show fd 3"
    for text in ("The command line is too big for the buffer size.\n", "Unknown command: 'show fd'\n", "\n"):
        after, effects = happens(state, Answered(1, text))
        assert after.retiring
        assert effects == ()
        after, effects = happens(after, Elapsed(Timer(Clock.ASK_AGAIN, 1, 1)))
        assert effects == (Ask(1, ("show info", "show fd 3")),)


def test_one_that_cannot_be_paused_is_not_waited_for() -> None:
    """It goes on accepting until it is told to leave, which it is at once, and a warning says what that costs."""
    state, effects = happens(_retiring()[0], Answered(1, listening(pid_of(1))))
    assert not state.retiring
    assert any(isinstance(effect, Send) and (effect.number, effect.signum) == (1, signal.SIGUSR1) for effect in effects)
    assert "still_polling" in _events(effects)


def test_a_vip_out_of_our_reach_is_soon_left_to_its_clients() -> None:
    """Where no connection of ours gets through only clients could help: that is waited for, but not 200 times."""
    rounds = {}
    for missed in (("FD_A",), ("FD_B",), ()):
        state, _ = _retiring()
        rounds[missed] = 0
        while state.retiring:
            rounds[missed] += 1
            state, effects = happens(state, Answered(1, listening(pid_of(1), paused=True)))
            if Poke(("FD_A",)) in effects:
                state, _ = happens(state, Poked(missed))
            if not state.retiring:
                assert "still_polling" in _events(effects)
                break
            state, _ = happens(state, Elapsed(Timer(Clock.ASK_AGAIN, 1, rounds[missed])))
    assert rounds == {("FD_A",): 21, ("FD_B",): 201, (): 201}


def test_nothing_happens_after_the_end(transitions: list[Transition]) -> None:
    """Ended is final."""
    seen = 0
    for taken in transitions:
        if isinstance(taken.before.stage, Ended):
            seen += 1
            assert taken.after == taken.before
            assert taken.effects == ()
    assert seen


def test_a_refused_configuration_is_replaced_by_the_last_known_good_one(transitions: list[Transition]) -> None:
    """Whenever nobody serves and the disk holds what fails, the next generation starts from what was good, at once."""
    for taken in transitions:
        before, candidate = taken.before, taken.before.candidate
        if (
            isinstance(taken.event, Exited)
            and candidate
            and candidate.number == taken.event.number
            and not before.current
            and isinstance(before.stage, Serving)
            and isinstance(candidate.phase, Candidate)
            and not candidate.kept
            and before.kept not in {"", candidate.digest}
        ):
            (spawn,) = [effect for effect in taken.effects if isinstance(effect, Spawn)]
            assert spawn.kept, taken
            assert taken.after.failed == candidate.digest or not candidate.digest


def test_only_what_has_served_from_the_disk_is_kept(transitions: list[Transition]) -> None:
    """The last known good configuration is one with which a generation became ready, never one from memory."""
    kept = 0
    for taken in transitions:
        for effect in taken.effects:
            if isinstance(effect, Keep):
                kept += 1
                generation = taken.after.find(effect.number)
                assert generation
                assert isinstance(generation.phase, Current | Retiring)
                assert not generation.kept
                assert taken.after.kept == generation.digest != ""
    assert kept or all(not taken.after.kept for taken in transitions)


def test_a_generation_becomes_current_only_with_what_is_still_on_disk(transitions: list[Transition]) -> None:
    """One that read while the files changed is not used; unless they never rest, or nobody serves."""
    for taken in transitions:
        new = taken.after.current
        old = taken.before.current
        if isinstance(taken.event, Seen) and new and not (old and old.number == new.number):
            was = taken.before.find(new.number)
            assert was
            assert isinstance(was.phase, Candidate)
            assert was.digest == taken.event.disk.digest or was.phase.tries or not old, taken


def test_what_has_failed_is_not_tried_again_unasked(transitions: list[Transition]) -> None:
    """As long as the content is the same, files that settle are no reason for a reload."""
    for taken in transitions:
        failed = taken.before.failed
        if isinstance(taken.event, Seen) and taken.event.why is Why.SETTLED and failed == taken.event.disk.digest != "":
            assert not any(isinstance(effect, Spawn) for effect in taken.effects), taken


def test_files_that_are_again_what_runs_end_the_failure(transitions: list[Transition]) -> None:
    """Nothing else that failed is remembered once the disk holds the configuration of the current generation."""
    for taken in transitions:
        current = taken.before.current
        match taken.event:
            case Seen(why=Why.SETTLED, disk=disk) if current and current.digest == disk.digest != "":
                assert taken.after.failed in {"", disk.digest}, taken
            case _:
                pass
