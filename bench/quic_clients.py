"""HTTP/3 clients with a real QUIC stack, behind a relay that makes a round trip.

A program for the network namespace of what is tested. It reads commands from stdin, a word on each line, and prints one
JSON object for each:

    new COUNT RATE      open COUNT connections, RATE a second; each sends one request; say how they ended
    hold COUNT          open COUNT connections with one request each, and keep them
    ask                 send a request on each held one; say how they ended
    persist COUNT SECONDS   on COUNT connections send a request each 0.1 s, and open another one when one has ended;
                        say how the requests ended
    lost                send a request on each held one until it is over; say after how many seconds, and why
    download COUNT      begin a download on COUNT connections, and say when each has its first bytes
    downloaded          wait for the downloads; say how many bytes each has had, and how it ended

"""

import argparse
import asyncio
import contextlib
import json
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

PATIENCE = 12.0
"""Seconds: longer than a handshake whose first packets are all sent again twice."""
RESET_TOKEN = 16
"""Bytes (RFC 9000, 10.3)."""
LONG_HELLO = ["h3", *(f"{'x' * 200}{number}" for number in range(8))]
"""Protocols that make a ClientHello of two datagrams, as a browser's key share does."""
OK = "answered"

Address = tuple[str, int]


class Client(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, quic: QuicConnection, stream_handler: Callable[..., None] | None = None) -> None:
        """Begin it."""
        super().__init__(quic, stream_handler)
        self.http = H3Connection(self._quic)
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.received: dict[int, int] = {}
        """Bytes of each stream's body."""
        self.begun = asyncio.Event()
        """Something of a body has been received."""
        self._answers: dict[int, asyncio.Future[str]] = {}
        self._statuses: dict[int, str] = {}

    def datagram_received(self, data: bytes | str, addr: object) -> None:
        """Look for a stateless reset, which aioquic does not know."""
        assert isinstance(data, bytes)
        # aioquic keeps the tokens, and has no public name for them.
        peers = (self._quic._peer_cid, *self._quic._peer_cid_available)  # noqa: SLF001
        tokens = [peer.stateless_reset_token for peer in peers if peer.stateless_reset_token]
        if data[-RESET_TOKEN:] in tokens:
            self._end("stateless reset")
        super().datagram_received(data, addr)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Follow what has arrived."""
        if isinstance(event, StreamReset) and (answer := self._answers.get(event.stream_id)) and not answer.done():
            answer.set_result(f"reset with {event.error_code}")
        if isinstance(event, ConnectionTerminated):
            self._end(f"closed with {event.error_code} {event.reason_phrase}".rstrip())
        for one in self.http.handle_event(event):
            if isinstance(one, HeadersReceived):
                self._statuses.setdefault(one.stream_id, dict(one.headers).get(b":status", b"").decode())
            if isinstance(one, HeadersReceived | DataReceived):
                size = len(one.data) if isinstance(one, DataReceived) else 0
                self.received[one.stream_id] = self.received.get(one.stream_id, 0) + size
                if size:
                    self.begun.set()
                answer = self._answers.get(one.stream_id)
                if one.stream_ended and answer and not answer.done():
                    status = self._statuses.get(one.stream_id)
                    answer.set_result(OK if status == "200" else f"answered with {status}")

    def _end(self, how: str) -> None:
        for one in (self.ended, *self._answers.values()):
            if not one.done():
                one.set_result(how)

    def request(self, path: str = "/") -> tuple[int, asyncio.Future[str]]:
        """Send a request; return its stream, and how it will have ended."""
        stream = self._quic.get_next_available_stream_id()
        answer = self._answers[stream] = asyncio.get_running_loop().create_future()
        if self.ended.done():
            answer.set_result(self.ended.result())
            return stream, answer
        names = {":method": "GET", ":scheme": "https", ":authority": "lb", ":path": path}
        self.http.send_headers(stream, [(name.encode(), text.encode()) for name, text in names.items()], True)
        self.transmit()
        return stream, answer


class Relay(asyncio.DatagramProtocol):
    """Passes datagrams on after half a round trip, with a socket of its own for each client, as NAT does."""

    def __init__(self, to: Address, half: float) -> None:
        """Pass on to an address, after `half` seconds."""
        self._to = to
        self._half = half
        self._up: dict[Address, asyncio.Future[asyncio.DatagramTransport]] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket that clients send to."""
        # Python 3.11's is not derived from it.
        self._down = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Pass on what a client has sent."""
        task = self._loop.create_task(self._forward(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, data: bytes, addr: Address) -> None:
        if addr not in self._up:
            self._up[addr] = self._loop.create_future()
            made, _ = await self._loop.create_datagram_endpoint(lambda: _Back(self, addr), remote_addr=self._to)
            self._up[addr].set_result(made)
        up = await self._up[addr]
        self._loop.call_later(self._half, up.sendto, data)

    def answer(self, data: bytes, addr: Address) -> None:
        """Pass on what haproxy has sent."""
        self._loop.call_later(self._half, self._down.sendto, data, addr)


class _Back(asyncio.DatagramProtocol):
    def __init__(self, relay: Relay, client: Address) -> None:
        self._relay = relay
        self._client = client

    def datagram_received(self, data: bytes, _: object) -> None:
        self._relay.answer(data, self._client)


class Clients:
    """All clients of one relay."""

    def __init__(self, address: Address, protocols: list[str]) -> None:
        """Begin without any."""
        self._address = address
        self._protocols = protocols
        self._held: list[Client] = []
        self._downloads: list[tuple[Client, int, asyncio.Future[str]]] = []
        self._leaving = contextlib.AsyncExitStack()

    def _connect(self) -> contextlib.AbstractAsyncContextManager[QuicConnectionProtocol]:
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=self._protocols, verify_mode=ssl.CERT_NONE, idle_timeout=40
        )
        return connect(*self._address, configuration=configuration, create_protocol=Client)

    async def new(self, count: str, rate: str) -> dict[str, Any]:
        """Open connections one after the other; each has one request."""
        began = time.monotonic()
        tasks = []
        for number in range(int(count)):
            tasks.append(asyncio.create_task(self._new()))
            await asyncio.sleep(began + (number + 1) / float(rate) - time.monotonic())
        return dict(Counter(await asyncio.gather(*tasks)))

    async def _new(self) -> str:
        try:
            async with asyncio.timeout(PATIENCE), self._connect() as client:
                assert isinstance(client, Client)
                return await client.request()[1]
        except TimeoutError:
            return "timed out"
        except ConnectionError as error:
            return f"not connected {error}".rstrip()

    async def hold(self, count: str) -> dict[str, Any]:
        """Open connections and keep them."""
        more = [await self._leaving.enter_async_context(self._connect()) for _ in range(int(count))]
        self._held += [client for client in more if isinstance(client, Client)]
        return await self.ask()

    async def ask(self) -> dict[str, Any]:
        """Send a request on each held one."""
        answers = [client.request()[1] for client in self._held]
        done = await asyncio.gather(*(_within(answer) for answer in answers))
        return dict(Counter(done))

    async def persist(self, count: str, seconds: str) -> dict[str, Any]:
        """Send requests on connections that stay open."""
        until = time.monotonic() + float(seconds)
        all_of = await asyncio.gather(*(self._persist(until) for _ in range(int(count))))
        return dict(sum(all_of, Counter[str]()))

    async def _persist(self, until: float) -> Counter[str]:
        ends: Counter[str] = Counter()
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(until + PATIENCE - time.monotonic()), self._connect() as client:
                    assert isinstance(client, Client)
                    while time.monotonic() < until and not client.ended.done():
                        ends[await _within(client.request()[1])] += 1
                        await asyncio.sleep(0.1)
            except (TimeoutError, ConnectionError):
                ends["not connected"] += 1
        return ends

    async def lost(self) -> dict[str, Any]:
        """Send requests on each held one until it is over."""
        ends = await asyncio.gather(*(self._lost(client) for client in self._held))
        self._held.clear()
        return {"after": [after for after, _ in ends], "how": dict(Counter(how for _, how in ends))}

    async def _lost(self, client: Client) -> tuple[float, str]:
        began = time.monotonic()
        while not client.ended.done() and time.monotonic() < began + 35:
            client.request()
            await asyncio.wait([client.ended], timeout=0.05)
        return time.monotonic() - began, client.ended.result() if client.ended.done() else "not at all"

    async def download(self, count: str) -> dict[str, Any]:
        """Begin downloads, each on a connection of its own."""
        for _ in range(int(count)):
            client = await self._leaving.enter_async_context(self._connect())
            assert isinstance(client, Client)
            stream, answer = client.request("/long")
            self._downloads.append((client, stream, answer))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.begun.wait(), PATIENCE)
        return {"begun": len(self._downloads)}

    async def downloaded(self) -> dict[str, Any]:
        """Wait for the downloads."""
        ends = [
            (await _within(answer, 60), client.received.get(stream, 0)) for client, stream, answer in self._downloads
        ]
        self._downloads.clear()
        return {"ends": dict(Counter(end for end, _ in ends)), "bytes": [size for _, size in ends]}


async def _within(answer: asyncio.Future[str], seconds: float = PATIENCE) -> str:
    try:
        return await asyncio.wait_for(answer, seconds)
    except TimeoutError:
        return "timed out"


async def main() -> None:
    """Do what stdin says, until it is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--round-trip", type=float, default=0.08, metavar="SECONDS")
    parser.add_argument("--long-hello", action="store_true")
    given = parser.parse_args()
    loop = asyncio.get_running_loop()
    made, _ = await loop.create_datagram_endpoint(
        lambda: Relay((given.host, given.port), given.round_trip / 2), local_addr=(given.host, 0)
    )
    here = made.get_extra_info("sockname")
    clients = Clients(here[:2], LONG_HELLO if given.long_hello else H3_ALPN)
    commands: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
        one.__name__: one
        for one in (
            clients.new,
            clients.hold,
            clients.ask,
            clients.persist,
            clients.lost,
            clients.download,
            clients.downloaded,
        )
    }
    while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        print(json.dumps(await commands[words[0]](*words[1:])), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
