"""The WebSocket of a viewer: binary frames are the display's bytes by VNC, text frames are JSON between page and us."""

import asyncio
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from boxkeep_server.control.visits import Duplex
from boxkeep_server.model.browsers import Browser
from boxkeep_server.model.errors import BoxkeepError, NotReady, Unauthenticated
from boxkeep_server.model.handoffs import Handoff
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope as KeyScope
from boxkeep_server.web.auth import caller_by_token, check_scope, token_of
from boxkeep_server.web.errors import response_of
from boxkeep_server.web.fields import Query, Text, parse_query
from boxkeep_server.web.parts import Caller, Parts
from boxkeep_server.web.sockets import (
    FAULT,
    GONE,
    LEFT,
    PIECE,
    REVOKED,
    STUCK,
    STUCK_S,
    close,
    first_to_end,
    key_revoked,
)
from boxkeep_server.web.tokens import Purpose
from boxkeep_server.web.viewer.rfb import NoViewer, Words
from boxkeep_server.web.viewer.urls import ViewerRight, right_of, viewer_token
from boxkeep_server.web.views import handoff_shown

LOOK_S: Final = 0.5
RENEWED_S: Final = 60.0
CONTROL_MOST: Final = 4096

NOT_YET: Final = 4409
"""Why a socket closes besides what all close for: the browser is not there yet."""


class SocketQuery(Query):
    """What the address of a viewer's socket holds."""

    id: Text
    token: Text


class ViewerSocket:
    """Serves the WebSockets of viewers. A page's origin is not asked: the token alone opens."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        socket = WebSocket(scope, receive, send)
        try:
            caller, sandbox, right = await self._open(scope)
        except Unauthenticated:
            await socket.accept()
            await close(socket, REVOKED, "The link is over")
            return
        except BoxkeepError as error:
            await socket.send_denial_response(response_of(error))
            return
        await socket.accept()
        code, reason = await _Session(self._parts, socket, caller, sandbox, right).run()
        await close(socket, code, reason)

    async def _open(self, scope: Scope) -> tuple[Caller, str, ViewerRight]:
        caller, grant = await caller_by_token(token_of(scope["query_string"]), Purpose.VIEWER, self._parts)
        query = parse_query(SocketQuery, scope["query_string"])
        if query.id != grant.sandbox:
            raise Unauthenticated
        await self._parts.rates.take(caller.organisation, CallKind.TERMINAL)
        check_scope(caller, KeyScope.EXEC)
        return caller, grant.sandbox, right_of(grant)


class _Session:
    """One viewer of one browser."""

    def __init__(self, parts: Parts, socket: WebSocket, caller: Caller, sandbox: str, right: ViewerRight) -> None:
        self._parts = parts
        self._socket = socket
        self._caller = caller
        self._sandbox = sandbox
        self._right = right
        self._drives = False
        self._turn = asyncio.Lock()

    async def run(self) -> tuple[int, str]:
        """Carry bytes and words until one side ends or may no longer; the close code and why."""
        try:
            browser = await self._look()
            if browser.display is None:
                await self._say(await self._state(browser, display=False))
                return NOT_YET, "The browser is starting"
            display = await self._parts.browsers.display(self._caller, self._sandbox)
        except BoxkeepError as error:
            return _why_not(error)
        except (WebSocketDisconnect, ConnectionError):
            return LEFT, "The viewer has left"
        try:
            await self._say(await self._state(browser, display=True))
            return await self._until_one_ends(display)
        except (WebSocketDisconnect, ConnectionError, RuntimeError):
            return LEFT, "The viewer has left"
        finally:
            await display.aclose()

    async def _until_one_ends(self, display: Duplex) -> tuple[int, str]:
        revoked = key_revoked(self._caller.key_id, self._parts)
        return _why(await first_to_end(self._outwards(display), self._inwards(display), self._told(), revoked))

    async def _outwards(self, display: Duplex) -> tuple[int, str]:
        async for frame in display.frames():
            if frame.stream is None:
                continue
            async with asyncio.timeout(STUCK_S), self._turn:
                await self._socket.send_bytes(frame.data)
        return FAULT, "The display has ended"

    async def _inwards(self, display: Duplex) -> tuple[int, str]:
        words = Words(lambda: self._drives)
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return LEFT, "The viewer has left"
            if message.get("text") is not None:
                await self._ordered(message["text"])
                continue
            passed = words.passed(message.get("bytes") or b"")
            for at in range(0, len(passed), PIECE):
                await display.send(passed[at : at + PIECE])

    async def _told(self) -> tuple[int, str]:
        """Tell the page what changes, and give it a new token now and then for when it has to come again."""
        clock = asyncio.get_running_loop().time
        said: dict[str, Any] = {}
        renewed = 0.0
        while True:
            state = await self._state(await self._look(), display=True)
            known = {name: value for name, value in state.items() if name != "token"}
            if known != said or clock() - renewed > RENEWED_S:
                await self._say(state)
                said, renewed = known, clock()
            await self._parts.sandboxes.hear(self._sandbox, LOOK_S)

    async def _ordered(self, text: str) -> None:
        """What a person wants by a button."""
        if len(text) > CONTROL_MOST:
            return
        try:
            order = orjson.loads(text)
            do = order.get("do") if isinstance(order, dict) else None
            if self._right.may_drive:
                await self._do(do)
        except orjson.JSONDecodeError:
            return
        except BoxkeepError as error:
            await self._say({"refused": error.sentence})

    async def _do(self, deed: object) -> None:
        handoffs = self._parts.handoffs
        match deed:
            case "take":
                await handoffs.take(self._caller, self._sandbox, self._right.name)
            case "give":
                await handoffs.complete(self._caller, self._sandbox, None)
            case "cancel":
                await handoffs.cancel(self._caller, self._sandbox)

    async def _look(self) -> Browser:
        _, browser = await self._parts.browsers.read(self._caller, self._sandbox)
        return browser

    async def _state(self, browser: Browser, *, display: bool) -> dict[str, Any]:
        handoff = await self._parts.handoffs.latest(self._sandbox)
        self._drives = self._may_touch(browser, handoff)
        token, _ = viewer_token(self._parts, self._caller, self._sandbox, self._right)
        return {
            "status": browser.status,
            "controlMode": browser.mode,
            "controller": handoff.controller if handoff is not None and handoff.mode != "ai" else None,
            "handoff": None if handoff is None else handoff_shown(handoff),
            "mayDrive": self._right.may_drive and browser.human_in_loop,
            "driving": self._drives,
            "recorded": browser.recorded,
            "display": display,
            "token": token,
        }

    def _may_touch(self, browser: Browser, handoff: Handoff | None) -> bool:
        """Whether this person drives: it is written so, and the agent has been told to keep its hands off."""
        if not self._right.may_drive or handoff is None or handoff.mode == "ai" or browser.mode == "ai":
            return False
        return handoff.controller == self._right.name

    async def _say(self, said: dict[str, Any]) -> None:
        async with asyncio.timeout(STUCK_S), self._turn:
            await self._socket.send_text(orjson.dumps(said).decode())


def _why(task: "asyncio.Task[tuple[int, str]]") -> tuple[int, str]:
    error = task.exception()
    match error:
        case None:
            return task.result()
        case TimeoutError():
            return STUCK, "The viewer takes nothing"
        case NoViewer():
            return FAULT, "That is no viewer"
        case WebSocketDisconnect() | ConnectionError() | RuntimeError():
            return LEFT, "The viewer has left"
        case BoxkeepError():
            return _why_not(error)
        case _:
            raise error


def _why_not(error: BoxkeepError) -> tuple[int, str]:
    if isinstance(error, NotReady):
        return GONE, "The sandbox is not running"
    return FAULT, error.sentence[:100]
