"""Expire: sandboxes end or are paused when their time or their organisation's hours are used up."""

from contextlib import suppress
from typing import Literal

from boxkeep_server.control.pausing import Pausing
from boxkeep_server.control.reconcile.warn import PARTS, Warn
from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.model.errors import LimitReached
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import running, selections
from boxkeep_server.store.database import Database

OnExpiry = Literal["end", "pause"]


class Expire:
    """Ends what has run its time, or pauses it where that is wished; at the limit of hours the operator decides. One
    that was given more time meanwhile is left alone: the row's revision decides."""

    def __init__(
        self, database: Database, steps: Steps, pausing: Pausing, warn: Warn, *, at_hours_limit: OnExpiry
    ) -> None:
        self._database = database
        self._steps = steps
        self._pausing = pausing
        self._warn = warn
        self._at_hours_limit = at_hours_limit

    async def run_once(self) -> int:
        """End or pause what is due; how many."""
        now = self._steps.now_ms()
        async with self._database.reading() as connection:
            due = await selections.expired(connection, now)
            spent = await running.used_up(connection, now)
            broke = await selections.ready_of(connection, spent) if spent else ()
        for percent in PARTS:  # before any stop: what has stopped is seen by no later telling
            await self._warn.tell(spent, now, percent)
        ended = [await self._stop(one, Reason.MAX_DURATION, one.lifecycle.on_expiry) for one in due]
        ended += [await self._stop(one, Reason.HOURS_LIMIT, self._at_hours_limit) for one in broke]
        return sum(ended)

    async def _stop(self, sandbox: Sandbox, reason: Reason, how: OnExpiry) -> bool:
        if how == "pause":
            with suppress(LimitReached):  # what the plan does not let be kept ends
                return await self._pausing.pause_for(sandbox, reason, SYSTEM) is not None
        return await self._steps.step(sandbox, Status.ENDING, reason=reason) is not None
