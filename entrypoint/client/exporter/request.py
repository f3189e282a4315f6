"""Reads the HTTP requests of the exporter's clients: the request line, the path and the Accept header."""

from __future__ import annotations

import socket
from enum import IntEnum

CLIENT_SECONDS = 5.0
"""How long a client may take to send its request, and again to read the whole answer."""
MOST_HEADER = 8192
"""Bytes of a request's header."""
INDEX = "/livez /readyz /metrics"


class Doing(IntEnum):
    """What a client is doing. If there are too many clients, one with the lowest value is disconnected."""

    ASKING = 0
    LEAVING = 1
    TAKING = 2
    WAITING = 3
    COUNTING = 4
    """It waits for haproxy's counters."""


class Client:
    """One connection with one request. Owns its socket."""

    def __init__(self, connection: socket.socket, now: float) -> None:
        """Begin with an empty request at `now`, in seconds of the monotonic clock."""
        self.connection = connection
        self.doing = Doing.ASKING
        self.deadline = now + CLIENT_SECONDS
        self.asked_at = now
        self.received = bytearray()
        self.to_send = memoryview(b"")
        self.path = ""
        self.head_only = False
        self.accept = ""


class RefusedError(Exception):
    """A request that is answered without asking PID 1, with an HTTP status and a line of text."""

    def __init__(self, status: int, line: str) -> None:
        """Take the HTTP status and the line."""
        super().__init__(line)
        self.status = status


def read_request(client: Client) -> bool:
    """Parse what the client has sent; return whether the request is complete.

    Raises:
        RefusedError: PID 1 need not be asked, or the request is invalid.

    """
    head, end, _ = client.received.partition(b"\r\n\r\n")
    if not end:
        if len(client.received) > MOST_HEADER:
            raise RefusedError(431, f"the request's header is longer than {MOST_HEADER} bytes")
        return False
    request, *fields = head.decode("latin-1").split("\r\n")
    parts = request.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise RefusedError(400, "this is not an HTTP/1.1 request")
    client.head_only = parts[0] == "HEAD"
    if parts[0] not in {"GET", "HEAD"}:
        raise RefusedError(405, "only GET and HEAD are served")
    client.path = _path(parts[1])
    values = [field.partition(":") for field in fields]
    client.accept = ",".join(value for name, _, value in values if name.strip().lower() == "accept")
    if client.path not in {"/livez", "/readyz", "/metrics"}:
        raise RefusedError(200 if client.path == "/" else 404, INDEX)
    return True


def _path(target: str) -> str:
    """Return the path of a request's target, which is a whole URL if a proxy sends it (RFC 9112, 3.2.2)."""
    if target[:7].lower() == "http://" or target[:8].lower() == "https://":
        target = "/" + target.partition("//")[2].partition("?")[0].partition("/")[2]
    return target.partition("?")[0]


def wants_openmetrics(accept: str) -> bool:
    """Tell whether an Accept header (RFC 9110, 12.5.1) prefers OpenMetrics to plain text, or weighs them alike."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for choice in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in choice.split(";"))
        if kind in weights:
            weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
            try:
                weights[kind] = max(weights[kind], float(weight))
            except ValueError:
                continue
    openmetrics, plain = weights.values()
    return openmetrics > 0 and openmetrics >= plain
