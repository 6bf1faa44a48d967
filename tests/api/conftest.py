"""Fixtures of the API's tests: a stage, clients of two organisations, and a ready sandbox with a real guest inside."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from dataclasses import replace

import httpx
import pytest_asyncio
import uvicorn

from boxkeep_server.gateway.build import doors_of
from boxkeep_server.gateway.listener import Gateway
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.web.heads import BoundedHeads
from tests.api.stage import Stage, staged
from tests.guests import GuestProgram, free_port, guest_program, own_guest, pool

__all__ = ["guest_program", "own_guest", "pool"]


@pytest_asyncio.fixture
async def stage(pool: GuestPool, tmp_path: Path) -> AsyncIterator[Stage]:
    """A stage whose background parts run."""
    async with staged(tmp_path, pool) as made:
        yield made


@pytest_asyncio.fixture
async def served(stage: Stage) -> AsyncIterator[str]:
    """The address, `host:port`, of a real server of the stage, with the parts that the service's own has."""
    port = free_port()
    config = uvicorn.Config(
        stage.app,
        host="127.0.0.1",
        port=port,
        http=BoundedHeads,
        ws="websockets-sansio",
        access_log=False,
        server_header=False,
        log_config=None,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"127.0.0.1:{port}"
    server.should_exit = True
    await task


@pytest_asyncio.fixture
async def gateway(stage: Stage) -> AsyncIterator[int]:
    """The port of a real gateway of the stage."""
    port = free_port()
    doors = replace(doors_of(stage.parts, believed=False), head_s=20.0)
    task = asyncio.create_task(Gateway(doors, "127.0.0.1", port).run())
    await until_taken(port)
    yield port
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until_taken(port: int) -> None:
    """Return when something listens on a port of loopback."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


@pytest_asyncio.fixture
async def key(stage: Stage) -> str:
    """A key of an organisation without limits."""
    return await stage.key("acme")


@pytest_asyncio.fixture
async def api(stage: Stage, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with that key."""
    async with stage.client(key) as client:
        yield client


@pytest_asyncio.fixture
async def stranger(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    """A client of another organisation."""
    async with stage.client(await stage.key("evil")) as client:
        yield client


@pytest_asyncio.fixture
async def box(stage: Stage, key: str, guest_program: GuestProgram) -> str:
    """A ready sandbox with the module's guest inside."""
    return await stage.ready_sandbox(key, guest_program.address)
