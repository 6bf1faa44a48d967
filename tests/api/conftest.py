"""Fixtures of the API's tests: a stage, clients of two organisations, and a ready sandbox with a real guest inside."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio
import uvicorn

from boxkeep_server.guestwire import GuestPool
from boxkeep_server.web.heads import BoundedHeads
from tests.api.stage import Stage, staged
from tests.guests import GuestProgram, guest_program, own_guest, pool
from tests.instances import free_port
from tests.previews import opened_gateway

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
    async with opened_gateway(stage) as port:
        yield port


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
