"""What a generation's CLI says of itself: the questions, and the meaning of the answers.

HAProxy's management guide, section 9.3, documents `show info`, `disable frontend` and `show fd`; the fields of
`show fd` are its source's (`cli_io_handler_show_fd`) and the same from HAProxy 2.6 to 3.5.
"""

from collections.abc import Iterable, Iterator

from entrypoint.lean.record import record

WHO = "show info"
DESCRIPTORS = "show fd"
ROOM_FOR_SESSIONS = "set maxconn frontend #0 4096"
"""Has the CLI take more sessions than any `stats maxconn` says: ours are among them, and must not wait for the end of
those that the user has on a `stats socket`. #0 is the CLI's own frontend (haproxy's `cli_alloc_fe`)."""
OF_A_CANDIDATE = (ROOM_FOR_SESSIONS, DESCRIPTORS, WHO)
"""`show info` comes last, so an answer with the pid is complete even if the process was killed while answering.

Of half an answer it would look as if no `bind` used a VIP, and the VIP would be closed.
"""


_EXPORTED = 1 << 20
"""FD_EXPORTED of haproxy's fd-t.h, the same bit from 2.6 to 3.5: what it has bound, and not what it has inherited."""
_CLI = "GLOBAL"
"""The frontend of every `stats socket`."""
_DATAGRAMS = "(syslog_fd_handler"
"""What handles a `dgram-bind`; `show fd` does not call it a listener, and `show info` counts it."""


_MOST_DIGITS = 18
_LONGEST_VERSION = 100
"""Letters; haproxy's own have 20."""


@record(frozen=True)
class Bind:
    """A listener of a generation: its descriptor there, and the frontend it belongs to."""

    descriptor: int
    frontend: str
    mixed: bool = False
    """Its frontend has ordinary listeners as well, which a pause would disconnect for everybody who shares them.

    Or unix sockets, which HAProxy 2.6 does not pause.
    """


def pid(answer: str) -> int | None:
    """Return the pid of the process that answered `show info`."""
    return _number(answer, "Pid")


def connections(answer: str) -> int | None:
    """Return how many connections the process that answered `show info` has."""
    return _number(answer, "CurrConns")


def version(answer: str) -> str:
    """Return the version of the haproxy that answered `show info`; empty when it does not say."""
    return next(
        (line[9:].strip()[:_LONGEST_VERSION] for line in answer.splitlines() if line.startswith("Version: ")), ""
    )


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

    A `bind` with `shards`, a second one on the same tag, and one in several thread groups listen on copies that HAProxy
    made of the descriptor: what is inherited is known by not being exported, the copy by its frontend and port.

    """
    listeners = tuple(_listeners(answer))
    ours = _on_vips(listeners, frozenset(vips))
    known = frozenset(ours)
    mixed = {one.frontend for one in listeners if one not in known or not one.port}
    return tuple(Bind(one.descriptor, one.frontend, one.frontend in mixed) for one in ours)


def doubt(answer: str, vips: Iterable[int]) -> str:
    """Tell why a VIP may have a `bind` although binds_on() has none for it, from `show fd` and `show info`.

    `show fd` is made for debugging, and what it prints differs between versions. So it counts only where another answer
    agrees: the number of listeners, and that each of them is known as a VIP's, an ordinary one, or our own line.

    Returns:
        A clause without a subject; empty where both agree.

    """
    listeners = tuple(_listeners(answer))
    count = _number(answer, "Listeners")
    if len(listeners) != count:
        return f"names {len(listeners)} of {'an unknown number of' if count is None else count} listeners (`show fd`)"
    known = {*_on_vips(listeners, frozenset(vips)), *(one for one in listeners if one.exported or one.frontend == _CLI)}
    # In several thread groups HAProxy 3.0 copies a unix socket that it has bound, and does not export the copy.
    copied = {one.place for one in listeners if one.exported and not one.port}
    unknown = [one for one in listeners if one not in known and one.place not in copied]
    return f"has descriptor {unknown[0].descriptor} from somebody else (`show fd`)" if unknown else ""


def holding(answer: str, binds: Iterable[Bind]) -> tuple[Bind, ...]:
    """Return those of these listeners of which the answer does not say that no thread's poller holds them."""
    free = {one.descriptor for one in _listeners(answer) if one.pollers == 0}
    return tuple(bind for bind in binds if bind.descriptor not in free)


def never_says(answer: str, binds: Iterable[Bind]) -> bool:
    """Tell whether the answer has one of these listeners, but not who polls it, as in HAProxy 2.6.0."""
    asked = {bind.descriptor for bind in binds}
    return any(one.descriptor in asked and one.pollers is None for one in _listeners(answer))


def not_paused(answer: str, binds: Iterable[Bind]) -> tuple[Bind, ...]:
    """Return those of these listeners that go on although pause() was asked for, from a look() at them.

    A `peers` section has a name in `show fd`, and is no frontend to the commands; HAProxy 2.6.0 cannot pause what is
    inherited. Where only the number of connections is limited, that shows no earlier than with the next one.
    """
    ready = {one.descriptor for one in _listeners(answer) if one.ready}
    return tuple(bind for bind in binds if bind.descriptor in ready and not bind.mixed)


def _on_vips(listeners: Iterable["_Listener"], vips: frozenset[int]) -> tuple["_Listener", ...]:
    listeners = tuple(listeners)
    shared = {one.place for one in listeners if one.descriptor in vips}
    return tuple(one for one in listeners if one.descriptor in vips or (one.exported is False and one.place in shared))


def _number(answer: str, name: str) -> int | None:
    """Return the value of a line `NAME: NUMBER`."""
    for line in answer.splitlines():
        key, _, value = line.partition(": ")
        if key == name:
            return _decimal(value)
    return None


def _decimal(text: str) -> int | None:
    """Return the value of a number as haproxy writes it: int() takes what none is, and refuses thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


@record(frozen=True)
class _Listener:
    """A line of `show fd` that is about a listener."""

    descriptor: int
    frontend: str
    """Empty for one that takes datagrams of a `log-forward`: it is not said."""
    port: str
    """Empty for one that has none."""
    ready: bool
    """It accepts."""
    exported: bool | None
    """haproxy has bound it itself, and would pass it on; None where it is not said."""
    pollers: int | None
    """A mask of the threads whose pollers hold it; None where it is not said."""

    @property
    def place(self) -> tuple[str, ...]:
        """Where it listens, the same for its copies; of the CLI's without a port nothing tells one from another."""
        return (self.frontend, self.port) if self.port or self.frontend not in {"", _CLI} else (str(self.descriptor),)


def _listeners(answer: str) -> Iterator[_Listener]:
    """Yield each descriptor that is a listener. There can be thousands, of 30 words a line: few are looked at."""
    for line in answer.splitlines():
        number, colon, rest = line.partition(" : ")
        descriptor = _decimal(number.strip()) if colon and (" l.st=" in rest or _DATAGRAMS in rest) else None
        if descriptor is None:
            continue
        flags = _hexadecimal(rest.partition("(")[0], "st=")
        yield _Listener(
            descriptor,
            _word(rest, " fe="),
            _word(rest, " lport="),
            _word(rest, " l.st=") == "RDY",
            None if flags is None else bool(flags & _EXPORTED),
            _hexadecimal(rest, " prmsk="),
        )


def _hexadecimal(line: str, name: str) -> int | None:
    """Return the value of a word NAME0xVALUE, if there is one."""
    try:
        return int(_word(line, name), 16)
    except ValueError:
        return None


def _word(line: str, name: str) -> str:
    """Return the value of a word ` NAME=VALUE`, empty if there is none."""
    at = line.find(name)
    return line[at + len(name) :].partition(" ")[0] if at >= 0 else ""


def look(binds: Iterable[Bind]) -> tuple[str, ...]:
    """Ask how many connections there are, and who polls these listeners."""
    return (WHO, *(f"{DESCRIPTORS} {bind.descriptor}" for bind in binds))


def can_pause(bind: Bind) -> bool:
    """Tell whether there is a command that stops this listener: none for the CLI's, none where no frontend is named."""
    return bind.frontend not in {"", _CLI}


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
