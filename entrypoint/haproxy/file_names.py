"""The records about file names in a configuration: the names, and what relative ones are relative to."""

from enum import StrEnum
from posixpath import join

from entrypoint.lean.record import record

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
class Named:
    """The files that configurations name, each once, in the order of their first mention."""

    files: tuple[str, ...]
    """Files, and folders that count with all their files. Relative ones are relative to haproxy's working directory."""
    naming: tuple[tuple[str, Context], ...]
    """The files that name further files, each with the context for `named_in`."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Certificates and the keys that are named for them."""
