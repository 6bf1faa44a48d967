"""A guest that answers rubbish, hugely or never gets its client a clear answer, and the API stays well."""

import asyncio
import hashlib
import hmac
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from boxkeep_server.guestwire import GuestAddress
from tests.api.stage import Stage

SECRET, MACHINE = b"x" * 32, "m" * 32
END = struct.pack(">IB", 0, 4)
Answer = Callable[[asyncio.StreamWriter], None]


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">IB", len(payload), kind) + payload


def _message(value: object) -> bytes:
    return _frame(1, json.dumps(value).encode())


async def _read(reader: asyncio.StreamReader) -> dict[str, str]:
    length, _ = struct.unpack(">IB", await reader.readexactly(5))
    read: dict[str, str] = json.loads(await reader.readexactly(length))
    return read


@asynccontextmanager
async def hostile(answer: Answer) -> AsyncIterator[GuestAddress]:
    """A guest that greets properly and then answers every call with `answer`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonce = "0" * 64
        writer.write(_message({"wire": [1], "guest": "9", "nonce": nonce}))
        try:
            theirs = (await _read(reader))["nonce"]
            said = f"boxkeep guest 1\n{MACHINE}\n1\n{nonce}\n{theirs}".encode()
            writer.write(_message({"ok": True, "mac": hmac.new(SECRET, said, hashlib.sha256).hexdigest()}))
            while True:
                await _read(reader)
                answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield GuestAddress("127.0.0.1", port, MACHINE, 1, SECRET)
    finally:
        server.close()


RUBBISH: dict[str, Answer] = {
    "no frame": lambda w: w.write(b"HTTP/1.1 200 OK\r\n\r\n"),
    "not json": lambda w: w.write(_frame(1, b"{nope")),
    "too deep": lambda w: w.write(_frame(1, b'{"a":' * 100 + b"1" + b"}" * 100)),
    "an unknown type": lambda w: w.write(_frame(9, b"x")),
    "a huge length": lambda w: w.write(b"\xff\xff\xff\xff\x01"),
    "empty": lambda w: w.write(_message({"ok": True}) + END),
    "wrong types": lambda w: w.write(_message({"ok": True, "process": {"id": 5}, "entry": [], "entries": 7}) + END),
    "unknown code": lambda w: w.write(_message({"error": {"code": "pwned", "message": "x"}})),
    "another process": lambda w: w.write(
        _message({"ok": True, "process": {"id": "a" * 32, "state": "finished", "outcome": "exited"}}) + END
    ),
    "closes": lambda w: w.close(),
}
CALLS: list[tuple[str, str, dict[str, object]]] = [
    ("POST", "/exec", {"json": {"command": "true"}}),
    ("POST", "/exec", {"json": {"command": "true", "stream": True}}),
    ("POST", "/exec", {"json": {"command": "true", "background": True}}),
    ("GET", "/fs/read", {"params": {"path": "/x"}}),
    ("GET", "/fs/stat", {"params": {"path": "/x"}}),
    ("GET", "/fs/list", {"params": {"path": "/x"}}),
    ("GET", "/fs/download", {"params": {"path": "/x"}}),
    ("POST", "/fs/write", {"json": {"path": "/x", "content": "x"}}),
    ("GET", "/ports", {"params": {}}),
]


@pytest.mark.parametrize("rubbish", RUBBISH)
async def test_rubbish_is_a_502_or_503_and_never_a_500(
    api: httpx.AsyncClient, stage: Stage, key: str, rubbish: str
) -> None:
    async with hostile(RUBBISH[rubbish]) as address:
        box = await stage.ready_sandbox(key, address)
        for method, path, given in CALLS:
            where = "params" if "params" in given else "json"
            call = {where: {**given[where], "id": box}}  # type: ignore[dict-item]
            response = await api.request(method, f"/v1/sandboxes{path}", **call)  # type: ignore[arg-type]
            if (path, response.status_code) == ("/fs/list", 200):
                assert response.json()["entries"] == []  # a list that ends at once is an empty directory
                continue
            assert response.status_code in (502, 503), (path, response.status_code, response.text)
            expected = ("Sandbox answered wrongly", "The sandbox cannot be reached")
            assert response.json()["error"] in expected
        await stage.fail(box, "machine_died")


async def test_a_refusals_text_cannot_be_long_or_unprintable(api: httpx.AsyncClient, stage: Stage, key: str) -> None:
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(_message({"error": {"code": "not_found", "message": "\x1b[2J\ud800" + "x" * 100_000}}))

    async with hostile(answer) as address:
        box = await stage.ready_sandbox(key, address)
        response = await api.get("/v1/sandboxes/fs/stat", params={"id": box, "path": "/x"})
        assert response.status_code == 404
        assert len(response.json()["error"]) <= 500
        assert "\x1b" not in response.json()["error"]
        await stage.fail(box, "machine_died")
