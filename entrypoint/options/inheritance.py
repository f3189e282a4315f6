"""What the launcher tells Python of what was there before it: one variable, whose format docker/launcher.c has."""

from entrypoint.lean.record import record

VARIABLE = "SAFE_RELOAD_INHERITED"


@record(frozen=True)
class Inheritance:
    """What CPython changes before the first line of Python runs, as it was."""

    blocked: int
    """The signal mask: a bit each, SIGHUP's is the lowest."""
    ignored: int
    """The ignored signals, likewise."""
    standard: tuple[int, ...] = ()
    """The numbers that stdin, stdout and stderr have now; none from a version that told no more than the signals."""
    lc_ctype: str | None = None
    """The variable LC_CTYPE; None if there was none."""


def parse_inheritance(text: str) -> Inheritance | None:
    """Read the variable; None where it is not the launcher's."""
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
    """Write the variable as the launcher does, for a program that takes our place."""
    standard = ",".join(str(number) for number in inheritance.standard)
    lc_ctype = "" if inheritance.lc_ctype is None else f":{inheritance.lc_ctype}"
    return f"{inheritance.blocked:016x}:{inheritance.ignored:016x}:{standard}{lc_ctype}"
