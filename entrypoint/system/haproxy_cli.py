"""The private line to a generation's CLI.

haproxy listens on one end of a socket pair (`stats socket "sockpair@N"`) and accepts each socket that is sent through
it. No path, no abstract name: nobody but us can reach a CLI that may do anything, and none is left behind.

haproxy is not trusted. It inherits our end of the pair as well, so it can make that one blocking at any time: the mode
is the open file description's, which it shares (fcntl(2)). So nothing here relies on it: MSG_DONTWAIT does the same for
one call (send(2)). And of what it answers only so much is taken.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Iterable, Iterator

MOST_ANSWERED = 16 << 20
"""Bytes of an answer. `show fd` has 240 for each listener (measured with 2.6 to 3.5): 1 MB for 4,096 VIPs, and this is
enough for 4,096 with 16 shards each, or for tens of thousands of connections that a candidate has before it answers."""
_PIECE = 65536
_MOST_PIECES = 16
"""Pieces of an answer that are taken in a turn of the loop."""
_SESSIONS_AT_THE_START = 32
"""The user's `stats maxconn` and ours are one limit, because haproxy counts all CLI sessions together
(`global.cli_fe`): this one holds until it is raised (`runtime_api.ROOM_FOR_SESSIONS`), and is enough for ours and for
those that clients of the user's `stats socket` have waiting. haproxy sets as many descriptors aside."""
_LONGEST_LINE = 900
"""Below the smallest tune.bufsize with which HAProxy 3.2 starts unless another of its limits is lowered as well, 1,024:
from 3.2 on a longer line is refused whole ("The command line is too big")."""


class CliChannel:
    """Our end of one generation's line, and until it has been spawned haproxy's end as well."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Make the pair and the configuration that tells haproxy of it.

        Args:
            descriptor: our end of the line to a generation that our last life has started; None for a new line.

        Raises:
            OSError: there are no descriptors left, or this one is not there.

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
            # On one thread: haproxy binds a listener in each thread group, and dies where a socket pair's is twice.
            lines = (
                "global",
                f'  stats socket "sockpair@{self._theirs.fileno()}" level admin expose-fd listeners thread 1/1',
                f"  stats maxconn {_SESSIONS_AT_THE_START}",
            )
            self._fragment = os.memfd_create("safe_reload", os.MFD_CLOEXEC)
            on_failure.callback(os.close, self._fragment)
            with open(self._fragment, "wb", closefd=False) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
            on_failure.pop_all()

    def fileno(self) -> int:
        """Return the descriptor of our end."""
        return self._ours.fileno()

    @property
    def inherited(self) -> tuple[int, int, int]:
        """The descriptors that haproxy needs.

        Our end is among them, for nothing but to be open: a haproxy that outlives us would be told of the hang-up for
        ever, and use all of a CPU for it (seen with 2.6).
        """
        return self._theirs.fileno(), self._fragment, self._ours.fileno()

    @property
    def configuration(self) -> str:
        """The file to give haproxy after the user's, so that no `stats maxconn` is after ours."""
        return f"/dev/fd/{self._fragment}"

    def spawned(self) -> None:
        """Let go of haproxy's end, so that its death closes the line."""
        self._theirs.close()
        os.close(self._fragment)

    def session(self) -> socket.socket:
        """Return a new connection to haproxy's CLI.

        Raises:
            OSError: there are no descriptors left; that nobody listens shows as a closed connection.

        """
        return _session(self._ours)

    def ask(self, commands: Iterable[str]) -> "Conversation":
        """Begin to put commands to haproxy."""
        return Conversation(self._ours, commands)

    def close(self) -> None:
        """Let go of our end."""
        self._ours.close()


class Conversation:
    """Some commands, and what haproxy answers: one connection to the CLI for each line of commands.

    A non-interactive CLI answers one line and closes the connection (HAProxy's management guide, section 9.3).
    """

    def __init__(self, channel: socket.socket, commands: Iterable[str]) -> None:
        """Send the first line."""
        self._channel = channel
        self._lines = _lines(commands)
        self._session: socket.socket | None = None
        self._answer = bytearray()
        self.failure = ""
        """One line; empty unless haproxy has answered more than is taken."""
        self.proceed()

    def fileno(self) -> int:
        """Return the descriptor to wait for; it changes with each `proceed`."""
        return self._session.fileno() if self._session else -1

    def proceed(self) -> bool:
        """Send the next line; False when there is none, or when nobody listens any more."""
        self.close()
        line = next(self._lines, None)
        if line is None:
            return False
        self._session = _session(self._channel)
        with contextlib.suppress(OSError):
            self._session.send(line.encode(), socket.MSG_NOSIGNAL)
        return True

    def read(self) -> bool:
        """Take what has arrived; True when this line has been answered, or never will be."""
        assert self._session
        try:
            for _ in range(_MOST_PIECES):
                data = self._session.recv(_PIECE)
                if not data:
                    return True
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
        """Everything that was answered; empty when nobody was there."""
        return self._answer.decode(errors="replace")

    def close(self) -> None:
        """Hang up."""
        if self._session:
            self._session.close()
            self._session = None


def _session(channel: socket.socket) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    with theirs, contextlib.suppress(OSError):
        # Not socket.send_fds, which in Python 3.11 forgets its flags.
        rights = theirs.fileno().to_bytes(4, sys.byteorder)
        how = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], how)
    return ours


def _lines(commands: Iterable[str]) -> Iterator[str]:
    line = ""
    for command in commands:
        if line and len(line) + len(command) >= _LONGEST_LINE:
            yield line + "\n"
            line = ""
        line += f";{command}" if line else command
    if line:
        yield line + "\n"
