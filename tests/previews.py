"""Programs that listen inside a sandbox, and clients of the gateway, for tests in process: both speak bytes, so that
nothing but the gateway stands between them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import h11

from boxkeep_server.gateway.listener import Gateway
from boxkeep_server.gateway.process import doors_over
from tests.api.stage import Stage
from tests.instances import free_port

Serve = Callable[["Inside"], Awaitable[None]]
LINES_END = b"\r\n\r\n"


@asynccontextmanager
async def opened_gateway(stage: Stage, **changes: Any) -> AsyncIterator[int]:
    """The port of a real gateway of the stage, some of whose doors are changed."""
    port = free_port()
    parts = stage.parts
    doors = doors_over(parts.keys, parts.tokens, parts.previews, parts.preview_urls, stage.presence, believed=False)
    task = asyncio.create_task(Gateway(replace(doors, **changes), "127.0.0.1", port).run())
    await _until_taken(port)
    try:
        yield port
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _until_taken(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


@dataclass
class Inside:
    """A connection as a program inside sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""

    async def read_head(self) -> bytes:
        """The head of the next request, as it came."""
        self.head = await self.reader.readuntil(LINES_END)
        return self.head

    async def say(self, data: bytes) -> None:
        """Send."""
        self.writer.write(data)
        await self.writer.drain()


@dataclass
class Program:
    """What listens, and the heads of the requests that it got."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[Program]:
    """A program inside that serves each connection by `serve`."""
    program = Program(0)
    tasks: set[asyncio.Task[None]] = set()

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        program.connections += 1
        inside = Inside(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await serve(inside)
        finally:
            program.heads.append(inside.head)
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(met, host, 0, limit=1 << 20)
    program.port = server.sockets[0].getsockname()[1]
    try:
        yield program
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(answer: bytes) -> Serve:
    """A program that answers every request's head with these bytes and closes."""

    async def serve(inside: Inside) -> None:
        await inside.read_head()
        await inside.say(answer)

    return serve


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    interim: list[int]

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for found, value in self.headers if found == name]

    def one(self, name: str) -> str:
        """The one value of a header, empty where there is none."""
        found = self.all(name)
        assert len(found) <= 1, found
        return found[0] if found else ""


class Client:
    """A client on one connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._http = h11.Connection(h11.CLIENT)

    async def ask(self, host: str, target: str = "/", method: str = "GET", body: bytes = b"", **more: str) -> Answer:
        """The answer to one request; in names of headers an underscore is a hyphen."""
        headers = [("Host", host), *((name.replace("_", "-"), value) for name, value in more.items())]
        if body:
            headers.append(("Content-Length", str(len(body))))
        self.writer.write(self._http.send(h11.Request(method=method, target=target, headers=headers)) or b"")
        if body:
            self.writer.write(self._http.send(h11.Data(data=body)) or b"")
        self.writer.write(self._http.send(h11.EndOfMessage()) or b"")
        return await self.answer()

    async def answer(self) -> Answer:
        """The next answer, whole."""
        got, body = Answer(0, [], b"", []), bytearray()
        async with asyncio.timeout(30):
            while True:
                event = self._http.next_event()
                match event:
                    case h11.NEED_DATA:
                        self._http.receive_data(await self.reader.read(1 << 16))
                    case h11.InformationalResponse():
                        got.interim.append(event.status_code)
                        if event.status_code == 101:
                            return self._headed(got, event)
                    case h11.Response():
                        self._headed(got, event)
                    case h11.Data():
                        body += event.data
                    case h11.EndOfMessage():
                        got.body = bytes(body)
                        if self._http.our_state is h11.DONE:
                            self._http.start_next_cycle()
                        return got
                    case _:
                        raise AssertionError(f"no answer but {event}")

    @staticmethod
    def _headed(got: Answer, event: h11.Response | h11.InformationalResponse) -> Answer:
        got.status = event.status_code
        got.headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
        return got

    async def raw(self, data: bytes) -> bytes:
        """Send bytes as they are, and read until the gateway closes."""
        self.writer.write(data)
        async with asyncio.timeout(30):
            return await self.reader.read(-1)


@asynccontextmanager
async def client_of(gateway: int) -> AsyncIterator[Client]:
    """A connection to the gateway on that port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def ask(gateway: int, host: str, target: str = "/", **more: str) -> Answer:
    """One request on a connection of its own."""
    async with client_of(gateway) as client:
        return await client.ask(host, target, **more)
