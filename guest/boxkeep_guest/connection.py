"""One connection of the host: frames in and out with backpressure both ways."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from boxkeep_guest import frames
from boxkeep_guest.errors import BadFrame, PeerGone

WAITING_MOST = 512 * 1024
STALLED_SECONDS = 60.0
PARTING_SECONDS = 5.0


class Connection(asyncio.Protocol):
    """Frames over one transport. One task receives at a time, any number may send."""

    def __init__(self, opened: Callable[["Connection"], None], closed: Callable[["Connection"], None]) -> None:
        self._opened = opened
        self._closed = closed
        self._decoder = frames.Decoder()
        self._frames: deque[tuple[int, bytes]] = deque()
        self._waiting = 0
        self._arrived: asyncio.Future[None] | None = None
        self._room: asyncio.Event = asyncio.Event()
        self._room.set()
        self._ended = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there: tell the service."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WAITING_MOST)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Queue the frames that are complete; a peer that breaks the bounds is cut off."""
        try:
            arrived = self._decoder.feed(data)
        except BadFrame:
            self.abort()
            return
        for frame in arrived:
            self._frames.append(frame)
            self._waiting += len(frame[1]) + 64
        if self._waiting > WAITING_MOST and self._transport is not None:
            self._transport.pause_reading()
        if arrived:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone: wake whoever waits."""
        self._ended = True
        self._transport = None
        self._room.set()
        self._wake()
        self._closed(self)

    def pause_writing(self) -> None:
        """The peer is slower than we are."""
        self._room.clear()

    def resume_writing(self) -> None:
        """The peer took what we had."""
        self._room.set()

    @property
    def waiting(self) -> bool:
        """Whether a frame has come that was not received yet."""
        return bool(self._frames)

    @property
    def own_address(self) -> str:
        """The machine's address at which the host reached it.

        Raises:
            PeerGone: the connection has ended.
        """
        if self._transport is None:
            raise PeerGone
        return str(self._transport.get_extra_info("sockname")[0])

    def allow_calls(self) -> None:
        """After the handshake JSON may have its full length."""
        self._decoder.json_most = frames.JSON_MOST

    async def receive(self, stalled: float | None = None) -> tuple[int, bytes]:
        """The next frame.

        Raises:
            PeerGone: the connection ended, or nothing came for `stalled` seconds.
        """
        while not self._frames:
            if self._ended:
                raise PeerGone
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(stalled):
                    await self._arrived
            except TimeoutError:
                raise PeerGone from None
        kind, payload = self._frames.popleft()
        before = self._waiting
        self._waiting -= len(payload) + 64
        if before > WAITING_MOST >= self._waiting and self._transport is not None and not self._ended:
            self._transport.resume_reading()
        return kind, payload

    async def send(self, kind: int, payload: bytes, stalled: float = STALLED_SECONDS) -> None:
        """Send one frame, waiting while the peer is slow.

        Raises:
            PeerGone: the connection ended, or the peer took nothing for `stalled` seconds.
        """
        await self.send_encoded(frames.encode(kind, payload), stalled)

    async def send_json(self, message: dict[str, Any]) -> None:
        """Send one JSON frame; raises as `send` does."""
        await self.send_encoded(frames.encode_json(message))

    async def send_encoded(self, data: bytes, stalled: float = STALLED_SECONDS) -> None:
        """Send frames that are encoded already; raises as `send` does."""
        if not self._room.is_set():
            try:
                async with asyncio.timeout(stalled):
                    await self._room.wait()
            except TimeoutError:
                self.abort()
        if self._ended or self._transport is None:
            raise PeerGone
        self._transport.write(data)

    async def part(self) -> None:
        """Send no more, and discard what the peer still sends, so that it can read our last words."""
        if self._transport is None or self._ended:
            return
        self._transport.write_eof()
        try:
            async with asyncio.timeout(PARTING_SECONDS):
                while True:
                    await self.receive()
        except (PeerGone, TimeoutError):
            return

    def close(self) -> None:
        """Close once what was sent has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
