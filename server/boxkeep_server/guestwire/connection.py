"""One connection to a guest: frames both ways with backpressure, bounds on memory and on every wait."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from boxkeep_server.guestwire import frames
from boxkeep_server.guestwire.address import GuestAddress, answer_greeting, check_answer, check_proof
from boxkeep_server.guestwire.errors import GuestError, GuestProtocolError, GuestTimeout, GuestUnreachable
from boxkeep_server.guestwire.frames import Frame

QUEUE_MOST = 256 * 1024
UNSENT_MOST = 1024 * 1024
"""What may wait to be sent: enough that a guest that writes to its disk meanwhile has the next bytes at hand."""
MACHINE_BYTES_MOST = 96 * 1024 * 1024
SEND_SECONDS = 60.0
_FRAME_COST = 128
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))


class Meter:
    """Bytes that all connections of one machine hold for us together."""

    def __init__(self, most: int = MACHINE_BYTES_MOST) -> None:
        self.most = most
        self.held = 0


class GuestConnection(asyncio.Protocol):
    """An open connection. One task receives at a time. Once it has failed, every use raises the failure."""

    def __init__(self, meter: Meter, lost: Callable[["GuestConnection"], None]) -> None:
        self.failure: GuestError | None = None
        self.idle = False
        self.heard = False
        self._in_call = False
        self._meter = meter
        self._lost = lost
        self._decoder = frames.Decoder()
        self._queue: deque[Frame] = deque()
        self._queued = 0
        self._counted = 0
        self._paused = False
        self._arrived: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._writable = True
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there."""
        self._transport = transport  # type: ignore[assignment]
        transport.set_write_buffer_limits(high=UNSENT_MOST)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Queue what is complete; a guest that breaks the bounds, or speaks unasked, is cut off."""
        try:
            arrived = self._decoder.feed(data)
        except GuestProtocolError as error:
            self.fail(error)
            return
        if self.idle:
            self.fail(GuestProtocolError("the guest spoke without being asked"))
            return
        self.heard = True
        for frame in arrived:
            self._queue.append(frame)
            self._queued += len(frame.payload) + _FRAME_COST
        self._count()
        if self._queued > QUEUE_MOST and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if arrived:
            _settle(self._arrived)

    def _count(self) -> None:
        held = self._queued + self._decoder.held
        self._meter.held += held - self._counted
        self._counted = held
        if self._meter.held > self._meter.most:
            self.fail(GuestProtocolError("the guest sends more than is taken"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The guest has closed, or is gone."""
        if self.failure is None:
            self.failure = GuestUnreachable("the guest closed the connection")
        self._transport = None
        self._meter.held -= self._counted
        self._counted = 0
        _settle(self._arrived)
        _settle(self._room)
        self._lost(self)

    def pause_writing(self) -> None:
        """The guest is slower than we are."""
        self._writable = False

    def resume_writing(self) -> None:
        """The guest took what we had."""
        self._writable = True
        _settle(self._room)

    @property
    def answering(self) -> bool:
        """Whether something has come that was not received yet."""
        return bool(self._queue)

    @property
    def clean(self) -> bool:
        """Whether no call is under way and nothing of one is left over: it can serve another."""
        return self.failure is None and not self._in_call and not self._queue and not self._decoder.held

    def begin(self) -> None:
        """A call begins."""
        self._in_call, self.heard = True, False

    def finish(self) -> None:
        """The call has come to its end."""
        self._in_call = False

    def fail(self, error: GuestError) -> None:
        """End the connection for that reason."""
        if self.failure is None:
            self.failure = error
        self._queue.clear()
        self._queued = 0
        _settle(self._arrived)
        _settle(self._room)
        self.close()

    def close(self) -> None:
        """Close at once; the guest takes it as the end of the call."""
        if self.failure is None:
            self.failure = GuestUnreachable("the connection was closed")
        if self._transport is not None:
            self._transport.abort()

    async def receive(self, within: float | None) -> Frame:
        """The next frame.

        Raises:
            GuestTimeout: none came within `within` seconds.
            GuestUnreachable, GuestProtocolError: the connection has failed.
        """
        while not self._queue:
            if self.failure is not None:
                raise self.failure
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(within):
                    await self._arrived
            except TimeoutError:
                self.fail(GuestTimeout(f"the guest sent nothing for {within:g} s"))
            finally:
                self._arrived = None
        frame = self._queue.popleft()
        self._queued -= len(frame.payload) + _FRAME_COST
        self._count()
        if self._paused and self._queued <= QUEUE_MOST and self._transport is not None and self.failure is None:
            self._paused = False
            self._transport.resume_reading()
        return frame

    async def answer(self, within: float | None) -> dict[str, Any]:
        """The next frame as the answer of a call.

        Raises:
            GuestRefused: it is an error.
            GuestError: as `receive`, or it is no answer.
        """
        try:
            answer = (await self.receive(within)).json()
            check_answer(answer)
        except GuestProtocolError as error:
            self.fail(error)
            raise
        return answer

    async def send(self, data: bytes) -> None:
        """Send encoded frames, waiting while the guest is slow.

        Raises:
            GuestTimeout: it took nothing for a minute.
            GuestUnreachable, GuestProtocolError: the connection has failed.
        """
        while not self._writable and self.failure is None:
            self._room = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self._room
            except TimeoutError:
                self.fail(GuestTimeout(f"the guest took nothing for {SEND_SECONDS:g} s"))
            finally:
                self._room = None
        if self.failure is not None or self._transport is None:
            raise self.failure or GuestUnreachable("the connection was closed")
        self._transport.write(data)

    async def greet(self, address: GuestAddress, within: float) -> None:
        """Prove each other the secret. Raises GuestError."""
        greeting = (await self.receive(within)).json()
        message, expected = answer_greeting(greeting, address, os.urandom(32).hex())
        await self.send(frames.encode_json(message))
        check_proof((await self.receive(within)).json(), expected)
        self._decoder.json_most = frames.JSON_MOST


def _settle(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def connect(
    address: GuestAddress, meter: Meter, lost: Callable[[GuestConnection], None], seconds: tuple[float, float]
) -> GuestConnection:
    """An authenticated connection, made within `seconds` to connect and to shake hands.

    Raises:
        GuestUnreachable: nobody takes connections there.
        GuestTimeout: it took too long.
        GuestRefused, GuestProtocolError: whoever answers does not know us, or is not the machine meant.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds[0]):
            _, connection = await loop.create_connection(
                lambda: GuestConnection(meter, lost), address.host, address.port
            )
    except TimeoutError:
        raise GuestTimeout(f"no connection to the guest within {seconds[0]:g} s") from None
    except OSError as error:
        raise GuestUnreachable(f"the guest cannot be reached: {error.strerror}") from error
    _keep_alive(connection)
    try:
        async with asyncio.timeout(seconds[1]):
            await connection.greet(address, seconds[1])
    except TimeoutError:
        connection.close()
        raise GuestTimeout(f"no handshake with the guest within {seconds[1]:g} s") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _keep_alive(connection: GuestConnection) -> None:
    """Let the kernel find out when the machine is gone without a word."""
    assert connection._transport is not None
    made = connection._transport.get_extra_info("socket")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
