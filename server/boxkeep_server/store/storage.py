"""What an organisation has stored: paused sandboxes, checkpoints and artifacts, counted together against its plan."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store.schema import artifacts, checkpoints, sandboxes


@dataclass(frozen=True, slots=True)
class Stored:
    """How many sandboxes are paused or being paused, and the bytes of all that is kept."""

    paused: int
    bytes: int


async def stored(connection: AsyncConnection, organisation: str) -> Stored:
    """What an organisation has stored now. Under its lock it is what limits are held against."""
    kept = sa.or_(sandboxes.c.kept_epoch.is_not(None), sandboxes.c.status == Status.PAUSING)
    of_sandboxes = sa.select(
        sa.func.count(sandboxes.c.id), sa.func.coalesce(sa.func.sum(sandboxes.c.kept_bytes), 0)
    ).where(sandboxes.c.organisation == organisation, kept, sandboxes.c.status.not_in((*OVER, Status.ENDING)))
    of_artifacts = sa.select(sa.func.coalesce(sa.func.sum(artifacts.c.size), 0)).where(
        artifacts.c.organisation == organisation
    )
    of_checkpoints = sa.select(sa.func.coalesce(sa.func.sum(checkpoints.c.bytes), 0)).where(
        checkpoints.c.organisation == organisation
    )
    paused, size = (await connection.execute(of_sandboxes)).one()
    others = [int((await connection.execute(query)).scalar_one()) for query in (of_artifacts, of_checkpoints)]
    return Stored(int(paused), int(size) + sum(others))
