"""A file's name as a configuration has it, and what it is relative to."""

from enum import StrEnum
from posixpath import join

from entrypoint.lean.record import record

ANYTHING = "\x01"
"""In a file's name: what that variable holds, which only the haproxy that will be started knows. No slash is in it."""


@record(frozen=True)
class Bases:
    """What a relative path is relative to: haproxy's `default-path`, and the `-base` options. All may be relative."""

    folder: str = ""
    crt: str = ""
    ca: str = ""
    key: str = ""

    def at(self, path: str, base: str = "") -> str:
        """Return the path as haproxy would open it from the folder that it was started in.

        Args:
            path: as it is named.
            base: whose base it has: crt, ca, key, or nobody's.

        """
        before = {"crt": self.crt, "ca": self.ca, "key": self.key}.get(base, "")
        if before and not path.startswith("/"):
            path = f"{before}/{path}"  # as haproxy does it, which tests for nothing but the slash
        return join(self.folder, path)


class Kind(StrEnum):
    """What a file is that names files itself."""

    CRT_LIST = "crt-list"
    FILTER = "filter"
    """The configuration of a filter, such as SPOE's: haproxy reads it as it reads its own."""
    LOG_FORMAT = "log-format"


@record(frozen=True)
class Context:
    """How a file that names files itself is to be understood."""

    kind: Kind
    bases: Bases = Bases()
    variables: tuple[tuple[str, str], ...] = ()


@record(frozen=True)
class Named:
    """What configurations name, in the order in which they name it, each once."""

    files: tuple[str, ...]
    """Files, and folders all of whose files count. Relative ones are relative to where haproxy is started."""

    naming: tuple[tuple[str, Context], ...]
    """Those of the files that name files themselves, with what `named_in` has to know of them."""

    pairs: tuple[tuple[str, str], ...] = ()
    """Certificates and the keys that are named for them."""
