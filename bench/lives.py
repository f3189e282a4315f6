"""One running instance of a way: its own network namespace, its folder, its processes; and what /proc says of them."""

import ctypes
import fcntl
import itertools
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
PORT = 8080
TICKS = os.sysconf("SC_CLK_TCK")
_numbers = itertools.count(1)


class StuckError(Exception):
    """A way did not do in time what is being measured; its text says what, with the last words of its log."""


def new_network() -> int:
    """Move this process into a new network namespace with a loopback: no TIME_WAIT and no port is left from before.

    Returns a descriptor that stands for it.

    Raises:
        OSError: without CAP_SYS_ADMIN.

    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace of its own needs root and CAP_SYS_ADMIN")
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def wait_for(condition: Callable[[], bool], timeout: float, pause: float = 0.002) -> bool:
    """Ask again and again; return whether it came true within so many seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def address(bind: str, number: int) -> str:
    """Return where the VIP of this number is for a `bind` line."""
    return f'"fd@${{FD_{number}}}"' if bind == "fd" else f"127.0.0.1:{PORT + number}"


def head(*of_global: str) -> list[str]:
    """Return the lines before the first `bind`, with more for the section `global`."""
    return [
        "global",
        "    nbthread 2",
        "    maxconn 6000",
        *of_global,
        "defaults",
        "    mode http",
        "    timeout client 60s",
        "    timeout server 60s",
        "    timeout connect 5s",
        "    option idle-close-on-response",
    ]


def configuration(bind: str, *, mark: str, backends: int = 0, vips: int = 1) -> str:
    """Return a configuration that answers "MARK PID" by itself, with so many VIPs and so many unused backends.

    `bind` is "fd" or "plain".
    """
    lines = [
        *head(),
        "frontend web",
        *(f"    bind {address(bind, n)}" for n in range(vips)),
        f'    http-request return status 200 content-type text/plain lf-string "{mark} %pid"',
    ]
    for n in range(backends):
        lines += [f"backend application_{n}", f"    server one 127.0.0.1:{20000 + n % 10000}"]
    return "\n".join(lines) + "\n"


class Life:
    """An instance: started in a namespace of its own, ended with everything that came of it, when the `with` ends.

    Its processes are found by a variable in the environment that they were started with, whoever their parent is.
    """

    def __init__(
        self, bind: str, *, backends: int = 0, vips: int = 1, sysctls: Mapping[str, str] | None = None
    ) -> None:
        """Prepare everything but the processes."""
        self.vips = vips
        self.token = f"BENCH_LIFE={os.getpid()}.{next(_numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix="bench."))
        self.file = self.folder / "haproxy.cfg"
        self.pid_file = self.folder / "haproxy.pid"
        self.process: subprocess.Popen[bytes] | None = None
        self.reloading: subprocess.Popen[bytes] | None = None
        self.marks = 0
        self.text: Callable[[str], str] = lambda mark: configuration(bind, mark=mark, backends=backends, vips=vips)
        """Makes the configuration with a mark."""
        self.log: IO[bytes] = (self.folder / "log").open("wb")
        self._network = new_network()
        for name, value in (sysctls or {}).items():
            Path("/proc/sys", *name.split(".")).write_text(value)
        self.edit()

    def enter(self) -> None:
        """Move this process into the network of this instance, where several are alive."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self._network, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    @property
    def vip_list(self) -> str:
        """The VIPs in safe_reload's form."""
        return ",".join(f"127.0.0.1:{PORT + n}:FD_{n}" for n in range(self.vips))

    @property
    def mark(self) -> str:
        """What the configuration on disk answers with."""
        return f"mark-{self.marks}"

    def edit(self) -> None:
        """Change the configuration: a new mark."""
        self.marks += 1
        new = self.file.with_suffix(".new")
        new.write_text(self.text(self.mark))
        new.replace(self.file)

    def spawn(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program of this life."""
        name, value = self.token.split("=")
        environment = {
            **os.environ,
            name: value,
            "SAFE_RELOAD_RUNTIME_DIR": str(self.folder),
            "SAFE_RELOAD_WATCH": "off",  # a reload is asked for in one way only
        }
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment)

    def pids(self) -> list[int]:
        """Return the pids of all its processes, oldest first."""
        token = self.token.encode()
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if token in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                        found.append((born(int(entry)), int(entry)))
                except (OSError, IndexError):  # gone meanwhile, or a zombie
                    continue
        return [pid for _, pid in sorted(found)]

    def haproxies(self) -> list[int]:
        """Return the pids of everything that is called haproxy, oldest first."""
        return [pid for pid in self.pids() if name_of(pid) == "haproxy"]

    def get(self, timeout: float = 5) -> str:
        """Return what the first VIP answers; of a configuration with servers it is haproxy itself who answers /mark.

        Raises:
            OSError: it does not.

        """
        with socket.create_connection(("127.0.0.1", PORT), timeout=timeout) as client:
            client.sendall(b"GET /mark HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        return answer.rpartition(b"\r\n\r\n")[2].decode()

    def answers(self) -> bool:
        """Say whether the configuration on disk is the one that answers."""
        try:
            return self.get().startswith(self.mark + " ")
        except OSError:
            return False

    def until_it_answers(self, timeout: float = 10) -> None:
        """Wait for the first answer of the configuration on disk.

        Raises:
            StuckError: none came.

        """
        if not wait_for(self.answers, timeout, 0.0005):
            self.log.flush()
            words = (self.folder / "log").read_text(errors="replace").strip()[-300:]
            raise StuckError(f"no answer of {self.mark} within {timeout:g} s: {words}")

    def kill(self) -> list[int]:
        """Kill everything; return who that was."""
        left = self.pids()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return left

    def __enter__(self) -> Self:
        """Start nothing; the way does."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left, whoever holds it now."""

        def gone() -> bool:
            left = self.kill()
            for process in (self.process, self.reloading):
                if process is not None:
                    process.poll()
            return not left

        wait_for(gone, 10)
        os.close(self._network)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def born(pid: int) -> int:
    """Return when a process started, in clock ticks since boot."""
    return int(_stat(pid)[19])


def cpu(pid: int) -> int:
    """Return the clock ticks of CPU that a process has used; 0 when it is gone."""
    try:
        fields = _stat(pid)
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def cpu_ms(pids: Sequence[int]) -> float:
    """Return the milliseconds of CPU that the first threads of these processes have used (/proc/PID/schedstat)."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e6


def name_of(pid: int) -> str:
    """Return the kernel's name of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def memory(pids: Sequence[int]) -> dict[str, float]:
    """Return the sum of PSS, unique and resident memory, in KiB."""
    sums = {"pss_kib": 0.0, "unique_kib": 0.0, "rss_kib": 0.0}
    keys = {"Pss:": "pss_kib", "Private_Clean:": "unique_kib", "Private_Dirty:": "unique_kib", "Rss:": "rss_kib"}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            key, *rest = line.split()
            if key in keys:
                sums[keys[key]] += float(rest[0])
    return sums


def wake_ups(pids: Sequence[int]) -> int:
    """Return how often all threads of these processes gave up a CPU so far: each time something had woken them."""
    total = 0
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            for line in status.read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    total += int(line.split()[1])
    return total
