"""The server's side of MCP: what a client may ask, tools that run beside each other, and their cancellation."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from boxkeep_tools.faults import ToolFailed
from boxkeep_tools.messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Fault,
    Id,
    Incoming,
    answer,
    notification,
    read,
)
from boxkeep_tools.tools import Content, Tool, text

REVISIONS: Final = ("2025-11-25", "2025-06-18", "2024-11-05")
"""Of the protocol, the latest first. 2025-03-26 alone has batches, and whoever knows it knows a later one; clients of
2026-07-28, which has no `initialize`, go back to it when `server/discover` is unknown."""
_INFO: Final = {"name": "boxkeep", "title": "Boxkeep sandbox", "version": "1"}
_AT_ONCE: Final = 16
_BEAT_S: Final = 3.0
"""A client gives a silent call up after as little as five seconds."""

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Server:
    """One client's server. `hear` takes its messages one by one; `send` carries ours, and waits while it is slow."""

    def __init__(self, tools: Sequence[Tool], instructions: str, send: Send) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._instructions = instructions
        self._send = send
        self._works: dict[Id, asyncio.Task[Sequence[Content]]] = {}
        self._attending: set[asyncio.Task[None]] = set()

    async def hear(self, line: bytes | None) -> None:
        """Do what a line asks, or begin to. `line` is None for one that was too long."""
        try:
            message = read(line)
            if message is None:
                return
            if message.id is None:
                self._noted(message)
            else:
                await self._asked(message, message.id)
        except Fault as fault:
            await self._send(fault.message)

    async def end(self) -> None:
        """Have everything end that still runs."""
        attending = list(self._attending)
        for work in self._works.values():
            work.cancel()
        await asyncio.gather(*attending, return_exceptions=True)

    def _noted(self, message: Incoming) -> None:
        if message.method == "notifications/cancelled":
            given_up = message.params.get("requestId")
            work = self._works.get(given_up) if isinstance(given_up, str | int) else None
            if work is not None:
                work.cancel()

    async def _asked(self, message: Incoming, own: Id) -> None:
        match message.method:
            case "initialize":
                await self._send(answer(own, self._introduced(message.params)))
            case "ping":
                await self._send(answer(own, {}))
            case "tools/list":
                await self._send(answer(own, {"tools": [tool.told for tool in self._tools.values()]}))
            case "tools/call":
                self._begin(message.params, own)
            case unknown:
                raise Fault(METHOD_NOT_FOUND, f"There is no method {unknown[:80]!r}", own)

    def _introduced(self, params: dict[str, Any]) -> dict[str, Any]:
        wished = params.get("protocolVersion")
        return {
            "protocolVersion": wished if wished in REVISIONS else REVISIONS[0],
            "capabilities": {"tools": {}},
            "serverInfo": _INFO,
            "instructions": self._instructions,
        }

    def _begin(self, params: dict[str, Any], own: Id) -> None:
        name, meta = params.get("name"), params.get("_meta")
        tool = self._tools.get(name) if isinstance(name, str) else None
        if tool is None:
            raise Fault(INVALID_PARAMS, f"There is no tool {str(name)[:80]!r}", own)
        if own in self._works:
            raise Fault(INVALID_REQUEST, "A request of this id is under way", own)
        if len(self._works) >= _AT_ONCE:
            raise Fault(INVALID_REQUEST, f"{_AT_ONCE} calls are under way already", own)
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        work = asyncio.create_task(_done(tool, params.get("arguments", {})))
        self._works[own] = work
        attending = asyncio.create_task(self._attend(work, own, token if isinstance(token, str | int) else None))
        self._attending.add(attending)
        attending.add_done_callback(self._attending.discard)

    async def _attend(self, work: asyncio.Task[Sequence[Content]], own: Id, token: Id | None) -> None:
        """Say from time to time that a call goes on, and in the end what came of it; nothing once it is cancelled."""
        try:
            beats = 0
            while not (await asyncio.wait({work}, timeout=_BEAT_S))[0]:
                beats += 1
                if token is not None:
                    await self._send(notification("notifications/progress", progressToken=token, progress=beats))
        finally:
            del self._works[own]
        if not work.cancelled():
            await self._send(_outcome(work, own))


async def _done(tool: Tool, arguments: Any) -> Sequence[Content]:
    return await tool.run(tool.checked(arguments))


def _outcome(work: asyncio.Task[Sequence[Content]], own: Id) -> dict[str, Any]:
    error = work.exception()
    if error is None:
        return answer(own, {"content": list(work.result()), "isError": False})
    if isinstance(error, ToolFailed):
        return answer(own, {"content": [text(str(error))], "isError": True})
    sys.stderr.write(f"boxkeep-tools: {error!r}\n")
    return Fault(INTERNAL_ERROR, "The tool has broken", own).message
