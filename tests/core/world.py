"""A small world for the state machine: what can happen in a state, and how states that differ only in names are one."""

import signal
from collections.abc import Iterable, Iterator

from entrypoint.core import lifecycle
from entrypoint.core.effects import (
    Adopt,
    Apply,
    Ask,
    AskCandidate,
    AskHandshakes,
    Effect,
    Log,
    Look,
    Rehearse,
    Spawn,
    SpawnExporter,
    Tell,
)
from entrypoint.core.events import (
    EXPORTER,
    Adopted,
    Answered,
    Applied,
    Began,
    Clock,
    Disk,
    Elapsed,
    Event,
    Exited,
    NotAdopted,
    NotSpawned,
    Poked,
    Reaped,
    Rehearsed,
    ReloadAsked,
    Request,
    Restored,
    Seen,
    Signalled,
    Spawned,
    Stirred,
    StopAsked,
    Unanswered,
    UpgradeAsked,
    Why,
)
from entrypoint.core.log_lines import line_of
from entrypoint.core.state import (
    Candidate,
    Current,
    Draining,
    Ended,
    Ending,
    Generation,
    Phase,
    Retiring,
    State,
    timers,
)
from entrypoint.lean.record import replace
from entrypoint.options.settings import Restart, Settings, read_settings

VIPS = (("FD_A", 3), ("FD_B", 4))
FIRST_PID = 1000


def settings(**changes: object) -> Settings:
    """Return the default settings with some changes."""
    return replace(read_settings((), {})[0], **changes)  # type: ignore[arg-type]  # the caller's names are Settings' own


OFF = ("off",)
SMALL = settings(watch=OFF, max_draining=1, drain_timeout=1.0, restart_limit=2, stop_delay=1.0, stop_timeout=1.0)
"""Every timer runs, and every limit is near."""
WATCHING = settings(max_draining=1, restart_limit=1)
"""Files change."""
RETRYING = settings(watch=OFF, max_draining=1, restart_limit=1, drain_timeout=1.0)
"""Reloads fail for other reasons than the configuration, and are tried again."""
HANGING = settings(max_draining=1, restart_limit=1, debounce=0.3)
"""Files change, and what they are on hangs at times."""
APPLYING = settings(max_draining=1, restart_limit=1, debounce=0.4)
"""Files change, and the current generation may take them."""
CLIENTS = settings(watch=OFF, max_draining=1, restart_limit=1, exporter=":9101")
"""Somebody waits for answers, and there is an exporter."""
ORDINARY = settings(watch=OFF, max_draining=1, restart_limit=1)
"""haproxy binds listeners of its own, and passes them on or does not."""
DATAGRAMS = settings(watch=OFF, max_draining=1, restart_limit=1, stop_delay=1.0)
"""Generations have QUIC listeners, on a VIP of which each has its own socket."""
VARIANTS = {
    "every limit near": SMALL,
    "no delay, no limits": settings(watch=OFF, max_draining=1, restart_limit=2),
    "no restart": settings(watch=OFF, max_draining=1, restart=Restart.NO, stop_delay=1.0),
    "files change": WATCHING,
    "other reasons to fail": RETRYING,
    "disks hang": HANGING,
    "files are applied": APPLYING,
    "clients and an exporter": CLIENTS,
    "ordinary listeners": ORDINARY,
    "datagrams": DATAGRAMS,
}
LEAVING = (Retiring, Draining, Ending)
DIGESTS = {WATCHING: ("a", "b"), HANGING: ("a",), APPLYING: ("a", "b")}
"""What the disk may hold; elsewhere it cannot be read."""
HANGS = Disk(unreadable="it takes too long", unfinished=True)
"""What is seen of one that does not answer."""
MIXED = "m"
"""The digest of what a generation runs that has taken only some of the files."""


QUIC_HANDLER = "quic_lstnr_sock_fd_iocb"
HANDSHAKE = "* 0x55[00]: scid=00 dcid=00\n  st=handshake        mux=null  expire=29s \n  fd=-1\n\n"


def finished(pid: int, handshakes: int = 0) -> str:
    """Write what a haproxy would answer to `show quic sock;show info`."""
    return f"{HANDSHAKE * handshakes}\nName: HAProxy\nVersion: 3.0.11\nPid: {pid}\n\n"


def logged(effects: Iterable[Effect]) -> list[Log]:
    """Return what is logged, in order."""
    told = [line_of(effect.notice) if isinstance(effect, Tell) else effect for effect in effects]
    return [line for line in told if isinstance(line, Log)]


def pid_of(number: int) -> int:
    """Return the pid that this world gives to a generation."""
    return FIRST_PID + number


def listening(
    pid: int,
    *,
    bound: tuple[int, ...] = (3,),
    others: int = 0,
    polled: bool = True,
    paused: bool = False,
    connections: int = 1,
    quic: tuple[int, ...] = (),
) -> str:
    """Write what a haproxy would answer to `show fd;show info`.

    `others` are listeners that are no VIPs, `quic` are those of `bound` that are QUIC's.
    """
    state = "PAU" if paused else "RDY"
    mask = "0x3" if polled else "0x0"
    handlers = dict.fromkeys(quic, QUIC_HANDLER)
    fds = "".join(
        f"      {fd} : st=0x{flags}(cl heopi W:sRa R:sRA) ref=0 gid=1 tmask=0x3 umask=0x0 prmsk={mask} pwmsk=0x0 "
        f"owner=0x55 iocb=0x55({handlers.get(fd, 'sock_accept_iocb')}) l.st={state} fe={frontend} fam=ipv4{port}\n"
        for fd, flags, frontend, port in (
            *((fd, "000023", f"f{fd}", f" lport=80{fd}") for fd in bound),
            *((fd, "100023", "other", f" lport=90{fd}") for fd in range(20, 20 + others)),
            (9, "000121", "GLOBAL", ""),
        )
    )
    listeners = len(bound) + others + 1  # its line to us
    jobs = listeners + connections + 2  # this conversation
    return (
        f"{fds}\nName: HAProxy\nVersion: 3.0.11\nPid: {pid}\nJobs: {jobs}\nListeners: {listeners}\n"
        f"CurrConns: {connections}\n\n"
    )


def owed(state: State) -> Iterator[Effect]:
    """Yield the effects that a state waits for an answer to."""
    for generation in state.generations:
        match generation:
            case Generation(number=number, phase=Candidate(looked=False)):
                yield Look(Why.START, number)
            case Generation(number=number, pid=None):
                yield Spawn(number)
            case Generation(number=number, phase=Candidate(given_up="", answer=answer)) if answer:
                yield Look(Why.CANDIDATE, number)
            case Generation(number=number, phase=Candidate(given_up="", asked=True)):
                yield AskCandidate(number)
            case Generation(number=number, phase=Retiring(asked=True, handshakes=True)):
                yield AskHandshakes(number)
            case Generation(number=number, phase=Retiring(asked=True)):
                yield Ask(number, ())
            case _:
                pass
    if state.transfer and state.transfer.asked and state.current:
        yield Adopt(state.current.number)
    if state.applying:
        yield Apply(state.applying)


def success_of(effect: Effect, state: State) -> Event | None:
    """Return how the world answers an effect that is carried out; None where nobody waits for an answer."""
    match effect:
        case Spawn(number=number):
            return Spawned(number, pid_of(number))
        case SpawnExporter():
            return Spawned(EXPORTER, pid_of(EXPORTER))
        case Look(why=why, number=number):
            candidate = state.find(number)
            return Seen(why, Disk(candidate.digest if candidate and candidate.digest else "a"), number)
        case Ask(number=number) | AskCandidate(number=number):
            asked = state.find(number)
            pid = asked.pid if asked and asked.pid else pid_of(number)
            return Answered(number, listening(pid, polled=False))
        case AskHandshakes(number=number):
            return Answered(number, finished(pid_of(number)))
        case Adopt(number=number):
            return Adopted(number)
        case Rehearse(client=client):
            return Rehearsed(client)
        case Apply(number=number):
            return Applied(number, Disk("b"), "b", ("map",), 0.01)
        case _:
            return None


def outcomes(number: int) -> Iterator[Applied]:
    """Yield every kind of answer to an `Apply` for a disk that holds "b"."""
    disk, file = Disk("b", applicable=True), ("map",)
    yield Applied(number, disk, "b", file, 0.01)
    yield Applied(number, Disk("a"), "a", file, 0.01)
    for refused in (False, True):
        yield Applied(number, disk, MIXED, file, 0.01, "no", refused)
        yield Applied(number, disk, problem="no", refused=refused)
    # Nothing was taken for sure, and yet something may be in use.
    yield Applied(number, disk, MIXED, problem="no")
    yield Applied(number, problem="no descriptor")
    yield Applied(number, HANGS, problem="the reader died")


def possible(state: State) -> Iterator[Event]:
    """Yield everything that can happen in a state, once each."""
    hanging = state.settings == HANGING
    watching = hanging or state.settings in {WATCHING, APPLYING}
    digests = DIGESTS.get(state.settings, ("",))
    if hanging:
        yield Signalled(signal.SIGTERM)
        yield Seen(Why.POLLED, HANGS)
        if not state.kept and not state.started:
            yield Restored("b")
    if state.settings == APPLYING:
        yield from _possible_while_applying(state)
    if not watching:
        yield Signalled(signal.SIGUSR1)
        yield Signalled(signal.SIGTERM)
    if state.settings == CLIENTS:
        if not state.owed:
            # Who is owed an answer asks for nothing else.
            yield ReloadAsked(Request("a client", 7))
        yield StopAsked("a client")
        yield UpgradeAsked(7)
        if state.retiring:
            yield from (Poked(()), Poked(("FD_A",)))
    elif not watching:
        yield Signalled(signal.SIGQUIT)
        if state.settings != SMALL:
            # They meet limits no sooner than others, and double what there is to visit.
            yield Signalled(signal.SIGWINCH)
            yield Reaped(99)
    if state.settings.exporter:
        yield from (Exited(EXPORTER, 1), Spawned(EXPORTER, 77)) if state.exporter else (Spawned(EXPORTER, 77),)
    if watching:
        # Where files are applied it would only double what there is to visit.
        yield from (Stirred(),) * (state.settings != APPLYING)
        for digest in digests:
            yield Seen(Why.SETTLED, Disk(digest))
    for generation in state.generations:
        yield from _possible_for(generation, digests, watching=watching, hanging=hanging)
        if state.settings == DATAGRAMS and generation.pid:
            yield from _possible_with_datagrams(generation, generation.pid)
    if state.settings == RETRYING and state.candidate and state.candidate.pid:
        yield Exited(state.candidate.number, 1, transient=True)
    if state.settings == ORDINARY and state.current:
        # Also of one that is asked no more, and of one that was asked before.
        yield from (Adopted(state.current.number), NotAdopted(state.current.number), NotAdopted(state.last_number))
    for timer in timers(state):
        if not (watching and timer.clock in {Clock.SERVED, Clock.READY}) and (hanging or timer.clock is not Clock.LOOK):
            yield Elapsed(timer)


def _possible_with_datagrams(generation: Generation, pid: int) -> Iterator[Event]:
    match generation.phase:
        case Candidate(looked=True, answer=""):
            yield Answered(generation.number, listening(pid, bound=(3, 4), quic=(4,)))
            yield Answered(generation.number, listening(pid, bound=(4,), quic=(4,)))
        case Retiring(asked=True, handshakes=True):
            yield Answered(generation.number, finished(pid))
            yield Answered(generation.number, finished(pid, 1))
            yield Answered(generation.number, finished(pid).partition("Pid: ")[0])
        case _:
            pass


def _possible_while_applying(state: State) -> Iterator[Event]:
    yield from (UpgradeAsked(7), Rehearsed(7))
    if not state.candidate:
        # Elsewhere requests wait for one another.
        yield Signalled(signal.SIGUSR1)
        yield Seen(Why.SETTLED, Disk("b", applicable=True))
    if state.applying:
        yield from outcomes(state.applying)
    elif state.current:
        # This one is late.
        yield Applied(state.current.number, Disk("b"), "b", ("map",), 0.01)


def _possible_for(
    generation: Generation, digests: tuple[str, ...], *, watching: bool, hanging: bool
) -> Iterator[Event]:
    number = generation.number
    if isinstance(generation.phase, Candidate) and not generation.phase.looked:
        for digest in digests:
            yield Seen(Why.START, Disk(digest), number)
        if hanging:
            yield Seen(Why.START, HANGS, number)
        return
    if hanging and isinstance(generation.phase, Candidate | Current) and not generation.digest:
        # It has not waited for this.
        yield Seen(Why.START, Disk("a"), number)
    if generation.pid is None:
        yield Spawned(number, pid_of(number))
        if not watching:
            yield NotSpawned(number, "was not started: no", 1)
        else:
            yield NotSpawned(number, "was not started: master-worker", 1, refused=True)
        return
    yield Exited(number, 0)
    if not watching:
        yield Exited(number, -signal.SIGKILL)
        yield Unanswered(number)
    match generation.phase:
        case Candidate(answer=answer) if answer:
            for digest in digests:
                yield Seen(Why.CANDIDATE, Disk(digest), number)
            if watching:
                yield Seen(Why.CANDIDATE, Disk(unreadable="no"), number)
        case Candidate():
            # Without a listener on a VIP nothing has to be retired, which is not what that variant is about.
            yield Answered(number, listening(generation.pid, bound=(), others=1))
            if not watching:
                yield Answered(number, listening(generation.pid))
                yield Answered(number, listening(1))
                yield Answered(number, listening(generation.pid).partition("Name: ")[0])
        case Retiring(asked=True):
            if not watching:
                yield Answered(number, listening(generation.pid, paused=True))
                yield Answered(number, listening(generation.pid, paused=True, connections=0))
                yield Answered(number, "The command line is too big for the buffer size.\n")
            yield Answered(number, listening(generation.pid, paused=True, polled=False))
        case _:
            yield Answered(number, "late")


def canonical(state: State) -> State:
    """Give the living generations the numbers that they would have in the shortest history."""
    state = replace(
        state,
        # That is one variant's business; everywhere else it would double what there is to visit.
        transfer=state.transfer if state.settings == ORDINARY else None,
        polls=0,
        exporters=min(state.exporters, 1),
        shortages=min(state.shortages, 1),
        settling=min(state.settling, 1),
        unfinished=0,
        polling=False,
        disk=replace(state.disk, unfinished=False),
    )
    if state.settings == APPLYING:
        # What is kept follows from what was; the other variants are about it.
        state = replace(state, kept="a" if state.started else "", retried="", retries=0)
    if isinstance(state.stage, Ended) or state.last_number < 2:
        return state
    names = {generation.number: index for index, generation in enumerate(state.generations, start=2)}
    generations = tuple(
        replace(
            generation,
            number=names[generation.number],
            phase=_canonical(generation.phase),
            pid=None if generation.pid is None else pid_of(names[generation.number]),
            # What one that leaves was started from is for the status alone.
            digest="" if isinstance(generation.phase, LEAVING) else generation.digest,
            kept=generation.kept and not isinstance(generation.phase, LEAVING),
        )
        for generation in state.generations
    )
    owed = tuple(replace(one, number=names.get(one.number, 0), message="") for one in state.owed)
    applying = state.applying and names.get(state.applying, 1)
    return replace(state, generations=generations, owed=owed, applying=applying, last_number=max([*names.values(), 2]))


def _canonical(phase: Phase) -> Phase:
    """Make one of all the reasons for which a candidate can be killed."""
    if isinstance(phase, Retiring) and phase.handshakes:
        # No round is the last one.
        return replace(phase, rounds=min(phase.rounds, 1))
    return replace(phase, given_up="why") if isinstance(phase, Candidate) and phase.given_up else phase


def happens(state: State, *events: Event) -> tuple[State, tuple[Effect, ...]]:
    """Let the core decide; return the effects of the last event."""
    effects: tuple[Effect, ...] = ()
    for event in events:
        state, effects = lifecycle.step(state, event)
    return state, effects


def starts(state: State, number: int, digest: str = "") -> State:
    """Return the state after the disk was looked at for a candidate, and its process exists."""
    return happens(state, Seen(Why.START, Disk(digest), number), Spawned(number, pid_of(number)))[0]


def begin(chosen: Settings, vips: tuple[tuple[str, int], ...] = VIPS) -> State:
    """Return the state after everything has been bound."""
    taking_turns = frozenset({4}) if chosen == DATAGRAMS else frozenset[int]()
    return happens(State(chosen), Began(vips, taking_turns))[0]


def serving(
    chosen: Settings, vips: tuple[tuple[str, int], ...] = VIPS, *, bound: tuple[int, ...] = (3,), others: int = 0
) -> State:
    """Return the state after generation 1 has answered that it listens on these descriptors (`listening`)."""
    return happens(starts(begin(chosen, vips), 1), Answered(1, listening(pid_of(1), bound=bound, others=others)))[0]
