"""Selections of sandboxes: the pages that users see, and what each reconciler has to look at."""

from collections.abc import Collection, Mapping, Sequence

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store.sandboxes import RECORD, record
from boxkeep_server.store.schema import sandboxes

_COLUMNS = sandboxes.c
_OLDEST_FIRST = (_COLUMNS.queued_at, _COLUMNS.id)


def _in_turn() -> "sa.Select[tuple[object, ...]]":
    turn = sa.func.row_number().over(partition_by=_COLUMNS.organisation, order_by=_OLDEST_FIRST).label("turn")
    waiting = sa.select(*RECORD, turn).where(_COLUMNS.status == sa.bindparam("status")).subquery()
    query = sa.select(*(waiting.c[column.name] for column in RECORD))
    return query.order_by(waiting.c.turn, waiting.c.queued_at, waiting.c.id).limit(sa.bindparam("most"))


def _stale_end() -> "sa.ColumnElement[bool]":
    known, wanted = _COLUMNS.node_not_after, _COLUMNS.expires_at
    return sa.or_(known.is_(None), known < wanted, known > wanted + sa.bindparam("most_slack"))


# Built once: reconcilers ask these several times a second.
_IN_STATUS = (
    sa.select(*RECORD).where(_COLUMNS.status.in_(sa.bindparam("status", expanding=True))).order_by(*_OLDEST_FIRST)
)
_IN_TURN = _in_turn()
_READY = sa.select(*RECORD).where(_COLUMNS.status == Status.READY)
_WITH_CAPABILITIES = _READY.where(_COLUMNS.capabilities.is_not(None))
_WITH_SIDES = _READY.where(_COLUMNS.sides.is_not(None))
_MINDFUL = _READY.where(_COLUMNS.lifecycle.is_not(None))
_EXPIRED = _READY.where(_COLUMNS.expires_at <= sa.bindparam("now"))
_READY_OF = _READY.where(_COLUMNS.organisation.in_(sa.bindparam("organisations", expanding=True)))
_STALE_END = _READY.where(_stale_end())
_QUEUED_BEFORE = sa.select(*RECORD).where(
    _COLUMNS.status == Status.QUEUED, _COLUMNS.queued_at <= sa.bindparam("before")
)
_UNRELEASED = (
    sa.select(*RECORD)
    .where(_COLUMNS.released.is_(False), _COLUMNS.status.in_((Status.ENDING, *OVER)))
    .order_by(_COLUMNS.queued_at)
    .limit(sa.bindparam("most"))
)


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
    query = sa.select(*RECORD).where(_COLUMNS.organisation == organisation)
    if before is not None:
        query = query.where(sa.tuple_(_COLUMNS.created_at, _COLUMNS.id) < before)
    if status is not None:
        query = query.where(_COLUMNS.status.in_(list(status)))
    for name, value in metadata.items():
        query = query.where(_metadata_has(connection, name, value))
    return await _found(connection, query.order_by(_COLUMNS.created_at.desc(), _COLUMNS.id.desc()).limit(limit))


def _metadata_has(connection: AsyncConnection, name: str, value: str) -> "sa.ColumnElement[bool]":
    # Both are JSON strings within JSON, where a bare quote begins or ends one: the pair is found nowhere else. A JSON
    # function would not do: the databases differ in paths with odd names, and PostgreSQL knows no \u0000.
    pair = f"{orjson.dumps(name).decode()}:{orjson.dumps(value).decode()}"
    place = sa.func.strpos if connection.dialect.name == "postgresql" else sa.func.instr
    return sa.or_(*(place(_COLUMNS.metadata, begin + pair + end) > 0 for begin in "{," for end in ",}"))


async def in_status(connection: AsyncConnection, *status: Status) -> Sequence[Sandbox]:
    """All sandboxes in these statuses, those that have waited longest first."""
    return await _found(connection, _IN_STATUS, status=list(status))


async def in_turn(connection: AsyncConnection, status: Status, limit: int) -> Sequence[Sandbox]:
    """Sandboxes in a status so that organisations take turns, each with its longest waiting one first."""
    return await _found(connection, _IN_TURN, status=status, most=limit)


async def queued_before(connection: AsyncConnection, before: int) -> Sequence[Sandbox]:
    """Queued sandboxes that have waited since `before` or longer."""
    return await _found(connection, _QUEUED_BEFORE, before=before)


async def expired(connection: AsyncConnection, now: int) -> Sequence[Sandbox]:
    """Ready sandboxes whose time is up."""
    return await _found(connection, _EXPIRED, now=now)


async def ready_of(connection: AsyncConnection, organisations: Collection[str]) -> Sequence[Sandbox]:
    """The ready sandboxes of these organisations."""
    return await _found(connection, _READY_OF, organisations=list(organisations))


async def with_lifecycle(connection: AsyncConnection) -> Sequence[Sandbox]:
    """The ready sandboxes that are to do something by themselves."""
    return await _found(connection, _MINDFUL)


async def with_capabilities(connection: AsyncConnection) -> Sequence[Sandbox]:
    """The ready sandboxes that have been wished any capability."""
    return await _found(connection, _WITH_CAPABILITIES)


async def with_sides(connection: AsyncConnection) -> Sequence[Sandbox]:
    """The ready sandboxes that have machines beside their main one."""
    return await _found(connection, _WITH_SIDES)


async def with_stale_end(connection: AsyncConnection, slack_ms: int) -> Sequence[Sandbox]:
    """Ready sandboxes that their node would end before their time, or more than twice `slack_ms` after it."""
    return await _found(connection, _STALE_END, most_slack=2 * slack_ms)


async def unreleased(connection: AsyncConnection, limit: int) -> Sequence[Sandbox]:
    """Sandboxes that are ending or over and whose node may still hold something of them, the oldest first."""
    return await _found(connection, _UNRELEASED, most=limit)


async def over_before(connection: AsyncConnection, before: int, limit: int) -> Sequence[str]:
    """The ids of released sandboxes that were over before a time."""
    query = sa.select(_COLUMNS.id).where(_COLUMNS.ended_at < before, _COLUMNS.released.is_(True))
    return list((await connection.execute(query.limit(limit))).scalars())


async def _found(
    connection: AsyncConnection, query: "sa.Select[tuple[object, ...]]", **values: object
) -> Sequence[Sandbox]:
    return [record(row) for row in await connection.execute(query, values)]
