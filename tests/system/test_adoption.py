"""Whose listeners are kept: those of the generation that has become current last."""

import socket
import time
from typing import cast

from entrypoint.adoption import Adoption
from entrypoint.sources import Sources
from entrypoint.system.cli_channel import CliChannel
from entrypoint.system.handover import Taking


class Line:
    """The line to a generation that answers when it is told to."""

    def __init__(self) -> None:
        """Begin unasked."""
        self.theirs: list[socket.socket] = []

    def session(self) -> socket.socket:
        """Return a new connection."""
        ours, theirs = socket.socketpair()
        self.theirs.append(theirs)
        return ours


class Kept:
    """Counts what was passed."""

    holds = False

    def __init__(self) -> None:
        """Begin with nothing."""
        self.takings: list[Taking] = []

    def binds_itself(self, number: int, answer: str) -> bool:  # noqa: ARG002
        """Never ask for more."""
        return False

    def passed(self, taking: Taking) -> None:
        """Count it."""
        self.takings.append(taking)


def test_what_an_older_generation_says_late_is_not_kept() -> None:
    """It was stopped when it was asked, and another one has become current since."""
    sources, kept, lines = Sources(), Kept(), {1: Line(), 2: Line()}
    adoption = Adoption(sources, cast("dict[int, CliChannel]", lines), kept)
    adoption.ask(1)
    adoption.ask(2)
    for line, passed in ((lines[1], 0), (lines[2], 1)):
        (theirs,) = line.theirs
        theirs.close()
        sources.wait(time.monotonic())
        assert len(kept.takings) == passed
