"""Expire: sandboxes end when their time or their organisation's hours are used up."""

from boxkeep_server.control.steps import Steps
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import running, selections
from boxkeep_server.store.database import Database


class Expire:
    """Ends what has run its time. One that was given more time meanwhile is left alone: the row's revision decides."""

    def __init__(self, database: Database, steps: Steps) -> None:
        self._database = database
        self._steps = steps

    async def run_once(self) -> int:
        """End what is due; how many."""
        now = self._steps.now_ms()
        async with self._database.reading() as connection:
            due = await selections.expired(connection, now)
            spent = await running.used_up(connection, now)
            broke = await selections.ready_of(connection, spent) if spent else ()
        ended = [await self._end(one, Reason.MAX_DURATION) for one in due]
        ended += [await self._end(one, Reason.HOURS_LIMIT) for one in broke]
        return sum(ended)

    async def _end(self, sandbox: Sandbox, reason: Reason) -> bool:
        return await self._steps.step(sandbox, Status.ENDING, reason=reason) is not None
