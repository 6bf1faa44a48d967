"""A call in progress: its request's fields, its connection, and how it is answered."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from boxkeep_guest import frames
from boxkeep_guest.connection import STALLED_SECONDS, Connection
from boxkeep_guest.errors import BadFrame, Refused
from boxkeep_guest.fields import Fields


class Call:
    """One call. A handler answers it once, then goes on as its shape says."""

    def __init__(self, fields: Fields, connection: Connection) -> None:
        self.fields = fields
        self.connection = connection
        self.answered = False
        self._upload_ended = False

    async def answer(self, **fields: Any) -> None:
        """The first answer."""
        self.answered = True
        await self.connection.send_json({"ok": True, **fields})

    async def answer_whole(self, fields: dict[str, Any], data: bytes, err: bytes) -> None:
        """A whole download at once; what is short travels in one segment."""
        self.answered = True
        parts = [frames.encode_json({"ok": True, **fields})]
        for kind, content in ((frames.DATA, data), (frames.ERR, err)):
            for at in range(0, len(content), frames.DATA_MOST):
                parts.append(frames.encode(kind, content[at : at + frames.DATA_MOST]))
        parts.append(frames.encode(frames.END))
        if len(data) + len(err) < frames.DATA_MOST:
            parts = [b"".join(parts)]
        for part in parts:
            await self.connection.send_encoded(part)

    async def json(self, message: dict[str, Any]) -> None:
        """A JSON frame after the first answer."""
        await self.connection.send_json(message)

    async def data(self, data: bytes, kind: int = frames.DATA) -> None:
        """Bytes after the first answer, in as many frames as they need."""
        for at in range(0, len(data), frames.DATA_MOST):
            await self.connection.send(kind, data[at : at + frames.DATA_MOST])

    async def end(self) -> None:
        """The end of a download."""
        await self.connection.send(frames.END, b"")

    async def uploaded(self) -> list[bytes]:
        """The next bytes of an upload, as many as have come; none at its end.

        Raises:
            PeerGone: the host is gone or stands still.
            BadFrame: the host sent what an upload has no place for.
        """
        found: list[bytes] = []
        while not self._upload_ended and (not found or self.connection.waiting):
            kind, payload = await self.connection.receive(STALLED_SECONDS)
            if kind == frames.DATA:
                found.append(payload)
            elif kind == frames.END:
                self._upload_ended = True
            else:
                raise BadFrame(f"an upload has no frames of type {kind}")
        return found


class Op(NamedTuple):
    """How an operation is served. `held` ones answer `busy` behind a closed gate; `counted` ones keep it open."""

    serve: Callable[[Call], Awaitable[None]]
    held: bool = True
    counted: bool = True
    duplex: bool = False


def error_of(refused: Refused) -> dict[str, Any]:
    """A refusal as the wire has it."""
    return {"error": {"code": refused.code, "message": refused.message}}
