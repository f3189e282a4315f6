"""The Debian packages in an image, read from its layers: the smallest image has no shell to ask."""

import re
import tarfile
from collections.abc import Iterable
from typing import NamedTuple

_STATUS = re.compile(r"var/lib/dpkg/(?:status|status\.d/[^/]+)")
_COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
_RELEASE = re.compile(r"(?:etc|usr/lib)/os-release")


class Package(NamedTuple):
    """One of them."""

    name: str
    version: str
    architecture: str
    source: str
    licences: tuple[str, ...]
    """As its file copyright calls them, where that file can be read by a program."""


class Contents:
    """What the layers of an image have, the upper ones over the lower ones."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._status: dict[str, str] = {}
        self._licences: dict[str, tuple[str, ...]] = {}
        self._links: dict[str, str] = {}
        self.distribution = ""
        """Such as debian-13."""

    def add(self, layer: tarfile.TarFile) -> None:
        """Read a layer."""
        for entry in layer:
            name = entry.name.removeprefix("./")
            folder, _, last = name.rpartition("/")
            found: re.Match[str] | None
            if last.startswith(".wh."):
                self._status.pop(f"{folder}/{last.removeprefix('.wh.')}", None)
            elif entry.isreg() and _STATUS.fullmatch(name) and not name.endswith(".md5sums"):
                self._status[name] = _text(layer, entry)
            elif entry.isreg() and (found := _COPYRIGHT.fullmatch(name)):
                self._licences[found[1]] = licences(_text(layer, entry))
            elif entry.issym() and folder == "usr/share/doc":
                self._links[last] = entry.linkname.rpartition("/")[2]
            elif entry.isreg() and _RELEASE.fullmatch(name):
                values = dict(re.findall(r'^(\w+)="?([^"\n]*)', _text(layer, entry), re.MULTILINE))
                self.distribution = f"{values.get('ID', '')}-{values.get('VERSION_ID', 'sid')}"

    def packages(self) -> list[Package]:
        """Return what is installed, by name."""
        packages: list[Package] = []
        for paragraph in (text for status in self._status.values() for text in status.split("\n\n")):
            fields: dict[str, str] = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
            if "Package" in fields and fields.get("Status", "ok installed").endswith("ok installed"):
                name = fields["Package"]
                # "haproxy (3.0.1-1)" if the versions differ
                source = fields.get("Source", name).partition(" ")[0]
                words = self._licences.get(name) or self._licences.get(self._links.get(name, ""), ())
                packages.append(Package(name, fields["Version"], fields["Architecture"], source, words))
        return sorted(packages)


def _text(layer: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    file = layer.extractfile(entry)
    return file.read().decode(errors="replace") if file else ""


def licences(text: str) -> tuple[str, ...]:
    """Return the licences that a file copyright in the format of DEP-5 names; none from free text."""
    if not text.startswith("Format:"):
        return ()
    found: Iterable[str] = re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE | re.IGNORECASE)
    return tuple(sorted({word.strip() for word in found}))
