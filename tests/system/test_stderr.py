"""The stderr of the whole program: what arrives there, whoever reads it, and whatever is said."""

import fcntl
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.children import children_of
from tests.program import PROGRAM
from tests.system.lives import status_fields
from tests.waiting import eventually

WORDS = [*PROGRAM]
WARNINGS = 9000
SAYS_WHY = f"""#!/bin/sh
i=0
while [ $i -lt {WARNINGS} ]; do
    echo "[WARNING]  ($$) : config : number $i of many, which nobody needs" >&2
    i=$((i+1))
done
echo "[ALERT]    ($$) : config : parsing [/etc/lb.cfg:3] : this is why" >&2
exit 1
"""


@pytest.fixture
def haproxy(tmp_path: Path) -> Path:
    """A haproxy that says much and why it cannot start."""
    program = tmp_path / "haproxy"
    program.write_text(SAYS_WHY)
    program.chmod(0o755)
    return program


def lines_of(written: bytes, style: str) -> list[str]:
    """Return the lines of a log, without the pids in them."""
    lines = written.decode().split("\n")
    assert lines.pop() == ""
    lines = [json.loads(line)["msg"] for line in lines] if style == "json" else lines
    return [re.sub(r"\(\d+\)|pid \d+", "(N)", line.partition(")] ")[2] or line) for line in lines]


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_reason_of_a_failed_start_arrives_at_a_late_reader(haproxy: Path, style: str) -> None:
    """For the lines that are lost there is a count in their place."""
    words = [*WORDS, "--log-format", style, "--watch", "off", "--runtime-dir", str(haproxy.parent)]
    words += [str(haproxy), "-f", "/dev/null"]
    # A file has room for all.
    with (haproxy.parent / "log").open("wb") as log:
        subprocess.run(words, stderr=log, check=False, timeout=60)
    expected = lines_of((haproxy.parent / "log").read_bytes(), style)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(words, stderr=writer) as process, open(reader, "rb") as end:
        os.close(writer)
        eventually(lambda: children_of(process.pid))
        eventually(lambda: not children_of(process.pid))
        found = lines_of(end.read(), style)
        status = process.wait()

    assert status == 1
    place = 0
    for line in found:
        missing = re.match(r"(\d+) lines? lost here", line)
        if missing:
            place += int(missing[1])
        else:
            assert line == expected[place]
            place += 1
    assert place == len(expected) > WARNINGS
    assert len(found) < WARNINGS
    assert any("this is why" in line for line in found)
    assert any("exited with status 1 before it was ready" in line for line in found)


def test_waiting_lines_are_written_as_soon_as_somebody_reads(haproxy: Path) -> None:
    """Also when nothing more is logged: the lines that waited, and how many are lost."""
    ready = haproxy.parent / "ready"
    haproxy.write_text(SAYS_WHY.replace("exit 1", f"touch {ready}; exec sleep 1000"))
    words = [*WORDS, "--watch", "off", str(haproxy), "-f", "/dev/null"]
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(words, stderr=writer) as process, open(reader, "rb") as end:
        try:
            os.close(writer)
            eventually(ready.exists)
            os.set_blocking(reader, False)
            seen = bytearray()

            def reads() -> bool:
                seen.extend(end.read(65536) or b"")
                return b"this is why" in seen and re.search(rb"\d+ lines lost here", seen) is not None

            eventually(reads)
        finally:
            process.send_signal(signal.SIGQUIT)
            os.set_blocking(reader, True)
            end.read()


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("says", ["yes >&2", "yes '' >&2", "tr '\\0' x </dev/zero >&2"])
def test_endless_output_of_haproxy_blocks_nobody(tmp_path: Path, says: str, style: str) -> None:
    """Lines, empty lines, or a line without an end: PID 1 answers, stays small, and ends when it is told to."""
    program = tmp_path / "haproxy"
    program.write_text(f"#!/bin/sh\nexec {says}\n")
    program.chmod(0o755)
    socket = ["--runtime-dir", str(tmp_path)]
    words = [*WORDS, *socket, "--log-format", style, "--watch", "off", str(program), "-f", "/dev/null"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            eventually((tmp_path / "haproxy.sock").exists)
            for _ in range(3):
                answer = subprocess.run([*WORDS, "status", *socket, "--json"], capture_output=True, check=False)
                assert json.loads(answer.stdout)["generations"][0]["state"] == "candidate"
            assert int(status_fields(process.pid)["VmRSS"].split()[0]) < 60_000
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=60)


NASTY = "no\n[ERROR safe_reload (1)] \x1b[31m\u202ename\x9b"


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--vips", f"{NASTY}:80:FD_A", "haproxy"],
        ["--vips", f"127.0.0.1:80:{NASTY}", "haproxy"],
        ["--watch", NASTY, "--pid-file", f"/nowhere/{NASTY}", "haproxy", "-f", "/dev/null"],
        ["--restart", NASTY, "haproxy"],
        ["--log-level", NASTY, "haproxy"],
        [f"--{NASTY}", "haproxy"],
        ["haproxy", "-sf", NASTY],
        ["--", f"/nowhere/{NASTY}"],
        [NASTY],
        ["status", "--name", NASTY],
        ["status", "--runtime-dir", f"/nowhere/{NASTY}"],
        ["reload", f"--{NASTY}"],
        ["exporter", "--listen", NASTY],
        ["exporter", "--listen", ":0", "--name", f"a/{NASTY}"],
        [f"/tmp/{NASTY}.pid", NASTY, "haproxy"],
        ["--", "true"],
    ],
    ids=lambda arguments: arguments[0].partition("\n")[0],
)  # fmt: skip
def test_arguments_in_errors_begin_no_line_and_move_no_cursor(arguments: list[str], style: str) -> None:
    """Names with line ends, escape sequences and bytes that are not UTF-8, wherever an error quotes them."""
    raw = [argument.encode() + b"\xff" * (NASTY in argument) for argument in arguments]
    variable = f"SAFE_RELOAD_{NASTY}".encode() + b"\xff"
    variables = {**os.environb, b"SAFE_RELOAD_LOG_FORMAT": style.encode(), variable: b"1", b"COLUMNS": b"9999"}
    run = subprocess.run([*WORDS, *raw], capture_output=True, env=variables, check=False, timeout=60)

    lines = run.stderr.decode().split("\n")
    assert lines.pop() == ""
    assert lines
    for line in lines:
        assert line.isprintable(), line
        if line.startswith("{"):
            assert json.loads(line)["msg"].encode()
        else:
            assert re.match(r"\[(FATAL|ERROR|WARN |INFO ) safe_reload \(\d+\)\] |usage: |Tini ", line), line
