"""The control socket of a real instance with a real haproxy: no client, however bad, blocks another one."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from entrypoint import __version__
from tests.connections import read_all, read_until
from tests.descriptors import descriptors
from tests.system.instance import CONFIGURATION, Begin, Instance
from tests.system.lives import status_fields
from tests.waiting import eventually

BAD = CONFIGURATION.replace("mode http", "mode hptt")
CLIENT_NATIVE = b"@1 set severity-output number;@1 show info;quit\n"
"""What older versions of HAProxy's Go library send to a master's socket."""


@pytest.fixture(autouse=True)
def _room_for_many() -> Iterator[None]:
    """Let this process have as many descriptors as the clients of a storm need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def begin(begin: Begin) -> Begin:
    """Start one that watches no files."""
    return partial(begin, "--watch", "off")


@pytest.fixture
def lb(begin: Begin) -> Iterator[Instance]:
    """An instance that serves; in the end it has found no bug in itself and has no more descriptors than before."""
    instance = begin().serves()
    before = len(descriptors(instance.pid))
    yield instance
    assert "a bug in safe_reload" not in instance.log
    generations = [one["pid"] for one in instance.status()["generations"]]
    if len(generations) == 1:
        eventually(lambda: len(descriptors(instance.pid)) <= before + 1)


NOT_WAITED_FOR = """
from entrypoint.pid1.session import WorkerConnection
right = WorkerConnection.resume
def wrong(self):
    WorkerConnection.resume = right
    raise OSError(28, "No space left on device")
WorkerConnection.resume = wrong
"""


def test_a_generation_that_cannot_be_waited_for_is_hung_up_on(begin: Begin) -> None:
    """An open session with its CLI would keep it from leaving; the client is told, and asks again."""
    lb = begin(code=NOT_WAITED_FOR).serves()
    before = len(descriptors(lb.pid))
    with lb.connect() as client:
        client.sendall(b"prompt\n@1 show info\n")
        said = read_until(client, b"Cannot do it now: No space left on device\n\nmaster> ")
        assert b"Name: " not in said
        eventually(lambda: len(descriptors(lb.pid)) == before + 1)
        client.sendall(b"@1 show info\n")
        assert b"Name: HAProxy" in read_until(client, b"\n\nmaster> ")


# ---- another safe_reload in its place --------------------------------------------------------------------------------


def test_questions_during_upgrades_are_all_answered(lb: Instance) -> None:
    """A client that connects, has sent half a command, waits, reads slowly or has a session gets one whole answer."""
    stop = threading.Event()
    begins = {b"status\n": "{", b"show version;quit\n": "safe_reload ", b"@1 show info\n": "Name: "}
    answers: list[tuple[bytes, str]] = []

    def ask_again_and_again(question: bytes) -> None:
        while not stop.is_set():
            answers.append((question, lb.ask(question)))

    threads = [threading.Thread(target=ask_again_and_again, args=(question,)) for question in begins]
    (generation,) = lb.status()["generations"]
    with lb.connect() as silent, lb.connect() as half, lb.connect() as session, lb.connect() as slow:
        half.sendall(b"show ver")
        session.sendall(b"prompt\n@1\n")
        read_until(session, b"%d> " % generation["pid"])
        slow.sendall(b"help;" * 3000 + b"quit\n")
        for thread in threads:
            thread.start()
        upgrades = [lb.ask(b"upgrade\n") for _ in range(5)]
        stop.set()
        for thread in threads:
            thread.join()
        assert [answer.partition("\n")[0] for answer in upgrades] == ["Success=1"] * 5
        silent.sendall(b"show version;quit\n")
        half.sendall(b"sion;quit\n")
        assert read_all(silent) == read_all(half) == f"safe_reload {__version__}\n\n".encode()
        session.sendall(b"show info\n")
        assert f"Pid: {generation['pid']}\n".encode() in read_until(session, b"%d> " % generation["pid"])
        assert read_all(slow).count(b"The following commands are valid here:") == 3000
    assert {question for question, _ in answers} == set(begins)
    for question, answer in answers:
        assert answer.startswith(begins[question]), (question, answer)
        assert question != b"status\n" or json.loads(answer)["stage"] == "serving"


def test_reloads_and_upgrades_at_once_are_all_answered(lb: Instance) -> None:
    """One of them may be refused because of the other; both are told."""
    for _ in range(5):
        with lb.connect() as upgrader, lb.connect() as reloader:
            upgrader.sendall(b"upgrade\n")
            reloader.sendall(b"reload\n")
            for client in (upgrader, reloader):
                assert read_all(client).startswith(b"Success=")


# ---- the words of haproxy's master ---------------------------------------------------------------------------------


def test_a_reload_is_answered_when_the_new_generation_serves(lb: Instance) -> None:
    """A request right after the answer gets the new generation's."""
    for number in range(2, 52):
        answer = lb.ask(b"reload\n")

        assert answer.startswith("Success=1\n--\n")
        assert f"generation {number} " in answer
        assert lb.get() == str(number)


def test_a_refused_reload_is_answered_with_haproxys_words(lb: Instance) -> None:
    """Success=0, the line that is wrong, and the generation goes on."""
    lb.edit(BAD)
    answer = lb.ask(b"reload\n")
    assert answer.startswith("Success=0\n--\n")
    assert "unknown proxy mode 'hptt'" in answer
    assert lb.get() == "1"
    assert lb.status()["last_reload"]["result"] == "failure"
    assert lb.status()["configuration"]["failed_sha256"] == lb.status()["configuration"]["disk_sha256"]


def test_a_program_section_is_answered_by_what_would_be_right(lb: Instance) -> None:
    """haproxy says that it needs its master; that there is none here, and what to do, we say."""
    lb.edit(CONFIGURATION + "program api\n  command sleep 9\n")
    answer = lb.ask(b"reload\n")
    assert answer.startswith("Success=0\n--\n")
    assert "'program' section" in answer
    assert "take it out, and run its command as a service, or a container, of its own" in answer
    assert "take it out, and run" in lb.log


def test_fifty_at_once_share_two_reloads_and_each_gets_one_answer(lb: Instance) -> None:
    """One runs, one waits, whoever asks."""
    clients = [lb.connect() for _ in range(50)]
    lb.signal(signal.SIGSTOP)
    for client in clients:
        client.sendall(b"reload\n")
    lb.signal(signal.SIGCONT)
    answers = [read_all(client).decode() for client in clients]
    for client in clients:
        client.close()
    assert [answer.count("Success=1") for answer in answers] == [1] * 50
    assert lb.status()["generations"][-1]["number"] <= 3


def test_a_thousand_at_once_get_one_answer_each(lb: Instance) -> None:
    """Every client is answered, slow ones too, and a liveness question is answered meanwhile."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(lb.connect()) for _ in range(1000)]
        for client in clients[::2]:
            client.sendall(b"reload\n")
        assert lb.status()["stage"] == "serving"
        for client in clients[1::2]:
            client.sendall(b"reload\n")
        answers = [read_all(client) for client in clients]
    assert {answer.partition(b"\n")[0] for answer in answers} == {b"Success=1"}
    assert {answer.count(b"Success=") for answer in answers} == {1}


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        (b"@1 show info\n", "Name: HAProxy"),
        (CLIENT_NATIVE, "Name: HAProxy"),
        (b"set severity-output number;show proc;quit\n", "#<PID>"),
        (b"@1;show info;quit\n", "Name: HAProxy"),
        (b"@1;@master;show proc;quit\n", "#<PID>"),
        (b"@master show proc\n", "#<PID>"),
        (b"@ show proc\n", "#<PID>"),
        (b"show proc;@1 show info\r\n", "Name: HAProxy"),
        (b"prompt\nshow proc\nquit\n", "master> #<PID>"),
        (b"prompt\n@1\nprompt\nshow info\nquit\n", "Name: HAProxy"),
        (b"@1 prompt;@1 quit\n", ""),
        (b"@1 add map x <<END;show version\nEND \nEND\n", ""),
        (b"@9 show info\n", "Can't find the target PID matching the prefix '@9'"),
        (b"@!1 show info\n", "Can't find the target PID matching the prefix '@!1'"),
        (b"nonsense\n", "Unknown command:"),
        (b"show version\n", "safe_reload"),
        (b"@1 add map x <<\na b\n\n", "nknown map identifier"),
        (b"help\n", "show proc"),
    ],
)
@pytest.mark.parametrize("half_close", [False, True])
def test_what_drives_a_master_drives_us(lb: Instance, question: bytes, wanted: str, half_close: bool) -> None:
    """The bytes that tools send to haproxy's master are answered as there, also when they half-close, as socat does."""
    assert wanted in lb.ask(question if half_close else question + b"quit\n", half_close=half_close)


@pytest.mark.parametrize("question", [b"reload\n", b"status\n", b"reload;quit", b"show version;quit\n"])
def test_what_ends_a_connection(lb: Instance, question: bytes) -> None:
    """As haproxy's master closes after `reload`, we do after what only we have; the half-close is not needed."""
    assert lb.ask(question, half_close=False)


@pytest.mark.parametrize("good", [True, False])
def test_a_reload_is_read_as_the_ingress_controller_and_the_data_plane_api_do(lb: Instance, good: bool) -> None:
    """They send no newline, wait for the end, and want a status, two dashes on a line of their own, and words."""
    if not good:
        lb.edit(BAD)
    status, dashes, words = lb.ask(b"reload;quit", half_close=False).strip().partition("\n--\n")
    assert status == f"Success={int(good)}"
    assert dashes
    assert ("unknown proxy mode" in words) is not good


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        (b"set severity-output number;@1 set map x y z;quit\n", "[3]: Unknown map identifier."),
        (b"set severity-output number;@1 show version;@1 show version;quit\n", "[6]: "),
        (b"set severity-output number\n@1 show version\nquit\n", "[6]: "),
        (b"set severity-output number;expert-mode on;@1 show version;quit\n", "[6]: "),
        (b"set severity-output number;@1 add map x <<\na b\n\n;quit\n", "[3]: "),
        (b"@1;set severity-output string;set map x y z;quit\n", "[err]: "),
        (b"set severity-output number;set severity-output none;@1 set map x y z;quit\n", "Unknown map identifier."),
        (b"@1 set severity-output number;@1 set map x y z;quit\n", "\nUnknown map identifier."),
        (b"expert-mode on;@1 expert-mode;quit\n", "expert-mode is ON"),
    ],
)
def test_what_is_set_holds_for_what_is_passed_on(lb: Instance, question: bytes, wanted: str) -> None:
    """HAProxy's Go library takes an error for success unless the answer begins with its severity."""
    assert lb.ask(question, half_close=False).startswith(wanted)


def test_a_session_without_a_prompt_goes_on(lb: Instance) -> None:
    """As with haproxy's master: line by line, until the client has had enough; each answer ends with an empty line."""
    pid = lb.status()["generations"][0]["pid"]
    with lb.connect() as client:
        for question, wanted in (
            (b"show proc\n", b"# programs"),
            (b"@1 show info\n", f"Pid: {pid}\n".encode()),
            (b"nonsense\n", b"Unknown command:"),
            (b"\n", b"\n"),
            (b"@@1 show info\n", f"Pid: {pid}\n".encode()),
        ):
            client.sendall(question)
            assert wanted in read_until(client, b"\n\n" if question.strip() else b"\n")


def test_a_session_with_a_prompt_always_has_one(lb: Instance) -> None:
    """A waiting client always gets a prompt. It names the target of the commands, as in haproxy's master."""
    pid = str(lb.status()["generations"][0]["pid"]).encode()
    dialogue = (
        (b"prompt", b"master> "),
        (b"", b"\nmaster> "),
        (b"@9", b"Can't find the target PID matching the prefix '@9'\n\nmaster> "),
        (b"@1", pid + b"> "),
        (b"@1 set map x y z", b"Unknown map identifier. Please use #<id> or <file>.\n\n" + pid + b"> "),
        (b"set severity-output number", pid + b"> "),
        (b"set map x y z", b"[3]: Unknown map identifier. Please use #<id> or <file>.\n\n" + pid + b"> "),
        (b"@master", b"master> "),
        (b"@!" + pid, pid + b"> "),
        (b"@", b"master> "),
    )
    with lb.connect() as client:
        for question, wanted in dialogue:
            client.sendall(question + b"\n")
            assert read_until(client, b"> ") == wanted
        client.sendall(b"reload\n")
        assert read_until(client, b"master> ").startswith(b"Success=1\n--\n")
        client.sendall(b"prompt\nshow version\nquit\n")
        assert b"master> " not in read_all(client)


def test_a_session_that_has_turned_to_a_generation_does_not_turn_to_the_next_one(lb: Instance) -> None:
    """What is said to one that has gone is not done by its successor."""
    with lb.connect() as client:
        client.sendall(b"prompt\n@1\n")
        read_until(client, b"> ")
        assert lb.ask(b"reload\n").startswith("Success=1")
        eventually(lambda: len(lb.status()["generations"]) == 1)
        client.sendall(b"show info\nquit\n")

        assert b"Can't find the target PID" in read_all(client)


def test_show_startup_logs_belongs_to_the_last_attempt(lb: Instance) -> None:
    """After a signal `show startup-logs` tells how the reload ended."""
    lb.edit(BAD)
    lb.signal(signal.SIGHUP)
    eventually(lambda: "unknown proxy mode 'hptt'" in lb.ask(b"show startup-logs\n"))
    lb.edit(CONFIGURATION)
    lb.ask(b"reload\n")
    assert "hptt" not in lb.ask(b"show startup-logs\n")


def test_a_generation_is_asked_by_its_pid(lb: Instance) -> None:
    """@!PID, with the pid that `show proc` has."""
    pid = lb.status()["generations"][0]["pid"]
    assert f"\n{pid} " in lb.ask(b"show proc\n")
    assert f"Pid: {pid}\n" in lb.ask(f"@!{pid} show info\n".encode())


@pytest.mark.skipif(not shutil.which("socat"), reason="socat is not installed")
def test_socat_gets_whole_answers(lb: Instance) -> None:
    """Debian's socat, as HAProxy's documentation uses it."""
    words = ["socat", "-t30", "-", f"UNIX-CONNECT:{lb.path}"]
    for question, wanted in (
        (b"reload\n", b"Success=1"),
        (b"@1 show info\n", b"Pid:"),
        (b"show proc\n", b"# programs"),
    ):
        assert wanted in subprocess.run(words, input=question, capture_output=True, check=True).stdout


# ---- hostile input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [b"reload", b"x" * 3_000_000, b"\0" * 100 + b"\n", b"\xff\xfe;\\;;@;@@;@!;\n", b"\n" * 10000, b";" * 9999],
)
def test_garbage_does_not_block_other_clients(lb: Instance, garbage: bytes) -> None:
    """Partial lines, megabytes without a newline, NULs: the next client is answered, and nothing was reloaded."""
    with lb.connect() as client:
        with contextlib.suppress(OSError):
            client.sendall(garbage)

        assert lb.status()["stage"] == "serving"
    assert lb.get() == "1"


@pytest.mark.parametrize(
    ("endless", "why"),
    [
        (b"add map m <<EOF\n" + b"\n" * 16_000_000, "a command with its payload may have 65536 bytes"),
        (b"add map m <<EOF\n" + b"k v\n" * 4_000_000, "a command with its payload may have 65536 bytes"),
        (rb"\;" * 8_000_000, "a line of a command may have 16384 bytes"),
    ],
)
def test_what_is_too_long_is_refused_with_a_line(lb: Instance, endless: bytes, why: str) -> None:
    """16 MB: nobody waits for them, and they are not kept."""
    memory = lb.memory()
    with lb.connect() as client:
        with pytest.raises(BrokenPipeError):
            client.sendall(endless)

        assert client.recv(65536).decode() == f"{why}\n\n"
    assert lb.status()["stage"] == "serving"
    assert lb.memory() < memory + 4096


def test_silent_connections_are_closed_to_make_room(lb: Instance) -> None:
    """New clients are served, and the number of descriptors is bounded."""
    before = len(descriptors(lb.pid))
    with contextlib.ExitStack() as stack:
        for _ in range(1500):
            stack.enter_context(lb.connect())

        assert lb.status()["stage"] == "serving"
        assert len(descriptors(lb.pid)) <= before + 1282


def test_a_client_that_never_reads_costs_at_most_one_answer_of_memory(lb: Instance) -> None:
    """Thousands of commands in one line and no reader: memory stays bounded, and others are served."""
    memory = lb.memory()
    with contextlib.ExitStack() as stack:
        for question in (b"status;" * 2300, b"@1 show stat;" * 1200, b"help;" * 3000, b"show proc;" * 1600):
            for _ in range(5):
                stack.enter_context(lb.connect()).sendall(question + b"\n")
        for _ in range(20):
            assert lb.status()["stage"] == "serving"

        assert lb.memory() < memory + 16384


def test_a_slow_reader_gets_the_whole_answer(lb: Instance) -> None:
    """Output that waits for a slow reader is neither lost nor cut off."""
    with lb.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.sendall(b"@1 show stat;" * 1000 + b"quit\n")
        answer = b""
        while data := client.recv(4000):
            answer += data
    assert answer.count(b"# pxname") == 1000


def test_many_commands_in_a_line_are_all_answered_without_a_haproxy(lb: Instance) -> None:
    """Answers that need no waiting do not pile up either."""
    lb.edit(BAD)
    os.kill(lb.status()["generations"][0]["pid"], signal.SIGKILL)
    lines = lb.ask(b"status;" * 2000 + b"\n").splitlines()
    assert len(lines) == 2000
    assert all(json.loads(line)["pid"] == lb.pid for line in lines)
    lb.edit(CONFIGURATION)
    assert lb.ask(b"reload\n").startswith("Success=1")


def test_a_reload_goes_on_when_its_client_hangs_up(lb: Instance) -> None:
    """The reload was requested, so it is done."""
    with lb.connect() as client:
        client.sendall(b"reload\n")
    eventually(lambda: lb.get() == "2")
    assert eventually(lambda: lb.status()["last_reload"])["result"] == "success"


def test_a_stopped_generation_does_not_hold_up_the_status(lb: Instance) -> None:
    """Its connections are unknown; who asked it directly and has gone is forgotten."""
    pid = lb.status()["generations"][0]["pid"]
    before = len(descriptors(lb.pid))
    os.kill(pid, signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(lb.connect()).sendall(b"@1 show info\n")

            assert lb.status()["generations"][0]["connections"] is None
            assert "#<PID>" in lb.ask(b"show proc\n")
        eventually(lambda: len(descriptors(lb.pid)) <= before + 1)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_other_users_are_refused(lb: Instance) -> None:
    """The mode keeps them out, and who gets in all the same is told why he is not heard."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    assert Path(lb.path).stat().st_mode & 0o777 == 0o600
    Path(lb.path).chmod(0o666)
    for folder in (lb.folder / "run", *lb.folder.parents, lb.folder):
        folder.chmod(folder.stat().st_mode | 0o011)
    code = f"""
import os, socket
os.setuid(65534)
client = socket.socket(socket.AF_UNIX)
client.connect({lb.path!r})
print(client.recv(1000).decode())
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "Permission denied" in answer


def test_reloads_from_all_sides_are_bounded(lb: Instance) -> None:
    """Hundreds who ask for a reload and leave: nobody is kept, others are answered."""
    for _ in range(300):
        with lb.connect() as client:
            client.sendall(b"reload\n")
        if not _ % 50:
            assert lb.status()["pid"] == lb.pid
    eventually(lambda: len(lb.status()["generations"]) == 1)


def test_without_descriptors_it_does_not_spin(begin: Begin) -> None:
    """A client waits until there are some, and PID 1 sleeps meanwhile."""
    lb = begin().serves()
    limits = resource.prlimit(lb.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(lb.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    with lb.connect() as client:
        client.sendall(b"show proc;quit\n")
        used = time.process_time()
        turns = status_fields(lb.pid)["voluntary_ctxt_switches"]
        eventually(lambda: int(status_fields(lb.pid)["voluntary_ctxt_switches"]) > int(turns) + 3)
        assert used <= time.process_time()
        resource.prlimit(lb.pid, resource.RLIMIT_NOFILE, limits)

        assert b"#<PID>" in read_all(client)


# ---- logs ----------------------------------------------------------------------------------------------------------


def test_the_masters_cli_is_ours(begin: Begin) -> None:
    """Debian's EXTRAOPTS and the ingress controllers give haproxy one: one line says which socket answers instead."""
    lb = begin(haproxy=("haproxy", "-Ws", "-S", "/run/master.sock,level,admin")).serves()
    assert lb.log.count(f"haproxy's -S is dropped: safe_reload is the master, and {lb.path} answers") == 1
    assert lb.log.count("instead of /run/master.sock\n") == 1
    assert "# workers" in lb.ask(b"show proc\n")


def test_every_line_of_a_json_log_is_an_object(begin: Begin) -> None:
    """Ours and haproxy's, from the first to the last, and each of a reload has its generation."""
    lb = begin("--log-format", "json").serves()
    lb.ask(b"reload\n")
    lb.edit(BAD)
    lb.ask(b"reload\n")
    lb.ask(b"stop\n", half_close=False)
    assert lb.process.wait(timeout=30) == 0
    lines = [json.loads(line) for line in lb.log.splitlines()]
    assert {line["event"] for line in lines} >= {"current", "gone", "reload_failed", "haproxy", "stopping", "stopped"}
    assert all(isinstance(line["generation"], int) for line in lines if line["event"] in {"current", "gone", "haproxy"})
    assert any(line["level"] == "error" for line in lines if line["event"] == "haproxy")
