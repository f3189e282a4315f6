"""The ordinary listeners: what a generation has bound itself, held for the next one."""

from collections.abc import Callable

from entrypoint.core.effects import Log
from entrypoint.haproxy import runtime_api
from entrypoint.lean.level import Level
from entrypoint.options.vips import needs_v6only
from entrypoint.system.getsocks.adopted import Adopted
from entrypoint.system.getsocks.passed import Passed
from entrypoint.system.getsocks.request import SocketRequest


class OrdinaryListeners:
    """Owns what a generation has passed while a candidate still takes what is kept; after that it is kept instead."""

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
            adopted: what is kept.
            vips: returns the inodes of the sockets that are held as VIPs.
            log: writes a line.
            may_take: tells whether a candidate still takes what is kept.
            binds_of: returns how many listeners a generation has on VIPs; None of one that is gone.

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
        """Whether there are some to let go of."""
        return bool(self._adopted.sockets)

    def binds_itself(self, number: int, answer: str) -> bool:
        """Tell from what a generation answered to `show info` whether it has ordinary listeners."""
        binds = self._binds_of(number)
        return binds is not None and runtime_api.listens_elsewhere(answer, binds)

    def passed(self, taking: SocketRequest) -> None:
        """Keep the listeners that a generation has passed; not while a candidate is taking those that are kept."""
        if taking.failure:
            what = f"the ordinary listeners are not held by safe_reload: the generation {taking.failure}"
            self._log(Log(Level.WARNING, "not_adopted", what))
            return
        self._drop_waiting()
        self._waiting = taking.sockets
        if self._closed:
            # What was asked for before the stop would keep clients waiting for nobody.
            self._drop_waiting()
        self.taken()

    def taken(self) -> None:
        """Keep what was passed while a candidate was taking something, if none is any more."""
        if self._waiting is None or self._may_take():
            return
        waiting, self._waiting = self._waiting, None
        before = self._adopted.addresses
        self._adopted.renew(waiting, self._vips())
        after = self._adopted.addresses
        if after != before:
            held = f"holds the ordinary listeners {', '.join(after)}" if after else "holds no ordinary listener"
            anew = ", ".join(filter(needs_v6only, after))
            doubt = f"; without v6only in its `bind` each generation binds its own instead: {anew}" if anew else ""
            self._log(Log(Level.INFO, "adopted", f"safe_reload {held}{doubt}"))

    def close(self) -> None:
        """Let go of all of them, for ever."""
        self._closed = True
        try:
            self._drop_waiting()
        finally:
            self._adopted.close()

    def _drop_waiting(self) -> None:
        for one in self._waiting or ():
            one.socket.close()
        self._waiting = None
