"""inotify(7): being told that something under a set of paths may have changed."""

import errno
import os
import sys
from collections.abc import Iterable

from entrypoint.lean.libc import libc_functions

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_IGNORED = 0x8000
_CHANGES = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
"""Everything but reading. ATTRIB is there because it is all that the watch on a bind-mounted file sees when the file is
replaced on the host; no name is ever looked at, because of a ConfigMap's update no event has a configuration's name."""

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_EVENT = 16  # int wd; uint32_t mask, cookie, len; char name[len]
_ROOM = 65536


class Inotify:
    """An inotify descriptor and the watches on it."""

    def __init__(self) -> None:
        """Open the descriptor.

        Raises:
            OSError: there is none to be had: EMFILE, because `fs.inotify.max_user_instances` is 128 for all containers
                of a uid together, or ENOSYS. The poll has to do.

        """
        # Only now: nobody pays for it who has switched watching off.
        self._add, self._remove, init, self._errno = libc_functions(
            "inotify_add_watch", "inotify_rm_watch", "inotify_init1"
        )
        self._descriptor = init(_NONBLOCK_CLOEXEC)
        self._watches: set[int] = set()
        self._missing: set[str] = set()
        self.fresh = False
        """Whether the last `watch` began to watch something, or missed something that has just gone: what was read of
        it before may be out of date by now, and no event will tell."""
        if self._descriptor < 0:
            code = self._errno()
            raise OSError(code, f"inotify: {os.strerror(code)}")

    def fileno(self) -> int:
        """Return the descriptor, which is readable when something happened."""
        return self._descriptor

    def watch(self, paths: Iterable[str]) -> bool:
        """Watch these paths and nothing else; ask again after each event, since who is replaced is watched no more.

        Returns:
            Whether all of them are watched, or have just gone, so that they are not among the next ones. If not, for
            `fs.inotify.max_user_watches`, for want of a permission, or because one was not there the last time either,
            the poll has to do for the rest.

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
            self._remove(self._descriptor, watch)  # an error says that it has gone by itself
        return complete

    def read(self) -> bool:
        """Take all events; tell whether there was one that says that something may have changed.

        That the kernel has lost events (IN_Q_OVERFLOW) says so, too. That a watch is gone (IN_IGNORED) does not,
        unless it was one that is wanted.
        """
        happened = False
        while True:
            try:
                events = os.read(self._descriptor, _ROOM)
            except BlockingIOError:
                return happened
            at = 0
            while at < len(events):
                watch, mask, length = _field(events, at), _field(events, at + 4), _field(events, at + 12)
                at += _EVENT + length
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


def _field(events: bytes, at: int) -> int:
    return int.from_bytes(events[at : at + 4], sys.byteorder)
