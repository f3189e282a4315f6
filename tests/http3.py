"""A client for HTTP/3 (aioquic), over a UDP socket that the caller has made, in whatever network it has made it."""

import socket
import ssl
import time

from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated

_LARGEST = 65536
"""Bytes of a datagram, at most."""


class Http3Client:
    """One QUIC connection, which does not check the certificate. Nothing happens in it while nobody asks."""

    def __init__(self, connection: socket.socket, host: str = "localhost") -> None:
        """Begin the handshake.

        Args:
            connection: a UDP socket, connected to the server.
            host: for SNI and `:authority`.

        """
        self._socket = connection
        self._host = host
        self._quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True, alpn_protocols=H3_ALPN, server_name=host, verify_mode=ssl.CERT_NONE
            )
        )
        self._http: H3Connection | None = None
        self._quic.connect(connection.getpeername(), now=time.monotonic())

    def get(self, path: str = "/", seconds: float = 10) -> tuple[int, dict[str, str], str]:
        """Return the status, the headers and the text of an answer.

        Raises:
            ConnectionError: the connection has ended, or there was no whole answer in time.

        """
        self._http = self._http or H3Connection(self._quic)
        stream = self._quic.get_next_available_stream_id()
        pseudo = {":method": "GET", ":scheme": "https", ":authority": self._host, ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in pseudo.items()]
        self._http.send_headers(stream, headers, end_stream=True)
        found: dict[str, str] = {}
        body, ended, deadline = b"", False, time.monotonic() + seconds
        while not ended:
            self._turn(deadline)
            while (event := self._quic.next_event()) is not None:
                if isinstance(event, ConnectionTerminated):
                    raise ConnectionError(f"terminated: {event.error_code} {event.reason_phrase}")
                for one in self._http.handle_event(event):
                    if isinstance(one, HeadersReceived) and one.stream_id == stream:
                        found |= {name.decode(): value.decode() for name, value in one.headers}
                        ended |= one.stream_ended
                    elif isinstance(one, DataReceived) and one.stream_id == stream:
                        body += one.data
                        ended |= one.stream_ended
        self._send()
        return int(found.pop(":status")), found, body.decode()

    def is_reset_by(self, other: socket.socket) -> bool:
        """Have a packet arrive elsewhere; tell whether the answer ends this connection.

        That is a stateless reset (RFC 9000, 10.3), for which aioquic does not look.

        Args:
            other: a UDP socket, connected to a server that does not know this connection. It is closed.

        """
        with other:
            other.settimeout(30)
            self._quic.send_ping(1)
            for data, _ in self._quic.datagrams_to_send(now=time.monotonic()):
                other.send(data)
            answer = other.recv(_LARGEST)
        return answer.endswith(self._quic._peer_cid.stateless_reset_token)  # noqa: SLF001  # it has no public name

    def close(self) -> None:
        """Tell the server, and close the socket."""
        self._quic.close()
        self._send()
        self._socket.close()

    def _turn(self, deadline: float) -> None:
        """Send what there is to send, and wait for one datagram or the next timer."""
        self._send()
        now = time.monotonic()
        if now >= deadline:
            raise ConnectionError("no whole answer in time")
        timer = self._quic.get_timer()
        self._socket.settimeout(max(min(deadline, timer or deadline) - now, 0.001))
        try:
            data = self._socket.recv(_LARGEST)
        except TimeoutError:
            if timer is not None and time.monotonic() >= timer:
                self._quic.handle_timer(now=time.monotonic())
        else:
            self._quic.receive_datagram(data, self._socket.getpeername(), now=time.monotonic())

    def _send(self) -> None:
        for data, _ in self._quic.datagrams_to_send(now=time.monotonic()):
            self._socket.send(data)


def http3_get(connection: socket.socket, path: str = "/") -> tuple[int, dict[str, str], str]:
    """Ask over a new QUIC connection and close it; return the status, the headers and the text of the answer.

    Raises:
        OSError: there was none; ConnectionRefusedError: nobody has the port.

    """
    client = Http3Client(connection)
    try:
        return client.get(path)
    finally:
        client.close()
