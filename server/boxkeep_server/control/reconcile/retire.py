"""Retire: artifacts whose time is over go, and after them every blob of artifacts that no row names."""

from collections.abc import Sequence
from typing import Final

from boxkeep_server.blobs.interface import Blob, Blobs
from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.control.strays import Strays
from boxkeep_server.model.artifacts import artifact_of_blob
from boxkeep_server.store import artifacts, organisations
from boxkeep_server.store.database import Database

BATCH: Final = 200
PAGE: Final = 1000
SPARED_MS: Final = 6 * 3_600_000
"""How old a blob must be before that no row names it means anything: it is written before its row."""


class Retire:
    """Deletes rows first and blobs after: what a crash leaves between the two is a blob without a row."""

    def __init__(self, database: Database, steps: Steps, blobs: Blobs, strays: Strays, *, kept_ms: int) -> None:
        self._database = database
        self._steps = steps
        self._blobs = blobs
        self._strays = strays
        self._kept_ms = kept_ms

    async def run_once(self) -> int:
        """Delete the artifacts that are too old; how many.

        Raises:
            Unavailable, TimedOut: the store of rows or of blobs is away; what is left is for the next time.
        """
        count = 0
        while True:
            now = self._steps.now_ms()
            async with self._database.scanning() as connection:
                old = await artifacts.published_before(connection, now - self._kept_ms, BATCH)
            for artifact in old:
                async with self._database.writing() as connection:
                    await organisations.lock_organisation(connection, artifact.organisation)
                    await artifacts.delete(connection, artifact, now, SYSTEM)
                await self._strays.delete(artifact.blob)
            count += len(old)
            if len(old) < BATCH:
                return count

    async def sweep(self) -> int:
        """Delete the blobs of artifacts that no row names and that are too old to be on their way; how many.

        Raises:
            Unavailable, TimedOut: the store of rows or of blobs is away; what is left is for the next time.
        """
        count, cursor = 0, None
        while True:
            page = await self._blobs.list("", cursor, PAGE)
            for blob in await self._unnamed(page.items):
                await self._blobs.delete(blob.key)
                count += 1
            cursor = page.cursor
            if cursor is None:
                return count

    async def _unnamed(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        before = self._steps.now_ms() - SPARED_MS
        old = {
            artifact: blob
            for blob in blobs
            if blob.put_at < before and (artifact := artifact_of_blob(blob.key)) is not None
        }
        async with self._database.scanning() as connection:
            known = await artifacts.known(connection, list(old))
        return [blob for artifact, blob in old.items() if artifact not in known]
