"""Sandboxes: the one function that moves them between statuses, with the event and the span that go with each step."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.events import EventType
from boxkeep_server.model.machines import MAIN, Key
from boxkeep_server.model.sandboxes import Lifecycle, NetworkPolicy, Sandbox
from boxkeep_server.model.statuses import COUNTED, OVER, Status, check_step
from boxkeep_server.store import events, roles, running
from boxkeep_server.store.schema import commands, public_ports, sandboxes, secrets
from boxkeep_server.store.schema import events as events_table

_JSON = ("capabilities", "network", "metadata", "env_names", "lifecycle")
_ROLES = ("sides", "kept_sides")
RECORD = [sandboxes.c[name] for name in Sandbox.__slots__]

# Built once, and filled in by parameters: to build a statement of thirty columns takes longer than to run it.
_ADD = sa.insert(sandboxes)
_ADD_SECRET = sa.insert(secrets)
_ONE = sa.select(*RECORD).where(sandboxes.c.id == sa.bindparam("of"))
_CHANGE = (
    sa.update(sandboxes)
    .where(sandboxes.c.id == sa.bindparam("of"), sandboxes.c.revision == sa.bindparam("still"))
    .values(sequence=sandboxes.c.sequence + sa.bindparam("told"))
    .returning(*RECORD, sandboxes.c.sequence)
)
_COUNTED = sa.select(sa.func.count(sandboxes.c.id)).where(
    sandboxes.c.organisation == sa.bindparam("of"), sandboxes.c.status.in_(COUNTED)
)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What of a sandbox is kept sealed: its environment, and the URL of its browser's proxy; None where it has none."""

    env: bytes | None = field(default=None, repr=False)
    proxy: bytes | None = field(default=None, repr=False)


async def add(connection: AsyncConnection, sandbox: Sandbox, sealed: Sealed, actor: str) -> None:
    """Write a new sandbox, queued, with its first event."""
    values = {name: _stored(name, getattr(sandbox, name)) for name in Sandbox.__slots__}
    await connection.execute(_ADD, {**values, "sequence": 1, "released": False})
    if sealed != Sealed():
        values = {"sandbox": sandbox.id, "sealed": sealed.env, "sealed_proxy": sealed.proxy}
        await connection.execute(_ADD_SECRET, values)
    await events.add(
        connection,
        sandbox.id,
        sandbox.organisation,
        sequence=1,
        event=EventType.CREATED,
        at=sandbox.created_at,
        actor=actor,
        data={"status": sandbox.status},
    )


async def step(
    connection: AsyncConnection,
    before: Sandbox,
    after: Status,
    *,
    event: EventType,
    at: int,
    actor: str,
    ran_until: int | None = None,
    **changes: Any,
) -> Sandbox | None:
    """Move a sandbox that still is as `before`, with its event; the new record, or None if it has changed since.

    Reaching `ready` begins a span of hours; leaving it ends that at `ran_until` (epoch ms, now by default).

    Raises:
        IllegalStep: the table does not allow it.
    """
    check_step(before.status, after)
    if after in OVER:
        changes["ended_at"] = at
    if after not in (Status.READY, Status.PAUSING):
        changes["expires_at"] = None
    span = None
    if before.status is Status.READY:
        span = await running.span_of(connection, before.id, at if ran_until is None else ran_until, at)
    if span is not None:
        changes["billed_ms"] = before.billed_ms + span.ms
    values = {**changes, "status": after, "previous": before.status, "released": after is Status.ENDED}
    changed = await _update(connection, before, values, event, at, actor)
    if changed is not None and span is not None:
        await running.end(connection, before.id, before.organisation, span)
    if changed is not None and after is Status.READY:
        await running.begin(connection, before.id, before.organisation, at)
    return changed


async def change(
    connection: AsyncConnection, before: Sandbox, *, event: EventType | None, at: int, actor: str, **changes: Any
) -> Sandbox | None:
    """Change fields of a sandbox that still is as `before`, without a step; the new record, None if it has changed."""
    return await _update(connection, before, changes, event, at, actor)


async def _update(
    connection: AsyncConnection,
    before: Sandbox,
    values: Mapping[str, Any],
    event: EventType | None,
    at: int,
    actor: str,
) -> Sandbox | None:
    stored = {name: _stored(name, value) for name, value in values.items()}
    condition = {"of": before.id, "still": before.revision, "told": int(event is not None)}
    row = (await connection.execute(_CHANGE, {**condition, "revision": before.revision + 1, **stored})).one_or_none()
    if row is None:
        return None
    sandbox = record(row)
    if event is not None:
        data = {"status": sandbox.status, **({"reason": sandbox.reason} if sandbox.reason else {})}
        await events.add(
            connection,
            sandbox.id,
            sandbox.organisation,
            sequence=row.sequence,
            event=event,
            at=at,
            actor=actor,
            data=data,
        )
    return sandbox


async def get(connection: AsyncConnection, sandbox_id: str) -> Sandbox | None:
    """A sandbox, whoever it belongs to."""
    row = (await connection.execute(_ONE, {"of": sandbox_id})).one_or_none()
    return None if row is None else record(row)


async def states(connection: AsyncConnection, ids: Collection[str]) -> dict[str, tuple[Status, int]]:
    """Status and epoch of those of `ids` that are there."""
    query = sa.select(sandboxes.c.id, sandboxes.c.status, sandboxes.c.epoch).where(sandboxes.c.id.in_(list(ids)))
    return {row.id: (Status(row.status), row.epoch) for row in await connection.execute(query)}


async def answered_for(connection: AsyncConnection, ids: Collection[str]) -> set[Key]:
    """The machines of those of `ids` that have them, await them, or have left them to be released."""
    query = sa.select(sandboxes.c.id, sandboxes.c.epoch, sandboxes.c.sides).where(
        sandboxes.c.id.in_(list(ids)), sandboxes.c.released.is_(False), sandboxes.c.status != Status.PAUSED
    )
    found = [(row.id, {MAIN: row.epoch, **roles.from_column(row.sides)}) for row in await connection.execute(query)]
    return {Key(sandbox, epoch, role) for sandbox, epochs in found for role, epoch in epochs.items()}


async def tell(
    connection: AsyncConnection,
    sandbox: str,
    organisation: str,
    *,
    event: EventType,
    at: int,
    actor: str,
    data: Mapping[str, object],
) -> None:
    """Write an event of a sandbox behind its last, unless it has been forgotten; the sandbox itself does not change."""
    moved = sa.update(sandboxes).where(sandboxes.c.id == sandbox).values(sequence=sandboxes.c.sequence + 1)
    sequence = (await connection.execute(moved.returning(sandboxes.c.sequence))).scalar_one_or_none()
    if sequence is not None:
        await events.add(
            connection, sandbox, organisation, sequence=sequence, event=event, at=at, actor=actor, data=data
        )


async def told_end(connection: AsyncConnection, sandbox_id: str, epoch: int, not_after: int) -> None:
    """Note which end time the node knows; no step and no event, for nothing has changed for anyone else."""
    statement = sa.update(sandboxes).where(sandboxes.c.id == sandbox_id, sandboxes.c.epoch == epoch)
    await connection.execute(statement.values(node_not_after=not_after))


async def is_released(connection: AsyncConnection, sandbox_id: str) -> bool:
    """Whether a sandbox is over and no node holds anything of it: nothing more will happen to it."""
    query = sa.select(sandboxes.c.released).where(sandboxes.c.id == sandbox_id)
    return bool((await connection.execute(query)).scalar_one_or_none())


async def released(connection: AsyncConnection, sandbox_id: str) -> None:
    """Note that no node holds anything of a sandbox, erase its secrets, and close its public ports."""
    await connection.execute(sa.update(sandboxes).where(sandboxes.c.id == sandbox_id).values(released=True))
    await connection.execute(sa.delete(secrets).where(secrets.c.sandbox == sandbox_id))
    await connection.execute(sa.delete(public_ports).where(public_ports.c.sandbox == sandbox_id))


async def sealed(connection: AsyncConnection, sandbox_id: str) -> Sealed:
    """What of a sandbox is kept sealed."""
    query = sa.select(secrets.c.sealed, secrets.c.sealed_proxy).where(secrets.c.sandbox == sandbox_id)
    row = (await connection.execute(query)).one_or_none()
    return Sealed() if row is None else Sealed(*row)


async def counted(connection: AsyncConnection, organisation: str) -> int:
    """How many sandboxes the plan's concurrency counts now."""
    return (await connection.execute(_COUNTED, {"of": organisation})).scalar_one()


async def kept(connection: AsyncConnection, ids: Collection[str]) -> set[Key]:
    """What of those of `ids` snapshots are kept of, or are being taken of."""
    query = sa.select(*RECORD).where(sandboxes.c.id.in_(list(ids)), sandboxes.c.status.not_in(OVER))
    found = [record(row) for row in await connection.execute(query)]
    return {key for one in found for key in (one.machines if one.status is Status.PAUSING else one.kept)}


async def forget(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Delete sandboxes with their events and commands; their running time stays."""
    for table, column in ((events_table, "sandbox"), (commands, "sandbox"), (sandboxes, "id")):
        await connection.execute(sa.delete(table).where(table.c[column].in_(ids)))


def _stored(name: str, value: Any) -> Any:
    if name == "network":
        value = {"internet": value.internet, "allow": value.allow}
    if name in _ROLES:
        return roles.to_column(value)
    if name == "lifecycle":
        value = None if value == Lifecycle() else asdict(value)
    if name in _JSON and value is not None:
        return orjson.dumps(value).decode()
    return value


def record(row: "sa.Row[Any]") -> Sandbox:
    """The sandbox in a row that begins with the columns `RECORD`."""
    values = dict(zip(Sandbox.__slots__, row, strict=False))
    network = orjson.loads(values["network"])
    allow = network["allow"]
    values["network"] = NetworkPolicy(network["internet"], None if allow is None else tuple(allow))
    values["capabilities"] = None if values["capabilities"] is None else orjson.loads(values["capabilities"])
    values["metadata"] = orjson.loads(values["metadata"])
    values["env_names"] = tuple(orjson.loads(values["env_names"]))
    values["status"] = Status(values["status"])
    values["lifecycle"] = Lifecycle(**orjson.loads(values["lifecycle"] or b"{}"))
    for name in _ROLES:
        values[name] = roles.from_column(values[name])
    return Sandbox(**values)
