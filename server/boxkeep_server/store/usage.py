"""Usage, read from the spans and sums that steps have written; nothing is counted beside them."""

import asyncio
from collections import Counter

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.hours import Span, split
from boxkeep_server.model.usage import Tally
from boxkeep_server.store.schema import month_sums, sandboxes, spans

_AT_A_TIME = 1000


async def tally(connection: AsyncConnection, organisation: str, since: int, until: int, now: int) -> Tally:
    """The running time of an organisation's sandboxes within a stretch of time; those that run are counted until now.

    One statement: a step that is taken meanwhile is in it as a whole or not at all.
    """
    found = Tally(since, min(until, now))
    mine = spans.c.organisation == organisation, spans.c.start < found.until
    columns = spans.c.sandbox, spans.c.start
    ended = sa.select(*columns, spans.c.end).where(*mine, spans.c.end > since)  # two halves: each has its index
    still = sa.select(*columns, sa.literal(now, sa.BigInteger)).where(*mine, spans.c.end.is_(None))
    rows = await connection.execute(sa.union_all(ended, still))
    for some in rows.partitions(_AT_A_TIME):
        for sandbox, start, end in some:
            found.add(sandbox, start, end)
        await asyncio.sleep(0)  # others have their turn: there may be very many spans
    return found


async def created(connection: AsyncConnection, organisation: str, since: int, until: int) -> int:
    """How many of an organisation's sandboxes that are still listed were created within a stretch of time."""
    query = sa.select(sa.func.count(sandboxes.c.id)).where(
        sandboxes.c.organisation == organisation, sandboxes.c.created_at >= since, sandboxes.c.created_at < until
    )
    return int((await connection.execute(query)).scalar_one())


async def months(connection: AsyncConnection, organisation: str, now: int) -> dict[str, int]:
    """The running time of each month until now, the latest 120; those that run are in every month that they touch.

    One statement: a span that ends meanwhile is in it once, among the sums or among the open.
    """
    sums = sa.select(month_sums.c.month, month_sums.c.ms).where(month_sums.c.organisation == organisation)
    still = sa.select(sa.cast(sa.null(), sa.String(7)), spans.c.start).where(
        spans.c.organisation == organisation, spans.c.end.is_(None)
    )
    found: Counter[str] = Counter()
    for month, ms in await connection.execute(sa.union_all(sums, still)):
        found.update({month: ms} if month is not None else dict(split(Span(ms, None), now)))
    return dict(sorted(found.items(), reverse=True)[:120])
