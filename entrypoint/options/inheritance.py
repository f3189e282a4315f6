"""The variable in which the launcher (docker/launcher.c) records what CPython changes when it starts."""

from __future__ import annotations

from entrypoint.lean.record import record

VARIABLE = "SAFE_RELOAD_INHERITED"


@record(frozen=True)
class Inheritance:
    """The values before CPython started."""

    blocked: int
    """The signal mask; bit 0 is SIGHUP."""
    ignored: int
    """The ignored signals, as bits likewise."""
    standard: tuple[int, ...] = ()
    """The descriptors that hold stdin, stdout and stderr now; empty from a launcher that records only the signals."""
    lc_ctype: str | None = None
    """The variable LC_CTYPE; None if it was not set."""


def parse_inheritance(text: str) -> Inheritance | None:
    """Parse the variable; None if it has another format."""
    blocked, _, rest = text.partition(":")
    ignored, _, rest = rest.partition(":")
    standard, colon, lc_ctype = rest.partition(":")
    try:
        numbers = tuple(int(number) for number in standard.split(",")) if standard else ()
        inheritance = Inheritance(int(blocked, 16), int(ignored, 16), numbers, lc_ctype if colon else None)
    except ValueError:
        return None
    return inheritance if len(numbers) in (0, 3) else None


def format_inheritance(inheritance: Inheritance) -> str:
    """Return the variable's value, as the launcher writes it, for the version that an upgrade executes."""
    standard = ",".join(str(number) for number in inheritance.standard)
    lc_ctype = "" if inheritance.lc_ctype is None else f":{inheritance.lc_ctype}"
    return f"{inheritance.blocked:016x}:{inheritance.ignored:016x}:{standard}{lc_ctype}"
