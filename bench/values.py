"""How the numbers of a run are found by their names."""

from collections.abc import Iterable, Mapping


def named(key: str, repetitions: Iterable[Mapping[str, float]]) -> list[float]:
    """Return the values of one name, or of all whose names begin with it when it ends with a dot."""
    return [
        value
        for repetition in repetitions
        for name, value in repetition.items()
        if name == key or (key.endswith(".") and name.startswith(key))
    ]
