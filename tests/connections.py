"""What tests do with a connection from its beginning to its end."""

import os
import socket
from pathlib import Path


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def dead_socket(path: Path) -> None:
    """Leave a socket at a path that nobody listens on."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def put(kind: str, path: Path, target: Path | str = "/etc/passwd") -> None:
    """Leave a `dead socket`, a `file`, a `fifo`, a `folder`, or a `link` to a target at a path."""
    match kind:
        case "dead socket":
            dead_socket(path)
        case "file":
            path.write_text("x")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(target)
        case _:
            raise ValueError(kind)


def read_all(connection: socket.socket) -> bytes:
    """Read to the end."""
    answer = b""
    while data := connection.recv(65536):
        answer += data
    return answer


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Read until the answer ends like this."""
    answer = b""
    while not answer.endswith(end):
        data = connection.recv(65536)
        assert data, answer
        answer += data
    return answer


def http_get(connection: socket.socket, path: str = "/") -> tuple[str, str]:
    """Ask over a new connection and close it; return the head and the body of the answer, empty if there is none."""
    with connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = read_all(connection).decode().rpartition("\r\n\r\n")
    return head, body
