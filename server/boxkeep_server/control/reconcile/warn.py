"""Warn: organisations whose hours of the month run out are told so, at 80 and at 100 percent, once each."""

from typing import Final

from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.model.events import EventType
from boxkeep_server.store import organisations, running, sandboxes, selections
from boxkeep_server.store.database import Database

PARTS: Final = {80: EventType.LIMIT_WARNING, 100: EventType.LIMIT_REACHED}


class Warn:
    """Writes an event to each sandbox of theirs that runs then."""

    def __init__(self, database: Database, steps: Steps) -> None:
        self._database = database
        self._steps = steps

    async def run_once(self) -> int:
        """Tell those who are not told yet; how many sandboxes have it written."""
        return sum([await self._tell(percent) for percent in PARTS])

    async def _tell(self, percent: int) -> int:
        now = self._steps.now_ms()
        async with self._database.reading() as connection:
            spent = await running.used_up(connection, now, percent)
            untold = await running.untold(connection, spent, now, percent) if spent else ()
        return sum([await self._tell_one(organisation, now, percent) for organisation in untold])

    async def _tell_one(self, organisation: str, now: int, percent: int) -> int:
        """The word that they are told in the same transaction: neither twice nor not at all, whatever is killed."""
        async with self._database.writing() as connection:
            await organisations.lock_organisation(connection, organisation)
            ready = await selections.ready_of(connection, [organisation])
            if not await running.note_told(connection, organisation, now, percent):
                return 0
            for sandbox in ready:
                data = {"limit": "hours", "percent": percent}
                await sandboxes.tell(
                    connection, sandbox.id, organisation, event=PARTS[percent], at=now, actor=SYSTEM, data=data
                )
        for sandbox in ready:
            self._steps.tell(sandbox)
        return len(ready)
