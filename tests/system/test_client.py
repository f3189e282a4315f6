"""The client verbs against a peer that speaks the control socket's language, or does not."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from entrypoint.client.main import Deadline, LateError, _wait_for_end
from tests.connections import dead_socket
from tests.core.test_report import STATUS, WORDS
from tests.program import PROGRAM
from tests.system.strangers import STRANGER, folder_of, listening_as
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PEER = ROOT / "tests" / "system" / "peer.py"
ANSWER = json.dumps(STATUS) + "\n"

Answer = tuple[str, list[str], str]


class Peer:
    """A peer's process."""

    def __init__(self, path: Path, answers: list[Answer]) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(
            [sys.executable, str(PEER), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(answers) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ready\n"

    def end(self) -> list[str]:
        """Kill it, and return the lines that it has read."""
        self.process.kill()
        return [line for line in self.process.communicate()[0].splitlines() if line != "ready"]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[..., Peer]]:
    """Start peers in this test's runtime directory."""
    peers = []

    def start(*answers: Answer, name: str = "lb") -> Peer:
        peers.append(Peer(tmp_path / f"{name}.sock", list(answers)))
        return peers[-1]

    yield start
    for one in peers:
        one.end()


Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**more: str) -> dict[str, str]:
    """Return variables without this machine's."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a verb in this test's runtime directory."""

    def verb(*words: str, variables: dict[str, str] | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *words],
            env=environment(SAFE_RELOAD_RUNTIME_DIR=str(tmp_path), **(variables or {})),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **more,
        )

    return verb


def one_line(run: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that was said on stderr."""
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    return line


# ---- reload --------------------------------------------------------------------------------------------------------


def test_a_reload_that_succeeds_says_what_serves(run: Run, peer: Callable[..., Peer]) -> None:
    """Exit 0, one line on stdout, haproxy's own words on stderr."""
    lines = "[WARNING] x\ngeneration 4 (pid 18) is current; asked for by the CLI\n"
    one = peer(("reload", ["Success=1\n", "--\n" + lines], "close"))
    done = run("reload")
    assert (done.returncode, done.stdout) == (0, "generation 4 (pid 18) serves\n")
    assert done.stderr == "[WARNING] x\n"
    assert one.end() == ["reload"]


def test_an_answer_that_does_not_name_the_generation_is_followed_by_a_question(
    run: Run, peer: Callable[..., Peer]
) -> None:
    """The status tells which generation serves."""
    peer(("reload", ["Success=1\n--\n"], "close"), ("status", [ANSWER], "close"))
    assert run("reload").stdout == "generation 3 (pid 17) serves\n"


def test_a_reload_that_is_refused_has_haproxy_s_words_on_stderr(run: Run, peer: Callable[..., Peer]) -> None:
    """Exit 1, and nothing on stdout."""
    peer(("reload", [f"Success=0\n--\n{WORDS}\n"], "close"))
    done = run("reload")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{WORDS}\n")


def test_a_reload_that_takes_too_long_is_124(run: Run, peer: Callable[..., Peer]) -> None:
    """--timeout bounds it all, and one line says that it goes on."""
    peer(("reload", ["Success"], "hang"))
    done = run("reload", "--timeout", "0.2")
    assert done.returncode == 124
    assert one_line(done).endswith(
        "did not answer within 0.2 s (--timeout); the reload goes on, safe_reload status shows its result"
    )


def test_a_reload_waits_as_long_as_it_takes(tmp_path: Path, peer: Callable[..., Peer]) -> None:
    """Without --timeout it stays, and Ctrl-C ends it."""
    one = peer(("reload", [], "hang"))
    client = subprocess.Popen([*PROGRAM, "reload", "--runtime-dir", str(tmp_path)], env=environment())
    assert one.process.stdout
    assert one.process.stdout.readline() == "reload\n"
    assert client.poll() is None
    client.send_signal(signal.SIGINT)
    assert client.wait(timeout=20) == -signal.SIGINT


# ---- peers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["reload", "status", "stop", "metrics", "upgrade"])
def test_no_instance_is_exit_status_3(run: Run, tmp_path: Path, verb: str) -> None:
    """No folder, no socket in it, a dead socket: each is one line with the way out."""
    dead = tmp_path / "dead.sock"
    dead_socket(dead)
    for words, told in (
        (("--runtime-dir", str(tmp_path / "none")), "no instance answers there; is one running, with this"),
        (("--name", "lb"), "no instance answers: No such file or directory; is it running"),
        (("--name", "dead"), "no instance answers: Connection refused; is it running"),
    ):
        done = run(verb, *words)
        assert done.returncode == 3
        assert told in one_line(done)


@pytest.mark.parametrize("verb", ["reload", "status"])
@pytest.mark.parametrize(
    ("pieces", "what", "status"),
    [
        ([], "close", 3),  # as PID 1 does with somebody to whom it does not speak
        ([], "hang", 124),
        (['{"version": '], "hang", 124),
        (["Success"], "hang", 124),
    ],
)
def test_a_peer_that_does_not_answer(
    run: Run, peer: Callable[..., Peer], verb: str, pieces: list[str], what: str, status: int
) -> None:
    """One that hangs up at once is no instance; one that stays silent, or in the middle of a line, is late."""
    peer((verb, pieces, what))
    done = run(verb, "--timeout", "0.3" if status == 124 else "30")
    assert done.returncode == status
    assert "did not answer within 0.3 s" in one_line(done) if status == 124 else "hung up" in one_line(done)


@pytest.mark.parametrize(
    "answer", ['{"version": ', "[]", "null", "hello", "[" * 100_000, "\udcff".encode(errors="replace").decode()]
)
def test_an_answer_that_is_not_a_status_is_refused(run: Run, peer: Callable[..., Peer], answer: str) -> None:
    """Cut off, not JSON, not an object, too deep: no instance, one line."""
    peer(("status", [answer], "close"))
    done = run("status")
    assert done.returncode == 3
    assert "the answer is not a status" in one_line(done)


@pytest.mark.parametrize("answer", ["Unknown command: 'reload'\n", "Succ", "\n"])
def test_an_answer_that_is_no_result_is_a_failure(run: Run, peer: Callable[..., Peer], answer: str) -> None:
    """Nobody is told that a reload has succeeded without Success=1."""
    peer(("reload", [answer], "close"))
    done = run("reload")
    assert done.returncode == 1
    assert "does not know how to reload" in one_line(done)


def test_a_queue_that_is_full_is_waited_for_and_no_longer_than_asked(run: Run, tmp_path: Path) -> None:
    """A PID 1 that does not accept is late."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "lb.sock"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "lb.sock"))
            done = run("status", "--name", "lb", "--timeout", "0.3")
    assert done.returncode == 124


AS_NOBODY = """
import os, sys
from entrypoint.client.main import run
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(run(sys.argv[1:], {}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="switches its user")
def test_another_user_is_told_who_may_connect() -> None:
    """Permission denied is one line that names root, or the user."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lb.sock")
        Path(folder).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            path.chmod(0o600)
            for owner, told in ((0, "only root may use it"), (12345, "only root and uid 12345 may use it")):
                os.chown(path, owner, -1)
                words = [sys.executable, "-c", AS_NOBODY, "status", "--runtime-dir", folder, "--name", "lb"]
                done = subprocess.run(
                    words, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
                )
                assert done.returncode == 3
                assert one_line(done).endswith(f"permission denied; {told}")


def test_a_path_that_is_too_long_for_a_socket_is_refused(run: Run) -> None:
    """One line says what to shorten."""
    done = run("status", "--name", "x" * 120)
    assert done.returncode == 3
    assert "take a shorter --runtime-dir" in one_line(done)


# ---- which instance ------------------------------------------------------------------------------------------------


def test_an_instance_is_found_by_its_name_its_pid_file_or_because_it_is_the_only_one(
    run: Run, tmp_path: Path, peer: Callable[..., Peer]
) -> None:
    """And a socket that nobody listens on is not in the way."""
    dead_socket(tmp_path / "dead.sock")
    one = peer(("status", [ANSWER], "close"), name="ha1")
    assert run("status").returncode == 0
    assert run("--name", "ha1", "status").returncode == 0
    assert run("status", "--pid-file", "/var/run/ha1/pid").returncode == 0
    assert run("status", variables={"SAFE_RELOAD_NAME": "ha1"}).returncode == 0
    assert one.end() == ["status"] * 4


def test_several_instances_are_named(run: Run, peer: Callable[..., Peer]) -> None:
    """One line lists them."""
    for name in ("ha2", "ha1"):
        peer(("status", [ANSWER], "close"), name=name)
    done = run("status")
    assert done.returncode == 3
    assert one_line(done).endswith("choose one with --name: ha1, ha2")


def test_all_of_them_are_listed(run: Run, tmp_path: Path, peer: Callable[..., Peer]) -> None:
    """A dead socket is shown as dead, one that hangs as that, and neither keeps the others from being shown."""
    dead_socket(tmp_path / "dead.sock")
    peer(("status", [ANSWER], "close"), name="ha1")
    peer(("status", [], "hang"), name="hung")
    done = run("list", "--timeout", "2")
    assert done.returncode == 0
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["name", "pid", "stage"],
        ["dead", "-", "dead:"],
        ["ha1", "1", "serving"],
        ["hung", "-", "it"],
    ]


def test_they_are_listed_for_scripts(run: Run, tmp_path: Path, peer: Callable[..., Peer]) -> None:
    """One line of JSON with what each one answered, or with why it did not."""
    dead_socket(tmp_path / "dead.sock")
    peer(("status", [ANSWER], "close"), name="ha1")
    done = run("list", "--json")
    (line,) = done.stdout.splitlines()
    assert done.returncode == 0
    assert json.loads(line) == [
        {"name": "dead", "status": None, "error": "dead: nobody listens"},
        {"name": "ha1", "status": STATUS, "error": None},
    ]


@pytest.mark.parametrize("words", [("list",), ("list", "--json")])
def test_an_empty_list_is_exit_status_3(run: Run, words: tuple[str, ...]) -> None:
    """A script may ask whether there is an instance."""
    assert run(*words).returncode == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_strangers_do_not_answer_for_an_instance(run: Run) -> None:
    """Root's reload does not succeed because a stranger says so; beside an instance he is passed over, and named."""
    says = "Success=1\n--\ngeneration 2 (pid 3) is current\n\n"
    with folder_of(0, 0o1777) as folder, listening_as(STRANGER, folder / "evil.sock", says):
        for verb in ("reload", "status", "stop", "upgrade", "metrics"):
            for name in ([], ["--name", "evil"]):
                done = run(verb, "--runtime-dir", str(folder), *name)
                assert done.returncode == 3
                assert f"evil.sock: not trusted: uid {STRANGER} listens there, not root" in one_line(done)
        with listening_as(0, folder / "lb.sock", ANSWER):
            done = run("status", "--runtime-dir", str(folder))
            assert done.returncode == 0
            (warning,) = done.stderr.splitlines()
            assert warning.startswith("[WARN")
            assert f"evil.sock: not trusted: uid {STRANGER}" in warning
            listed = run("list", "--json", "--runtime-dir", str(folder))
    first, second = json.loads(listed.stdout)
    assert first["status"] is None and f"not trusted: uid {STRANGER}" in first["error"]
    assert second == {"name": "lb", "status": STATUS, "error": None}


# ---- status --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, 0), ({"configuration": {"last_known_good": True}}, 0), ({"stage": "stopping"}, 1), ({"generations": []}, 1)],
)
def test_the_exit_status_tells_whether_it_serves(
    run: Run, peer: Callable[..., Peer], changes: dict[str, object], status: int
) -> None:
    """0 serves, 1 answers and does not; --json changes nothing of that and is the answer itself."""
    answer = json.dumps({**STATUS, **changes})
    peer(("status", [f"{answer}\n"], "close"))
    assert run("status").returncode == status
    done = run("status", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (status, f"{answer}\n", "")


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_where_they_are_wanted(
    tmp_path: Path, peer: Callable[..., Peer], variables: dict[str, str], coloured: bool
) -> None:
    """NO_COLOR turns them off; a pipe never sees any."""
    peer(("status", [ANSWER], "close"))
    ours, theirs = pty.openpty()
    words = [*PROGRAM, "status", "--runtime-dir", str(tmp_path)]
    subprocess.run(words, env=environment(**variables), stdout=theirs, check=True, timeout=60)
    os.close(theirs)
    seen = b""
    with open(ours, "rb", buffering=0) as terminal:
        try:
            while data := terminal.read(65536):
                seen += data
        except OSError:  # EIO: nobody has its other end any more
            pass
    assert (b"\x1b[" in seen) is coloured
    assert "\x1b" not in subprocess.run(words, env=environment(), capture_output=True, text=True, check=True).stdout


def test_a_question_loads_nothing_that_only_pid_1_needs() -> None:
    """Probes ask often: neither the supervisor nor the state machine is there, nor anything large."""
    program = "import sys, entrypoint.__main__, entrypoint.client.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env=environment()
    )
    dear = {
        "entrypoint.pid1.supervisor",
        "entrypoint.core.lifecycle",
        "entrypoint.system.processes",
        "argparse",
        "asyncio",
    }
    assert not dear & set(done.stdout.split())


# ---- stop, upgrade, metrics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "line"), [(("stop",), "stop"), (("stop", "--now"), "stop now")])
@pytest.mark.parametrize("answer", [[], ["stopping\n"]])
def test_a_stop_waits_until_it_is_gone(
    run: Run, peer: Callable[..., Peer], words: tuple[str, ...], line: str, answer: list[str]
) -> None:
    """Exit 0 when the process is gone, not earlier."""
    one = peer((line, answer, "end"))
    done = run(*words)
    assert done.returncode == 0, done.stderr
    eventually(lambda: one.process.poll() is not None)
    assert one.end() == [line]


def test_a_stop_that_takes_too_long_is_124(run: Run, peer: Callable[..., Peer]) -> None:
    """It was asked, it answered, and it is still there."""
    one = peer(("stop", ["stopping\n"], "close"))
    done = run("stop", "--timeout", "0.3")
    assert done.returncode == 124
    assert one.process.poll() is None


def test_the_end_of_a_process_that_cannot_be_seen_is_the_end_of_its_socket(tmp_path: Path) -> None:
    """In another pid namespace there is no pid to wait for."""
    path = tmp_path / "lb.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(LateError):
            _wait_for_end(str(path), None, Deadline(0.1))
    _wait_for_end(str(path), None, Deadline(20))
    path.unlink()
    _wait_for_end(str(path), None, Deadline(20))


@pytest.mark.parametrize(
    ("verb", "answer"), [("stop", "Unknown command: 'stop'\n"), ("upgrade", "Success=0\n--\nno\n")]
)
def test_a_refusal_is_1(run: Run, peer: Callable[..., Peer], verb: str, answer: str) -> None:
    """And it is not waited for."""
    peer((verb, [answer], "close"))
    assert run(verb).returncode == 1


@pytest.mark.parametrize("answer", [[], ["Success=1\n"]])
def test_an_upgrade_is_over_when_it_answers_again(run: Run, peer: Callable[..., Peer], answer: list[str]) -> None:
    """Whether or not the old one had time for an answer."""
    peer(("upgrade", answer, "close"), ("status", [ANSWER], "close"))
    done = run("upgrade")
    assert (done.returncode, done.stdout) == (0, "safe_reload 0.1.0 (pid 1) runs\n")


def test_metrics_are_the_exporter_s(run: Run, peer: Callable[..., Peer]) -> None:
    """What the exporter makes of the status, once; where there is none, one line says so."""
    peer(("status", [ANSWER], "close"))
    done = run("metrics")
    if done.returncode:
        assert "exporter" in one_line(done)
    else:
        assert "safe_reload_" in done.stdout


# ---- check ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed")
@pytest.mark.parametrize(
    ("options", "answer", "noted"),
    [
        ((), ANSWER, "the instance that runs here has no VIP FD_NEW: it would refuse this;"),
        (("--name", "lb"), ANSWER, "the instance that runs here has no VIP FD_NEW: it would refuse this;"),
        (("--name", "other"), ANSWER, "not in --vips: FD_WEB, FD_NEW;"),
        (("--vips", "*:1:FD_NEW"), ANSWER, "not in --vips: FD_WEB;"),
        ((), "nonsense", "not in --vips: FD_WEB, FD_NEW;"),
    ],
)
def test_a_check_beside_an_instance_knows_its_vips(
    run: Run, tmp_path: Path, peer: Callable[..., Peer], options: tuple[str, ...], answer: str, noted: str
) -> None:
    """Without --vips those are what the configuration is to run with; what the instance has not is named."""
    path = tmp_path / "haproxy.cfg"
    path.write_text('frontend f\n  mode http\n  timeout client 1s\n  bind "fd@${FD_WEB}"\n  bind "fd@${FD_NEW}"\n')
    peer(("status", [answer], "close"))
    done = run(*options, "check", "-f", str(path))
    assert done.returncode == 0, done.stderr
    assert noted in done.stderr


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["reload", "status", "list", "stop", "metrics", "upgrade", "check"])
def test_each_verb_has_its_help(run: Run, verb: str) -> None:
    """--help and -h, on stdout, without asking anybody."""
    done = run(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"safe_reload {verb}: ")
    assert run(verb, "-h").stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (("reload", "now"), "reload"),
        (("status", "--what"), "status"),
        (("--freebind", "list"), "list"),
        (("check", "--timeout", "3"), "check"),
        (("check", "haproxy.cfg"), "check"),
    ],
)
def test_a_wrong_command_line_is_1_and_one_line(run: Run, words: tuple[str, ...], verb: str) -> None:
    """As with everything else that is wrong with a command line; it names the verb's own help."""
    done = run(*words)
    assert done.returncode == 1
    assert one_line(done).endswith(f"see safe_reload {verb} --help")
