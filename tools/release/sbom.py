"""What is in an artifact, in CycloneDX's JSON, valid by its schema."""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import is_expression, is_supported_id
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from tools.release.packages import Contents
from tools.release.source import epoch, version

LICENCE = "GPL-3.0-or-later"
APPLICATION, CONTAINER = ComponentType.APPLICATION, ComponentType.CONTAINER


def component(
    kind: ComponentType, name: str, number: str | None, purl: PackageURL | None, licences: Iterable[str] = ()
) -> Component:
    """Return one, with licences that may be SPDX's or any other words."""
    texts = list(licences)
    # An expression is the only one, or is none (CycloneDX's licenseChoice).
    alone = len(texts) == 1 and not is_supported_id(texts[0]) and is_expression(texts[0])
    words: list[License] = [LicenseExpression(texts[0])] if alone else [_licence(text) for text in texts]
    reference = purl.to_string() if purl else f"{name}@{number}"
    return Component(
        type=kind,
        name=name,
        version=number,
        purl=purl,
        bom_ref=reference,
        licenses=words,
    )


def _licence(text: str) -> DisjunctiveLicense:
    """Return a licence by the name that SPDX has for it, if it has one."""
    return DisjunctiveLicense(id=text) if is_supported_id(text) else DisjunctiveLicense(name=text)


def program() -> Component:
    """Return safe_reload itself."""
    purl = PackageURL("pypi", None, "haproxy-safe-reload", version())
    return component(ComponentType.APPLICATION, "safe_reload", version(), purl, [LICENCE])


def of_debian(name: str, number: str, source: str, licences: Iterable[str], **qualifiers: str) -> Component:
    """Return a Debian package; of another source package where the name differs."""
    if source != name:
        qualifiers["upstream"] = source
    purl = PackageURL("deb", "debian", name, number, qualifiers)
    return component(ComponentType.LIBRARY, name, number, purl, licences)


def of_image(contents: Contents, sources: Path) -> list[Component]:
    """Return the Debian packages of an image, and safe_reload.

    Where there is no Python, safe_reload is the static program: this file lists what that is made of.
    """
    found = [
        of_debian(
            package.name,
            package.version,
            package.source,
            package.licences,
            arch=package.architecture,
            distro=contents.distribution,
        )
        for package in contents.packages()
    ]
    has_python = any(package.name == "python3" for package in contents.packages())
    return [program(), *found, *([] if has_python else of_sources(sources.read_text()))]


def of_sources(text: str) -> list[Component]:
    """Return what the static program is made of: each line has a Debian source package, its version, its licence."""
    found = []
    for line in text.splitlines():
        name, number, licence = line.split(" ", 2)
        purl = PackageURL("deb", "debian", name, number, {"arch": "source"})
        found.append(component(ComponentType.LIBRARY, name, number, purl, [licence]))
    return found


def of_requirements(kind: str, *requirements: str, optional: bool = False) -> list[Component]:
    """Return what an installation brings besides, such as `python3 (>= 3.11)`: which version of it, varies."""
    names = [re.match(r"[\w.-]+", requirement.strip()) for requirement in requirements]
    found = []
    for name in names:
        assert name, requirements
        namespace = "debian" if kind == "deb" else None
        made = component(ComponentType.LIBRARY, name[0], None, PackageURL(kind, namespace, name[0]))
        made.scope = ComponentScope.OPTIONAL if optional else ComponentScope.REQUIRED
        found.append(made)
    return found


def write(artifact: Path, kind: ComponentType, parts: Iterable[Component], path: Path) -> None:
    """Write the SBOM of an artifact: the same whenever it is written.

    Raises:
        ValueError: it is not valid by CycloneDX's own schema.

    """
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch(), UTC)
    bom.metadata.component = whole = component(kind, artifact.name, version(), None, [LICENCE])
    whole.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(whole, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise ValueError(f"{path}: {error}")
    path.write_text(json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n")
