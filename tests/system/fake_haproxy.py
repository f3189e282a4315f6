"""A haproxy that answers on its CLI as it must, or as one could that is broken or has been taken over."""

import fcntl
import os
import re
import socket
import sys

PIECE = b"x" * 65535 + b"\n"


def main() -> None:
    """Serve the CLI as FAKE_N says, N being the number of this generation.

    Of two words the first is how the first question is answered, and the second how all that follow.
    """
    number = os.environ["SAFE_RELOAD_GENERATION"]
    first, _, later = os.environ.get(f"FAKE_{number}", "good").partition(" ")
    fragment = [path for path in sys.argv if path.startswith("/dev/fd/")][-1]
    with open(fragment) as file:
        found = re.search(r"sockpair@([0-9]+)", file.read())
    assert found
    line = socket.socket(fileno=int(found[1]))
    how = first
    while True:
        if how == "deaf":
            become_deaf(int(found[1]))
        _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as session:
            answer(session, how)
        how = later or first


def answer(session: socket.socket, how: str) -> None:
    """Answer one line, or never stop."""
    question = b""
    while not question.endswith(b"\n"):
        question += session.recv(65536)
    try:
        match how:
            case "good":
                session.sendall(good(question.decode()))
            case "endless":
                while True:
                    session.sendall(PIECE)
            case "huge":
                for _ in range(100 * 16):
                    session.sendall(PIECE)
            case "digits":
                session.sendall(good(question.decode()).replace(b": ", b": " + b"9" * 5000))
            case "no-digits":
                session.sendall(re.sub(rb"[0-9]", "\N{SUPERSCRIPT TWO}".encode(), good(question.decode())))
            case "drop":
                session.sendall(good("show fd") * 60 + PIECE[:3])
                session.recv(1)
            case "descriptors":
                # What `_getsocks` would be answered with, and never the names.
                session.sendall((1 << 16).to_bytes(4, sys.byteorder))
                while True:
                    socket.send_fds(session, [b"\0" * 6], [0] * 250)
            case _:
                raise AssertionError(how)
    except OSError:
        return


def good(question: str) -> bytes:
    """Answer as haproxy does."""
    text = ""
    if "show fd" in question:
        vip = os.environ["FD_WEB"]
        text += f"{vip:>6} : st=0x000121(cl) prmsk=0x0 pwmsk=0x0 l.st=RDY fe=web fam=ipv4 lport=80\n"
    if "show info" in question:
        text += f"Name: HAProxy\nVersion: 3.0.0\nPid: {os.getpid()}\nCurrConns: 0\nJobs: 3\nListeners: 2\n\n"
    return text.encode()


def become_deaf(ours: int) -> None:
    """Never read again; and whoever writes to what we share is to wait for ever."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor < 3 or descriptor == ours:
            continue
        try:
            line = socket.socket(fileno=descriptor)
        except OSError:
            continue
        line.setblocking(False)
        try:
            while line.family == socket.AF_UNIX:
                line.send(b"x")
        except OSError:
            pass
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
    while True:
        socket.socketpair()[0].recv(1)


if __name__ == "__main__":
    main()
