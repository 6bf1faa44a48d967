"""Answers kept under an Idempotency-Key."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.store.schema import idempotency


@dataclass(frozen=True, slots=True)
class Kept:
    """A key that was seen: whose work it is, and the answer once there is one."""

    fingerprint: str
    effect: str
    owner: str
    created_at: int
    status: int | None
    body: bytes | None


def _is(organisation: str, route: str, key: str) -> "sa.ColumnElement[bool]":
    columns = idempotency.c
    return sa.and_(columns.organisation == organisation, columns.route == route, columns.key == key)


async def find(connection: AsyncConnection, organisation: str, route: str, key: str) -> Kept | None:
    """What is kept under a key."""
    columns = [idempotency.c[name] for name in Kept.__slots__]
    row: Any = (await connection.execute(sa.select(*columns).where(_is(organisation, route, key)))).one_or_none()
    return None if row is None else Kept(*row)


async def reserve(connection: AsyncConnection, organisation: str, route: str, key: str, kept: Kept) -> None:
    """Write a key that has no answer yet, in place of what was kept under it."""
    await connection.execute(sa.delete(idempotency).where(_is(organisation, route, key)))
    values = {name: getattr(kept, name) for name in Kept.__slots__}
    await connection.execute(sa.insert(idempotency).values(organisation=organisation, route=route, key=key, **values))


async def complete(
    connection: AsyncConnection, organisation: str, route: str, key: str, owner: str, status: int, body: bytes
) -> None:
    """Keep the answer, if the key is still `owner`'s."""
    mine = sa.and_(_is(organisation, route, key), idempotency.c.owner == owner)
    await connection.execute(sa.update(idempotency).where(mine).values(status=status, body=body))


async def give_up(connection: AsyncConnection, organisation: str, route: str, key: str, owner: str) -> None:
    """Forget a key of `owner`'s whose effect did not happen."""
    mine = sa.and_(_is(organisation, route, key), idempotency.c.owner == owner, idempotency.c.status.is_(None))
    await connection.execute(sa.delete(idempotency).where(mine))


async def forget(connection: AsyncConnection, before: int) -> int:
    """Delete what was kept before a time; how many."""
    return (await connection.execute(sa.delete(idempotency).where(idempotency.c.created_at < before))).rowcount
