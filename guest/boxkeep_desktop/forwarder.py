"""A proxy of ours before one that demands a password: Chromium takes none, and all would see its command line."""

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Final

from boxkeep_desktop.passing import pump, until_one_ends
from boxkeep_desktop.proxies import Proxy

_HEAD_MOST: Final = 64 << 10
_HEAD_S: Final = 30.0
_OPEN_S: Final = 30.0
_ANSWER_S: Final = 300.0
_OF_ONE_CONNECTION: Final = frozenset({b"proxy-authorization", b"proxy-connection", b"connection", b"keep-alive"})
_CLOSE: Final = b"Connection: close"
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r]")
_FAULTS: Final = (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError)

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Forwarder:
    """Serves on loopback what a proxy would if it demanded no password.

    By HTTP each request has a connection of its own, so that none passes without the password.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._client = self._by_socks if proxy.scheme == "socks5" else self._by_http

    async def serve(self) -> tuple[asyncio.Server, Proxy]:
        """Begin to listen; also the proxy that this is."""
        server = await asyncio.start_server(self._served, "127.0.0.1", 0, limit=_HEAD_MOST)
        return server, Proxy(self._proxy.scheme, "127.0.0.1", server.sockets[0].getsockname()[1])

    async def _served(self, reader: Reader, writer: Writer) -> None:
        try:
            with contextlib.suppress(*_FAULTS):
                await self._client(reader, writer)
        finally:
            writer.close()

    async def _by_http(self, reader: Reader, writer: Writer) -> None:
        """A request with its answer, or a tunnel with all that passes through it (RFC 9110, 9.3.6 and 11.7)."""
        async with asyncio.timeout(_HEAD_S):
            head = await reader.readuntil(_END)
        tunnel = head.startswith(b"CONNECT ")
        word = base64.b64encode(f"{self._proxy.user}:{self._proxy.password}".encode())
        try:
            async with self._dialled() as (back, forth):
                forth.write(_edited(head, b"Proxy-Authorization: Basic " + word, *(() if tunnel else (_CLOSE,))))
                await until_one_ends(pump(reader, forth), _answer(back, writer, tunnel=tunnel))
        except _Unanswered as refusal:
            writer.write(refusal.answer())

    async def _by_socks(self, reader: Reader, writer: Writer) -> None:
        """A client that offers no password, before a proxy that demands one (RFC 1928, 1929); then bytes both ways."""
        async with asyncio.timeout(_HEAD_S):
            await reader.readexactly((await reader.readexactly(2))[1])
        async with self._dialled() as (back, forth):
            forth.write(b"\x05\x01\x02")
            await _agreed(back, b"\x05\x02")
            forth.write(b"\x01" + _measured(self._proxy.user or "") + _measured(self._proxy.password))
            await _agreed(back, b"\x01\x00")
            writer.write(b"\x05\x00")
            await until_one_ends(pump(reader, forth), pump(back, writer))

    @contextlib.asynccontextmanager
    async def _dialled(self) -> AsyncIterator[tuple[Reader, Writer]]:
        try:
            async with asyncio.timeout(_OPEN_S):
                back, forth = await asyncio.open_connection(self._proxy.host, self._proxy.port, limit=_HEAD_MOST)
        except (OSError, TimeoutError) as error:
            raise _Unanswered("cannot be reached") from error
        try:
            yield back, forth
        finally:
            forth.close()


class _Unanswered(ConnectionError):
    """The proxy has no answer to pass on."""

    def answer(self) -> bytes:
        """One in its place. What a proxy says of passwords is not passed on: Chromium would ask on the screen."""
        body = f"The proxy that this browser goes by {self}.\n".encode()
        fields = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close"
        return f"HTTP/1.1 502 Bad Gateway\r\n{fields}\r\n\r\n".encode() + body


async def _answer(back: Reader, writer: Writer, *, tunnel: bool) -> None:
    """Pass on an answer, and those before it that are none yet.

    Raises:
        _Unanswered: the proxy demands another password, or does not speak HTTP.
    """
    status = 100
    while 100 <= status < 200:
        async with asyncio.timeout(_ANSWER_S):
            head = await back.readuntil(_END)
        line = _STATUS.match(head)
        if line is None:
            raise _Unanswered("does not speak HTTP")
        status = int(line[1])
        if status == 407:
            raise _Unanswered("refuses its user or password")
        writer.write(head if tunnel or status < 200 else _edited(head, _CLOSE))
    await pump(back, writer)


def _edited(head: bytes, *added: bytes) -> bytes:
    """A head without the fields that are of one connection, and with others."""
    first, *fields = head.removesuffix(_END).split(b"\r\n")
    kept = [one for one in fields if one.partition(b":")[0].strip().lower() not in _OF_ONE_CONNECTION]
    return b"\r\n".join([first, *kept, *added, b"", b""])


async def _agreed(back: Reader, wanted: bytes) -> None:
    async with asyncio.timeout(_HEAD_S):
        if await back.readexactly(len(wanted)) != wanted:
            raise _Unanswered("refuses its user or password")


def _measured(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data
