"""A program that listens on a control socket in the place of PID 1: `peer.py PATH`, its answers on stdin as JSON.

Each answer is [REQUEST, PIECES, WHAT]: after that line it sends the pieces and does WHAT: "close", "hang" or "end". A
line that has no answer is hung up on. Each line that it has read is written to stdout.
"""

import json
import os
import socket
import sys


def say(text: str) -> None:
    """Write at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


path = sys.argv[1]
answers = {request: (pieces, what) for request, pieces, what in json.loads(sys.stdin.readline())}
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(16)
held = []
while True:
    say("ready\n")
    connection, _ = listener.accept()
    line = connection.makefile().readline()
    if not line:
        continue
    say(line)
    pieces, what = answers.get(line.rstrip("\n"), ([], "close"))
    for piece in pieces:
        connection.sendall(piece.encode())
    if what == "hang":
        held.append(connection)
    else:
        connection.close()
    if what == "end":
        os.unlink(path)
        break
