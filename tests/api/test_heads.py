"""What reaches the server before it is a request: rubbish, endless heads, and WebSockets to nowhere."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from boxkeep_server.web.heads import HEAD_BYTES, BoundedHeads


@pytest.fixture
async def wire(served: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = served.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield reader, writer
    writer.close()


Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _refusal(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bool]:
    """Status and body of an answer behind which the connection closes; and whether it names its request."""
    async with asyncio.timeout(20):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), b"\r\nx-request-id: " in head


async def _send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()
        await asyncio.sleep(0)


RUBBISH = [
    b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("sent", RUBBISH, ids=["tls", "header", "target"])
async def test_what_is_no_http_is_a_400_in_the_contracts_shape(wire: Wire, sent: bytes) -> None:
    wire[1].write(sent)
    assert await _refusal(wire[0]) == (400, {"error": "The request is not HTTP/1.1"}, True)


async def test_an_endless_head_is_cut_off(wire: Wire) -> None:
    wire[1].write(b"GET /healthz HTTP/1.1\r\nX-Endless: ")
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionError):
            await _send_for_ever(wire[1])


async def test_a_head_over_the_limit_is_a_431(wire: Wire) -> None:
    wire[1].write(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * HEAD_BYTES)
    sentence = f"The head is larger than {HEAD_BYTES} bytes"
    assert await _refusal(wire[0]) == (431, {"error": sentence}, True)


async def test_large_bodies_and_further_requests_are_no_heads(wire: Wire) -> None:
    reader, writer = wire
    body = b" " * (4 * HEAD_BYTES)
    for _ in range(3):
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 404 ")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            assert b"nowhere" in await reader.readexactly(int(length.split()[1]))


@pytest.mark.parametrize("sent", [b"", b"GET /heal"], ids=["silence", "half a line"])
async def test_a_head_that_does_not_come_is_given_up(
    wire: Wire, sent: bytes, monkeypatch: pytest.MonkeyPatch, served: str
) -> None:
    monkeypatch.setattr("boxkeep_server.web.heads.HEAD_SECONDS", 0.2)
    host, _, port = served.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    async with asyncio.timeout(20):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ") if sent else answer == b""
    writer.close()


async def test_a_websocket_to_nowhere_is_a_404_with_a_sentence(served: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{served}/v1/nothing"):
            pass
    response = refused.value.response
    assert (response.status_code, json.loads(response.body)) == (404, {"error": "There is nothing at /v1/nothing"})
    assert len(response.headers["x-request-id"]) == 32


async def test_the_service_speaks_http_by_bounded_heads(served: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{served}") as client:
        response = await client.get("/healthz")
    assert response.status_code == 200
    assert "server" not in response.headers
    assert BoundedHeads.__mro__[1].__module__.startswith("uvicorn.")
