"""One POST to a stranger: to an address that was checked, in bounded time, believing nothing but a status."""

import asyncio
import concurrent.futures
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Final

from boxkeep_server.outbound.addresses import Reach
from boxkeep_server.outbound.target import Target

WHOLE_S: Final = 10.0
CONNECT_S: Final = 4.0
MOST_ADDRESSES: Final = 4
LONGEST_HEAD: Final = 8192
MOST_HEADS: Final = 5
LOOKUPS: Final = 64
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r)")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class NotSent(Exception):
    """Nothing was answered that can be read; the text says why, in words that are the receiver's owner's to know."""


class Lookup:
    """The system's resolver, in threads of its own: a name whose servers are slow holds up nothing else of ours, not
    even our end."""

    def __init__(self, at_once: int = LOOKUPS) -> None:
        self._room = asyncio.Semaphore(at_once)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, in the system's order.

        Raises:
            OSError: it has none.
        """
        await self._room.acquire()
        answer: concurrent.futures.Future[list[str]] = concurrent.futures.Future()
        loop = asyncio.get_running_loop()
        Thread(target=self._look, args=(host, port, answer, loop), daemon=True, name="boxkeep-lookup").start()
        return await asyncio.wrap_future(answer)

    def _look(
        self, host: str, port: int, answer: "concurrent.futures.Future[list[str]]", loop: asyncio.AbstractEventLoop
    ) -> None:
        with suppress(concurrent.futures.InvalidStateError):  # nobody waits any more
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                answer.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
            except OSError as error:
                answer.set_exception(error)
            except UnicodeError as error:
                answer.set_exception(OSError(f"no name: {error}"))
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._room.release)


class Poster:
    """Sends messages. It follows no redirect, heeds no proxy of the environment and verifies certificates by `tls`."""

    def __init__(self, reach: Reach, resolve: Resolve, tls: ssl.SSLContext, whole_s: float = WHOLE_S) -> None:
        self._reach = reach
        self._resolve = resolve
        self._tls = tls
        self._whole_s = whole_s

    async def post(self, target: Target, headers: Mapping[str, str], body: bytes) -> int:
        """Send a body; the status that was answered.

        Raises:
            NotSent: none was, within the time.
        """
        try:
            async with asyncio.timeout(self._whole_s):
                return await self._post(await self._checked(target), target, _request(target, headers, body))
        except TimeoutError as late:
            raise NotSent(f"No answer within {self._whole_s:g} s") from late

    async def _checked(self, target: Target) -> Sequence[str]:
        """The addresses of a target. They are asked for once, and one that is refused refuses all: a name that leads
        to the inside and to the outside is no accident."""
        try:
            found = await self._resolve(target.host, target.port)
        except OSError as error:
            raise NotSent("The host's name leads to no address") from error
        if not found:
            raise NotSent("The host's name leads to no address")
        if not all(self._reach.allows(address) for address in found):
            raise NotSent("The host's address is not one that webhooks may reach")
        return found[:MOST_ADDRESSES]

    async def _post(self, addresses: Sequence[str], target: Target, request: bytes) -> int:
        reader, writer = await self._connected(addresses, target)
        try:
            writer.write(request)
            await writer.drain()
            return await _status(reader)
        except (OSError, EOFError) as error:
            raise NotSent("The connection ended before there was an answer") from error
        finally:
            writer.transport.abort()  # a polite end would wait for a peer that owes us none

    async def _connected(
        self, addresses: Sequence[str], target: Target
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        said = "The host cannot be reached"
        for address in addresses:
            tls, name = (self._tls, target.host.rstrip(".")) if target.secure else (None, None)
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(
                        address, target.port, limit=LONGEST_HEAD, ssl=tls, server_hostname=name
                    )
            except ssl.SSLError as error:
                said = f"TLS failed: {getattr(error, 'verify_message', None) or error.reason or 'no agreement'}"
            except (OSError, TimeoutError):
                continue
        raise NotSent(said)


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    sent = {
        "Host": target.authority,
        "User-Agent": "Boxkeep-Webhooks/1",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    lines = [f"POST {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
    return "\r\n".join(lines).encode("ascii") + body


async def _status(reader: asyncio.StreamReader) -> int:
    """The status of the answer: interim ones are passed over, and what comes behind the head is not read."""
    for _ in range(MOST_HEADS):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise NotSent("The answer's head is too large") from error
        found = _STATUS.match(head)
        if found is None:
            raise NotSent("The answer is not HTTP/1.1")
        status = int(found[1])
        if status >= 200:
            return status
    raise NotSent("The answer never came to its status")
