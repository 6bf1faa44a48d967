"""Calls to guests over kept connections: simple, download, upload and duplex."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from boxkeep_server.guestwire import frames, patience
from boxkeep_server.guestwire.address import GuestAddress
from boxkeep_server.guestwire.connection import GuestConnection, Meter, connect
from boxkeep_server.guestwire.errors import GuestRefused, GuestUnreachable
from boxkeep_server.guestwire.streams import Download, Duplex, send_chunks

OPEN_MOST = 256
IDLE_MOST = 32
GREETING_MOST = 24
"""Handshakes at once: a guest takes 64, of all processes of the host together."""
CONNECT_SECONDS = 5.0
HANDSHAKE_SECONDS = 20.0
"""A guest that starts hundreds of processes says hello late; one that is gone is known from its node."""
DEFAULT = -1.0
"""A timeout that the operation decides, by `patience`."""


class _Machine:
    """The connections of one machine in one epoch."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.open: set[GuestConnection] = set()
        self.idle: list[GuestConnection] = []
        self.places = asyncio.Semaphore(OPEN_MOST)
        self.greeting = asyncio.Semaphore(GREETING_MOST)
        self.calls = 0
        self.forgotten = False

    def lost(self, connection: GuestConnection) -> None:
        """A connection ended by itself."""
        self.open.discard(connection)
        if connection.idle:
            connection.idle = False
            self.idle.remove(connection)

    def take(self) -> GuestConnection | None:
        """The connection that was used last among the idle ones, or None."""
        while self.idle:
            connection = self.idle.pop()
            connection.idle = False
            if connection.clean:
                return connection
        return None

    def put_back(self, connection: GuestConnection) -> None:
        """Keep a connection that is good for another call, close any other."""
        if connection.clean and not self.forgotten and len(self.idle) < IDLE_MOST:
            connection.idle = True
            self.idle.append(connection)
        else:
            self.open.discard(connection)
            connection.close()


class GuestPool:
    """Connections to guests, kept by address. One pool serves one event loop.

    Every call raises GuestError: `GuestUnreachable`, `GuestTimeout`, `GuestProtocolError` or `GuestRefused`. A kept
    connection that turns out to have ended is replaced once, if the operation may be repeated.
    """

    def __init__(self, connect_seconds: float = CONNECT_SECONDS, handshake_seconds: float = HANDSHAKE_SECONDS) -> None:
        self._seconds = (connect_seconds, handshake_seconds)
        self._machines: dict[GuestAddress, _Machine] = {}

    async def call(
        self, address: GuestAddress, request: dict[str, Any], *, timeout: float | None = DEFAULT
    ) -> dict[str, Any]:
        """The answer of a simple operation, within `timeout` seconds (None: whenever it comes)."""
        async with self._asked(address, request, timeout) as (connection, answer):
            connection.finish()
            return answer

    @asynccontextmanager
    async def download(
        self,
        address: GuestAddress,
        request: dict[str, Any],
        *,
        timeout: float | None = DEFAULT,
        idle: float | None = DEFAULT,
    ) -> AsyncIterator[Download]:
        """A download: `answer`, then iterate over its frames up to the end.

        `timeout` is for the answer, `idle` between frames. Leaving early ends the call, not the process behind it.
        """
        async with self._asked(address, request, timeout) as (connection, answer):
            yield Download(connection, request, answer, _or(idle, patience.idle_seconds(request)))

    async def upload(
        self,
        address: GuestAddress,
        request: dict[str, Any],
        chunks: AsyncIterable[bytes],
        *,
        timeout: float | None = DEFAULT,
    ) -> dict[str, Any]:
        """Send `chunks` and give back the last answer; `chunks` is not begun before the guest says «go on».

        `timeout` is for each of the two answers. An error of `chunks` itself breaks off the upload and is raised.
        """
        async with self._asked(address, request, timeout) as (connection, _):
            await send_chunks(connection, chunks)
            answer = await connection.answer(_or(timeout, patience.LAST_ANSWER_SECONDS))
            connection.finish()
            return answer

    @asynccontextmanager
    async def duplex(
        self, address: GuestAddress, request: dict[str, Any], *, timeout: float | None = DEFAULT
    ) -> AsyncIterator[Duplex]:
        """A duplex: `answer`, then frames both ways until either side closes. Its connection is not used again."""
        async with self._asked(address, request, timeout) as (connection, answer):
            try:
                yield Duplex(connection, answer)
            finally:
                connection.close()

    def forget(self, address: GuestAddress) -> None:
        """Close all connections to a machine in that epoch; calls under way fail. Again: nothing happens."""
        found = self._machines.pop(address, None)
        if found is None:
            return
        found.forgotten = True
        for connection in list(found.open):
            connection.fail(GuestUnreachable("the machine was released"))

    async def close(self) -> None:
        """Forget every machine."""
        for address in list(self._machines):
            self.forget(address)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def _asked(
        self, address: GuestAddress, request: dict[str, Any], timeout: float | None
    ) -> AsyncIterator[tuple[GuestConnection, dict[str, Any]]]:
        """A connection on which the request was made and answered. It is kept if the call ends in good order."""
        data = frames.encode_json(request)
        machine = self._machines.setdefault(address, _Machine())
        machine.calls += 1
        try:
            await self._take_place(machine)
            try:
                connection, answer = await self._ask(machine, address, request, data, timeout)
                try:
                    yield connection, answer
                finally:
                    machine.put_back(connection)
            finally:
                machine.places.release()
        finally:
            machine.calls -= 1
            self._prune(address, machine)

    def _prune(self, address: GuestAddress, machine: _Machine) -> None:
        if not machine.calls and not machine.open and self._machines.get(address) is machine:
            del self._machines[address]

    async def _take_place(self, machine: _Machine) -> None:
        try:
            async with asyncio.timeout(self._seconds[0]):
                await machine.places.acquire()
        except TimeoutError:
            raise GuestRefused("limit", f"{OPEN_MOST} calls to this sandbox are under way") from None

    async def _ask(
        self,
        machine: _Machine,
        address: GuestAddress,
        request: dict[str, Any],
        data: bytes,
        timeout: float | None,
    ) -> tuple[GuestConnection, dict[str, Any]]:
        within = _or(timeout, patience.answer_seconds(request))
        kept = machine.take()
        if kept is not None:
            try:
                return kept, await self._first_answer(machine, kept, data, within)
            except GuestUnreachable:
                if kept.heard or machine.forgotten or not patience.repeatable(request):
                    raise
        connection = await self._open(machine, address)
        return connection, await self._first_answer(machine, connection, data, within)

    @staticmethod
    async def _first_answer(
        machine: _Machine, connection: GuestConnection, data: bytes, within: float | None
    ) -> dict[str, Any]:
        connection.begin()
        try:
            await connection.send(data)
            return await connection.answer(within)
        except GuestRefused:
            connection.finish()
            machine.put_back(connection)
            raise
        except BaseException:
            machine.put_back(connection)
            raise

    async def _open(self, machine: _Machine, address: GuestAddress) -> GuestConnection:
        async with machine.greeting:
            connection = await connect(address, machine.meter, machine.lost, self._seconds)
        if machine.forgotten:
            connection.close()
            raise GuestUnreachable("the machine was released")
        machine.open.add(connection)
        return connection


def _or(timeout: float | None, default: float | None) -> float | None:
    return default if timeout == DEFAULT else timeout
