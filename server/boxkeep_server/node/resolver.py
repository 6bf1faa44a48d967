"""Forwards the sandboxes' DNS queries to the host's resolvers: heard in the router's namespace, asked in the host's."""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from boxkeep_server.node import netns
from boxkeep_server.node.crew import Crew
from boxkeep_server.node.nft import DNS_PORT

_log = logging.getLogger(__name__)

AT_ONCE: Final = 1024
AT_ONCE_EACH: Final = 64
_TRY_S: Final = 3.0
_TCP_S: Final = 15.0
_MOST_TCP: Final = 1 << 20
_HEADER: Final = 12
_Peer = tuple[str, int]


class Resolver:
    """Passes queries and answers on as bytes; of a message only its id is looked at.

    At most 1,024 queries are under way, 64 for each sandbox; what is over is dropped, as DNS clients expect. A query
    that no resolver answers in time is answered as failed, so that nobody waits for nothing. Resolvers are read from
    `configuration` (resolv.conf) at each query, so that they may listen on loopback and may change.
    """

    def __init__(self, router: Path, configuration: Path = Path("/etc/resolv.conf"), port: int = DNS_PORT) -> None:
        self._router = router
        self._configuration = configuration
        self._port = port
        self._busy: Counter[str] = Counter()
        self._crew = Crew()

    async def run(self) -> None:
        """Forward for ever."""
        loop = asyncio.get_running_loop()
        heard, listening = await asyncio.to_thread(netns.within, self._router, self._sockets)
        transport, _ = await loop.create_datagram_endpoint(lambda: _Queries(self._take), sock=heard)
        server = await asyncio.start_server(self._accept, sock=listening, limit=1 << 16)
        try:
            async with server:
                await server.serve_forever()
        finally:
            transport.close()
            await self._crew.dismiss()

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        sockets = []
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            made = socket.socket(socket.AF_INET, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("0.0.0.0", self._port))  # noqa: S104 - the router's rules say who gets here
            made.setblocking(False)
            sockets.append(made)
        return sockets[0], sockets[1]

    def _resolvers(self) -> list[str]:
        with contextlib.suppress(OSError):
            lines = [line.split() for line in self._configuration.read_text().splitlines()]
            return [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"]
        return []

    def _admit(self, client: str) -> bool:
        if self._busy.total() >= AT_ONCE or self._busy[client] >= AT_ONCE_EACH:
            return False
        self._busy[client] += 1
        return True

    def _leave(self, client: str) -> None:
        self._busy[client] -= 1
        if not self._busy[client]:
            del self._busy[client]

    def _take(self, transport: asyncio.DatagramTransport, query: bytes, client: _Peer) -> None:
        if len(query) < _HEADER or not self._admit(client[0]):
            return
        self._crew.start(self._answer(transport, query, client))

    async def _answer(self, transport: asyncio.DatagramTransport, query: bytes, client: _Peer) -> None:
        try:
            transport.sendto(await self._first_answer(query), client)
        finally:
            self._leave(client[0])

    async def _first_answer(self, query: bytes) -> bytes:
        for resolver in self._resolvers():
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_TRY_S):
                    return await _ask(resolver, self._port, query)
        return failed(query)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._crew.start(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("peername")[0]
        if not self._admit(client):
            writer.close()
            return
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_TCP_S):
                    await self._splice(reader, writer)
        finally:
            self._leave(client)
            writer.close()

    async def _splice(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for resolver in self._resolvers():
            try:
                async with asyncio.timeout(_TRY_S):
                    theirs, ours = await asyncio.open_connection(resolver, self._port)
            except (OSError, TimeoutError):
                continue
            forth = self._crew.start(_forth(reader, ours))
            try:
                await _copy(theirs, writer)
            finally:
                forth.cancel()
                ours.close()
            return


def failed(query: bytes) -> bytes:
    """The answer to a query that says that it could not be resolved: the query with the two bits of a failed answer."""
    return query[:2] + bytes((query[2] | 0x80, 0x82)) + query[4:]


class _Queries(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[asyncio.DatagramTransport, bytes, _Peer], None]) -> None:
        self._take = take
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: _Peer) -> None:
        if self._transport is not None:
            self._take(self._transport, data, addr)


async def _ask(resolver: str, port: int, query: bytes) -> bytes:
    """One query to one resolver, from a socket of its own; the first answer with its id."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as upstream:
        upstream.setblocking(False)
        await loop.sock_connect(upstream, (resolver, port))
        await loop.sock_sendall(upstream, query)
        while True:
            answer = await loop.sock_recv(upstream, 1 << 16)
            if answer[:2] == query[:2]:
                return answer


async def _forth(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass on what the client says. When it has said all, or is gone, the resolver learns it, and its answer ends."""
    try:
        await _copy(source, sink)
        sink.write_eof()
    except OSError:
        sink.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    copied = 0
    while copied < _MOST_TCP and (data := await source.read(1 << 16)):
        sink.write(data)
        await sink.drain()
        copied += len(data)
