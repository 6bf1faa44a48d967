"""Organisations, their plans and their keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.plans import BUILT_IN, Plan
from boxkeep_server.model.scopes import Scope
from boxkeep_server.store.schema import keys, organisations, plans


@dataclass(frozen=True, slots=True)
class Organisation:
    """Whoever sandboxes belong to."""

    id: str
    name: str
    plan: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Key:
    """What is stored of an API key. `hint` is its last four characters."""

    id: str
    organisation: str
    hint: str
    scopes: frozenset[Scope]
    created_at: int
    expires_at: int | None
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class Holder:
    """A living key with the organisation and plan behind it."""

    key: Key
    plan: Plan


async def seed_plans(connection: AsyncConnection) -> None:
    """Write the built-in plans that are not there; those an operator has edited stay."""
    known = set((await connection.execute(sa.select(plans.c.name))).scalars())
    missing = [_plan_values(plan) for name, plan in BUILT_IN.items() if name not in known]
    if missing:
        await connection.execute(sa.insert(plans), missing)


async def put_plan(connection: AsyncConnection, plan: Plan) -> None:
    """Write a plan, new or edited."""
    values = _plan_values(plan)
    changed = await connection.execute(sa.update(plans).where(plans.c.name == plan.name).values(values))
    if not changed.rowcount:
        await connection.execute(sa.insert(plans).values(values))


async def plan_named(connection: AsyncConnection, name: str) -> Plan | None:
    """A plan by its name."""
    row = (await connection.execute(sa.select(plans).where(plans.c.name == name))).one_or_none()
    return None if row is None else _plan(row)


async def all_plan_names(connection: AsyncConnection) -> Sequence[str]:
    """The names of all plans."""
    return list((await connection.execute(sa.select(plans.c.name).order_by(plans.c.name))).scalars())


async def lock_organisation(connection: AsyncConnection, organisation: str) -> Plan:
    """The plan of an organisation, whose row stays locked until the transaction ends: limits are counted under it."""
    query = (
        sa.select(plans)
        .join_from(organisations, plans, organisations.c.plan == plans.c.name)
        .where(organisations.c.id == organisation)
        .with_for_update(of=organisations)
    )
    return _plan((await connection.execute(query)).one())


async def plan_of(connection: AsyncConnection, organisation: str) -> Plan:
    """The plan of an organisation."""
    query = sa.select(plans).join_from(organisations, plans, organisations.c.plan == plans.c.name)
    return _plan((await connection.execute(query.where(organisations.c.id == organisation))).one())


async def organisation_named(connection: AsyncConnection, name: str) -> Organisation | None:
    """An organisation by its name."""
    row = (await connection.execute(sa.select(organisations).where(organisations.c.name == name))).one_or_none()
    return None if row is None else Organisation(**row._mapping)


async def add_organisation(connection: AsyncConnection, organisation: Organisation) -> None:
    """Write a new organisation."""
    await connection.execute(sa.insert(organisations).values(_fields(organisation)))


async def set_plan(connection: AsyncConnection, organisation: str, plan: str) -> None:
    """Move an organisation to another plan."""
    await connection.execute(sa.update(organisations).where(organisations.c.id == organisation).values(plan=plan))


async def all_organisations(connection: AsyncConnection) -> Sequence[Organisation]:
    """Every organisation, by name."""
    rows = await connection.execute(sa.select(organisations).order_by(organisations.c.name))
    return [Organisation(**row._mapping) for row in rows]


async def add_key(connection: AsyncConnection, key: Key, digest: str) -> None:
    """Write a new key."""
    values = {**_fields(key), "scopes": orjson.dumps(sorted(key.scopes)).decode(), "digest": digest}
    await connection.execute(sa.insert(keys).values(values))


async def revoke_key(connection: AsyncConnection, key_id: str, at: int) -> bool:
    """Revoke a key; whether there is such a key. May be repeated."""
    there = keys.c.id == key_id
    await connection.execute(sa.update(keys).where(there, keys.c.revoked_at.is_(None)).values(revoked_at=at))
    return (await connection.execute(sa.select(keys.c.id).where(there))).one_or_none() is not None


async def keys_of(connection: AsyncConnection, organisation: str | None) -> Sequence[Key]:
    """The keys of an organisation, or all, oldest first."""
    query = sa.select(keys).order_by(keys.c.created_at)
    if organisation is not None:
        query = query.where(keys.c.organisation == organisation)
    return [_key(row) for row in await connection.execute(query)]


_HOLDER = (
    sa.select(
        keys.c.id,
        keys.c.organisation,
        keys.c.hint,
        keys.c.scopes,
        keys.c.created_at,
        keys.c.expires_at,
        keys.c.revoked_at,
        *(column.label(f"plan_{column.name}") for column in plans.c),
    )
    .join_from(keys, organisations)
    .join(plans)
)


async def holder_of_digest(connection: AsyncConnection, digest: str, now: int) -> Holder | None:
    """Whoever holds the key with this digest, while it lives."""
    return await _holder(connection, keys.c.digest == digest, now)


async def holder_of_key(connection: AsyncConnection, key_id: str, now: int) -> Holder | None:
    """Whoever holds the key with this id, while it lives."""
    return await _holder(connection, keys.c.id == key_id, now)


async def _holder(connection: AsyncConnection, which: "sa.ColumnElement[bool]", now: int) -> Holder | None:
    row = (await connection.execute(_HOLDER.where(which))).one_or_none()
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        return None
    return Holder(_key(row), _plan(row, "plan_"))


def _key(row: "sa.Row[tuple[object, ...]]") -> Key:
    scopes = frozenset(Scope(name) for name in orjson.loads(row.scopes))
    return Key(row.id, row.organisation, row.hint, scopes, row.created_at, row.expires_at, row.revoked_at)


def _plan(row: "sa.Row[tuple[object, ...]]", prefix: str = "") -> Plan:
    values = {column.name: getattr(row, prefix + column.name) for column in plans.c}
    return Plan(**{**values, "features": frozenset(orjson.loads(values["features"]))})


def _plan_values(plan: Plan) -> dict[str, object]:
    return {**_fields(plan), "features": orjson.dumps(sorted(plan.features)).decode()}


def _fields(record: Organisation | Key | Plan) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__slots__}
