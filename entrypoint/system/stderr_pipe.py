"""What a generation writes to its stderr: passed on whole, and remembered in part for those who asked for it.

While it starts its writes wait for us, so that nothing is missing of why it cannot. Once it has answered it may have
clients, and they never wait for us: its end is non-blocking from then on, and what finds the pipe full is lost where
haproxy writes it (it counts the lines of `log stderr` among them as DroppedLogs in `show info`).
"""

import contextlib
import fcntl
import os
import select
import sys
import termios

from entrypoint.haproxy.excerpt import Excerpt

_CAPACITY = 262144
"""Bytes that a pipe may hold, where the kernel allows it. More would be taken from others: what all processes of a user
have without CAP_SYS_RESOURCE is 64 MiB, pipe-user-pages-soft of pipe(7)."""
_ROOM = 65536
_LONGEST_LINE = 262144
"""Bytes; a longer line is passed on as several."""
_FASTEST = 20 * 1024 * 1024
"""Bytes a second that a haproxy is believed to write at most."""
_LONGEST_PAUSE = 0.05
"""Seconds."""


class StderrPipe:
    """A pipe that is a generation's stderr."""

    ended = False
    """Nobody has the other end any more."""
    overrun = False
    """The pipe was full when it was last read, so something may have been lost."""

    def __init__(self, descriptor: int | None = None, text: str = "", begun: bytes = b"") -> None:
        """Make the pipe, or go on with that of a generation that our last life has started.

        Args:
            descriptor: our end of it; None for a new pipe.
            text: what is remembered of it.
            begun: what has been read of a line that has not ended.

        Raises:
            OSError: there are no descriptors left, or this one is not there.

        """
        self.begun = begun
        self._excerpt = Excerpt()
        self._excerpt.add(text.encode().splitlines())
        self.has_started = descriptor is not None
        """The generation does not wait for us."""
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
        """Seconds after which it is read again: an eighth of the pipe comes in it, if it goes on as it did."""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reader

    @property
    def unread(self) -> int:
        """The bytes that are in the pipe."""
        return int.from_bytes(fcntl.ioctl(self._reader, termios.FIONREAD, bytes(4)), sys.byteorder)

    def share(self, *, full: bool) -> int:
        """Return how many bytes to read now.

        Args:
            full: there is no room for them where they go. As many as do no harm wait in the pipe: a line of half a page
                and a bit takes a page, so a pipe may be full when it is half full.

        """
        return self.unread - self._capacity * 3 // 8 if full else _ROOM

    def started(self) -> None:
        """Have the generation wait for us no longer, and let go of its end, so that its death shows."""
        if not self.has_started:
            self.has_started = True
            # It is haproxy's description of the pipe, and nobody else's. haproxy itself does the same for `log stderr`.
            os.set_blocking(self.writer, False)
            os.close(self.writer)

    def read(self, most: int = _CAPACITY) -> bytes:
        """Return the lines that have come, each with its end.

        Args:
            most: bytes that are read at most; the rest stays in the pipe.

        """
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
        """Tell whether a line would be lost now; only the other end of the pipe shows it."""
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
        """Return what is left of a generation that is gone; its own children may hold the pipe open, and write."""
        lines, rest = self.read(), self._rest()
        self._excerpt.add(rest.split(b"\n")[:-1])
        return lines + rest

    @property
    def text(self) -> str:
        """What is remembered: how it began, every alert, and the last lines."""
        return self._excerpt.content.decode(errors="backslashreplace")

    def close(self) -> None:
        """Close the pipe."""
        self.started()
        with contextlib.suppress(OSError):
            os.close(self._reader)
