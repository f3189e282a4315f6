"""One running safe_reload with a real haproxy, for the tests that look at the whole from outside."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.children import children_of, readers_of
from tests.connections import free_port, http_get, read_all
from tests.program import PROGRAM, STATIC
from tests.system.lives import REPOSITORY, status_fields
from tests.waiting import eventually

CONFIGURATION = """\
defaults
  mode http
  timeout client 9s
  timeout connect 9s
  timeout server 9s
frontend web
  bind "fd@${FD_WEB}"
  http-request return status 200 content-type text/plain lf-string "%[env(SAFE_RELOAD_GENERATION)]"
"""
"""One VIP, which answers with the number of the generation."""


def state_of(pid: int) -> str:
    """Return the letter that proc_pid_stat(5) has for the state of a process: T when it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


class Instance:
    """A running safe_reload and its files, which are all in `folder`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, port: int) -> None:
        """Look at a process that has been started; `port` is its VIP's, on 127.0.0.1."""
        self.process = process
        self.pid = process.pid
        self.folder = folder
        self.port = port
        self.configuration = folder / "etc" / "haproxy.cfg"
        self.hang = folder / "hang"  # the code of a test may look whether it is there

    # ---- what it does

    @property
    def log(self) -> str:
        """Everything that has been written to stderr."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def haproxies(self) -> list[int]:
        """The pids of its children without the reader, oldest first."""
        return children_of(self.pid)

    @property
    def reader(self) -> int:
        """The pid of its reader, once there is one."""
        return eventually(lambda: readers_of(self.pid))[0]

    def haproxy(self) -> int:
        """Wait until there is exactly one haproxy; return its pid."""
        return eventually(lambda: self.haproxies if len(self.haproxies) == 1 else [])[0]

    def memory(self) -> int:
        """Return the resident memory in KiB."""
        return int(status_fields(self.pid)["VmRSS"].split()[0])

    def becomes_current(self, number: int = 1) -> Self:
        """Wait until the log says that this generation is current; return this instance."""
        eventually(
            lambda: any(f"generation {number} (pid" in line for line in self.log.splitlines() if "is current" in line)
        )
        return self

    def serves(self, number: int = 1) -> Self:
        """Wait until this generation is current and the VIP answers with its number; return this instance."""
        eventually(lambda: self.get() == str(number))
        return self.becomes_current(number)

    # ---- what is done to it

    def signal(self, signum: int) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)

    def edit(self, text: str) -> None:
        """Replace the configuration in one step."""
        new = self.folder / "new"
        new.write_text(text)
        new.rename(self.configuration)

    def append(self, lines: str) -> None:
        """Replace the configuration in one step by the usual one with these lines at its end."""
        self.edit(f"{CONFIGURATION}{lines}\n")

    def get(self) -> str:
        """Return what the VIP answers, which is the number of the generation; an empty string if it does not."""
        try:
            return http_get(socket.create_connection(("127.0.0.1", self.port), timeout=30))[1]
        except OSError:
            return ""

    @property
    def path(self) -> str:
        """The path of the control socket."""
        return str(self.folder / "run" / "haproxy.sock")

    def connect(self) -> socket.socket:
        """Connect to the control socket."""
        client = socket.socket(socket.AF_UNIX)
        try:
            # With a timeout it would not wait for room in the queue (unix(7)).
            client.connect(self.path)
        except OSError:
            client.close()
            raise
        client.settimeout(60)
        return client

    def ask(self, question: bytes, *, half_close: bool = True) -> str:
        """Return everything that the control socket answers to these bytes until it closes the connection."""
        with self.connect() as client:
            client.sendall(question)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            return read_all(client).decode()

    def status(self) -> dict[str, Any]:
        """Return the status."""
        found: dict[str, Any] = json.loads(self.ask(b"status\n"))
        return found

    def client(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line of the repository with this instance's control socket."""
        asker = [*PROGRAM, *words, "--runtime-dir", str(self.folder / "run")]
        return subprocess.run(asker, capture_output=True, text=True, check=False, timeout=120, cwd=REPOSITORY)


Begin = Callable[..., Instance]


@contextmanager
def instances(folder: Path) -> Iterator[Begin]:
    """Provide a function that starts safe_reload on a free port; every process is ended when the context is left."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(
        *options: str,
        text: str = CONFIGURATION,
        code: str = "",
        program: Sequence[str] = (),
        haproxy: Sequence[str] = ("haproxy",),
        ordinary: bool = False,
        vips: bool = True,
        passed: Sequence[int] = (),
        stderr: int | None = None,
        **environment: str,
    ) -> Instance:
        """Start one.

        `text` is its configuration. With `ordinary` haproxy binds the port itself; without `vips` nobody does. `code`
        is run in the process before main(); HANG in it stands for the path Instance.hang. `program` are the words
        that start safe_reload, and `haproxy` those that start haproxy. `passed` are descriptors to inherit, and
        `stderr` is one to log to.
        """
        if haproxy[0] == "haproxy" and not shutil.which("haproxy"):
            pytest.skip("haproxy is not installed")
        port = free_port()
        address = f"127.0.0.1:{port}"
        configuration = folder / "etc" / "haproxy.cfg"
        configuration.parent.mkdir(exist_ok=True)
        configuration.write_text(text.replace('"fd@${FD_WEB}"', address) if ordinary else text)
        if code:
            if STATIC:
                pytest.skip("the static file runs no code of a test")
            code = code.replace("HANG", str(folder / "hang"))
            program = [sys.executable, "-c", f"{code}\nfrom entrypoint.__main__ import main\nmain()"]
        words = [*(program or PROGRAM), "--runtime-dir", str(folder / "run")]
        words += [*(["--vips", f"{address}:FD_WEB"] if vips and not ordinary else []), *options]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*words, *haproxy, "-f", str(configuration)],
                stderr=log if stderr is None else stderr,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
                pass_fds=passed,
            )
        started.append(process)
        return Instance(process, folder, port)

    try:
        yield begin
    finally:
        for process in started:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(timeout=60)
            finally:
                process.kill()
                process.wait()
