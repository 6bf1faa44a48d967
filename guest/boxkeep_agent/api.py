"""opencode's HTTP API, as far as we speak it: calls within bounds of time and size, and its stream of events."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, urlencode

import h11

_BLOCK: Final = 256 << 10
_ANSWER_MOST: Final = 64 << 20
_EVENT_MOST: Final = 16 << 20
_CALL_S: Final = 60.0
_KEY_LEAST: Final = 8
HIDDEN: Final = "[the model's key]"


class Away(Exception):
    """opencode does not answer, or not as it should; the sentence says what."""


class Refused(Exception):
    """opencode answers that it will not; the sentence is its own."""


class Api:
    """Calls to the opencode that listens on a port of loopback, about one directory. In nothing that it answers stands
    the model's key, if that is long enough to be one."""

    def __init__(self, port: int, password: str, directory: str, key: str) -> None:
        self._key = key if len(key) >= _KEY_LEAST else ""
        self._port = port
        self._directory = directory
        self._basic = "Basic " + base64.b64encode(f"opencode:{password}".encode()).decode()

    async def call(self, method: str, path: str, body: object = None, within_s: float = _CALL_S, **query: str) -> Any:
        """What it answers, read as JSON; None for an empty answer.

        Raises:
            Away, Refused
        """
        try:
            async with asyncio.timeout(within_s), self._asked(method, path, body, query) as (status, chunks):
                whole = bytearray()
                async for chunk in chunks:
                    whole += chunk
                    if len(whole) > _ANSWER_MOST:
                        raise Away("It answers more than is reasonable")
        except TimeoutError as error:
            raise Away(f"It does not answer within {within_s:.0f} s") from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise Away(f"It cannot be reached: {error}") from error
        return _read(status, self._hidden(bytes(whole)))

    def without_key(self, text: str) -> str:
        """A text in which the model's key does not stand."""
        return text.replace(self._key, HIDDEN) if self._key else text

    def _hidden(self, answer: bytes) -> bytes:
        for escaped in {json.dumps(self._key, ensure_ascii=plain)[1:-1] for plain in (True, False)} - {""}:
            answer = answer.replace(escaped.encode(), HIDDEN.encode())
        return answer

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What happens there, until it goes away.

        Raises:
            Away
        """
        try:
            async with self._asked("GET", "/event", None, {}) as (status, chunks):
                if status != 200:
                    raise Away(f"It does not tell what happens: {status}")
                pending = b""
                async for chunk in chunks:
                    *whole, pending = (pending + chunk).split(b"\n\n")
                    if len(pending) > _EVENT_MOST:
                        raise Away("It tells more at once than is reasonable")
                    for block in whole:
                        if (event := _event(self._hidden(block))) is not None:
                            yield event
        except (OSError, h11.RemoteProtocolError) as error:
            raise Away(f"It cannot be reached: {error}") from error

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: object, query: dict[str, str]
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """The status of its answer, and the answer as it comes."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = [
            ("Host", f"127.0.0.1:{self._port}"),
            ("Authorization", self._basic),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        target = f"{path}?{urlencode({'directory': self._directory, **query}, quote_via=quote)}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            protocol = h11.Connection(h11.CLIENT)
            head = protocol.send(h11.Request(method=method, target=target, headers=headers)) or b""
            sent = protocol.send(h11.Data(data=content)) or b"" if content else b""
            writer.write(head + sent + (protocol.send(h11.EndOfMessage()) or b""))
            await writer.drain()
            response = await _next(reader, protocol)
            if not isinstance(response, h11.Response):
                raise Away("It ends its answer before it begins")
            yield response.status_code, _chunks(reader, protocol)
        finally:
            writer.close()


async def _chunks(reader: asyncio.StreamReader, protocol: h11.Connection) -> AsyncIterator[bytes]:
    while isinstance(event := await _next(reader, protocol), h11.Data):
        yield bytes(event.data)


async def _next(reader: asyncio.StreamReader, protocol: h11.Connection) -> object:
    while (event := protocol.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
        if event is h11.NEED_DATA:
            protocol.receive_data(await reader.read(_BLOCK))
    return event


def _read(status: int, whole: bytes) -> Any:
    try:
        answer = json.loads(whole) if whole else None
    except (ValueError, RecursionError) as error:
        raise Away(f"It answers what cannot be read, with {status}") from error
    if status >= 400:
        raise Refused(_sentence(answer) or f"It answers with {status}")
    return answer


def _sentence(answer: Any) -> str:
    """What an error says of itself."""
    if not isinstance(answer, dict):
        return ""
    data = answer.get("data")
    said = data.get("message") if isinstance(data, dict) else None
    return str(said or answer.get("message") or answer.get("name") or "")


def _event(block: bytes) -> dict[str, Any] | None:
    lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
    try:
        event = json.loads(b"\n".join(lines))
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None
