"""Idle: sandboxes in which nothing runs, and that nobody calls, are paused after the time that they name."""

from collections.abc import Callable
from contextlib import suppress

from boxkeep_server.control.pausing import Pausing
from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.model.errors import LimitReached
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.store import selections
from boxkeep_server.store.database import Database


class Idle:
    """`busy` says whether a command, a terminal or a call lives in a sandbox now, `used_at` when it was last called (by
    `monotonic_ms`, None where this process does not know). What an earlier process saw is forgotten: time counts anew.
    """

    def __init__(
        self,
        database: Database,
        steps: Steps,
        pausing: Pausing,
        *,
        busy: Callable[[str], bool],
        used_at: Callable[[str], float | None],
        monotonic_ms: Callable[[], float],
    ) -> None:
        self._database = database
        self._steps = steps
        self._pausing = pausing
        self._busy = busy
        self._used_at = used_at
        self._monotonic_ms = monotonic_ms
        self._began = monotonic_ms()
        self._awake_at: dict[str, float] = {}

    async def run_once(self) -> int:
        """Pause what is idle; how many."""
        async with self._database.reading() as connection:
            found = await selections.with_lifecycle(connection)
        mindful = [one for one in found if one.lifecycle.idle_pause_ms is not None]
        now = self._monotonic_ms()
        known = {one.id: self._awake_at.get(one.id, self._began) for one in mindful}
        self._awake_at = {one: now if self._busy(one) else at for one, at in known.items()}
        return sum([await self._pause(one, now) for one in mindful])

    async def _pause(self, sandbox: Sandbox, now: float) -> bool:
        ready_ms = self._steps.now_ms() - (sandbox.ready_at or 0)
        since = max(self._awake_at[sandbox.id], self._used_at(sandbox.id) or self._began)
        if min(now - since, ready_ms) < (sandbox.lifecycle.idle_pause_ms or 0):
            return False
        self._awake_at[sandbox.id] = now  # should it be found busy after all, or not to be kept
        with suppress(LimitReached):
            return await self._pausing.pause_for(sandbox, Reason.IDLE, SYSTEM) is not None
        return False
