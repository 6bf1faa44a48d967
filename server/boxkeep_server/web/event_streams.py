"""Server-sent events: encoding, heartbeats, backpressure, and an end when the client is gone."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from boxkeep_server.model.errors import Invalid
from boxkeep_server.web.edge import Broken

HEARTBEAT_S = 15.0
STUCK_S = 60.0
HEARTBEAT = b": heartbeat\n\n"


def encode_event(name: str, data: object, event_id: int | None = None) -> bytes:
    """One server-sent event. JSON has no line breaks, so that one data line is enough."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {name}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


def last_event_id(request: Request) -> int | None:
    """The id behind which a client wants to go on, None where it begins.

    Raises:
        Invalid: it is no id of ours.
    """
    given = request.headers.get("last-event-id")
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= 9):
        raise Invalid("Invalid Last-Event-ID: must be the id of an event of this stream")
    return int(given)


async def send_in_time(send: Send, chunk: bytes, more: bool = True) -> None:
    """Send a part of a body; a client that takes nothing for a minute is given up.

    Raises:
        Broken: the client is stuck.
    """
    try:
        async with asyncio.timeout(STUCK_S):
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
    except TimeoutError as stuck:
        raise Broken("the client takes nothing") from stuck


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed its side."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Streamed(Response):
    """A response whose body `source` yields. Silence is filled with `heartbeat`, where there is one."""

    heartbeat: bytes | None = None
    heartbeat_s: float = HEARTBEAT_S

    def __init__(self, source: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        super().__init__(None, 200, headers)
        del self.headers["content-length"]
        self._source = source
        self._lapsed: Callable[[], Awaitable[None]] = _never

    def end_when(self, lapsed: Callable[[], Awaitable[None]]) -> None:
        """Break off when `lapsed` returns: whoever watches may do so no longer."""
        self._lapsed = lapsed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the source ends or the client is gone; the source is closed either way."""
        gone = asyncio.create_task(until_gone(receive))
        lapsed = asyncio.ensure_future(self._lapsed())
        lapsed.add_done_callback(lambda _: gone.cancel())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send_in_time(send, b"")
            await self._pump(send, gone)
            if lapsed.done():
                raise Broken("the key was revoked")
        finally:
            await _ended(lapsed)
            await _ended(gone)
            await self._source.aclose()

    async def _pump(self, send: Send, gone: asyncio.Task[None]) -> None:
        following = asyncio.create_task(_next(self._source))
        try:
            while not gone.done():
                await asyncio.wait({following, gone}, timeout=self.heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    chunk = following.result()
                    if chunk is None:
                        await send_in_time(send, b"", more=False)
                        return
                    following = asyncio.create_task(_next(self._source))
                    await send_in_time(send, chunk)
                elif self.heartbeat is not None and not gone.done():
                    await send_in_time(send, self.heartbeat)
        finally:
            await _ended(following)


class EventStream(Streamed):
    """Server-sent events, with a comment every 15 s of silence."""

    heartbeat = HEARTBEAT

    def __init__(self, source: AsyncGenerator[bytes, None]) -> None:
        super().__init__(
            source,
            {
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            },
        )


async def _never() -> None:
    await asyncio.Event().wait()


async def _next(source: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(source, None)


async def _ended(task: "asyncio.Future[bytes | None] | asyncio.Future[None]") -> None:
    """Cancel a task and wait until it is over; what it would have raised no longer matters."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
