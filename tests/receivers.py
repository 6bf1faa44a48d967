"""A real receiver of webhooks on loopback: it keeps what it was sent, and answers as the path asks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

ANSWERS: dict[str, bytes] = {
    "/ok": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/accepted": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 202\r\n\r\n",
    "/broken": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    "/redirect": b"HTTP/1.1 307 There\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
    "/gone": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    "/close": b"",
    "/cut": b"HTTP/1.1 200 OK\r\nConte",
    "/garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "/head": b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"x" * 100_000,
    "/interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
}


@dataclass(frozen=True)
class Received:
    """One POST as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> Any:
        """Its JSON."""
        return orjson.loads(self.body)


@dataclass
class Receiver:
    """What listens. `/stall` answers nothing before `released`; `/body` answers 200 with a body that never ends."""

    port: int = 0
    got: list[Received] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    broken: set[str] = field(default_factory=set)
    stalling: int = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Where a webhook finds it."""
        return f"http://{host}:{self.port}{path}"

    def told(self, path: str) -> list[Any]:
        """The JSON that came to a path, in order."""
        return [one.said for one in self.got if one.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            received = await _read(reader)
            self.got.append(received)
            await self._answer(received, writer)
            await writer.drain()
        writer.close()

    async def _answer(self, received: Received, writer: asyncio.StreamWriter) -> None:
        if received.path == "/stall":
            self.stalling += 1
            await self.released.wait()
        if received.path == "/body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        refused = received.said["id"] in self.broken
        writer.write(ANSWERS["/broken" if refused else received.path] if received.path in ANSWERS else ANSWERS["/ok"])


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in fields.items()}
    method, path, _ = head[0].split(" ")
    assert method == "POST"
    return Received(path, headers, await reader.readexactly(int(headers["content-length"])))


@asynccontextmanager
async def receiving(**options: Any) -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, **options)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.close()


async def until(what: Callable[[], Any], within_s: float = 20.0) -> None:
    """Return when something is so."""
    async with asyncio.timeout(within_s):
        while not what():
            await asyncio.sleep(0.01)
