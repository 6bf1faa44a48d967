"""SQLite for the event loop: statements run where they are asked, for they touch memory; commits sync in a thread."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

T = TypeVar("T")

BUSY_S = 10.0
_RETRY_S = (0.001, 0.002, 0.005, 0.01, 0.02)
_STATEMENTS = 256

PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
"""A commit is on the device when it is acknowledged; readers and the writer do not wait for each other."""


class InlineConnection:
    """What SQLAlchemy's aiosqlite dialect takes for a connection of that driver, which gives every word of it (open a
    cursor, execute, fetch, close) to a thread: a read by key costs a dozen hops and is ten times slower for it.

    Here only what waits for a device or for another process leaves the event loop. To be used for short statements by
    key; scans belong to the other driver.
    """

    def __init__(self, raw: sqlite3.Connection, thread: ThreadPoolExecutor, *, writes: bool) -> None:
        self._connection: sqlite3.Connection | None = raw
        self._conn = raw
        self._thread = thread
        self._writes = writes

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._conn.in_transaction

    def cursor(self) -> "InlineCursor":
        """A cursor."""
        return InlineCursor(self._conn.cursor())

    async def create_function(self, *arguments: Any, **options: Any) -> None:
        """As `sqlite3.Connection.create_function`."""
        self._conn.create_function(*arguments, **options)

    async def commit(self) -> None:
        """Commit; durable when it returns.

        Raises:
            sqlite3.OperationalError: SQLite has given up the transaction on an earlier fault, as of a full disk.
        """
        if self._writes:  # not `commit()`, which is silent about a transaction that is no more
            await finished(self._thread, lambda: self._conn.execute("COMMIT"))

    async def rollback(self) -> None:
        """Undo what is open."""
        self._conn.rollback()

    async def close(self) -> None:
        """Close; the last connection writes what is left of the log into the database."""
        self._connection = None
        await finished(self._thread, self._conn.close)

    def stop(self) -> None:
        """Close at once."""
        self._connection = None
        self._conn.close()


class InlineCursor:
    """A cursor whose coroutines never wait, but for the write lock that another process holds."""

    def __init__(self, raw: sqlite3.Cursor) -> None:
        self._raw = raw
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    @property
    def description(self) -> Any:
        """As in DB-API."""
        return self._raw.description

    @property
    def rowcount(self) -> int:
        """As in DB-API."""
        return self._raw.rowcount

    @property
    def lastrowid(self) -> int | None:
        """As in DB-API."""
        return self._raw.lastrowid

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Run a statement; wait up to ten seconds for a lock."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BUSY_S
        tries = 0
        while True:
            try:
                self._raw.execute(statement, parameters)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or loop.time() >= until:
                    raise
                await asyncio.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
                tries += 1
            else:
                return

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each."""
        self._raw.executemany(statement, parameters)

    async def fetchall(self) -> list[Any]:
        """All rows that are left."""
        return self._raw.fetchall()

    async def close(self) -> None:
        """Let the statement go."""
        self._raw.close()


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def connector(path: str, thread: ThreadPoolExecutor, *, writes: bool) -> Callable[..., Any]:
    """What opens connections to the file at `path`, as `async_creator_fn` wants it."""

    async def connect(*_: Any, **__: Any) -> InlineConnection:
        raw = await finished(thread, lambda: _open(path))
        return InlineConnection(raw, thread, writes=writes)

    return connect


def _open(path: str) -> sqlite3.Connection:
    # Transactions are begun and ended by us alone; whoever holds the lock is waited for without blocking the loop.
    raw = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS
    )
    for pragma in (*PRAGMAS, "busy_timeout = 0"):
        raw.execute(f"PRAGMA {pragma}")
    return raw


async def finished(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """What `work` gives in the thread. A cancellation waits until it is over: nobody closes what it is using."""
    running = asyncio.get_running_loop().run_in_executor(thread, work)
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()
        raise cancelled
    return running.result()
