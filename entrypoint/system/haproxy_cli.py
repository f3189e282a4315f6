"""The private connection to a generation's CLI.

haproxy listens on one end of a socket pair (`stats socket "sockpair@N"`) and accepts each socket that is sent through
it. There is no path and no abstract name: nobody else can reach this CLI, which may do anything, and nothing is left
behind.

haproxy is not trusted. It inherits our end of the pair, too, and can make it blocking at any time, because the mode
belongs to the shared file description (fcntl(2)). So each call says MSG_DONTWAIT (send(2)). And the length of an answer
is limited.
"""

from __future__ import annotations

import os
import sys
import time

from entrypoint.lean import contextlib, socket
from entrypoint.lean.collections import Callable, Iterable, Iterator, deque

MOST_ANSWERED = 16 << 20
"""Bytes of an answer. `show fd` has 240 for each listener (measured with 2.6 to 3.5): 1 MB for 4,096 VIPs. This is
enough for 4,096 with 16 shards each, or for tens of thousands of connections that a candidate has before it answers."""
_PIECE = 65536
_MOST_PIECES = 16
"""Reads of an answer in one turn of the event loop."""
_SESSIONS_AT_THE_START = 32
"""Our sessions count towards the user's `stats maxconn`, because haproxy counts all CLI sessions together
(`global.cli_fe`). This limit holds until it is raised (`runtime_api.ROOM_FOR_SESSIONS`). It is enough for ours and for
clients that wait on the user's `stats socket`. haproxy reserves as many descriptors."""
_LONGEST_LINE = 900
"""From 3.2 on haproxy refuses a line longer than tune.bufsize ("The command line is too big"). This is below 1,024, the
smallest tune.bufsize with which 3.2 starts unless another of its limits is lowered, too."""

_LONGEST_SCRIPT = 32768
"""Bytes. The kernel takes 208 KiB of a message for a socket pair (net.core.wmem_default), and half of them count."""
_INTERACTIVE = "prompt\n{}quit\n"


class CliChannel:
    """Our end of one generation's connection, and until the generation is spawned haproxy's end as well."""

    def __init__(self, descriptor: int | None = None, *, fragment: str = "") -> None:
        """Make the pair, and the configuration that tells haproxy to listen on it.

        Args:
            descriptor: our end, for a generation that the previous program started; None for a new pair.
            fragment: more lines for the `global` section.

        Raises:
            OSError: no descriptors are left, or this one is not open.

        """
        if descriptor is not None:
            self._ours = socket.socket(fileno=descriptor)
            self._ours.set_inheritable(False)
            return
        with contextlib.ExitStack() as on_failure:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            on_failure.callback(self._ours.close)
            on_failure.callback(self._theirs.close)
            self._ours.setblocking(False)
            # On one thread: haproxy binds a listener in each thread group, and dies if it binds a socket pair twice.
            text = (
                "global\n"
                f'  stats socket "sockpair@{self._theirs.fileno()}" level admin expose-fd listeners thread 1/1\n'
                f"  stats maxconn {_SESSIONS_AT_THE_START}\n"
                f"{fragment}"
            )
            self._fragment = os.memfd_create("safe_reload", os.MFD_CLOEXEC)
            on_failure.callback(os.close, self._fragment)
            with open(self._fragment, "wb", closefd=False) as file:
                file.write(text.encode())
            on_failure.pop_all()

    def fileno(self) -> int:
        """Return the descriptor of our end."""
        return self._ours.fileno()

    @property
    def inherited(self) -> tuple[int, int, int]:
        """The descriptors that haproxy needs.

        Our end is only there to stay open: a haproxy that outlives us would see a hang-up that never ends, and use all
        of a CPU (seen with 2.6).
        """
        return self._theirs.fileno(), self._fragment, self._ours.fileno()

    @property
    def configuration(self) -> str:
        """A file for haproxy to read after the user's, so that our `stats maxconn` is the last one."""
        return f"/dev/fd/{self._fragment}"

    def spawned(self) -> None:
        """Close haproxy's end, so that our end shows a hang-up when haproxy dies."""
        self._theirs.close()
        os.close(self._fragment)

    def session(self) -> socket.socket:
        """Return a new connection to haproxy's CLI. If nobody listens any more, it reads as closed.

        Raises:
            OSError: no descriptors are left.

        """
        return _session(self._ours)

    def ask(
        self,
        commands: Iterable[str],
        first: Iterable[str] = (),
        follow_up: FollowUp | None = None,
    ) -> Conversation:
        """Send commands to haproxy, on connections of their own; for the arguments see `Conversation`."""
        return Conversation(self._ours, commands, first, follow_up)

    def close(self) -> None:
        """Close our end."""
        self._ours.close()

    def copy(self) -> int:
        """Return a new descriptor of our end.

        Raises:
            OSError: no descriptors are left.

        """
        return os.dup(self._ours.fileno())

    def call(self, command: str, payload: bytes = b"", *, until: float) -> bytes:
        """Send a command, wait, and return the answer; for a process that has nothing else to do.

        Args:
            command: one line.
            payload: lines for the command, none of which may be empty.
            until: the time on the monotonic clock at which to give up.

        Raises:
            OSError: no descriptors are left, there was no answer in time, or it is longer than MOST_ANSWERED.

        """
        text = b"%b <<\n%b\n\n" % (command.encode("utf-8", "surrogateescape"), payload.rstrip(b"\n"))
        if not payload:
            text = command.encode("utf-8", "surrogateescape") + b"\n"
        answer = bytearray()
        with _session(self._ours) as session:
            session.settimeout(max(until - time.monotonic(), 0.001))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A command that is too long is answered before its end.
                session.sendall(text)
            with contextlib.suppress(ConnectionResetError):
                while data := session.recv(_PIECE):
                    answer += data
                    if len(answer) > MOST_ANSWERED:
                        raise OSError(f"haproxy answers with more than {MOST_ANSWERED} bytes")
                    session.settimeout(max(until - time.monotonic(), 0.001))
        if not answer:
            raise OSError("haproxy does not answer")
        return bytes(answer)


FollowUp = Callable[[str], Iterable[str]]
"""Returns the commands that follow from an answer."""


class Conversation:
    """Some commands, and haproxy's answers. Each line of commands has a connection of its own.

    A non-interactive CLI answers one line and closes the connection (HAProxy's management guide, section 9.3).
    """

    def __init__(
        self,
        channel: socket.socket,
        commands: Iterable[str],
        first: Iterable[str] = (),
        follow_up: FollowUp | None = None,
    ) -> None:
        """Send what can be sent at once.

        Args:
            channel: our end of the pair.
            commands: to be answered.
            first: commands that haproxy carries out before these; their answers are dropped. A haproxy that starts
                carries them out in the first turn of its event loop, when it accepts its first clients as well.
            follow_up: gets the answer to `commands`; the answers to what it returns are dropped.

        Raises:
            OSError: no descriptors are left.

        """
        self._channel = channel
        self._lines = _lines(commands)
        self._follow_up = follow_up
        self._scripts: deque[socket.socket] = deque()
        """Connections with the `first` commands."""
        self._session: socket.socket | None = None
        self._answer = bytearray()
        self._drops = False
        """All `commands` are answered, and no other answer counts."""
        self.failure = ""
        """One line; empty unless haproxy answered more than MOST_ANSWERED."""
        try:
            for script in _scripts(first):
                self._scripts.append(_session(channel))
                with contextlib.suppress(OSError):
                    self._scripts[-1].send(script.encode(), socket.MSG_NOSIGNAL)
            self.proceed()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to wait for. Each `proceed` changes it."""
        return self._session.fileno() if self._session else -1

    def proceed(self) -> bool:
        """Send the next line; False if there is none.

        Raises:
            OSError: no descriptors are left.

        """
        self._end_session()
        line = next(self._lines, None)
        if line is None:
            self._drops = True
            if self._scripts:
                # What follows must not be carried out before the end of these.
                self._session = self._scripts.popleft()
                return True
            if self._follow_up:
                self._lines, self._follow_up = _lines(self._follow_up(self.answer)), None
                line = next(self._lines, None)
        if line is None:
            return False
        self._session = _session(self._channel)
        with contextlib.suppress(OSError):
            self._session.send(line.encode(), socket.MSG_NOSIGNAL)
        return True

    def read(self) -> bool:
        """Read what has arrived; True if this line has been answered, or never will be."""
        assert self._session
        try:
            for _ in range(_MOST_PIECES):
                data = self._session.recv(_PIECE)
                if not data:
                    return True
                if self._drops:
                    continue
                self._answer += data
                if len(self._answer) > MOST_ANSWERED:
                    self.failure = f"answers with more than {MOST_ANSWERED} bytes"
                    return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    @property
    def answer(self) -> str:
        """All answers together; empty if haproxy has gone."""
        return self._answer.decode(errors="replace")

    def _end_session(self) -> None:
        if self._session:
            self._session.close()
            self._session = None

    def close(self) -> None:
        """Close all connections."""
        self._end_session()
        while self._scripts:
            self._scripts.pop().close()


def _session(channel: socket.socket) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    with theirs, contextlib.suppress(OSError):
        # Not socket.send_fds, which in Python 3.11 forgets its flags.
        rights = theirs.fileno().to_bytes(4, sys.byteorder)
        how = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], how)
    return ours


def _scripts(commands: Iterable[str]) -> Iterator[str]:
    """Yield the commands for interactive sessions, which take many lines. Each script fits into a socket's buffer."""
    script = ""
    for command in commands:
        if len(script) + len(command) >= _LONGEST_SCRIPT:
            yield _INTERACTIVE.format(script)
            script = ""
        script += f"{command}\n"
    if script:
        yield _INTERACTIVE.format(script)


def _lines(commands: Iterable[str]) -> Iterator[str]:
    line = ""
    for command in commands:
        if line and len(line) + len(command) >= _LONGEST_LINE:
            yield line + "\n"
            line = ""
        line += f";{command}" if line else command
    if line:
        yield line + "\n"
