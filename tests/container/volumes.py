"""What changes files under a container: a kubelet's volume, and everything that is not a file of its own."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

UID = 54321
"""Nobody else's on this machine: what it uses up, others do not miss."""


class ConfigMap:
    """The volume of a ConfigMap or Secret, written as a kubelet does it (pkg/volume/util/atomic_writer.go).

    The older order, of before 1.24, shows more of itself: the link of a new key dangles for a moment, and files are
    given to the group that may read them only after all can see them.
    """

    def __init__(self, folder: Path, *, older: bool = False, group: int | None = None) -> None:
        """Write into this folder, in the older order of steps or the newer one; files are this group's alone."""
        self._folder = folder
        self._older = older
        self._group = group
        self._numbers = itertools.count(1)
        self._keys: set[str] = set()

    def publish(self, files: Mapping[str, str]) -> None:
        """Make these the keys and their values, all at once."""
        pointer = self._folder / "..data"
        old = self._folder / pointer.readlink() if pointer.is_symlink() else None
        new = self._folder / f"..2026_01_02_03_04_05.{next(self._numbers)}"
        new.mkdir()
        new.chmod(0o755)
        for key, value in files.items():
            (new / key).write_text(value)
            (new / key).chmod(0o644 if self._group is None else 0o440)
        if self._older:
            self._link(files)
        else:
            self._give(new)
        (self._folder / "..data_tmp").symlink_to(new.name)
        (self._folder / "..data_tmp").rename(pointer)
        if not self._older:
            self._link(files)
        for key in self._keys - set(files):
            (self._folder / key).unlink()
        self._keys = set(files)
        if old:
            shutil.rmtree(old)
        if self._older:
            self._give(new)

    def _link(self, keys: Mapping[str, str]) -> None:
        for key in keys:
            if not (self._folder / key).is_symlink():
                (self._folder / key).symlink_to(f"..data/{key}")

    def _give(self, folder: Path) -> None:
        if self._group is None:
            return
        for path in (*folder.iterdir(), folder):
            os.chown(path, 0, self._group)
            path.chmod(path.stat().st_mode | (0o2050 if path.is_dir() else 0o440))


def replace(path: Path, content: str | bytes) -> None:
    """Write a new file and rename it over the old one, as editors and most programs do."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.rename(path)


_TAKE_ALL = """\
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
while libc.inotify_init() >= 0: pass
print("taken", flush=True)
input()
"""


@contextmanager
def no_inotify(uid: int = UID) -> Iterator[None]:
    """Hold every inotify instance that a uid may have (fs.inotify.max_user_instances), on the whole machine."""
    words = [sys.executable, "-S", "-E", "-c", _TAKE_ALL, str(uid)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"taken\n"
            yield
        finally:
            holder.communicate(b"\n")
