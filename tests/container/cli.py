"""How the CLI of a master of haproxy is asked from within its container, and what its answers look like."""

import json
import re

from tests.container.conftest import Balancer

ASK = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(sys.argv[2].encode())
client.shutdown(socket.SHUT_WR)
while data := client.recv(65536):
    sys.stdout.buffer.write(data)
"""
TALK = """
import json, socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(20)
client.connect(sys.argv[1])
answers = []
for question, end in json.loads(sys.argv[2]):
    client.sendall(question.encode())
    answer = b""
    while not end or not answer.endswith(end.encode()):
        data = client.recv(65536)
        if not data:
            break
        answer += data
    answers.append(answer.decode())
print(json.dumps(answers))
"""
ROW = re.compile(r"(\d+) +(master|worker) +(\d+(?: \[failed: \d+\])?) +(\d+d\d\dh\d\dm\d\ds) +(\S+) *")
OURS, MASTERS = "/run/safe_reload/haproxy.sock", "/tmp/master.sock"


def ask(lb: Balancer, path: str, question: str) -> str:
    """Ask over a socket in the container, which half-closes, as socat does."""
    return lb.run("python3", "-c", ASK, path, question)[1]


def talk(lb: Balancer, path: str, *turns: tuple[str, str]) -> list[str]:
    """Have a conversation on one connection: what is said, and how each answer ends; an empty one with the connection.

    Pids and versions are left out of the answers, because they differ.
    """
    answers: list[str] = json.loads(lb.run("python3", "-c", TALK, path, json.dumps(turns))[1])
    return [re.sub(r"\b\d+(?=> )|\d\.\d+\.\d+\S*", "N", answer) for answer in answers]
