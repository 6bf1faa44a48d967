"""Usage and billing: what an organisation's sandboxes have run, and what its plan leaves."""

from collections.abc import Callable

from boxkeep_server.control.keys import Caller
from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.hours import month_of, month_start, next_month_start
from boxkeep_server.model.usage import Behind, Billing, Usage, page
from boxkeep_server.store import running, storage, usage
from boxkeep_server.store.database import Database

LONGEST_MS = 400 * 86_400_000


class Accounts:
    """The use cases."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms

    async def usage(
        self, caller: Caller, since: int | None, until: int | None, *, cursor: str | None = None, limit: int = 100
    ) -> Usage:
        """What ran within [since, until), epoch ms; by default this month of UTC until now. At most `limit` sandboxes
        are named; a cursor goes on with the next ones in the stretch of its first page.

        Raises:
            Invalid: the stretch is reversed, or longer than 400 days; or the cursor is none of ours, or of another.
        """
        now = self._now_ms()
        behind = None if cursor is None else _behind(cursor, since, until)
        if behind is not None:
            since, until = behind.since, behind.until
        begin = month_start(now) if since is None else since
        end = now if until is None else until
        if end < begin:
            raise Invalid("Invalid until: must not be before since")
        if end - begin > LONGEST_MS:
            raise Invalid("Invalid since: at most 400 days can be asked for at once")
        async with self._database.scanning() as connection:
            tally = await usage.tally(connection, caller.organisation, begin, end, now)
            created = await usage.created(connection, caller.organisation, begin, end)
        return Usage(tally, *page(tally, behind, limit), created)

    async def billing(self, caller: Caller) -> Billing:
        """The plan, and what was used of it."""
        now = self._now_ms()
        async with self._database.scanning() as connection:
            used = await running.used(connection, caller.organisation, now)
            months = await usage.months(connection, caller.organisation, now)
            stored = await storage.stored(connection, caller.organisation)
        before = {month: ms for month, ms in months.items() if month != month_of(now)}
        return Billing(caller.plan, month_start(now), next_month_start(now), used, before, stored.paused, stored.bytes)


def _behind(cursor: str, since: int | None, until: int | None) -> Behind:
    """Where a cursor goes on. Whoever repeats the stretch with it repeats that of the first page, which ends with the
    moment that it was asked for at the latest."""
    behind = Behind.read(cursor)
    if since not in (None, behind.since) or (until is not None and until < behind.until):
        raise Invalid("Invalid cursor: it is of another since or until")
    return behind
