"""Warn: organisations whose hours of the month run out are told so, at 80 and at 100 percent, once each."""

from collections.abc import Sequence
from typing import Final

from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.model.events import EventType
from boxkeep_server.store import organisations, running, sandboxes, selections
from boxkeep_server.store.database import Database

PARTS: Final = {80: EventType.LIMIT_WARNING, 100: EventType.LIMIT_REACHED}


class Warn:
    """Writes an event to each sandbox of theirs that runs then. Who stops what has run out tells of it first."""

    def __init__(self, database: Database, steps: Steps) -> None:
        self._database = database
        self._steps = steps

    async def run_once(self) -> int:
        """Tell those who are not told yet; how many sandboxes have it written."""
        now = self._steps.now_ms()
        told = 0
        for percent in PARTS:
            async with self._database.reading() as connection:
                spent = await running.used_up(connection, now, percent)
            told += await self.tell(spent, now, percent)
        return told

    async def tell(self, spent: Sequence[str], now: int, percent: int) -> int:
        """Tell organisations that have spent that part of their hours in the month of `now`, but who was told already
        or has nothing ready; how many sandboxes have it written. May be repeated."""
        if not spent:
            return 0
        async with self._database.reading() as connection:
            untold = await running.untold(connection, spent, now, percent)
        return sum([await self._tell_one(organisation, now, percent) for organisation in untold])

    async def _tell_one(self, organisation: str, now: int, percent: int) -> int:
        """The word that they are told in the same transaction: neither twice nor not at all, whatever is killed."""
        async with self._database.writing() as connection:
            await organisations.lock_organisation(connection, organisation)
            ready = await selections.ready_of(connection, [organisation])
            if not ready or not await running.note_told(connection, organisation, now, percent):
                return 0
            for sandbox in ready:
                data = {"limit": "hours", "percent": percent}
                await sandboxes.tell(
                    connection, sandbox.id, organisation, event=PARTS[percent], at=now, actor=SYSTEM, data=data
                )
        for sandbox in ready:
            self._steps.tell(sandbox)
        return len(ready)
