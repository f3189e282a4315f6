"""Other users of this machine, for tests that root runs: somebody who listens, and somebody who asks."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.system.apart import apart

T = TypeVar("T")
OURS, STRANGER = 54321, 54322
"""Uids that nobody has."""

_LISTENS = """
import contextlib, os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], int(sys.argv[2], 8))
listener.listen(16)
print("listens", flush=True)
while True:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.recv(4096)
        connection.sendall(sys.argv[3].encode())
"""


@contextlib.contextmanager
def listening_as(uid: int, path: Path, answer: str = "", mode: int = 0o666) -> Iterator[None]:
    """Have somebody listen at a path, and answer everything with this."""
    words = [sys.executable, "-I", "-c", _LISTENS, str(path), f"{mode:o}", answer]
    with subprocess.Popen(words, stdout=subprocess.PIPE, user=uid, group=uid, extra_groups=[], cwd="/") as process:
        assert process.stdout and process.stdout.readline() == b"listens\n"
        yield
        process.kill()


def as_user(uid: int, work: Callable[[], T]) -> T:
    """Return what `work` returns when this user does it."""

    def change_and_work() -> T:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return work()

    return apart(change_and_work)


@contextlib.contextmanager
def folder_of(uid: int, mode: int, above: str = "/run") -> Iterator[Path]:
    """Make a folder that everybody can get at, below one that only root can write; or below another."""
    with tempfile.TemporaryDirectory(dir=above) as path:
        os.chown(path, uid, uid)
        Path(path).chmod(mode)
        yield Path(path)
