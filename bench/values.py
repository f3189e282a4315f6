"""How the numbers of a run are found by their names, and written."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median


def named(key: str, repetitions: Iterable[Mapping[str, float]]) -> list[float]:
    """Return the values of one name, or of all whose names begin with it when it ends with a dot."""
    return [
        value
        for repetition in repetitions
        for name, value in repetition.items()
        if name == key or (key.endswith(".") and name.startswith(key))
    ]


def number(value: float, digits: int) -> str:
    """Write a number; what is almost zero is not written as zero."""
    if 0 < value < 10**-digits / 2:
        return f"{value:.1g}"
    return f"{value:,.{digits}f}"


def cell(values: Sequence[float], digits: int) -> str:
    """Write a median, and the least and the most when there are several."""
    if not values:
        return "-"
    text = number(median(values), digits)
    return text if len(values) == 1 else f"{text} ({number(min(values), digits)} to {number(max(values), digits)})"
