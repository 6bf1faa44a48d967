"""Fixtures of the API's tests: a stage, clients of two organisations, and a ready sandbox with a real guest inside."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio

from boxkeep_server.guestwire import GuestPool
from tests.api.stage import Stage, staged
from tests.guests import GuestProgram, guest_program, own_guest, pool

__all__ = ["guest_program", "own_guest", "pool"]


@pytest_asyncio.fixture
async def stage(pool: GuestPool, tmp_path: Path) -> AsyncIterator[Stage]:
    """A stage whose background parts run."""
    async with staged(tmp_path, pool) as made:
        yield made


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
