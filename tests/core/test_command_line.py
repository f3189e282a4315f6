"""The operands: the contract's section 2, line by line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.options.command_line import (
    DEFAULT_CONFIGURATION,
    VERBS,
    Check,
    Command,
    Run,
    RunOnce,
    Serve,
    UsageError,
    is_question,
    read_check,
    read_command,
    verb_of,
    with_configuration,
    without_configurations,
)
from entrypoint.options.parser import split
from entrypoint.options.vips import VipError, parse_vips

PROGRAMS = frozenset({"haproxy", "/usr/sbin/haproxy", "/opt/haproxy", "sh", "/bin/sleep", "reload", "./run"})
"""What can be executed here."""

OF_2017 = "/var/run/ha1/pid 10.0.0.1:80:FD_HOST1,10.0.0.2:443:FD_HOST2 /usr/sbin/haproxy -f a.cfg -f b.cfg -f c.cfg"
VIPS_OF_2017 = "10.0.0.1:80:FD_HOST1,10.0.0.2:443:FD_HOST2"


def read(line: str, *, after_dashes: bool = False) -> Command:
    """Read operands that are written as in a shell, without quotes."""
    return read_command(line.split(), after_dashes=after_dashes, is_program=PROGRAMS.__contains__)


def refusal(line: str, *, after_dashes: bool = False) -> str:
    """Return the one line with which operands are refused."""
    with pytest.raises(UsageError) as caught:
        read(line, after_dashes=after_dashes)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ---- the original form ---------------------------------------------------------------------------------------------


def test_the_original_form_is_understood_as_in_2017() -> None:
    """PIDFILE VIPS HAPROXY HAPROXY-ARGS, exactly as it was documented."""
    assert read(OF_2017) == Serve(
        program="/usr/sbin/haproxy",
        arguments=("-f", "a.cfg", "-f", "b.cfg", "-f", "c.cfg"),
        configurations=("a.cfg", "b.cfg", "c.cfg"),
        folder=None,
        pid_file="/var/run/ha1/pid",
        vips=VIPS_OF_2017,
    )


def test_its_haproxy_may_have_any_name() -> None:
    """The third operand is haproxy whatever it is called."""
    command = read(f"/run/pid {VIPS_OF_2017} /opt/lb/haproxy-2.9 -f a.cfg")
    assert isinstance(command, Serve)
    assert command.program == "/opt/lb/haproxy-2.9"


def test_a_program_in_the_first_place_is_run() -> None:
    """The original form is recognised only when the first operand cannot be executed."""
    line = f"./run {VIPS_OF_2017} /usr/sbin/haproxy -f a.cfg"
    assert read(line) == Run(tuple(line.split()))


@pytest.mark.parametrize(
    "vips",
    ["x", "10.0.0.1:80", "10.0.0.1:80:1", "10.0.0.1:0:A", "10.0.0.1:80:A,", "10.0.0.1:80:A,10.0.0.2:80:A", "::1:80:A"],
)
def test_wrong_vips_are_an_error_about_vips(vips: str) -> None:
    """Anything wrong in VIPS is told as such and is never an attempt to run PIDFILE."""
    with pytest.raises(VipError) as caught:
        parse_vips(vips)
    message = refusal(f"/var/run/ha1/pid {vips} /usr/sbin/haproxy -f a.cfg")
    assert message.startswith(str(caught.value))
    assert "/var/run/ha1/pid is no program, so this is PIDFILE VIPS HAPROXY" in message


def test_a_missing_haproxy_is_refused() -> None:
    """PIDFILE and VIPS alone are answered with what is missing."""
    assert refusal(f"/run/pid {VIPS_OF_2017}").startswith("HAPROXY is missing after the VIPs: PIDFILE VIPS HAPROXY")


def test_wrong_vips_are_refused_before_a_missing_haproxy() -> None:
    """Of two errors the first one is named."""
    assert refusal("/run/pid 10.0.0.1:80").startswith("VIPS entry 1 '10.0.0.1:80': ")


def test_one_operand_that_is_no_program_is_run_all_the_same() -> None:
    """A misspelt program without arguments gets its 127, as from tini."""
    assert read("no-such-program") == Run(("no-such-program",))
    assert read("no-such-program -f a b") == Run(("no-such-program", "-f", "a", "b"))


@pytest.mark.parametrize("argument", ["-c", "-v", "-vv", "-h", "-cc"])
def test_the_original_form_must_serve(argument: str) -> None:
    """A check in the original form is refused, with the remedy."""
    message = refusal(f"/run/pid {VIPS_OF_2017} haproxy {argument} -f a.cfg")
    assert message == f"haproxy {argument} -f a.cfg does not serve; run it without PIDFILE and VIPS"


def test_the_original_form_keeps_its_warnings() -> None:
    """What is dropped is told in the original form, too."""
    command = read(f"/run/pid {VIPS_OF_2017} haproxy -D -f a.cfg")
    assert isinstance(command, Serve)
    assert len(command.warnings) == 1
    assert command.arguments == ("-f", "a.cfg")


# ---- the container form --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_dashes", [False, True])
def test_no_operand_is_the_images_configuration(after_dashes: bool) -> None:
    """No operand at all means haproxy with the official image's file."""
    assert DEFAULT_CONFIGURATION == "/usr/local/etc/haproxy/haproxy.cfg"
    assert read("", after_dashes=after_dashes) == Serve(
        "haproxy", ("-f", DEFAULT_CONFIGURATION), (DEFAULT_CONFIGURATION,), None
    )


@pytest.mark.parametrize("after_dashes", [False, True])
def test_a_leading_dash_is_haproxys(after_dashes: bool) -> None:
    """Operands that begin with a dash are arguments of haproxy, the official image's convention."""
    assert read("-f a.cfg -n 100", after_dashes=after_dashes) == Serve(
        "haproxy", ("-f", "a.cfg", "-n", "100"), ("a.cfg",), None
    )


@pytest.mark.parametrize("program", ["haproxy", "/usr/sbin/haproxy", "/opt/haproxy", "/not/there/haproxy"])
@pytest.mark.parametrize("after_dashes", [False, True])
def test_a_program_called_haproxy_serves(program: str, after_dashes: bool) -> None:
    """The name alone decides, wherever haproxy is."""
    assert read(f"{program} -f a.cfg", after_dashes=after_dashes) == Serve(program, ("-f", "a.cfg"), ("a.cfg",), None)


@pytest.mark.parametrize("line", ["sh -c true", "/bin/sleep 1", "sh -sf 1 -D -W -p x", "sh", "./run 10.0.0.1:80:A x"])
@pytest.mark.parametrize("after_dashes", [False, True])
def test_any_other_program_is_run_as_it_is(line: str, after_dashes: bool) -> None:
    """Generic mode leaves every word alone, those that haproxy may not be given included."""
    assert read(line, after_dashes=after_dashes) == Run(tuple(line.split()))


def test_two_dashes_force_the_container_form() -> None:
    """After `--` the first operand is a program, even if it looks like a PIDFILE or is a verb."""
    assert read(OF_2017, after_dashes=True) == Run(tuple(OF_2017.split()))
    assert read("/run/pid wrong haproxy", after_dashes=True) == Run(("/run/pid", "wrong", "haproxy"))
    for verb in VERBS:
        assert read(f"{verb} x", after_dashes=True) == Run((verb, "x"))


DOES_NOT_SERVE = (
    *("-c", "-cc", "-v", "-vv", "-vq", "-vqs", "-vqb", "-h", "--help", "--version"),
    *("-dMhelp", "-dM0x50,no-merge,help", "-dC", "-dC42", "-dCkey,line", "-dthelp", "-dt help"),
)
"""What each haproxy from 2.6 to 3.5 answers and ends, if it knows it (init_args in its src/haproxy.c)."""


@pytest.mark.parametrize("argument", DOES_NOT_SERVE)
@pytest.mark.parametrize("program", ["haproxy", "/usr/sbin/haproxy"])
def test_what_does_not_serve_is_run_once(program: str, argument: str) -> None:
    """A check, a version or a help text is run plainly, with all its words."""
    for rest in ("", " x", " -W -f a.cfg"):
        line = f"{program} -f a.cfg {argument}{rest}"
        assert read(line) == RunOnce(tuple(line.split()))
        assert read(argument + rest) == RunOnce(("haproxy", *(argument + rest).split()))


@pytest.mark.parametrize("argument", ["-y", "--no-such", "-", "-sx", "-U", "-Unit test", "-z 1"])
def test_an_option_that_nobody_knows_is_answered_by_haproxy(argument: str) -> None:
    """Without a configuration no haproxy serves; with one a newer haproxy may, so it is served."""
    assert read(f"haproxy {argument}") == RunOnce(("haproxy", *argument.split()))
    command = read(f"haproxy {argument} -f a.cfg")
    assert isinstance(command, Serve)
    assert command.arguments == (*argument.split(), "-f", "a.cfg")


SERVES = (
    *("-dM", "-dM0x50,uaf", "-dMhelpless", "-dt", "-dt h1:user", "-dth2", "-dKall", "-dKhelp", "-dL", "-dAx", "-dD"),
    *("-dW", "-dr", "-d", "-V", "-q", "-4", "-dS", "-dG", "-dR", "-dF", "-dI", "-dZ", "-dV", "-de", "-dT", "-dc"),
)


@pytest.mark.parametrize("argument", SERVES)
def test_what_serves_is_served(argument: str) -> None:
    """haproxy goes on after these, as long as there is a configuration."""
    command = read(f"haproxy {argument} -f a.cfg")
    assert isinstance(command, Serve)
    assert command.arguments == (*argument.split(), "-f", "a.cfg")
    assert refusal(f"haproxy {argument}").startswith("haproxy is given no configuration; add -f FILE")


def test_a_check_keeps_every_other_argument() -> None:
    """After -c every other argument is left as it is: nothing is started that could do harm."""
    assert read("haproxy -c -D -W -f a.cfg -x s") == RunOnce(("haproxy", "-c", "-D", "-W", "-f", "a.cfg", "-x", "s"))


@pytest.mark.parametrize("verb", ["reload", "status", "list", "stop", "metrics", "upgrade", "exporter"])
def test_a_verb_is_a_question_wherever_options_are(verb: str) -> None:
    """A verb in the first place is for a running instance, whatever options are before or after it."""
    assert verb in VERBS
    for line in (verb, f"{verb} --json x", f"--name lb {verb}", f"{verb} --help"):
        assert is_question(line.split())
        assert verb_of(split(line.split())) == verb


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-- {}",
        "--name lb -- {}",
        "sh {}",
        "-f {}",
        "./{}",
        "--help {}",
        "--no-such {}",
        "/run/pid x:1:y {}",
        "check",
    ],
)
@pytest.mark.parametrize("verb", ["reload", "status"])
def test_a_verb_elsewhere_is_not_a_verb(verb: str, line: str) -> None:
    """After `--`, behind a program, as a path: then it means what it means to tini. `check` asks no instance."""
    assert not is_question(line.format(verb).split())


# ---- check ---------------------------------------------------------------------------------------------------------


def check(line: str) -> tuple[Check, tuple[str, ...]]:
    """Read the operands of `check`."""
    return read_check(line.split(), is_program=PROGRAMS.__contains__)


def test_a_check_without_operands_is_of_the_images_configuration() -> None:
    """`safe_reload check` looks at what `safe_reload` would run."""
    assert check("") == (Check(("haproxy", "-c", "-f", DEFAULT_CONFIGURATION), (DEFAULT_CONFIGURATION,), None), ())


@pytest.mark.parametrize(
    ("line", "words", "files"),
    [
        ("-f a.cfg -f b", "haproxy -c -f a.cfg -f b", ("a.cfg", "b")),
        ("-V", f"haproxy -c -V -f {DEFAULT_CONFIGURATION}", (DEFAULT_CONFIGURATION,)),
        ("haproxy -c -f a.cfg", "haproxy -c -f a.cfg", ("a.cfg",)),
        ("/opt/haproxy -f a.cfg", "/opt/haproxy -c -f a.cfg", ("a.cfg",)),
        ("./run -- a.cfg", "./run -c -- a.cfg", ("a.cfg",)),
    ],
)
def test_a_check_takes_what_a_start_takes(line: str, words: str, files: tuple[str, ...]) -> None:
    """haproxy by name, by path or not at all, and its arguments."""
    command, warnings = check(line)
    assert command == Check(tuple(words.split()), files, None)
    assert not warnings


def test_a_check_drops_and_refuses_what_a_start_does() -> None:
    """-W is told and dropped, -sf is refused."""
    command, warnings = check("-W -f a.cfg")
    assert command.words == ("haproxy", "-c", "-f", "a.cfg")
    assert [warning.split()[1] for warning in warnings] == ["-W"]
    with pytest.raises(UsageError, match="haproxy's -sf must not be given"):
        check("-f a.cfg -sf 1")


@pytest.mark.parametrize(
    ("line", "remedy"), [("a.cfg", "safe_reload check -f a.cfg"), ("-vv", "run it without `check`: haproxy -vv")]
)
def test_a_check_without_anything_to_check_is_refused(line: str, remedy: str) -> None:
    """A file without -f, and arguments that check nothing, are answered with what would be right."""
    with pytest.raises(UsageError) as caught:
        check(line)
    assert str(caught.value).endswith(remedy)


# ---- haproxy's arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("-sf", "safe_reload itself stops old generations"),
        ("-st", "safe_reload itself stops old generations"),
        ("-x", "the VIPs are handed over without it"),
        ("-p", "safe_reload writes the pid file: use its --pid-file"),
    ],
)
@pytest.mark.parametrize("before", ["haproxy", "", f"/run/pid {VIPS_OF_2017} haproxy"])
def test_what_the_user_must_not_give_is_refused(before: str, argument: str, reason: str) -> None:
    """-sf, -st, -x and -p are each refused with one line that says why, in every form."""
    message = refusal(f"{before} -f a.cfg {argument} 1")
    assert message.startswith(f"haproxy's {argument} must not be given: {reason}")
    if before:
        assert refusal(f"{before} {argument} 1 -f a.cfg") == message


@pytest.mark.parametrize("argument", ["-D", "-W", "-Ws", "-db"])
def test_what_is_not_needed_is_dropped_with_a_warning(argument: str) -> None:
    """-D, -W, -Ws and -db are left out, and one line says so."""
    command = read(f"haproxy -n 5 {argument} -f a.cfg")
    assert isinstance(command, Serve)
    assert command.arguments == ("-n", "5", "-f", "a.cfg")
    (warning,) = command.warnings
    assert warning.startswith(f"haproxy's {argument} is dropped: ")


def test_each_dropped_argument_has_a_warning() -> None:
    """One line each, in order."""
    command = read("haproxy -W -db -f a.cfg -D")
    assert isinstance(command, Serve)
    assert [line.split()[1] for line in command.warnings] == ["-W", "-db", "-D"]


@pytest.mark.parametrize("option", ["-f", "-C", "-L", "-m", "-n", "-N", "-fx", "-f/b.cfg", "-Cx", "-Nx"])
@pytest.mark.parametrize("value", ["-D", "-sf", "-c", "-x", "--"])
def test_a_value_is_not_taken_for_an_argument(option: str, value: str) -> None:
    """The word after an option that takes a value is kept, whatever it looks like."""
    command = read(f"haproxy {option} {value} -f a.cfg")
    assert isinstance(command, Serve)
    assert command.arguments == (option, value, "-f", "a.cfg")
    assert command.warnings == ()
    assert command.configurations == ((value, "a.cfg") if option.startswith("-f") else ("a.cfg",))
    assert command.folder == (value if option.startswith("-C") else None)
    assert with_configuration(command.arguments, "z") == (*command.arguments, "-f", "z")
    rest = without_configurations(command.arguments)
    assert rest == (() if option.startswith("-f") else (option, value))


@pytest.mark.parametrize("line", ["-Ws -S /run/m.sock -f a.cfg", "-f a.cfg -S /run/m.sock,uid,99,level,admin -W"])
def test_the_masters_cli_is_not_haproxys_to_serve(line: str) -> None:
    """It is known where it would be, without its `bind` options; haproxy is not told of it."""
    command = read(f"haproxy {line}")
    assert isinstance(command, Serve)
    assert command.master_cli == "/run/m.sock"
    assert command.arguments == ("-f", "a.cfg")
    assert len(command.warnings) == 1


@pytest.mark.parametrize("option", ["-f", "-C", "-L", "-m", "-n", "-N", "-S"])
def test_a_missing_value_is_refused(option: str) -> None:
    """An option at the end without its value is named."""
    assert refusal(f"haproxy -f a.cfg {option}") == f"haproxy's {option} needs a value after it"


def test_every_configuration_is_known() -> None:
    """Files and folders are found after each -f and after `--`, and the folder they are relative to after -C."""
    command = read("haproxy -C /etc/lb -f a.cfg -V -f conf.d -- b.cfg -D")
    assert isinstance(command, Serve)
    assert command.configurations == ("a.cfg", "conf.d", "b.cfg", "-D")
    assert command.folder == "/etc/lb"
    assert command.arguments == ("-C", "/etc/lb", "-f", "a.cfg", "-V", "-f", "conf.d", "--", "b.cfg", "-D")
    assert with_configuration(command.arguments, "z") == (*command.arguments, "z")


@pytest.mark.parametrize("line", ["haproxy", "haproxy -V", "-V", "haproxy -n 5", "haproxy --"])
def test_a_missing_configuration_is_refused(line: str) -> None:
    """haproxy without a file is refused with an example."""
    assert refusal(line).startswith("haproxy is given no configuration; add -f FILE, such as -f /")


WORDS = st.one_of(
    st.sampled_from(
        ["haproxy", "sh", "/run/pid", VIPS_OF_2017, "x:1:y", "-f", "a.cfg", "-c", "-D", "-sf", "--", "-C", "reload"]
    ),
    st.text(max_size=4),
)


@given(st.lists(WORDS, max_size=7), st.booleans())
def test_no_operands_make_it_stumble(operands: list[str], after_dashes: bool) -> None:
    """Any words are a command or a usage error, and a haproxy that serves never gets what it must not get."""
    command: Command | None = None
    message = ""
    try:
        command = read_command(operands, after_dashes=after_dashes, is_program=PROGRAMS.__contains__)
    except UsageError as error:
        message = str(error)
    match command:
        case Serve():
            assert command.configurations
            assert set(command.configurations) <= set(command.arguments)
            assert not {"-sf", "-D"} & set(command.arguments) - set(command.configurations) - {command.folder}
            assert (command.pid_file is None) == (command.vips is None)
        case None:
            assert message
        case _:
            assert list(command.words)[-len(operands) :] == operands
