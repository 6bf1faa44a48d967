"""The WebSocket of a browser's protocol: messages pass between its client and the browser of a sandbox as they are."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from boxkeep_server.control.visits import Duplex
from boxkeep_server.model.errors import BoxkeepError, NotReady, SandboxFault, Unauthenticated
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope as KeyScope
from boxkeep_server.web.auth import caller_by_token, check_scope, token_of
from boxkeep_server.web.errors import response_of
from boxkeep_server.web.fields import Query, Text, parse_query
from boxkeep_server.web.parts import Caller, Parts
from boxkeep_server.web.sockets import FAULT, GONE, LEFT, PIECE, STUCK, STUCK_S, first_to_end, key_revoked
from boxkeep_server.web.tokens import Purpose

SOCKET_PATH: Final = "/v1/sandboxes/preview/cdp"
OPEN_S: Final = 10.0
MESSAGE_MOST: Final = 128 << 20

BROWSER_LEFT: Final = 1001
"""Why a socket closes besides what all close for: the browser has closed."""


class SocketQuery(Query):
    """What the address of the socket holds."""

    id: Text
    token: Text


class CdpSocket:
    """Serves them. What a client may do is decided by the door inside the sandbox, which knows who drives."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        socket = WebSocket(scope, receive, send)
        try:
            caller, inner = await self._open(scope)
        except BoxkeepError as error:
            await socket.send_denial_response(response_of(error))
            return
        try:
            await socket.accept()
            steps = (_outwards(socket, inner), _inwards(socket, inner), key_revoked(caller.key_id, self._parts))
            code, reason = _why(await first_to_end(*steps))
            await socket.close(code, reason[:100])
        except (RuntimeError, WebSocketDisconnect, ConnectionError):
            return  # the client was quicker
        finally:
            await inner.aclose()

    async def _open(self, scope: Scope) -> tuple[Caller, "InnerSocket"]:
        caller, grant = await caller_by_token(token_of(scope["query_string"]), Purpose.CDP, self._parts)
        query = parse_query(SocketQuery, scope["query_string"])
        if query.id != grant.sandbox:
            raise Unauthenticated
        await self._parts.rates.take(caller.organisation, CallKind.TERMINAL)
        check_scope(caller, KeyScope.EXEC)
        inner = InnerSocket(await self._parts.browsers.devtools(caller, grant.sandbox))
        try:
            await inner.open("/devtools/browser")
        except BaseException:
            await inner.aclose()
            raise
        return caller, inner


class InnerSocket:
    """The client's side of a WebSocket to something in a sandbox, over a connection that was dialled."""

    def __init__(self, way: Duplex) -> None:
        self._way = way
        self._frames = way.frames()
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self.closed_with: tuple[int, str] = (BROWSER_LEFT, "The browser has closed")

    async def open(self, target: str) -> None:
        """Shake hands.

        Raises:
            SandboxFault: whoever is there does not.
            NotReady, TimedOut, Unavailable: as the sandbox is.
        """
        try:
            async with asyncio.timeout(OPEN_S):
                await self._send(Request(host="localhost", target=target))
                async for event in self._events():
                    if isinstance(event, AcceptConnection):
                        return
                    break
        except TimeoutError as late:
            raise SandboxFault from late
        raise SandboxFault

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        """What comes, message by message, until it is closed.

        Raises:
            SandboxFault: it is not as a WebSocket speaks, or more than is taken.
        """
        parts: list[str | bytes] = []
        size = 0
        async for event in self._events():
            if isinstance(event, CloseConnection):
                self.closed_with = event.code, event.reason or ""
                return
            if not isinstance(event, TextMessage | BytesMessage):
                continue
            parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
            size += len(event.data)
            if size > MESSAGE_MOST:
                raise SandboxFault
            if event.message_finished:
                yield _joined(parts)
                parts, size = [], 0

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the other side is slow."""
        await self._send(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def aclose(self) -> None:
        """Let it go."""
        await self._way.aclose()

    async def _events(self) -> AsyncGenerator[Event, None]:
        while True:
            try:
                for event in self._protocol.events():
                    if isinstance(event, Ping):
                        await self._send(event.response())
                    else:
                        yield event
                frame = await anext(self._frames, None)
                self._protocol.receive_data(None if frame is None else frame.data)
            except (RemoteProtocolError, LocalProtocolError) as wrong:
                raise SandboxFault from wrong
            if frame is None:
                return

    async def _send(self, event: Event) -> None:
        try:
            data = self._protocol.send(event)
        except LocalProtocolError as closed:
            raise SandboxFault from closed
        for at in range(0, len(data), PIECE):
            await self._way.send(data[at : at + PIECE])


def _joined(parts: list[str | bytes]) -> str | bytes:
    if isinstance(parts[0], str):
        return "".join(part for part in parts if isinstance(part, str))
    return b"".join(part for part in parts if isinstance(part, bytes))


async def _outwards(socket: WebSocket, inner: InnerSocket) -> tuple[int, str]:
    async for message in inner.messages():
        async with asyncio.timeout(STUCK_S):
            await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))
    code, reason = inner.closed_with
    return code if code >= LEFT and code not in (1005, 1006, 1015) else BROWSER_LEFT, reason


async def _inwards(socket: WebSocket, inner: InnerSocket) -> tuple[int, str]:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return LEFT, "The client has left"
        text = message.get("text")
        await inner.send(text if text is not None else message.get("bytes") or b"")


def _why(task: "asyncio.Task[tuple[int, str]]") -> tuple[int, str]:
    error = task.exception()
    match error:
        case None:
            return task.result()
        case TimeoutError():
            return STUCK, "The client takes nothing"
        case WebSocketDisconnect() | ConnectionError() | RuntimeError():
            return LEFT, "The client has left"
        case NotReady():
            return GONE, "The sandbox is not running"
        case BoxkeepError():
            return FAULT, error.sentence
        case _:
            raise error
