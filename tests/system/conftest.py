"""The program under test: given by --init, else this project's."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.program import PROGRAM
from tests.system.instance import Begin, instances
from tests.system.lives import Program


def program_under_test(config: pytest.Config) -> Program:
    """Read --init."""
    words: str | None = config.getoption("--init")
    return Program(tuple(shlex.split(words)) if words else PROGRAM)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is promised for another program only."""
    ours = program_under_test(item.config).is_ours
    for name, skip in (("ours_is_better", not ours), ("tini_only", ours)):
        marker = item.get_closest_marker(name)
        if marker is not None and skip:
            pytest.skip(f"{name}: {marker.args[0]}")


def pytest_report_header(config: pytest.Config) -> str:
    """Name the program under test in the header."""
    return f"init under test: {shlex.join(program_under_test(config).words)}"


@pytest.fixture(scope="session")
def program(pytestconfig: pytest.Config) -> Program:
    """Name the program under test."""
    return program_under_test(pytestconfig)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start safe_reload with haproxy of this host, with its files in `tmp_path`; it is ended after the test."""
    with instances(tmp_path) as start:
        yield start
