"""Handoffs: their rows, and the event of each step in the same transaction."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.events import EventType
from boxkeep_server.model.handoffs import OPEN, Handoff, HandoffStatus, check_step
from boxkeep_server.store import sandboxes
from boxkeep_server.store.schema import handoffs

_C = handoffs.c
RECORD = [_C[name] for name in Handoff.__slots__]
_EVENTS = {
    HandoffStatus.ACCEPTED: EventType.HANDOFF_ACCEPTED,
    HandoffStatus.COMPLETED: EventType.HANDOFF_COMPLETED,
    HandoffStatus.CANCELLED: EventType.HANDOFF_CANCELLED,
    HandoffStatus.EXPIRED: EventType.HANDOFF_EXPIRED,
}


async def get(connection: AsyncConnection, handoff_id: str) -> Handoff | None:
    """A handoff, whoever it belongs to."""
    row = (await connection.execute(sa.select(*RECORD).where(_C.id == handoff_id))).one_or_none()
    return None if row is None else _record(row)


async def latest(connection: AsyncConnection, sandbox: str) -> Handoff | None:
    """The handoff that a sandbox had last."""
    query = sa.select(*RECORD).where(_C.sandbox == sandbox).order_by(_C.requested_at.desc(), _C.id.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _record(row)


async def latest_of(connection: AsyncConnection, ids: Collection[str]) -> dict[str, Handoff]:
    """The handoff that each of these sandboxes had last, by sandbox; those without any are left out."""
    newer = handoffs.alias("newer")
    none_newer = ~sa.exists().where(
        newer.c.sandbox == _C.sandbox,
        sa.tuple_(newer.c.requested_at, newer.c.id) > sa.tuple_(_C.requested_at, _C.id),
    )
    query = sa.select(*RECORD).where(_C.sandbox.in_(list(ids)), none_newer)
    return {row.sandbox: _record(row) for row in await connection.execute(query)}


async def expired(connection: AsyncConnection, now: int) -> Sequence[Handoff]:
    """Open handoffs whose time is over."""
    query = sa.select(*RECORD).where(_C.status.in_(list(OPEN)), _C.expires_at <= now)
    return [_record(row) for row in await connection.execute(query)]


async def add(connection: AsyncConnection, new: Handoff, actor: str) -> None:
    """Write a new handoff, with its event. The caller holds the sandbox's organisation locked."""
    await connection.execute(sa.insert(handoffs).values({name: getattr(new, name) for name in Handoff.__slots__}))
    await _tell(connection, new, EventType.HANDOFF_REQUESTED, actor)


async def step(
    connection: AsyncConnection, before: Handoff, after: HandoffStatus, at: int, actor: str, **changes: Any
) -> Handoff | None:
    """Move a handoff that still is as `before`, with its event; None if something else moved it first.

    Raises:
        HandoffConflict: it cannot go there.
    """
    check_step(before.status, after)
    still = sa.and_(_C.id == before.id, _C.status == before.status)
    values = {**changes, "status": after, "updated_at": at}
    row = (await connection.execute(sa.update(handoffs).where(still).values(values).returning(*RECORD))).one_or_none()
    if row is None:
        return None
    moved = _record(row)
    await _tell(connection, moved, _EVENTS[after], actor)
    return moved


async def _tell(connection: AsyncConnection, one: Handoff, event: EventType, actor: str) -> None:
    about = {"requestId": one.id, "reason": one.reason, "controller": one.controller}
    data = {name: value for name, value in about.items() if value is not None}
    await sandboxes.tell(
        connection, one.sandbox, one.organisation, event=event, at=one.updated_at, actor=actor, data=data
    )


def _record(row: "sa.Row[Any]") -> Handoff:
    values = dict(zip(Handoff.__slots__, row, strict=True))
    return Handoff(**{**values, "status": HandoffStatus(values["status"])})
