"""The one door to Chromium's protocol: its clients come in here, and may do what who drives the browser leaves them."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Final

import h11

from boxkeep_desktop.chromium import Chromium
from boxkeep_desktop.holds import BUSY, Mode, answer_instead
from boxkeep_desktop.passing import until_one_ends
from boxkeep_desktop.sockets import Socket, SocketClosed

_BLOCK: Final = 64 << 10
_HEAD_MOST: Final = 16 << 10
_HEAD_S: Final = 30.0
_ANSWER_S: Final = 30.0
_ANSWER_MOST: Final = 4 << 20
_WHOLE: Final = ("/", "/devtools/browser", "/devtools/browser/")
_SOCKET: Final = re.compile(r"/devtools/(?:browser|page)/[A-Za-z0-9-]{1,64}")
_LISTS: Final = re.compile(r"/json(?:/(?:version|list|protocol))?/?")
_ACTS: Final = re.compile(r"/json/(?:new|activate|close)(?:[/?].*)?")
_AWAY: Final = "The browser is starting"
_TRY_AGAIN: Final = 1013


class DevTools:
    """Serves Chromium's protocol on a port of loopback, as Chromium does, for whoever is let to it.

    `chromium` gives the one that runs now, None while there is none.
    """

    def __init__(self, chromium: Callable[[], Chromium | None], mode: Mode) -> None:
        self._chromium = chromium
        self._mode = mode
        self._open: set[Socket] = set()

    async def serve(self, port: int) -> asyncio.Server:
        """Begin to listen."""
        return await asyncio.start_server(self._client, "127.0.0.1", port, limit=_BLOCK)

    async def hand_over(self, mode: Mode) -> None:
        """Let somebody else drive from now on. Where clients may not watch, they are sent away."""
        self._mode = mode
        if mode == "human":
            for socket in list(self._open):
                await socket.close(_TRY_AGAIN, BUSY)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_S):
                request, protocol = await _request(reader)
            target = request.target.decode("ascii", "replace")
            if any(name == b"upgrade" and value.lower() == b"websocket" for name, value in request.headers):
                await self._bridge(target, request, reader, writer)
            else:
                await self._answer(target, request, protocol, writer)
        except (h11.RemoteProtocolError, h11.LocalProtocolError, SocketClosed, TimeoutError, OSError):
            return
        finally:
            writer.close()

    async def _answer(
        self, target: str, request: h11.Request, protocol: h11.Connection, writer: asyncio.StreamWriter
    ) -> None:
        """One answer of Chromium's own, in which it is found where its client has found us."""
        status, body = await self._asked(target, request)
        headers = [("Content-Type", "application/json; charset=UTF-8"), ("Content-Length", str(len(body)))]
        head = protocol.send(h11.Response(status_code=status, headers=[*headers, ("Connection", "close")]))
        writer.write((head or b"") + body)
        await writer.drain()

    async def _asked(self, target: str, request: h11.Request) -> tuple[int, bytes]:
        chromium = self._chromium()
        acts = _ACTS.fullmatch(target) is not None
        if not acts and not _LISTS.fullmatch(target.partition("?")[0]):
            return 404, _told("There is nothing here but the protocol of a browser")
        if chromium is None:
            return 503, _told(_AWAY)
        if self._mode == "human" or (acts and self._mode != "ai"):
            return 409, _told(BUSY)
        answer = await _ask(chromium.port, request.method.decode(), target)
        seen = dict(request.headers).get(b"host", b"localhost").decode("ascii", "replace")
        scheme = "wss" if dict(request.headers).get(b"x-forwarded-proto") == b"https" else "ws"
        return answer[0], answer[1].replace(b"ws://localhost", f"{scheme}://{_plain(seen)}".encode())

    async def _bridge(
        self, target: str, request: h11.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        client = await Socket.accept(reader, writer, target, request.headers.raw_items())
        chromium = self._chromium()
        path = target.partition("?")[0]
        if chromium is None or self._mode == "human":
            await client.turn_away(_TRY_AGAIN, _AWAY if chromium is None else BUSY)
            return
        if path not in _WHOLE and not _SOCKET.fullmatch(path):
            await client.turn_away(1008, "There is no such target")
            return
        browser = await self._browser(client, chromium, path)
        self._open.add(client)
        try:
            await until_one_ends(self._inward(client, browser), _outward(client, browser))
        finally:
            self._open.discard(client)
            await browser.close()
            await client.close()

    @staticmethod
    async def _browser(client: Socket, chromium: Chromium, path: str) -> Socket:
        try:
            return await Socket.connect(chromium.port, chromium.path if path in _WHOLE else path)
        except SocketClosed:
            await client.turn_away(1008, "There is no such target")
            raise

    async def _inward(self, client: Socket, browser: Socket) -> None:
        while True:
            message = await client.receive()
            refusal = answer_instead(self._mode, message)
            if refusal is None:
                await browser.send(message)
            else:
                await client.send(refusal)


async def _outward(client: Socket, browser: Socket) -> None:
    while True:
        await client.send(await browser.receive())


async def _request(reader: asyncio.StreamReader) -> tuple[h11.Request, h11.Connection]:
    protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_MOST)
    while True:
        event = protocol.next_event()
        if isinstance(event, h11.Request):
            return event, protocol
        if event is not h11.NEED_DATA:
            raise SocketClosed
        protocol.receive_data(await reader.read(_BLOCK))


async def _ask(port: int, method: str, target: str) -> tuple[int, bytes]:
    """What Chromium answers, by the name that it takes for its own."""
    async with asyncio.timeout(_ANSWER_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            protocol = h11.Connection(h11.CLIENT)
            head = protocol.send(h11.Request(method=method, target=target, headers=[("Host", "localhost")]))
            writer.write((head or b"") + (protocol.send(h11.EndOfMessage()) or b""))
            await writer.drain()
            return await _answered(reader, protocol)
        finally:
            writer.close()


async def _answered(reader: asyncio.StreamReader, protocol: h11.Connection) -> tuple[int, bytes]:
    status, body = 502, bytearray()
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            protocol.receive_data(await reader.read(_BLOCK))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _ANSWER_MOST:
                raise SocketClosed
        else:
            return status, bytes(body)


def _told(sentence: str) -> bytes:
    return json.dumps({"error": sentence}).encode()


def _plain(host: str) -> str:
    """A host's name as it may stand within a JSON string."""
    return re.sub(r"[^A-Za-z0-9.:\[\]-]", "", host)
