"""The control server and systemd's status: created after the first haproxy has been started."""

from __future__ import annotations

from entrypoint.core.notices import Notice
from entrypoint.core.state import Candidate, State
from entrypoint.core.upgrade_state import UpgradeState
from entrypoint.lean.collections import Callable
from entrypoint.lean.typing import TYPE_CHECKING, Any
from entrypoint.pid1.children import Children
from entrypoint.pid1.outcomes import Outcomes
from entrypoint.pid1.parts import Parts
from entrypoint.pid1.runtime import Runtime

if TYPE_CHECKING:
    from entrypoint.pid1.control_server import ControlServer
    from entrypoint.pid1.presence import Presence
    from entrypoint.pid1.systemd_status import SystemdStatus
    from entrypoint.system.control_socket import Control


class Front:
    """Owns the control server, and what systemd is told."""

    def __init__(
        self,
        runtime: Runtime,
        parts: Parts,
        children: Children,
        outcomes: Outcomes,
        state: Callable[[], State],
        status: Callable[[dict[int, int | None]], dict[str, object]],
    ) -> None:
        """Open nothing yet; the arguments are those of `ControlServer`."""
        self._runtime = runtime
        self._parts = parts
        self._children = children
        self._state = state
        self._server_arguments = runtime, children, outcomes, state, status
        self._control_server: ControlServer | None = None
        self._systemd: SystemdStatus | None = None
        """None without a NOTIFY_SOCKET."""
        self._presence: Presence | None = None
        self._is_open = False

    def open_in_time(self) -> None:
        """Open everything once the first haproxy has been started: these imports run while it reads its configuration.

        It is not started before its files have been looked at, which ends after `state.LOOK_WITHIN` at the latest.
        """
        phases = [one.phase for one in self._state().generations]
        if not phases or any(not isinstance(phase, Candidate) or phase.looked for phase in phases):
            self.open()

    def open(self) -> None:
        """Open everything, unless it is open."""
        if self._is_open:
            return
        from entrypoint.pid1.presence import Presence  # noqa: PLC0415  # see `open_in_time`

        parts, runtime, settings = self._parts, self._runtime, self._parts.settings
        saved = parts.saved and parts.saved.control
        self._presence = Presence(settings.runtime_dir, parts.name, settings.poll, runtime.event_loop, runtime.log)
        self._presence.begin(self._opened, (saved[0], saved[1]) if saved else None, rehearses=parts.rehearses)
        if parts.notifier.active or parts.notifier.unusable or (parts.saved and parts.saved.systemd):
            from entrypoint.pid1.systemd_status import SystemdStatus  # noqa: PLC0415  # 60 KiB

            systemd = SystemdStatus(parts.notifier, runtime.event_loop, self._children.find, runtime.log)
            listeners = parts.listeners
            systemd.store(listeners.forgotten(), listeners.to_store(), listeners.stored())
            self._systemd = systemd
        # Last: until then each call tries everything again.
        self._is_open = True

    def _opened(self, control: Control) -> None:
        from entrypoint.pid1.control_server import ControlServer  # noqa: PLC0415

        if self._control_server:
            self._control_server.move_to(control)
        else:
            self._control_server = ControlServer(control, *self._server_arguments)

    def reply(self, client: int, text: str) -> None:
        """See `ControlServer.reply`."""
        if self._control_server:
            self._control_server.reply(client, text)

    def note(self, notice: Notice, message: str, stderr: str) -> None:
        """See `SystemdStatus.note`."""
        if self._systemd:
            self._systemd.note(notice, message, stderr)

    def update(self, state: State) -> None:
        """See `SystemdStatus.update`."""
        if self._systemd:
            self._systemd.update(state)

    def close(self) -> None:
        """Close everything, and drop all clients."""
        for one in (self._systemd, self._presence, self._control_server):
            if one:
                self._runtime.isolated(one.close)

    # ---- upgrade -----------------------------------------------------------------------------------------------------

    def serialize(self, client: int, *, others: bool) -> tuple[dict[str, Any], list[int]]:
        """Return everything as plain values, and the descriptors among it; for the arguments see `reexec.Serialize`."""
        server = self._control_server
        control = server.serialize(client) if server else None
        sessions, of_sessions = server.serialize_others(client) if server and others else ([], [])
        descriptors = [descriptor for descriptor in control[1:] if descriptor >= 0] if control else []
        saved = {
            "control": control,
            "sessions": sessions,
            "systemd": self._systemd.serialize() if self._systemd else {},
        }
        return saved, descriptors + of_sessions

    def restore(self, saved: UpgradeState) -> None:
        """Restore what the previous program told systemd."""
        if self._systemd and saved.systemd:
            self._systemd.resume(saved.systemd)

    def answer_upgrade(self, saved: UpgradeState, answer: str) -> None:
        """Answer the client that asked for the upgrade, if there is one.

        Raises:
            OSError: the descriptor is missing.

        """
        client = saved.control[2] if saved.control else -1
        if self._control_server and client >= 0:
            self._control_server.answer_upgrade(client, answer)

    def resume(self, saved: UpgradeState) -> None:
        """Restore all other clients.

        Raises:
            OSError: a descriptor is missing.

        """
        if self._control_server:
            self._control_server.resume(saved.sessions)
