"""Tasks of agents: their rows, what was told of them, and the event of each step in the same transaction."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.model.agents import (
    EVENTS,
    EVENTS_BYTES_MOST,
    EVENTS_MOST,
    Task,
    TaskEvent,
    TaskReason,
    TaskStatus,
    Told,
)
from boxkeep_server.model.companions import Companion
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import sandboxes
from boxkeep_server.store.schema import TASK_OPEN, agent_events, agent_tasks
from boxkeep_server.store.schema import sandboxes as sandboxes_table
from boxkeep_server.store.upserts import insert_or

_C = agent_tasks.c
_JSON = ("metadata", "result", "ask")
_TRIES = 5
RECORD = [_C[name] for name in Task.__slots__]


async def add(connection: AsyncConnection, new: Task) -> bool:
    """Write a new task, with its event; False if there is one of its id, or one that its handoff has prompted."""
    made = await connection.execute(insert_or(connection, agent_tasks).values(_stored(new)).on_conflict_do_nothing())
    if made.rowcount:
        await _tell(connection, new, new.created_by)
    return bool(made.rowcount)


async def get(connection: AsyncConnection, task: str) -> Task | None:
    """A task, whoever it belongs to."""
    row = (await connection.execute(sa.select(*RECORD).where(_C.id == task))).one_or_none()
    return None if row is None else _record(row)


async def page(
    connection: AsyncConnection, sandbox: str, *, before: tuple[int, str] | None, limit: int
) -> Sequence[Task]:
    """Tasks of a sandbox, newest first, from before (created_at, id)."""
    query = sa.select(*RECORD).where(_C.sandbox == sandbox)
    if before is not None:
        query = query.where(sa.tuple_(_C.created_at, _C.id) < before)
    query = query.order_by(_C.created_at.desc(), _C.id.desc()).limit(limit)
    return [_record(row) for row in await connection.execute(query)]


async def open_count(connection: AsyncConnection, sandbox: str) -> int:
    """How many tasks of a sandbox have not come to their end."""
    query = sa.select(sa.func.count()).select_from(agent_tasks).where(_C.sandbox == sandbox, TASK_OPEN)
    return int((await connection.execute(query)).scalar_one())


async def open_in(connection: AsyncConnection, *statuses: Status) -> Sequence[Task]:
    """Tasks without an end in sandboxes of these statuses."""
    boxes = sandboxes_table.c
    query = sa.select(*RECORD).join(sandboxes_table, boxes.id == _C.sandbox)
    query = query.where(_C.id.in_(sa.select(_C.id).where(TASK_OPEN)), boxes.status.in_(statuses))
    return [_record(row) for row in await connection.execute(query)]


async def latest_session(connection: AsyncConnection, sandbox: str) -> str | None:
    """The session that a sandbox's agent was in last."""
    query = sa.select(_C.session).where(_C.sandbox == sandbox, _C.session.is_not(None))
    query = query.order_by(_C.created_at.desc(), _C.id.desc()).limit(1)
    found: str | None = (await connection.execute(query)).scalar_one_or_none()
    return found


async def change(connection: AsyncConnection, before: Task, after: Task, actor: str) -> bool:
    """Write what has become of a task that still is as `before`, with the event of its end; False if it is not."""
    still = sa.and_(_C.id == before.id, _C.status == before.status, _C.told == before.told)
    changed = await connection.execute(sa.update(agent_tasks).where(still).values(_stored(after)))
    if changed.rowcount and before.open and not after.open:
        await _tell(connection, after, actor)
    return bool(changed.rowcount)


async def fail(
    connection: AsyncConnection, before: Task, reason: TaskReason, at: int, actor: str, message: str | None = None
) -> bool:
    """Write that a task has failed, unless it has come to an end; whether this was its end."""
    one: Task | None = before
    for _ in range(_TRIES):
        if one is None or not one.open:
            return False
        if await change(connection, one, one.failed(reason, at, message), actor):
            return True
        one = await get(connection, before.id)
    return False


async def roll_back(connection: AsyncConnection, sandbox: str, at: int, actor: str) -> None:
    """A sandbox has gone back to a checkpoint: what its agent had to do is over."""
    query = sa.select(*RECORD).where(_C.sandbox == sandbox, TASK_OPEN)
    for row in (await connection.execute(query)).all():
        await fail(connection, _record(row), TaskReason.ROLLED_BACK, at, actor)


async def hear(connection: AsyncConnection, speaker: Companion, told: Sequence[Told], at: int, actor: str) -> None:
    """Write what an agent tells of its sandbox's tasks; what was heard before, or of what is over, is passed over."""
    for one in told:
        for _ in range(_TRIES):
            before = await get(connection, one.task)
            if before is None or before.sandbox != speaker.sandbox or not before.open or one.n < before.told:
                break
            data = orjson.dumps(one.data())
            kept = before.told < EVENTS_MOST and before.told_bytes + len(data) <= EVENTS_BYTES_MOST
            told_bytes = before.told_bytes + (len(data) if kept else 0)
            after = replace(before.heard(one, at), told_bytes=told_bytes)
            if await change(connection, before, after, actor):
                if kept or not after.open:
                    row = {"task": one.task, "n": one.n, "at": at, "kind": one.kind, "data": data.decode()}
                    await connection.execute(insert_or(connection, agent_events).values(row).on_conflict_do_nothing())
                break


async def events_after(connection: AsyncConnection, task: str, n: int, limit: int) -> Sequence[TaskEvent]:
    """What was told of a task behind its `n`th thing."""
    columns = agent_events.c
    query = sa.select(columns.n, columns.at, columns.kind, columns.data)
    query = query.where(columns.task == task, columns.n > n).order_by(columns.n).limit(limit)
    return [TaskEvent(task, row.n, row.at, row.kind, orjson.loads(row.data)) for row in await connection.execute(query)]


async def of_sandboxes(connection: AsyncConnection, ids: Collection[str]) -> dict[str, list[Task]]:
    """The tasks without an end of these sandboxes, by sandbox."""
    found: dict[str, list[Task]] = {one: [] for one in ids}
    query = sa.select(*RECORD).where(_C.sandbox.in_(list(ids)), TASK_OPEN)
    for row in await connection.execute(query):
        found[row.sandbox].append(_record(row))
    return found


async def _tell(connection: AsyncConnection, one: Task, actor: str) -> None:
    about = {"taskId": one.id, "reason": one.reason, "metadata": one.metadata}
    data = {name: value for name, value in about.items() if value is not None}
    at = one.ended_at if one.ended_at is not None else one.created_at
    await sandboxes.tell(
        connection, one.sandbox, one.organisation, event=EVENTS[one.status], at=at, actor=actor, data=data
    )


def _stored(one: Task) -> dict[str, Any]:
    values = {name: getattr(one, name) for name in Task.__slots__}
    written = {name: None if values[name] is None else orjson.dumps(values[name]).decode() for name in _JSON}
    return {**values, **written}


def _record(row: "sa.Row[Any]") -> Task:
    values = dict(zip(Task.__slots__, row, strict=True))
    read = {name: None if values[name] is None else orjson.loads(values[name]) for name in _JSON}
    reason = values["reason"]
    named = {"status": TaskStatus(values["status"]), "reason": None if reason is None else TaskReason(reason)}
    return Task(**{**values, **read, **named})
