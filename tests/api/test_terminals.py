"""Terminals by WebSocket against a real server on loopback, with the real guest inside."""

import asyncio
import json

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.api.stage import PUBLIC, Stage

TERMINAL = "/v1/sandboxes/terminal"


async def _url(api: httpx.AsyncClient, served: str, box: str, **query: str) -> tuple[str, str]:
    body = (await api.get(TERMINAL, params={"id": box, **query})).json()
    return body["terminalUrl"].replace(PUBLIC.removeprefix("http://"), served), body["terminalId"]


async def _until(socket: ClientConnection, text: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(20):
        while text not in seen:
            piece = await socket.recv()
            seen += piece if isinstance(piece, bytes) else piece.encode()
    return seen


async def test_a_terminal_takes_text_and_bytes_resizes_and_is_joined_again(
    api: httpx.AsyncClient, served: str, box: str
) -> None:
    url, terminal = await _url(api, served, box)
    async with connect(url) as one:
        await one.send("echo $((40+2))-one\n")
        await _until(one, b"42-one")
        await one.send(b"echo $((40+3))-two\n")
        await _until(one, b"43-two")
        await one.send(json.dumps({"terminalId": terminal, "resize": {"rows": 33, "cols": 101}}))
        await one.send("stty size\n")
        await _until(one, b"33 101")
        again, _ = await _url(api, served, box, terminalId=terminal)
        async with connect(again) as two:
            await _until(two, b"43-two")
            await two.send("echo $((40+4))-both\n")
            await _until(two, b"44-both")
            await _until(one, b"44-both")
    async with connect(url) as later:
        await _until(later, b"44-both")
        await later.send("exit\n")
        with pytest.raises(ConnectionClosed) as closed:
            await _until(later, b"never there")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


async def test_what_looks_like_a_message_but_names_no_terminal_is_typed(
    api: httpx.AsyncClient, served: str, box: str
) -> None:
    url, _ = await _url(api, served, box)
    async with connect(url) as socket:
        await socket.send('echo {"resize":{"rows":5,"cols":5}}; stty size\n')
        await _until(socket, b"24 80")


async def test_a_wrong_or_old_token_opens_nothing(api: httpx.AsyncClient, served: str, box: str, stage: Stage) -> None:
    url, _ = await _url(api, served, box)
    for wrong in (url[:-2], url.replace(box, "a" * 32), url.partition("?")[0], f"{url.partition('&token')[0]}&bad=1"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(wrong)
        assert refused.value.response.status_code == 401
    stage.clock.ahead_ms = 300_001
    with pytest.raises(InvalidStatus) as refused:
        await connect(url)
    assert refused.value.response.status_code == 401


async def test_a_terminal_closes_when_its_key_is_revoked(
    api: httpx.AsyncClient, served: str, box: str, stage: Stage, key: str
) -> None:
    url, _ = await _url(api, served, box)
    async with connect(url) as socket:
        await socket.send("echo $((1+1))-here\n")
        await _until(socket, b"2-here")
        await stage.keys.revoke((await stage.keys.authenticate(key)).key_id)
        with pytest.raises(ConnectionClosed) as closed:
            await _until(socket, b"never there")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


async def test_a_terminal_closes_when_its_sandbox_ends(
    api: httpx.AsyncClient, served: str, box: str, stage: Stage
) -> None:
    url, _ = await _url(api, served, box)
    async with connect(url) as socket:
        await socket.send("echo $((1+1))-here\n")
        await _until(socket, b"2-here")
        await stage.fail(box, "machine_died")
        with pytest.raises(ConnectionClosed) as closed:
            await _until(socket, b"never there")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4410
