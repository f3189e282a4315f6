"""A parent that binds and passes sockets, as people write it by hand; started as `naive.py VIPS haproxy ARGS`.

It is here to be measured: no check whether the new process serves, no serialisation of reloads, `-sf` straight away.
USR2 reloads; a dead haproxy is started again at once.
"""

import os
import signal
import socket
import sys

EVENTS = {signal.SIGUSR2, signal.SIGCHLD, signal.SIGTERM}


def start(words: list[str], old: int) -> int:
    """Start a haproxy that tells the old one to finish."""
    words = [*words, "-db", *(["-sf", str(old)] if old else [])]
    return os.posix_spawnp(words[0], words, os.environ, setsigmask=[])


def main() -> None:
    """Bind, start, and wait for signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, EVENTS)
    for vip in sys.argv[1].split(","):
        address, port, tag = vip.split(":")
        listener = socket.create_server((address, int(port)), backlog=4096)
        listener.set_inheritable(True)
        os.environ[tag] = str(listener.detach())
    current = start(sys.argv[2:], 0)
    while (event := signal.sigwait(EVENTS)) != signal.SIGTERM:
        if event == signal.SIGUSR2:
            current = start(sys.argv[2:], current)
            continue
        try:
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if pid == current:
                    current = start(sys.argv[2:], 0)
        except ChildProcessError:
            continue


if __name__ == "__main__":
    main()
