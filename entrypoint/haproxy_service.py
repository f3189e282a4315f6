"""What serves haproxy beside its processes: configurations, adopted listeners, and all who ask or are told."""

import os
import sys
import time
from collections.abc import Mapping

from entrypoint import __version__
from entrypoint.births import exporter_birth
from entrypoint.configurations import Configurations
from entrypoint.core import runtime_api
from entrypoint.core.events import (
    Began,
    CloseVips,
    Effect,
    Keep,
    Level,
    Log,
    Look,
    Reply,
    Seen,
    Stirred,
    TakeOver,
    Upgrade,
)
from entrypoint.core.history import BUCKETS, History
from entrypoint.core.records import dataclass
from entrypoint.core.settings import Settings
from entrypoint.core.state import BackingOff, Candidate, Current, Lingering, State, Stopping
from entrypoint.desk import Desk, House
from entrypoint.notices import Notices
from entrypoint.supervisor import Supervisor
from entrypoint.system.control import Control
from entrypoint.system.handover import Adopted, Passed, Taking
from entrypoint.system.listeners import Listeners
from entrypoint.system.notify import Notifier
from entrypoint.system.predecessor import Predecessor
from entrypoint.system.processes import Birth

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
    control: Control | None
    notifier: Notifier
    predecessor: Predecessor | None
    pid_file: str | None


class HaproxyService:
    """The service of one instance in HAProxy mode."""

    def __init__(self, parts: Parts) -> None:
        """Take the parts; nothing happens before `begin`."""
        self._parts = parts
        self._history = History(time.time())
        self._began = time.monotonic()
        self._versions: dict[int, str] = {}
        self._waiting: tuple[Passed, ...] | None = None
        self._words_of_last = ""
        self._startup_words = ""

    def begin(self, supervisor: Supervisor) -> Began:
        """Begin to serve; return what the core is told first."""
        parts = self._parts
        self._supervisor = supervisor
        self._notices = Notices(parts.notifier, supervisor.sources, supervisor.session, supervisor.log)
        self._notices.store(parts.listeners.forgotten(), parts.listeners.to_store())
        house = House(
            state=lambda: self._state,
            submit=supervisor.submit,
            session=supervisor.session,
            status=self._status,
            startup_words=lambda: self._startup_words,
            versions=self._versions,
            began=self._began,
            ages=self._age,
        )
        self._desk = Desk(parts.control, supervisor.sources, house) if parts.control else None
        return Began(tuple(parts.listeners.tags().items()), parts.configurations.restore())

    @property
    def _state(self) -> State:
        state = self._supervisor.machine.state
        assert isinstance(state, State)
        return state

    def _age(self, number: int) -> float:
        now = time.time()
        return max(0.0, now - self._history.born.get(number, now))

    # ---- what happens ----------------------------------------------------------------------------------------------

    def spawned(self, number: int) -> None:  # noqa: ARG002  # whichever it is, the disk has just been read
        """Watch what a generation was started from."""
        self._watch()

    def _watch(self) -> None:
        configurations = self._parts.configurations
        had = configurations.inotify
        fresh = configurations.watch()
        if configurations.inotify and not had:
            self._supervisor.sources.add(configurations.inotify, self._stirred)
        if fresh:
            self._supervisor.submit(Stirred())

    def _stirred(self) -> None:
        inotify = self._parts.configurations.inotify
        assert inotify
        if inotify.read():
            self._supervisor.submit(Stirred())

    def gone(self, number: int) -> None:
        """Forget a generation that is no more."""
        self._parts.configurations.forget(number)
        self._versions.pop(number, None)

    def said(self, line: Log, words: str) -> None:
        """Note what was logged, for status, metrics and systemd."""
        self._history.note(line, time.time())
        match line.event:
            case "current":
                self._startup_words = words
                if line.fields.get("trigger"):
                    self._words_of_last = words
                self._notices.reload_failed("")
            case "reload_failed":
                self._words_of_last = words
                self._notices.reload_failed(_first_alert(words) or line.message)
            case "back":
                self._words_of_last = ""
                self._notices.reload_failed("")
            case _:
                pass

    def answered(self, number: int, text: str) -> None:
        """Note the version of a haproxy that has answered."""
        version = runtime_api.version(text)
        if version:
            self._versions[number] = version

    def passed(self, taking: Taking) -> None:
        """Keep the listeners that a generation has passed; not while a candidate is taking those that are kept."""
        if taking.failure:
            what = f"the ordinary listeners are not held by safe_reload: the generation {taking.failure}"
            self._supervisor.log(Log(Level.WARNING, "not_adopted", what))
            return
        self._drop_waiting()
        self._waiting = taking.sockets
        self.offered(open_offers=self._supervisor.offers_open)

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
            self._supervisor.log(Log(Level.INFO, "adopted", f"safe_reload {held}"))

    def _drop_waiting(self) -> None:
        for one in self._waiting or ():
            one.socket.close()
        self._waiting = None

    def settled(self) -> None:
        """Tell systemd what has become true."""
        self._notices.update(self._state)

    # ---- what is to be done ----------------------------------------------------------------------------------------

    def carry_out(self, effect: Effect) -> None:
        """Carry out an effect that is not about processes.

        Raises:
            OSError: the kernel refuses.

        """
        parts = self._parts
        match effect:
            case CloseVips():
                parts.listeners.close()
                self._drop_waiting()
                parts.adopted.close()
            case Look(why=why, number=number):
                _, disk = parts.configurations.read()
                self._watch()
                self._supervisor.submit(Seen(why, disk, number))
            case Keep(number=number):
                parts.configurations.keep(number)
            case Reply(client=client, success=success, message=message, number=number):
                if self._desk:
                    words = self._supervisor.words_of(number)
                    self._desk.reply(client, f"Success={int(success)}\n--\n{words}{message}\n")
            case TakeOver():
                if parts.predecessor:
                    parts.predecessor.retire()
                    what = f"the haproxy that served before (pid {parts.predecessor.pid}) is told to leave"
                    self._supervisor.log(Log(Level.INFO, "taken_over", what))
            case Upgrade(client=client):
                if self._desk:
                    self._desk.reply(client, "Success=0\n--\nnot in this version yet\n")
            case _:
                raise AssertionError(effect)

    def exporter(self) -> Birth:
        """Return how the exporter is started."""
        return exporter_birth(self._parts.settings, self._parts.name, self._parts.environment, own_words)

    def close(self) -> None:
        """End: hang up on everybody who asks."""
        self._notices.update(self._state)
        if self._desk:
            self._desk.close()

    # ---- the status ------------------------------------------------------------------------------------------------

    def _status(self, connections: dict[int, int | None]) -> dict[str, object]:
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
                "files": parts.configurations.files,
                "unreadable": disk.unreadable or None,
            },
            "last_reload": last
            and {
                "result": "success" if last.success else "failure",
                "trigger": last.trigger,
                "generation": last.number,
                "at": round(last.at, 3),
                "seconds": round(last.seconds, 6),
                "message": last.message,
                "words": self._words_of_last,
            },
            "last_success_at": history.last_success and round(history.last_success, 3),
            "watch": {
                "mode": parts.configurations.mode(disk),
                "stale_mounts": parts.configurations.stale,
                "files": len(parts.configurations.files),
            },
            "restarts": {
                "in_a_row": state.deaths,
                "limit": parts.settings.restart_limit,
                "by_reason": history.restarts,
            },
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


def _first_alert(words: str) -> str:
    """Return the first line in which haproxy says what is wrong, without its mark."""
    for line in words.splitlines():
        if line.startswith("[ALERT]"):
            return line.partition(" : ")[2].strip()
    return ""


def own_words() -> tuple[str, ...]:
    """Return the words that started this program, without its arguments; sys.argv leaves out the interpreter."""
    return tuple(sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1])
