"""A proxy before a real S3 server that answers wrongly, late or not at all while it is told to."""

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import aiohttp
from aiohttp import web
from yarl import URL

_STEP = 1 << 16
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-encoding", "server", "date"}


class Fault(StrEnum):
    """What the proxy does to requests."""

    NONE = "none"
    AWAY = "away"
    """Hangs up before an answer."""
    BROKEN = "broken"
    """Answers 500."""
    SILENT = "silent"
    """Never answers."""
    SLOW = "slow"
    """Begins to answer, and then a few bytes a second come."""
    CUT = "cut"
    """Hangs up in the middle of what it gives."""
    FORGETFUL = "forgetful"
    """Makes an object whole, or deletes one, and hangs up before it says so."""
    CORRUPT_ANSWERS = "corrupt answers"
    """Changes one bit of what it gives."""
    CORRUPT_PUTS = "corrupt puts"
    """Changes one bit of what it stores."""


class FaultyStore:
    """Passes on to `target`, with `fault`. What it was asked is counted."""

    def __init__(self, target: str) -> None:
        self.fault = Fault.NONE
        self.asked = 0
        self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._healthy = asyncio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty store")

    @contextmanager
    def with_fault(self, fault: Fault) -> Iterator[None]:
        """Within it everything that is asked meets this fault; what hangs then goes on after it."""
        self.fault = fault
        self._loop.call_soon_threadsafe(self._healthy.clear)
        try:
            yield
        finally:
            self.fault = Fault.NONE
            self._loop.call_soon_threadsafe(self._healthy.set)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        """Hang up on everybody."""
        self._loop.call_soon_threadsafe(self._healthy.set)
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        application = web.Application(client_max_size=1 << 32)
        application.router.add_route("*", "/{tail:.*}", self._pass)
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self.port = runner.addresses[0][1]
            self._up.set()
            await self._over.wait()
            await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        fault = self.fault
        if fault is Fault.SILENT:
            await self._healthy.wait()
        if fault in (Fault.AWAY, Fault.SILENT):
            return _hang_up(request)
        if fault is Fault.BROKEN:
            return web.Response(status=500)
        body = await request.read()
        if fault is Fault.CORRUPT_PUTS and request.method == "PUT" and body:
            body = _changed(body)
        url = URL(f"{self._target}{request.raw_path}", encoded=True)
        async with self._session.request(request.method, url, data=io.BytesIO(body), headers=request.headers) as answer:
            if fault is Fault.FORGETFUL and _ends_something(request):
                await answer.read()
                return _hang_up(request)
            return await self._give(request, answer, fault)

    async def _give(self, request: web.Request, answer: aiohttp.ClientResponse, fault: Fault) -> web.StreamResponse:
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        given = web.StreamResponse(status=answer.status, headers=headers)
        content = await answer.read()
        if fault is Fault.CORRUPT_ANSWERS and request.method == "GET" and content:
            content = _changed(content)
        await given.prepare(request)
        if fault is Fault.CUT and content:
            await given.write(content[: len(content) // 2])
            return _hang_up(request)
        if fault is Fault.SLOW:
            await self._drip(given, content)
        else:
            await given.write(content)
        return given

    async def _drip(self, given: web.StreamResponse, content: bytes) -> None:
        """A few bytes a second, until the fault is over; then the rest."""
        at = 0
        while at < len(content) and not self._healthy.is_set():
            await given.write(content[at : at + 8])
            at += 8
            try:
                async with asyncio.timeout(0.5):
                    await self._healthy.wait()
            except TimeoutError:
                continue
        await given.write(content[at:])


def _ends_something(request: web.Request) -> bool:
    whole = request.method == "PUT" and not request.query_string
    return whole or request.method == "DELETE" or (request.method == "POST" and "uploadId" in request.query)


def _changed(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response(status=500)


@contextmanager
def faulty(target: str) -> Iterator[FaultyStore]:
    """A proxy before `target` that has no fault yet."""
    store = FaultyStore(target)
    store.start()
    try:
        yield store
    finally:
        store.stop()
