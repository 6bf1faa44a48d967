"""A terminal's client: the bytes that xterm.js's attach addon would send and show."""

import json
import time
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from websockets.sync.client import ClientConnection, connect

from tests.clients import Api


class Terminal:
    """One connection to a terminal; `seen` is all that it has shown."""

    def __init__(self, url: str) -> None:
        self.id = parse_qs(urlsplit(url).query).get("terminalId", [""])[0]
        self.socket: ClientConnection = connect(url, open_timeout=30, close_timeout=2, max_size=None, legacy=True)
        self.seen = b""

    @classmethod
    def of(cls, api: Api, sandbox: str, **query: str) -> "Terminal":
        """A connection by the URL that the API hands out."""
        return cls(api.call("GET", "/terminal", params={"id": sandbox, **query})["terminalUrl"])

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def type(self, text: str) -> None:
        """Send keys, as the attach addon does."""
        self.socket.send(text)

    def resize(self, rows: int, cols: int) -> None:
        """Say the window's new size."""
        self.socket.send(json.dumps({"terminalId": self.id, "resize": {"rows": rows, "cols": cols}}))

    def until(self, words: str, within_s: float = 20.0) -> bytes:
        """All shown so far, once it holds `words`."""
        deadline = time.monotonic() + within_s
        while words.encode() not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{words!r} was not shown: {self.seen[-2000:]!r}"
            try:
                message = self.socket.recv(timeout=left)
            except TimeoutError:
                continue
            self.seen += message.encode() if isinstance(message, str) else message
        return self.seen
