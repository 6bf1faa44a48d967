"""Usage, read from the spans and sums that steps have written; nothing is counted beside them."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.usage import Tally
from boxkeep_server.store.schema import month_sums, sandboxes, spans


async def tally(connection: AsyncConnection, organisation: str, since: int, until: int, now: int) -> Tally:
    """The running time of an organisation's sandboxes within a stretch of time; those that run are counted until now.

    One statement: a step that is taken meanwhile is in it as a whole or not at all.
    """
    found = Tally(since, min(until, now))
    end = sa.func.coalesce(spans.c.end, now)
    query = sa.select(spans.c.sandbox, spans.c.start, end).where(
        spans.c.organisation == organisation, spans.c.start < found.until, end > since
    )
    for sandbox, start, ended in await connection.execute(query):
        found.add(sandbox, start, ended)
    return found


async def created(connection: AsyncConnection, organisation: str, since: int, until: int) -> int:
    """How many of an organisation's sandboxes that are still listed were created within a stretch of time."""
    query = sa.select(sa.func.count(sandboxes.c.id)).where(
        sandboxes.c.organisation == organisation, sandboxes.c.created_at >= since, sandboxes.c.created_at < until
    )
    return int((await connection.execute(query)).scalar_one())


async def months(connection: AsyncConnection, organisation: str) -> dict[str, int]:
    """The running time of each month, of spans that have ended."""
    query = sa.select(month_sums.c.month, month_sums.c.ms).where(month_sums.c.organisation == organisation)
    return {row.month: row.ms for row in await connection.execute(query.order_by(month_sums.c.month.desc()).limit(120))}
