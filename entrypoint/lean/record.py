"""Records like those of `dataclasses`, at a tenth of the cost.

The standard library's decorator imports `inspect` and compiles every method from text: 2.5 MiB of resident memory and
half of the CPU time that the start of PID 1 may take. The type checker sees the standard library's decorator; at run
time the code below replaces it. It has no `__post_init__`, no inheritance and no `field()`, and leaves most checks of
arguments to the type checker.
"""

from __future__ import annotations

from entrypoint.lean.collections import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import replace
else:
    _MISSING = object()

    def record(*, frozen: bool = False) -> Callable[[type], type]:
        """Make a class with annotations a record: equal if type and values are, and hashable if frozen."""

        def make(cls: type) -> type:
            names = tuple(cls.__annotations__)
            cls.__match_args__ = names
            cls.__init__ = _init
            cls.__eq__ = _eq
            cls.__repr__ = _repr
            cls.__hash__ = _hash if frozen else None
            if frozen:
                cls.__setattr__ = cls.__delattr__ = _refuse
            return cls

        return make

    def replace(old: object, /, **changes: object) -> object:
        """Return a copy with these values changed."""
        copy = object.__new__(type(old))
        values = copy.__dict__
        values.update(old.__dict__)
        values.update(changes)
        if len(values) > len(old.__dict__):
            _complain(type(old), (), changes)
        return copy

    def _init(self: object, *values: object, **named: object) -> None:
        cls = type(self)
        names = cls.__match_args__
        fields = self.__dict__
        fields.update(getattr(cls, "_blank", None) or _note_defaults(cls))
        fields.update(zip(names, values, strict=False))
        fields.update(named)
        too_many = len(values) > len(names) or len(fields) > len(names)
        if too_many or any(fields[name] is _MISSING for name in cls._needed[len(values) :]):
            _complain(cls, values, named)

    def _note_defaults(cls: type) -> dict[str, object]:
        # In the order of the fields, so that equal records have equal hashes. At the first record, because most are
        # never made before haproxy is started.
        cls._blank = {name: cls.__dict__.get(name, _MISSING) for name in cls.__match_args__}
        cls._needed = tuple(name for name, value in cls._blank.items() if value is _MISSING)
        return cls._blank

    def _complain(cls: type, values: tuple[object, ...], named: dict[str, object]) -> None:
        raise TypeError(f"{cls.__name__} takes {', '.join(cls.__match_args__)}, not {values} {named}")

    def _eq(self: object, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def _hash(self: object) -> int:
        return hash((type(self), *self.__dict__.values()))

    def _repr(self: object) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def _refuse(self: object, name: str, *_: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")


__all__ = ["record", "replace"]
