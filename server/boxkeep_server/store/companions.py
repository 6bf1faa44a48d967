"""Companions: their rows, and the event of each change of state in the same transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.companions import Companion, CompanionState
from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import sandboxes
from boxkeep_server.store.schema import companions
from boxkeep_server.store.schema import sandboxes as sandboxes_table
from boxkeep_server.store.upserts import insert_or

_C = companions.c
_JSON = ("ports", "facts")
RECORD = [_C[name] for name in Companion.__slots__]


async def of(connection: AsyncConnection, sandbox: str) -> Sequence[Companion]:
    """The companions of a sandbox."""
    return [_record(row) for row in await connection.execute(sa.select(*RECORD).where(_C.sandbox == sandbox))]


async def ready(connection: AsyncConnection, name: str) -> Sequence[Companion]:
    """The companions of that name that are ready in sandboxes that are."""
    boxes = sandboxes_table.c
    here = sa.and_(boxes.id == _C.sandbox, boxes.status == Status.READY, boxes.epoch == _C.epoch)
    query = sa.select(*RECORD).join(sandboxes_table, here).where(_C.name == name, _C.state == CompanionState.READY)
    return [_record(row) for row in await connection.execute(query)]


async def failed(connection: AsyncConnection, name: str) -> Mapping[str, str]:
    """The ready sandboxes whose companion of that name was given up, and why."""
    boxes = sandboxes_table.c
    here = sa.and_(boxes.id == _C.sandbox, boxes.status == Status.READY, boxes.epoch == _C.epoch)
    query = sa.select(_C.sandbox, _C.reason).join(sandboxes_table, here)
    found = await connection.execute(query.where(_C.name == name, _C.state == CompanionState.FAILED))
    return {row.sandbox: row.reason or "" for row in found}


async def in_ready_sandboxes(connection: AsyncConnection, name: str) -> Sequence[tuple[Companion, Sandbox]]:
    """The companions of that name in the machines of sandboxes that are ready, each with its sandbox."""
    boxes = sandboxes_table.c
    here = sa.and_(boxes.id == _C.sandbox, boxes.status == Status.READY, boxes.epoch == _C.epoch)
    query = sa.select(*sandboxes.RECORD, *RECORD).select_from(companions).join(sandboxes_table, here)
    width = len(sandboxes.RECORD)
    found = await connection.execute(query.where(_C.name == name))
    return [(_record(row[width:]), sandboxes.record(row)) for row in found]


async def begin(connection: AsyncConnection, new: Companion) -> Companion:
    """A companion as it is known, or else this new one, written."""
    await connection.execute(insert_or(connection, companions).values(_stored(new)).on_conflict_do_nothing())
    query = sa.select(*RECORD).where(_C.sandbox == new.sandbox, _C.name == new.name)
    return _record((await connection.execute(query)).one())


async def change(
    connection: AsyncConnection, before: Companion, after: Companion, event: EventType | None, actor: str
) -> bool:
    """Write what has become of a companion that still is as `before`, with its event; False if it is not."""
    still = sa.and_(
        _C.sandbox == before.sandbox,
        _C.name == before.name,
        _C.attempt == before.attempt,
        _C.heard_to == before.heard_to,
    )
    changed = await connection.execute(sa.update(companions).where(still).values(_stored(after)))
    if changed.rowcount == 0:
        return False
    if event is not None:
        data = {"reason": after.reason} if after.reason else {}
        await sandboxes.tell(
            connection, after.sandbox, after.organisation, event=event, at=after.updated_at, actor=actor, data=data
        )
    return True


async def forget(connection: AsyncConnection, sandbox: str, *names: str) -> None:
    """Know nothing any more of a sandbox's companions, or of those of these names: they go on from another time or in
    another machine, or it has been forgotten."""
    query = sa.delete(companions).where(_C.sandbox == sandbox)
    await connection.execute(query.where(_C.name.in_(names)) if names else query)


def _stored(one: Companion) -> dict[str, Any]:
    values = {name: getattr(one, name) for name in Companion.__slots__}
    written = {name: orjson.dumps(dict(values[name])).decode() for name in _JSON}
    return {**values, **written, "state": one.state.value}


def _record(row: Sequence[Any]) -> Companion:
    values = dict(zip(Companion.__slots__, row, strict=True))
    read = {name: orjson.loads(values[name]) for name in _JSON}
    return Companion(**{**values, **read, "state": CompanionState(values["state"])})
