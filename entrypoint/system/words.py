"""What a generation writes to its stderr: passed on, and its last words remembered for those who asked."""

import contextlib
import os

_ROOM = 65536
_LONGEST_LINE = 4096
_MOST_REMEMBERED = 16384
"""Bytes; the first ones, because haproxy says at once what is wrong, and then only what follows from it."""


class Words:
    """A pipe that is a generation's stderr."""

    def __init__(self, descriptor: int | None = None, text: str = "") -> None:
        """Make the pipe, or go on with that of a generation that our last life has started.

        Args:
            descriptor: our end of it; None for a new pipe.
            text: what the generation has said first.

        Raises:
            OSError: there are no descriptors left, or this one is not there.

        """
        self._begun = b""
        self._remembered = bytearray(text.encode())
        self._spawned = descriptor is not None
        if descriptor is None:
            self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._reader, False)
        else:
            self._reader, self.writer = descriptor, -1
            os.set_inheritable(descriptor, False)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reader

    def spawned(self) -> None:
        """Let go of the generation's end, so that its death shows."""
        if not self._spawned:
            self._spawned = True
            os.close(self.writer)

    def read(self) -> tuple[list[bytes], bool]:
        """Return the lines that have come, without their ends, and whether more may come."""
        try:
            data = os.read(self._reader, _ROOM)
        except BlockingIOError:
            return [], True
        if not data:
            return self._rest(), False
        self._remembered += data[: _MOST_REMEMBERED - len(self._remembered)]
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) >= _LONGEST_LINE:
            lines += self._rest()
        return lines, True

    def _rest(self) -> list[bytes]:
        rest, self._begun = self._begun, b""
        return [rest] if rest else []

    def drain(self) -> list[bytes]:
        """Return what is left of a generation that is gone; its own children may hold the pipe open."""
        lines = []
        for _ in range(_MOST_REMEMBERED):
            more, goes_on = self.read()
            lines += more
            if not goes_on or not more:
                break
        return lines + self._rest()

    @property
    def text(self) -> str:
        """What it has said first."""
        return self._remembered.decode(errors="replace")

    def close(self) -> None:
        """Close the pipe."""
        self.spawned()
        with contextlib.suppress(OSError):
            os.close(self._reader)
