"""The log: one event, one line, on stderr."""

import os
import select
import time
from collections.abc import Iterable

from entrypoint.core.events import Level, Log
from entrypoint.core.json_text import json_text
from entrypoint.core.settings import LogFormat

_STDERR = 2
_NAMES = {Level.ERROR: "ERROR", Level.WARNING: "WARN ", Level.INFO: "INFO ", Level.DEBUG: "DEBUG"}
_MARKS = {"[ALERT]": Level.ERROR, "[WARNING]": Level.WARNING, "[DIAG]": Level.WARNING}
"""How haproxy begins a line that matters."""
_LEAST = 100
"""Letters of a message that always fit, whatever they are."""
_FRAME = 512
"""Bytes that are not of the message, more or less."""


class Logger:
    """Writes lines that matter enough."""

    def __init__(self, level: Level, style: LogFormat = LogFormat.TEXT, name: str | None = None) -> None:
        """Begin.

        Args:
            level: the least that is written.
            style: text, or one JSON object a line.
            name: this instance's, in each JSON object.

        """
        self._level = level
        self._style = style
        self._name = name

    def write(self, line: Log) -> None:
        """Write a line, in one system call, so that lines of several processes do not mix."""
        if line.level > self._level:
            return
        text = self._json(line) if self._style is LogFormat.JSON else text_line(_NAMES[line.level], line.message)
        write_to_stderr(text)

    def pass_on(self, lines: Iterable[bytes], **fields: object) -> None:
        """Pass on what a haproxy wrote to its stderr: unchanged, or as one object a line."""
        for line in lines:
            if self._style is LogFormat.JSON:
                text = line.decode(errors="replace")
                level = next((level for mark, level in _MARKS.items() if text.startswith(mark)), Level.INFO)
                write_to_stderr(self._json(Log(level, "haproxy", text, fields)))
            else:
                write_to_stderr(line)

    def _json(self, line: Log) -> str:
        now = time.time()
        record = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            "level": line.level.name.lower(),
            "event": line.event,
            "msg": line.message,
            "instance": self._name,
            **line.fields,
        }
        return _fitting({key: value for key, value in record.items() if value is not None})


def _fitting(record: dict[str, object]) -> str:
    """Write an object that is one write(2) to a pipe: of a longer one the end of the message is left out, first."""
    text = json_text(record)
    while len(text) >= select.PIPE_BUF:
        message = str(record["msg"])
        if len(message) > _LEAST:
            share = (select.PIPE_BUF - _FRAME) / len(text)
            record = {**record, "msg": message[: max(_LEAST, min(len(message) - 1, int(len(message) * share)))]}
        else:
            record = {key: record[key] for key in ("time", "level", "event", "msg")}
        text = json_text({**record, "cut": True})
    return text


def text_line(name: str, message: str) -> str:
    """Write a line as tini does, which is what users of container inits know; one line, whatever the message."""
    return f"[{name} safe_reload ({os.getpid()})] {message}".replace("\n", "\\n")


def write_to_stderr(text: str | bytes) -> None:
    """Write a line, or lose it where stderr is closed, or is a pipe that nobody reads.

    A pipe that polls writable takes PIPE_BUF bytes (pipe(7)). It is not made non-blocking, because haproxy shares it.
    """
    poller = select.poll()
    poller.register(_STDERR, select.POLLOUT)
    try:
        if poller.poll(0):
            line = text if isinstance(text, bytes) else text.encode(errors="replace")
            os.write(_STDERR, line[1 - select.PIPE_BUF :] + b"\n")
    except OSError:
        return
