"""promtool, which is part of Prometheus: `docker/promtool` puts it beside the tests' Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROMTOOL = shutil.which("promtool", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there; docker/promtool DIR fetches it")


def promtool(*words: str, text: bytes = b"", cwd: Path | None = None) -> str:
    """Run it and return what it says; it has to be content."""
    assert PROMTOOL
    run = subprocess.run(
        [PROMTOOL, *words], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, cwd=cwd
    )
    said = run.stdout.decode()
    assert run.returncode == 0, said
    return said
