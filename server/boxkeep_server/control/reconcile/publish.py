"""Publish: recordings that wait in ready sandboxes become artifacts."""

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.recordings import Recordings
from boxkeep_server.model.browsers import NAME, RECORDINGS
from boxkeep_server.model.errors import LimitReached
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import companions
from boxkeep_server.store.database import Database

AT_ONCE: Final = 64
AT_ONCE_OF_ONE: Final = 4
"""Of one organisation: whose sandboxes stall holds up its own alone."""
CALM_MS: Final = 2_000
AGAIN_MS: Final = 60_000
"""Between two looks into the same sandbox: usually, and where the first has not succeeded."""

_log = logging.getLogger(__name__)


class Publish:
    """Looks where browsers say that something waits. That the plan allows no more is told once, until it does again."""

    def __init__(self, database: Database, recordings: Recordings, monotonic_ms: Callable[[], float]) -> None:
        self._database = database
        self._recordings = recordings
        self._monotonic_ms = monotonic_ms
        self._not_before: dict[str, float] = {}
        self._limited: set[str] = set()
        self._of: Counter[str] = Counter()
        self.crowd = Crowd(AT_ONCE)

    async def run_once(self) -> int:
        """Begin to look where it is time to; into how many."""
        async with self._database.reading() as connection:
            found = await companions.in_ready_sandboxes(connection, NAME)
        waiting = {sandbox.id: sandbox for one, sandbox in found if one.facts.get(RECORDINGS, "0") != "0"}
        self._not_before = {id_: at for id_, at in self._not_before.items() if id_ in waiting}
        self._limited &= waiting.keys()
        now = self._monotonic_ms()
        due = [sandbox for sandbox in waiting.values() if self._not_before.get(sandbox.id, now) <= now]
        return sum(self._start(sandbox) for sandbox in due)

    def _start(self, sandbox: Sandbox) -> bool:
        if self._of[sandbox.organisation] >= AT_ONCE_OF_ONE:
            return False
        started = self.crowd.start(sandbox.id, partial(self._look, sandbox))
        self._of[sandbox.organisation] += started
        return started

    async def _look(self, sandbox: Sandbox) -> None:
        try:
            await self._publish(sandbox)
        finally:
            self._of[sandbox.organisation] -= 1
            self._of += Counter()

    async def _publish(self, sandbox: Sandbox) -> None:
        look = await self._recordings.publish(sandbox)
        wait_ms = CALM_MS if look.error is None else AGAIN_MS
        self._not_before[sandbox.id] = self._monotonic_ms() + wait_ms
        if look.error is not None:
            _log.warning("recordings of sandbox %s wait: %s", sandbox.id, look.error)
        if isinstance(look.error, LimitReached) and sandbox.id not in self._limited:
            await self._recordings.tell(sandbox, look.left, str(look.error), look.published)
            self._limited.add(sandbox.id)
        elif look.error is None:
            self._limited.discard(sandbox.id)
