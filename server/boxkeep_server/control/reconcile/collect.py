"""Collect: what has been over for long is deleted."""

from typing import Final

from boxkeep_server.control.steps import Steps
from boxkeep_server.store import answers, checkpoints, deliveries, organisations, sandboxes, selections
from boxkeep_server.store.database import Database

BATCH: Final = 200
HOUR_MS: Final = 3_600_000


class Collect:
    """Deletes ended sandboxes with their events and commands, dead keys, answers kept under idempotency keys,
    deliveries of webhooks, and checkpoints that came to nothing. Hours stay."""

    def __init__(
        self, database: Database, steps: Steps, *, ended_kept_ms: int, answers_kept_ms: int, deliveries_kept_ms: int
    ) -> None:
        self._database = database
        self._steps = steps
        self._ended_kept_ms = ended_kept_ms
        self._answers_kept_ms = answers_kept_ms
        self._deliveries_kept_ms = deliveries_kept_ms

    async def run_once(self) -> int:
        """Delete what is too old; how many sandboxes, keys, answers and deliveries."""
        now = self._steps.now_ms()
        async with self._database.writing() as connection:
            count = await answers.forget(connection, now - self._answers_kept_ms)
            count += await organisations.forget_keys(connection, now - self._ended_kept_ms)
            count += await checkpoints.forget_failed(connection, now - HOUR_MS)
            await deliveries.give_up(connection, now)
        count += await self._forget_deliveries(now)
        return count + await self._forget_sandboxes(now - self._ended_kept_ms)

    async def _forget_deliveries(self, now: int) -> int:
        count, gone = 0, BATCH
        while gone == BATCH:
            async with self._database.writing() as connection:
                gone = await deliveries.forget(connection, now - self._deliveries_kept_ms, now, BATCH)
            count += gone
        return count

    async def _forget_sandboxes(self, over_before: int) -> int:
        """In batches, so that no writer waits for long."""
        count = 0
        while True:
            async with self._database.scanning() as connection:
                old = await selections.over_before(connection, over_before, BATCH)
            async with self._database.writing() as connection:
                await sandboxes.forget(connection, old)
            count += len(old)
            if len(old) < BATCH:
                return count
