"""What a running haproxy says that it has loaded from files.

Sources: HAProxy's management guide, section 9.3 (`show map`, `show acl`, `show ssl cert`, `show ssl ca-file`,
`show ssl crl-file`, `show ssl crt-list`); the forms are the same from HAProxy 2.6 to 3.5. The names are those that the
configuration has, with `crt-base` or `ca-base` before them; the certificates of a crt-store have names of their own.
"""

from __future__ import annotations

from entrypoint.lean.collections import Iterable, Iterator, Mapping, MappingProxyType
from entrypoint.lean.record import record

LISTS = {
    "certificates": "show ssl cert",
    "authorities": "show ssl ca-file",
    "revocations": "show ssl crl-file",
    "crt_lists": "show ssl crt-list",
    "maps": "show map",
    "acls": "show acl",
}
"""The commands that ask for each field of `Loaded`."""

_NAMES: Mapping[str, str] = MappingProxyType({})
_UNKNOWN = "Unknown command"
"""The answer of a haproxy that was built without TLS."""
_FILE = ") pattern loaded from file '"
_CERTIFICATES = (" - ", " certificate(s)")


@record(frozen=True)
class Loaded:
    """The names of what was loaded, each with what a command calls it."""

    certificates: Mapping[str, str] = _NAMES
    authorities: Mapping[str, str] = _NAMES
    """CA files, and folders of them."""
    revocations: Mapping[str, str] = _NAMES
    """CRL files."""
    crt_lists: Mapping[str, str] = _NAMES
    """Also each folder of certificates."""
    maps: Mapping[str, str] = _NAMES
    acls: Mapping[str, str] = _NAMES
    busy: str = ""
    """What somebody has a transaction for; empty if nobody has."""

    def names(self) -> Iterator[str]:
        """Yield every name that may be a file's."""
        for field in LISTS:
            # The certificates of a crt-store, and @system-ca, begin so.
            yield from (name for name in getattr(self, field) if not name.startswith("@"))


def loaded(answers: Mapping[str, str]) -> Loaded:
    """Parse the answers to `LISTS`."""
    found, busy = {}, ""
    for field, answer in answers.items():
        lines = [] if answer.startswith(_UNKNOWN) else answer.splitlines()
        busy = busy or next((line[1:] for line in lines if line.startswith("*")), "")
        named = _patterns(lines) if field in {"maps", "acls"} else _ssl(lines, counted=field == "authorities")
        found[field] = dict(named)
    return Loaded(**found, busy=busy)


def _ssl(lines: Iterable[str], *, counted: bool) -> Iterator[tuple[str, str]]:
    """Yield the names; a line of a transaction under way begins with an asterisk."""
    for line in lines:
        name = line.rpartition(_CERTIFICATES[0])[0] if counted and line.endswith(_CERTIFICATES[1]) else line
        if name and not name.startswith(("#", "*")):
            yield name, escaped(name)


def _patterns(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        number, _, rest = line.partition(" (")
        name, found, _ = rest.partition(_FILE)
        if found:
            yield name, f"#{number}"


def escaped(name: str) -> str:
    """Return a name as one word of a command (management guide, section 9.3)."""
    return "".join(f"\\{letter}" if letter in " \t;\\" else letter for letter in name)
