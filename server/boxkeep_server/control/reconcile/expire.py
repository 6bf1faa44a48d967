"""Expire: sandboxes end when their time or their organisation's hours are used up."""

from boxkeep_server.control.steps import Steps
from boxkeep_server.model import hours
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import organisations, sandboxes
from boxkeep_server.store.database import Database


class Expire:
    """Ends what has run its time. One that was given more time meanwhile is left alone: the row's revision decides."""

    def __init__(self, database: Database, steps: Steps) -> None:
        self._database = database
        self._steps = steps

    async def run_once(self) -> int:
        """End what is due; how many."""
        async with self._database.reading() as connection:
            due = await sandboxes.expired(connection, self._steps.now_ms())
        ended = [await self._end(one, Reason.MAX_DURATION) for one in due]
        return sum(ended) + await self._end_without_hours()

    async def _end_without_hours(self) -> int:
        async with self._database.reading() as connection:
            running = await sandboxes.running_organisations(connection)
        return sum([await self._end_if_used_up(organisation) for organisation in running])

    async def _end_if_used_up(self, organisation: str) -> int:
        now = self._steps.now_ms()
        async with self._database.reading() as connection:
            plan = await organisations.plan_of(connection, organisation)
            if plan.month_ms is None:
                return 0
            spans = await sandboxes.spans_since(connection, organisation, hours.month_start(now))
            if hours.used(spans, hours.month_of(now), now) < plan.month_ms:
                return 0
            running = await sandboxes.ready_of(connection, organisation)
        return sum([await self._end(one, Reason.HOURS_LIMIT) for one in running])

    async def _end(self, sandbox: Sandbox, reason: Reason) -> bool:
        return await self._steps.step(sandbox, Status.ENDING, reason=reason, expires_at=None) is not None
