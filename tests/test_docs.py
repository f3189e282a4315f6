"""The documentation says what the code says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from entrypoint.serving import _KEPT_CAPABILITIES
from tests.core.explorer import stale

ROOT = Path(__file__).parents[1]


def test_the_diagrams_and_the_table_of_options_are_the_code_s() -> None:
    """`make diagram` has been run since the last change."""
    assert stale(ROOT, write=False) == []


def test_every_file_that_the_readme_links_is_there() -> None:
    """No link into the tree is broken."""
    links = re.findall(r"\]\(((?!http|#)[^)]+)\)", (ROOT / "README.md").read_text())

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/safe_reload.8"])
def test_the_capabilities_that_are_kept_are_named(page: str) -> None:
    """Whoever thinks of --drop-caps can see what stays, and that CHOWN and DAC_OVERRIDE go."""
    text = (ROOT / page).read_text()
    assert [name for name in (*_KEPT_CAPABILITIES, "chown", "dac_override") if name.upper() not in text] == []


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_the_man_page_is_clean() -> None:
    """mandoc has nothing to say about it."""
    run = subprocess.run(
        ["mandoc", "-Tlint", "docs/safe_reload.8"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.stdout + run.stderr == ""
