"""Strays: blobs of artifacts that are to go, or may have come to be without a row, deleted once their store answers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from boxkeep_server.blobs.interface import Blobs
from boxkeep_server.model.artifacts import artifact_of_blob
from boxkeep_server.model.errors import TimedOut, Unavailable
from boxkeep_server.store import artifacts
from boxkeep_server.store.database import Database


class Strays:
    """What this process knows of. What a process that was killed knew of is found when all blobs are looked through."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._keys: set[str] = set()
        self._turn = asyncio.Lock()

    def __len__(self) -> int:
        """How many are known of."""
        return len(self._keys)

    @asynccontextmanager
    async def unless_done(self, key: str) -> AsyncGenerator[None, None]:
        """Within it a blob is put under this key, and its row is written; if that raises, it is a stray without one."""
        async with self._turn:  # an earlier try may have left one, that is being deleted
            self._keys.discard(key)
        try:
            yield
        except BaseException:
            self._keys.add(key)
            raise

    async def delete(self, key: str) -> None:
        """Delete a blob that no row names any more: now, or once the store answers."""
        try:
            await self._blobs.delete(key)
        except (Unavailable, TimedOut):
            self._keys.add(key)

    async def run_once(self) -> int:
        """Delete what is known of and has no row; how many.

        Raises:
            Unavailable, TimedOut: the store of rows or of blobs is away; what is left is for the next time.
        """
        return sum([await self._settle(key) for key in list(self._keys)])

    async def _settle(self, key: str) -> bool:
        async with self._turn:
            stray = key in self._keys and not await self._named(key)
            if stray:
                await self._blobs.delete(key)
            self._keys.discard(key)
        return stray

    async def _named(self, key: str) -> bool:
        artifact = artifact_of_blob(key)
        async with self._database.reading() as connection:
            return bool(artifact is not None and await artifacts.known(connection, [artifact]))
