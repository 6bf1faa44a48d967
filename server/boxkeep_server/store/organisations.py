"""Organisations, their plans and their keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.plans import BUILT_IN, Plan
from boxkeep_server.model.scopes import Scope
from boxkeep_server.store.schema import keys, organisations, plans
from boxkeep_server.store.upserts import insert_or


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
    values = [_plan_values(plan) for plan in BUILT_IN.values()]
    await connection.execute(insert_or(connection, plans).values(values).on_conflict_do_nothing())


async def put_plan(connection: AsyncConnection, plan: Plan) -> None:
    """Write a plan, new or edited."""
    values = _plan_values(plan)
    put = insert_or(connection, plans).values(values).on_conflict_do_update(index_elements=["name"], set_=values)
    await connection.execute(put)


async def plan_named(connection: AsyncConnection, name: str) -> Plan | None:
    """A plan by its name."""
    row = (await connection.execute(sa.select(plans).where(plans.c.name == name))).one_or_none()
    return None if row is None else _plan(row)


async def all_plans(connection: AsyncConnection) -> Sequence[Plan]:
    """All plans, by name."""
    return [_plan(row) for row in await connection.execute(sa.select(plans).order_by(plans.c.name))]


_LOCK = (
    sa.select(plans)
    .join_from(organisations, plans, organisations.c.plan == plans.c.name)
    .where(organisations.c.id == sa.bindparam("of"))
    .with_for_update(of=organisations)
)


async def lock_organisation(connection: AsyncConnection, organisation: str) -> Plan:
    """The plan of an organisation, whose row stays locked until the transaction ends: limits are counted under it."""
    return _plan((await connection.execute(_LOCK, {"of": organisation})).one())


async def plan_of(connection: AsyncConnection, organisation: str) -> Plan:
    """The plan of an organisation, as it is at the moment."""
    query = sa.select(plans).join(organisations, organisations.c.plan == plans.c.name)
    return _plan((await connection.execute(query.where(organisations.c.id == organisation))).one())


async def organisation_named(connection: AsyncConnection, name: str) -> Organisation | None:
    """An organisation by its name."""
    row = (await connection.execute(sa.select(organisations).where(organisations.c.name == name))).one_or_none()
    return None if row is None else Organisation(**row._mapping)


async def ensure_organisation(connection: AsyncConnection, new: Organisation) -> Organisation:
    """The organisation of this name: as it is, or as `new` where there was none."""
    added = insert_or(connection, organisations).values(_fields(new))
    await connection.execute(added.on_conflict_do_nothing(index_elements=["name"]))
    row = (await connection.execute(sa.select(organisations).where(organisations.c.name == new.name))).one()
    return Organisation(**row._mapping)


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


async def key_with_id(connection: AsyncConnection, key_id: str) -> Key | None:
    """A key by its id, alive or not."""
    row = (await connection.execute(sa.select(keys).where(keys.c.id == key_id))).one_or_none()
    return None if row is None else _key(row)


async def revoke_key(connection: AsyncConnection, key_id: str, at: int) -> bool:
    """Revoke a key; False where it was revoked before."""
    alive = sa.and_(keys.c.id == key_id, keys.c.revoked_at.is_(None))
    return (await connection.execute(sa.update(keys).where(alive).values(revoked_at=at))).rowcount == 1


async def forget_keys(connection: AsyncConnection, dead_before: int) -> int:
    """Delete keys that were revoked or had expired before a time; how many."""
    dead = sa.or_(keys.c.revoked_at < dead_before, keys.c.expires_at < dead_before)
    return (await connection.execute(sa.delete(keys).where(dead))).rowcount


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
