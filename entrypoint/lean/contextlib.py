"""Replaces `contextlib`, which takes 1.1 ms at the start of PID 1, with `functools` and `collections` that it imports.

The type checker sees the standard library's names; at run time the code below replaces them. It has what PID 1 uses:
`ExitStack` has no more than callbacks.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack, closing, contextmanager, suppress
else:

    class suppress:  # noqa: N801  # as in the standard library
        """Suppress these exceptions."""

        __slots__ = ("_kinds",)

        def __init__(self, *kinds: type[BaseException]) -> None:
            """Take the kinds."""
            self._kinds = kinds

        def __enter__(self) -> None:
            """Do nothing."""

        def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
            """Tell whether the exception is suppressed."""
            return kind is not None and issubclass(kind, self._kinds)

    class closing:  # noqa: N801  # as in the standard library
        """Close something at the end."""

        def __init__(self, thing: object) -> None:
            """Take it."""
            self._thing = thing

        def __enter__(self) -> object:
            """Return it."""
            return self._thing

        def __exit__(self, *_: object) -> None:
            """Close it."""
            self._thing.close()

    class ExitStack:
        """Call at the end what was given to `callback`, the last first."""

        def __init__(self) -> None:
            """Begin with nothing to call."""
            self._actions = []

        def callback(self, action: object, /, *arguments: object, **named: object) -> None:
            """Call this at the end."""
            self._actions.append((action, arguments, named))

        def pop_all(self) -> ExitStack:
            """Return another stack that calls at its end what this one no longer calls."""
            other = ExitStack()
            other._actions, self._actions = self._actions, other._actions  # of its own kind
            return other

        def __enter__(self) -> ExitStack:  # noqa: PYI034  # no module `typing` here
            """Return the stack."""
            return self

        def __exit__(self, *_: object) -> None:
            """Call everything; of several exceptions the last is raised, with the others as its context."""
            while self._actions:
                action, arguments, named = self._actions.pop()
                try:
                    action(*arguments, **named)
                except BaseException:
                    self.__exit__()
                    raise

    class _Generated:
        """The context manager that a generator makes."""

        def __init__(self, generator: object) -> None:
            self._generator = generator

        def __enter__(self) -> object:
            return next(self._generator)

        def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
            if error is None:
                next(self._generator, None)
                return False
            try:
                self._generator.throw(error)
            except StopIteration:
                return True
            return False

    def contextmanager(function: object) -> object:
        """Make a generator function, with one `yield`, a context manager."""
        return lambda *arguments, **named: _Generated(function(*arguments, **named))


__all__ = ["ExitStack", "closing", "contextmanager", "suppress"]
