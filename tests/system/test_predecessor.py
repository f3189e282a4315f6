"""The haproxy that a pid file names: told to leave if it serves what we serve, and nobody else ever."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrypoint.options.vips import Vip
from entrypoint.system.predecessor import find

LISTEN = """
import signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.socket(family)
if family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.bind((sys.argv[1], 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
print(signal.sigwait({signal.SIGUSR1}), flush=True)
"""

Start = Callable[..., tuple[subprocess.Popen[str], int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start what listens on a port and waits for SIGUSR1, as a program of any name; it is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(name: str = "haproxy", address: str = "127.0.0.1") -> tuple[subprocess.Popen[str], int]:
        # /proc/PID/exe names the file that is run: a copy of the interpreter, not a link to it.
        program = tmp_path / name
        if not program.exists():
            shutil.copy(os.path.realpath("/proc/self/exe"), program)
        words = [str(program), "-c", LISTEN, address]
        environment = {**os.environ, "PYTHONHOME": os.path.dirname(os.path.dirname(os.path.realpath("/proc/self/exe")))}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert process.stdout
        return process, int(process.stdout.readline())

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def pid_file(tmp_path: Path, content: object) -> str:
    """Write a pid file; return its path."""
    path = tmp_path / "pid"
    path.write_text(f"{content}\n")
    return str(path)


def vips(*ports: int) -> list[Vip]:
    """Declare these ports of 127.0.0.1."""
    return [Vip("127.0.0.1", port, "FD") for port in ports]


def descriptors() -> int:
    """Count what this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_a_haproxy_on_one_of_our_ports_is_told_to_leave(start: Start, tmp_path: Path) -> None:
    """SIGUSR1, once, and only when it is asked for."""
    process, port = start()
    before = descriptors()
    found = find(pid_file(tmp_path, process.pid), vips(1, port))
    assert found
    assert found.pid == process.pid
    assert process.poll() is None
    found.retire()
    assert process.communicate(timeout=20)[0] == f"{int(signal.SIGUSR1)}\n"
    assert descriptors() == before - 1  # the pipe of communicate


def test_a_predecessor_that_has_exited_is_not_signalled(start: Start, tmp_path: Path) -> None:
    """Its pid may belong to another process by then; the pidfd of the process that was found counts."""
    process, port = start()
    found = find(pid_file(tmp_path, process.pid), vips(port))
    assert found
    process.kill()
    process.wait()
    found.retire()


def test_a_haproxy_on_other_ports_is_not_a_predecessor(start: Start, tmp_path: Path) -> None:
    """It serves something else, and the pid file is stale."""
    process, port = start()
    before = descriptors()
    assert find(pid_file(tmp_path, process.pid), vips(port + 1)) is None
    assert find(pid_file(tmp_path, process.pid), ()) is None
    assert descriptors() == before


def test_a_haproxy_on_the_tcp_port_of_a_datagram_vip_is_not_a_predecessor(start: Start, tmp_path: Path) -> None:
    """It takes no client away: TCP and UDP have ports of their own."""
    process, port = start()
    datagrams = [Vip("127.0.0.1", port, "FD", "quic@"), Vip("*", port, "FE", "udp@")]
    assert find(pid_file(tmp_path, process.pid), datagrams) is None
    assert find(pid_file(tmp_path, process.pid), [*datagrams, *vips(port)])


def test_another_program_on_our_port_is_not_a_predecessor(start: Start, tmp_path: Path) -> None:
    """Whatever its name."""
    process, port = start("haproxy2")
    assert find(pid_file(tmp_path, process.pid), vips(port)) is None


def test_a_haproxy_in_another_network_is_not_a_predecessor(start: Start, tmp_path: Path) -> None:
    """The same pid namespace and port, but not the same address."""
    process, port = start()
    code = f"""
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x40000000) == 0
sys.path.insert(0, {os.getcwd()!r})
from entrypoint.options.vips import Vip
from entrypoint.system.predecessor import find
print(find(sys.argv[1], [Vip("127.0.0.1", {port}, "FD")]))
"""
    if os.geteuid() != 0:
        pytest.skip("needs root for a network of its own")
    words = [os.path.realpath("/proc/self/exe"), "-c", code, pid_file(tmp_path, process.pid)]

    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "None\n"


@pytest.mark.parametrize("content", ["", "x", "-1", "0", "99999999999999999999", "1 2", "\x00", str(2**22 + 1)])
def test_a_pid_file_without_a_haproxy_finds_no_predecessor(tmp_path: Path, content: str) -> None:
    """Whatever the file holds: nothing is raised, and nothing stays open."""
    before = descriptors()
    assert find(pid_file(tmp_path, content), vips(*range(1, 65536))) is None
    assert find(str(tmp_path / "not there"), vips(80)) is None
    assert find(str(tmp_path), vips(80)) is None
    assert find(pid_file(tmp_path, os.getpid()), vips(80)) is None
    assert descriptors() == before


def test_a_fifo_in_place_of_the_pid_file_does_not_block(tmp_path: Path) -> None:
    """Opening it for reading would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pid")
    assert find(str(tmp_path / "pid"), vips(80)) is None


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "*", True),
        ("127.0.0.1", "::", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("0.0.0.0", "::1", False),
        ("::", "127.0.0.2", True),
        ("::", "::1", True),
        ("::1", "::1", True),
        ("::1", "2001:db8::1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
    ],
)
def test_the_address_counts_not_only_the_port(start: Start, tmp_path: Path, theirs: str, ours: str, same: bool) -> None:
    """Two instances on one host have port 80 on two addresses."""
    process, port = start(address=theirs)
    found = find(pid_file(tmp_path, process.pid), [Vip(ours, port, "FD")])
    assert bool(found) == same
    if found:
        found.retire()
