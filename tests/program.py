"""The program under test: what TEST_PROGRAM names, such as the static file, or this repository's Python."""

import os
import shlex
import sys

import pytest

STATIC = bool(os.environ.get("TEST_PROGRAM"))
"""Whether it has its own interpreter, as the static file."""
needs_debian = pytest.mark.skipif(
    STATIC, reason="the static file is tested where there is only haproxy and its libraries"
)
needs_a_python = pytest.mark.skipif(STATIC, reason="the static file has no Python to change or run")
PROGRAM = tuple(shlex.split(os.environ.get("TEST_PROGRAM", ""))) or (sys.executable, "-m", "entrypoint")
