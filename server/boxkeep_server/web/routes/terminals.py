"""Terminals: the URL of one, and the WebSocket behind it.

The socket carries the terminal's bytes both ways, in text or binary frames, as the attach addon of xterm.js sends and
takes them. One text frame is not typed text: a JSON object that names the terminal, `{"terminalId": "<its id>",
"resize": {"rows": 40, "cols": 120}}`. The id is random and sealed, so that nothing typed or pasted is taken for it.
"""

import asyncio
from typing import Annotated

import orjson
from pydantic import Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from boxkeep_server.control.terminals import Joined, Size
from boxkeep_server.control.visits import Duplex
from boxkeep_server.model.errors import BoxkeepError, NotFound, NotReady, Unauthenticated
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope as KeyScope
from boxkeep_server.web import shapes
from boxkeep_server.web.auth import caller_by_token, check_scope, token_of
from boxkeep_server.web.errors import response_of
from boxkeep_server.web.fields import Nothing, Query, QueryInt, Text, parse_query
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.parts import Caller, Parts
from boxkeep_server.web.sockets import FAULT, GONE, LEFT, PIECE, STUCK, STUCK_S, close, first_to_end, key_revoked
from boxkeep_server.web.terminal_urls import SOCKET_PATH, new_terminal_id, terminal_url
from boxkeep_server.web.tokens import Grant, Purpose
from boxkeep_server.web.views import json_response

CONTROL_MOST = 512


class TerminalQuery(Query):
    """A new terminal of a sandbox, or the one of `terminalId` again."""

    id: Annotated[Text, Field(min_length=1)]
    terminal_id: Annotated[Text, Field(pattern="^[a-z0-9]{32}$")] | None = None


class SocketQuery(Query):
    """What the URL of a terminal's socket holds; a client may add the size that it has."""

    id: Text
    terminal_id: Text
    token: Text
    rows: Annotated[QueryInt, Field(ge=1, le=1000)] | None = None
    cols: Annotated[QueryInt, Field(ge=1, le=1000)] | None = None


async def terminal(call: Call, query: TerminalQuery, _: Nothing) -> Response:
    """A URL of a terminal."""
    sandbox = await call.parts.sandboxes.get(call.caller, query.id)
    if not sandbox.running:
        raise NotReady
    terminal_id = query.terminal_id or new_terminal_id(call.parts, sandbox.id)
    if not call.parts.tokens.names(sandbox.id, terminal_id):
        raise NotFound("Terminal not found")
    link = terminal_url(call.parts, call.caller, sandbox.id, terminal_id)
    return json_response(
        {
            "id": sandbox.id,
            "terminalId": terminal_id,
            "terminalUrl": link.url,
            "token": link.token,
            "expiresAt": link.expires_at,
        }
    )


class TerminalSocket:
    """Serves the WebSockets of terminals. A page's origin is not trusted and not asked: the token alone opens."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        socket = WebSocket(scope, receive, send)
        try:
            caller, grant, joined = await self._open(scope)
        except BoxkeepError as error:
            await socket.send_denial_response(response_of(error))
            return
        self._parts.metrics.terminals.inc()
        try:
            await socket.accept(headers=[(b"x-terminal-id", grant.bound.encode())])
            code, reason = await _Session(self._parts, socket, joined.duplex, caller, grant).run()
            await close(socket, code, reason)
        finally:
            self._parts.metrics.terminals.dec()
            await joined.leave()

    async def _open(self, scope: Scope) -> tuple[Caller, Grant, Joined]:
        token = token_of(scope["query_string"])
        caller, grant = await caller_by_token(token, Purpose.TERMINAL, self._parts)
        query = parse_query(SocketQuery, scope["query_string"])
        if (query.id, query.terminal_id) != (grant.sandbox, grant.bound):
            raise Unauthenticated
        await self._parts.rates.take(caller.organisation, CallKind.TERMINAL)
        check_scope(caller, KeyScope.EXEC)
        size = Size(query.rows or 24, query.cols or 80) if query.rows or query.cols else None
        return caller, grant, await self._parts.terminals.join(caller, grant.sandbox, grant.bound, size)


class _Session:
    """One client on one terminal."""

    def __init__(self, parts: Parts, socket: WebSocket, duplex: Duplex, caller: Caller, grant: Grant) -> None:
        self._parts = parts
        self._socket = socket
        self._duplex = duplex
        self._caller = caller
        self._grant = grant

    async def run(self) -> tuple[int, str]:
        """Carry bytes until one side ends or may no longer; the close code and why."""
        revoked = key_revoked(self._grant.key_id, self._parts)
        return _why(await first_to_end(self._outwards(), self._inwards(), revoked))

    async def _outwards(self) -> tuple[int, str]:
        async for frame in self._duplex.frames():
            if frame.stream is None:
                return LEFT, "The shell has ended"
            try:
                async with asyncio.timeout(STUCK_S):
                    await self._socket.send_bytes(frame.data)
            except TimeoutError:
                return STUCK, "The client takes nothing"
        return LEFT, "The shell has ended"

    async def _inwards(self) -> tuple[int, str]:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return LEFT, "The client has left"
            text = message.get("text")
            size = None if text is None else resize_of(text, self._grant.bound)
            if size is not None:
                await self._duplex.send_message({"resize": {"rows": size.rows, "cols": size.cols}})
                continue
            data = text.encode() if text is not None else message.get("bytes") or b""
            for at in range(0, len(data), PIECE):
                await self._duplex.send(data[at : at + PIECE])


def resize_of(text: str, terminal_id: str) -> Size | None:
    """The size that a text frame asks for; None where the frame is something typed.

    Only a JSON object that holds the terminal's own id is a message to us.
    """
    if len(text) > CONTROL_MOST or terminal_id not in text or not text.startswith("{"):
        return None
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if message.get("terminalId") != terminal_id or not isinstance(message.get("resize"), dict):
        return None
    rows, cols = message["resize"].get("rows"), message["resize"].get("cols")
    if not all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 1000 for n in (rows, cols)):
        return None
    return Size(rows, cols)


def _why(task: "asyncio.Task[tuple[int, str]]") -> tuple[int, str]:
    error = task.exception()
    match error:
        case None:
            return task.result()
        case NotReady():
            return GONE, "The sandbox has ended"
        case WebSocketDisconnect() | ConnectionError():
            return LEFT, "The client has left"
        case BoxkeepError():
            return FAULT, error.sentence[:100]
        case _:
            raise error


OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path=SOCKET_PATH,
        name="openTerminal",
        summary="Get the URL of a terminal",
        description="The URL opens a WebSocket within five minutes and starts a shell when it is first used; the same "
        "`terminalId` joins it again, with its scrollback. Frames are the terminal's bytes. A text frame "
        '`{"terminalId": "…", "resize": {"rows": 40, "cols": 120}}` resizes. Close codes: 1000 the shell ended, '
        "4401 the key was revoked, 4408 the client takes nothing, 4410 the sandbox ended, 4502 the sandbox answered "
        "wrongly.",
        scope=KeyScope.EXEC,
        kind=CallKind.TERMINAL,
        handler=terminal,
        query=TerminalQuery,
        body=Nothing,
        answers={200: Answer("The URL.", shapes.TerminalShape)},
        faults=frozenset({404, 409}),
        tag="terminals",
    ),
)
