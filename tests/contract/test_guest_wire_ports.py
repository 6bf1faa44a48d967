"""The guest and the host side together: who comes to a port of loopback inside is passed on to the host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from boxkeep_server.guestwire import GuestRefused
from boxkeep_server.guestwire.streams import Duplex
from tests.guests import Commands

pytest_plugins = ["tests.guest_fixtures"]

WISHED = 39_222


@asynccontextmanager
async def accepting(commands: Commands, wished: int = WISHED) -> AsyncIterator[tuple[Duplex, int]]:
    async with commands.pool.duplex(commands.address, {"op": "port.accept", "port": wished}) as duplex:
        yield duplex, duplex.answer["port"]


async def come(duplex: Duplex) -> None:
    frame = await asyncio.wait_for(anext(aiter(duplex)), 10)
    assert frame.json() == {"accepted": True}


async def test_who_comes_is_told_and_both_sides_speak_until_they_have_said_all(commands: Commands) -> None:
    async with accepting(commands) as (duplex, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await come(duplex)
        writer.write(b"x" * 300_000)
        writer.write_eof()
        heard = b"".join([frame.payload async for frame in duplex])
        assert heard == b"x" * 300_000
        await duplex.send_data(b"got it")
        await duplex.send_end()
        assert await reader.read() == b"got it"
        writer.close()


async def test_who_comes_while_nobody_waits_is_waited_for(commands: Commands) -> None:
    async with accepting(commands) as (_, port):
        pass
    for _ in range(2):
        await commands.pool.call(commands.address, {"op": "ping"})  # by then the guest has seen that nobody waits
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"early")
    async with accepting(commands) as (duplex, again):
        assert again == port
        await come(duplex)
        assert (await anext(aiter(duplex))).payload == b"early"
        await duplex.send_end()
        assert await reader.read() == b""
    writer.close()


async def test_calls_that_wait_at_once_get_one_each_and_one_that_left_gets_none(commands: Commands) -> None:
    async with accepting(commands) as (_, port), accepting(commands) as (_, other):
        assert port == other
    async with accepting(commands) as (first, _), accepting(commands) as (second, _):
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for duplex in (first, second):
            await come(duplex)
        for duplex, words in ((first, b"first"), (second, b"second")):
            await duplex.send_data(words)
            await duplex.send_end()
        assert {await reader.read() for reader, _ in clients} == {b"first", b"second"}
        for _, writer in clients:
            writer.close()


async def test_a_port_that_is_taken_gives_way_to_the_next(commands: Commands) -> None:
    wished = WISHED + 100
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", wished)
    async with accepting(commands, wished) as (duplex, port):
        assert port == wished + 1
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await come(duplex)
        writer.close()
    server.close()


@pytest.mark.parametrize("port", [0, 80, 65_535, "9222", None])
async def test_no_port_is_opened_that_is_none_of_ours_to_open(commands: Commands, port: object) -> None:
    with pytest.raises(GuestRefused) as refused:
        async with commands.pool.duplex(commands.address, {"op": "port.accept", "port": port}):
            raise AssertionError("it was")
    assert refused.value.code == "bad_request"


async def test_it_is_reached_by_loopback_alone_and_is_no_work(commands: Commands) -> None:
    async with accepting(commands):
        listeners = (await commands.pool.call(commands.address, {"op": "port.list"}))["listeners"]
        assert {one["address"] for one in listeners if one["port"] == WISHED} == {"127.0.0.1"}
        await commands.pool.call(commands.address, {"op": "gate", "closed": True, "idle": True})
        await commands.pool.call(commands.address, {"op": "gate", "closed": False})
