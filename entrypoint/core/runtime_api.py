"""What a generation's CLI says of itself: the questions, and the meaning of the answers.

HAProxy's management guide, section 9.3, documents `show info`, `disable frontend` and `show fd`; the fields of
`show fd` are its source's (`cli_io_handler_show_fd`) and the same from HAProxy 2.6 to 3.2.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

WHO = "show info"
DESCRIPTORS = "show fd"

_FIELD = r"^{name}: (\d+)$"
_PID = re.compile(_FIELD.format(name="Pid"), re.MULTILINE)
_CONNECTIONS = re.compile(_FIELD.format(name="CurrConns"), re.MULTILINE)
_LISTENER = re.compile(
    r"^ *(?P<descriptor>\d+) : .* prmsk=0x(?P<polling>[0-9a-f]+) .*"
    r"l\.st=\S+ fe=(?P<frontend>\S+)(?:.* lport=(?P<port>\d+))?",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Bind:
    """A listener of a generation: its descriptor there, and the frontend it belongs to."""

    descriptor: int
    frontend: str


def pid(answer: str) -> int | None:
    """Return the pid of the process that answered `show info`."""
    found = _PID.search(answer)
    return int(found[1]) if found else None


def connections(answer: str) -> int | None:
    """Return how many client connections the process has, from `show info`."""
    found = _CONNECTIONS.search(answer)
    return int(found[1]) if found else None


def binds_on(answer: str, vips: Iterable[int]) -> tuple[Bind, ...]:
    """Return the listeners that share a VIP's socket, from `show fd`.

    Args:
        answer: what `show fd` printed.
        vips: the VIPs' descriptors, which have the same numbers in the process as here.

    A `bind` with `shards`, or a second one on the same tag, listens on a copy that HAProxy made of the descriptor:
    it is known by its frontend and port.

    """
    wanted = frozenset(vips)
    listeners = [(int(found["descriptor"]), found["frontend"], found["port"]) for found in _LISTENER.finditer(answer)]
    shared = {(frontend, port) for descriptor, frontend, port in listeners if descriptor in wanted and port}
    return tuple(
        Bind(descriptor, frontend)
        for descriptor, frontend, port in listeners
        if descriptor in wanted or (frontend, port) in shared
    )


def still_polled(answer: str) -> frozenset[int]:
    """Return the listeners' descriptors that at least one thread's poller still holds, from `show fd`."""
    return frozenset(int(found["descriptor"]) for found in _LISTENER.finditer(answer) if int(found["polling"], 16))


def look(binds: Iterable[Bind]) -> tuple[str, ...]:
    """Ask how many connections there are, and who polls these listeners."""
    return (WHO, *(f"{DESCRIPTORS} {bind.descriptor}" for bind in binds))


def pause(binds: Iterable[Bind]) -> tuple[str, ...]:
    """Ask for the frontends of these listeners to stop accepting.

    `disable frontend` only stops reading an inherited descriptor (since commit 64763342a of January 2023, in every
    branch from 2.4 on); SIGTTOU would disconnect every other listening socket of the process, shared ones included.
    """
    return tuple(dict.fromkeys(f"disable frontend {bind.frontend}" for bind in binds))
