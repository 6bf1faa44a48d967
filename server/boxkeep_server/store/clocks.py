"""What the clock of an instance was ahead of its host's uptime, and what is moved along when that changes."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store.schema import clocks, deliveries, idempotency, sandboxes, spans, webhooks
from boxkeep_server.store.upserts import insert_or

_ONE: Final = 1
_MOVED: Final = (
    (sandboxes, ("queued_at", "ready_at", "expires_at", "node_not_after"), sandboxes.c.status.not_in(OVER)),
    (spans, ("start",), spans.c.end.is_(None)),
    (idempotency, ("created_at",), sa.true()),
    (deliveries, ("due_at", "give_up_at"), deliveries.c.due_at.is_not(None)),
    (webhooks, ("failing_since", "before_until"), sa.true()),
)
"""Moments from which, or until which, time is measured that is under way. What is told as a fact stays as it was."""


async def ahead_ms(connection: AsyncConnection, boot_id: str) -> int | None:
    """What the clock was ahead of the uptime of this boot of the host; None where it has not been on it."""
    query = sa.select(clocks.c.ahead_ms).where(clocks.c.boot_id == boot_id)
    ahead: int | None = (await connection.execute(query)).scalar_one_or_none()
    return ahead


async def note(connection: AsyncConnection, boot_id: str, ahead: int) -> None:
    """Write down what the clock is ahead of the uptime of this boot."""
    values = {"boot_id": boot_id, "ahead_ms": ahead}
    row = insert_or(connection, clocks).values(id=_ONE, **values)
    await connection.execute(row.on_conflict_do_update(index_elements=["id"], set_=values))


async def move(connection: AsyncConnection, by_ms: int) -> None:
    """Move what is measured along with the clock.

    The revision of each sandbox that still runs grows: who has read it before, and decides by the new time that it is
    over, decides nothing.
    """
    for table, names, under_way in _MOVED:
        values = {name: table.c[name] + by_ms for name in names}
        await connection.execute(sa.update(table).where(under_way).values(values))
    live = sandboxes.c.status.not_in((*OVER, Status.PAUSED))
    await connection.execute(sa.update(sandboxes).where(live).values(revision=sandboxes.c.revision + 1))
