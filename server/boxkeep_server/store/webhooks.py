"""Webhooks: their rows, and the secrets that sign for them, sealed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.events import EventType
from boxkeep_server.model.webhooks import DisabledReason, Webhook
from boxkeep_server.store.schema import webhooks

RECORD = [webhooks.c[name] for name in Webhook.__slots__]


@dataclass(frozen=True, slots=True)
class Secrets:
    """The sealed secrets of a webhook: the one that signs and, until `before_until`, the one before it."""

    sealed: bytes
    sealed_before: bytes | None = None
    before_until: int | None = None


async def add(connection: AsyncConnection, webhook: Webhook, sealed: bytes) -> None:
    """Write a new webhook."""
    values = {name: getattr(webhook, name) for name in Webhook.__slots__}
    values["event_types"] = types_stored(webhook.event_types)
    await connection.execute(sa.insert(webhooks).values(**values, sealed=sealed))


async def count(connection: AsyncConnection, organisation: str) -> int:
    """How many an organisation has."""
    query = sa.select(sa.func.count(webhooks.c.id)).where(webhooks.c.organisation == organisation)
    return (await connection.execute(query)).scalar_one()


async def of(connection: AsyncConnection, organisation: str) -> Sequence[Webhook]:
    """All of an organisation, newest first."""
    order = (webhooks.c.created_at.desc(), webhooks.c.id.desc())
    query = sa.select(*RECORD).where(webhooks.c.organisation == organisation).order_by(*order)
    return [record(row) for row in await connection.execute(query)]


async def get(connection: AsyncConnection, webhook_id: str) -> Webhook | None:
    """A webhook, whoever it belongs to."""
    row = (await connection.execute(sa.select(*RECORD).where(webhooks.c.id == webhook_id))).one_or_none()
    return None if row is None else record(row)


async def secrets(connection: AsyncConnection, webhook_id: str) -> Secrets | None:
    """The sealed secrets of a webhook."""
    columns = (webhooks.c.sealed, webhooks.c.sealed_before, webhooks.c.before_until)
    row = (await connection.execute(sa.select(*columns).where(webhooks.c.id == webhook_id))).one_or_none()
    return None if row is None else Secrets(*row)


async def change(connection: AsyncConnection, organisation: str, webhook_id: str, **values: Any) -> Webhook | None:
    """Change fields of a webhook of an organisation; the new record, None where there is none."""
    if "event_types" in values:
        values["event_types"] = types_stored(values["event_types"])
    mine = sa.and_(webhooks.c.id == webhook_id, webhooks.c.organisation == organisation)
    statement = sa.update(webhooks).where(mine).values(**values).returning(*RECORD)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else record(row)


async def rotate(
    connection: AsyncConnection, organisation: str, webhook_id: str, sealed: bytes, before_until: int
) -> Webhook | None:
    """Put a new secret in place; the one before it goes on signing until `before_until`."""
    mine = sa.and_(webhooks.c.id == webhook_id, webhooks.c.organisation == organisation)
    new = {"sealed": sealed, "sealed_before": webhooks.c.sealed, "before_until": before_until}
    row = (await connection.execute(sa.update(webhooks).where(mine).values(new).returning(*RECORD))).one_or_none()
    return None if row is None else record(row)


async def delete(connection: AsyncConnection, organisation: str, webhook_id: str) -> bool:
    """Delete a webhook with its secrets; whether there was one."""
    mine = sa.and_(webhooks.c.id == webhook_id, webhooks.c.organisation == organisation)
    return (await connection.execute(sa.delete(webhooks).where(mine))).rowcount == 1


async def succeeded(connection: AsyncConnection, webhook_id: str) -> None:
    """Note that something reached a webhook."""
    failing = sa.and_(webhooks.c.id == webhook_id, webhooks.c.failing_since.is_not(None))
    await connection.execute(sa.update(webhooks).where(failing).values(failing_since=None))


async def failed(connection: AsyncConnection, webhook_id: str, at: int, disabled: DisabledReason | None) -> None:
    """Note that something did not reach a webhook, and disable it where that is a reason to."""
    mine = webhooks.c.id == webhook_id
    since = sa.update(webhooks).where(mine, webhooks.c.failing_since.is_(None))
    await connection.execute(since.values(failing_since=at))
    if disabled is not None:
        disable = sa.update(webhooks).where(mine, webhooks.c.enabled)
        await connection.execute(disable.values(enabled=False, disabled_reason=disabled, disabled_at=at))


def types_stored(types: Sequence[EventType] | None) -> str | None:
    """Types as they are stored: as JSON, in which each is found between its quotation marks."""
    return None if types is None else orjson.dumps(list(types)).decode()


def record(row: "sa.Row[Any]") -> Webhook:
    """The webhook in a row that begins with the columns `RECORD`."""
    values = dict(zip(Webhook.__slots__, row, strict=False))
    if values["event_types"] is not None:
        values["event_types"] = tuple(EventType(name) for name in orjson.loads(values["event_types"]))
    if values["disabled_reason"] is not None:
        values["disabled_reason"] = DisabledReason(values["disabled_reason"])
    return Webhook(**values)
