"""What follows a call's first answer: frames of a download, chunks of an upload, both ways of a duplex."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from boxkeep_server.guestwire import frames
from boxkeep_server.guestwire.connection import GuestConnection
from boxkeep_server.guestwire.errors import GuestError, GuestProtocolError, GuestUnreachable
from boxkeep_server.guestwire.frames import Frame


class Download:
    """A download under way: its `answer`, and its frames by iterating, once."""

    def __init__(
        self, connection: GuestConnection, request: dict[str, Any], answer: dict[str, Any], idle: float | None
    ) -> None:
        self.answer = answer
        self._connection = connection
        self._idle = idle
        self._left = _promised(request, answer)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """DATA, ERR and JSON frames, up to the end.

        Raises:
            GuestProtocolError: a file is not as long as the guest said.
            GuestError: as every call.
        """
        while True:
            frame = await self._connection.receive(self._idle)
            if frame.kind == frames.END:
                self._check_length(complete=True)
                self._connection.finish()
                return
            if self._left is not None:
                self._left -= len(frame.payload) if frame.kind == frames.DATA else self._left + 1
                self._check_length(complete=False)
            yield frame

    def _check_length(self, complete: bool) -> None:
        if self._left is not None and (self._left < 0 or (complete and self._left)):
            error = GuestProtocolError("a file has not the length that the guest said")
            self._connection.fail(error)
            raise error


def _promised(request: dict[str, Any], answer: dict[str, Any]) -> int | None:
    """How many bytes must come; None where the operation promises nothing."""
    if request.get("op") != "file.read":
        return None
    length = answer.get("length")
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        raise GuestProtocolError("the guest does not say how long the file is")
    return length


class Duplex:
    """A duplex under way: its `answer`, frames from the guest by iterating, bytes and messages to it by sending."""

    def __init__(self, connection: GuestConnection, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.ended = False
        self._connection = connection

    @property
    def quiet(self) -> bool:
        """Whether it goes on, and nothing has come that was not received."""
        return self._connection.failure is None and not self._connection.answering

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """DATA and JSON frames until the guest ends (then it has `ended`) or closes. Raises GuestError."""
        while True:
            try:
                frame = await self._connection.receive(None)
            except GuestUnreachable:
                return
            if frame.kind == frames.END:
                self.ended = True
                return
            yield frame

    async def send_data(self, data: bytes) -> None:
        """Send bytes, waiting while the guest is slow. Raises GuestError."""
        for piece in pieces(data):
            await self._connection.send(frames.encode(frames.DATA, piece))

    async def send_json(self, message: dict[str, Any]) -> None:
        """Send a message. Raises GuestError."""
        await self._connection.send(frames.encode_json(message))

    async def send_end(self) -> None:
        """Say that this side sends no more. Raises GuestError."""
        await self._connection.send(frames.encode(frames.END))


async def send_chunks(connection: GuestConnection, chunks: AsyncIterable[bytes]) -> None:
    """Send an upload's bytes and its end, unless the guest speaks first: then its answer is the last one."""
    async for chunk in chunks:
        for piece in pieces(chunk):
            if connection.answering:
                return
            await _send_or_hear(connection, frames.encode(frames.DATA, piece))
    if not connection.answering:
        await _send_or_hear(connection, frames.encode(frames.END))


async def _send_or_hear(connection: GuestConnection, data: bytes) -> None:
    """Send; a connection that ended with the guest's last words still unread has not failed yet."""
    try:
        await connection.send(data)
    except GuestError:
        if not connection.answering:
            raise


def pieces(data: bytes) -> list[bytes]:
    """Data as the payloads of frames: none is empty or too long."""
    if len(data) <= frames.DATA_MOST:
        return [data] if data else []
    view = memoryview(data)
    return [bytes(view[at : at + frames.DATA_MOST]) for at in range(0, len(data), frames.DATA_MOST)]
