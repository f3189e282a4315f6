"""The state machine against a model kernel: processes that die at any moment, answers in any order, any signal."""

import signal

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from entrypoint.core import lifecycle
from entrypoint.core.effects import Ask, AskCandidate, CloseVips, Effect, Listen, Log, Look, Reply, Send, Spawn, Tell
from entrypoint.core.events import (
    Answered,
    Began,
    Disk,
    Elapsed,
    Event,
    Exited,
    NotSpawned,
    ReloadAsked,
    Request,
    Seen,
    Signalled,
    Spawned,
    Unanswered,
    Why,
)
from entrypoint.core.notices import Promoted, ReloadFailed
from entrypoint.core.state import Candidate, Draining, Ended, Lingering, State, Stopping, timers
from entrypoint.core.watching import FILES, RETRY
from entrypoint.haproxy import runtime_api
from tests.core.world import VIPS, listening, pid_of, settings


class Kernel(RuleBasedStateMachine):
    """Carries out effects on processes that are only numbers, and lets anything happen to them."""

    def __init__(self) -> None:
        """Start safe_reload."""
        super().__init__()
        self.alive: set[int] = set()
        self.asked: dict[int, tuple[str, ...]] = {}
        self.vips_open = True
        self.listening: tuple[str, ...] = ()
        self.on_disk = "a"
        self.looks: list[tuple[Why, int]] = []
        self.looks_for_start: list[int] = []
        """Those that are answered late, or after the candidate has gone on without."""
        self.steps = 0
        self.requests: dict[str, int] = {}
        """When each trigger asked for the reload that it waits for."""
        self.born: dict[int, int] = {}
        self.clients: dict[int, int] = {}
        """When each client asked for the reload that it waits for."""
        self.asked_ever = 0
        self.state = State(
            settings(watch=("off",), max_draining=2, drain_timeout=5.0, stop_timeout=5.0, stop_delay=1.0)
        )
        self.feed(Began(VIPS))

    def feed(self, event: Event) -> None:
        """Let something happen, and carry out what follows."""
        self.steps += 1
        unborn = self.unborn
        self.state, effects = lifecycle.step(self.state, event)
        for effect in effects:
            self.carry_out(effect)
        # Of these no process was ever told: they are not waited for without end.
        self.alive -= {number for number in unborn if not self.state.find(number)}
        while self.looks:
            why, number = self.looks.pop()
            self.feed(Seen(why, Disk(self.on_disk), number))

    def carry_out(self, effect: Effect) -> None:
        """Do what the loop would do."""
        match effect:
            case Spawn(number=number):
                assert number not in self.alive
                self.alive.add(number)
                self.born.setdefault(number, self.steps)
            case Ask(number=number, commands=commands):
                self.asked[number] = commands
            case AskCandidate(number=number):
                self.asked[number] = runtime_api.of_a_candidate()
            case Send(number=number, signum=signal.SIGKILL):
                self.asked.pop(number, None)
            case CloseVips():
                assert self.vips_open
                self.vips_open = False
            case Listen(tags=tags):
                assert self.vips_open
                self.listening = tags
            case Look(why=Why.START, number=number):
                self.looks_for_start.append(number)
                self.born[number] = self.steps
            case Look(why=why, number=number):
                self.looks.append((why, number))
            case Reply(client=client, success=success, number=number):
                asked_at = self.clients.pop(client)
                assert not success or self.born[number] >= asked_at
            case Log(event="left_behind", fields=fields):
                self.alive.discard(int(str(fields["generation"])))
            case Tell(notice=Promoted(trigger=trigger, number=number) | ReloadFailed(trigger=trigger, number=number)):
                self.answered(trigger, number)
            case Log(event="reload_refused", fields=fields):
                self.answered(str(fields["trigger"]), None)

    def answered(self, triggers: str, number: int | None) -> None:
        """Note that whoever asked has been answered, once, by a generation that was born after that."""
        for trigger in set(filter(None, triggers.split(", "))) - {"a client", FILES.trigger, RETRY.trigger}:
            asked_at = self.requests.pop(trigger)
            if number is not None:
                assert self.born[number] >= asked_at

    @property
    def unborn(self) -> list[int]:
        """Generations that wait for their process."""
        return [one.number for one in self.state.generations if one.pid is None and one.number in self.alive]

    @rule(signum=st.sampled_from([signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]))
    def reload(self, signum: signal.Signals) -> None:
        """Ask for a reload."""
        stopping = isinstance(self.state.stage, Lingering | Stopping | Ended)
        running = {
            r.trigger for g in self.state.generations if isinstance(g.phase, Candidate) for r in g.phase.asked_by
        }
        if not stopping and signum.name not in running:
            self.requests.setdefault(signum.name, self.steps)
            self.feed(Signalled(signum))

    @rule()
    def ask(self) -> None:
        """Ask for a reload, and wait for the answer."""
        if not isinstance(self.state.stage, Ended):
            self.asked_ever += 1
            self.clients[self.asked_ever] = self.steps
            self.feed(ReloadAsked(Request("a client", self.asked_ever)))

    @rule(signum=st.sampled_from([signal.SIGWINCH, signal.SIGCONT, signal.SIGRTMIN]))
    def other_signal(self, signum: int) -> None:
        """Send a signal that is the current generation's business."""
        self.feed(Signalled(signum))

    @rule(digest=st.sampled_from("ab"))
    def edit(self, digest: str) -> None:
        """Change the configuration, which nobody watches."""
        self.on_disk = digest

    @precondition(lambda self: self.steps > 10)
    @rule(signum=st.sampled_from([signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]))
    def stop(self, signum: int) -> None:
        """Ask for a stop; after some life, so that not every run is short."""
        self.feed(Signalled(signum))

    @precondition(lambda self: self.looks_for_start)
    @rule(finishes=st.booleans())
    def see(self, finishes: bool) -> None:
        """Have a look at the disk end that a candidate waits for, or has waited for."""
        disk = Disk(self.on_disk) if finishes else Disk(unreadable="it takes too long", unfinished=True)
        self.feed(Seen(Why.START, disk, self.looks_for_start.pop(0)))

    @precondition(lambda self: self.unborn)
    @rule(works=st.integers(0, 9))
    def spawn(self, works: int) -> None:
        """Have the process of a generation exist, mostly."""
        number = self.unborn[0]
        if works:
            self.feed(Spawned(number, pid_of(number)))
        else:
            self.alive.discard(number)
            self.feed(NotSpawned(number, "was not started: no", 1))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), status=st.sampled_from([0, 1, -9, -11]))
    def die(self, data: st.DataObject, status: int) -> None:
        """Let a process die."""
        number = data.draw(st.sampled_from(sorted(self.alive)))
        if number in self.unborn:
            return
        self.alive.discard(number)
        self.asked.pop(number, None)
        self.feed(Exited(number, status))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), bound=st.sampled_from([(3,), (4,), (3, 4), ()]), polled=st.booleans(), busy=st.integers(0, 1))
    def answer(self, data: st.DataObject, bound: tuple[int, ...], polled: bool, busy: int) -> None:
        """Let a CLI answer."""
        number = data.draw(st.sampled_from(sorted(self.asked)))
        del self.asked[number]
        self.feed(Answered(number, listening(pid_of(number), bound=bound, polled=polled, connections=busy)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        """Let a CLI close without an answer."""
        number = data.draw(st.sampled_from(sorted(self.asked)))
        del self.asked[number]
        self.feed(Unanswered(number))

    @precondition(lambda self: bool(timers(self.state)))
    @rule(data=st.data())
    def time_passes(self, data: st.DataObject) -> None:
        """Let a timer run out."""
        timer = data.draw(st.sampled_from(sorted(timers(self.state), key=repr)))
        self.feed(Elapsed(timer))

    @invariant()
    def the_vips_are_open_unless_it_stops(self) -> None:
        """Nothing takes the listeners down but a stop."""
        assert self.vips_open != isinstance(self.state.stage, Stopping | Ended)

    @invariant()
    def every_process_is_known(self) -> None:
        """No haproxy lives that is not a generation, and no generation without a process, or a look that it needs."""
        phases = {one.number: one.phase for one in self.state.generations}
        looked_for = {n for n, phase in phases.items() if isinstance(phase, Candidate) and not phase.looked}
        assert self.alive | looked_for == set(phases)
        assert not self.alive & looked_for
        assert looked_for <= set(self.looks_for_start)

    @invariant()
    def draining_is_bounded(self) -> None:
        """--max-draining holds."""
        draining = [g for g in self.state.generations if isinstance(g.phase, Draining)]
        assert isinstance(self.state.stage, Stopping) or len(draining) <= self.state.settings.max_draining

    @invariant()
    def every_client_gets_one_answer(self) -> None:
        """Every waiting client is known, and no client gets a second answer (`clients.pop` would fail)."""
        known = {request.client for request in self.state.waiting}
        for generation in self.state.generations:
            if isinstance(generation.phase, Candidate):
                known |= {request.client for request in generation.phase.asked_by}
        known |= {reply.client for reply in self.state.owed}
        assert set(self.clients) == known - {0}

    @invariant()
    def no_request_is_forgotten(self) -> None:
        """The client of a reload is waiting, is being served, or has been answered."""
        asked_by = [request for request in self.state.waiting if request not in {FILES, RETRY}]
        for generation in self.state.generations:
            if isinstance(generation.phase, Candidate):
                asked_by += (request for request in generation.phase.asked_by if request not in {FILES, RETRY})
        assert set(self.requests) == {request.trigger for request in asked_by if not request.client}


TestKernel = Kernel.TestCase
TestKernel.settings = hypothesis_settings(max_examples=300, stateful_step_count=60, deadline=None)
