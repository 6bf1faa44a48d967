"""WebSockets over the event loop's streams: whole messages, either side."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

_BLOCK: Final = 256 << 10
_MOST: Final = 128 << 20
_OPEN_S: Final = 10.0
_HEARD_S: Final = 2.0

Headers = Sequence[tuple[bytes, bytes]]


class SocketClosed(Exception):
    """The other side has closed, with what it gives for a reason, or does not speak as a WebSocket does."""


class Socket:
    """One WebSocket. One task may receive while others send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: WSConnection) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = protocol
        self._parts: list[str | bytes] = []
        self._size = 0

    @classmethod
    async def accept(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, headers: Headers
    ) -> "Socket":
        """The server's side of an upgrade that was asked for.

        Raises:
            SocketClosed: it is none.
        """
        protocol = WSConnection(ConnectionType.SERVER)
        try:
            protocol.initiate_upgrade_connection([(bytes(name), bytes(value)) for name, value in headers], target)
            for event in protocol.events():
                if isinstance(event, Request):
                    socket = cls(reader, writer, protocol)
                    await socket._send(AcceptConnection())
                    return socket
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise SocketClosed from error
        raise SocketClosed

    @classmethod
    async def connect(cls, port: int, target: str) -> "Socket":
        """The client's side, on a port of loopback.

        Raises:
            SocketClosed: nobody is there, or it is refused.
        """
        try:
            async with asyncio.timeout(_OPEN_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                socket = cls(reader, writer, WSConnection(ConnectionType.CLIENT))
                await socket._send(Request(host=f"127.0.0.1:{port}", target=target))
                await socket._accepted()
        except (OSError, TimeoutError) as error:
            raise SocketClosed from error
        return socket

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            SocketClosed
        """
        while True:
            for event in self._protocol.events():
                message = await self._heard(event)
                if message is not None:
                    return message
            await self._read()

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the other side is slow.

        Raises:
            SocketClosed
        """
        await self._send(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say that it is over, and drop it. May be repeated."""
        try:
            self._writer.write(self._protocol.send(CloseConnection(code, reason)))
        except (LocalProtocolError, OSError):
            pass
        finally:
            self._writer.close()

    async def turn_away(self, code: int, reason: str) -> None:
        """Say why it is over to who may be speaking already, and drop it once that was heard. Nobody else may receive.

        Dropped at once, what the other side has just sent would have the kernel reset the connection, and the reason
        would be lost with it.
        """
        with contextlib.suppress(LocalProtocolError, OSError, TimeoutError):
            async with asyncio.timeout(_HEARD_S):
                self._writer.write(self._protocol.send(CloseConnection(code, reason)))
                self._writer.write_eof()
                while await self._reader.read(_BLOCK):
                    pass
        self._writer.close()

    async def _accepted(self) -> None:
        while True:
            for event in self._protocol.events():
                if isinstance(event, AcceptConnection):
                    return
                if isinstance(event, (RejectConnection, CloseConnection)):
                    raise SocketClosed
            await self._read()

    async def _heard(self, event: Event) -> str | bytes | None:
        if isinstance(event, (TextMessage, BytesMessage)):
            return self._joined(event)
        if isinstance(event, Ping):
            await self._send(event.response())
        elif isinstance(event, CloseConnection):
            await self.close(event.code)
            raise SocketClosed(event.reason or "")
        return None

    def _joined(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        self._parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
        self._size += len(event.data)
        if self._size > _MOST:
            raise SocketClosed
        if not event.message_finished:
            return None
        parts, self._parts, self._size = self._parts, [], 0
        if isinstance(event, TextMessage):
            return "".join(part for part in parts if isinstance(part, str))
        return b"".join(part for part in parts if isinstance(part, bytes))

    async def _read(self) -> None:
        try:
            data = await self._reader.read(_BLOCK)
            self._protocol.receive_data(data or None)
        except (RemoteProtocolError, LocalProtocolError, OSError) as error:
            raise SocketClosed from error

    async def _send(self, event: Event) -> None:
        try:
            self._writer.write(self._protocol.send(event))
            await self._writer.drain()
        except (LocalProtocolError, OSError) as error:
            raise SocketClosed from error
