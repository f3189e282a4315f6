"""The log: one event, one line, one write, and no way to die of it."""

import fcntl
import json
import marshal
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoint.core.effects import Log
from entrypoint.lean.level import Level
from entrypoint.options.settings import LogFormat
from entrypoint.system.log import Logger, text_line, write_to_stderr
from tests.system.apart import apart, in_child

Channel = Callable[[int], int]
LINE = Log(Level.WARNING, "reload_failed", "generation 3 was refused", {"number": 3, "reason": "bad"})


def written(work: Callable[[], object]) -> list[bytes]:
    """Return what reaches stderr while `work` is done, write by write."""

    def with_packets() -> list[bytes]:
        # A packet for each write: pipe(7) of Linux, O_DIRECT.
        reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        os.dup2(writer, 2)
        work()
        packets = []
        while True:
            try:
                packets.append(os.read(reader, 65536))
            except BlockingIOError:
                return packets

    return apart(with_packets)


@pytest.mark.parametrize("style", LogFormat)
def test_a_line_is_one_write(style: LogFormat) -> None:
    """Each line reaches stderr whole and with its end, so that lines of several processes do not mix."""
    logger = Logger(Level.DEBUG, style)

    def work() -> None:
        logger.write(LINE)
        logger.write(LINE)

    packets = written(work)
    assert len(packets) == 2
    assert all(packet.endswith(b"\n") and packet.count(b"\n") == 1 for packet in packets)


@pytest.mark.parametrize(
    ("level", "name"), [(Level.ERROR, "ERROR"), (Level.WARNING, "WARN "), (Level.INFO, "INFO "), (Level.DEBUG, "DEBUG")]
)
def test_a_text_line_looks_like_tinis(level: Level, name: str) -> None:
    """Level, our name and pid in brackets, then the message."""
    (packet,) = written(lambda: Logger(Level.DEBUG).write(Log(level, "event", "what happened")))
    assert re.fullmatch(rf"\[{name} safe_reload \(\d+\)\] what happened\n", packet.decode())


def test_the_pid_in_a_line_is_the_writer_s() -> None:
    """A child that cannot exec logs its own pid."""
    assert text_line("FATAL", "x") == f"[FATAL safe_reload ({os.getpid()})] x"
    assert apart(lambda: text_line("FATAL", "x") == f"[FATAL safe_reload ({os.getpid()})] x")


@pytest.mark.parametrize("least", Level)
def test_only_what_matters_enough_is_written(least: Level) -> None:
    """A logger writes its own level and everything that matters more."""

    def work() -> None:
        for level in Level:
            Logger(least).write(Log(level, "event", level.name))

    assert [packet.split()[-1].decode() for packet in written(work)] == [
        level.name for level in Level if level <= least
    ]


def test_a_json_line_is_an_object_with_everything() -> None:
    """Time, level, event, message and instance are there, and the event's own fields beside them."""
    (packet,) = written(lambda: Logger(Level.DEBUG, LogFormat.JSON, "edge").write(LINE))
    record = json.loads(packet)
    assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d\.\d{3}Z", record.pop("time"))
    assert record == {
        "level": "warning",
        "event": "reload_failed",
        "msg": "generation 3 was refused",
        "instance": "edge",
        "number": 3,
        "reason": "bad",
    }


def test_a_json_line_without_an_instance_has_no_such_field() -> None:
    """What is not known is left out instead of being null."""
    (packet,) = written(lambda: Logger(Level.DEBUG, LogFormat.JSON).write(Log(Level.INFO, "e", "m", {"a": None})))
    assert set(json.loads(packet)) == {"time", "level", "event", "msg"}


def test_a_json_line_is_one_line_whatever_the_message() -> None:
    """Line ends, quotes and bytes that are no text are escaped, and come back."""
    message = 'a\nb"c\udcff\u20ac'
    (packet,) = written(lambda: Logger(Level.DEBUG, LogFormat.JSON).write(Log(Level.INFO, "e", message)))
    assert packet.count(b"\n") == 1
    assert json.loads(packet)["msg"] == 'a\nb"c\\xff\u20ac'


def test_a_text_line_is_one_line_whatever_the_message() -> None:
    """A line end in a message, which can come from a file's name, does not forge a second line."""
    message = "cannot read a\n[ERROR safe_reload (1)] b"
    (packet,) = written(lambda: Logger(Level.DEBUG).write(Log(Level.INFO, "e", message)))
    assert packet.count(b"\n") == 1


def test_what_is_no_text_is_written_all_the_same() -> None:
    """A file name with bytes that are no UTF-8 does not stop the line."""
    (packet,) = written(lambda: write_to_stderr("a\udcffb \u20ac"))
    assert packet == "a\\xffb \u20ac\n".encode()


@in_child
def test_a_closed_stderr_is_survived() -> None:
    """Without a stderr there is no log, and nothing else happens."""
    os.close(2)
    Logger(Level.DEBUG).write(LINE)
    Logger(Level.DEBUG, LogFormat.JSON).write(LINE)


@in_child
def test_a_reader_that_has_gone_is_survived() -> None:
    """A pipe that nobody reads any more costs the line and nothing else."""
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(reader)
    Logger(Level.DEBUG).write(LINE)


def test_no_style_of_log_loads_the_json_module() -> None:
    """A MiB of PID 1's memory is not spent on writing objects."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from entrypoint.core.effects import Log\n"
        "from entrypoint.lean.level import Level\n"
        "from entrypoint.options.settings import LogFormat\n"
        "from entrypoint.system.log import Logger\n"
        "for style in LogFormat:\n"
        "    Logger(Level.DEBUG, style).write(Log(Level.INFO, 'e', 'm'))\n"
        "    print('json' in sys.modules)\n"
    )
    repository = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, repository], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False", "False"]


# ---- a stderr that is full -----------------------------------------------------------------------------------------

LOST = re.compile(r"(\d+) lines? lost here")


def lost(text: bytes) -> int:
    """Return how many lines a log says are missing."""
    return sum(int(number) for number in LOST.findall(text.decode()))


def lines_of(text: bytes) -> list[bytes]:
    """Return the whole lines of a log that do not say what is missing."""
    assert not text or text.endswith(b"\n")
    return [line for line in text.split(b"\n")[:-1] if not LOST.search(line.decode())]


class Reader:
    """A reader of our stderr that may stop reading."""

    def __init__(self, channel: Channel, size: int = 4096, style: LogFormat = LogFormat.TEXT) -> None:
        """Make a stderr, as small as it can be, and a logger that writes to it."""
        self.end = channel(size)
        self.seen = b""
        self.logger = Logger(Level.DEBUG, style)
        self.logger.open()

    def read(self) -> None:
        """Read what there is, and have the logger write what waits, until nothing does."""
        while True:
            self.logger.flush()
            try:
                data = os.read(self.end, 65536)
            except BlockingIOError:
                data = b""
            self.seen += data
            if not data and not self.logger.waits:
                # A terminal ends lines in its own way.
                self.seen = self.seen.replace(b"\r\n", b"\n")
                return


def pipe(size: int) -> int:
    """Make a pipe stderr; return its other end."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)
    os.set_blocking(reader, False)
    os.dup2(writer, 2)
    os.close(writer)
    return reader


def unix_socket(size: int) -> int:
    """Make a socket stderr, as systemd does; return its other end."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    far.setblocking(False)
    os.dup2(near.detach(), 2)
    return far.detach()


def terminal(_: int) -> int:
    """Make a terminal stderr, as docker run -t does; return its other end."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    os.dup2(slave, 2)
    return master


def pipe_of_another(size: int) -> int:
    """Make a pipe stderr that we may not open ourselves."""
    reader = pipe(size)
    os.fchmod(2, 0)
    os.seteuid(65534)
    return reader


CHANNELS = (pipe, unix_socket, terminal, pipe_of_another)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("style", LogFormat)
@in_child
def test_a_full_stderr_costs_lines_and_they_are_counted(channel: Channel, style: LogFormat) -> None:
    """Whatever it is: nobody waits for it, every line arrives whole or is counted, and why something failed arrives."""
    reader = Reader(channel, style=style)
    logger = reader.logger
    for number in range(9000):
        logger.pass_on(b"[WARNING] (7) : config : number %d\n" % number, 2)
    logger.pass_on(b"[ALERT] (7) : config : parsing [/x.cfg:3]: no\n  log 'x\n[NOTICE] (7) : so\n", 2)
    logger.write(Log(Level.ERROR, "reload_failed", "the reload has failed"))
    logger.write(Log(Level.INFO, "other", "something else"))
    waiting = logger.lines_lost
    assert waiting > 0
    reader.read()
    logger.write(Log(Level.INFO, "other", "there is room"))
    reader.read()
    assert logger.lines_lost == waiting
    seen = reader.seen
    lines = lines_of(seen)
    assert lost(seen) == waiting
    assert len(lines) + waiting == 9000 + 3 + 3
    text = [json.loads(line)["msg"] if style is LogFormat.JSON else line.decode() for line in lines]
    warnings = [line for line in text if line.startswith("[WARNING]")]
    assert warnings == [f"[WARNING] (7) : config : number {number}" for number in range(len(warnings))]
    alert = text.index("[ALERT] (7) : config : parsing [/x.cfg:3]: no")
    assert text[alert + 1] == "  log 'x"
    assert text[alert + 2].endswith("the reload has failed")
    assert text[-1].endswith("there is room")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["warning", "alert", "rest", "info", "error", "read"]),
            st.integers(1, 400),
            st.integers(0, 9000),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(deadline=None, max_examples=40)
@in_child
def test_the_counts_are_exact_wherever_the_lines_are_missing(acts: list[tuple[str, int, int, int]]) -> None:
    """In its place each line is there or counted, whatever is said, how much of it, and when somebody reads."""
    reader = Reader(pipe)
    logger = reader.logger
    said: list[bytes] = []
    for what, times, size, generation in acts:
        if what == "read":
            reader.read()
            continue
        for _ in range(min(times, 1 + 200_000 // (size + 1))):
            text = b"%d " % len(said) + b"x" * size
            if what in {"info", "error"}:
                logger.write(Log(Level[what.upper()], "e", text.decode()))
                text = text_line("INFO " if what == "info" else "ERROR", text.decode()).encode()
            else:
                text = {"warning": b"[WARNING] ", "alert": b"[ALERT] ", "rest": b"  "}[what] + text
                logger.pass_on(text + b"\n", generation)
            said.append(text)
    reader.read()
    seen = reader.seen
    place = 0
    for line in seen.split(b"\n")[:-1]:
        missing = LOST.search(line.decode())
        if missing:
            place += int(missing[1])
        else:
            assert line == said[place]
            place += 1
    assert place == len(said)


@in_child
def test_what_waits_is_bounded_and_the_last_failure_is_in_it() -> None:
    """Nobody reads for days, and each reload fails: the newest reason is there, and PID 1 has not grown."""
    reader = Reader(pipe)
    logger = reader.logger
    for generation in range(2, 300):
        alerts = b"".join(b"[ALERT] (7) : number %d of %d\n" % (number, generation) for number in range(3000))
        logger.pass_on(b"[WARNING] x\n" * 1000 + alerts, generation)
        logger.write(Log(Level.ERROR, "reload_failed", f"generation {generation} has failed"))
    waiting = len(logger.serialize()["unwritten"])
    reader.read()
    seen = reader.seen
    missing = logger.lines_lost
    assert waiting < 400_000
    assert lost(seen) == missing
    assert len(lines_of(seen)) + missing == 298 * 4001
    newest = [line for line in lines_of(seen) if line.endswith(b" of 299")]
    assert newest == [b"[ALERT] (7) : number %d of 299" % number for number in range(len(newest))]
    assert len(newest) > 100
    assert lines_of(seen)[-1].endswith(b"generation 299 has failed")


@pytest.mark.parametrize("style", LogFormat)
@pytest.mark.parametrize("size", [4000, 4095, 4096, 9000, 70_000, 300_000])
@pytest.mark.parametrize("channel", CHANNELS)
@in_child
def test_a_long_line_is_one_line(channel: Channel, size: int, style: LogFormat) -> None:
    """haproxy's and ours arrive from beginning to end, also through a pipe that is smaller than they are."""
    reader = Reader(channel, style=style)
    reader.logger.pass_on(b"[ALERT] " + b"h" * size + b"\n", 1)
    reader.read()
    reader.logger.write(Log(Level.INFO, "bound", "bound " + "v" * size))
    reader.read()
    first, second = lines_of(reader.seen)
    if style is LogFormat.JSON:
        first, second = (json.loads(line)["msg"].encode() for line in (first, second))
    assert first == b"[ALERT] " + b"h" * size
    assert second.endswith(b"bound " + b"v" * size)


@in_child
def test_the_pipe_of_others_stays_as_it_is() -> None:
    """Nobody who shares our stderr finds it non-blocking."""
    Reader(pipe)
    assert os.get_blocking(2)


@in_child
def test_the_last_lines_wait_for_a_slow_reader() -> None:
    """Lines that wait when safe_reload exits are written as soon as there is room."""
    reader = Reader(pipe)
    reader.logger.pass_on(b"x\n" * 3000, 1)
    reader.logger.write(Log(Level.ERROR, "start_failed", "this is why"))
    assert reader.logger.waits
    pid = os.fork()
    if pid == 0:
        reader.logger.close()
        os._exit(0)
    os.close(2)
    os.close(reader.logger.fileno())
    os.set_blocking(reader.end, True)
    with open(reader.end, "rb") as end:
        seen = end.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert lines_of(seen)[-1].endswith(b"this is why")


@in_child
def test_the_new_program_writes_the_lines_that_waited() -> None:
    """It also knows how many were lost."""
    reader = Reader(pipe)
    reader.logger.pass_on(b"x\n" * 200_000, 1)
    left = marshal.loads(marshal.dumps(reader.logger.serialize(), 2))
    reader.logger = Logger(Level.DEBUG)
    reader.logger.open()
    reader.logger.restore(left)
    reader.read()
    seen = reader.seen
    missing = reader.logger.lines_lost
    assert missing == lost(seen) == 200_000 - len(lines_of(seen))


@in_child
def test_a_reader_that_goes_while_lines_wait_is_survived() -> None:
    """They are lost, nothing waits for ever, and a later reader is told."""
    reader = Reader(pipe)
    reader.logger.pass_on(b"x\n" * 3000, 1)
    os.close(reader.end)
    reader.logger.flush()
    assert not reader.logger.waits
    reader.logger.write(LINE)
    missing = reader.logger.lines_lost
    reader.end = pipe(4096)
    reader.logger.open()
    reader.logger.write(LINE)
    reader.read()
    seen = reader.seen
    assert lost(seen) == missing > 1
    assert len(lines_of(seen)) == 1


@in_child
def test_the_last_line_of_a_process_is_whole() -> None:
    """Why nothing was started, however long it is, and whoever else has filled the pipe."""
    end = pipe(4096)
    pid = os.fork()
    if pid == 0:
        write_to_stderr("x" * 20000)
        os._exit(0)
    os.close(2)
    os.set_blocking(end, True)
    with open(end, "rb") as reader:
        assert reader.read() == b"x" * 20000 + b"\n"
