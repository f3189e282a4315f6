"""The answers to `status` and `show proc`."""

from __future__ import annotations

import os
import time

from entrypoint import __version__
from entrypoint.core import watching
from entrypoint.core.history import BUCKETS
from entrypoint.core.state import BackingOff, Candidate, Current, Lingering, State, Stopping
from entrypoint.lean.collections import Callable
from entrypoint.pid1 import master_cli
from entrypoint.pid1.master_cli import Process
from entrypoint.pid1.outcomes import Outcomes
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.server_states import MOST_LISTED, ServerStates

_PHASES = {Candidate: "candidate", Current: "current"}
_STAGES = {BackingOff: "backing_off", Lingering: "lingering", Stopping: "stopping"}


def status(
    parts: Parts, outcomes: Outcomes, servers: ServerStates, state: State, connections: dict[int, int | None]
) -> dict[str, object]:
    """Return the status as documented in docs/control-socket.md; `connections` has None for unknown numbers."""
    history, current, disk = outcomes.history, state.current, state.disk
    found = parts.configurations.found
    last = history.last
    return {
        "version": __version__,
        "name": parts.name,
        "pid": os.getpid(),
        "stage": _STAGES.get(type(state.stage), "serving"),
        "uptime_seconds": round(time.monotonic() - outcomes.began, 3),
        "pid_file": parts.pid_file.path if parts.pid_file else None,
        "generations": [
            {
                "number": one.number,
                "pid": one.pid,
                "state": _PHASES.get(type(one.phase), "draining"),
                "age_seconds": round(outcomes.age(one.number), 3),
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
            "files": found.files,
            "failed_sha256": state.failed or state.retried or None,
            "retries": state.retries,
            "unreadable": disk.unreadable or None,
            "incomplete": watching.incomplete_files(state),
        },
        "last_reload": last
        and {
            "result": "success" if last.success else "failure",
            "kind": last.kind,
            "trigger": last.trigger,
            "generation": last.number,
            "at": round(last.at, 3),
            "seconds": None if last.seconds is None else round(last.seconds, 6),
            "message": last.message,
            "words": outcomes.logs_of_last,
        },
        "last_success_at": history.last_success and round(history.last_success, 3),
        "watch": {"mode": parts.configurations.mode(disk), "stale_mounts": found.stale, "files": found.count},
        "restarts": {
            "in_a_row": state.deaths,
            "limit": state.settings.restart_limit,
            "by_reason": history.restarts,
        },
        "server_state": {
            "mode": str(state.settings.server_state),
            "kept": len(servers.kept),
            "servers": [str(one) for one in servers.kept[:MOST_LISTED]],
        },
        "log": {"lines_lost": parts.logger.lines_lost},
        "reloads": [
            {"trigger": trigger, "result": result, "kind": kind, "count": count}
            for (trigger, result, kind), count in history.reloads.items()
        ],
        "reload_seconds": {
            "buckets": [list(pair) for pair in zip(BUCKETS, history.buckets, strict=True)],
            "sum": round(history.seconds, 6),
            "count": history.finished,
        },
    }


def show_proc(outcomes: Outcomes, state: State, version_of: Callable[[int], str]) -> str:
    """Return the answer to `show proc`; `version_of` returns an empty text for unknown versions."""
    reloads = f"{max(0, state.last_number - 1)} [failed: {outcomes.history.failures}]"
    master = Process(os.getpid(), "master", reloads, time.monotonic() - outcomes.began, __version__)
    current: list[Process] = []
    old: list[Process] = []
    for one in reversed(state.generations):
        if one.pid is not None and not isinstance(one.phase, Candidate):
            reloads, version = str(state.last_number - one.number), version_of(one.number) or "-"
            process = Process(one.pid, "worker", reloads, outcomes.age(one.number), version)
            (current if isinstance(one.phase, Current) else old).append(process)
    return master_cli.show_proc(master, current, old)
