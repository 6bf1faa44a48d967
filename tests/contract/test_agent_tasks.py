"""Tasks of agents on both databases: what is told is written once, whatever is told, and each comes to one end."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from boxkeep_server.model.agents import Task, TaskReason, TaskStatus, Told, read_told
from boxkeep_server.model.companions import Companion, CompanionState
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import agents, events
from boxkeep_server.store.database import Database
from tests.contract.test_store import NOW, added, made_organisation


async def queued(database: Database, **more: Any) -> Task:
    """A task that has just been written, of a sandbox of its own."""
    organisation = await made_organisation(database)
    sandbox = await added(database, organisation)
    values: dict[str, Any] = {
        "id": new_id(),
        "sandbox": sandbox.id,
        "organisation": organisation,
        "created_by": "me",
        "status": TaskStatus.QUEUED,
        "prompt": "Schreib ☃",
        "agent": None,
        "session": None,
        "metadata": {"a": "b"},
        "handoff": None,
        "timeout_ms": 5000,
        "created_at": NOW,
        **more,
    }
    new = Task(**values)
    async with database.writing() as connection:
        assert await agents.add(connection, new)
    return new


def speaker(task: Task) -> Companion:
    return Companion(task.sandbox, task.organisation, "agent", 1, 0, 0, CompanionState.READY)


async def hear(database: Database, task: Task, *told: Told) -> Task:
    async with database.writing() as connection:
        await agents.hear(connection, speaker(task), told, NOW + 7, "system")
    return await read(database, task)


async def read(database: Database, task: Task) -> Task:
    async with database.reading() as connection:
        found = await agents.get(connection, task.id)
    assert found is not None
    return found


async def test_a_task_is_read_as_it_was_written_and_after_what_was_told(database: Database) -> None:
    task = await queued(database)
    assert await read(database, task) == task
    lines = [
        {"task": task.id, "n": 0, "kind": "started", "session": "ses_1"},
        {"task": task.id, "n": 1, "kind": "text", "text": "a\0b ☃"},
        {"task": task.id, "n": 2, "kind": "failed", "text": "no\0", "tokens": {"input": 3}, "cost": 0.5, "files": []},
    ]
    told = [one for line in lines if (one := read_told(line)) is not None]
    after = await hear(database, task, *told)
    assert (after.status, after.reason, after.message) == (TaskStatus.FAILED, TaskReason.AGENT, "no\ufffd")
    assert (after.session, after.started_at, after.ended_at, after.tries) == ("ses_1", NOW + 7, NOW + 7, 1)
    async with database.reading() as connection:
        found = await agents.events_after(connection, task.id, 0, 10)
        told_of = await events.after(connection, task.sandbox, 0, 10)
    assert [(one.n, one.kind, one.data["text"]) for one in found] == [
        (1, "text", "a\ufffdb ☃"),
        (2, "failed", "no\ufffd"),
    ]
    assert [event.type.value for event in told_of][1:] == ["sandbox.agent.task.queued", "sandbox.agent.task.failed"]


async def test_of_many_ends_at_once_one_counts(database: Database) -> None:
    task = await hear(database, await queued(database), Told(task="x" * 32, n=0, kind="text"))

    async def cancel() -> bool:
        async with database.writing() as connection:
            return await agents.fail(connection, task, TaskReason.CANCELLED, NOW + 1, "me")

    async def complete() -> None:
        await hear(database, task, Told(task=task.id, n=0, kind="completed", text="done"))

    await asyncio.gather(*(cancel() for _ in range(4)), complete(), *(cancel() for _ in range(4)))
    assert not (await read(database, task)).open
    async with database.reading() as connection:
        told = await events.after(connection, task.sandbox, 0, 50)
    ends = [event.type.value for event in told if event.type.value.endswith(("completed", "failed"))]
    assert len(ends) == 1


async def test_a_handoff_prompts_once(database: Database) -> None:
    handoff = new_id()
    task = await queued(database, handoff=handoff)
    async with database.writing() as connection:
        again = Task(**{**{name: getattr(task, name) for name in Task.__slots__}, "id": new_id()})
        assert not await agents.add(connection, again)


async def test_open_tasks_are_found_by_how_their_sandbox_is(database: Database) -> None:
    task = await queued(database)
    async with database.reading() as connection:
        assert [one.id for one in await agents.open_in(connection, Status.QUEUED)] == [task.id]
        assert await agents.open_in(connection, Status.READY, Status.ENDED) == []
        assert await agents.open_count(connection, task.sandbox) == 1
        assert await agents.of_sandboxes(connection, [task.sandbox]) == {task.sandbox: [task]}
    async with database.writing() as connection:
        await agents.roll_back(connection, task.sandbox, NOW + 1, "system")
        assert await agents.open_count(connection, task.sandbox) == 0
        assert await agents.open_in(connection, Status.QUEUED) == []


async def test_no_end_without_a_time_and_no_failure_without_a_reason(database: Database) -> None:
    for wrong in ({"status": TaskStatus.COMPLETED}, {"status": TaskStatus.FAILED, "ended_at": NOW}):
        with pytest.raises(IntegrityError):
            await queued(database, **wrong)
