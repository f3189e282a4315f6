"""The sockets that we bind or were passed, and hold."""

import errno
import os
import socket
from collections.abc import Collection, Iterable, Mapping

from entrypoint.lean.record import record
from entrypoint.options.vips import ANY, Vip
from entrypoint.system.listeners.places import ListenError, Place, connects, is_at, places, reason_of, shown
from entrypoint.system.listeners.pokes import poke

STORED = "safe_reload_vip_"
"""Begins the name under which a VIP is stored; its tag follows."""

MOST = 2**31 - 1
"""A backlog that listen(2) cuts down to net.core.somaxconn."""

_FIRST_PASSED = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
_MOST_DIGITS = 9
"""int() raises ValueError for thousands of them."""
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""How a host says that it has none."""


@record(frozen=True)
class Listener:
    """One VIP's socket."""

    tag: str
    socket: socket.socket
    ours: bool
    """We bound it; False for one that systemd or podman passed, which is theirs to let listen or not."""
    name: str = ""
    """What systemd or podman call it."""
    stored: bool = False
    """systemd keeps a copy of it already."""


class Listeners:
    """All VIPs of this instance: first those that were passed, then those that were declared, in their order."""

    def __init__(self, backlog: int | None = None) -> None:
        """Begin without VIPs.

        Args:
            backlog: how many connections may wait on each VIP; None for as many as the kernel allows.

        """
        self._backlog = min(backlog or MOST, MOST)
        self._listeners: list[Listener] = []
        self._returned: dict[str, list[socket.socket]] = {}
        self._forgotten: list[str] = []
        self._used: frozenset[str] = frozenset()
        self._doubtful: frozenset[str] = frozenset()

    def adopt(self, environment: Mapping[str, str]) -> None:
        """Take over the sockets that systemd or podman passed (sd_listen_fds(3)).

        Each becomes a VIP whose tag is FD_ and its name in capitals, with _ for what a variable's name cannot hold;
        of several with one name, which is what systemd gives to those of one unit, the second ends in _2. Those that
        are our own, stored by our last life, wait for bind().

        Raises:
            ListenError: what was passed is not what was announced, or two names would be one tag.

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
            if name.startswith(STORED):
                self._returned.setdefault(name.removeprefix(STORED), []).append(listener)
                continue
            same = sum(other.name == name for other in self._listeners)
            tag = f"{tag}_{same + 1}" if same else tag
            other = next((other for other in self._listeners if other.tag == tag), None)
            if other:
                names_of_both = f"the passed sockets {other.name!r} and {name!r} would both have the tag {tag}"
                raise ListenError(f"LISTEN_FDNAMES: {names_of_both}; give one another name (FileDescriptorName=)")
            self._listeners.append(Listener(tag, listener, ours=False, name=name))

    def bind(self, vips: Iterable[Vip], *, freebind: bool) -> None:
        """Bind every VIP, or none.

        One that systemd has stored for us is not bound again, if it is at the address that is declared now: the clients
        that wait in its queue are still there. The others that were stored are closed.

        Args:
            vips: what to bind.
            freebind: bind addresses that are not on this host yet, too (IP_FREEBIND of ip(7)).

        Raises:
            ListenError: names the VIP by number and text, and what would be right.

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
                made = returned or _bind(place, freebind=freebind)
            except OSError as error:
                if vip.address == ANY and place.family == socket.AF_INET6 and error.errno in _NO_IPV6:
                    continue
                raise
            self._listeners.append(Listener(vip.tag, made, ours=True, stored=returned is not None))

    def _take_back(self, tag: str, place: "Place") -> socket.socket | None:
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
        """Return the names under which systemd still keeps what is no VIP any more."""
        return tuple(self._forgotten)

    def to_store(self) -> tuple[tuple[str, int], ...]:
        """Return the name and descriptor of each that systemd should keep, after it has forgotten what is forgotten().

        Those that we bound; it has the others anyway. One whose name is forgotten() has to be stored again.
        """
        return tuple(
            (STORED + listener.tag, listener.socket.fileno())
            for listener in self._listeners
            if listener.ours and not (listener.stored and STORED + listener.tag not in self._forgotten)
        )

    def stored(self) -> int:
        """Return how many systemd keeps already, once it has forgotten what is forgotten()."""
        return sum(listener.ours for listener in self._listeners) - len(self.to_store())

    def stand_in(self, vips: Iterable[Vip], others: Iterable[tuple[str, bool]] = ()) -> None:
        """Have sockets that look like the VIPs to a configuration check, and are bound to nothing.

        Args:
            vips: the declared ones.
            others: tags that are nobody's here, once for each socket, and whether datagrams are expected of them.

        """
        for vip in vips:
            for place in places(vip, scoped=False):
                self._listeners.append(Listener(vip.tag, socket.socket(place.family), ours=True))
        for tag, datagrams in others:
            kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
            self._listeners.append(Listener(tag, socket.socket(socket.AF_INET, kind), ours=True))

    def tags(self) -> frozenset[str]:
        """Return every tag."""
        return frozenset(listener.tag for listener in self._listeners)

    def descriptors(self) -> tuple[tuple[str, int], ...]:
        """Return the tag and the descriptor of each socket; a VIP of both families has two."""
        return tuple((listener.tag, listener.socket.fileno()) for listener in self._listeners)

    def variables(self) -> dict[str, str]:
        """Return what each tag's variable holds for haproxy, where it follows `fd@`: the descriptor.

        Of a VIP of both families it is 3,fd@4: a `bind` takes several addresses, with commas between them.
        """
        found: dict[str, str] = {}
        for tag, descriptor in self.descriptors():
            found[tag] = f"{found[tag]},fd@{descriptor}" if tag in found else str(descriptor)
        return found

    def addresses(self, most: int) -> dict[str, list[str]]:
        """Return the addresses of the first tags: of a passed unix socket its path.

        Args:
            most: so many tags.

        """
        found: dict[str, list[str]] = {}
        for listener in self._listeners:
            if listener.tag not in found and len(found) == most:
                break
            found.setdefault(listener.tag, []).append(shown(listener.socket))
        return found

    def serialize(self) -> list[tuple[str, int, bool, str, bool]]:
        """Return every VIP as plain values, for the program that takes our place."""
        return [(one.tag, one.socket.fileno(), one.ours, one.name, one.stored) for one in self._listeners]

    def restore(self, left: Iterable[tuple[str, int, bool, str, bool]]) -> None:
        """Go on with what our last life has handed down.

        Raises:
            OSError: a descriptor is not there.

        """
        for tag, descriptor, ours, name, stored in left:
            listener = socket.socket(fileno=descriptor)
            listener.set_inheritable(False)
            self._listeners.append(Listener(tag, listener, ours, name, stored))

    def inodes(self) -> frozenset[int]:
        """Return what tells each VIP's socket from every other one (fstat(2))."""
        return frozenset(os.fstat(listener.socket.fileno()).st_ino for listener in self._listeners)

    def status(self) -> list[dict[str, object]]:
        """Return each VIP with its address, and whether it accepts: None where nobody knows whether it is used."""
        return [
            {"tag": listener.tag, "address": shown(listener.socket), "accepts": self._accepts(listener)}
            for listener in self._listeners
        ]

    def _accepts(self, listener: Listener) -> bool | None:
        if listener.tag in self._doubtful:
            return None
        return listener.tag in self._used and (not connects(listener.socket) or _listens(listener.socket))

    def unused(self) -> tuple[socket.socket, ...]:
        """Return the passed sockets that nobody uses and that listen all the same, because they are not ours to stop.

        systemd fails a socket unit that it finds shut down, and a unix socket would never listen again.
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
        """Let these VIPs accept connections, and none other of ours.

        Args:
            tags: of those that somebody uses.
            doubtful: those that somebody may use: they accept as well.

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
            # On a listening socket this ends the listening and keeps the address (tcp(7), inet_shutdown).
            listener.socket.shutdown(socket.SHUT_RD)

    def poke(self, tags: Collection[str]) -> tuple[str, ...]:
        """Connect to these VIPs and close at once.

        Returns:
            The tags of those to which nothing got through, which is no error: their clients may.

        """
        wanted = [listener for listener in self._listeners if listener.tag in tags]
        return tuple(listener.tag for listener in wanted if not poke(listener.socket))

    def close(self) -> None:
        """Let go of every VIP."""
        for listener in self._listeners:
            listener.socket.close()
        self._listeners.clear()
        for rest in self._returned.values():
            for returned in rest:
                returned.close()
        self._returned.clear()


def _is_us(identity: str) -> bool:
    """Tell whether this is our pidfd's inode, which no later process has again, unlike a pid (systemd 259)."""
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


def _bind(place: Place, *, freebind: bool) -> socket.socket:
    listener = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if place.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if freebind:
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        listener.bind(place.address)
    except BaseException:
        listener.close()
        raise
    return listener


_IP_FREEBIND = 15
"""From linux/in.h; the socket module does not have it. It works on IPv6 sockets, too (ip(7))."""
