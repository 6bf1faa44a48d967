"""Upload: snapshots that only their node has are copied into the store of blobs; copies that nobody wants go."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from boxkeep_server.control.copies import Copies
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.steps import DISCARD, UPLOAD, Steps
from boxkeep_server.engine.interface import EngineError
from boxkeep_server.model.copies import Copied
from boxkeep_server.model.errors import BoxkeepError
from boxkeep_server.store import copies
from boxkeep_server.store.database import Database

AT_ONCE: Final = 2
BATCH: Final = 50
FIRST_PAUSE_MS: Final = 5_000
LONGEST_PAUSE_MS: Final = 600_000

_log = logging.getLogger(__name__)


class Upload:
    """Copies what is owed, a few at a time; what fails is tried again, later each time."""

    def __init__(self, database: Database, steps: Steps, store: Copies, monotonic_ms: Callable[[], float]) -> None:
        self._monotonic_ms = monotonic_ms
        self._database = database
        self._steps = steps
        self._copies = store
        self._more = False
        self._failed: dict[str, tuple[float, int]] = {}
        self.crowd = Crowd(AT_ONCE, self._go_on)

    def _go_on(self) -> None:
        if self._more:
            self._steps.wake(UPLOAD)

    async def run_once(self) -> int:
        """Start copying what is owed and is not under way; how many were started."""
        now = self._monotonic_ms()
        resting = {name for name, (until, _) in self._failed.items() if until > now}
        async with self._database.reading() as connection:
            owed = await copies.owed(connection, BATCH + len(resting) + AT_ONCE)
        self._failed = {name: one for name, one in self._failed.items() if name in {of.name for of, _ in owed}}
        idle = [(of, node) for of, node in owed if of.name not in self.crowd and of.name not in resting]
        self._more = len(idle) > self.crowd.room
        return sum(self.crowd.start(of.name, partial(self._store, of, node)) for of, node in idle)

    async def tidy(self) -> int:
        """Delete the copies of what nothing goes on from any more; how many.

        Raises:
            Unavailable, TimedOut: the store of rows or of blobs is away; what is left is for the next time.
        """
        async with self._database.scanning() as connection:
            unwanted = await copies.unwanted(connection, BATCH)
        gone = [of for of in unwanted if of.name not in self.crowd]
        for of in gone:
            await self._copies.remove(of)
        if len(unwanted) == BATCH and gone:
            self._steps.wake(DISCARD)
        return len(gone)

    async def _store(self, of: Copied, node: str) -> None:
        try:
            wanted = await self._copies.store(of, node)
        except (EngineError, BoxkeepError) as error:
            self._rest(of, error)
            return
        self._failed.pop(of.name, None)
        if wanted:
            self._steps.tell_of(of.sandbox)
        else:
            self._steps.wake(DISCARD)

    def _rest(self, of: Copied, error: Exception) -> None:
        _, before = self._failed.get(of.name, (0, FIRST_PAUSE_MS // 2))
        pause = min(2 * before, LONGEST_PAUSE_MS)
        self._failed[of.name] = (self._monotonic_ms() + pause, pause)
        _log.warning("snapshot %s is not in the store yet, tried again in %d s: %s", of.name, pause // 1000, error)
