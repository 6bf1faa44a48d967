"""Fixtures of the contract suites: stores on both databases."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from boxkeep_server.store.database import Database
from tests.controls import Rig, migrate, sqlite_url, store_at
from tests.engines import Clock, MemoryEngine
from tests.postgres import NAMES, Server, running_server

TEMPLATE = "migrated"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """One server for the whole run."""
    with running_server() as server, ThreadPoolExecutor(1) as thread:
        server.run(f"CREATE DATABASE {TEMPLATE}")
        thread.submit(asyncio.run, migrate(server.url(TEMPLATE))).result()
        yield server


@pytest.fixture
def postgresql_url(postgresql: Server) -> Iterator[str]:
    """A database on it, with tables and nothing in them."""
    name = next(NAMES)
    postgresql.run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield postgresql.url(name)
    postgresql.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store with nothing in it, on each database in turn."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    """A store with nothing in it, open."""
    async with store_at(store_url) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    """A clock that goes on when it is told to."""
    return Clock()


@pytest.fixture
def rig(database: Database, clock: Clock) -> Rig:
    """A control plane over an engine that makes no machines."""
    return Rig(database, MemoryEngine(clock), clock)
