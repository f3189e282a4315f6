"""What an HTTP client wants: one request line and its headers in, a path or a refusal out."""

import socket
from enum import IntEnum

CLIENT_SECONDS = 5.0
"""How long a client may take to ask, and again to take the answer, in all."""
MOST_HEADER = 8192
"""Bytes."""
INDEX = "/livez /readyz /metrics"


class Doing(IntEnum):
    """What a client is at; the lowest are the first to go when there are too many."""

    ASKING = 0
    LEAVING = 1
    TAKING = 2
    WAITING = 3


class Client:
    """One connection, one request. Owns its socket."""

    def __init__(self, connection: socket.socket, now: float) -> None:
        """Begin with one that has said nothing."""
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
    """A request that is answered at once, with this status and line."""

    def __init__(self, status: int, line: str) -> None:
        """Refuse with this."""
        super().__init__(line)
        self.status = status


def read_request(client: Client) -> bool:
    """Understand the request; return whether it is complete.

    Raises:
        RefusedError: it cannot be served.

    """
    head, end, _ = client.received.partition(b"\r\n\r\n")
    if not end:
        if len(client.received) > MOST_HEADER:
            raise RefusedError(431, f"the request's header is longer than {MOST_HEADER} bytes")
        return False
    request, *fields = head.decode("latin-1").split("\r\n")
    words = request.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise RefusedError(400, "this is not an HTTP/1.1 request")
    client.head_only = words[0] == "HEAD"
    if words[0] not in {"GET", "HEAD"}:
        raise RefusedError(405, "only GET and HEAD are served")
    client.path = _path(words[1])
    values = [field.partition(":") for field in fields]
    client.accept = ",".join(value for name, _, value in values if name.strip().lower() == "accept")
    if client.path not in {"/livez", "/readyz", "/metrics"}:
        raise RefusedError(200 if client.path == "/" else 404, INDEX)
    return True


def _path(target: str) -> str:
    """Return the path of a request's target, which may be a whole URL: a proxy sends it so (RFC 9112, 3.2.2)."""
    if target[:7].lower() == "http://" or target[:8].lower() == "https://":
        target = "/" + target.partition("//")[2].partition("?")[0].partition("/")[2]
    return target.partition("?")[0]


def wants_openmetrics(accept: str) -> bool:
    """Tell whether an Accept header (RFC 9110, 12.5.1) asks for OpenMetrics, and not rather for plain text."""
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
