"""What a generation's CLI says of itself: the questions, and the meaning of the answers.

HAProxy's management guide, section 9.3, documents `show info`, `disable frontend` and `show fd`; the fields of
`show fd` are its source's (`cli_io_handler_show_fd`) and the same from HAProxy 2.6 to 3.2.
"""

from collections.abc import Iterable, Iterator

from entrypoint.core.records import dataclass

WHO = "show info"
DESCRIPTORS = "show fd"
OF_A_CANDIDATE = (DESCRIPTORS, WHO)
"""Who it is comes last: an answer that says so is whole, also when the process has been killed while it answered.

Of half an answer it would look as if no `bind` used a VIP, and the VIP would be closed.
"""


@dataclass(frozen=True, slots=True)
class Bind:
    """A listener of a generation: its descriptor there, and the frontend it belongs to."""

    descriptor: int
    frontend: str
    mixed: bool = False
    """Its frontend has ordinary listeners as well, which a pause would disconnect for everybody who shares them."""


def pid(answer: str) -> int | None:
    """Return the pid of the process that answered `show info`."""
    return _number(answer, "Pid")


def connections(answer: str) -> int | None:
    """Return how many connections the process that answered `show info` has."""
    return _number(answer, "CurrConns")


def version(answer: str) -> str:
    """Return the version of the haproxy that answered `show info`; empty when it does not say."""
    return next((line[9:].strip() for line in answer.splitlines() if line.startswith("Version: ")), "")


def is_idle(answer: str) -> bool:
    """Tell whether nothing but its listeners and this conversation keeps the process alive, from `show info`.

    CurrConns would not do: it leaves out the sessions on the user's own `stats socket`. Measured, the conversation
    itself is one job in HAProxy 2.6 and two in 3.0 and 3.2; where in between that changes does not matter, because
    one too few only means that the listeners are looked at.
    """
    jobs, listeners = _number(answer, "Jobs"), _number(answer, "Listeners")
    own = 1 if "\nVersion: 2." in answer else 2
    return jobs is not None and listeners is not None and jobs - listeners <= own


def serves_nobody(answer: str) -> bool:
    """Tell whether the process listens on nothing but its own line to us, from `show info`.

    Without that line haproxy would have refused to start ("No enabled listener found"), as it does for an empty file.
    """
    listeners = _number(answer, "Listeners")
    return listeners is not None and listeners <= 1


def listens_elsewhere(answer: str, binds: int) -> bool:
    """Tell whether the process has more listeners than its line to us and so many on VIPs, from `show info`."""
    listeners = _number(answer, "Listeners")
    return listeners is not None and listeners > binds + 1


def binds_on(answer: str, vips: Iterable[int]) -> tuple[Bind, ...]:
    """Return the listeners that share a VIP's socket, from `show fd`.

    Args:
        answer: what `show fd` printed.
        vips: the VIPs' descriptors, which have the same numbers in the process as here.

    A `bind` with `shards`, or a second one on the same tag, listens on a copy that HAProxy made of the descriptor:
    it is known by its frontend and port.

    """
    wanted = frozenset(vips)
    listeners = tuple(_listeners(answer))
    shared = {one[1:3] for one in listeners if one[0] in wanted and one[2]}
    ours = [one for one in listeners if one[0] in wanted or one[1:3] in shared]
    mixed = {one[1] for one in set(listeners).difference(ours)}
    return tuple(Bind(number, frontend, frontend in mixed) for number, frontend, _, _ in ours)


def still_polled(answer: str) -> frozenset[int]:
    """Return the listeners' descriptors that at least one thread's poller still holds, from `show fd`."""
    return frozenset(number for number, _, _, pollers in _listeners(answer) if int(pollers, 16))


def _number(answer: str, name: str) -> int | None:
    """Return the value of a line `NAME: NUMBER`."""
    for line in answer.splitlines():
        key, _, value = line.partition(": ")
        if key == name and value.isdigit():
            return int(value)
    return None


def _listeners(answer: str) -> Iterator[tuple[int, str, str, str]]:
    """Yield of each descriptor that is a listener its number, its frontend, its port or "", and who polls it, a mask.

    There can be thousands, of 30 words a line: only the three are looked at.
    """
    for line in answer.splitlines():
        number, colon, rest = line.partition(" : ")
        if colon and " l.st=" in rest and number.strip().isdigit():
            frontend, port, pollers = (_word(rest, name) for name in (" fe=", " lport=", " prmsk="))
            if frontend and pollers:
                yield int(number), frontend, port, pollers


def _word(line: str, name: str) -> str:
    """Return the value of a word ` NAME=VALUE`, empty if there is none."""
    at = line.find(name)
    return line[at + len(name) :].partition(" ")[0] if at >= 0 else ""


def look(binds: Iterable[Bind]) -> tuple[str, ...]:
    """Ask how many connections there are, and who polls these listeners."""
    return (WHO, *(f"{DESCRIPTORS} {bind.descriptor}" for bind in binds))


def pause(binds: Iterable[Bind]) -> tuple[str, ...]:
    """Ask for the frontends of these listeners to stop accepting.

    `disable frontend` only stops reading an inherited descriptor (since commit 64763342a of January 2023, in every
    branch from 2.4 on); SIGTTOU would disconnect every other listening socket of the process, shared ones included.
    `disable frontend` would do that to the ordinary listeners of the same frontend, which others share: there a limit
    of no connection at all stops the accepting as well, and disconnects nothing. It is the second choice because with
    each connection that ends haproxy polls for a moment.
    """
    return tuple(
        dict.fromkeys(
            f"set maxconn frontend {bind.frontend} 0" if bind.mixed else f"disable frontend {bind.frontend}"
            for bind in binds
        )
    )
