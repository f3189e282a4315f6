"""The log: one event is one line on stderr, and PID 1 never waits for stderr.

Lines that stderr has no room for wait in a bounded buffer. When that is full, lines are counted instead, and the count
is written as soon as there is room. Errors and haproxy's alerts have a reserve of their own, because they say why a
start or a reload failed.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time

from entrypoint.core.effects import Log
from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Mapping, deque
from entrypoint.lean.json_text import json_text
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import one_line, valid
from entrypoint.lean.typing import Any
from entrypoint.options.settings import LogFormat

_STDERR = 2
_NOBODY_READS = (errno.EPIPE, errno.EBADF)
_NAMES = {Level.ERROR: "ERROR", Level.WARNING: "WARN ", Level.INFO: "INFO ", Level.DEBUG: "DEBUG"}
_ALERT = b"[ALERT]"
_MARKS = {_ALERT: Level.ERROR, b"[WARNING]": Level.WARNING, b"[DIAG]": Level.WARNING}
"""How haproxy begins a line that has a level."""
_WAITING = 262144
"""Bytes of ordinary lines that may wait for room."""
_RESERVED = 65536
"""Bytes of important lines that may wait, in addition."""
_ALERTS = 16384
"""Bytes of the reserve that one generation's alerts may use; the first alerts get it."""
_PATIENCE = 5.0
"""Seconds that a process about to exit waits for room for its last lines."""


class Stderr:
    """Our stderr, written without waiting, and without changing its mode for the processes that share it."""

    def __init__(self, *, own: bool) -> None:
        """Open it.

        With `own` it gets a new file description if possible, which is made non-blocking. Without, a write may have to
        wait while another process fills the same pipe.
        """
        self._descriptor = _STDERR
        self._socket: socket.socket | None = None
        self._polled = True
        """Poll for room before each write: a pipe that polls as writable takes PIPE_BUF bytes (pipe(7))."""
        with contextlib.suppress(OSError):
            kind = os.fstat(_STDERR).st_mode
            if own and stat.S_ISSOCK(kind):
                self._socket = socket.socket(fileno=os.dup(_STDERR))
            elif own and (stat.S_ISFIFO(kind) or os.isatty(_STDERR)):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._descriptor = os.open(f"/proc/self/fd/{_STDERR}", flags)
                self._polled = False

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._descriptor

    def write(self, data: bytes) -> int:
        """Return how many bytes were written; 0 if there is no room.

        Raises:
            OSError: stderr is closed, nobody reads it, or its disk is full.

        """
        try:
            if self._socket:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if self._polled and not self.wait(0):
                return 0
            return os.write(self._descriptor, data[: select.PIPE_BUF] if self._polled else data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close what `own` opened."""
        if self._socket:
            self._socket.close()
        if self._descriptor != _STDERR:
            os.close(self._descriptor)

    def wait(self, seconds: float) -> bool:
        """Wait at most so many seconds for room; True also if a write would fail at once."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        return bool(poller.poll(max(0.0, seconds) * 1000))


class Logger:
    """Writes the lines that the level lets through, and keeps those that have to wait."""

    def __init__(self, level: Level, style: LogFormat = LogFormat.TEXT, name: str | None = None) -> None:
        """Begin.

        Args:
            level: the least important level that is written.
            style: text, or one JSON object a line.
            name: the instance's name, part of each JSON object.

        """
        self._level = level
        self._style = style
        self._name = name
        self._stderr = Stderr(own=False)
        self._rest = b""
        """The unwritten end of a line that stderr took in part."""
        self._waiting: deque[tuple[int, bytes, bool]] = deque()
        """Lines, each with the number of lines lost just before it, and whether it is important."""
        self._sizes = [0, 0]
        """Bytes that wait: of ordinary lines, of important lines."""
        self._lost = 0
        """Lines lost after the last one that waits."""
        self._broken = False
        """Writing has failed (no reader, disk full); the next line is tried all the same."""
        self._alerting: object = None
        self._alerted = 0
        """Bytes of alerts that this generation has put into the reserve."""
        self._in_alert = False
        self.lines_lost = 0
        """Lines lost in all."""

    def open(self) -> None:
        """Stop waiting for stderr. This opens a descriptor, so call it after the VIPs have got their low numbers."""
        self._stderr = Stderr(own=True)

    def fileno(self) -> int:
        """Return the descriptor to wait for while `waits` is true."""
        return self._stderr.fileno()

    @property
    def waits(self) -> bool:
        """Whether a line waits for room."""
        return bool(self._rest or self._waiting or self._lost) and not self._broken

    # ---- lines -----------------------------------------------------------------------------------------------------

    def write(self, line: Log, *, important: bool = False) -> None:
        """Write a line of our own.

        Args:
            line: the event.
            important: the line may use the reserve, as errors always may.

        """
        if line.level <= self._level:
            said = self.line(line) + b"\n"
            self._put(said, said, important=important or line.level is Level.ERROR)

    def pass_on(self, said: bytes, generation: int) -> None:
        """Pass on whole lines of a haproxy's stderr: unchanged in text style, one JSON object a line in JSON style."""
        lines = self._wrapped(said, generation) if self._style is LogFormat.JSON else said
        self._put(lines, said, generation=generation)

    def line(self, line: Log) -> bytes:
        """Return a line as it is written, without the newline."""
        if self._style is LogFormat.TEXT:
            return text_line(_NAMES[line.level], line.message).encode()
        head = self._head(line.level, line.event)
        return _object({**head, "msg": line.message, "instance": self._name, **line.fields})

    def _head(self, level: Level, event: str) -> dict[str, object]:
        now = time.time()
        return {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            "level": level.name.lower(),
            "event": event,
        }

    def _wrapped(self, said: bytes, generation: int) -> bytes:
        rest = _object({"instance": self._name, "generation": generation})[1:] + b"\n"
        heads = {level: json_text(self._head(level, "haproxy"))[:-1] for level in Level}
        objects = []
        for line in said.split(b"\n")[:-1]:
            level = next((level for mark, level in _MARKS.items() if line.startswith(mark)), Level.INFO)
            objects.append(
                f'{heads[level]}, "msg": {json_text(line.decode(errors="backslashreplace"))}, '.encode() + rest
            )
        return b"".join(objects)

    # ---- lines that wait -------------------------------------------------------------------------------------------

    def _put(self, lines: bytes, said: bytes, *, important: bool = False, generation: object = None) -> None:
        """Write lines, or queue them, or count them as lost. `said`: the same lines as they came, to find alerts."""
        self.flush()
        begin = 0 if self.waits else self._write(lines)
        if begin == len(lines):
            return
        unwritten = lines[begin:].split(b"\n")[:-1]
        if self._broken:
            self._lose(len(unwritten))
            return
        for line, original in zip(unwritten, said.split(b"\n")[-1 - len(unwritten) : -1], strict=True):
            self._queue(line + b"\n", important or self._is_alert(original, generation))

    def flush(self) -> None:
        """Write as many of the waiting lines as there is room for."""
        self._broken = False
        self._finish()
        while self._waiting and not self._rest and not self._broken:
            lost, line, important = self._waiting[0]
            both = self._lines_lost(lost) + line
            taken = self._write(both)
            if taken < len(both):
                self._waiting[0] = (0 if taken else lost, line, important)
                break
            self._waiting.popleft()
            self._sizes[important] -= len(line)
        if not self._waiting and self._write(self._lines_lost(self._lost)):
            self._lost = 0
        if self._broken:
            self._lose(len(self._waiting))
            self._lost += sum(lost for lost, _, _ in self._waiting)
            self._waiting.clear()
            self._sizes = [0, 0]

    def close(self) -> None:
        """Write what waits, for some seconds at most, and close what `open` opened."""
        end = time.monotonic() + _PATIENCE
        self.flush()
        while self.waits and time.monotonic() < end:
            self._stderr.wait(end - time.monotonic())
            self.flush()
        self._stderr.close()
        self._stderr = Stderr(own=False)

    def _write(self, lines: bytes) -> int:
        """Write as many of these lines as there is room for; return the offset of the first unwritten one.

        Only whole lines, at most PIPE_BUF bytes at a time: a pipe does not mix these with other processes' (pipe(7)).
        """
        begin = 0
        while begin < len(lines) and not self._rest and not self._broken:
            end = lines.rfind(b"\n", begin, begin + select.PIPE_BUF) + 1 or lines.index(b"\n", begin) + 1
            taken = self._take(lines[begin:end])
            if not taken:
                break
            self._rest = lines[begin + taken : end]
            begin = end
            self._finish()
        return begin

    def _finish(self) -> None:
        while self._rest:
            taken = self._take(self._rest)
            if not taken:
                break
            self._rest = self._rest[taken:]
        if self._broken:
            self._lose(self._rest.count(b"\n"))
            self._rest = b""

    def _take(self, data: bytes) -> int:
        try:
            return self._stderr.write(data)
        except OSError:
            self._broken = True
            return 0

    def _lines_lost(self, count: int) -> bytes:
        """Return the line that says how many lines are missing at this place; nothing if none are."""
        if not count:
            return b""
        what = f"{count} line{'' if count == 1 else 's'} lost here: stderr was full, and nobody read it"
        return self.line(Log(Level.WARNING, "lines_lost", what, {"lines": count})) + b"\n"

    def _lose(self, count: int) -> None:
        self._lost += count
        self.lines_lost += count

    def _is_alert(self, line: bytes, generation: object) -> bool:
        """Tell whether a line is a haproxy's alert, or continues one, and that generation has not used up its share."""
        if generation is None:
            return False
        if generation != self._alerting:
            self._alerting, self._alerted, self._in_alert = generation, 0, False
        self._in_alert = line.startswith(_ALERT) or (self._in_alert and line[:1] in {b" ", b"\t"})
        self._alerted += self._in_alert and len(line)
        return self._in_alert and self._alerted <= _ALERTS

    def _queue(self, line: bytes, important: bool) -> None:
        """Queue a line if there is room. Important lines push out the oldest important ones."""
        if important and self._sizes[True] + len(line) > _RESERVED:
            self._drop_oldest()
        if not important and self._sizes[False] >= _WAITING:
            self._lose(1)
            return
        self._waiting.append((self._lost, line, important))
        self._sizes[important] += len(line)
        self._lost = 0

    def _drop_oldest(self) -> None:
        """Lose the oldest quarter of the important lines."""
        waiting, self._waiting = self._waiting, deque()
        lost, end = self._lost, self._sizes[True] - _RESERVED * 3 // 4
        self._lost = 0
        for before, line, important in waiting:
            self._lost += before
            if important and end > 0:
                end -= len(line)
                self._sizes[True] -= len(line)
                self._lose(1)
            else:
                self._waiting.append((self._lost, line, important))
                self._lost = 0
        self._lost += lost

    # ---- upgrade ---------------------------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return what waits and what was lost, as plain values for the next program."""
        unwritten = [self._rest, *(self._lines_lost(lost) + line for lost, line, _ in self._waiting)]
        return {"unwritten": b"".join(unwritten), "lost": self._lost, "lines_lost": self.lines_lost}

    def restore(self, left: Mapping[str, Any]) -> None:
        """Take over what `serialize` of the previous program returned."""
        self._rest, self._lost, self.lines_lost = left["unwritten"], left["lost"], left["lines_lost"]


def _object(record: Mapping[str, object]) -> bytes:
    return json_text({key: value for key, value in record.items() if value is not None}).encode()


def text_line(name: str, message: str) -> str:
    """Return a line in tini's format, which users of container inits know; one line whatever the message."""
    return f"[{name} safe_reload ({os.getpid()})] {one_line(message)}"


def write_to_stderr(line: str | bytes) -> None:
    """Write the last line of a process: wait some seconds for room, then give up."""
    data = (line if isinstance(line, bytes) else valid(line).encode()) + b"\n"
    stderr, end = Stderr(own=False), time.monotonic() + _PATIENCE
    with contextlib.suppress(OSError):
        while data and stderr.wait(end - time.monotonic()):
            data = data[stderr.write(data) :]


def write(descriptor: int, text: str) -> None:
    """Write a text that was asked for. A reader that has gone, or a closed descriptor, is no error.

    Raises:
        OSError: it cannot be written: the disk is full.

    """
    data = f"{valid(text)}\n".encode()
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        if error.errno not in _NOBODY_READS:
            raise
