"""Follow: when the host's clock was set, what is under way keeps the time that it has run and that it has left."""

import logging

from boxkeep_server.model.clocks import SteadyClock
from boxkeep_server.store import clocks
from boxkeep_server.store.database import Database

_log = logging.getLogger(__name__)


class Follow:
    """Moves the clock that control goes by, and with it, in one transaction, all that is measured by it.

    It moves before the transaction is over, and back if that fails: who reads in between has the new time and old
    rows, and what they decide meets rows of another revision.
    """

    def __init__(self, database: Database, clock: SteadyClock, boot_id: str) -> None:
        self._database = database
        self._clock = clock
        self._boot_id = boot_id

    async def run_once(self) -> int:
        """Follow the host's clock if it was set; how many times it was."""
        jump = self._clock.jump_ms()
        if jump == 0:
            return 0
        moved = False
        try:
            async with self._database.writing() as connection:
                await clocks.move(connection, jump)
                await clocks.note(connection, self._boot_id, self._clock.ahead_ms + jump)
                self._clock.follow(jump)
                moved = True
        except BaseException:
            self._clock.follow(-jump if moved else 0)
            raise
        _log.warning("the host's clock was set by %+d ms: what is under way was moved along", jump)
        return 1


async def remembered(database: Database, clock: SteadyClock, boot_id: str) -> None:
    """Have a new clock go on where that of the process before was, if the host has run since: what was done to the
    host's clock meanwhile is for `Follow` to see."""
    async with database.writing() as connection:
        ahead = await clocks.ahead_ms(connection, boot_id)
        if ahead is None:
            await clocks.note(connection, boot_id, clock.ahead_ms)
        else:
            clock.ahead_ms = ahead
