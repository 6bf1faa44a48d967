"""Checkpoints: their rows, and the event of each change in the same transaction."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.checkpoints import Checkpoint, CheckpointState, Fault
from boxkeep_server.model.events import EventType
from boxkeep_server.model.node_api import Snapshot
from boxkeep_server.model.statuses import OVER
from boxkeep_server.store import roles, sandboxes
from boxkeep_server.store.schema import checkpoints
from boxkeep_server.store.schema import sandboxes as sandboxes_table

_C = checkpoints.c
RECORD = [_C[name] for name in Checkpoint.__slots__]
_ONE = sa.select(*RECORD).where(_C.id == sa.bindparam("of"))
_TAKING = sa.select(*RECORD).where(_C.state == CheckpointState.TAKING).order_by(_C.created_at, _C.id)


async def add(connection: AsyncConnection, new: Checkpoint) -> None:
    """Write that a checkpoint is wanted."""
    values = {name: getattr(new, name) for name in Checkpoint.__slots__}
    await connection.execute(sa.insert(checkpoints).values({**values, "sides": roles.to_column(new.sides)}))


async def get(connection: AsyncConnection, checkpoint_id: str) -> Checkpoint | None:
    """A checkpoint, whoever it belongs to."""
    row = (await connection.execute(_ONE, {"of": checkpoint_id})).one_or_none()
    return None if row is None else _record(row)


async def taking(connection: AsyncConnection) -> Sequence[Checkpoint]:
    """Those that are wanted and not there yet, the oldest first."""
    return [_record(row) for row in await connection.execute(_TAKING)]


async def page(
    connection: AsyncConnection,
    organisation: str,
    *,
    sandbox: str | None,
    before: tuple[int, str] | None,
    limit: int,
) -> Sequence[Checkpoint]:
    """Whole checkpoints of an organisation, or of one of its sandboxes, newest first, from before (created_at, id)."""
    query = sa.select(*RECORD).where(_C.organisation == organisation, _C.state == CheckpointState.WHOLE)
    if sandbox is not None:
        query = query.where(_C.sandbox == sandbox)
    if before is not None:
        query = query.where(sa.tuple_(_C.created_at, _C.id) < before)
    query = query.order_by(_C.created_at.desc(), _C.id.desc()).limit(limit)
    return [_record(row) for row in await connection.execute(query)]


async def taken(
    connection: AsyncConnection,
    wanted: Checkpoint,
    snapshot: Snapshot,
    beside: Sequence[Snapshot],
    lost: str | None,
    actor: str,
) -> bool:
    """Write that a checkpoint is whole, with its event: a snapshot of the main machine, and those of others; False if
    it is not wanted any more, or was whole before."""
    parts = (snapshot, *beside)
    values = {
        "state": CheckpointState.WHOLE,
        "keeps": snapshot.keeps,
        "lost": lost,
        "bytes": sum(one.bytes for one in parts),
        "stood_ms": (stood_ms := max(one.stood_ms for one in parts)),
        "taken_at": snapshot.taken_at,
        "sides": roles.to_column({one.role: one.epoch for one in beside}),
    }
    if not await _settle(connection, wanted, values):
        return False
    about = {"checkpointId": wanted.id, "name": wanted.name, "keeps": snapshot.keeps, "stoppedMs": stood_ms}
    await _tell(connection, wanted, EventType.CHECKPOINT_CREATED, snapshot.taken_at, actor, about)
    return True


async def failed(connection: AsyncConnection, wanted: Checkpoint, fault: Fault) -> bool:
    """Write that a checkpoint came to nothing; False if that is settled already."""
    return await _settle(connection, wanted, {"state": CheckpointState.FAILED, "fault": fault})


async def restored(connection: AsyncConnection, found: Checkpoint, at: int, actor: str) -> None:
    """Write the event that a checkpoint's sandbox went back to it."""
    about = {"checkpointId": found.id, "name": found.name, "keeps": found.keeps}
    await _tell(connection, found, EventType.CHECKPOINT_RESTORED, at, actor, about)


async def delete(connection: AsyncConnection, gone: Checkpoint, at: int, actor: str) -> bool:
    """Delete a checkpoint, with its event; whether it was there."""
    if (await connection.execute(sa.delete(checkpoints).where(_C.id == gone.id))).rowcount == 0:
        return False
    about = {"checkpointId": gone.id, "name": gone.name}
    await _tell(connection, gone, EventType.CHECKPOINT_DELETED, at, actor, about)
    return True


async def under_way(connection: AsyncConnection, sandbox: str) -> int:
    """How many are being taken of a sandbox."""
    query = sa.select(sa.func.count(_C.id)).where(_C.sandbox == sandbox, _C.state == CheckpointState.TAKING)
    return int((await connection.execute(query)).scalar_one())


async def in_use(connection: AsyncConnection, checkpoint_id: str) -> bool:
    """Whether a sandbox is on its way to go on from it."""
    query = sa.select(sandboxes_table.c.id).where(
        sandboxes_table.c.origin == checkpoint_id, sandboxes_table.c.status.not_in(OVER)
    )
    return (await connection.execute(query.limit(1))).first() is not None


async def wanted(connection: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Those of these ids that are checkpoints, or are to become some."""
    query = sa.select(_C.id).where(_C.id.in_(list(ids)), _C.state != CheckpointState.FAILED)
    return set((await connection.execute(query)).scalars())


async def forget_failed(connection: AsyncConnection, before: int) -> int:
    """Delete those that came to nothing before a time; how many."""
    old = sa.delete(checkpoints).where(_C.state == CheckpointState.FAILED, _C.created_at < before)
    return (await connection.execute(old)).rowcount


async def _settle(connection: AsyncConnection, wanted_: Checkpoint, values: dict[str, Any]) -> bool:
    still = sa.and_(_C.id == wanted_.id, _C.state == CheckpointState.TAKING)
    return bool((await connection.execute(sa.update(checkpoints).where(still).values(values))).rowcount)


async def _tell(
    connection: AsyncConnection, of: Checkpoint, event: EventType, at: int, actor: str, data: Mapping[str, object]
) -> None:
    await sandboxes.tell(connection, of.sandbox, of.organisation, event=event, at=at, actor=actor, data=data)


def _record(row: "sa.Row[Any]") -> Checkpoint:
    values = dict(zip(Checkpoint.__slots__, row, strict=True))
    values["state"] = CheckpointState(values["state"])
    values["fault"] = None if values["fault"] is None else Fault(values["fault"])
    values["sides"] = roles.from_column(values["sides"])
    return Checkpoint(**values)
