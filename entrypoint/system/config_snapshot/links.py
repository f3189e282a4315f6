"""Symbolic links, followed once."""

import os

_DEEP = 10
_LINKS = 40
"""As many symbolic links as the kernel follows in one path (path_resolution(7))."""


class Links:
    """Symbolic links, each read once."""

    def __init__(self) -> None:
        """Begin without one."""
        self._real: dict[str, str] = {}
        self._folders: dict[str, tuple[str, ...]] = {}
        self._said: dict[str, str | None] = {}

    def still_hold(self) -> bool:
        """Tell whether every link says what it said, and what was no link is none."""
        return all(_read_link(path) == target for path, target in self._said.items())

    def folders_of(self, path: str) -> tuple[str, ...]:
        """Return the folders of every link on the way to a path that has been followed, and of what it leads to."""
        return self._folders[path]

    def follow(self, path: str, depth: int = 0) -> str:
        """Return where a path leads, whether or not there is something; of a loop some link in it."""
        known = self._real.get(path)
        if known is not None:
            return known
        if path.count("/") > _DEEP:
            # From the top, so that the depth of the recursion does not depend on the path's length.
            for at, character in enumerate(path):
                if character == "/" and at:
                    self.follow(path[:at], depth)
        folder, name = os.path.split(path.rstrip("/") or "/")
        if path in {"", folder}:
            real, folders = self._start(path)
        else:
            real_folder = self.follow(folder, depth)
            before = self._folders.get(folder, ()) if folder else ()
            real, folders = self._step(real_folder, name, depth)
            # Of the folder's own way only the links matter: that its last part is in some folder is said by `real`.
            folders = (*(before[:-1]), *folders)
        self._real[path], self._folders[path] = real, folders
        return real

    def _start(self, path: str) -> tuple[str, tuple[str, ...]]:
        """Return the root, or where we are, and the folder that it is in."""
        real = path or os.getcwd()
        return real, (os.path.dirname(real),)

    def _step(self, folder: str, name: str, depth: int) -> tuple[str, tuple[str, ...]]:
        if name in {"", "."}:
            return folder, (os.path.dirname(folder),)
        if name == "..":
            parent = os.path.dirname(folder)
            return parent, (os.path.dirname(parent),)
        path = os.path.join(folder, name)
        if path not in self._said:
            self._said[path] = _read_link(path)
        target = self._said[path]
        if target is None or depth == _LINKS:
            return path, (folder,)
        full = os.path.join(folder, target)
        real = self.follow(full, depth + 1)
        return real, (folder, *self._folders.get(full, ()))


def _read_link(path: str) -> str | None:
    """Return what a link leads to; None of what is no link."""
    try:
        return os.readlink(path)
    except OSError:
        return None
