"""Answers kept under an Idempotency-Key."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.store.schema import idempotency
from boxkeep_server.store.upserts import insert_or

FREE = ""
"""The owner of a key that nobody is at."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A key that was seen: whose work it is, and the answer once there is one."""

    fingerprint: str
    effect: str
    owner: str
    created_at: int
    status: int | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """Where an answer is kept: a key counts within its organisation and route."""

    organisation: str
    route: str
    key: str


async def find(connection: AsyncConnection, name: Name) -> Kept | None:
    """What is kept under a key."""
    columns = [idempotency.c[column] for column in Kept.__slots__]
    row: Any = (await connection.execute(sa.select(*columns).where(_is(name)))).one_or_none()
    return None if row is None else Kept(*row)


async def add(connection: AsyncConnection, name: Name, kept: Kept) -> bool:
    """Write a key that was not seen; whether it was not."""
    values = {**_fields(name), **_fields(kept)}
    added = insert_or(connection, idempotency).values(values).on_conflict_do_nothing()
    return (await connection.execute(added)).rowcount == 1


async def replace(connection: AsyncConnection, name: Name, before: Kept, after: Kept) -> bool:
    """Write `after` where `before` still is; whether it was."""
    same = sa.and_(_is(name), idempotency.c.owner == before.owner, idempotency.c.created_at == before.created_at)
    return (await connection.execute(sa.update(idempotency).where(same).values(_fields(after)))).rowcount == 1


async def change(connection: AsyncConnection, name: Name, mine: str, **values: Any) -> None:
    """Change what is kept under a key whose owner is `mine` and has no answer yet."""
    still = sa.and_(_is(name), idempotency.c.owner == mine, idempotency.c.status.is_(None))
    await connection.execute(sa.update(idempotency).where(still).values(values))


async def forget(connection: AsyncConnection, before: int) -> int:
    """Delete what was kept before a time; how many."""
    return (await connection.execute(sa.delete(idempotency).where(idempotency.c.created_at < before))).rowcount


def _is(name: Name) -> "sa.ColumnElement[bool]":
    columns = idempotency.c
    return sa.and_(columns.organisation == name.organisation, columns.route == name.route, columns.key == name.key)


def _fields(record: Name | Kept) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}
