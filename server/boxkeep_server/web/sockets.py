"""What the WebSockets of terminals, browsers and viewers have in common: how they are carried and how they close."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from boxkeep_server.model.scopes import Scope
from boxkeep_server.web.auth import until_revoked
from boxkeep_server.web.parts import Parts

Closing = tuple[int, str]
"""A close code, and why."""

LEFT: Final = 1000
GONE: Final = 4410
REVOKED: Final = 4401
STUCK: Final = 4408
FAULT: Final = 4502
"""The client left, or the shell ended; the sandbox does not run; the key is revoked; the client takes nothing;
the inside speaks wrongly."""

STUCK_S: Final = 60.0
PIECE: Final = 128 * 1024


async def first_to_end(*steps: Coroutine[Any, Any, Closing]) -> "asyncio.Task[Closing]":
    """Carry on with all of these until the first one ends, which is returned; the others are cancelled and over."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def key_revoked(key_id: str, parts: Parts) -> Closing:
    """Wait until the key that opened the socket may run commands no more."""
    await until_revoked(key_id, Scope.EXEC, parts)
    return REVOKED, "The key was revoked"


async def close(socket: WebSocket, code: int, reason: str) -> None:
    """Close it, unless the client was quicker."""
    try:
        await socket.close(code, reason[:100])
    except (RuntimeError, WebSocketDisconnect, ConnectionError):
        return
