"""The log: one event, one line, one write, and no way to die of it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoint.core.events import Level, Log
from entrypoint.core.settings import LogFormat
from entrypoint.system.log import Logger, text_line, write_to_stderr
from tests.system.apart import apart

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
    ("level", "name"),
    [(Level.ERROR, "ERROR"), (Level.WARNING, "WARN "), (Level.INFO, "INFO "), (Level.DEBUG, "DEBUG")],
)
def test_a_text_line_looks_like_tinis(level: Level, name: str) -> None:
    """Level, our name and pid in brackets, then the message."""
    (packet,) = written(lambda: Logger(Level.DEBUG).write(Log(level, "event", "what happened")))
    assert re.fullmatch(rf"\[{name} safe_reload \(\d+\)\] what happened\n", packet.decode())


def test_the_pid_in_a_line_is_of_who_writes() -> None:
    """A child that cannot exec signs with its own pid."""
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
    assert json.loads(packet)["msg"] == message


def test_a_text_line_is_one_line_whatever_the_message() -> None:
    """A line end in a message, which can come from a file's name, does not forge a second line."""
    message = "cannot read a\n[ERROR safe_reload (1)] b"
    (packet,) = written(lambda: Logger(Level.DEBUG).write(Log(Level.INFO, "e", message)))
    assert packet.count(b"\n") == 1


def test_what_is_no_text_is_written_all_the_same() -> None:
    """A file name with bytes that are no UTF-8 does not stop the line."""
    (packet,) = written(lambda: write_to_stderr("a\udcffb \u20ac"))
    assert packet == "a?b \u20ac\n".encode()


def test_a_closed_stderr_is_survived() -> None:
    """Who closes stderr gets no log, and nothing else happens."""

    def work() -> bool:
        os.close(2)
        Logger(Level.DEBUG).write(LINE)
        Logger(Level.DEBUG, LogFormat.JSON).write(LINE)
        return True

    assert apart(work)


def test_a_reader_that_has_gone_is_survived() -> None:
    """A pipe that nobody reads any more costs the line and nothing else."""

    def work() -> bool:
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(reader)
        Logger(Level.DEBUG).write(LINE)
        return True

    assert apart(work)


def test_a_full_stderr_is_survived() -> None:
    """A pipe that is full and does not block costs the line and nothing else."""

    def work() -> bool:
        _, writer = os.pipe2(os.O_NONBLOCK)
        os.dup2(writer, 2)
        for _ in range(2000):
            write_to_stderr("x" * 100)
        return True

    assert apart(work)


def test_no_style_of_log_loads_the_json_module() -> None:
    """A MiB of PID 1's memory is not spent on writing objects."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from entrypoint.core.events import Level, Log\n"
        "from entrypoint.core.settings import LogFormat\n"
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


def test_a_json_line_that_is_too_long_for_one_write_is_still_an_object() -> None:
    """Whatever haproxy says, and however its bytes are escaped: the message is cut, and it is said."""
    for line in (b"\0" * 4096, b"x" * 10000, "é\U0001f600".encode() * 2000):
        logger = Logger(Level.INFO, LogFormat.JSON, "lb")
        record = json.loads(logger._json(Log(Level.INFO, "haproxy", line.decode(), {"generation": 1})))  # noqa: SLF001

        assert record["generation"] == 1
        assert record["cut"] is True
        assert line.decode().startswith(record["msg"])
        assert len(logger._json(Log(Level.INFO, "haproxy", line.decode(), {"x": "y" * 9000}))) < 4096  # noqa: SLF001
