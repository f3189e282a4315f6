"""The words of the control socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.core import master_cli
from entrypoint.core.master_cli import Pass, Process
from entrypoint.core.settings import read_settings
from entrypoint.core.state import Candidate, Current, Draining, Generation, State

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


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("", ()),
        (" ; ;", ()),
        ("reload", ("reload",)),
        ("@1 set severity-output number;@1 show info;quit", ("@1 set severity-output number", "@1 show info", "quit")),
        (r"@1 add map m k a\;b; quit", (r"@1 add map m k a\;b", "quit")),
        ("a\\", ("a\\",)),
    ],
)
def test_a_line_is_commands(line: str, commands: tuple[str, ...]) -> None:
    """A semicolon separates, unless it is escaped; the escape is the generation's business."""
    assert master_cli.split(line) == commands


@pytest.mark.parametrize(
    ("line", "commands", "rest"),
    [
        ("", (), ""),
        ("reload", (), "reload"),
        ("reload;quit", ("reload",), "quit"),
        ("a ; b;;c d", ("a", "b"), "c d"),
        (r"@1 add map m k a\;b", (), r"@1 add map m k a\;b"),
        ("a;b\\", ("a",), "b\\"),
    ],
)
def test_a_semicolon_is_enough(line: str, commands: tuple[str, ...], rest: str) -> None:
    """What comes before it is whole, though the line is not."""
    assert master_cli.split_begun(line) == (commands, rest)


@given(st.text(), st.text())
def test_it_does_not_matter_in_how_many_pieces_a_line_comes(one: str, other: str) -> None:
    """The same commands in the same order."""
    begun, rest = master_cli.split_begun(one)

    assert begun + master_cli.split(rest + other) == master_cli.split(one + other)


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


@given(st.text())
def test_any_line_can_be_split(line: str) -> None:
    """Nothing is lost but separators and spaces."""
    commands = master_cli.split(line)

    assert all(command == command.strip() != "" for command in commands)
    for command in commands:
        master_cli.passed(command)
        master_cli.payload_ends_with(command)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("@1 show info", Pass("1", "show info")),
        ("@!17 show sess", Pass("!17", "show sess")),
        ("@1", Pass("1", "")),
        ("@@1 show info", Pass("1", "show info")),
        ("@@!17", Pass("!17", "")),
        ("@@ show info", None),
        ("@master show proc", None),
        ("@ show proc", None),
        ("@0 show proc", None),
        ("show proc", None),
    ],
)
def test_a_prefix_says_who_is_meant(command: str, wanted: Pass | None) -> None:
    """A number, a pid, or us."""
    assert master_cli.passed(command) == wanted


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
