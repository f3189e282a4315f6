"""The VIPs' sockets: bound once, with low numbers, passed to each generation and never closed.

Owns every listening socket. Of a datagram socket each generation gets another one under the same number (see
`pid1.datagram_turns`). A TCP VIP is bound at the start and listens only while a generation uses it, so that a VIP that
no `bind` uses refuses its clients instead of keeping them waiting. systemd may store the VIPs until our next start (its
file descriptor store): adopt() receives them, and bind() makes them VIPs again.
"""

from __future__ import annotations

import errno
import os

from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Collection, Iterable, Mapping
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any
from entrypoint.options.vips import ANY, QUIC, UDP, Vip
from entrypoint.system.listeners.datagrams import interface, takes_turns, unsilence
from entrypoint.system.listeners.places import (
    ListenError,
    Place,
    bound,
    connects,
    is_at,
    places,
    poke,
    reason_of,
    shown,
    turns_of,
)

STORED = "safe_reload_vip_"
"""Prefix of the name under which systemd stores a VIP; its tag follows."""

MOST = 2**31 - 1
"""A backlog that listen(2) cuts down to net.core.somaxconn."""

_FIRST_PASSED = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
_MOST_DIGITS = 9
"""int() raises ValueError for thousands of digits."""
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""Errors that say that the host has no IPv6."""


@record(frozen=True)
class Listener:
    """One socket of a VIP."""

    tag: str
    socket: socket.socket
    ours: bool
    """We bound it. False if systemd or podman passed it: then they decide whether it listens."""
    name: str = ""
    """Its name at systemd or podman."""
    stored: bool = False
    """systemd has stored a copy of it already."""
    address: Any = None
    """Where it was bound, as getsockname(2) said then."""
    scheme: str = ""
    """As in `Vip`."""
    interface: int = 0
    """The index of the interface that it was bound to; 0 for none."""
    shared: str = ""
    """Why all generations share this datagram socket; empty for one that each generation gets another of."""

    @property
    def takes_turns(self) -> bool:
        """Whether it is a datagram socket that each generation gets another of."""
        return takes_turns(self.socket) and not self.shared


class Listeners:
    """All VIPs of this instance: first the passed ones, then the declared ones, each in their order."""

    def __init__(self, backlog: int | None = None) -> None:
        """Begin without VIPs. `backlog` connections may wait on each; None for as many as the kernel allows."""
        self._backlog = min(backlog or MOST, MOST)
        self._listeners: list[Listener] = []
        self._returned: dict[str, list[socket.socket]] = {}
        self._forgotten: list[str] = []
        self._used: frozenset[str] = frozenset()
        self._doubtful: frozenset[str] = frozenset()

    def adopt(self, environment: Mapping[str, str]) -> None:
        """Take over the sockets that systemd or podman passed (sd_listen_fds(3)).

        Each becomes a VIP. Its tag is FD_ and the socket's name in capitals, with _ for characters that a variable's
        name cannot contain. systemd gives all sockets of one unit the same name: the second one's tag ends in _2. VIPs
        that systemd has stored wait for bind().

        Raises:
            ListenError: what was passed is not what was announced, or two names give the same tag.

        """
        if environment.get("LISTEN_PID") != str(os.getpid()) or not _is_us(environment.get("LISTEN_PIDFDID", "")):
            return
        count = environment.get("LISTEN_FDS", "")
        if not (count.isascii() and count.isdigit() and len(count) <= _MOST_DIGITS):
            raise ListenError(f"LISTEN_FDS is {count!r}, not a number")
        names = environment.get("LISTEN_FDNAMES", "").split(":")
        for index in range(int(count)):
            name = names[index] if index < len(names) and names[index] else f"unknown{index}"
            tag = "FD_" + "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name.upper())
            try:
                listener = socket.socket(fileno=_FIRST_PASSED + index)
            except OSError as error:
                raise ListenError(f"LISTEN_FDS names descriptor {_FIRST_PASSED + index}: {error.strerror}") from error
            listener.set_inheritable(False)
            listener.setblocking(False)
            if takes_turns(listener):
                # A safe_reload that was killed has left it silent.
                with contextlib.suppress(OSError):
                    unsilence(listener, interface(listener))
            if name.startswith(STORED):
                self._returned.setdefault(name.removeprefix(STORED), []).append(listener)
                continue
            same = sum(other.name == name for other in self._listeners)
            tag = f"{tag}_{same + 1}" if same else tag
            other = next((other for other in self._listeners if other.tag == tag), None)
            if other:
                names_of_both = f"the passed sockets {other.name!r} and {name!r} would both have the tag {tag}"
                raise ListenError(f"LISTEN_FDNAMES: {names_of_both}; give one another name (FileDescriptorName=)")
            address = listener.getsockname()
            turns = turns_of(listener, address)
            self._listeners.append(Listener(tag, listener, False, name, False, address, "", *turns))

    def bind(self, vips: Iterable[Vip], *, freebind: bool) -> None:
        """Bind every VIP, or none.

        A VIP that systemd has stored is not bound again if it is at the declared address: the clients in its queue are
        still there. All other stored sockets are closed.

        Args:
            vips: what to bind.
            freebind: bind addresses that this host does not have yet, too (IP_FREEBIND of ip(7)).

        Raises:
            ListenError: names the VIP by number and text, and the remedy.

        """
        passed = self.tags()
        for number, vip in enumerate(vips, start=1):
            failure = f"a passed socket has the tag {vip.tag} already" if vip.tag in passed else ""
            try:
                if not failure:
                    self._bind(vip, freebind=freebind)
            except OSError as error:
                failure = f"cannot bind it: {reason_of(error)}"
            if failure:
                self.close()
                raise ListenError(f"VIPS entry {number} '{vip}': {failure}")
        self._forget_the_rest()

    def _bind(self, vip: Vip, *, freebind: bool) -> None:
        for place in places(vip):
            try:
                returned = self._take_back(vip.tag, place)
                made = returned or bound(place, freebind=freebind)
            except OSError as error:
                if vip.address == ANY and place.family == socket.AF_INET6 and error.errno in _NO_IPV6:
                    continue
                raise
            address, stored = made.getsockname(), returned is not None
            turns = turns_of(made, address)
            self._listeners.append(Listener(vip.tag, made, True, "", stored, address, vip.scheme, *turns))

    def _take_back(self, tag: str, place: Place) -> socket.socket | None:
        returned = next((candidate for candidate in self._returned.get(tag, ()) if is_at(candidate, place)), None)
        if returned:
            self._returned[tag].remove(returned)
        return returned

    def _forget_the_rest(self) -> None:
        for tag, rest in self._returned.items():
            for listener in rest:
                listener.close()
            if rest:
                self._forgotten.append(STORED + tag)
        self._returned.clear()

    def forgotten(self) -> tuple[str, ...]:
        """Return the names that systemd has stored but that are no VIPs any more."""
        return tuple(self._forgotten)

    def to_store(self) -> tuple[tuple[str, int], ...]:
        """Return name and descriptor of each socket that systemd should store after it has removed what is forgotten().

        Only those that we bound: systemd has the others anyway. A stored one has to be stored again if its name is
        forgotten().
        """
        return tuple(
            (STORED + listener.tag, listener.socket.fileno())
            for listener in self._listeners
            if listener.ours and not (listener.stored and STORED + listener.tag not in self._forgotten)
        )

    def stored(self) -> int:
        """Return how many sockets systemd still stores after it has removed what is forgotten()."""
        return sum(listener.ours for listener in self._listeners) - len(self.to_store())

    def stand_in(self, vips: Iterable[Vip], others: Iterable[tuple[str, str]] = ()) -> None:
        """Make unbound sockets that look like the VIPs to a configuration check.

        Args:
            vips: the declared ones.
            others: tags that are not declared, once for each socket, each with its scheme.

        """
        kinds = [(vip.tag, vip.scheme, place.family) for vip in vips for place in places(vip, scoped=False)]
        for tag, scheme, family in (*kinds, *((*other, socket.AF_INET) for other in others)):
            kind = socket.SOCK_DGRAM if scheme else socket.SOCK_STREAM
            self._listeners.append(Listener(tag, socket.socket(family, kind), ours=True, scheme=scheme))

    def tags(self) -> frozenset[str]:
        """Return every tag."""
        return frozenset(listener.tag for listener in self._listeners)

    def descriptors(self) -> tuple[tuple[str, int], ...]:
        """Return tag and descriptor of each socket; a VIP of both address families has two."""
        return tuple((listener.tag, listener.socket.fileno()) for listener in self._listeners)

    def schemes(self) -> tuple[tuple[str, int, str], ...]:
        """Return tag and descriptor of each socket, and its scheme (see `Vip`)."""
        return tuple(
            (one.tag, one.socket.fileno(), one.scheme or ("" if connects(one.socket) else UDP))
            for one in self._listeners
        )

    def variables(self) -> dict[str, str]:
        """Return the value of each tag's variable, which haproxy's configuration puts behind `fd@`.

        It is the descriptor. For a VIP of both address families it is like 3,fd@4, because a `bind` takes several
        addresses with commas between them. Of `quic@` it is like 3,quic+fd@4: the first has its `quic+` in the
        configuration.
        """
        found: dict[str, str] = {}
        for one in self._listeners:
            more = f"{found[one.tag]},{'quic+' if one.scheme == QUIC else ''}fd@" if one.tag in found else ""
            found[one.tag] = f"{more}{one.socket.fileno()}"
        return found

    def addresses(self, most: int) -> dict[str, list[str]]:
        """Return the addresses of the first `most` tags; of a passed unix socket its path."""
        found: dict[str, list[str]] = {}
        for listener in self._listeners:
            if listener.tag not in found and len(found) == most:
                break
            found.setdefault(listener.tag, []).append(shown(listener.socket, listener.address, listener.scheme))
        return found

    def taking_turns(self) -> tuple[Listener, ...]:
        """Return the datagram sockets that each generation gets another of."""
        return tuple(listener for listener in self._listeners if listener.takes_turns)

    def shared(self) -> dict[str, str]:
        """Return the tags of the datagram sockets that all generations share, and why."""
        return {listener.tag: listener.shared for listener in self._listeners if listener.shared}

    def serialize(self) -> list[tuple[str, int, bool, str, bool, Any, str, int, str]]:
        """Return every VIP as plain values, for the next program."""
        return [
            (
                one.tag,
                one.socket.fileno(),
                one.ours,
                one.name,
                one.stored,
                one.address,
                one.scheme,
                one.interface,
                one.shared,
            )
            for one in self._listeners
        ]

    def restore(self, left: Iterable[tuple[str, int, bool, str, bool, Any, str, int, str]]) -> None:
        """Take over what `serialize` of the previous program returned.

        Raises:
            OSError: a descriptor is not open.

        """
        for tag, descriptor, *rest in left:
            listener = socket.socket(fileno=descriptor)
            listener.set_inheritable(False)
            self._listeners.append(Listener(tag, listener, *rest))

    def inodes(self) -> frozenset[int]:
        """Return the inode of each VIP's socket, which identifies it (fstat(2))."""
        return frozenset(os.fstat(listener.socket.fileno()).st_ino for listener in self._listeners)

    def status(self) -> list[dict[str, object]]:
        """Return tag and address of each VIP, and whether it accepts; None if nobody knows whether it is used."""
        return [
            {
                "tag": listener.tag,
                "address": shown(listener.socket, listener.address, listener.scheme),
                "accepts": self._accepts(listener),
            }
            for listener in self._listeners
        ]

    def _accepts(self, listener: Listener) -> bool | None:
        if listener.tag in self._doubtful:
            return None
        return listener.tag in self._used and (not connects(listener.socket) or _listens(listener.socket))

    def unused(self) -> tuple[socket.socket, ...]:
        """Return the passed sockets that no generation uses but that still listen, because we must not stop them.

        systemd marks a socket unit as failed if its socket is shut down, and a unix socket could never listen again.
        """
        wanted = self._used | self._doubtful
        return tuple(
            listener.socket
            for listener in self._listeners
            if listener.tag not in wanted
            and not listener.ours
            and connects(listener.socket)
            and _listens(listener.socket)
        )

    def listen(self, tags: Collection[str], doubtful: Collection[str] = ()) -> None:
        """Let exactly these VIPs accept connections, as far as the sockets are ours.

        Args:
            tags: of the VIPs that a generation uses.
            doubtful: of the VIPs that a generation may use; they accept as well.

        Raises:
            OSError: the kernel refuses.

        """
        self._used, self._doubtful = frozenset(tags), frozenset(doubtful)
        wanted = self._used | self._doubtful
        failure = None
        for listener in self._listeners:
            try:
                self._let(listener, accept=listener.tag in wanted)
            except OSError as error:
                failure = error
        if failure:
            raise failure

    def _let(self, listener: Listener, *, accept: bool) -> None:
        if not connects(listener.socket):
            return
        if accept:
            listener.socket.listen(self._backlog)
        elif listener.ours and _listens(listener.socket):
            # A listening socket stops listening and keeps its address (tcp(7), inet_shutdown).
            listener.socket.shutdown(socket.SHUT_RD)

    def poke(self, tags: Collection[str]) -> tuple[str, ...]:
        """Connect to these VIPs and close at once. Return the tags that failed; their clients may succeed."""
        wanted = [listener for listener in self._listeners if listener.tag in tags]
        return tuple(listener.tag for listener in wanted if not poke(listener.socket))

    def close(self) -> None:
        """Close every socket. Datagrams wait in the copies that systemd has until the next start."""
        for listener in self._listeners:
            if listener.takes_turns:
                with contextlib.suppress(OSError):
                    unsilence(listener.socket, listener.interface)
            listener.socket.close()
        self._listeners.clear()
        for rest in self._returned.values():
            for returned in rest:
                returned.close()
        self._returned.clear()


def _is_us(identity: str) -> bool:
    """Tell whether this is the inode of our pidfd; unlike a pid it is never used again (systemd 259)."""
    if not identity:
        return True
    try:
        ourselves = os.pidfd_open(os.getpid())
    except OSError:
        return True
    with open(ourselves, "rb", buffering=0):
        return str(os.fstat(ourselves).st_ino) == identity


def _listens(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
