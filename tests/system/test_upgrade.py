"""safe_reload replaces itself with the installed program, complete or broken: PID 1 never exits because of it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoint.pid1 import upgrade
from tests.children import readers_of
from tests.descriptors import descriptors
from tests.program import PROGRAM
from tests.system.apart import in_child
from tests.system.instance import Begin, Instance
from tests.system.lives import REPOSITORY, is_running, status_fields
from tests.waiting import eventually


class Installed(Instance):
    """A running safe_reload that was started from files that can be changed."""

    def install(self) -> None:
        """Install it once more, as it should be."""
        install(self.folder)

    def begin_to_upgrade(self) -> subprocess.Popen[bytes]:
        """Ask for an upgrade, and do not wait for its answer."""
        asker = [*PROGRAM, "upgrade", "--timeout", "100", "--runtime-dir"]
        return subprocess.Popen([*asker, str(self.folder / "run")], cwd=REPOSITORY)


def install(folder: Path) -> None:
    """Make every file as it should be, and a launcher as the image's; new ones, as an installer does."""
    shutil.rmtree(folder / "entrypoint", ignore_errors=True)
    shutil.copytree(REPOSITORY / "entrypoint", folder / "entrypoint", ignore=shutil.ignore_patterns("__pycache__"))
    start = f"import sys\nsys.path.insert(0, {str(folder)!r})\nfrom entrypoint.__main__ import main\nmain()\n"
    new = folder / "new"
    new.write_text(start)
    new.replace(folder / "safe_reload")


@pytest.fixture
def installed(begin: Begin, tmp_path: Path) -> Installed:
    """One that serves, and notifies a socket that is not there: what it has to tell is a part of the upgrade."""
    install(tmp_path)
    program = [sys.executable, "-I", str(tmp_path / "safe_reload")]
    lb = begin("--restart-limit", "1000", program=program, NOTIFY_SOCKET=str(tmp_path / "notify")).serves()
    return Installed(lb.process, lb.folder, lb.port)


def _replaced(file: str, old: str, new: str) -> Callable[[Installed], None]:
    def harm(installed: Installed) -> None:
        path = installed.folder / file
        text = path.read_text()
        assert old in text, file
        path.write_text(text.replace(old, new))

    return harm


def _cut(file: str, share: float) -> Callable[[Installed], None]:
    def harm(installed: Installed) -> None:
        path = installed.folder / file
        text = path.read_text()
        path.write_text(text[: int(len(text) * share)])

    return harm


TESTIFIED = '        file.write(os.fsencode("\\0".join(lines)))\n'
HARM: dict[str, tuple[Callable[[Installed], None], str]] = {
    "a key of the service": (_replaced("entrypoint/pid1/outcomes.py", "saved.startup_logs", "saved.said"), "said"),
    "a key of the supervisor": (_replaced("entrypoint/pid1/children.py", "saved.channels", "saved.lines"), "lines"),
    "a key of the notices": (
        _replaced("entrypoint/pid1/systemd_status.py", 'saved["unsent"]', 'saved["queue"]'),
        "queue",
    ),
    "a key of the history": (_replaced("entrypoint/core/history.py", 'left["born"]', 'left["launch"]'), "launch"),
    "a key of a generation": (
        _replaced("entrypoint/core/upgrade_state.py", 'plain["pid"]', 'plain["process"]'),
        "process",
    ),
    "an empty launcher": (_cut("safe_reload", 0), "is it installed completely"),
    "a launcher cut short": (_replaced("safe_reload", "\nmain()\n", "\n"), "is it installed completely"),
    "an empty __main__": (_cut("entrypoint/__main__.py", 0), "cannot import name 'main'"),
    "a __main__ cut short": (_cut("entrypoint/__main__.py", 0.8), "the new program exited with status 1"),
    "no __init__": (_cut("entrypoint/__init__.py", 0), "__version__"),
    "a syntax error": (_replaced("entrypoint/pid1/cli.py", "def run(", "def run(("), "SyntaxError"),
    "an error at an import": (
        _replaced(
            "entrypoint/pid1/control_server.py", "from entrypoint.lean", "raise OSError(5)\nfrom entrypoint.lean"
        ),
        "OSError(5)",
    ),
    "an exit at an import": (
        _replaced(
            "entrypoint/pid1/systemd_status.py", "from entrypoint.lean", "raise SystemExit(0)\nfrom entrypoint.lean"
        ),
        "is it installed completely",
    ),
    "a step that fails": (
        _replaced("entrypoint/core/watching.py", "    if not state.watches", "    0 / 0\n    if not state.watches"),
        "ZeroDivision",
    ),
    "a status that cannot be told": (
        _replaced("entrypoint/pid1/status.py", '"pid": os.getpid(),', '"pid": os.gone(),'),
        "gone",
    ),
    "a launcher swapped after it was tried": (
        _replaced("entrypoint/pid1/upgrade.py", TESTIFIED, TESTIFIED + '    open(sys.argv[0], "w").close()\n'),
        "has changed since the new program was tried",
    ),
    "a module swapped after it was tried": (
        _replaced("entrypoint/pid1/upgrade.py", TESTIFIED, TESTIFIED + '    open(__file__, "w").close()\n'),
        "has changed since the new program was tried",
    ),
}


def test_an_upgrade_to_a_broken_program_is_refused(installed: Installed) -> None:
    """Whatever is wrong with it: one answer names the reason, and everything goes on as before."""
    assert installed.client("status").returncode == 0
    before = sorted(descriptors(installed.pid).values())
    for name, (harm, told) in HARM.items():
        harm(installed)
        answer = installed.client("upgrade")
        assert answer.returncode == 1, (name, answer, installed.log)
        assert told in answer.stderr, (name, answer.stderr)
        assert "safe_reload is not replaced, and goes on" in answer.stderr, name
        assert installed.process.poll() is None, name
        assert installed.get() == "1", name
        installed.install()
    eventually(lambda: len(descriptors(installed.pid)) <= len(before))
    assert sorted(descriptors(installed.pid).values()) == before

    answer = installed.client("upgrade")
    assert answer.returncode == 0, answer
    assert installed.log.count("has taken over") == 1
    assert installed.client("reload").returncode == 0
    assert installed.get() == "2"


def test_the_names_of_all_files_may_be_longer_than_a_pipe(begin: Begin, tmp_path: Path) -> None:
    """They are told at the end of the rehearsal, when nobody reads yet; and a pipe has often much less than 64 KiB."""
    folder = tmp_path / ("x" * 200) / ("y" * 200)
    folder.mkdir(parents=True)
    install(folder)
    lb = begin(program=[sys.executable, "-I", str(folder / "safe_reload")]).serves()
    answer = lb.client("upgrade")
    assert answer.returncode == 0, answer


ONLY_LATER = "not (o := __import__('os')).environ.get('SAFE_RELOAD_REHEARSAL') and o.path.exists({broken!r})"
LATE = {
    "an import": ("entrypoint/pid1/cli.py", "_STDOUT = 1\n", "_STDOUT = 1\nif {late}: raise SystemExit(0)\n"),
    "the command line": (
        "entrypoint/pid1/cli.py",
        "            parsed = split(arguments)\n",
        "            parsed = split(arguments)\n            if {late}: raise UsageError('x')\n",
    ),
    "the listeners": (
        "entrypoint/pid1/bootstrap.py",
        "    pid_file = _pid_file(path)",
        "    if {late}: raise MemoryError\n    pid_file = _pid_file(path)",
    ),
    "the last step": (
        "entrypoint/pid1/supervisor.py",
        "        runtime.isolated(self._let_vips_accept)\n",
        "        runtime.isolated(self._let_vips_accept)\n        if {late}: 0 / 0\n",
    ),
}


@pytest.mark.parametrize("late", ["an import", "the listeners"])
def test_an_upgraded_program_that_cannot_start_ends_on_term(installed: Installed, late: str) -> None:
    """Also while a reader hangs with its disk and does not notice that safe_reload ends."""
    (reader,) = readers_of(installed.pid)
    haproxies = installed.haproxies
    os.kill(reader, signal.SIGSTOP)
    broken = installed.folder / "broken"
    broken.touch()
    file, old, new = LATE[late]
    _replaced(file, old, new.format(late=ONLY_LATER.format(broken=str(broken))))(installed)
    asked = installed.begin_to_upgrade()
    try:
        eventually(lambda: max(map(installed.log.count, ("tries again", "Traceback"))) >= 2)
        installed.signal(signal.SIGTERM)
        assert installed.process.wait(timeout=60) == 0
        eventually(lambda: not is_running(reader))
    finally:
        asked.kill()
        asked.wait()
        for pid in haproxies:  # a program that cannot be imported stops nobody; in a container the kernel does
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("late", LATE)
def test_an_upgraded_program_that_fails_starts_again_until_it_succeeds(installed: Installed, late: str) -> None:
    """It cannot go back, and no other process has the sockets: it does not end, and haproxy serves."""
    broken = installed.folder / "broken"
    broken.touch()
    file, old, new = LATE[late]
    _replaced(file, old, new.format(late=ONLY_LATER.format(broken=str(broken))))(installed)
    pid = installed.pid
    asked = installed.begin_to_upgrade()
    try:
        eventually(lambda: installed.log.count("is replaced; every socket and process stays") == 1)
        eventually(lambda: max(map(installed.log.count, ("tries again", "Traceback"))) >= 2)
        assert installed.process.poll() is None
        assert installed.get() == "1"
        broken.unlink()
        assert asked.wait(timeout=120) == 0
    finally:
        asked.kill()
        asked.wait()
    assert installed.pid == pid
    assert installed.client("reload").returncode == 0
    assert installed.get() == "2"
    assert installed.client("upgrade").returncode == 0


@in_child
def test_an_exec_that_fails_leaves_no_signal_blocked() -> None:
    """Whatever it fails of: a descriptor that is closed cannot be made inheritable, and not be restored either."""
    reader, writer = os.pipe()
    os.close(reader)
    before = status_fields("self")["SigBlk"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        upgrade.execute(writer, dict(os.environ), (reader,), list)
    assert status_fields("self")["SigBlk"] == before
