"""The commands that safe_reload sends to haproxy's runtime API, and the parsers of the answers.

HAProxy's management guide, section 9.3, documents `show info`, `disable frontend` and `show fd`. The fields of
`show fd` are from the source (`cli_io_handler_show_fd`); they are the same from HAProxy 2.6 to 3.5.
"""

from __future__ import annotations

from entrypoint.lean.collections import Iterable, Iterator
from entrypoint.lean.record import record

WHO = "show info"
DESCRIPTORS = "show fd"
ROOM_FOR_SESSIONS = "set maxconn frontend #0 4096"
"""Overrides `stats maxconn`: our sessions count as well, and must not wait for the end of the user's sessions on a
`stats socket`. #0 is the CLI's own frontend (haproxy's `cli_alloc_fe`)."""
_EXPORTED = 1 << 20
"""FD_EXPORTED in haproxy's fd-t.h, the same bit from 2.6 to 3.5: haproxy has bound the socket itself."""
_CLI = "GLOBAL"
"""The frontend of every `stats socket`."""
_SYSLOG, _QUIC = "(syslog_fd_handler", "(quic_lstnr_sock_fd_iocb"
"""The handlers of datagrams. `show fd` does not mark a `dgram-bind` as a listener, but `show info` counts it as one."""
_MOST_DIGITS = 18
_LONGEST_VERSION = 100
"""Characters; haproxy's own versions have 20."""


@record(frozen=True)
class Bind:
    """A listener of a generation."""

    descriptor: int
    """Its number in the haproxy process."""
    frontend: str
    mixed: bool = False
    """The frontend has ordinary listeners as well, whose shared sockets `disable frontend` would disconnect for all, or
    unix sockets, which HAProxy 2.6 does not pause."""
    datagrams: bool = False
    """It is a QUIC `bind` or a `dgram-bind`."""


def of_a_candidate(others: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the commands that ask a candidate whether it is ready, and `others`.

    `show info` comes last, so an answer with the pid is complete even if the process was killed while answering. In a
    truncated answer VIPs would seem to have no `bind`, and would be closed.
    """
    return (ROOM_FOR_SESSIONS, DESCRIPTORS, *others, WHO)


def pid(answer: str) -> int | None:
    """Return the pid in the answer to `show info`; None if it is missing."""
    return _number(answer, "Pid")


def connections(answer: str) -> int | None:
    """Return the number of connections in the answer to `show info`; None if it is missing."""
    return _number(answer, "CurrConns")


def version(answer: str) -> str:
    """Return haproxy's version in the answer to `show info`; empty if it is missing."""
    return next(
        (line[9:].strip()[:_LONGEST_VERSION] for line in answer.splitlines() if line.startswith("Version: ")), ""
    )


def is_idle(answer: str) -> bool:
    """Tell from `show info` whether only its listeners and our CLI session keep the process alive.

    CurrConns does not count sessions on the user's own `stats socket`, so jobs are counted. Measured: our session is
    one job in HAProxy 2.6 and two in 3.0 and 3.2. It does not matter in which version between them that changed: if we
    assume one job too few, only the listeners are examined needlessly.
    """
    jobs, listeners = _number(answer, "Jobs"), _number(answer, "Listeners")
    own = 1 if "\nVersion: 2." in answer else 2
    return jobs is not None and listeners is not None and jobs - listeners <= own


def serves_nobody(answer: str) -> bool:
    """Tell from `show info` whether the process listens on nothing but the CLI socket for safe_reload.

    Without that socket haproxy would not start such a configuration ("No enabled listener found").
    """
    listeners = _number(answer, "Listeners")
    return listeners is not None and listeners <= 1


def listens_elsewhere(answer: str, binds: int) -> bool:
    """Tell from `show info` whether the process has listeners besides the CLI socket and `binds` on VIPs."""
    listeners = _number(answer, "Listeners")
    return listeners is not None and listeners > binds + 1


def binds_on(answer: str, vips: Iterable[int]) -> tuple[Bind, ...]:
    """Return the listeners that share a VIP's socket, from `show fd`.

    HAProxy duplicates an inherited descriptor for a `bind` with `shards`, for a second `bind` on the same tag, and for
    several thread groups. Inherited descriptors are those not exported; a copy has the same frontend and port.

    Args:
        answer: what `show fd` printed.
        vips: the VIPs' descriptors, which have the same numbers in the process as here.

    """
    listeners = tuple(_listeners(answer))
    ours = _on_vips(listeners, frozenset(vips))
    known = frozenset(ours)
    mixed = {one.frontend for one in listeners if one not in known or not one.port}
    return tuple(Bind(one.descriptor, one.frontend, one.frontend in mixed, one.datagrams) for one in ours)


def has_datagrams(answer: str) -> bool:
    """Tell from `show fd` whether the process has any QUIC `bind` or `dgram-bind`."""
    return _QUIC in answer or _SYSLOG in answer


def quic_ports(answer: str) -> tuple[int, ...]:
    """Return the ports of its QUIC listeners, from `show fd`."""
    if _QUIC not in answer:
        return ()
    ports = (decimal(one.port) for one in _listeners(answer) if one.datagrams)
    return tuple(dict.fromkeys(port for port in ports if port))


def doubt(answer: str, vips: Iterable[int]) -> str:
    """Say why binds_on() may miss the `bind` of a VIP, from `show fd` and `show info`.

    `show fd` is for debugging, and its output differs between versions. So it is trusted only if `show info` has the
    same number of listeners, and each listener is a VIP's, an ordinary one, or of the CLI.

    Returns:
        A clause without a subject; empty if the answers agree.

    """
    listeners = tuple(_listeners(answer))
    count = _number(answer, "Listeners")
    if len(listeners) != count:
        return f"names {len(listeners)} of {'an unknown number of' if count is None else count} listeners (`show fd`)"
    known = {*_on_vips(listeners, frozenset(vips)), *(one for one in listeners if one.exported or one.frontend == _CLI)}
    # With several thread groups HAProxy 3.0 duplicates a unix socket that it has bound, and does not export the copy.
    copied = {one.place for one in listeners if one.exported and not one.port}
    unknown = [one for one in listeners if one not in known and one.place not in copied]
    return f"has descriptor {unknown[0].descriptor} from somebody else (`show fd`)" if unknown else ""


def holding(answer: str, binds: Iterable[Bind]) -> tuple[Bind, ...]:
    """Return the listeners that a thread may still poll: all but those that the answer says no thread polls."""
    free = {one.descriptor for one in _listeners(answer) if one.pollers == 0}
    return tuple(bind for bind in binds if bind.descriptor not in free)


def never_says(answer: str, binds: Iterable[Bind]) -> bool:
    """Tell whether the answer names one of these listeners without its pollers, as HAProxy 2.6.0 does."""
    asked = {bind.descriptor for bind in binds}
    return any(one.descriptor in asked and one.pollers is None for one in _listeners(answer))


def not_paused(answer: str, binds: Iterable[Bind]) -> tuple[Bind, ...]:
    """Return the listeners that still accept after pause(), from the answer to look().

    `show fd` names `peers` sections, but they are not frontends for the commands. HAProxy 2.6.0 cannot pause inherited
    listeners. A mixed listener is left out: its limit of connections shows only with the next connection.
    """
    ready = {one.descriptor for one in _listeners(answer) if one.ready}
    return tuple(bind for bind in binds if bind.descriptor in ready and not bind.mixed)


def _on_vips(listeners: tuple[_Listener, ...], vips: frozenset[int]) -> tuple[_Listener, ...]:
    shared = {one.place for one in listeners if one.descriptor in vips}
    return tuple(one for one in listeners if one.descriptor in vips or (one.exported is False and one.place in shared))


def _number(answer: str, name: str) -> int | None:
    for line in answer.splitlines():
        key, _, value = line.partition(": ")
        if key == name:
            return decimal(value)
    return None


def decimal(text: str) -> int | None:
    """Parse a number as haproxy writes it: int() accepts other forms, and raises for thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


@record(frozen=True)
class _Listener:
    """A line of `show fd` about a listener."""

    descriptor: int
    frontend: str
    """Empty for a `dgram-bind` of a `log-forward`."""
    port: str
    """Empty for one without a port."""
    ready: bool
    """It accepts."""
    exported: bool | None
    """haproxy has bound it itself and would pass it on; None if the line does not say."""
    pollers: int | None
    """A mask of the threads that poll it; None if the line does not say."""
    datagrams: bool
    """It is a QUIC `bind` or a `dgram-bind`."""

    @property
    def place(self) -> tuple[str, ...]:
        """Where it listens, the same for all copies. CLI sockets without a port are told apart by their descriptors."""
        if self.port or self.frontend not in {"", _CLI}:
            return (self.frontend, self.port, *(("udp",) if self.datagrams else ()))
        return (str(self.descriptor),)


def _listeners(answer: str) -> Iterator[_Listener]:
    """Yield the listeners. There can be thousands of lines of 30 words, so each line is searched and not split."""
    for line in answer.splitlines():
        number, colon, rest = line.partition(" : ")
        syslog = _SYSLOG in rest
        descriptor = decimal(number.strip()) if colon and (" l.st=" in rest or syslog) else None
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
            syslog or _QUIC in rest,
        )


def _hexadecimal(line: str, name: str) -> int | None:
    try:
        return int(_word(line, name), 16)
    except ValueError:
        return None


def _word(line: str, name: str) -> str:
    """Return the value of ` NAME=VALUE`; empty if it is missing."""
    at = line.find(name)
    return line[at + len(name) :].partition(" ")[0] if at >= 0 else ""


def look(binds: Iterable[Bind]) -> tuple[str, ...]:
    """Return the commands that ask for the number of connections and for the pollers of these listeners."""
    return (WHO, *(f"{DESCRIPTORS} {bind.descriptor}" for bind in binds))


def can_pause(bind: Bind) -> bool:
    """Tell whether a command can stop this listener: not if it is the CLI's or without a frontend."""
    return bind.frontend not in {"", _CLI}


def pause(binds: Iterable[Bind]) -> tuple[str, ...]:
    """Return the commands that stop the frontends of these listeners from accepting.

    `disable frontend` only stops polling an inherited descriptor (since commit 64763342a of January 2023, in every
    branch from 2.4 on), but it disconnects the ordinary listeners of the frontend, which other processes share. For a
    frontend with such listeners the limit is set to 0 connections instead. That is the second choice, because haproxy
    polls for a moment whenever a connection ends. SIGTTOU would disconnect all other listening sockets of the process.
    """
    commands = (
        ("set maxconn frontend {} 0" if bind.mixed else "disable frontend {}").format(bind.frontend) for bind in binds
    )
    return tuple(dict.fromkeys(commands))
