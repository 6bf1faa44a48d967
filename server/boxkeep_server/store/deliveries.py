"""Deliveries: what is owed to webhooks, written in the transaction of its event, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.cursors import cursor_of, read_cursor
from boxkeep_server.model.events import EventType
from boxkeep_server.model.webhooks import (
    RETRIED_FOR_MS,
    Delivery,
    DeliveryState,
    Webhook,
    delivery_id,
    event_body,
    event_message,
)
from boxkeep_server.store import webhooks as hooks
from boxkeep_server.store.schema import deliveries, webhooks
from boxkeep_server.store.upserts import insert_or

RECORD = [deliveries.c[name] for name in Delivery.__slots__]

# Built once, and filled in by parameters: every step of every sandbox asks who wants to know.
_WANTING: Final = sa.select(webhooks.c.id).where(
    webhooks.c.organisation == sa.bindparam("of"),
    webhooks.c.enabled,
    sa.or_(webhooks.c.event_types.is_(None), webhooks.c.event_types.like(sa.bindparam("pattern"))),
)
_ADD: Final = sa.insert(deliveries)

_earlier = deliveries.alias("earlier")
_UNTRIED_BEFORE: Final = sa.exists().where(
    _earlier.c.webhook == deliveries.c.webhook,
    _earlier.c.sandbox == deliveries.c.sandbox,
    _earlier.c.sequence < deliveries.c.sequence,
    _earlier.c.due_at.is_not(None),
    _earlier.c.attempts == sa.literal_column("0"),  # as the index has it, which a parameter would hide
)
_DUE: Final = (
    sa.select(*RECORD)
    .where(deliveries.c.webhook == sa.bindparam("of"), deliveries.c.due_at <= sa.bindparam("now"), ~_UNTRIED_BEFORE)
    .order_by(deliveries.c.due_at, deliveries.c.sequence)
    .limit(sa.bindparam("most"))
)
_WAITED_FOR: Final = sa.select(*hooks.RECORD).where(
    webhooks.c.enabled,
    sa.exists().where(deliveries.c.webhook == webhooks.c.id, deliveries.c.due_at <= sa.bindparam("now")),
)


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Deliveries, newest first, and where the next page begins."""

    items: Sequence[Delivery]
    next_cursor: str | None


async def owe(
    connection: AsyncConnection,
    sandbox: str,
    organisation: str,
    *,
    sequence: int,
    event: EventType,
    at: int,
    data: Mapping[str, object],
) -> None:
    """Write what is owed of an event to each webhook that wants it, in the event's own transaction.

    There is no place in a log that a reader could pass while another transaction is about to write before it: what is
    owed is a row, from the moment on at which the event is one.
    """
    asked = {"of": organisation, "pattern": f'%"{event.value}"%'}
    wanting = (await connection.execute(_WANTING, asked)).scalars().all()
    if wanting:
        message = event_message(sandbox, sequence)
        body = event_body(sandbox, sequence, event, at, data)
        rows = [new(webhook, message, event.value, body, at, sandbox, sequence) for webhook in wanting]
        await connection.execute(_ADD, rows)


def new(
    webhook: str, message: str, kind: str, body: str, at: int, sandbox: str | None = None, sequence: int | None = None
) -> dict[str, Any]:
    """The values of a delivery that is due at once."""
    return {
        "id": delivery_id(webhook, message),
        "webhook": webhook,
        "message": message,
        "type": kind,
        "sandbox": sandbox,
        "sequence": sequence,
        "body": body,
        "state": DeliveryState.PENDING,
        "attempts": 0,
        "tries": 0,
        "created_at": at,
        "due_at": at,
        "give_up_at": at + RETRIED_FOR_MS,
    }


async def add(connection: AsyncConnection, values: Mapping[str, Any]) -> Delivery:
    """Write a delivery unless it is there; as it is."""
    await connection.execute(insert_or(connection, deliveries).values(values).on_conflict_do_nothing())
    return record((await connection.execute(sa.select(*RECORD).where(deliveries.c.id == values["id"]))).one())


async def waited_for(connection: AsyncConnection, now: int) -> Sequence[Webhook]:
    """The enabled webhooks to which something is due."""
    return [hooks.record(row) for row in await connection.execute(_WAITED_FOR, {"now": now})]


async def due(connection: AsyncConnection, webhook_id: str, now: int, most: int) -> Sequence[Delivery]:
    """What may be sent to a webhook now, the longest due first: of each sandbox nothing before all that came earlier
    was tried once."""
    found = await connection.execute(_DUE, {"of": webhook_id, "now": now, "most": most})
    return [record(row) for row in found]


async def claim(connection: AsyncConnection, seen: Delivery, until: int) -> bool:
    """Take a delivery that still is as it was seen; whether it was. Whoever takes it has until then to settle it, or
    it is due again."""
    same = sa.and_(deliveries.c.id == seen.id, deliveries.c.due_at == seen.due_at)
    return (await connection.execute(sa.update(deliveries).where(same).values(due_at=until))).rowcount == 1


async def delivered(connection: AsyncConnection, sent: Delivery, at: int, status: int) -> None:
    """Write that a delivery was acknowledged."""
    values = {"state": DeliveryState.DELIVERED, "due_at": None, "delivered_at": at}
    await _attempted(connection, sent, at, status=status, error=None, **values)


async def failed(
    connection: AsyncConnection, sent: Delivery, at: int, *, due_at: int | None, status: int | None, error: str
) -> None:
    """Write that an attempt failed, and when the next one is; None gives up."""
    state = DeliveryState.FAILED if due_at is None else DeliveryState.PENDING
    await _attempted(connection, sent, at, status=status, error=error, state=state, due_at=due_at)


async def _attempted(connection: AsyncConnection, sent: Delivery, at: int, **values: Any) -> None:
    pending = sa.and_(deliveries.c.id == sent.id, deliveries.c.due_at.is_not(None))
    counts = {"attempts": deliveries.c.attempts + 1, "tries": deliveries.c.tries + 1}
    await connection.execute(sa.update(deliveries).where(pending).values(**values, **counts, attempted_at=at))


async def get(connection: AsyncConnection, delivery: str) -> Delivery | None:
    """A delivery, whoever it belongs to."""
    row = (await connection.execute(sa.select(*RECORD).where(deliveries.c.id == delivery))).one_or_none()
    return None if row is None else record(row)


async def again(connection: AsyncConnection, delivery: str, now: int) -> Delivery | None:
    """Have a delivery sent again, with a whole day to succeed; None where there is none. It counts as tried before,
    so that nothing newer waits for it."""
    values = {"state": DeliveryState.PENDING, "due_at": now, "delivered_at": None, "tries": 0}
    statement = sa.update(deliveries).where(deliveries.c.id == delivery)
    written = statement.values(**values, give_up_at=now + RETRIED_FOR_MS).returning(*RECORD)
    row = (await connection.execute(written)).one_or_none()
    return None if row is None else record(row)


async def page(connection: AsyncConnection, webhook_id: str, cursor: str | None, limit: int) -> DeliveryPage:
    """A page of a webhook's deliveries, newest first.

    Raises:
        Invalid: the cursor is none of ours.
    """
    query = sa.select(*RECORD).where(deliveries.c.webhook == webhook_id)
    if cursor is not None:
        at, last = read_cursor(cursor)
        same = sa.and_(deliveries.c.created_at == at, deliveries.c.id < last)
        query = query.where(sa.or_(deliveries.c.created_at < at, same))
    query = query.order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc()).limit(limit + 1)
    found = [record(row) for row in await connection.execute(query)]
    return DeliveryPage(
        found[:limit], cursor_of(found[limit - 1].created_at, found[limit - 1].id) if len(found) > limit else None
    )


async def give_up(connection: AsyncConnection, now: int) -> int:
    """Settle as failed what nobody sends any more: that of disabled webhooks, whose time is up; how many."""
    late = sa.and_(deliveries.c.due_at.is_not(None), deliveries.c.due_at <= now, deliveries.c.give_up_at <= now)
    disabled = deliveries.c.webhook.in_(sa.select(webhooks.c.id).where(~webhooks.c.enabled))
    values = {"state": DeliveryState.FAILED, "due_at": None, "error": "The webhook was disabled"}
    return (await connection.execute(sa.update(deliveries).where(late, disabled).values(values))).rowcount


async def forget(connection: AsyncConnection, created_before: int, now: int, most: int) -> int:
    """Delete what is older than that and will not be sent any more; how many, at most `most`."""
    over = sa.or_(deliveries.c.due_at.is_(None), deliveries.c.give_up_at <= now)
    return await _delete(connection, sa.and_(deliveries.c.created_at < created_before, over), most)


async def forget_of(connection: AsyncConnection, webhook_id: str, most: int) -> int:
    """Delete what is owed to a webhook that is gone; how many, at most `most`."""
    return await _delete(connection, deliveries.c.webhook == webhook_id, most)


async def _delete(connection: AsyncConnection, which: "sa.ColumnElement[bool]", most: int) -> int:
    chosen = sa.select(deliveries.c.id).where(which).limit(most)
    return (await connection.execute(sa.delete(deliveries).where(deliveries.c.id.in_(chosen)))).rowcount


def record(row: "sa.Row[Any]") -> Delivery:
    """The delivery in a row of the columns `RECORD`."""
    values = dict(zip(Delivery.__slots__, row, strict=False))
    values["state"] = DeliveryState(values["state"])
    return Delivery(**values)
