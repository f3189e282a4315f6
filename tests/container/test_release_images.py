"""An image as a release has it: the same bits twice, loaded by others, and still a load balancer."""

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.models.images import Image

import docker
from tests.container.conftest import NEWEST_STABLE, Start
from tests.program import needs_debian
from tools.release import oci, sbom
from tools.release.packages import Contents
from tools.release.source import version

pytestmark = needs_debian

NAME = "haproxy-safe-reload:test-release"
DOCKERFILE = f"""\
FROM {NEWEST_STABLE}
RUN useradd --system --uid 4711 somebody && date >/var/log/dpkg.log && date >>/usr/share/built && : >/usr/share/built
"""
"""A build that leaves times, a day in /etc/shadow, backups of the users and a log."""


@pytest.fixture(autouse=True)
def _date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def build(engine: docker.DockerClient) -> Image:
    """Build it, whatever the engine's cache has."""
    image, _ = engine.images.build(fileobj=io.BytesIO(DOCKERFILE.encode()), tag=NAME, nocache=True, rm=True)
    return image


def archived(image: str, path: Path) -> Contents:
    """Write the archive; return what is in it."""
    contents = Contents()
    for layer in oci.make(image, NAME, path):
        contents.add(layer)
    return contents


@pytest.fixture
def built(engine: docker.DockerClient) -> Iterator[None]:
    """Leave no image behind."""
    yield
    engine.images.remove(NAME, force=True)


@pytest.mark.usefixtures("built")
def test_two_builds_are_one_archive(engine: docker.DockerClient, start: Start, tmp_path: Path) -> None:
    """Two builds of the same have other ids, and the same archive; skopeo and docker can read it, and it serves."""
    first, second = tmp_path / "first", tmp_path / "second"
    ids = [build(engine).id]
    contents = archived(NAME, first)
    ids.append(build(engine).id)
    archived(NAME, second)
    assert ids[0] != ids[1]
    assert first.read_bytes() == second.read_bytes()

    packages = {package.name: package for package in contents.packages()}
    assert packages["haproxy"].version.startswith("3.0")
    assert "GPL-2+" in packages["haproxy"].licences
    assert contents.distribution == "debian-13"
    described = tmp_path / "sbom"
    sbom.write(first, sbom.CONTAINER, sbom.of_image(contents, tmp_path / "none"), described)
    assert len(json.loads(described.read_text())["components"]) == len(packages) + 1

    if shutil.which("skopeo"):
        others_can_read(first, tmp_path / "copy")
    with first.open("rb") as file:
        (loaded,) = engine.images.load(file)
    assert loaded.id not in ids
    assert loaded.tags == [NAME]
    assert loaded.attrs["Created"].startswith("2023-11-14T22:13:20")
    assert loaded.labels["org.opencontainers.image.version"] == version()
    start(NAME).begins("one")


def others_can_read(archive: Path, copy: Path) -> None:
    """Have skopeo, which verifies each digest, copy it: entry point and stop signal are there."""
    words = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", f"oci-archive:{archive}", f"dir:{copy}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((copy / "manifest.json").read_text())
    configuration = json.loads((copy / manifest["config"]["digest"].partition(":")[2]).read_text())
    assert configuration["config"]["StopSignal"] == "SIGTERM"
    assert configuration["config"]["Entrypoint"] == ["safe_reload"]
    assert len(configuration["rootfs"]["diff_ids"]) == len(manifest["layers"])
