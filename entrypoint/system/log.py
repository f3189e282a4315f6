"""The log: one event, one line, on stderr."""

import os
import select
import time

from entrypoint.core.events import Level, Log
from entrypoint.core.settings import LogFormat

_STDERR = 2
_NAMES = {Level.ERROR: "ERROR", Level.WARNING: "WARN ", Level.INFO: "INFO ", Level.DEBUG: "DEBUG"}


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

    def _json(self, line: Log) -> str:
        import json  # noqa: PLC0415  # 1 MiB that only those who ask for it pay

        now = time.time()
        record = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            "level": line.level.name.lower(),
            "event": line.event,
            "msg": line.message,
            "instance": self._name,
            **line.fields,
        }
        return json.dumps({key: value for key, value in record.items() if value is not None})


def text_line(name: str, message: str) -> str:
    """Write a line as tini does, which is what users of container inits know; one line, whatever the message."""
    return f"[{name} safe_reload ({os.getpid()})] {message}".replace("\n", "\\n")


def write_to_stderr(text: str) -> None:
    """Write a line, or lose it where stderr is closed, or is a pipe that nobody reads.

    A pipe that polls writable takes PIPE_BUF bytes (pipe(7)). It is not made non-blocking, because haproxy shares it.
    """
    poller = select.poll()
    poller.register(_STDERR, select.POLLOUT)
    try:
        if poller.poll(0):
            os.write(_STDERR, f"{text}\n".encode(errors="replace")[-select.PIPE_BUF :])
    except OSError:
        return
