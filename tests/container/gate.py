"""A haproxy that stops in the middle of its configuration until it is let on."""

import os

from tests.container.conftest import Balancer
from tests.container.trouble import haproxies
from tests.waiting import eventually

GATE = "global\n  lua-load /etc/lb/gate.lua\n"
"""haproxy reads its configuration and waits here until somebody opens the gate, a FIFO, for writing."""


def make_gate(lb: Balancer) -> None:
    """Make what a configuration with GATE needs."""
    os.mkfifo(lb.folder / "gate")
    (lb.folder / "gate.lua").write_text('io.open("/etc/lb/gate"):close()\n')


def who_waits(lb: Balancer) -> int:
    """Wait for a generation that has come to the gate; return its pid."""
    return eventually(lambda: next((pid for pid in haproxies(lb) if _waits(pid)), 0))


def _waits(pid: int) -> bool:
    """Tell whether a process has come to the gate: it sleeps in open(2) of a FIFO."""
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
            return file.read() == "wait_for_partner"
    except OSError:
        return False


def open_gate(lb: Balancer) -> None:
    """Let pass whoever waits at the gate, or comes there before it is closed."""

    def somebody_came() -> bool:
        try:
            os.close(os.open(lb.folder / "gate", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    eventually(somebody_came)
