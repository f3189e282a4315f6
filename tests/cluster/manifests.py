"""The manifests of k8s/, rendered by kubectl."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"

Manifest = dict[str, Any]


@cache
def kubectl() -> str:
    """Return the path of a kubectl that knows the fields that k8s/ uses."""
    return subprocess.run([ROOT / "docker/kubectl"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def kustomize(folder: Path) -> list[Manifest]:
    """Return what `kubectl kustomize` renders."""
    return list(yaml.safe_load_all(_rendered(folder)))


@cache
def _rendered(folder: Path) -> str:
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"a deprecated field is a warning: {done.stderr}"
    return done.stdout


def the(kind: str, manifests: list[Manifest]) -> Manifest:
    """Return the only one of this kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found
