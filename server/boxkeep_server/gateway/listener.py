"""Listens for browsers, and serves each connection in a task of its own, as many as there is room for."""

import asyncio
from typing import Final

from boxkeep_server.gateway.streams import PIECE, ClientStream
from boxkeep_server.gateway.visitor import Doors, Visitor
from boxkeep_server.model.errors import Unavailable

CLIENTS_MOST: Final = 4000
BACKLOG: Final = 1024


class Gateway:
    """The gateway on an address of its own."""

    def __init__(self, doors: Doors, listen: str, port: int, clients_most: int = CLIENTS_MOST) -> None:
        self._doors = doors
        self._where = (listen, port)
        self._most = clients_most
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve for ever.

        Raises:
            Unavailable: the port cannot be listened on.
        """
        try:
            server = await asyncio.start_server(self._met, *self._where, limit=PIECE, backlog=BACKLOG)
        except OSError as error:
            where = f"port {self._where[1]} of {self._where[0]}"
            raise Unavailable(f"The gateway cannot listen on {where}: {error.strerror}") from error
        try:
            async with server:
                await self._doors.vigil.run()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody has connected; who comes when all places are taken is shut out at once."""
        if len(self._tasks) >= self._most:
            writer.transport.abort()
            return
        address = str((writer.get_extra_info("peername") or ("unknown",))[0])
        visitor = Visitor(self._doors, ClientStream(reader, writer), address)
        task = asyncio.get_running_loop().create_task(visitor.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
