"""Programs of Debian packages that are unpacked and not installed."""

import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@cache
def unpacked(suite: str, package: str, file: str) -> Path:
    """Return the path of a file of a package, which is downloaded once; skip the test if it cannot be."""
    folder = ROOT / ".venv/unpacked" / f"{suite}-{package}"
    path = folder / file
    if not path.exists():
        done = subprocess.run(
            [ROOT / "docker/unpacked", suite, package, folder], capture_output=True, text=True, timeout=200, check=False
        )
        if done.returncode:
            pytest.skip(f"Debian's {package} is needed here: {done.stderr.strip()}")
    return path
