"""A pipe from which a new haproxy reads a script as /dev/fd/N; it waits there until the script is written (pipe(7))."""

from __future__ import annotations

import fcntl
import os

from entrypoint.lean import contextlib

_CAPACITY = 1 << 20
"""Bytes: what the kernel allows (pipe-max-size)."""


class ScriptPipe:
    """Owns both ends until the process is spawned, and the writing end until the script is written."""

    def __init__(self) -> None:
        """Make the pipe.

        Raises:
            OSError: no descriptors are left.

        """
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        # A wrapper may start haproxy as another user, who opens it by its name. There is no secret in it.
        os.fchmod(self.reader, 0o444)
        os.set_blocking(self._writer, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _CAPACITY)

    def spawned(self) -> None:
        """Close the end that belongs to the new process."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def write(self, script: str) -> None:
        """Write the whole script, or none of it if the pipe is too small or the process has exited; close the pipe."""
        content = script.encode()
        with contextlib.suppress(OSError):
            if self._writer >= 0 and len(content) <= fcntl.fcntl(self._writer, fcntl.F_GETPIPE_SZ):
                os.write(self._writer, content)
        self.close()

    def close(self) -> None:
        """Close the writing end: the process reads what was written."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
