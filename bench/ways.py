"""The ways to reload haproxy that are compared. A new one is a class here, and an entry in WAYS."""

import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench.lives import Life, name_of, wait_for

NAIVE = str(Path(__file__).with_name("naive.py"))
ORIGINAL = os.environ.get("BENCH_ORIGINAL", "")
"""The program of 2017, which is not in Debian: where it is, when it is to be measured."""
RESTART_AFTER = 0.1
"""Seconds until someone from outside starts a service that has ended: Docker's first restart delay."""
TICKET_KEYS = "${SAFE_RELOAD_TLS_TICKET_KEYS}"


class Way:
    """How haproxy is started, reloaded and looked after in one way."""

    key = ""
    title = ""
    bind = "plain"
    """What its configuration has: "plain" addresses, or "fd" for `fd@${FD_0}`."""
    ticket_keys = ""
    """The file of TLS ticket keys that it hands to each haproxy."""
    needs: tuple[str, ...] = ("haproxy",)
    sysctls: ClassVar[Mapping[str, str]] = {}
    settle = 0.1
    """Seconds after its first answer until it can be asked for a reload."""

    def missing(self) -> str:
        """Say what is not installed; empty when nothing is missing."""
        return ", ".join(name or "BENCH_ORIGINAL=PROGRAM" for name in self.needs if not shutil.which(name))

    def life(self, *, backends: int = 0, vips: int = 1) -> Life:
        """Prepare an instance."""
        return Life(self.bind, backends=backends, vips=vips, sysctls=self.sysctls)

    def words(self, life: Life) -> list[str]:
        """Return the command line."""
        raise NotImplementedError

    def start(self, life: Life) -> None:
        """Start it; return at once."""
        life.process = life.spawn(self.words(life))

    def reload(self, life: Life) -> bool:
        """Ask for a reload; return whether that could be done now."""
        if life.process is None or life.process.poll() is not None:
            return False
        life.process.send_signal(signal.SIGUSR2)
        return True

    def supervisors(self, life: Life) -> list[int]:
        """Return the pids of what stays while generations of haproxy come and go."""
        assert life.process is not None
        return [life.process.pid]

    def generations(self, life: Life) -> list[int]:
        """Return the pids of the processes that serve or drain, the newest last."""
        return [pid for pid in life.haproxies() if pid not in self.supervisors(life)]

    def is_alive(self, life: Life) -> bool:
        """Say whether it will go on by itself; if not, someone from outside has to start it again."""
        return life.process is not None and life.process.poll() is None


class Outside:
    """Whoever starts a way again when all of it has ended, as Docker does with a container."""

    def __init__(self, way: Way, life: Life) -> None:
        """Begin with one that lives."""
        self._way, self._life = way, life
        self._dead_since: float | None = None

    def look(self) -> None:
        """Start it again if it has ended RESTART_AFTER ago; to be called again and again."""
        if self._way.is_alive(self._life):
            return
        now = time.monotonic()
        self._dead_since = self._dead_since or now
        if now - self._dead_since >= RESTART_AFTER:
            self._life.kill()  # what is left of it, as the end of a container does
            self._way.start(self._life)
            self._dead_since = None
            wait_for(lambda: self._way.is_alive(self._life), 1)


class Bare(Way):
    """Haproxy in the foreground with nobody: what the others are compared with where there is no reload."""

    key = "bare"
    title = "bare haproxy, no reload"

    def words(self, life: Life) -> list[str]:
        """Run haproxy itself."""
        return ["haproxy", "-db", "-f", str(life.file)]

    def supervisors(self, life: Life) -> list[int]:  # noqa: ARG002
        """Nobody."""
        return []


class Daemon(Way):
    """`-D -sf`: a new daemon binds beside the old one and tells it to finish."""

    key = "a"
    title = "haproxy -D -sf"

    def words(self, life: Life) -> list[str]:
        """Start a daemon that leaves its pid in a file."""
        return ["haproxy", "-D", "-p", str(life.pid_file), "-f", str(life.file)]

    def reload(self, life: Life) -> bool:
        """Start the next one, unless the one before is still being started: what a careful script does."""
        if life.reloading is not None and life.reloading.poll() is None:
            return False
        try:
            old = life.pid_file.read_text().split()
        except OSError:
            return False
        life.reloading = life.spawn([*self.words(life), "-sf", *old])
        return True

    def supervisors(self, life: Life) -> list[int]:  # noqa: ARG002
        """Nobody."""
        return []

    def is_alive(self, life: Life) -> bool:
        """Look at the process of the pid file."""
        try:
            return Path("/proc", life.pid_file.read_text().strip()).exists()
        except OSError:
            return False


class MigratingDaemon(Daemon):
    """The same where the kernel moves queued connections to another listener of the same port (Linux 5.14)."""

    key = "b"
    title = "haproxy -D -sf, tcp_migrate_req=1"
    sysctls: ClassVar[Mapping[str, str]] = {"net.ipv4.tcp_migrate_req": "1"}


class Master(Way):
    """Haproxy's own master, which executes itself anew on USR2; the new worker gets the sockets from the old one."""

    key = "c"
    title = "haproxy -W, USR2"
    settle = 0.4  # a USR2 that comes while the master is still starting is lost, although the worker answers

    def words(self, life: Life) -> list[str]:
        """Stay in the foreground."""
        return ["haproxy", "-W", "-db", "-f", str(life.file)]


class MasterUnderTini(Master):
    """The same as many images have it: tini passes the signal on."""

    key = "d"
    title = "haproxy -W under tini, USR2"
    needs = ("haproxy", "tini")

    def words(self, life: Life) -> list[str]:
        """Put tini in front, as a subreaper, since it is not PID 1 here."""
        return ["tini", "-s", "--", *super().words(life)]

    def supervisors(self, life: Life) -> list[int]:
        """Return tini and the master: its only child."""
        assert life.process is not None
        children = Path(f"/proc/{life.process.pid}/task/{life.process.pid}/children").read_text().split()
        return [life.process.pid, *(int(child) for child in children[:1])]


class Naive(Way):
    """A parent of 50 lines that holds the sockets."""

    key = "e"
    title = "fd-passing parent by hand, -sf"
    bind = "fd"
    needs = ("haproxy", "python3")

    def words(self, life: Life) -> list[str]:
        """Run the parent with the same interpreter options as safe_reload's."""
        return ["python3", "-I", NAIVE, life.vip_list, "haproxy", "-f", str(life.file)]


class SafeReload(Way):
    """safe_reload with the sockets that it binds."""

    key = "f"
    title = "safe_reload, fd@"
    ticket_keys = TICKET_KEYS
    bind = "fd"
    needs = ("haproxy", "safe_reload")

    def words(self, life: Life) -> list[str]:
        """Give it the VIPs."""
        return ["safe_reload", "--vips", life.vip_list, "haproxy", "-f", str(life.file)]


class SafeReloadPlain(Way):
    """safe_reload with an unchanged configuration."""

    key = "g"
    title = "safe_reload, plain binds"
    ticket_keys = TICKET_KEYS
    needs = ("haproxy", "safe_reload")

    def words(self, life: Life) -> list[str]:
        """Give it no VIP."""
        return ["safe_reload", "haproxy", "-f", str(life.file)]


class Original(Daemon):
    """The C program of 2017: it makes itself a daemon and reloads on USR1 through the pid file."""

    key = "h"
    title = "safe_reload.c of 2017, fd@"
    bind = "fd"
    needs = ("haproxy", ORIGINAL)

    def words(self, life: Life) -> list[str]:
        """Give it the arguments that its README documents; -p and -sf it adds itself. It takes up to 1,024 VIPs."""
        return [ORIGINAL, str(life.pid_file), life.vip_list, "/usr/sbin/haproxy", "-D", "-f", str(life.file)]

    def reload(self, life: Life) -> bool:
        """Signal it."""
        for pid in self.supervisors(life):
            os.kill(pid, signal.SIGUSR1)
        return True

    def supervisors(self, life: Life) -> list[int]:
        """Return the daemon."""
        return [pid for pid in life.pids() if name_of(pid) != "haproxy"][:1]


WAYS: tuple[Way, ...] = (
    Daemon(),
    MigratingDaemon(),
    Master(),
    MasterUnderTini(),
    Naive(),
    SafeReload(),
    SafeReloadPlain(),
    Original(),
)
BARE = Bare()
