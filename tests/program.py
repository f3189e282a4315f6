"""The program under test: what TEST_PROGRAM names, such as the static file, or this repository's Python."""

import os
import shlex
import sys

STATIC = bool(os.environ.get("TEST_PROGRAM"))
"""Whether it is one that has its own interpreter: tests that give it code of theirs are of no use."""
PROGRAM = tuple(shlex.split(os.environ.get("TEST_PROGRAM", ""))) or (sys.executable, "-m", "entrypoint")
