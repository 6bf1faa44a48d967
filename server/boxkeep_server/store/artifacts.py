"""Artifacts: their rows, what they sum up to, and the event of each change, all in one transaction."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.artifacts import Artifact, Kept
from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import sandboxes
from boxkeep_server.store.schema import artifacts
from boxkeep_server.store.schema import sandboxes as sandboxes_table

_C = artifacts.c
RECORD = [_C[name] for name in Artifact.__slots__]
_ONE = sa.select(*RECORD).where(_C.id == sa.bindparam("of"))
_KEPT = sa.select(sa.func.count(_C.id), sa.func.sum(_C.size), sa.func.max(_C.created_at)).where(
    _C.sandbox == sa.bindparam("of")
)
_SUMS = _KEPT.subquery()  # one row, whatever there is
_WITH_SANDBOX = (
    sa.select(*sandboxes.RECORD, *_SUMS.c).join(_SUMS, sa.true()).where(sandboxes_table.c.id == sa.bindparam("of"))
)


async def get(connection: AsyncConnection, artifact_id: str) -> Artifact | None:
    """An artifact by its id, whoever it belongs to."""
    row = (await connection.execute(_ONE, {"of": artifact_id})).one_or_none()
    return None if row is None else Artifact(*row)


async def under(connection: AsyncConnection, organisation: str, sandbox: str, key: str) -> Artifact | None:
    """An organisation's artifact of a sandbox under a key."""
    query = sa.select(*RECORD).where(_C.organisation == organisation, _C.sandbox == sandbox, _C.key == key)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Artifact(*row)


async def page(
    connection: AsyncConnection, organisation: str, sandbox: str, behind: str | None, limit: int
) -> Sequence[Artifact]:
    """Artifacts of a sandbox by key, from behind one."""
    query = sa.select(*RECORD).where(_C.organisation == organisation, _C.sandbox == sandbox)
    if behind is not None:
        query = query.where(_C.key > behind)
    return [Artifact(*row) for row in await connection.execute(query.order_by(_C.key).limit(limit))]


async def kept(connection: AsyncConnection, sandbox: str) -> Kept | None:
    """What there is of a sandbox's artifacts, None where there is nothing."""
    count, size, updated_at = (await connection.execute(_KEPT, {"of": sandbox})).one()
    return Kept(count, int(size), updated_at) if count else None


async def with_sandbox(connection: AsyncConnection, sandbox: str) -> tuple[Sandbox, Kept | None] | None:
    """A sandbox, whoever it belongs to, and what there is of its artifacts, in one statement; None if there is none."""
    row = (await connection.execute(_WITH_SANDBOX, {"of": sandbox})).one_or_none()
    if row is None:
        return None
    count, size, updated_at = row[-3:]
    return sandboxes.record(row), Kept(count, int(size), updated_at) if count else None


async def put(connection: AsyncConnection, new: Artifact, before: Artifact | None, actor: str) -> None:
    """Write an artifact in place of `before`, with its event. The organisation's row is locked."""
    if before is not None:
        await connection.execute(sa.delete(artifacts).where(_C.id == before.id))
    await connection.execute(sa.insert(artifacts).values({name: getattr(new, name) for name in Artifact.__slots__}))
    await _tell(connection, new, new.created_at, actor)


async def delete(connection: AsyncConnection, gone: Artifact, at: int, actor: str) -> bool:
    """Delete an artifact, with its event; whether it was there."""
    if (await connection.execute(sa.delete(artifacts).where(_C.id == gone.id))).rowcount == 0:
        return False
    await _tell(connection, gone, at, actor)
    return True


async def published_before(connection: AsyncConnection, before: int, limit: int) -> Sequence[Artifact]:
    """Artifacts that were published before a time, the oldest first."""
    query = sa.select(*RECORD).where(_C.created_at < before).order_by(_C.created_at).limit(limit)
    return [Artifact(*row) for row in await connection.execute(query)]


async def known(connection: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Those of these ids that are artifacts."""
    return set((await connection.execute(sa.select(_C.id).where(_C.id.in_(list(ids))))).scalars())


async def _tell(connection: AsyncConnection, changed: Artifact, at: int, actor: str) -> None:
    now = await kept(connection, changed.sandbox)
    await sandboxes.tell(
        connection,
        changed.sandbox,
        changed.organisation,
        event=EventType.ARTIFACTS_UPDATED,
        at=at,
        actor=actor,
        data={"key": changed.key, "count": now.count if now else 0, "bytes": now.bytes if now else 0},
    )
