"""Which keywords of a configuration name files, and what a relative name is relative to.

For their sources see `referenced_files`.
"""

from __future__ import annotations

from posixpath import join

from entrypoint.lean.enum import StrEnum
from entrypoint.lean.record import record

# fmt: off

SECOND_WORD = frozenset({
    "lua-load", "lua-load-per-thread", "issuers-chain-path", "ssl-dh-param-file", "h1-case-adjust-file",
    "httpclient.ssl.ca-file", "eab-key-id", "eab-mac-key", "deviceatlas-json-file", "51degrees-data-file",
    "wurfl-data-file",
})
"""Lines with a file as their second word."""
OPTIONS_FROM = {
    "bind": 2, "ssl-f-use": 1, "server": 3, "server-template": 4, "peer": 3, "default-server": 1, "default-bind": 1,
    "stats": 3,
}
"""Lines that can have TLS options, and the number of the word at which options can begin."""
OPTIONS = {
    "crt": ("crt",), "default-crt": ("crt",), "ca-file": ("ca",), "ca-verify-file": ("ca",), "ca-sign-file": ("ca",),
    "crl-file": ("ca",), "crt-list": ("",), "tls-ticket-keys": ("",), "ech": ("",),
}
"""TLS options with a file after them, and the bases that it may be relative to."""
OF_A_STORE = {"crt": "crt", "key": "key", "ocsp": "crt", "issuer": "crt", "sctl": "crt"}
"""Options with a file in the load line of a crt-store, and the base that it is relative to."""
OF_A_CERTIFICATE = {**OPTIONS, **{option: ("", base) for option, base in OF_A_STORE.items() if option != "crt"}}
"""Options with a file in ssl-f-use and in the brackets of a crt-list. There, a crt-store's have no base (up to 3.5)."""
TAKEN = frozenset({
    "crt", "default-crt", "key", "ocsp", "issuer", "sctl", "crt-list", "ca-file", "ca-verify-file", "crl-file",
})
"""Options with a file whose new content haproxy can take while it runs."""
PAYLOADS = frozenset({"file", "errorfile"})
LOG_FORMATS = frozenset({"lf-file"})
NOT_IN_FILES = ("@", "virt@")
PREFIXES = ("opt@", "file@")
SIGNS = (
    b"file", b"crt", b"-f", b"map", b"lua-load", b"-base", b"-path", b"env", b"config", b"keys", b"jwt", b"eab-",
    b"localpeer", b" ech", b"\tech", b"\vech", b"\fech", b"\rech",
)
"""Each line that names a file, or changes the meaning of those that do, contains one of these."""
SETTERS = frozenset({
    "crt-store", "crt-base", "ca-base", "key-base", "default-path", "localpeer", "setenv", "presetenv", "unsetenv",
    "resetenv",
})
"""Lines that change the meaning of others."""
SECTIONS = frozenset({
    "acme", "backend", "cache", "crt-store", "defaults", "fcgi-app", "frontend", "global", "healthcheck", "http-errors",
    "listen", "log-forward", "log-profile", "mailers", "namespace_list", "peers", "program", "resolvers", "ring",
    "traces", "userlist",
})
BLOCKS = (b".if", b".endif")


ANYTHING = "\x01"
"""Stands in a file's name for the value of a variable that only haproxy knows; the value contains no slash."""


@record(frozen=True)
class Bases:
    """What relative paths are relative to: `default-path`, `crt-base`, `ca-base`, `key-base`. All may be relative."""

    folder: str = ""
    crt: str = ""
    ca: str = ""
    key: str = ""

    def at(self, path: str, base: str = "") -> str:
        """Return the path that haproxy opens, relative to its working directory.

        Args:
            path: as the configuration has it.
            base: which base applies: crt, ca, key, or none.

        """
        before = {"crt": self.crt, "ca": self.ca, "key": self.key}.get(base, "")
        if before and not path.startswith("/"):
            path = f"{before}/{path}"  # not join(): haproxy looks only at the first character
        return join(self.folder, path)


class Kind(StrEnum):
    """The kinds of files that name further files."""

    CRT_LIST = "crt-list"
    FILTER = "filter"
    """The configuration of a filter such as SPOE, in the syntax of haproxy's own."""
    LOG_FORMAT = "log-format"


@record(frozen=True)
class Context:
    """What must be known to read a file that names further files."""

    kind: Kind
    bases: Bases = Bases()
    variables: tuple[tuple[str, str], ...] = ()


@record(frozen=True)
class Store:
    """A certificate as haproxy has it in memory, and the files that it is made of."""

    name: str
    """In `show ssl cert`."""
    crt: str
    key: str = ""
    """Only if it is named; likewise the others. What haproxy finds beside the certificate is not named."""
    issuer: str = ""
    ocsp: str = ""
    sctl: str = ""

    @property
    def names_others(self) -> bool:
        """Whether more than the certificate is named."""
        return bool(self.key or self.issuer or self.ocsp or self.sctl)


@record(frozen=True)
class Named:
    """The files that configurations name, each once, in the order of their first mention."""

    files: tuple[str, ...]
    """Files, and folders that count with all their files. Relative ones are relative to haproxy's working directory."""
    naming: tuple[tuple[str, Context], ...]
    """The files that name further files, each with the context for `named_in`."""
    stores: tuple[Store, ...] = ()
    """The certificates. One that is named without other files has them from elsewhere, or has none."""
    fixed: frozenset[str] = frozenset()
    """Those of the files of which haproxy cannot take a new content while it runs, whatever else they are."""
