"""One kept connection, by the standard library: a client that is light enough to time a server by."""

import http.client
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit


class Kept:
    """Calls of one key below `/v1/sandboxes`, one after the other."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=180)
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    def __enter__(self) -> "Kept":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """The JSON of a call that succeeds."""
        self._connection.request("POST", f"/v1/sandboxes{path}", json.dumps(body), self._headers)
        response = self._connection.getresponse()
        said = response.read()
        assert response.status < 300, (response.status, said)
        return json.loads(said)
