"""The commands of the control socket: a subset of the CLI of haproxy's master (management guide, section 9.4)."""

from __future__ import annotations

from entrypoint.core.state import Candidate, Current, Generation, State
from entrypoint.lean.collections import Iterator, Sequence
from entrypoint.lean.record import record
from entrypoint.lean.typing import Any

HELP = """\
The following commands are valid here:
  reload [forget]         : start a new generation, wait until it serves or has failed; forget server states
  status                  : everything there is to know, as one line of JSON
  show proc               : the processes, as haproxy's master shows them
  show startup-logs       : what haproxy said at the last start or reload, failed or not
  show version            : the version of safe_reload
  stop [now]              : stop gracefully, or at once
  upgrade                 : replace safe_reload itself, keeping every socket and process
  @<generation> <command> : pass a command to the current generation (@1), or to an old one (@2 ...)
  @!<pid> <command>       : pass a command to the generation with this pid
  borrow sessions         : get a session with each CLI that is about to close, as a descriptor (SCM_RIGHTS)
  set severity-output <how> : none, number or string, for the commands passed on from now on
  expert-mode [on|off]    : for the commands passed on from now on; likewise experimental-mode
  prompt [i|p|n]          : show a prompt, or stop showing it
  help                    : this text
  quit                    : close the connection
"""

DRAINS = "generation {} (pid {}) drains, and haproxy has closed its CLI: status says how many connections it has\n\n"
NOBODY = "Can't find the target PID matching the prefix '@{}'\n\n"
REPLACED = "Success=0\n--\nsafe_reload has been replaced meanwhile: ask again\n\n"

LONGEST_LINE = 16384
"""Bytes; as long as a line of haproxy's own CLI may be (tune.bufsize)."""
LONGEST_COMMAND = 65536
"""Bytes, including the payload and newlines."""


class TooLongError(ValueError):
    """A command is too long; the text is one line for the client."""


class CommandReader:
    """Splits a client's byte stream into commands.

    A line holds commands separated by semicolons; a backslash escapes a semicolon. A semicolon alone completes a
    command, as in HAProxy up to 3.0: its Go library sends `reload;quit` without a newline. The last command of a line
    may have a payload in the lines after it (management guide, section 9.3).

    The cost is linear in the length of a command, and at most `LONGEST_COMMAND` bytes of an incomplete one are kept.
    """

    def __init__(self) -> None:
        """Begin before the first command."""
        self._begun = bytearray()
        """The beginning of a command, or of a line of its payload."""
        self._length = 0
        """Length of the current line so far, in bytes."""
        self._escaped = False
        """The next byte follows a backslash."""
        self._any = False
        """The current line already has a command."""
        self._payload: bytearray | None = None
        """A command whose payload is incomplete, with the lines of that so far."""
        self._pattern = b""
        """The line that ends the payload."""

    def serialize(self) -> list[Any]:
        """Return the incomplete command as plain values."""
        payload = None if self._payload is None else bytes(self._payload)
        return [bytes(self._begun), self._length, self._escaped, self._any, payload, self._pattern]

    @classmethod
    def restore(cls, saved: Sequence[Any]) -> CommandReader:
        """Restore a reader with an incomplete command."""
        reader = cls()
        begun, reader._length, reader._escaped, reader._any, payload, reader._pattern = saved
        reader._begun = bytearray(begun)
        reader._payload = None if payload is None else bytearray(payload)
        return reader

    def read(self, data: bytes) -> Iterator[str]:
        """Yield all complete commands, and an empty one for each line without any.

        Args:
            data: the bytes received.

        Raises:
            TooLongError: a line, or a command with its payload, is too long; nothing more can be read.

        """
        *lines, rest = data.split(b"\n")
        for line in lines:
            yield from self._take(line)
            yield from self._end_line()
        yield from self._take(rest)

    def _take(self, piece: bytes) -> Iterator[str]:
        self._length += len(piece)
        if self._length > LONGEST_LINE:
            raise TooLongError(f"a line of a command may have {LONGEST_LINE} bytes")
        if self._payload is not None:
            if len(self._payload) + self._length > LONGEST_COMMAND:
                raise TooLongError(f"a command with its payload may have {LONGEST_COMMAND} bytes")
            self._begun += piece
            return
        *whole, rest = piece.split(b";")
        for begun in whole:
            self._add(begun)
            if self._escaped:
                self._begun += b";"
                self._escaped = False
            else:
                yield from self._command()
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        """Add a piece without semicolons; every second backslash at its end is escaped itself."""
        self._begun += piece
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        before = self._escaped and backslashes == len(piece)
        self._escaped = (backslashes + before) % 2 == 1

    def _command(self) -> Iterator[str]:
        command = self._begun.decode(errors="surrogateescape").strip()
        self._begun.clear()
        if command:
            self._any = True
            yield command

    def _end_line(self) -> Iterator[str]:
        if self._begun.endswith(b"\r"):
            del self._begun[-1:]
        if self._payload is not None:
            self._payload += b"\n" + self._begun
            whole = self._begun == self._pattern
            self._begun.clear()
            if whole:
                yield self._payload.decode(errors="surrogateescape")
                self._payload = None
        else:
            for command in self._command():
                pattern = payload_ends_with(command)
                if pattern is None:
                    yield command
                else:
                    self._payload = bytearray(command.encode(errors="surrogateescape"))
                    self._pattern = pattern.encode(errors="surrogateescape")
            if not self._any:
                yield ""
        self._length = 0
        self._escaped = self._any = False


def payload_ends_with(command: str) -> str | None:
    """Return the line that ends a command's payload; None if it has none (management guide, section 9.3)."""
    last = command.rpartition(" ")[2]
    return last[2:] if last.startswith("<<") and last != command else None


def remembered(command: str) -> tuple[str, str] | None:
    """Return the name of a setting, and the command that is sent before each forwarded command.

    haproxy's master repeats settings too, because it forwards each command over a new connection (management guide,
    section 9.4).
    """
    match command.split():
        case ["set", "severity-output", "none" | "number" | "string" as how]:
            return "severity-output", "" if how == "none" else f"set severity-output {how}"
        case ["expert-mode" | "experimental-mode" as mode, "on" | "off" as how]:
            return mode, f"{mode} on" if how == "on" else ""
        case _:
            return None


def addressed(command: str, target: str) -> tuple[str, str]:
    """Return a command's target, empty for safe_reload, and the command, empty if there is only a prefix.

    HAProxy 3.1 has `@@` as well as `@`, with the same target.

    Args:
        command: as it was sent.
        target: of commands without a prefix.

    """
    if not command.startswith("@"):
        return target, command
    prefix, _, rest = command[1:].removeprefix("@").partition(" ")
    return ("" if prefix in {"0", "master"} else prefix), rest.lstrip(" ")


def find(state: State, target: str) -> Generation | None:
    """Return the target: `1` is the current generation, `2` the youngest old one, `!PID` the one with that pid."""
    serving = [
        one for one in reversed(state.generations) if one.pid is not None and not isinstance(one.phase, Candidate)
    ]
    serving.sort(key=lambda one: not isinstance(one.phase, Current))
    if target.startswith("!"):
        return next((one for one in serving if str(one.pid) == target[1:]), None)
    return next((one for number, one in enumerate(serving, start=1) if str(number) == target), None)


@record(frozen=True)
class Process:
    """A line of `show proc`."""

    pid: int
    kind: str
    reloads: str
    seconds: float
    version: str


def show_proc(master: Process, current: Sequence[Process], old: Sequence[Process]) -> str:
    """Return the answer to `show proc` in the format of haproxy's master."""
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
