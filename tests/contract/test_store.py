"""The store on both databases: what its constraints refuse, what a transaction promises, what a race leaves behind."""

import asyncio
import dataclasses
import itertools
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from boxkeep_server.model.errors import Unavailable
from boxkeep_server.model.events import EventType
from boxkeep_server.model.hours import Span, month_of, used
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.plans import Plan
from boxkeep_server.model.sandboxes import Lifecycle, NetworkPolicy, Sandbox
from boxkeep_server.model.statuses import STEPS, IllegalStep, Status
from boxkeep_server.store import organisations, running, sandboxes, schema, selections
from boxkeep_server.store.database import Database
from boxkeep_server.store.organisations import Organisation
from tests.controls import store_at

NOW = 1_800_000_000_000
HOUR = 3_600_000


@pytest.fixture
async def organisation(database: Database) -> str:
    return await made_organisation(database)


async def made_organisation(database: Database, plan: str = "unlimited") -> str:
    new = Organisation(new_id(), new_id(), plan, NOW)
    async with database.writing() as connection:
        return (await organisations.ensure_organisation(connection, new)).id


def queued(organisation: str, **fields: Any) -> Sandbox:
    values: dict[str, Any] = {
        "id": new_id(),
        "organisation": organisation,
        "status": Status.QUEUED,
        "revision": 1,
        "epoch": 0,
        "runtime": "base",
        "image": "base-documents",
        "ephemeral": True,
        "max_duration_ms": 1000,
        "capabilities": {"documents": {"libreofficeHeadless": False}},
        "network": NetworkPolicy(True, ("1.2.3.0/24",)),
        "name": "ünïcode ☃",
        "metadata": {"a": "b"},
        "env_names": ("A",),
        "created_at": NOW,
        "queued_at": NOW,
        "billed_ms": 0,
        "created_by": new_id(),
        "lifecycle": Lifecycle("pause", 5000, True),
        "sides": {"browser": 3},
        "kept_sides": {"browser": 2},
        "files_only": True,
    }
    absent = {name: None for name in Sandbox.__slots__ if name not in values}
    return Sandbox(**{**absent, **values, **fields})


async def added(database: Database, organisation: str, **fields: Any) -> Sandbox:
    new = queued(organisation, **fields)
    async with database.writing() as connection:
        await sandboxes.add(connection, new, sandboxes.Sealed(), "me")
    return new


async def moved(database: Database, before: Sandbox, after: Status, at: int = NOW, **changes: Any) -> Sandbox | None:
    async with database.writing() as connection:
        return await sandboxes.step(connection, before, after, event=EventType.CHANGED, at=at, actor="me", **changes)


async def made_ready(database: Database, organisation: str, at: int = NOW) -> Sandbox:
    assigning = await moved(database, await added(database, organisation), Status.ASSIGNING, epoch=1)
    assert assigning is not None
    ready = await moved(
        database, assigning, Status.READY, at, node="n" * 32, ready_at=at, expires_at=at + 1000, started_at=at
    )
    assert ready is not None
    return ready


async def test_what_is_written_is_read_as_it_was(database: Database, organisation: str) -> None:
    new = await added(database, organisation)
    async with database.reading() as connection:
        assert await sandboxes.get(connection, new.id) == new
        assert await sandboxes.get(connection, "z" * 32) is None


async def test_migrations_make_the_tables_that_the_code_knows(database: Database, store_url: str) -> None:
    def made(connection: sa.Connection) -> dict[str, Any]:
        inspector = sa.inspect(connection)
        return {
            name: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(name)],
                sorted((str(one["name"]), one["sqltext"]) for one in inspector.get_check_constraints(name)),
                sorted((str(one["name"]), one["unique"], one["column_names"]) for one in inspector.get_indexes(name)),
                inspector.get_pk_constraint(name)["constrained_columns"],
            )
            for name in inspector.get_table_names()
            if name != "alembic_version"
        }

    async with database.scanning() as connection:
        migrated = await connection.run_sync(made)
    async with database.writing() as connection:
        await connection.run_sync(schema.metadata.drop_all)
        await connection.run_sync(schema.metadata.create_all)
    async with database.scanning() as connection:
        assert migrated == await connection.run_sync(made)


async def test_opening_again_and_at_once_changes_nothing(database: Database, store_url: str) -> None:
    async with database.writing() as connection:
        await organisations.put_plan(connection, Plan("free", 1, 1, 1, 1, 1, frozenset()))
    others = await asyncio.gather(*(Database.open(store_url) for _ in range(4)))
    for other in others:
        await other.close()
    async with database.reading() as connection:
        plan = await organisations.plan_named(connection, "free")
    assert plan is not None
    assert plan.concurrent == 1


async def refuses(database: Database, sandbox: Sandbox, change: dict[str, Any]) -> bool:
    """Whether the schema refuses a change of a row."""
    try:
        async with database.writing() as connection:
            await connection.execute(
                sa.update(schema.sandboxes).where(schema.sandboxes.c.id == sandbox.id).values(change)
            )
    except IntegrityError:
        return True
    return False


async def test_the_schema_takes_the_steps_of_the_table_alone(database: Database, organisation: str) -> None:
    for before, after in itertools.product(Status, Status):
        over = after in (Status.ENDED, Status.FAILED)
        change = {
            "previous": before,
            "status": after,
            "epoch": 1,
            "node": "n",
            "reason": "because",
            "ended_at": NOW if over else None,
            "released": over,
            "ready_at": NOW,
            "kept_epoch": 1 if after is Status.PAUSED else None,
            "expires_at": NOW if after is Status.READY else None,
        }
        refused = await refuses(database, await added(database, organisation), change)
        assert refused == (after not in STEPS[before]), (before, after)


async def test_the_schema_refuses_rows_that_cannot_be(database: Database, organisation: str) -> None:
    changes: list[dict[str, Any]] = [
        {"ended_at": NOW},
        {"expires_at": NOW},
        {"released": True},
        {"billed_ms": -1},
        {"revision": 0},
        {"max_duration_ms": 0},
        {"status": "ready", "previous": "assigning", "epoch": 1},
        {"status": "assigning", "previous": "queued", "epoch": 0},
        {"status": "failed", "previous": "queued", "reason": "x"},
        {"status": "failed", "previous": "queued", "ended_at": NOW},
        {"status": "ended", "previous": "ending", "reason": "x", "ended_at": NOW, "released": False},
        {"status": "active"},
        {"organisation": "nobody"},
    ]
    new = await added(database, organisation)
    assert [change for change in changes if not await refuses(database, new, change)] == []
    assert not await refuses(database, new, {"name": "other"})


async def test_a_sandbox_runs_only_once_at_a_time(database: Database, organisation: str) -> None:
    ready = await made_ready(database, organisation)
    with pytest.raises(IntegrityError):
        async with database.writing() as connection:
            await running.begin(connection, ready.id, organisation, NOW)


async def test_an_illegal_step_is_refused_before_it_is_tried(database: Database, organisation: str) -> None:
    new = await added(database, organisation)
    with pytest.raises(IllegalStep):
        await moved(database, new, Status.READY)


async def test_of_many_who_move_a_sandbox_one_does(database: Database, organisation: str) -> None:
    new = await added(database, organisation)
    tries = await asyncio.gather(*(moved(database, new, Status.ASSIGNING, epoch=1) for _ in range(20)))
    assert sum(one is not None for one in tries) == 1
    async with database.reading() as connection:
        row = (await connection.execute(sa.select(schema.sandboxes).where(schema.sandboxes.c.id == new.id))).one()
        told = (await connection.execute(sa.select(schema.events.c.sequence))).scalars().all()
    assert (row.revision, row.sequence, sorted(told)) == (2, 2, [1, 2])


async def test_who_comes_too_late_leaves_the_hours_alone(database: Database, organisation: str) -> None:
    ready = await made_ready(database, organisation)
    async with database.writing() as connection:
        await sandboxes.change(connection, ready, event=EventType.CHANGED, at=NOW, actor="me", expires_at=NOW + 50_000)
    assert await moved(database, ready, Status.ENDING, NOW + 10) is None
    async with database.reading() as connection:
        assert await running.used(connection, organisation, NOW + 100) == 100
        current = await sandboxes.get(connection, ready.id)
    assert current is not None
    ended = await moved(database, current, Status.ENDING, NOW + 400)
    assert ended is not None
    assert (ended.billed_ms, ended.expires_at) == (400, None)


async def test_what_raises_is_undone_and_what_was_beside_it_stays(database: Database, organisation: str) -> None:
    async def add(number: int) -> None:
        async with database.writing() as connection:
            await sandboxes.add(connection, queued(organisation, name=str(number)), sandboxes.Sealed(b"sealed"), "me")
            if number % 3 == 0:
                raise ArithmeticError

    results = await asyncio.gather(*(add(number) for number in range(30)), return_exceptions=True)
    assert sum(isinstance(result, ArithmeticError) for result in results) == 10
    async with database.scanning() as connection:
        names = (await connection.execute(sa.select(schema.sandboxes.c.name))).scalars().all()
        told = (await connection.execute(sa.select(sa.func.count()).select_from(schema.events))).scalar_one()
    assert sorted(map(int, names)) == [number for number in range(30) if number % 3]
    assert told == 20


async def test_cancelled_writers_leave_whole_transactions(database: Database, organisation: str) -> None:
    async def add() -> None:
        async with database.writing() as connection:
            await sandboxes.add(connection, queued(organisation), sandboxes.Sealed(b"sealed"), "me")

    tasks = [asyncio.create_task(add()) for _ in range(40)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0)
        if number % 2:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    async with database.scanning() as connection:
        rows, told, kept = [
            (await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one()
            for table in (schema.sandboxes, schema.events, schema.secrets)
        ]
    assert rows == told == kept >= sum(result is None for result in results)
    await add()


async def test_hours_are_summed_by_month_as_the_spans_say(database: Database, organisation: str) -> None:
    december = 1_796_083_200_000  # 2026-12-01T00:00:00Z
    ready = await made_ready(database, organisation, december - 2 * HOUR)
    await moved(database, ready, Status.ENDING, december + 3 * HOUR)
    still = await made_ready(database, organisation, december - HOUR)
    async with database.reading() as connection:
        assert await running.used(connection, organisation, december + 4 * HOUR) == 7 * HOUR
    await moved(database, still, Status.FAILED, december + 5 * HOUR, ran_until=december + 4 * HOUR, reason="died")
    async with database.reading() as connection:
        assert await running.used(connection, organisation, december + 9 * HOUR) == 7 * HOUR
        assert await running.used(connection, organisation, december - 1) == 3 * HOUR


_AT = st.integers(0, 100 * 24 * HOUR).map(lambda ms: NOW - 50 * 24 * HOUR + ms)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(st.tuples(_AT, _AT | st.none()), max_size=6), now=_AT)
async def test_hours_are_those_of_the_model(database: Database, runs: list[tuple[int, int | None]], now: int) -> None:
    organisation = await made_organisation(database)
    spans = []
    async with database.writing() as connection:
        for start, until in runs:
            sandbox = new_id()
            await running.begin(connection, sandbox, organisation, start)
            if until is None:
                spans.append(Span(start, None))
            elif (span := await running.span_of(connection, sandbox, until, NOW + 50 * 24 * HOUR)) is not None:
                await running.end(connection, sandbox, organisation, span)
                spans.append(span)
    # A limit is asked for now: what ends later has not ended yet.
    past = [span for span in spans if span.end is None or span.end <= now]
    later = [span for span in spans if span.end is not None and span.end > now]
    async with database.reading() as connection:
        told = await running.used(connection, organisation, now)
    assert told == used(past, month_of(now), now) + used(later, month_of(now), now)


async def test_those_without_hours_are_found_by_their_plans(database: Database) -> None:
    async with database.writing() as connection:
        await organisations.put_plan(connection, Plan("tight", None, None, 1000, None, None, frozenset()))
    spent, thrifty, free, idle = [
        await made_organisation(database, plan) for plan in ("tight", "tight", "unlimited", "tight")
    ]
    for organisation, since in ((spent, 600), (spent, 400), (thrifty, 999), (free, 10**6)):
        await made_ready(database, organisation, NOW - since)
    ended = await made_ready(database, idle, NOW - 5000)
    await moved(database, ended, Status.ENDING)
    async with database.reading() as connection:
        assert await running.used_up(connection, NOW) == [spent]


async def test_organisations_take_turns_each_with_its_longest_waiting(database: Database) -> None:
    greedy, modest = [await made_organisation(database) for _ in range(2)]
    theirs = [await added(database, greedy, queued_at=NOW + number) for number in range(5)]
    late = [await added(database, modest, queued_at=NOW + 100 + number) for number in range(2)]
    async with database.reading() as connection:
        turns = await selections.in_turn(connection, Status.QUEUED, 6)
    expected = [theirs[0], late[0], theirs[1], late[1], theirs[2], theirs[3]]
    assert [one.id for one in turns] == [one.id for one in expected]


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["a", "A", '"', "\\", "%", "_", ",", ":", '":"', '","', "{", "}", "\x00", "ß", "'", '\\"', '"a":"b"']
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(all_metadata=st.lists(st.dictionaries(_TEXT, _TEXT, max_size=3), max_size=5), name=_TEXT, value=_TEXT)
async def test_metadata_is_found_by_name_and_value_exactly(
    database: Database, all_metadata: list[dict[str, str]], name: str, value: str
) -> None:
    organisation = await made_organisation(database)
    wanted = {
        made.id
        for made in [await added(database, organisation, metadata=metadata) for metadata in all_metadata]
        if made.metadata.get(name) == value
    }
    async with database.scanning() as connection:
        found = await selections.page(
            connection, organisation, limit=100, before=None, status=None, metadata={name: value}
        )
    assert {one.id for one in found} == wanted


async def test_forgetting_leaves_nothing_but_hours(database: Database, organisation: str) -> None:
    ready = await made_ready(database, organisation)
    failed = await moved(database, ready, Status.FAILED, NOW + 70, reason="died")
    assert failed is not None
    async with database.writing() as connection:
        assert await selections.over_before(connection, NOW + 100, 10) == []
        await sandboxes.released(connection, failed.id)
        assert await selections.over_before(connection, NOW + 100, 10) == [failed.id]
        await sandboxes.forget(connection, [failed.id])
    async with database.reading() as connection:
        assert await sandboxes.get(connection, failed.id) is None
        assert await running.used(connection, organisation, NOW + 100) == 70


async def test_a_bug_of_ours_is_not_called_an_absence(database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        async with database.reading() as connection:
            await connection.execute(sa.text("SELECT nothing FROM nowhere WHERE 1 = 'x' + TRUE AND"))


async def test_a_database_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await Database.open(f"postgresql+asyncpg://nobody@/none?host={tmp_path}")


async def test_a_database_of_a_later_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/later.sqlite3"
    async with store_at(url) as database, database.writing() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = 'later'"))
    with pytest.raises(Unavailable, match="another version"):
        await Database.open(url)


async def test_a_store_that_went_away_is_unavailable_and_comes_back(postgresql_url: str) -> None:
    async with store_at(postgresql_url) as database:
        organisation = await made_organisation(database)
        with pytest.raises(Unavailable):
            async with database.writing() as connection:
                await connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        await added(database, organisation)


# What is SQLite's alone


def file_of(store_url: str) -> Path:
    return Path(make_url(store_url).database or "")


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[tuple[Database, Path]]:
    path = tmp_path / "inner" / "store.sqlite3"
    async with store_at(f"sqlite+aiosqlite:///{path}") as database:
        yield database, path


async def test_the_files_are_for_their_owner_alone(file: tuple[Database, Path]) -> None:
    database, path = file
    await made_organisation(database)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}


async def test_commits_are_durable_by_every_connection(file: tuple[Database, Path]) -> None:
    database, _ = file
    for way in (database.writing, database.reading, database.scanning):
        async with way() as connection:
            pragmas = [
                (await connection.execute(sa.text(f"PRAGMA {name}"))).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        assert pragmas == ["wal", 2, 1]


async def test_another_process_that_writes_is_waited_for(file: tuple[Database, Path]) -> None:
    database, path = file
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(made_organisation(database))
    async with database.reading() as connection:
        await organisations.all_plans(connection)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    assert await waiting


async def test_a_full_disk_loses_whole_transactions_and_nothing_else(file: tuple[Database, Path]) -> None:
    database, _ = file
    organisation = await made_organisation(database)
    async with database.writing() as connection:
        pages = (await connection.execute(sa.text("PRAGMA page_count"))).scalar_one()
        await connection.execute(sa.text(f"PRAGMA max_page_count = {pages + 20}"))
    big = dataclasses.replace(queued(organisation), metadata={"a": "x" * 20_000})
    tries = [dataclasses.replace(big, id=new_id()) for _ in range(20)]

    async def add(one: Sandbox) -> None:
        async with database.writing() as connection:
            await sandboxes.add(connection, one, sandboxes.Sealed(), "me")

    results = await asyncio.gather(*(add(one) for one in tries), return_exceptions=True)
    assert {type(result) for result in results} == {type(None), Unavailable}
    async with database.writing() as connection:
        await connection.execute(sa.text(f"PRAGMA max_page_count = {pages + 1000}"))
    async with database.scanning() as connection:
        there = set((await connection.execute(sa.select(schema.sandboxes.c.id))).scalars())
    assert there == {one.id for one, result in zip(tries, results, strict=True) if result is None}
    await add(dataclasses.replace(big, id=new_id()))
