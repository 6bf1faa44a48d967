"""Copies of snapshots: their rows, there before anything is in the store of blobs and gone after it."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.checkpoints import CheckpointState
from boxkeep_server.model.copies import Copied, Copy
from boxkeep_server.model.machines import MAIN
from boxkeep_server.model.node_api import Role, SnapshotBases, checkpoint_name, pause_name
from boxkeep_server.model.statuses import OVER
from boxkeep_server.store import roles
from boxkeep_server.store.schema import CHECKPOINT_OWED, PAUSE_OWED, checkpoints, copies, sandboxes
from boxkeep_server.store.upserts import insert_or

_C, _S, _K = copies.c, sandboxes.c, checkpoints.c
_OF = (_C.organisation, _C.sandbox, _C.epoch, _C.checkpoint, _C.name)

_OWED_PAUSES = sa.select(_S.organisation, _S.id, _S.kept_epoch, sa.null(), _S.kept_sides, _S.node).where(PAUSE_OWED)
_OWED_CHECKPOINTS = sa.select(_K.organisation, _K.sandbox, _K.epoch, _K.id, _K.sides, _K.node).where(CHECKPOINT_OWED)

_WANTED_PAUSE = sa.exists().where(
    _S.id == _C.sandbox, _S.kept_epoch == _C.epoch, _S.status.not_in(OVER), _C.checkpoint.is_(None)
)
_WANTED_CHECKPOINT = sa.exists().where(_K.id == _C.checkpoint, _K.state == CheckpointState.WHOLE)


async def owed(connection: AsyncConnection, limit: int) -> Sequence[tuple[Copied, str]]:
    """Snapshots of which there is no whole copy yet, each with its node, the oldest first."""
    pauses = await connection.execute(_OWED_PAUSES.order_by(_S.paused_at).limit(limit))
    taken = await connection.execute(_OWED_CHECKPOINTS.order_by(_K.created_at).limit(limit))
    found = [
        (of, node)
        for organisation, sandbox, epoch, checkpoint, sides, node in (*pauses, *taken)
        for of in _all_of(organisation, sandbox, epoch, checkpoint, roles.from_column(sides))
    ]
    there = await _stored(connection, [of.name for of, _ in found])
    return [(of, node) for of, node in found if of.name not in there]


def _all_of(
    organisation: str, sandbox: str, epoch: int, checkpoint: str | None, sides: Mapping[Role, int]
) -> Iterator[Copied]:
    """The snapshots of all machines of a sandbox, at a checkpoint or at the pause of the main one's epoch."""
    for role, of_its_own in {MAIN: epoch, **sides}.items():
        name = pause_name(sandbox, of_its_own, role) if checkpoint is None else checkpoint_name(checkpoint, role)
        yield Copied(organisation, sandbox, epoch, checkpoint, name)


async def _stored(connection: AsyncConnection, names: Collection[str]) -> set[str]:
    """Those of these of which there are whole copies."""
    query = sa.select(_C.name).where(_C.name.in_(list(names)), _C.stored_at.is_not(None))
    return set((await connection.execute(query)).scalars())


async def begin(connection: AsyncConnection, of: Copied, bases: SnapshotBases, at: int) -> None:
    """Write that a copy is on its way; one that is begun stays as it is."""
    values = {
        "name": of.name,
        "organisation": of.organisation,
        "sandbox": of.sandbox,
        "epoch": of.epoch,
        "checkpoint": of.checkpoint,
        "image": bases.image,
        "guest": bases.guest,
        "begun_at": at,
    }
    await connection.execute(insert_or(connection, copies).values(values).on_conflict_do_nothing())


async def stored(connection: AsyncConnection, of: Copied, size: int, at: int) -> bool:
    """Write that a copy is whole, and once all of the same moment are, that what they are of is in the store; False if
    nobody wants it any more."""
    if of.checkpoint is None:
        still = sa.and_(_S.id == of.sandbox, _S.kept_epoch == of.epoch, _S.status.not_in(OVER))
        owner, change = sa.select(_S.kept_sides), sa.update(sandboxes).values(stored_epoch=of.epoch)
    else:
        still = _K.id == of.checkpoint
        owner, change = sa.select(_K.sides), sa.update(checkpoints).values(stored_at=at)
    # Locked before copies are looked at: of two that end at once, one sees both.
    row = (await connection.execute(owner.where(still).with_for_update())).one_or_none()
    await connection.execute(sa.update(copies).where(_C.name == of.name).values(bytes=size, stored_at=at))
    if row is None:
        return False
    parts = _all_of(of.organisation, of.sandbox, of.epoch, of.checkpoint, roles.from_column(row[0]))
    names = {one.name for one in parts}
    if await _stored(connection, names) == names:
        await connection.execute(change.where(still))
    return True


async def find(connection: AsyncConnection, name: str) -> Copy | None:
    """The whole copy of the snapshot of this name."""
    query = sa.select(*_OF, _C.image, _C.guest, _C.bytes).where(_C.name == name, _C.stored_at.is_not(None))
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Copy(Copied(*row[:5]), SnapshotBases(image=row.image, guest=row.guest), row.bytes)


async def unwanted(connection: AsyncConnection, limit: int) -> Sequence[Copied]:
    """Copies, begun or whole, of what nothing goes on from any more."""
    query = sa.select(*_OF).where(sa.not_(sa.or_(_WANTED_PAUSE, _WANTED_CHECKPOINT))).order_by(_C.begun_at)
    return [Copied(*row) for row in await connection.execute(query.limit(limit))]


async def forget(connection: AsyncConnection, of: Copied) -> None:
    """Delete the row of a copy that is gone."""
    await connection.execute(sa.delete(copies).where(_C.name == of.name))
