"""inotify(7): reports that something under a set of paths may have changed."""

from __future__ import annotations

import errno
import os
import struct

from entrypoint.lean.collections import Iterable
from entrypoint.lean.libc import libc_functions

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_IGNORED = 0x8000
_CHANGES = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
"""Everything but reading. ATTRIB is the only event on a bind-mounted file that is replaced on the host. Names are
ignored: no event of a ConfigMap's update carries the name of a configuration file."""

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_EVENT = struct.Struct("iIII")  # int wd; uint32_t mask, cookie, len; then char name[len]
_ROOM = 65536


class Inotify:
    """An inotify descriptor and the watches on it."""

    def __init__(self) -> None:
        """Open the descriptor.

        Raises:
            OSError: there is none: EMFILE, because `fs.inotify.max_user_instances` is 128 for all containers of a uid
                together, or ENOSYS. The caller must poll.

        """
        # Not at import: it costs CPU, and watching may be switched off.
        self._add, self._remove, init, self._errno = libc_functions(
            "inotify_add_watch", "inotify_rm_watch", "inotify_init1"
        )
        self._descriptor = init(_NONBLOCK_CLOEXEC)
        self._watches: set[int] = set()
        self._missing: set[str] = set()
        self.fresh = False
        """Whether the last `watch` added a watch, or missed a path that has just gone. What was read of it before may
        be out of date, and no event will tell."""
        if self._descriptor < 0:
            code = self._errno()
            raise OSError(code, f"inotify: {os.strerror(code)}")

    def fileno(self) -> int:
        """Return the descriptor; it is readable if there are events."""
        return self._descriptor

    def watch(self, paths: Iterable[str]) -> bool:
        """Watch exactly these paths. Call it again after each event: a file that was replaced is not watched any more.

        Return True if every path is watched or has just disappeared. False if a watch failed
        (`fs.inotify.max_user_watches`, permission, missing twice in a row): the caller must poll.
        """
        before, self._watches, self.fresh = self._watches, set(), False
        missing, self._missing = self._missing, set()
        complete = True
        for path in dict.fromkeys(paths):
            watch = self._add(self._descriptor, os.fsencode(path), _CHANGES)
            if watch >= 0:
                self._watches.add(watch)
                continue
            if self._errno() in _GONE:
                self._missing.add(path)
                if path not in missing:
                    self.fresh = True
                    continue
            complete = False
        self.fresh = self.fresh or not self._watches <= before
        for watch in before - self._watches:
            self._remove(self._descriptor, watch)  # fails if the kernel has removed it already
        return complete

    def read(self) -> bool:
        """Read all events; tell whether one of them may mean a change.

        Lost events (IN_Q_OVERFLOW) do. A removed watch (IN_IGNORED) does only if it was still wanted.
        """
        happened = False
        while True:
            try:
                events = os.read(self._descriptor, _ROOM)
            except BlockingIOError:
                return happened
            at = 0
            while at < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size + length
                if not mask & _IGNORED:
                    happened = True
                elif watch in self._watches:
                    self._watches.discard(watch)
                    happened = True

    def close(self) -> None:
        """Close the descriptor; the watches go with it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
