"""Events: one row for every step, written in its transaction, and read in order."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.events import PUBLIC, Event, EventType
from boxkeep_server.store import deliveries
from boxkeep_server.store.schema import events, organisations


async def add(
    connection: AsyncConnection,
    sandbox: str,
    organisation: str,
    *,
    sequence: int,
    event: EventType,
    at: int,
    actor: str,
    data: Mapping[str, object],
) -> None:
    """Write an event, and what is owed of it to webhooks. Its sequence is the one that the sandbox's row was moved to
    in the same transaction."""
    values = {"sandbox": sandbox, "organisation": organisation, "sequence": sequence, "type": event, "at": at}
    await connection.execute(_ADD, {**values, "actor": actor, "data": orjson.dumps(data).decode()})
    if event in PUBLIC:
        await deliveries.owe(connection, sandbox, organisation, sequence=sequence, event=event, at=at, data=data)


async def after(connection: AsyncConnection, sandbox_id: str, sequence: int, limit: int = 500) -> Sequence[Event]:
    """The events of a sandbox behind `sequence`, in order."""
    rows = await connection.execute(_AFTER, {"of": sandbox_id, "behind": sequence, "most": limit})
    return [_event(row) for row in rows]


async def everywhere(
    connection: AsyncConnection, after_id: int, *, organisation: str | None, sandbox: str | None, since: int, limit: int
) -> Sequence[Event]:
    """The events of all organisations behind an id, in the order of ids; of one (by name or id) or a sandbox only."""
    query = sa.select(events).where(events.c.id > after_id, events.c.at >= since).order_by(events.c.id).limit(limit)
    if organisation is not None:
        named = sa.or_(organisations.c.name == organisation, organisations.c.id == organisation)
        query = query.where(events.c.organisation.in_(sa.select(organisations.c.id).where(named)))
    if sandbox is not None:
        query = query.where(events.c.sandbox == sandbox)
    return [_event(row) for row in await connection.execute(query)]


def _event(row: "sa.Row[Any]") -> Event:
    return Event(
        id=row.id,
        sandbox=row.sandbox,
        organisation=row.organisation,
        sequence=row.sequence,
        type=EventType(row.type),
        at=row.at,
        actor=row.actor,
        data=orjson.loads(row.data),
    )


_ADD = sa.insert(events)
_AFTER = (
    sa.select(events)
    .where(events.c.sandbox == sa.bindparam("of"), events.c.sequence > sa.bindparam("behind"))
    .order_by(events.c.sequence)
    .limit(sa.bindparam("most"))
)
