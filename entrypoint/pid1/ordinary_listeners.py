"""The ordinary listeners: those that a generation has bound itself, held for the next one."""

from collections.abc import Callable

from entrypoint.core.effects import Log
from entrypoint.haproxy import runtime_api
from entrypoint.lean.level import Level
from entrypoint.options.vips import needs_v6only
from entrypoint.system.getsocks import Passed
from entrypoint.system.getsocks.offer import Adopted
from entrypoint.system.getsocks.request import SocketRequest


class OrdinaryListeners:
    """Owns listeners that were passed while a candidate still takes the held ones; they replace those afterwards."""

    def __init__(
        self,
        adopted: Adopted,
        vips: Callable[[], frozenset[int]],
        log: Callable[[Log], None],
        may_take: Callable[[], bool],
        binds_of: Callable[[int], int | None],
    ) -> None:
        """Begin.

        Args:
            adopted: the held listeners.
            vips: returns the inodes of the sockets of all VIPs.
            log: writes a line.
            may_take: tells whether a candidate may still take the held listeners.
            binds_of: returns the number of a generation's listeners on VIPs; None after its exit.

        """
        self._adopted = adopted
        self._vips = vips
        self._log = log
        self._may_take = may_take
        self._binds_of = binds_of
        self._waiting: tuple[Passed, ...] | None = None
        self._closed = False

    @property
    def holds(self) -> bool:
        """Whether any are held."""
        return bool(self._adopted.sockets)

    def binds_itself(self, number: int, answer: str) -> bool:
        """Tell from a generation's answer to `show info` whether it has ordinary listeners."""
        binds = self._binds_of(number)
        return binds is not None and runtime_api.listens_elsewhere(answer, binds)

    def passed(self, request: SocketRequest) -> None:
        """Hold the listeners that a generation has passed, once no candidate takes the held ones."""
        if request.failure:
            what = f"the ordinary listeners are not held by safe_reload: the generation {request.failure}"
            self._log(Log(Level.WARNING, "not_adopted", what))
            return
        self._drop_waiting()
        self._waiting = request.sockets
        if self._closed:
            # Listeners requested before the stop would only keep clients waiting.
            self._drop_waiting()
        self.taken()

    def taken(self) -> None:
        """Hold the waiting listeners, unless a candidate still takes the held ones."""
        if self._waiting is None or self._may_take():
            return
        waiting, self._waiting = self._waiting, None
        before = self._adopted.addresses
        self._adopted.renew(waiting, self._vips())
        after = self._adopted.addresses
        if after != before:
            held = f"holds the ordinary listeners {', '.join(after)}" if after else "holds no ordinary listener"
            dual = ", ".join(filter(needs_v6only, after))
            hint = f"; without v6only in its `bind` each generation binds its own instead: {dual}" if dual else ""
            self._log(Log(Level.INFO, "adopted", f"safe_reload {held}{hint}"))

    def close(self) -> None:
        """Close all of them, and those that are passed later."""
        self._closed = True
        try:
            self._drop_waiting()
        finally:
            self._adopted.close()

    def _drop_waiting(self) -> None:
        for one in self._waiting or ():
            one.socket.close()
        self._waiting = None
