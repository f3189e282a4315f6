"""The conformity suite of HAProxy mode: a master of haproxy is held to sd_notify(3), and to the CLI of haproxy's own.

    pytest tests/container/test_masters.py                        safe_reload
    pytest tests/container/test_masters.py --master haproxy       `haproxy -Ws -S`, which most of the promises are from

Asked from outside, on each version of HAProxy: through a socket where systemd would listen, through the CLI, and by
requests.
"""

import itertools
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.types import Mount

from tests.container.cli import MASTERS, OURS, ROW, ask, connect, talk
from tests.container.conftest import Balancer, Start, configuration
from tests.notify import NotifySocket
from tests.waiting import eventually

BAD = "nosuch keyword\n"
NOTIFY_FOLDER = "/run/systemd-of-tests"
SOON = 10.0
"""Seconds to wait for what a master may never say."""


class Recorder(NotifySocket):
    """Where systemd would listen, in a folder that can be mounted."""

    def __init__(self, folder: Path) -> None:
        """Listen there."""
        folder.chmod(0o755)
        super().__init__(folder / "notify")
        self.listen()
        self.path.chmod(0o777)
        self._began = 0

    def started(self) -> None:
        """Wait for the end of the start."""
        eventually(lambda: "READY" in self.said())
        self._began = len(self.said())

    def changes(self) -> list[str]:
        """Return what has been said since the start, without repetitions."""
        return [name for name, _ in itertools.groupby(self.said()[self._began :])]


class Master:
    """A running master: what differs between them is here."""

    def __init__(self, lb: Balancer, *, ours: bool) -> None:
        """Look at one that has been started."""
        self.lb = lb
        self.is_ours = ours
        self.cli = OURS if ours else MASTERS

    def edit(self, mark: str) -> None:
        """Have the configuration on disk answer with another mark."""
        self.lb.edit(text_for(configuration(mark), ours=self.is_ours))

    def send(self, name: str) -> None:
        """Send a signal once it is caught: `haproxy -Ws` is READY before that, and the kernel would drop it."""
        signum = signal.Signals[name]

        def caught() -> bool:
            fields = Path(f"/proc/{self.lb.pid}/status").read_text()
            return bool(int(fields.partition("SigCgt:")[2].split()[0], 16) >> (signum - 1) & 1)

        eventually(caught)
        self.lb.kill(name)

    def stop(self) -> None:
        """Ask for a graceful stop."""
        self.send("SIGTERM" if self.is_ours else "SIGUSR1")

    def ask(self, question: str) -> str:
        """Ask, and hang up: the whole answer."""
        return ask(self.lb, self.cli, question)

    def talk(self, *turns: tuple[str, str]) -> list[str]:
        """Have a conversation on one connection; without pids and versions."""
        return talk(self.lb, self.cli, *turns)

    def rows(self) -> list[re.Match[str]]:
        """Return the rows of `show proc`."""
        rows = [ROW.fullmatch(line) for line in self.ask("show proc\n").splitlines() if line[:1].isdigit()]
        assert all(rows)
        return [row for row in rows if row]

    def workers(self) -> list[int]:
        """Return the pids of the workers as `show proc` tells them, the current one first."""
        return [int(row[1]) for row in self.rows() if row[2] == "worker"]


def text_for(text: str, *, ours: bool) -> str:
    """Have haproxy's own master bind the address itself."""
    return text if ours else text.replace('"fd@${FD_WEB}"', "127.0.0.1:8080")


Begin = Callable[..., Master]


@pytest.fixture
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """Listen where systemd would."""
    made = Recorder(tmp_path_factory.mktemp("notify"))
    yield made
    made.close()


@pytest.fixture
def begin(start: Start, image: str, systemd: Recorder, pytestconfig: pytest.Config) -> Begin:
    """Start the master that was asked for."""
    ours = pytestconfig.getoption("--master") == "safe_reload"

    def one(text: str | None = None, **environment: str) -> Master:
        more = {
            "mounts": [Mount(NOTIFY_FOLDER, str(systemd.path.parent), type="bind")],
            "environment": {"NOTIFY_SOCKET": f"{NOTIFY_FOLDER}/notify", **environment},
            "text": text_for(text or configuration("one"), ours=ours),
        }
        if ours:
            return Master(start(image, **more), ours=True)
        words = ("-Ws", "-S", MASTERS, "-f", "/etc/lb/haproxy.cfg")
        return Master(start(image, entrypoint="haproxy", operands=words, vips="", **more), ours=False)

    return one


def said(systemd: Recorder, pattern: str) -> bool:
    """Tell whether a line of this form has been said."""
    return any(re.fullmatch(pattern, line) for line in systemd.lines())


# ---- sd_notify(3) --------------------------------------------------------------------------------------------------


def test_ready_means_that_a_request_is_answered(begin: Begin, systemd: Recorder) -> None:
    """READY=1 is said when haproxy serves: a request that follows is answered."""
    master = begin()
    systemd.started()
    assert master.lb.get() == "one"


def test_ready_is_said_once(begin: Begin, systemd: Recorder) -> None:
    """A start is READY=1 once, and in the first message: there are who read one and no more."""
    master = begin()
    master.lb.serves("one")
    systemd.started()
    master.ask("show proc\n")
    assert systemd.said() == ["READY"]
    assert systemd.messages[0]["READY"] == "1"


def test_the_main_process_speaks(begin: Begin, systemd: Recorder) -> None:
    """All that is said comes from the main process, as NotifyAccess=main wants it, a reload included."""
    master = begin()
    systemd.started()
    master.send("SIGUSR2")
    eventually(lambda: systemd.changes() == ["RELOADING", "READY"])
    assert systemd.senders == {master.lb.pid}


def test_what_cannot_start_is_never_ready(begin: Begin, systemd: Recorder) -> None:
    """A configuration that haproxy refuses at the start is an exit status other than 0, and no READY=1."""
    master = begin(BAD)
    assert master.lb.container.wait(timeout=60)["StatusCode"] != 0
    assert "READY" not in systemd.said()


def test_a_reload_is_announced_and_its_end_is_told(begin: Begin, systemd: Recorder) -> None:
    """A reload is RELOADING=1, then READY=1 when the new configuration is the one that answers."""
    master = begin()
    systemd.started()
    master.edit("two")
    master.send("SIGUSR2")
    eventually(lambda: systemd.changes() == ["RELOADING", "READY"])
    assert master.lb.get() == "two"


def test_a_reload_says_when_it_began(begin: Begin, systemd: Recorder) -> None:
    """MONOTONIC_USEC= is in the same message as RELOADING=1, as Type=notify-reload wants it, and is the time."""
    master = begin()
    systemd.started()
    before = time.monotonic_ns() // 1000
    master.send("SIGUSR2")
    eventually(lambda: "RELOADING" in systemd.changes())
    message = [message for message in systemd.messages if message.get("RELOADING") == "1"][-1]
    assert before <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_failed_reload_ends_as_well(begin: Begin, systemd: Recorder) -> None:
    """A reload that fails ends with READY=1, since who served goes on: systemd would wait for ever otherwise."""
    master = begin()
    systemd.started()
    master.lb.edit(BAD)
    master.send("SIGUSR2")
    eventually(lambda: systemd.changes() == ["RELOADING", "READY"])
    assert master.lb.get() == "one"


def test_the_status_tells_of_a_failed_reload(begin: Begin, systemd: Recorder) -> None:
    """STATUS= says that a reload has failed."""
    master = begin()
    systemd.started()
    master.lb.edit(BAD)
    master.send("SIGUSR2")
    eventually(lambda: said(systemd, "(?i)STATUS=.*fail.*"))


def test_the_status_tells_why_a_reload_has_failed(begin: Begin, systemd: Recorder) -> None:
    """STATUS= has haproxy's own words for it."""
    master = begin()
    systemd.started()
    master.lb.edit(BAD)
    master.send("SIGUSR2")
    eventually(lambda: said(systemd, "STATUS=.*nosuch.*"), SOON)


def test_the_status_tells_how_many_connections_there_are(begin: Begin, systemd: Recorder) -> None:
    """STATUS= says how many connections there are."""
    begin()
    eventually(lambda: said(systemd, r"STATUS=.*\b\d+ connections?\b.*"), SOON)


def test_a_stop_is_announced(begin: Begin, systemd: Recorder) -> None:
    """A graceful stop is STOPPING=1, and nothing after it but the end."""
    master = begin()
    systemd.started()
    master.stop()
    master.lb.container.wait(timeout=60)
    assert systemd.changes() == ["STOPPING"]


def test_a_stop_that_takes_long_asks_for_time(begin: Begin, systemd: Recorder) -> None:
    """While a client is finished, a stop asks for more time (EXTEND_TIMEOUT_USEC=), again and again."""
    master = begin()
    master.lb.serves("one")
    with master.lb.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        master.stop()
        eventually(lambda: said(systemd, r"EXTEND_TIMEOUT_USEC=\d+"), SOON)
        client.sendall(b"Connection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    master.lb.container.wait(timeout=60)


def test_the_watchdog_is_fed(begin: Begin, systemd: Recorder) -> None:
    """Where systemd has set a watchdog (WATCHDOG_USEC), WATCHDOG=1 is said again and again."""
    begin(WATCHDOG_USEC="1000000")
    eventually(lambda: systemd.lines().count("WATCHDOG=1") >= 3, SOON)


def test_the_watchdog_of_another_process_is_not_fed(begin: Begin, systemd: Recorder) -> None:
    """A WATCHDOG_PID that is not ours means somebody else."""
    master = begin(WATCHDOG_USEC="1000000", WATCHDOG_PID="99999")
    systemd.started()
    master.send("SIGUSR2")
    eventually(lambda: systemd.changes() == ["RELOADING", "READY"])
    assert "WATCHDOG=1" not in systemd.lines()


def test_listening_sockets_are_stored(begin: Begin, systemd: Recorder) -> None:
    """Where systemd stores descriptors (FDSTORE), each VIP is given to it under its name."""
    begin(FDSTORE="8")
    eventually(lambda: any(m.get("FDSTORE") == "1" and "FDNAME" in m for m in systemd.messages), SOON)


def test_who_serves_cannot_speak_for_the_main_process(begin: Begin, systemd: Recorder) -> None:
    """The haproxy that serves is not given the address at which systemd listens."""
    master = begin()
    if not master.is_ours:
        pytest.skip("a worker that is forked may have forgotten it, which /proc does not show")
    systemd.started()
    master.lb.serves("one")
    environment = Path(f"/proc/{master.lb.children()[-1]}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"NOTIFY_SOCKET=" not in environment


def test_it_serves_where_nobody_listens(begin: Begin) -> None:
    """Without anybody at NOTIFY_SOCKET it starts and reloads all the same."""
    master = begin(NOTIFY_SOCKET="/run/nobody")
    master.lb.serves("one")
    master.edit("two")
    master.send("SIGUSR2")
    master.lb.serves("two")


# ---- the CLI of the master -----------------------------------------------------------------------------------------


@pytest.fixture
def serving(begin: Begin) -> Master:
    """Start a master that serves "one"."""
    master = begin()
    master.lb.serves("one")
    # safe_reload's haproxy answers clients before it is current.
    eventually(master.workers)
    return master


def test_help_names_the_commands(serving: Master) -> None:
    """`help` lists the commands, `reload` and `show proc` among them."""
    words = serving.ask("help\n")
    assert re.search(r"^ *reload\b", words, re.MULTILINE)
    assert re.search(r"^ *show proc\b", words, re.MULTILINE)


def test_show_proc_is_a_table(serving: Master) -> None:
    """`show proc` is a line of titles, the master with its pid, and the workers below `# workers`."""
    lines = serving.ask("show proc\n").splitlines()
    assert lines[0].split() == ["#<PID>", "<type>", "<reloads>", "<uptime>", "<version>"]
    assert [row[2] for row in serving.rows()] == ["master", "worker"]
    assert lines.index("# workers") < next(at for at, line in enumerate(lines) if " worker " in line)


@pytest.mark.parametrize("prefix", ["@1", "@!{}"])
def test_a_worker_answers_through_the_master(serving: Master, prefix: str) -> None:
    """`@1 COMMAND` and `@!PID COMMAND` are that worker's own answer, ended by an empty line."""
    (pid,) = serving.workers()
    answer = serving.ask(f"{prefix.format(pid)} show info\n")
    assert f"\nPid: {pid}\n" in answer
    assert answer.endswith("\n\n")


def test_several_commands_on_a_line_are_answered_in_order(serving: Master) -> None:
    """Commands with a semicolon between them are answered one after the other."""
    (pid,) = serving.workers()
    answer = serving.ask("@1 show info;show proc\n")
    assert f"\nPid: {pid}\n" in answer.partition("#<PID>")[0]
    assert "# workers" in answer.partition("#<PID>")[2]


def test_a_connection_goes_on_after_an_answer(serving: Master) -> None:
    """Without a prompt a connection stays open for the next command, until `quit`."""
    turns = [("@1 show version\n", "\n\n"), ("@1 show version\n", "\n\n"), ("quit\n", "")]
    first, second, end = serving.talk(*turns)
    assert first == second != ""
    assert end == ""


def test_a_command_after_a_semicolon_needs_no_newline(serving: Master) -> None:
    """`reload;quit` without a newline, as the Go library of the ingress controllers sends it, is done and answered."""
    serving.edit("two")
    (answer,) = serving.talk(("reload;quit", ""))
    assert answer.startswith("Success=1\n--\n")
    assert serving.lb.get() == "two"


def test_reload_answers_when_the_new_configuration_serves(serving: Master) -> None:
    """`reload` is answered `Success=1`, a line `--` and words, when the new configuration is the one that answers."""
    serving.edit("two")
    (answer,) = serving.talk(("reload\n", ""))
    assert answer.startswith("Success=1\n--\n")
    assert serving.lb.get() == "two"


def test_a_failed_reload_is_answered_with_haproxys_words(serving: Master) -> None:
    """A `reload` that fails is answered `Success=0` with haproxy's words, and who served goes on."""
    serving.lb.edit(BAD)
    (answer,) = serving.talk(("reload\n", ""))
    assert answer.startswith("Success=0\n--\n")
    assert "nosuch" in answer
    assert serving.lb.get() == "one"


def test_startup_logs_are_those_of_the_last_reload(serving: Master) -> None:
    """`show startup-logs` has what haproxy said at the last reload, one that failed included."""
    serving.lb.edit(BAD)
    serving.send("SIGUSR2")
    eventually(lambda: "nosuch" in serving.ask("show startup-logs\n"), SOON)


@pytest.fixture
def draining(serving: Master) -> Iterator[tuple[Master, int, socket.socket]]:
    """Have a worker drain that still has a client; its pid, and the client."""
    (old,) = serving.workers()
    with serving.lb.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        eventually(lambda: "\nCurrConns: 1\n" in serving.ask("@1 show info\n"))
        serving.send("SIGUSR2")
        eventually(lambda: len(serving.workers()) == 2)
        yield serving, old, client


def test_old_workers_are_listed_until_their_clients_have_gone(draining: tuple[Master, int, socket.socket]) -> None:
    """A worker that still has a client is listed below `# old workers`, and is gone when the client has its answer."""
    master, old, client = draining
    current, older = master.workers()
    assert older == old != current
    assert "\n# old workers\n" in master.ask("show proc\n")
    client.sendall(b"Connection: close\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    eventually(lambda: master.workers() == [current])


def test_old_workers_answer(draining: tuple[Master, int, socket.socket]) -> None:
    """A worker that drains still answers to `@!PID`."""
    master, old, _ = draining
    if master.is_ours:
        eventually(lambda: "haproxy has closed its CLI" in master.ask(f"@!{old} show info\n"))
        pytest.xfail("haproxy's soft stop closes every CLI but that of its own master; status knows the connections")
    assert f"\nPid: {old}\n" in master.ask(f"@!{old} show info\n")


def test_a_prompt_says_who_is_meant(serving: Master) -> None:
    """With `prompt` each answer is followed by a prompt: the master's, or that of the worker that `@1` has chosen."""
    turns = [("prompt\n", "> "), ("@1\n", "> "), ("show version\n", "> "), ("@master\n", "> "), ("quit\n", "")]
    answers = serving.talk(*turns)
    assert answers[0].endswith("master> ")
    assert answers[1].endswith("N> ")
    assert answers[2].startswith("N\n")
    assert answers[3].endswith("master> ")


def test_an_unknown_command_is_answered(serving: Master) -> None:
    """A command that does not exist is named in the answer, and the connection goes on."""
    first, second = serving.talk(("nosuch\n", "\n\n"), ("@1 show version;quit\n", ""))
    assert "nosuch" in first
    assert second.startswith("N\n")


def test_the_severity_of_an_answer_can_be_asked_for(serving: Master) -> None:
    """After `set severity-output number` a worker's answer begins with its severity."""
    (answer,) = serving.talk(("set severity-output number;@1 set map x y z;quit\n", ""))
    assert re.match(r"\n?\[3\]:", answer)


def test_expert_mode_is_passed_on(serving: Master) -> None:
    """`expert-mode on` holds for the commands that are passed on afterwards."""
    (answer,) = serving.talk(("expert-mode on;@1 expert-mode;quit\n", ""))
    assert "expert-mode is ON" in answer


def test_nobody_waits_for_another_client(serving: Master) -> None:
    """A client that has connected and says nothing keeps nobody from being answered."""
    with connect(serving.lb, serving.cli):
        assert "# workers" in serving.ask("show proc\n")
