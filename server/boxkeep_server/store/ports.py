"""Ports of sandboxes that are open to everybody: their rows, and the event of each change in the same transaction."""

from collections.abc import Set as AbstractSet

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import sandboxes
from boxkeep_server.store.schema import public_ports
from boxkeep_server.store.upserts import insert_or

_C = public_ports.c
_OF = sa.select(_C.port).where(_C.sandbox == sa.bindparam("of"))


async def public(connection: AsyncConnection, sandbox: str) -> AbstractSet[int]:
    """The public ports of a sandbox."""
    return set((await connection.execute(_OF, {"of": sandbox})).scalars())


async def publish(connection: AsyncConnection, sandbox: Sandbox, port: int, at: int, actor: str) -> bool:
    """Open a port to everybody, with the event of it; False if it was open."""
    values = {"sandbox": sandbox.id, "port": port, "created_at": at, "created_by": actor}
    added = await connection.execute(insert_or(connection, public_ports).values(values).on_conflict_do_nothing())
    if added.rowcount:
        await _tell(connection, sandbox, EventType.PORT_PUBLISHED, port, at, actor)
    return bool(added.rowcount)


async def withdraw(connection: AsyncConnection, sandbox: Sandbox, port: int, at: int, actor: str) -> bool:
    """Close a port to everybody, with the event of it; False if it was closed."""
    gone = await connection.execute(sa.delete(public_ports).where(_C.sandbox == sandbox.id, _C.port == port))
    if gone.rowcount:
        await _tell(connection, sandbox, EventType.PORT_WITHDRAWN, port, at, actor)
    return bool(gone.rowcount)


async def _tell(
    connection: AsyncConnection, sandbox: Sandbox, event: EventType, port: int, at: int, actor: str
) -> None:
    await sandboxes.tell(
        connection, sandbox.id, sandbox.organisation, event=event, at=at, actor=actor, data={"port": port}
    )
