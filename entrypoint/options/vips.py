"""Parses the VIP list, with errors that name the wrong entry and say what would be right.

VIPS is VIP *( "," VIP ), VIP is [ SCHEME "@" ] ADDRESS ":" PORT ":" TAG, ADDRESS is IPv4, IPv6 in brackets, or "*".
Without a SCHEME it is TCP; `quic` and `udp` mean a datagram socket, for a QUIC `bind` or a `dgram-bind`.
"""

from __future__ import annotations

from entrypoint.lean.record import record

ANY = "*"
"""Every address of both families."""

QUIC, UDP = "quic@", "udp@"
_DATAGRAMS = (QUIC, UDP)
"""Schemes of datagram sockets, as haproxy names them: a QUIC `bind` uses UDP."""
_NOT_DATAGRAMS = ("tcp@", "tcp4@", "tcp6@", "ipv4@", "ipv6@")
_HIGHEST_PORT = 65535
_RESERVED = ("SAFE_RELOAD_", "HAPROXY_", "LISTEN_", "LD_", "TINI_")
_EXAMPLE = "10.0.0.1:80:FD_HTTP"


class VipError(ValueError):
    """A VIP list that cannot be used; its text is one line for the user."""


@record(frozen=True)
class Vip:
    """One declared listener: an address (IPv4, IPv6 without brackets, or `*`), a port, and its tag."""

    address: str
    port: int
    tag: str
    scheme: str = ""
    """`quic@` or `udp@`; empty for TCP."""

    def __str__(self) -> str:
        """Return the entry as the list has it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}{host}:{self.port}:{self.tag}"


def parse_vips(text: str) -> tuple[Vip, ...]:
    """Parse a VIP list.

    Args:
        text: the list from the command line or the environment; blanks around entries are allowed.

    Raises:
        VipError: an entry is invalid, or two have the same tag.

    """
    vips: list[Vip] = []
    numbers: dict[str, int] = {}
    for number, entry in enumerate(text.split(","), start=1):
        vip = _parse_entry(number, entry.strip())
        first = numbers.setdefault(vip.tag, number)
        if first != number:
            raise _error(number, entry, f"entry {first} has the tag {vip.tag} already; give each VIP its own")
        vips.append(vip)
    return tuple(vips)


def _parse_entry(number: int, entry: str) -> Vip:
    if not entry:
        raise _error(number, entry, f"it is empty; an entry is ADDRESS:PORT:TAG, such as {_EXAMPLE}")
    name, at, rest = entry.partition("@")
    if at and name + at not in _DATAGRAMS and ":" not in name:
        wanted = "" if name + at in _NOT_DATAGRAMS else QUIC
        why = f"{name + at!r} is no scheme of a VIP: quic@ and udp@ are for datagrams, and TCP needs no scheme"
        raise _error(number, entry, f"{why}; write {wanted + rest!r}")
    scheme = name + at if name + at in _DATAGRAMS else ""
    address, port, tag = _split(number, entry, scheme)
    if not _is_port(port):
        raise _error(number, entry, f"the port {port!r} is not a number from 1 to {_HIGHEST_PORT}")
    if tag == "PATH" or tag.startswith(_RESERVED):
        raise _error(number, entry, f"the variable {tag} has another meaning; choose a tag like FD_HTTP")
    if not (tag.isascii() and tag.isidentifier()):
        raise _error(number, entry, f"the tag {tag!r} is not a variable's name: letters, digits and _, no digit first")
    return Vip(address, int(port), tag, scheme)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= 5 and int(text) <= _HIGHEST_PORT


def _split(number: int, entry: str, scheme: str) -> tuple[str, str, str]:
    """Split an entry into address, port and tag, and check the address."""
    bare = entry.removeprefix(scheme)
    if bare.startswith("["):
        inside, closed, rest = bare[1:].partition("]")
        fields = rest.split(":")
        if not closed or len(fields) != 3 or fields[0]:
            raise _error(number, entry, "an IPv6 entry is [ADDRESS]:PORT:TAG, such as [2001:db8::1]:443:FD_HTTPS")
        import ipaddress  # noqa: PLC0415  # 0.6 MiB, which PID 1 does not need for IPv4

        try:
            parsed = ipaddress.IPv6Address(inside)
        except ValueError:
            raise _error(number, entry, f"{inside!r} is not an IPv6 address") from None
        if parsed.ipv4_mapped:
            mapped = f"{scheme}{parsed.ipv4_mapped}:{fields[1]}:{fields[2]}"
            raise _error(number, entry, f"this is an IPv4 address: write {mapped}")
        return str(parsed), fields[1], fields[2]
    fields = bare.split(":")
    if len(fields) > 3:
        wanted = f"one entry is ADDRESS:PORT:TAG, such as {_EXAMPLE}; a comma separates two, brackets enclose IPv6"
        raise _error(number, entry, f"it has more than three fields; {wanted}")
    if len(fields) < 3:
        raise _error(
            number, entry, f"it has {len(fields)} of three fields; an entry is ADDRESS:PORT:TAG, such as {_EXAMPLE}"
        )
    address, port, tag = fields
    if address != ANY and not _is_ipv4(address):
        raise _error(number, entry, f"{address!r} is not an IPv4 address, an IPv6 address in brackets, or *")
    return address, port, tag


def _is_ipv4(text: str) -> bool:
    """Tell whether inet_pton(3) takes this as an IPv4 address: four numbers without leading zeros."""
    numbers = text.split(".")
    return len(numbers) == 4 and all(
        n.isascii() and n.isdigit() and str(int(n[:4])) == n and int(n) < 256 for n in numbers
    )


def _error(number: int, entry: str, reason: str) -> VipError:
    return VipError(f"VIPS entry {number} {entry.strip()!r}: {reason}")


def needs_v6only(address: str) -> bool:
    """Tell whether haproxy takes over a listener on this address only if its `bind` says v6only.

    That is so for a single IPv6 address: the kernel reports IPV6_V6ONLY for its socket, and haproxy compares that with
    the `bind` line (see system/getsocks).

    Args:
        address: in haproxy's notation, such as `[::1]:80`.

    """
    return address.startswith("[") and not address.startswith("[::]")
