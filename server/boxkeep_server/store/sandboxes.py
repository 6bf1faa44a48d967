"""Sandboxes: the one function that moves them between statuses, with the event and the span that go with each step."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.events import Event, EventType
from boxkeep_server.model.hours import Span
from boxkeep_server.model.sandboxes import NetworkPolicy, Sandbox
from boxkeep_server.model.statuses import COUNTED, OVER, Status, check_step
from boxkeep_server.store.schema import events, sandboxes, secrets, spans

_JSON = ("capabilities", "network", "metadata", "env_names")
_RECORD = [sandboxes.c[name] for name in Sandbox.__slots__]


async def add(connection: AsyncConnection, sandbox: Sandbox, sealed_env: bytes | None, actor: str) -> None:
    """Write a new sandbox, queued, with its first event."""
    values = {name: _stored(name, getattr(sandbox, name)) for name in Sandbox.__slots__}
    await connection.execute(sa.insert(sandboxes).values({**values, "sequence": 1, "released": False}))
    if sealed_env is not None:
        await connection.execute(sa.insert(secrets).values(sandbox=sandbox.id, sealed=sealed_env))
    await _tell(connection, sandbox, 1, EventType.CREATED, sandbox.created_at, actor, {"status": sandbox.status})


async def step(
    connection: AsyncConnection,
    before: Sandbox,
    after: Status,
    *,
    event: EventType,
    at: int,
    actor: str,
    ran_until: int | None = None,
    **changes: Any,
) -> Sandbox | None:
    """Move a sandbox that still is as `before`, with its event; the new record, or None if it has changed since.

    Reaching `ready` begins a span of hours; leaving it ends that at `ran_until` (epoch ms, now by default).

    Raises:
        IllegalStep: the table does not allow it.
    """
    check_step(before.status, after)
    if after in OVER:
        changes = {"ended_at": at, "expires_at": None, **changes}
    if before.status is Status.READY:
        changes["billed_ms"] = before.billed_ms + await _end_span(connection, before.id, ran_until or at, at)
    values = {**changes, "status": after, "previous": before.status}
    changed = await _update(connection, before, values, event, at, actor)
    if changed is not None and after is Status.READY:
        await connection.execute(sa.insert(spans).values(sandbox=before.id, organisation=before.organisation, start=at))
    return changed


async def change(
    connection: AsyncConnection, before: Sandbox, *, event: EventType | None, at: int, actor: str, **changes: Any
) -> Sandbox | None:
    """Change fields of a sandbox that still is as `before`, without a step; the new record, None if it has changed."""
    return await _update(connection, before, changes, event, at, actor)


async def _update(
    connection: AsyncConnection,
    before: Sandbox,
    values: Mapping[str, Any],
    event: EventType | None,
    at: int,
    actor: str,
) -> Sandbox | None:
    stored = {name: _stored(name, value) for name, value in values.items()}
    statement = (
        sa.update(sandboxes)
        .where(sandboxes.c.id == before.id, sandboxes.c.revision == before.revision)
        .values(
            revision=before.revision + 1,
            sequence=sandboxes.c.sequence + (event is not None),
            **stored,
        )
        .returning(*_RECORD, sandboxes.c.sequence)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    sandbox = _record(row)
    if event is not None:
        data = {"status": sandbox.status, **({"reason": sandbox.reason} if sandbox.reason else {})}
        await _tell(connection, sandbox, row.sequence, event, at, actor, data)
    return sandbox


async def _end_span(connection: AsyncConnection, sandbox: str, until: int, now: int) -> int:
    is_open = sa.and_(spans.c.sandbox == sandbox, spans.c.end.is_(None))
    start: int | None = (await connection.execute(sa.select(spans.c.start).where(is_open))).scalar_one_or_none()
    if start is None:
        return 0
    end = max(start, min(until, now))
    await connection.execute(sa.update(spans).where(is_open).values(end=end))
    return end - start


async def _tell(
    connection: AsyncConnection,
    sandbox: Sandbox,
    sequence: int,
    event: EventType,
    at: int,
    actor: str,
    data: Mapping[str, object],
) -> None:
    await connection.execute(
        sa.insert(events).values(
            sandbox=sandbox.id,
            organisation=sandbox.organisation,
            sequence=sequence,
            type=event,
            at=at,
            actor=actor,
            data=orjson.dumps(data).decode(),
        )
    )


_ONE = sa.select(*_RECORD).where(sandboxes.c.id == sa.bindparam("id"))


async def get(connection: AsyncConnection, sandbox_id: str) -> Sandbox | None:
    """A sandbox, whoever it belongs to."""
    row = (await connection.execute(_ONE, {"id": sandbox_id})).one_or_none()
    return None if row is None else _record(row)


async def states(connection: AsyncConnection, ids: Collection[str]) -> dict[str, tuple[Status, int]]:
    """Status and epoch of those of `ids` that are there."""
    query = sa.select(sandboxes.c.id, sandboxes.c.status, sandboxes.c.epoch).where(sandboxes.c.id.in_(list(ids)))
    return {row.id: (Status(row.status), row.epoch) for row in await connection.execute(query)}


async def page(
    connection: AsyncConnection,
    organisation: str,
    *,
    limit: int,
    before: tuple[int, str] | None,
    status: Collection[Status] | None,
    metadata: Mapping[str, str],
) -> Sequence[Sandbox]:
    """Sandboxes of an organisation, newest first, from before (created_at, id)."""
    query = sa.select(*_RECORD).where(sandboxes.c.organisation == organisation)
    if before is not None:
        at, sandbox_id = before
        older = sandboxes.c.created_at < at
        query = query.where(sa.or_(older, sa.and_(sandboxes.c.created_at == at, sandboxes.c.id < sandbox_id)))
    if status is not None:
        query = query.where(sandboxes.c.status.in_(list(status)))
    for name, value in metadata.items():
        query = query.where(_metadata_is(connection, name, value))
    query = query.order_by(sandboxes.c.created_at.desc(), sandboxes.c.id.desc()).limit(limit)
    return [_record(row) for row in await connection.execute(query)]


def _metadata_is(connection: AsyncConnection, name: str, value: str) -> "sa.ColumnElement[bool]":
    # A quoted JSON path cannot hold a quote; rows are compared as text, which both databases do alike.
    pair = f"{orjson.dumps(name).decode()}:{orjson.dumps(value).decode()}"
    return sa.or_(
        sandboxes.c.metadata.contains("{" + pair + "}", autoescape=True),
        sandboxes.c.metadata.contains("{" + pair + ",", autoescape=True),
        sandboxes.c.metadata.contains("," + pair + ",", autoescape=True),
        sandboxes.c.metadata.contains("," + pair + "}", autoescape=True),
    )


async def in_status(connection: AsyncConnection, *status: Status, limit: int = 1000) -> Sequence[Sandbox]:
    """Sandboxes in any of these statuses, those that have waited longest first."""
    query = sa.select(*_RECORD).where(sandboxes.c.status.in_(status))
    rows = await connection.execute(query.order_by(sandboxes.c.queued_at, sandboxes.c.id).limit(limit))
    return [_record(row) for row in rows]


async def expired(connection: AsyncConnection, now: int) -> Sequence[Sandbox]:
    """Ready sandboxes whose time is up."""
    query = sa.select(*_RECORD).where(sandboxes.c.status == Status.READY, sandboxes.c.expires_at <= now)
    return [_record(row) for row in await connection.execute(query)]


async def ready_of(connection: AsyncConnection, organisation: str) -> Sequence[Sandbox]:
    """The ready sandboxes of an organisation."""
    query = sa.select(*_RECORD).where(sandboxes.c.status == Status.READY, sandboxes.c.organisation == organisation)
    return [_record(row) for row in await connection.execute(query)]


async def with_stale_end(connection: AsyncConnection, slack_ms: int) -> Sequence[Sandbox]:
    """Ready sandboxes that their node would end before their time, or more than twice `slack_ms` after it."""
    known, wanted = sandboxes.c.node_not_after, sandboxes.c.expires_at
    query = sa.select(*_RECORD).where(
        sandboxes.c.status == Status.READY,
        sa.or_(known.is_(None), known < wanted, known > wanted + 2 * slack_ms),
    )
    return [_record(row) for row in await connection.execute(query)]


async def told_end(connection: AsyncConnection, sandbox_id: str, epoch: int, not_after: int) -> None:
    """Note which end time the node knows; no step and no event, for nothing has changed for anyone else."""
    statement = sa.update(sandboxes).where(sandboxes.c.id == sandbox_id, sandboxes.c.epoch == epoch)
    await connection.execute(statement.values(node_not_after=not_after))


async def unreleased(connection: AsyncConnection) -> Sequence[Sandbox]:
    """Sandboxes that are ending or over and whose node may still hold something of them."""
    query = sa.select(*_RECORD).where(sandboxes.c.released.is_(False), sandboxes.c.status.in_((Status.ENDING, *OVER)))
    return [_record(row) for row in await connection.execute(query)]


async def released(connection: AsyncConnection, sandbox_id: str) -> None:
    """Note that no node holds anything of a sandbox, and erase its environment."""
    await connection.execute(sa.update(sandboxes).where(sandboxes.c.id == sandbox_id).values(released=True))
    await connection.execute(sa.delete(secrets).where(secrets.c.sandbox == sandbox_id))


async def sealed_env(connection: AsyncConnection, sandbox_id: str) -> bytes | None:
    """The sealed environment of a sandbox, None where it has none."""
    query = sa.select(secrets.c.sealed).where(secrets.c.sandbox == sandbox_id)
    return (await connection.execute(query)).scalar_one_or_none()


async def counted(connection: AsyncConnection, organisation: str) -> int:
    """How many sandboxes the plan's concurrency counts now."""
    query = sa.select(sa.func.count()).where(sandboxes.c.organisation == organisation, sandboxes.c.status.in_(COUNTED))
    return (await connection.execute(query.select_from(sandboxes))).scalar_one()


async def spans_since(connection: AsyncConnection, organisation: str, since: int) -> Sequence[Span]:
    """When sandboxes of an organisation ran, as far as it was after `since`."""
    query = sa.select(spans.c.start, spans.c.end).where(
        spans.c.organisation == organisation, sa.or_(spans.c.end.is_(None), spans.c.end > since)
    )
    return [Span(row.start, row.end) for row in await connection.execute(query)]


async def running_organisations(connection: AsyncConnection) -> Sequence[str]:
    """Organisations with a sandbox whose hours run."""
    query = sa.select(spans.c.organisation).where(spans.c.end.is_(None)).distinct()
    return list((await connection.execute(query)).scalars())


async def events_after(
    connection: AsyncConnection, sandbox_id: str, sequence: int, limit: int = 500
) -> Sequence[Event]:
    """The events of a sandbox behind `sequence`, in order."""
    query = sa.select(events).where(events.c.sandbox == sandbox_id, events.c.sequence > sequence)
    rows = await connection.execute(query.order_by(events.c.sequence).limit(limit))
    return [
        Event(
            row.id,
            row.sandbox,
            row.organisation,
            row.sequence,
            EventType(row.type),
            row.at,
            row.actor,
            orjson.loads(row.data),
        )
        for row in rows
    ]


async def forget_ended(connection: AsyncConnection, before: int, limit: int = 500) -> Sequence[str]:
    """Delete sandboxes that were over before a time, and what hangs on them but their hours; their ids."""
    query = sa.select(sandboxes.c.id).where(
        sandboxes.c.status.in_(OVER), sandboxes.c.released.is_(True), sandboxes.c.ended_at < before
    )
    ids = list((await connection.execute(query.limit(limit))).scalars())
    if ids:
        await connection.execute(sa.delete(events).where(events.c.sandbox.in_(ids)))
        await connection.execute(sa.delete(sandboxes).where(sandboxes.c.id.in_(ids)))
    return ids


def _stored(name: str, value: Any) -> Any:
    if name == "network":
        value = {"internet": value.internet, "allow": value.allow}
    if name in _JSON and value is not None:
        return orjson.dumps(value).decode()
    return value


def _record(row: "sa.Row[Any]") -> Sandbox:
    values = dict(zip(Sandbox.__slots__, row, strict=False))
    network = orjson.loads(values["network"])
    allow = network["allow"]
    values["network"] = NetworkPolicy(network["internet"], None if allow is None else tuple(allow))
    values["capabilities"] = None if values["capabilities"] is None else orjson.loads(values["capabilities"])
    values["metadata"] = orjson.loads(values["metadata"])
    values["env_names"] = tuple(orjson.loads(values["env_names"]))
    values["status"] = Status(values["status"])
    return Sandbox(**values)
