"""The two ends of the gateway as bytes: a client's socket, and a port inside a sandbox. Both push back."""

import asyncio
from contextlib import aclosing, suppress
from typing import Protocol

from boxkeep_server.control.visits import Duplex
from boxkeep_server.model.errors import SandboxFault

PIECE = 64 * 1024
STUCK_S = 60.0
AT_A_STRETCH = 64
"""Pieces from a guest, which may be of a byte each, after which others have their turn."""
PARTING_S = 2.0
PARTING_BYTES = 4 * 1024 * 1024


class ClientGone(Exception):
    """The client has left, or takes nothing."""


class Stream(Protocol):
    """Bytes both ways."""

    async def read(self) -> bytes:
        """The next bytes, none at the end."""

    async def write(self, data: bytes) -> None:
        """Send, waiting while the other side is slow."""

    async def end(self) -> None:
        """Say that no more is sent."""


class ClientStream:
    """A client. Every method raises `ClientGone`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See `Stream`."""
        try:
            return await self._reader.read(PIECE)
        except OSError as error:
            raise ClientGone from error

    async def write(self, data: bytes) -> None:
        """See `Stream`. A client that takes nothing for a minute is gone."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(STUCK_S):
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise ClientGone from error

    async def end(self) -> None:
        """See `Stream`."""
        try:
            self._writer.write_eof()
        except (OSError, RuntimeError) as error:
            raise ClientGone from error

    async def part(self) -> None:
        """Close so that the client can read our last words, though it may still be sending."""
        with suppress(ClientGone, TimeoutError):
            await self.end()
            async with asyncio.timeout(PARTING_S):
                left = PARTING_BYTES
                while left > 0 and (data := await self.read()):
                    left -= len(data)
        self._writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(STUCK_S):
                await self._writer.wait_closed()

    def abort(self) -> None:
        """Close at once, so that the client sees that something is missing, if anything is. Again: nothing happens."""
        self._writer.transport.abort()


class PortStream:
    """A port of a sandbox. Every method raises what a `Duplex` does."""

    def __init__(self, duplex: Duplex) -> None:
        self._duplex = duplex
        self._frames = duplex.frames()
        self._taken = 0

    @property
    def quiet(self) -> bool:
        """Whether it is open, and nothing has come that was not read."""
        return self._duplex.quiet

    async def read(self) -> bytes:
        """See `Stream`. Raises SandboxFault too, where the end is none that the program has made."""
        self._taken += 1
        if not self._taken % AT_A_STRETCH:
            await asyncio.sleep(0)
        frame = await anext(self._frames, None)
        if frame is None:
            if not self._duplex.ended:
                raise SandboxFault("The connection broke off")
            return b""
        if frame.stream != "stdout":
            raise SandboxFault
        return frame.data

    async def write(self, data: bytes) -> None:
        """See `Stream`."""
        await self._duplex.send(data)

    async def end(self) -> None:
        """See `Stream`."""
        await self._duplex.end()

    async def close(self) -> None:
        """Let it go."""
        async with aclosing(self._frames):
            await self._duplex.aclose()
