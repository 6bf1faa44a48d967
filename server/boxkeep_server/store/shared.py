"""Shared commits: writers that queue behind one another write in turn and wait for the device together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

TURN_S: Final = 10.0
"""How long a writer waits for those before it: while another process holds the database, none gets through."""


class GroupLost(Exception):
    """The commit that was shared did not happen: nothing of any member is written."""


@dataclass(slots=True)
class _Group:
    connection: AsyncConnection
    ended: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    committing: "asyncio.Task[None] | None" = None


class SharedCommits:
    """Transactions of one connection, one writer at a time.

    The first one to come begins a transaction. Those who came while it wrote write behind it, each in a savepoint,
    see what it wrote, and none of them goes on before all of it is committed.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._group: _Group | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Write what the block writes; durable when it has ended. If it raises, nothing of it is written.

        Raises:
            GroupLost: the commit failed.
            TimeoutError: others did not get through before; nothing was written.
        """
        async with self._in_turn(TURN_S):
            group = self._group
            if group is None:
                group = await self._lead()
                async with self._undone_on_fault(group):
                    yield group.connection
                await self._commit_or_share(group)
            else:
                async with self._lost_with_its_connection(group), group.connection.begin_nested():
                    yield group.connection
        await asyncio.shield(group.ended)

    @asynccontextmanager
    async def _in_turn(self, within_s: float | None = None) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            async with asyncio.timeout(within_s):
                await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def _lead(self) -> _Group:
        connection = await self._engine.connect()
        try:
            await connection.begin()
        except BaseException:
            await connection.close()
            raise
        return _Group(connection)

    @asynccontextmanager
    async def _undone_on_fault(self, group: _Group) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await group.connection.close()
            raise

    @asynccontextmanager
    async def _lost_with_its_connection(self, group: _Group) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as fault:
            if await _in_transaction(group.connection):
                raise
            await self._end(group, fault)
            if not isinstance(fault, SQLAlchemyError):
                raise
            raise GroupLost(str(fault)) from fault

    async def _commit_or_share(self, group: _Group) -> None:
        if self._waiting:
            self._group = group
            group.committing = asyncio.create_task(self._commit_in_turn(group))
        else:
            await self._commit(group)

    async def _commit_in_turn(self, group: _Group) -> None:
        # The turn is given in the order in which it was asked for: behind those who wait now, before all others.
        async with self._in_turn():
            if self._group is group:
                await self._commit(group)

    async def _commit(self, group: _Group) -> None:
        try:
            await group.connection.commit()
        except SQLAlchemyError as fault:
            await self._end(group, fault)
        except BaseException as stop:
            await self._end(group, stop)
            raise
        else:
            await self._end(group, None)

    async def _end(self, group: _Group, fault: BaseException | None) -> None:
        self._group = None
        if fault is None:
            group.ended.set_result(None)
        else:
            group.ended.set_exception(GroupLost(str(fault)))
            group.ended.exception()  # members are told where they wait; there may be none left
        await group.connection.close()


async def _in_transaction(connection: AsyncConnection) -> bool:
    """Whether a fault has left the transaction to its other members: SQLite gives up the whole of it when the disk is
    full, and what came then would be written at once, each statement for itself."""
    if connection.invalidated:
        return False
    driver: Any = (await connection.get_raw_connection()).driver_connection
    return bool(driver.in_transaction)
