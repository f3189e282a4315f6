"""Who asks and who is told: the clients of the control socket, and systemd."""

from collections.abc import Callable

from entrypoint.core.notices import Notice
from entrypoint.core.state import State
from entrypoint.core.upgrade_state import UpgradeState
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
    """Owns the control socket with its clients, and what systemd is told, from when the first haproxy is started."""

    def __init__(
        self,
        runtime: Runtime,
        parts: Parts,
        children: Children,
        outcomes: Outcomes,
        state: Callable[[], State],
        status: Callable[[dict[int, int | None]], dict[str, object]],
    ) -> None:
        """Begin with nobody.

        Args:
            runtime: what they are waited for with.
            parts: what PID 1 is made of.
            children: the generations, whom clients may ask through us.
            outcomes: how starts and reloads have ended.
            state: returns the core's.
            status: puts the status together, given the number of connections of each generation.

        """
        self._runtime = runtime
        self._parts = parts
        self._children = children
        self._outcomes = outcomes
        self._state = state
        self._status = status
        self._control_server: ControlServer | None = None
        self._systemd: SystemdStatus | None = None
        self._presence: Presence | None = None

    def open(self) -> None:
        """Begin to answer and to tell, unless that has begun; the first haproxy need not wait for this."""
        if self._systemd:
            return
        from entrypoint.pid1.presence import Presence  # noqa: PLC0415
        from entrypoint.pid1.systemd_status import SystemdStatus  # noqa: PLC0415  # see above

        parts, runtime, settings = self._parts, self._runtime, self._parts.settings
        left = parts.left and parts.left.control
        self._presence = Presence(settings.runtime_dir, parts.name, settings.poll, runtime.event_loop, runtime.log)
        self._presence.begin(self._opened, (left[0], left[1]) if left else None, rehearses=parts.rehearses)
        # Last: as long as they are missing, all of this is tried again.
        systemd = SystemdStatus(parts.notifier, runtime.event_loop, self._children.find, runtime.log)
        listeners = parts.listeners
        systemd.store(listeners.forgotten(), listeners.to_store(), listeners.stored())
        self._systemd = systemd

    def _opened(self, control: "Control") -> None:
        from entrypoint.pid1.control_server import ControlServer  # noqa: PLC0415

        if self._control_server:
            self._control_server.move_to(control)
        else:
            self._control_server = ControlServer(
                control, self._runtime, self._children, self._outcomes, self._state, self._status
            )

    def reply(self, client: int, text: str) -> None:
        """Give a client what it has waited for, if it still is there."""
        if self._control_server:
            self._control_server.reply(client, text)

    def note(self, notice: Notice, message: str, stderr: str) -> None:
        """Tell systemd what has happened, as `SystemdStatus.note` says."""
        if self._systemd:
            self._systemd.note(notice, message, stderr)

    def update(self, state: State) -> None:
        """Tell systemd what has become true."""
        if self._systemd:
            self._systemd.update(state)

    def close(self) -> None:
        """End: hang up on everybody who asks."""
        for one in (self._systemd, self._presence, self._control_server):
            if one:
                self._runtime.isolated(one.close)

    # ---- another program takes our place ---------------------------------------------------------------------------

    def serialize(self, client: int, *, others: bool) -> tuple[dict[str, Any], list[int]]:
        """Return all of it as plain values, and the descriptors among it.

        Args:
            client: who has asked for it.
            others: with all other clients.

        """
        assert self._systemd
        server = self._control_server
        control = server.serialize(client) if server else None
        sessions, of_sessions = server.serialize_others(client) if server and others else ([], [])
        descriptors = [descriptor for descriptor in control[1:] if descriptor >= 0] if control else []
        left = {"control": control, "sessions": sessions, "systemd": self._systemd.serialize()}
        return left, descriptors + of_sessions

    def restore(self, left: UpgradeState) -> None:
        """Go on with what our last life has told systemd."""
        assert self._systemd
        self._systemd.resume(left.systemd)

    def tell_asker(self, left: UpgradeState, answer: str) -> None:
        """Answer who has asked for the upgrade, if he is there.

        Raises:
            OSError: the descriptor is not there.

        """
        client = left.control[2] if left.control else -1
        if self._control_server and client >= 0:
            self._control_server.take_in(client, answer)

    def resume(self, left: UpgradeState) -> None:
        """Go on with the other clients of our last life.

        Raises:
            OSError: a descriptor is not there.

        """
        if self._control_server:
            self._control_server.resume(left.sessions)
