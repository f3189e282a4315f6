"""The words of the control socket."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.core.state import Candidate, Current, Draining, Generation, State
from entrypoint.options.settings import read_settings
from entrypoint.pid1 import master_cli
from entrypoint.pid1.master_cli import LONGEST_COMMAND, LONGEST_LINE, CommandReader, Process, TooLongError

STATE = State(
    read_settings((), {})[0],
    generations=(
        Generation(1, Draining(), 11),
        Generation(2, Draining(), 12),
        Generation(3, Current(), 13),
        Generation(4, Candidate(), 14),
    ),
    last_number=4,
)


def read(*pieces: bytes) -> list[str]:
    """Return the commands in what arrives in these pieces."""
    reader = CommandReader()
    return [command for piece in pieces for command in reader.read(piece)]


@pytest.mark.parametrize(
    ("data", "commands"),
    [
        (b"", []),
        (b"\n", [""]),
        (b" ; ;\n", [""]),
        (b"reload", []),
        (b"reload\r\n", ["reload"]),
        (b"@1 set severity-output number;@1 show info;quit", ["@1 set severity-output number", "@1 show info"]),
        (b"@1 add map m k a\\;b; quit\n", [r"@1 add map m k a\;b", "quit"]),
        (b"a\\\\;b\n", ["a\\\\", "b"]),
        (b"a\\\nb;c\n", ["a\\", "b", "c"]),
        (b"a;\n\nb\n", ["a", "", "b"]),
        (b"a\xff\xc3\xb6\n", ["a\udcff\N{LATIN SMALL LETTER O WITH DIAERESIS}"]),
        (b"a;@1 add map m <<\n k;v \r\n\\\n\nb\n", ["a", "@1 add map m <<\n k;v \n\\\n", "b"]),
        (b"x <<E\n\nE \nE\ny;", ["x <<E\n\nE \nE", "y"]),
        (b"x <<E;y\n", ["x <<E", "y"]),
    ],
)
def test_a_client_sends_commands(data: bytes, commands: list[str]) -> None:
    """A semicolon is enough, unless it is escaped; the escape, and the payload, are the generation's business."""
    assert read(data) == commands


@given(
    st.lists(st.sampled_from([b"a", b";", b"\\", b"\n", b"\r", b" ", b" <<\n", b"<<E\n", b"E\n"])).map(b"".join),
    st.data(),
)
def test_it_does_not_matter_in_how_many_pieces_it_arrives(data: bytes, draw: st.DataObject) -> None:
    """The same commands in the same order."""
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)))))
    pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert read(*pieces) == read(data)


ENDLESS = {
    "a line": (b"a", LONGEST_LINE),
    "an escaped semicolon": (rb"\;", LONGEST_LINE),
    "backslashes": (b"\\", LONGEST_LINE),
    "spaces": (b" ", LONGEST_LINE),
    "a payload of empty lines": (b"\n", LONGEST_COMMAND),
    "a payload of lines of one letter": (b"a\n", LONGEST_COMMAND),
    "a payload of semicolons": (b";;;;;;;\n", LONGEST_COMMAND),
    "a payload of what almost ends it": (b"EE\n", LONGEST_COMMAND),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_cut_off(kind: str) -> None:
    """At the bound, or a line before it, whatever it is made of."""
    piece, most = ENDLESS[kind]
    reader = CommandReader()
    if "payload" in kind:
        assert list(reader.read(b"x <<E\n")) == []
    taken = 0

    def go_on() -> None:
        nonlocal taken
        while taken <= most:
            assert list(reader.read(piece)) == []
            taken += len(piece)

    with pytest.raises(TooLongError, match=str(most)):
        go_on()
    assert most - 10 <= taken <= most


def work(play: Callable[[], object]) -> int:
    """Count what the interpreter does: its instructions, and the letters in what it calls methods of."""
    done = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal done
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        done += event == "opcode"
        return trace

    def call(_: FrameType, event: str, function: Any) -> None:
        nonlocal done
        owner = getattr(function, "__self__", None)
        if event == "c_call" and isinstance(owner, str | bytes | bytearray):
            done += len(owner)

    traced, profiled = sys.gettrace(), sys.getprofile()
    sys.setprofile(call)
    sys.settrace(trace)
    try:
        play()
    finally:
        sys.settrace(traced)
        sys.setprofile(profiled)
    return done


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_command_costs_what_it_is_long(kind: str) -> None:
    """Twice as long, however it arrives, is twice the work: nothing is looked at again when more comes."""
    piece, _ = ENDLESS[kind]
    begin = [b"x <<E\n"] if "payload" in kind else []
    once = work(lambda: read(*begin, *[piece] * 500))
    assert work(lambda: read(*begin, *[piece] * 1000)) < 2.2 * once


@pytest.mark.parametrize("line", [b"a;", b";", b"a;\\;", b"\n"])
def test_many_commands_at_once_cost_what_they_are_long(line: bytes) -> None:
    """Also those that arrive in one piece."""
    once = work(lambda: read(line * 500))
    assert work(lambda: read(line * 1000)) < 2.2 * once


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("set severity-output number", ("severity-output", "set severity-output number")),
        ("set  severity-output  none", ("severity-output", "")),
        ("set severity-output loud", None),
        ("expert-mode on", ("expert-mode", "expert-mode on")),
        ("expert-mode off", ("expert-mode", "")),
        ("experimental-mode on", ("experimental-mode", "experimental-mode on")),
        ("expert-mode", None),
        ("@1 expert-mode on", None),
        ("show info", None),
    ],
)
def test_some_commands_hold_for_those_after_them(command: str, wanted: tuple[str, str] | None) -> None:
    """Each generation is told anew."""
    assert master_cli.remembered(command) == wanted


@given(st.binary())
def test_anything_can_be_read(data: bytes) -> None:
    """Nothing is lost but separators and spaces."""
    for command in read(data + b"\n"):
        assert command.partition("\n")[0] == command.partition("\n")[0].strip()
        master_cli.addressed(command, "")
        master_cli.payload_ends_with(command)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("@1 show info", ("1", "show info")),
        ("@!17 show sess", ("!17", "show sess")),
        ("@1  show info", ("1", "show info")),
        ("@1", ("1", "")),
        ("@@1 show info", ("1", "show info")),
        ("@@!17", ("!17", "")),
        ("@1 add map m <<\na  \n", ("1", "add map m <<\na  \n")),
        ("@@ show info", ("", "show info")),
        ("@master show proc", ("", "show proc")),
        ("@ show proc", ("", "show proc")),
        ("@0 show proc", ("", "show proc")),
        ("@", ("", "")),
        ("@master", ("", "")),
        ("show proc", ("default", "show proc")),
    ],
)
def test_a_prefix_names_the_target(command: str, wanted: tuple[str, str]) -> None:
    """A number, a pid, or safe_reload itself; without a prefix, the default."""
    assert master_cli.addressed(command, "default") == wanted


@pytest.mark.parametrize(
    ("command", "wanted"), [("add map m <<", ""), ("set ssl cert c <<EOF", "EOF"), ("<<", None), ("show info", None)]
)
def test_a_payload_is_announced(command: str, wanted: str | None) -> None:
    """By `<<` and the line that ends it, which is an empty one where none is named."""
    assert master_cli.payload_ends_with(command) == wanted


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("1", 3),
        ("2", 2),
        ("3", 1),
        ("4", 0),
        ("0", 0),
        ("!11", 1),
        ("!14", 0),
        ("!", 0),
        ("x", 0),
        ("²", 0),
        ("-1", 0),
        ("9" * 5000, 0),
    ],
)
def test_the_first_is_the_current_generation(target: str, number: int) -> None:
    """Then come the old ones, youngest first; a candidate is nobody yet."""
    found = master_cli.find(STATE, target)
    assert (found.number if found else 0) == number


def test_the_processes_are_shown_as_haproxys_master_shows_them() -> None:
    """Column by column as HAProxy 3.0 has it."""
    text = master_cli.show_proc(
        Process(1, "master", "1 [failed: 0]", 302, "3.0.11-1+deb13u5"),
        [Process(18, "worker", "0", 0, "3.0.11-1+deb13u5")],
        [],
    )

    assert text == (
        "#<PID>          <type>          <reloads>       <uptime>        <version>      \n"
        "1               master          1 [failed: 0]   0d00h05m02s     3.0.11-1+deb13u5\n"
        "# workers\n"
        "18              worker          0               0d00h00m00s     3.0.11-1+deb13u5\n"
        "# programs\n\n"
    )


@pytest.mark.parametrize("seconds", [0, 59, 86399, 86400 * 400])
def test_the_columns_are_where_programs_look_for_them(seconds: int) -> None:
    """haproxy-ingress cuts lines at every 16th letter and tells old workers by the line before them; others split."""
    text = master_cli.show_proc(
        Process(1, "master", "12 [failed: 3]", seconds, "0.1.0"),
        [Process(4194304, "worker", "0", seconds, "3.2.26-1")],
        [Process(18, "worker", "12", seconds, "3.0.11-1+deb13u5"), Process(7, "worker", "13", seconds, "-")],
    )
    found: dict[str, list[tuple[int, int]]] = {"master": [], "workers": [], "old workers": []}
    part = ""
    for line in text.splitlines():
        if line.startswith("# "):
            part = line[2:]
        elif line and not line.startswith("#"):
            pid, kind, reloads, uptime = (line[at : at + 16].strip() for at in (0, 16, 32, 48))
            assert line.split()[:2] == [pid, kind]
            assert uptime.endswith("s")
            assert kind == ("worker" if part else "master")
            found[part or kind].append((int(pid), int(reloads.split()[0])))

    assert found == {"master": [(1, 12)], "workers": [(4194304, 0)], "old workers": [(18, 12), (7, 13)]}
    assert text.endswith("\n\n")
