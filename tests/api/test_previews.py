"""Previews through a real gateway, with the real guest inside and programs that listen on its loopback."""

import asyncio

import httpx
import pytest

from tests.api.stage import Stage
from tests.previews import Inside, client_of, listening, saying

PORTS = "/v1/sandboxes/ports"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def token_of(api: httpx.AsyncClient, box: str, port: int) -> str:
    (found,) = (await api.get(PORTS, params={"id": box, "port": port})).json()["ports"]
    return str(found["token"])


def host_of(box: str, port: int) -> str:
    return f"{port}-{box}.localhost:7072"


async def test_a_token_in_a_header_opens_the_port_that_it_is_for(
    api: httpx.AsyncClient, gateway: int, box: str
) -> None:
    async with listening(saying(OK)) as program, client_of(gateway) as client:
        token = await token_of(api, box, program.port)
        got = await client.ask(host_of(box, program.port), X_Boxkeep_Token=token)
        assert (got.status, got.body) == (200, b"hello")
        assert b"oxkeep" not in program.heads[0].replace(b"boxkeep_test", b"")
        refused = await client.ask(host_of(box, program.port))
        assert refused.status == 401
