"""A decision function together with the state it is at, so that one loop can run any of them."""

from collections.abc import Callable

from entrypoint.core.events import Effect, Event, Timer
from entrypoint.core.records import dataclass
from entrypoint.core.state import Ended
from entrypoint.core.types import Generic, Protocol, TypeVar


class HasStage(Protocol):
    """What must be known of a state: whether it has ended."""

    @property
    def stage(self) -> object:
        """Ended, or anything else."""


S = TypeVar("S", bound=HasStage)


@dataclass(slots=True)
class Machine(Generic[S]):
    """The only thing that changes while safe_reload decides."""

    state: S
    step: Callable[[S, Event], tuple[S, tuple[Effect, ...]]]
    timers: Callable[[S], dict[Timer, float]]

    def feed(self, event: Event) -> tuple[Effect, ...]:
        """Let something have happened; return what is to be done."""
        self.state, effects = self.step(self.state, event)
        return effects

    def running(self) -> dict[Timer, float]:
        """Return the timers that run, with their durations in seconds."""
        return self.timers(self.state)

    @property
    def status(self) -> int | None:
        """The exit status, once it has ended."""
        return self.state.stage.status if isinstance(self.state.stage, Ended) else None
