"""The words of the control socket: a subset of the CLI of haproxy's master (management guide, section 9.4)."""

from collections.abc import Sequence

from entrypoint.core.records import dataclass
from entrypoint.core.state import Candidate, Current, Generation, State

HELP = """\
The following commands are valid here:
  reload                  : start a new generation, wait until it serves or has failed
  status                  : everything there is to know, as one line of JSON
  show proc               : the processes, as haproxy's master shows them
  show startup-logs       : what haproxy said at the last start or reload, failed or not
  show version            : the version of safe_reload
  stop [now]              : stop gracefully, or at once
  upgrade                 : replace safe_reload itself, keeping every socket and process
  @<generation> <command> : pass a command to the current generation (@1), or to an old one (@2 ...)
  @!<pid> <command>       : pass a command to the generation with this pid
  set severity-output <how> : none, number or string, for what is passed on from now
  expert-mode [on|off]    : for what is passed on from now; likewise experimental-mode
  prompt [i|p|n]          : show a prompt, or no more
  help                    : this text
  quit                    : close the connection
"""


@dataclass(frozen=True, slots=True)
class Pass:
    """A command for a generation's own CLI."""

    target: str
    """`1`, `2`, ... as `show proc` lists them, or `!PID`."""
    command: str


def split(line: str) -> tuple[str, ...]:
    """Return the commands of a line; a backslash takes the meaning from a semicolon."""
    return tuple(command for piece in _pieces(line) if (command := piece.strip()))


def split_begun(line: str) -> tuple[tuple[str, ...], str]:
    """Return the commands that are whole in a line that is not, and the rest of it.

    A semicolon is enough for HAProxy up to 3.0, and its Go library ends `reload;quit` with nothing else.
    """
    *whole, rest = _pieces(line)
    return tuple(command for piece in whole if (command := piece.strip())), rest


def _pieces(line: str) -> list[str]:
    pieces = []
    begun = ""
    letters = iter(line)
    for letter in letters:
        if letter == "\\":
            begun += letter + next(letters, "")
        elif letter == ";":
            pieces.append(begun)
            begun = ""
        else:
            begun += letter
    return [*pieces, begun]


def payload_ends_with(command: str) -> str | None:
    """Return the line that ends a command's payload; None if it has none (management guide, section 9.3)."""
    last = command.rpartition(" ")[2]
    return last[2:] if last.startswith("<<") and last != command else None


def remembered(command: str) -> tuple[str, str] | None:
    """Return what a command sets for those that are passed on after it: its name, and what to say before each of them.

    HAProxy's master says it again to each worker, because every command is a connection of its own there (management
    guide, section 9.4).
    """
    match command.split():
        case ["set", "severity-output", "none" | "number" | "string" as how]:
            return "severity-output", "" if how == "none" else f"set severity-output {how}"
        case ["expert-mode" | "experimental-mode" as mode, "on" | "off" as how]:
            return mode, f"{mode} on" if how == "on" else ""
        case _:
            return None


def passed(command: str) -> Pass | None:
    """Tell whether a command is for a generation; HAProxy 3.1 has `@@` as well, which leads to the same one."""
    if not command.startswith("@"):
        return None
    target, _, rest = command[1:].removeprefix("@").partition(" ")
    return None if target in {"", "0", "master"} else Pass(target, rest.lstrip(" "))


def find(state: State, target: str) -> Generation | None:
    """Return the generation that is meant: `1` is the current one, `2` the youngest old one, `!PID` has that pid."""
    serving = [
        one for one in reversed(state.generations) if one.pid is not None and not isinstance(one.phase, Candidate)
    ]
    serving.sort(key=lambda one: not isinstance(one.phase, Current))
    if target.startswith("!"):
        return next((one for one in serving if str(one.pid) == target[1:]), None)
    return next((one for number, one in enumerate(serving, start=1) if str(number) == target), None)


@dataclass(frozen=True, slots=True)
class Process:
    """A line of `show proc`."""

    pid: int
    kind: str
    reloads: str
    seconds: float
    version: str


def show_proc(master: Process, current: Sequence[Process], old: Sequence[Process]) -> str:
    """Write `show proc` as haproxy's master does."""
    lines = [f"{'#<PID>':<15} {'<type>':<15} {'<reloads>':<15} {'<uptime>':<15} {'<version>':<15}", _process(master)]
    lines += ["# workers", *map(_process, current)]
    if old:
        lines += ["# old workers", *map(_process, old)]
    lines += ["# programs", "", ""]
    return "\n".join(lines)


def _process(process: Process) -> str:
    seconds = int(process.seconds)
    uptime = f"{seconds // 86400}d{seconds // 3600 % 24:02}h{seconds // 60 % 60:02}m{seconds % 60:02}s"
    return f"{process.pid:<15} {process.kind:<15} {process.reloads:<15} {uptime:<15} {process.version:<15}"
