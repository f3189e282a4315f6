"""What serves haproxy beside its processes: configurations, adopted listeners, and all who ask or are told."""

import os
import signal
import time
from collections.abc import Callable, Mapping

from entrypoint import __version__, upgrade
from entrypoint.births import IS_MASTER, exporter_birth
from entrypoint.configurations import Configurations
from entrypoint.core import retiring, runtime_api, watching
from entrypoint.core.events import (
    Began,
    CloseVips,
    Disk,
    Effect,
    Event,
    Exited,
    Keep,
    Level,
    Log,
    Look,
    Rehearse,
    Reply,
    Restored,
    Seen,
    Stirred,
    TakeOver,
    Upgrade,
    Why,
)
from entrypoint.core.heritage import to_plain
from entrypoint.core.history import BUCKETS, History
from entrypoint.core.inheritance import VARIABLE as INHERITED_VARIABLE
from entrypoint.core.inheritance import Inheritance, format_inheritance
from entrypoint.core.json_text import json_text
from entrypoint.core.look import Found
from entrypoint.core.notices import Died, Gone, Notice, Promoted, Recovered, ReloadFailed, StartFailed, Starting
from entrypoint.core.one_line import one_line, reason
from entrypoint.core.records import dataclass
from entrypoint.core.settings import Settings
from entrypoint.core.state import BackingOff, Candidate, Current, Lingering, State, Stopping
from entrypoint.core.types import TYPE_CHECKING, Any, assert_never
from entrypoint.core.vips import needs_v6only
from entrypoint.reader import Asked, Reader
from entrypoint.succession import Succession
from entrypoint.supervisor import Supervisor
from entrypoint.system.handover import Adopted, Passed, Taking
from entrypoint.system.listeners import Listeners
from entrypoint.system.notify import Notifier
from entrypoint.system.packets import PacketSocket
from entrypoint.system.predecessor import Predecessor
from entrypoint.system.processes import Birth
from entrypoint.system.signals import Inherited, bits_of, why_not_signalled

if TYPE_CHECKING:
    from entrypoint.desk import Desk
    from entrypoint.notices import Notices
    from entrypoint.presence import Presence
    from entrypoint.system.control import Control

_NO_DESCRIPTOR = "file descriptor ''"
"""What haproxy says of `fd@${TAG}` where there is no such variable, and all that it says of it."""
_ABOUT_PROGRAMS = ("'program' section", "unknown keyword 'program'")
"""What haproxy says of one up to 3.2, and from 3.3 on."""
_PROGRAMS = (
    "a `program` section is for haproxy's own master, and gone from HAProxy 3.3 on: take it out, and run its command as"
    " a service, or a container, of its own"
)
_TWO_DESCRIPTORS = ",fd@"
_CANNOT_BE_TWO = ("is not a valid integer", "can only be used with a single socket")
"""What haproxy says of a `bind` that cannot have the two sockets of a VIP `*`."""
_TWO_SOCKETS = (
    'a VIP of * is a socket of each family: write bind "fd@${TAG}" in double quotes and without `id`, '
    "or give the VIP 0.0.0.0, which is one of IPv4 alone"
)
_MOST_TOLD = 10
_STAGES = {BackingOff: "backing_off", Lingering: "lingering", Stopping: "stopping"}


@dataclass(slots=True)
class Parts:
    """What the service is made of; who made it closes nothing of it."""

    settings: Settings
    name: str
    environment: Mapping[str, str]
    listeners: Listeners
    adopted: Adopted
    configurations: Configurations
    notifier: Notifier
    read: Callable[[PacketSocket], None]
    """What the process does that reads files."""
    predecessor: Predecessor | None
    pid_file: str | None
    inherited: Inherited
    left: dict[str, Any] | None = None
    """What our last life has handed down, if this one is the next."""
    rehearses: bool = False
    """This is but the rehearsal of that: nobody else may notice."""


class HaproxyService:
    """The service of one instance in HAProxy mode."""

    def __init__(self, parts: Parts) -> None:
        """Take the parts; nothing happens before `begin`."""
        self._parts = parts
        self._history = History(time.time())
        self._began = time.monotonic()
        self._waiting: tuple[Passed, ...] | None = None
        self._closed = False
        self._words_of_last = ""
        self._startup_words = ""
        self._hint = ""
        """What may have been wrong with the generation that failed last, where haproxy's own words do not tell."""
        self._desk: Desk | None = None
        self._notices: Notices | None = None
        self._presence: Presence | None = None
        self._answers: list[tuple[int, str]] = []
        """For whom, and what, once the old generation accepts no more."""

    def begin(self, supervisor: Supervisor) -> Event:
        """Begin to serve; return what the core is told first."""
        parts = self._parts
        self._supervisor = supervisor
        self._succession = Succession(supervisor, self._variables, self._hand_down)
        if parts.left:
            return self._go_on(parts.left)
        self._reader = Reader(supervisor, parts.read, self)
        if parts.settings.state_dir:
            self._reader.restore()
        return Began(parts.listeners.descriptors())

    def _open(self) -> None:
        """Begin to answer and to tell, once the first haproxy has been started: it need not wait for this."""
        from entrypoint.desk import Desk, House  # noqa: PLC0415  # see above
        from entrypoint.notices import Notices  # noqa: PLC0415
        from entrypoint.presence import Presence  # noqa: PLC0415

        parts, supervisor = self._parts, self._supervisor
        house = House(
            state=lambda: self._state,
            submit=supervisor.submit,
            child_of=supervisor.child,
            status=self._status,
            startup_words=lambda: self._startup_words,
            began=self._began,
            ages=self._age,
            failures=lambda: self._history.failures,
        )

        def opened(control: "Control") -> None:
            if self._desk:
                self._desk.move_to(control)
            else:
                self._desk = Desk(control, supervisor.sources, house)

        left = parts.left and parts.left["control"]
        settings = parts.settings
        self._presence = Presence(settings.runtime_dir, parts.name, settings.poll, supervisor.sources, supervisor.log)
        self._presence.begin(opened, left[:2] if left else None, rehearses=parts.rehearses)
        # Last: as long as they are missing, all of this is tried again.
        notices = Notices(parts.notifier, supervisor.sources, supervisor.child, supervisor.log)
        listeners = parts.listeners
        notices.store(listeners.forgotten(), listeners.to_store(), listeners.stored())
        self._notices = notices

    def _go_on(self, left: dict[str, Any]) -> Event:
        """Take up what our last life has handed down; the files may have changed while nobody watched."""
        self._supervisor.inherit(left)
        self._reader = Reader(self._supervisor, self._parts.read, self)
        self._open()
        assert self._notices
        self._history = History.inherit(left["history"])
        self._began = left["began"]
        self._startup_words, self._words_of_last, self._hint = left["words_of_failures"]
        self._notices.resume(left["notices"])
        adopts, client = left["adopts"], left["control"] and left["control"][2]
        what = f"safe_reload {__version__} has taken over"
        if self._parts.rehearses:
            self._tell_asker(client, "")
            json_text(self._status({}))
            return Stirred()
        self._supervisor.log(Log(Level.INFO, "upgraded", what))
        self._supervisor.isolated(lambda: self._supervisor.adopt(adopts))
        self._supervisor.isolated(lambda: self._reader.inherit(left.get("readers", ())))
        self._supervisor.isolated(lambda: self._reader.look(Why.POLLED, 0))
        self._supervisor.isolated(self._keep_again)
        self._supervisor.isolated(self._let_vips_accept)
        # Last of all: whatever fails before is begun anew, and what follows could not be.
        self._supervisor.isolated(lambda: upgrade.has_begun(self._parts.environment))
        self._supervisor.isolated(lambda: self._tell_asker(client, f"Success=1\n--\n{what}\n\n"))
        if self._desk:
            desk, visits = self._desk, left.get("visits", ())
            self._supervisor.isolated(lambda: desk.resume(visits))
        return Stirred()

    def _tell_asker(self, client: int | None, answer: str) -> None:
        if self._desk and client is not None and client >= 0:
            self._desk.take_in(client, answer)

    def _let_vips_accept(self) -> None:
        for listen in retiring.follow(self._state):
            self._supervisor.listen(listen.tags, listen.doubtful)

    @property
    def _state(self) -> State:
        state = self._supervisor.machine.state
        assert isinstance(state, State)
        return state

    def _age(self, number: int) -> float:
        now = time.monotonic()
        return now - self._history.born.get(number, now)

    # ---- what happens ----------------------------------------------------------------------------------------------

    def found(self, found: Found, texts: int | None, asked: tuple[Asked, ...]) -> None:
        """Tell the core what a look at the disk has found, once for each that it was for."""
        disk = Disk(unreadable="it could not be looked at", unfinished=True)
        try:
            # A candidate that has died while the disk was read takes nobody's place.
            self._supervisor.reap()
            disk = self._parts.configurations.take(found)
            for why, number in asked:
                if why is Why.START and self._state.find(number):
                    self._parts.configurations.give(number, found, texts)
        except OSError as error:
            self._supervisor.log(Log(Level.ERROR, "system_error", f"look: {reason(error)}"))
        finally:
            # Whatever happened: a candidate waits for this.
            for why, number in asked:
                self._supervisor.submit(Seen(why, disk, number))

    def restored(self, problem: str, texts: int | None) -> None:
        """Tell the core that the state directory holds a last known good configuration."""
        try:
            if texts is not None:
                self._supervisor.submit(Restored(self._parts.configurations.restored(texts)))
        except (OSError, ValueError) as error:
            problem = reason(error)
        if problem:
            what = f"there is no last known good configuration from --state-dir: {problem}"
            self._supervisor.log(Log(Level.WARNING, "state_ignored", what))

    def not_kept(self, problem: str) -> None:
        """Say that the state directory could not be written."""
        what = f"the last known good configuration is kept in memory only: --state-dir cannot be written: {problem}"
        self._supervisor.log(Log(Level.WARNING, "not_kept", what))

    def stirred(self) -> None:
        """Tell the core that a file may have changed."""
        self._supervisor.submit(Stirred())

    def polling(self, why: str) -> None:
        """Note that not every change will be reported; the core learns it with the next look, which is now."""
        self._parts.configurations.polling(why)
        self._supervisor.submit(Stirred())

    def told(self, notice: Notice, message: str, words: str) -> None:
        """Note what has happened, for status, metrics and systemd."""
        match notice:
            case ReloadFailed() | StartFailed():
                hint = self._hint_for(notice, words)
                self._hint = hint.message if hint else ""
                if hint:
                    self._supervisor.log(hint)
                    message = f"{message}: {hint.message}"
                self._startup_words = self._words_of_last = words
            case Promoted(trigger=trigger):
                self._startup_words = words
                if trigger:
                    self._words_of_last = words
            case Recovered():
                self._words_of_last = ""
            case Starting() | Died() | Gone():
                pass
            case _:
                assert_never(notice)
        self._history.note(notice, message, time.time(), time.monotonic())
        if self._notices:
            self._notices.note(notice, message, words)

    def _hint_for(self, failed: ReloadFailed | StartFailed, words: str) -> Log | None:
        """Return what may have been wrong, where haproxy's own words do not tell."""
        if _NO_DESCRIPTOR in words:
            event, hint = "missing_vips", self._missing_vips()
        elif _TWO_DESCRIPTORS in words and any(complaint in words for complaint in _CANNOT_BE_TWO):
            event, hint = "two_sockets", _TWO_SOCKETS
        elif failed.forked:
            event, hint = "master_worker", self._master_worker()
        elif any(complaint in words for complaint in _ABOUT_PROGRAMS):
            event, hint = "program_section", _PROGRAMS
        else:
            return None
        return Log(Level.ERROR, event, hint) if hint else None

    def _missing_vips(self) -> str:
        """Name the tags that are no VIPs."""
        known = {*self._parts.listeners.tags(), *self._parts.environment}
        missing = [tag for tag in self._parts.configurations.found.tags if tag not in known]
        if not missing:
            return ""
        more = f" and {len(missing) - _MOST_TOLD} more" if len(missing) > _MOST_TOLD else ""
        names = f"{', '.join(missing[:_MOST_TOLD])}{more}"
        return f"not in --vips: {names}; correct the `bind`, or give the VIP, such as --vips '*:80:{missing[0]}'"

    def _master_worker(self) -> str:
        """Say that a `master-worker` must be what made haproxy fork, if there is one."""
        where = self._parts.configurations.found.conditional_master_worker
        return f"{where}: remove `master-worker`, whose condition holds: {IS_MASTER}" if where else ""

    @property
    def holds(self) -> bool:
        """Whether there are ordinary listeners to let go of."""
        return bool(self._parts.adopted.sockets)

    def binds_itself(self, number: int, answer: str) -> bool:
        """Tell from what a generation answered to `show info` whether it has ordinary listeners."""
        generation = self._state.find(number)
        return generation is not None and runtime_api.listens_elsewhere(answer, len(generation.binds))

    def passed(self, taking: Taking) -> None:
        """Keep the listeners that a generation has passed; not while a candidate is taking those that are kept."""
        if taking.failure:
            what = f"the ordinary listeners are not held by safe_reload: the generation {taking.failure}"
            self._supervisor.log(Log(Level.WARNING, "not_adopted", what))
            return
        self._drop_waiting()
        self._waiting = taking.sockets
        if self._closed:
            # What was asked for before the stop would keep clients waiting for nobody.
            self._drop_waiting()
        self.offered(open_offers=self._supervisor.offers_open)

    def unanswered(self, number: int) -> None:
        """Say that what a generation has bound itself is not known; what was kept before is still kept."""
        if not self._closed:
            what = f"generation {number} does not say which ordinary listeners it has: those it bound are not held"
            self._supervisor.log(Log(Level.WARNING, "not_adopted", what))

    def offered(self, *, open_offers: bool) -> None:
        """Keep what was passed while a candidate was taking something."""
        if open_offers or self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        before = self._parts.adopted.addresses
        self._parts.adopted.renew(waiting, self._parts.listeners.inodes())
        after = self._parts.adopted.addresses
        if after != before:
            held = f"holds the ordinary listeners {', '.join(after)}" if after else "holds no ordinary listener"
            anew = ", ".join(filter(needs_v6only, after))
            doubt = f"; without v6only in its `bind` each generation binds its own instead: {anew}" if anew else ""
            self._supervisor.log(Log(Level.INFO, "adopted", f"safe_reload {held}{doubt}"))

    def _drop_waiting(self) -> None:
        for one in self._waiting or ():
            one.socket.close()
        self._waiting = None

    def decided(self) -> None:
        """Tell systemd what has become true, and those who have asked for a reload.

        While the old generation still lets go of the VIPs, it may accept what comes after the answer.
        """
        if not self._notices:
            self._open()
        assert self._notices
        notices, state = self._notices, self._state
        # Nobody will ever start from what one that leaves was started from.
        needed = [one.number for one in (state.candidate, state.current) if one]
        self._supervisor.isolated(lambda: self._parts.configurations.retain(needed))
        self._supervisor.isolated(lambda: notices.update(self._state))
        self._find_lost()
        while self._answers and self._desk and not self._state.retiring:
            client, text = self._answers.pop(0)
            self._desk.reply(client, text)

    def _find_lost(self) -> None:
        """Have the core told of deaths that it waits for and that were lost; nothing else would ever make them good."""
        for one in self._state.generations:
            if one.pid is not None and self._supervisor.has_lost(one.number):
                what = f"generation {one.number} (pid {one.pid}) is gone, and nobody was told: that is a bug"
                self._supervisor.log(Log(Level.ERROR, "bug", what))
                self._supervisor.submit(Exited(one.number, -signal.SIGKILL))

    # ---- what is to be done ----------------------------------------------------------------------------------------

    def carry_out(self, effect: Effect) -> None:
        """Carry out an effect that is not about processes.

        Raises:
            OSError: the kernel refuses.

        """
        parts = self._parts
        match effect:
            case CloseVips():
                self._closed = True
                for close in (parts.listeners.close, self._drop_waiting, parts.adopted.close):
                    self._supervisor.isolated(close)
            case Look(why=why, number=number):
                self._reader.look(why, number)
            case Keep(number=number):
                self._keep(number)
            case Reply(client=client, success=success, message=message, number=number):
                words = ""
                try:
                    words = self._words_for(number, success=success)
                except Exception as error:  # noqa: BLE001  # who waits is told what became of it, if not all about it
                    self._supervisor.unexpected(error)
                self._answers.append((client, f"Success={int(success)}\n--\n{words}{one_line(message)}\n\n"))
            case TakeOver():
                if parts.predecessor:
                    self._take_over(parts.predecessor)
            case Rehearse(client=client):
                self._succession.rehearse(client)
            case Upgrade(client=client):
                self._succession.take_place(client)
            case _:
                raise AssertionError(effect)

    def _take_over(self, predecessor: Predecessor) -> None:
        """Tell the haproxy that served before to leave."""
        who = f"the haproxy that served before (pid {predecessor.pid})"
        try:
            predecessor.retire()
        except PermissionError:
            what = f"{who} does not leave, and shares the clients with us: {why_not_signalled()}; or stop it yourself"
            self._supervisor.log(Log(Level.ERROR, "not_permitted", what))
        else:
            self._supervisor.log(Log(Level.INFO, "taken_over", f"{who} is told to leave"))

    def _words_for(self, number: int, *, success: bool) -> str:
        """Return what whoever asked for a reload must know beside its end."""
        hints = (self._hint,) if self._hint and number and not success else ()
        notes = "".join(f"{one_line(line)}\n" for line in (*hints, *self._parts.configurations.notes))
        return self._supervisor.words_of(number) + notes

    def _keep(self, number: int) -> None:
        texts = self._parts.configurations.keep(number)
        if texts is None:
            return
        if self._parts.settings.state_dir:
            self._reader.keep(texts)
        else:
            os.close(texts)

    def _keep_again(self) -> None:
        """Have done what our last life may not have finished: the state directory written, or read."""
        if not self._parts.settings.state_dir:
            return
        texts = self._parts.configurations.kept()
        if texts is None:
            self._reader.restore()
        else:
            self._reader.keep(texts)

    def exporter(self) -> Birth:
        """Return how the exporter is started."""
        return exporter_birth(self._parts.settings, self._parts.name, self._parts.environment, upgrade.own_words)

    def close(self) -> None:
        """End: hang up on everybody who asks."""
        if self._notices:
            notices = self._notices
            self._supervisor.isolated(lambda: notices.update(self._state))
        for one in (self._notices, self._presence, self._desk):
            if one:
                self._supervisor.isolated(one.close)
        self._supervisor.isolated(self._reader.close)

    # ---- another program takes our place ---------------------------------------------------------------------------

    def _hand_down(self, client: int, *, others: bool) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return everything that the next life needs, and the descriptors among it.

        Args:
            client: who has asked for it.
            others: with all other clients; a rehearsal would keep them from seeing that we have hung up.

        """
        parts = self._parts
        assert self._notices
        listeners = parts.listeners.hand_down()
        adopted = parts.adopted.hand_down()
        control = self._desk.hand_down(client) if self._desk else None
        visits, of_visits = self._desk.hand_down_others(client) if self._desk and others else ([], [])
        configurations, texts = parts.configurations.hand_down()
        left = {
            **self._supervisor.hand_down(),
            "state": to_plain(self._state),
            "listeners": listeners,
            "adopted": adopted,
            "control": control,
            "visits": visits,
            "configurations": configurations,
            "readers": self._reader.hand_down(),
            "history": self._history.hand_down(),
            "notices": self._notices.hand_down(),
            "began": self._began,
            "words_of_failures": (self._startup_words, self._words_of_last, self._hint),
        }
        descriptors = [one[1] for one in listeners]
        descriptors += [one[0] for one in adopted]
        descriptors += [descriptor for descriptor in control[1:] if descriptor >= 0] if control else []
        descriptors += texts
        descriptors += left["channels"].values()
        descriptors += [descriptor for descriptor, *_ in left["words"].values()]
        return left, (*descriptors, *of_visits)

    def _variables(self) -> dict[str, str]:
        environment = dict(self._parts.environment)
        for name in (upgrade.HEIR_VARIABLE, upgrade.REHEARSAL_VARIABLE):
            environment.pop(name, None)
        blocked, ignored = bits_of(self._parts.inherited.blocked), bits_of(self._parts.inherited.ignored)
        inheritance = Inheritance(blocked, ignored, (0, 1, 2), environment.get("LC_CTYPE"))
        return {**environment, INHERITED_VARIABLE: format_inheritance(inheritance)}

    # ---- the status ------------------------------------------------------------------------------------------------

    def _status(self, connections: dict[int, int | None]) -> dict[str, object]:
        # Who asks whether we live has us look.
        self._supervisor.reap()
        self._find_lost()
        state, history, parts = self._state, self._history, self._parts
        current = state.current
        disk = state.disk
        last = history.last
        return {
            "version": __version__,
            "name": parts.name,
            "pid": os.getpid(),
            "stage": _STAGES.get(type(state.stage), "serving"),
            "uptime_seconds": round(time.monotonic() - self._began, 3),
            "pid_file": parts.pid_file,
            "generations": [
                {
                    "number": one.number,
                    "pid": one.pid,
                    "state": _public(one.phase),
                    "age_seconds": round(self._age(one.number), 3),
                    "connections": connections.get(one.number),
                    "sha256": one.digest or None,
                    "last_known_good": one.kept,
                    "asked_by": history.asked_by.get(one.number),
                }
                for one in state.generations
            ],
            "vips": parts.listeners.status(),
            "adopted": parts.adopted.addresses,
            "configuration": {
                "sha256": (current.digest or None) if current else None,
                "disk_sha256": disk.digest or None,
                "pending": bool(current and disk.digest and disk.digest != current.digest),
                "last_known_good": bool(current and current.kept),
                "files": parts.configurations.found.files,
                "failed_sha256": state.failed or state.retried or None,
                "retries": state.retries,
                "unreadable": disk.unreadable or None,
                "incomplete": watching.unfinished(state),
            },
            "last_reload": last
            and {
                "result": "success" if last.success else "failure",
                "trigger": last.trigger,
                "generation": last.number,
                "at": round(last.at, 3),
                "seconds": None if last.seconds is None else round(last.seconds, 6),
                "message": last.message,
                "words": self._words_of_last,
            },
            "last_success_at": history.last_success and round(history.last_success, 3),
            "watch": {
                "mode": parts.configurations.mode(disk),
                "stale_mounts": parts.configurations.found.stale,
                "files": parts.configurations.found.count,
            },
            "restarts": {
                "in_a_row": state.deaths,
                "limit": parts.settings.restart_limit,
                "by_reason": history.restarts,
            },
            "log": {"lines_lost": self._supervisor.lines_lost},
            "reloads": [
                {"trigger": trigger, "result": result, "count": count}
                for (trigger, result), count in history.reloads.items()
            ],
            "reload_seconds": {
                "buckets": [list(pair) for pair in zip(BUCKETS, history.buckets, strict=True)],
                "sum": round(history.seconds, 6),
                "count": history.finished,
            },
        }


def _public(phase: object) -> str:
    return "candidate" if isinstance(phase, Candidate) else "current" if isinstance(phase, Current) else "draining"
