"""The keys of TLS session tickets: a sealed memory file that each haproxy reads, so that sessions outlive a haproxy.

The format is that of `tls-ticket-keys` in HAProxy's configuration manual: a key a line, in base64. Of the last three
the second encrypts, and all decrypt. So a rotation appends a key and drops the oldest: tickets that were given before
it, and tickets that only newer haproxies give, can be decrypted on both sides of it.

haproxy opens the file as /dev/fd/N while it parses, once for all `bind` lines that name it, and never again. Linux
opens a memory file anew by that name, each time with an offset of its own (open(2)).
"""

from __future__ import annotations

import fcntl
import os
import time

from entrypoint.lean.collections import Callable

ROTATE_AFTER = 12 * 3600.0
"""Seconds: what HAProxy's manual suggests. A key encrypts for as long as the generations that encrypt with it live."""
_COUNT = 3
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_LENGTH = 107
"""Letters of a key; they stand for a name of 16 bytes, 32 for HMAC, and 32 for AES-256."""
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class TicketKeys:
    """Owns the keys of the current generation, and those of its successor once they are due."""

    def __init__(self, saved: tuple[int, float] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Make new keys, or take those of the previous program.

        Args:
            saved: `current` of the previous program.
            clock: in seconds; must go on through an upgrade.

        Raises:
            OSError: no descriptors or no memory are left, or the saved descriptor is missing.

        """
        self._clock = clock
        self._next: int | None = None
        if saved:
            os.set_inheritable(saved[0], False)
        self.current = saved or (_in_memory([_key() for _ in range(_COUNT)]), clock())
        """The descriptor of the current generation's keys, and when they were made."""

    def of_a_candidate(self) -> int:
        """Return the descriptor of the keys for a new haproxy: rotated, if the current ones are old enough.

        The current ones stay until a candidate has become current: after two rotations for candidates that failed, its
        tickets would be worth nothing.

        Raises:
            OSError: no descriptors or no memory are left.

        """
        current, made = self.current
        if self._next is None and self._clock() - made >= ROTATE_AFTER:
            lines = os.pread(current, os.fstat(current).st_size, 0).splitlines(keepends=True)
            self._next = _in_memory([*lines[1:], _key()])
        return current if self._next is None else self._next

    def promoted(self) -> None:
        """Note that the candidate has become current."""
        if self._next is not None:
            os.close(self.current[0])
            self.current, self._next = (self._next, self._clock()), None


def _key() -> bytes:
    # Each letter is equally likely, so the bytes are as random as if they had been encoded; binascii costs 6 KiB.
    return os.urandom(_LENGTH).translate(_LETTERS * 4) + b"=\n"


def _in_memory(lines: list[bytes]) -> int:
    descriptor = os.memfd_create("tls-ticket-keys", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # Before there is anything to read. haproxy reads them as the user that we are (open(2) by /proc/self/fd).
        os.fchmod(descriptor, 0o400)
        with open(descriptor, "wb", closefd=False) as file:
            file.writelines(lines)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
