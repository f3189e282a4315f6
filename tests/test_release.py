"""What `make dist` makes, but for the images and the Debian package, which tests/container tries."""

import gzip
import io
import json
import os
import signal
import stat
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from cyclonedx.model.component import ComponentType
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import entrypoint
from tests.system.lives import Program, lives
from tests.waiting import eventually
from tools.release import deb, oci, sbom
from tools.release.packages import Contents, licences
from tools.release.source import ROOT, changes, version

ANYWHERE = "-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64.whl"
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


def made(folder: Path) -> dict[str, bytes]:
    """Return what `python -m tools.release` makes without images, by name."""
    words = [sys.executable, "-m", "tools.release", "--folder", folder]
    static = folder.parent / "amd64"
    static.mkdir(exist_ok=True)
    (static / "safe_reload").write_bytes(b"\x7fELF")
    (static / "sources.txt").write_text("python3.13 3.13.5-2 PSF-2.0\nmusl 1.2.5-3, MIT\n")
    subprocess.run([*words, "--static", static], cwd=ROOT, check=True, env=os.environ | EPOCH, capture_output=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a release has, by name."""
    return made(tmp_path_factory.mktemp("release") / "dist")


@pytest.fixture(scope="module")
def wheel(release: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a release."""
    (name,) = (name for name in release if name.endswith(".whl"))
    path = tmp_path_factory.mktemp("wheel") / name
    path.write_bytes(release[name])
    return path
