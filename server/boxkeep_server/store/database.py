"""Opens the database: one writer at a time on SQLite, a pool on PostgreSQL, migrations before anything else."""

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from boxkeep_server.model.errors import Unavailable
from boxkeep_server.store.organisations import seed_plans
from boxkeep_server.store.shared import GroupLost, SharedCommits
from boxkeep_server.store.sqlite import BUSY_S, PRAGMAS, connector

_log = logging.getLogger(__name__)

_MIGRATING: Final = 0x626F786B65657001
"""The advisory lock under which PostgreSQL's tables are brought to this version."""

_POSTGRESQL: Final = {
    "timeout": BUSY_S,
    "command_timeout": 6 * BUSY_S,
    "server_settings": {"lock_timeout": f"{BUSY_S:.0f}s"},
}
"""How long a connection, a statement, and a lock that others hold may be waited for."""

Transactions = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class Database:
    """Connections to the store. Made by `open`; to be closed."""

    def __init__(
        self,
        transactions: Transactions,
        readers: AsyncEngine,
        scanners: AsyncEngine,
        closing: Sequence[AsyncEngine | ThreadPoolExecutor],
    ) -> None:
        self._transactions = transactions
        self._readers = readers
        self._scanners = scanners
        self._closing = closing

    @classmethod
    async def open(cls, url: str) -> "Database":
        """Connect, bring the tables to this version, and write the built-in plans that are not there.

        Raises:
            Unavailable: the database is away, or of a schema that this version does not know.
        """
        parsed = make_url(url)
        database = cls._sqlite(parsed) if parsed.get_backend_name() == "sqlite" else cls._postgresql(parsed)
        try:
            async with database.writing() as connection:
                await connection.run_sync(_migrate)
                await seed_plans(connection)
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    def _sqlite(cls, url: URL) -> "Database":
        if not url.database or url.database == ":memory:":
            raise ValueError("A store in SQLite needs a file")
        _make_private(Path(url.database))
        thread = ThreadPoolExecutor(1, "boxkeep-store")
        writes, reads = (connector(url.database, thread, writes=writes) for writes in (True, False))
        writers = create_async_engine(url, pool_size=1, max_overflow=0, connect_args={"async_creator_fn": writes})
        readers = create_async_engine(url, pool_size=4, max_overflow=-1, connect_args={"async_creator_fn": reads})
        scanners = create_async_engine(url, pool_size=2, max_overflow=0, connect_args={"timeout": BUSY_S})
        sa.event.listen(writers.sync_engine, "begin", _begin_immediate)
        sa.event.listen(scanners.sync_engine, "connect", _prepare_scanner)
        commits = SharedCommits(writers)
        return cls(commits.transaction, readers, scanners, (readers, scanners, writers, thread))

    @classmethod
    def _postgresql(cls, url: URL) -> "Database":
        engine = create_async_engine(
            url, pool_size=10, max_overflow=10, pool_pre_ping=True, pool_timeout=BUSY_S, connect_args=_POSTGRESQL
        )
        readers = engine.execution_options(isolation_level="AUTOCOMMIT")
        return cls(engine.begin, readers, readers, (engine,))

    async def close(self) -> None:
        """Let all connections go."""
        for part in self._closing:
            if isinstance(part, ThreadPoolExecutor):
                part.shutdown(wait=False)
            else:
                await part.dispose()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: durable when the block has ended, undone when it raises.

        It sees no other writer's half. On SQLite writers take turns, so that nothing but the store may be waited for.

        Raises:
            Unavailable: the database is away, locked or full.
        """
        with _translated():
            async with self._transactions() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read rows by key from; each statement sees what is committed when it begins.

        Raises:
            Unavailable: the database is away.
        """
        with _translated():
            connection = await self._readers.connect()
            try:
                yield connection
            finally:  # `async with` would do it in a task of its own, for a quarter of what a read costs
                await connection.close()

    @asynccontextmanager
    async def scanning(self) -> AsyncIterator[AsyncConnection]:
        """As `reading`, for statements that may look at many rows: they do not hold up the event loop.

        Raises:
            Unavailable: the database is away.
        """
        with _translated():
            async with self._scanners.connect() as connection:
                yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, GroupLost, sa.exc.TimeoutError, OSError) as fault:
        if _is_bug(fault):
            raise
        _log.warning("the store did not answer: %s", str(fault).partition("\n")[0])
        raise Unavailable("The store is away") from fault


def _is_bug(fault: Exception) -> bool:
    """Whether a fault is ours, and says nothing about the database: to be seen, and not to be taken for its absence."""
    if isinstance(fault, (IntegrityError, ProgrammingError, DataError, NotSupportedError)):
        return True
    return isinstance(fault, DBAPIError) and getattr(fault.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR


def _make_private(file: Path) -> None:
    """SQLite gives its log and its index the mode of the database file."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)


def _prepare_scanner(connection: Any, _: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as fault:
        raise Unavailable(f"The store is of another version of Boxkeep: {fault}") from fault
