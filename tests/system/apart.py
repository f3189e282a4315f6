"""What changes a whole process (signals, limits, namespaces, children that anybody may reap) happens apart from pytest.

A forked child does it, with no descriptors but 0 to 2, and hands back what it found; an assertion that fails there
fails here.
"""

import ctypes
import fcntl
import functools
import os
import pickle
import socket
import struct
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pytest

P = ParamSpec("P")
T = TypeVar("T")

_HIGH = 500
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def apart(work: Callable[[], T]) -> T:
    """Return what `work` returns in a child of its own.

    Raises:
        AssertionError: it raised something; the text is the traceback of there.

    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_the_child(work, writer)
    os.close(writer)
    with open(reader, "rb") as answer:
        content = answer.read()
    _, status = os.waitpid(pid, 0)
    assert content, f"the child died with {os.waitstatus_to_exitcode(status)} and said nothing"
    value, error = pickle.loads(content)
    if error:
        raise AssertionError(error)
    result: T = value
    return result


def in_child(test: Callable[P, None]) -> Callable[P, None]:
    """Run a whole test apart; its fixtures are made in pytest's process."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        apart(lambda: test(*arguments, **named))

    return run


def in_own_network(test: Callable[P, None]) -> Callable[P, None]:
    """Run a whole test apart in an `own_network`; skip it where there can be none."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        own_network()
        test(*arguments, **named)

    return needs_own_network(in_child(run))


def _be_the_child(work: Callable[[], object], writer: int) -> None:
    # Out of the way: what is done apart may close and count low descriptors.
    channel = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.closerange(3, _HIGH)
    try:
        try:
            answer = (work(), "")
        except BaseException:  # noqa: BLE001  # told to the parent
            answer = (None, f"in the child:\n{traceback.format_exc()}")
        with open(channel, "wb") as parent:
            pickle.dump(answer, parent)
    finally:
        os._exit(0)


def own_network(*, up: bool = True) -> None:
    """Give this process, a child, a network of its own in which there is a loopback and nothing else."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    if up:
        bring_up("lo")


def bring_up(interface: str) -> None:
    """Switch a network interface on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH22x", interface.encode(), 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), flags | _IFF_UP))


def needs_own_network(test: Callable[P, None]) -> Callable[P, None]:
    """Skip a test where a process cannot have a network of its own."""
    reason = why_no_network()
    return pytest.mark.skipif(bool(reason), reason=f"no network of its own: {reason}")(test)


@functools.cache
def why_no_network() -> str:
    """Return the reason why a process cannot have a network of its own here, or nothing."""
    try:
        apart(own_network)
    except AssertionError as error:
        return str(error).splitlines()[-1]
    return ""
