"""How the CLI of a master of haproxy in a container is asked, and what its answers look like."""

import re
import socket

from tests.connections import read_all
from tests.container.conftest import Balancer
from tests.waiting import eventually

ROW = re.compile(r"(\d+) +(master|worker) +(\d+(?: \[failed: \d+\])?) +(\d+d\d\dh\d\dm\d\ds) +(\S+) *")
OURS, MASTERS = "/run/safe_reload/haproxy.sock", "/tmp/master.sock"


def connect(lb: Balancer, path: str) -> socket.socket:
    """Connect to a socket in the container, from outside: it may have no program that could."""
    place = f"/proc/{lb.pid}/root{path}"

    def connected() -> socket.socket | None:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        try:
            client.connect(place)
        except (ConnectionRefusedError, FileNotFoundError):
            client.close()
            return None
        return client

    # haproxy's master listens a little after its worker serves.
    client = eventually(connected)
    assert client
    return client


def ask(lb: Balancer, path: str, question: str) -> str:
    """Ask over a socket in the container, and half-close, as socat does."""
    with connect(lb, path) as client:
        client.sendall(question.encode())
        client.shutdown(socket.SHUT_WR)
        return read_all(client).decode()


def talk(lb: Balancer, path: str, *turns: tuple[str, str]) -> list[str]:
    """Have a conversation on one connection: what is said, and how each answer ends; an empty one with the connection.

    Pids and versions are left out of the answers, because they differ.
    """
    answers = []
    with connect(lb, path) as client:
        for question, end in turns:
            client.sendall(question.encode())
            answer = b""
            while not end or not answer.endswith(end.encode()):
                data = client.recv(65536)
                if not data:
                    break
                answer += data
            answers.append(answer.decode())
    return [re.sub(r"\b\d+(?=> )|\d\.\d+\.\d+\S*", "N", answer) for answer in answers]
