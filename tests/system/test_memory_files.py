"""Memory files: where one cannot be written, nothing of it is left."""

import errno
import os
import resource
from collections.abc import Callable

import pytest

from entrypoint.pid1 import upgrade
from entrypoint.system.haproxy_cli import CliChannel
from entrypoint.system.state_file import in_memory
from entrypoint.system.ticket_keys import TicketKeys
from tests.descriptors import descriptors
from tests.system.apart import in_child
from tests.upgrades import left

MADE: dict[str, Callable[[], object]] = {
    "the line to a generation": CliChannel,
    "the last known good configuration": lambda: in_memory("ab", (("a.cfg", b"x"), ("b.cfg", b"x" * 100))),
    "the keys of session tickets": TicketKeys,
    "the state for an upgrade": lambda: upgrade.write_state(left(startup_logs=("x" * 100, "", ""))),
}


@pytest.mark.parametrize("what", MADE)
@in_child
def test_a_memory_file_that_cannot_be_written_is_closed(what: str) -> None:
    """Else each reload that fails for want of memory would cost descriptors, until there are none.

    No file may become longer than ten bytes (RLIMIT_FSIZE; CPython ignores SIGXFSZ), the log of these tests included.
    """
    before = descriptors(os.getpid())
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
    try:
        MADE[what]()
    except OSError as error:
        refused = error.errno == errno.EFBIG
    else:
        refused = False
    assert refused
    assert descriptors(os.getpid()) == before


def test_what_cannot_be_written_down_is_closed_as_well() -> None:
    """Whatever the reason: a value that is no plain one, such as a mistake of ours would leave."""
    before = descriptors(os.getpid())
    with pytest.raises(ValueError, match="unmarshallable"):
        upgrade.write_state(left(log=object()))
    assert descriptors(os.getpid()) == before
