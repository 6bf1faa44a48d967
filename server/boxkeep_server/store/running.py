"""Running time: spans that begin and end with a sandbox's steps, and the sum of the ended ones for each month."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.hours import Span, month_of, month_start, split
from boxkeep_server.store.schema import limit_notices, month_sums, organisations, plans, spans
from boxkeep_server.store.upserts import insert_or

_IS_OPEN = spans.c.end.is_(None)
_BEGIN = sa.insert(spans)


async def begin(connection: AsyncConnection, sandbox: str, organisation: str, at: int) -> None:
    """A sandbox runs from now on."""
    await connection.execute(_BEGIN, {"sandbox": sandbox, "organisation": organisation, "start": at})


async def span_of(connection: AsyncConnection, sandbox: str, until: int, now: int) -> Span | None:
    """The span of a running sandbox if it ends at `until`, which is no earlier than it began and no later than now."""
    query = sa.select(spans.c.start).where(spans.c.sandbox == sandbox, _IS_OPEN)
    start: int | None = (await connection.execute(query)).scalar_one_or_none()
    return None if start is None else Span(start, max(start, min(until, now)))


async def end(connection: AsyncConnection, sandbox: str, organisation: str, span: Span) -> None:
    """A sandbox has run for this span."""
    await connection.execute(sa.update(spans).where(spans.c.sandbox == sandbox, _IS_OPEN).values(end=span.end))
    for month, ms in split(span, span.start):
        await _add(connection, organisation, month, ms)


async def _add(connection: AsyncConnection, organisation: str, month: str, ms: int) -> None:
    values = {"organisation": organisation, "month": month, "ms": ms}
    await connection.execute(
        insert_or(connection, month_sums)
        .values(values)
        .on_conflict_do_update(index_elements=["organisation", "month"], set_={"ms": month_sums.c.ms + ms})
    )


async def used(connection: AsyncConnection, organisation: str, now: int) -> int:
    """The ms that an organisation's sandboxes ran in the month of `now`, until now.

    One statement: a span that ends meanwhile is in it once, among the ended or among the open.
    """
    month = sa.select(month_sums.c.ms).where(
        month_sums.c.organisation == organisation, month_sums.c.month == month_of(now)
    )
    still = sa.select(_ran_so_far(now)).where(spans.c.organisation == organisation, _IS_OPEN)
    both = sa.func.coalesce(month.scalar_subquery(), 0) + still.scalar_subquery()
    return int((await connection.execute(sa.select(both))).scalar_one())


async def used_up(connection: AsyncConnection, now: int, percent: int = 100) -> Sequence[str]:
    """Organisations whose running sandboxes have used up that part of their plan's hours in the month of `now`."""
    ended = sa.func.coalesce(month_sums.c.ms, 0)
    this_month = sa.and_(month_sums.c.organisation == spans.c.organisation, month_sums.c.month == month_of(now))
    query = (
        sa.select(spans.c.organisation)
        .join(organisations, organisations.c.id == spans.c.organisation)
        .join(plans, plans.c.name == organisations.c.plan)
        .outerjoin(month_sums, this_month)
        .where(_IS_OPEN, plans.c.month_ms.is_not(None))
        .group_by(spans.c.organisation, plans.c.month_ms, month_sums.c.ms)
        .having((ended + _ran_so_far(now)) * 100 >= plans.c.month_ms * percent)
    )
    return list((await connection.execute(query)).scalars())


async def untold(connection: AsyncConnection, organisations_: Sequence[str], now: int, percent: int) -> Sequence[str]:
    """Those of the organisations that were not told yet of that part in the month of `now`."""
    query = sa.select(limit_notices.c.organisation).where(
        limit_notices.c.organisation.in_(organisations_),
        limit_notices.c.month == month_of(now),
        limit_notices.c.percent == percent,
    )
    told = set((await connection.execute(query)).scalars())
    return [one for one in organisations_ if one not in told]


async def note_told(connection: AsyncConnection, organisation: str, now: int, percent: int) -> bool:
    """Note that an organisation is told of that part in the month of `now`; False if it was before."""
    values = {"organisation": organisation, "month": month_of(now), "percent": percent, "at": now}
    noted = await connection.execute(insert_or(connection, limit_notices).values(values).on_conflict_do_nothing())
    return bool(noted.rowcount)


def _ran_so_far(now: int) -> "sa.ColumnElement[int]":
    since = month_start(now)
    start = sa.case((spans.c.start < since, since), (spans.c.start > now, now), else_=spans.c.start)
    return sa.func.coalesce(sa.cast(sa.func.sum(now - start), sa.BigInteger), 0)
