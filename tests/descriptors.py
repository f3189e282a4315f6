"""What a process has open, looked at from outside while it goes on."""

import contextlib
import os


def descriptors(pid: int) -> dict[int, str]:
    """Return the open descriptors of a process and what they are, but for those that are closed meanwhile."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


def sockets(pid: int) -> set[str]:
    """Return the inodes of a process's sockets, as /proc/net has them."""
    links = descriptors(pid).values()
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
