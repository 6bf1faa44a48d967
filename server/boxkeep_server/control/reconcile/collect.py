"""Collect: what has been over for long is deleted."""

from boxkeep_server.control.steps import Steps
from boxkeep_server.store import answers, endings, sandboxes
from boxkeep_server.store.database import Database


class Collect:
    """Deletes ended sandboxes with their events and commands, and answers kept under idempotency keys. Hours stay."""

    def __init__(self, database: Database, steps: Steps, *, ended_kept_ms: int, answers_kept_ms: int) -> None:
        self._database = database
        self._steps = steps
        self._ended_kept_ms = ended_kept_ms
        self._answers_kept_ms = answers_kept_ms

    async def run_once(self) -> int:
        """Delete a batch; how many rows of sandboxes and answers."""
        now = self._steps.now_ms()
        async with self._database.writing() as connection:
            old = await sandboxes.forget_ended(connection, now - self._ended_kept_ms)
            await endings.forget(connection, list(old))
            return len(old) + await answers.forget(connection, now - self._answers_kept_ms)
