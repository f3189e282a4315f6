"""A generation's stderr: passed on in full, and partly kept for the user who asks why a reload failed.

While a generation starts, its writes wait for us, so that no message about a failed start is lost. After its first
answer it may have clients, who must never wait for us. From then on its end is non-blocking, and haproxy drops what
does not fit into the pipe (for `log stderr` it counts the lines as DroppedLogs in `show info`).
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios

from entrypoint.haproxy.excerpt import Excerpt
from entrypoint.lean import contextlib

_CAPACITY = 262144
"""Bytes that the pipe may hold, if the kernel allows it. More would be taken from others: without CAP_SYS_RESOURCE all
processes of a user share 64 MiB, pipe-user-pages-soft of pipe(7)."""
_ROOM = 65536
_LONGEST_LINE = 262144
"""Bytes; a longer line is passed on in parts."""
_FASTEST = 20 * 1024 * 1024
"""Bytes a second that we expect a haproxy to write at most."""
_LONGEST_PAUSE = 0.05
"""Seconds."""


class StderrPipe:
    """A pipe that is a generation's stderr."""

    ended = False
    """Nobody has the other end open any more."""
    overrun = False
    """The pipe was full at the last `read`, so haproxy may have lost something."""

    def __init__(self, descriptor: int | None = None, text: str = "", begun: bytes = b"") -> None:
        """Make the pipe, or take over that of a generation that the previous program started.

        Args:
            descriptor: our end; None for a new pipe.
            text: what was kept of it.
            begun: the part of an unfinished line that has been read.

        Raises:
            OSError: no descriptors are left, or this one is not open.

        """
        self.begun = begun
        self._excerpt = Excerpt()
        self._excerpt.add(text.encode().splitlines())
        self.has_started = descriptor is not None
        """The generation has answered, and its end is non-blocking."""
        if descriptor is None:
            self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._reader, False)
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _CAPACITY)
        else:
            self._reader, self.writer = descriptor, -1
            os.set_inheritable(descriptor, False)
        self._capacity = fcntl.fcntl(self._reader, fcntl.F_GETPIPE_SZ)
        self.pause = _LONGEST_PAUSE
        """Seconds until the next read: an eighth of the pipe fills meanwhile, at the current rate."""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reader

    @property
    def unread(self) -> int:
        """Bytes in the pipe."""
        return int.from_bytes(fcntl.ioctl(self._reader, termios.FIONREAD, bytes(4)), sys.byteorder)

    def share(self, *, full: bool) -> int:
        """Return how many bytes to read now; as few as possible if the log has no room for them (`full`).

        A line of a little over half a page takes up a whole page, so a pipe may be full when it is half full.
        """
        return self.unread - self._capacity * 3 // 8 if full else _ROOM

    def started(self) -> None:
        """Make the generation's end non-blocking, and close our copy, so that we see when the generation dies."""
        if not self.has_started:
            self.has_started = True
            # Only haproxy has this file description. haproxy itself does the same for `log stderr`.
            os.set_blocking(self.writer, False)
            os.close(self.writer)

    def read(self, most: int = _CAPACITY) -> bytes:
        """Return the whole lines that have arrived. At most `most` bytes are read; the rest stays in the pipe."""
        unread = self.unread
        self.overrun = self.has_started and 2 * unread > self._capacity and self._is_full()
        data = b""
        if most > 0:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._reader, min(most, max(unread, 1)))
                self.ended = not data
        shortest, came = self._capacity / _FASTEST, max(len(data), 1)
        self.pause = min(max(self.pause * self._capacity / 8 / came, shortest), _LONGEST_PAUSE)
        data = self.begun + data
        end = data.rfind(b"\n") + 1
        lines, self.begun = data[:end], data[end:]
        if self.ended or len(self.begun) > _LONGEST_LINE:
            lines += self._rest()
        self._excerpt.add(lines.split(b"\n")[:-1])
        return lines

    def _is_full(self) -> bool:
        """Tell whether a line would be lost now; only polling the writing end tells."""
        try:
            end = os.open(f"/proc/self/fd/{self._reader}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return True
        poller = select.poll()
        poller.register(end, select.POLLOUT)
        full = not poller.poll(0)
        os.close(end)
        return full

    def _rest(self) -> bytes:
        rest, self.begun = self.begun, b""
        return rest and rest + b"\n"

    def drain(self) -> bytes:
        """Return what is left after the generation has died; its children may still hold the pipe open and write."""
        lines, rest = self.read(), self._rest()
        self._excerpt.add(rest.split(b"\n")[:-1])
        return lines + rest

    @property
    def text(self) -> str:
        """What is kept: the beginning, every alert, and the last lines."""
        return self._excerpt.content.decode(errors="backslashreplace")

    def close(self) -> None:
        """Close the pipe."""
        self.started()
        with contextlib.suppress(OSError):
            os.close(self._reader)
