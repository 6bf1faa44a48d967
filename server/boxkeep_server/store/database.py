"""Opens the database: one writer at a time on SQLite, a pool on PostgreSQL, migrations before anything else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from boxkeep_server.model.errors import Unavailable

BUSY_S = 10


class Database:
    """Connections to the store: `writing` sees no other writer's half, `reading` what is committed."""

    def __init__(self, readers: AsyncEngine, writers: AsyncEngine, one_writer: bool) -> None:
        self._readers = readers
        self._writers = writers
        self._turn = asyncio.Lock() if one_writer else None

    @classmethod
    async def open(cls, url: str) -> "Database":
        """Connect, and bring the tables to this version.

        Raises:
            Unavailable: the database is away.
        """
        parsed = make_url(url)
        database = cls._sqlite(parsed) if parsed.get_backend_name() == "sqlite" else cls._postgresql(parsed)
        try:
            async with database.writing() as connection:
                await connection.run_sync(_migrate)
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    def _sqlite(cls, url: URL) -> "Database":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        readers = create_async_engine(url, pool_size=4, max_overflow=0, connect_args={"timeout": BUSY_S})
        writers = create_async_engine(url, pool_size=1, max_overflow=0, connect_args={"timeout": BUSY_S})
        for engine, begin in ((readers, "BEGIN"), (writers, "BEGIN IMMEDIATE")):
            sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            sa.event.listen(engine.sync_engine, "begin", _begin_with(begin))
        return cls(readers, writers, one_writer=True)

    @classmethod
    def _postgresql(cls, url: URL) -> "Database":
        engine = create_async_engine(url, pool_size=10, max_overflow=10, pool_pre_ping=True)
        return cls(engine, engine, one_writer=False)

    async def close(self) -> None:
        """Let all connections go."""
        await self._readers.dispose()
        await self._writers.dispose()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed when the block ends and rolled back when it raises.

        Raises:
            Unavailable: the database is away, locked or full.
        """
        if self._turn is None:
            async with self._connected(self._writers) as connection:
                yield connection
            return
        async with self._turn, self._connected(self._writers) as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read from.

        Raises:
            Unavailable: the database is away.
        """
        async with self._connected(self._readers) as connection:
            yield connection

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            async with engine.begin() as connection:
                yield connection
        except (DBAPIError, OSError, TimeoutError) as fault:
            if isinstance(fault, sa.exc.IntegrityError):
                raise
            raise Unavailable("The store is away") from fault


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by us, see _begin_with
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {BUSY_S * 1000}", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_with(statement: str) -> Any:
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def _migrate(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
