"""Heads of HTTP requests: bounded in size and time before any of our code runs, refused in the contract's shape."""

import asyncio
import secrets
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0


class BoundedHeads(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it. The parser beneath keeps a head until it is whole, however long that takes and
    however large it grows; here it has 30 s for at most 64 KiB (and what came with the packet that passes them)."""

    _complete = False
    _received = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; its first head is awaited."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take some bytes: of a head, of a body, or both."""
        if not self._complete:
            self._received += len(data)
            if self._late is None:
                self._await_head()
        super().data_received(data)
        if not self._complete and self._received > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The head is larger than {HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._complete = True
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole; what comes now is another's head."""
        self._complete, self._received = False, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, "The request is not HTTP/1.1")

    def _await_head(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self._received:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"The head did not arrive within {HEAD_SECONDS:.0f} s")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        body = orjson.dumps({"error": sentence})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {secrets.token_hex(16)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
