"""Usage, billing and the word that hours run out, over a real store and a fake engine."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.keys import Caller
from boxkeep_server.control.reconcile.warn import Warn
from boxkeep_server.control.steps import Steps
from boxkeep_server.control.usage import Accounts
from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.events import Event, EventType
from boxkeep_server.model.plans import Plan
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.model.usage import DAY_MS
from boxkeep_server.store import events, organisations, running
from boxkeep_server.store.database import Database
from tests.controls import Rig
from tests.engines import Clock


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return Accounts(database, clock)


async def ready(rig: Rig, caller: Caller) -> Sandbox:
    made = await rig.sandboxes.create(caller, NewSandbox(isolation="runsc"))
    await rig.round()
    return await rig.sandboxes.get(caller, made.id)


async def on_a_plan_of(rig: Rig, database: Database, month_ms: int, name: str = "small") -> Caller:
    async with database.writing() as connection:
        await organisations.put_plan(connection, Plan("small", None, None, month_ms, None, None, frozenset()))
    return await rig.caller(name, "small")


async def test_usage_is_what_ran_and_no_pause_of_it(rig: Rig, accounts: Accounts, clock: Clock) -> None:
    caller, other = await rig.caller(), await rig.caller("two")
    begin = clock()
    box, still = await ready(rig, caller), await ready(rig, caller)
    await ready(rig, other)
    clock.at += 10_001
    await rig.pausing.pause(caller, box.id)
    await rig.round()
    clock.at += 50_000
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    clock.at += 2_000
    await rig.sandboxes.end(caller, box.id)
    await rig.round()
    clock.at += 1_000
    found = await accounts.usage(caller, begin, None)
    assert found.tally.sandboxes == {box.id: 12_001, still.id: 63_001}
    assert (found.tally.ms, found.created) == (75_002, 2)
    assert (await rig.sandboxes.get(caller, box.id)).billed_ms == 12_001
    first = await accounts.usage(caller, begin, begin + 5_000)
    assert first.tally.sandboxes == {box.id: 5_000, still.id: 5_000}


async def test_pages_of_usage_name_each_sandbox_once_whatever_runs_on(
    rig: Rig, accounts: Accounts, clock: Clock
) -> None:
    caller, begin = await rig.caller(), clock()
    boxes = []
    for _ in range(5):
        boxes.append(await ready(rig, caller))
        clock.at += 1_000
    first = await accounts.usage(caller, None, None, limit=2)
    assert first.sandboxes == [(boxes[0].id, 5_000), (boxes[1].id, 4_000)]
    await rig.sandboxes.end(caller, boxes[3].id)
    await rig.round()
    clock.at += 60_000
    await ready(rig, caller)
    assert first.behind is not None
    second = await accounts.usage(caller, None, None, cursor=first.behind.cursor, limit=2)
    assert second.sandboxes == [(boxes[2].id, 3_000), (boxes[3].id, 2_000)]
    assert (second.tally.ms, second.tally.until) == (first.tally.ms, begin + 5_000)
    assert second.behind is not None
    last = await accounts.usage(caller, None, None, cursor=second.behind.cursor, limit=2)
    assert (last.sandboxes, last.behind) == ([(boxes[4].id, 1_000)], None)
    nobody = await accounts.usage(await rig.caller("two"), None, None, cursor=first.behind.cursor)
    assert (nobody.sandboxes, nobody.tally.ms) == ([], 0)
    for since, until in ((begin + 1, None), (None, begin + 1)):
        with pytest.raises(Invalid):
            await accounts.usage(caller, since, until, cursor=first.behind.cursor)


async def test_a_stretch_that_cannot_be_is_refused(rig: Rig, accounts: Accounts, clock: Clock) -> None:
    caller = await rig.caller()
    for since, until in ((2, 1), (0, None)):
        with pytest.raises(Invalid):
            await accounts.usage(caller, since, until)


async def test_billing_says_what_is_used_and_left(
    rig: Rig, accounts: Accounts, database: Database, clock: Clock
) -> None:
    caller = await on_a_plan_of(rig, database, 100_000)
    box = await ready(rig, caller)
    clock.at += 30_000
    found = await accounts.billing(caller)
    assert (found.used_ms, found.remaining_ms, found.plan.name) == (30_000, 70_000, "small")
    assert found.start <= clock() < found.end
    await rig.sandboxes.end(caller, box.id)
    await rig.round()
    clock.at = found.end + 5
    later = await accounts.billing(caller)
    assert (later.used_ms, later.remaining_ms, list(later.months.values())) == (0, 100_000, [30_000])
    await ready(rig, caller)
    clock.at += 200_000
    assert (await accounts.billing(caller)).remaining_ms == 0


async def test_those_whose_hours_run_out_are_told_at_80_and_100_percent_once_a_month(
    rig: Rig, database: Database, clock: Clock
) -> None:
    caller = await on_a_plan_of(rig, database, 100_000)
    first, second = await ready(rig, caller), await ready(rig, caller)
    clock.at += 39_999
    await rig.round()
    assert await told(database, first) == []
    clock.at += 1
    for _ in range(3):
        await rig.round()
    assert await told(database, first) == await told(database, second) == [("sandbox.limit.warning", 80)]
    again = Rig(database, rig.engine, clock)  # the process after a crash
    await again.round()
    assert await told(database, first) == [("sandbox.limit.warning", 80)]
    clock.at += 10_000
    await rig.round()
    assert await told(database, first) == [("sandbox.limit.warning", 80), ("sandbox.limit.reached", 100)]
    assert (await rig.sandboxes.get(caller, first.id)).reason == "monthly_hours_limit"


async def test_what_has_run_out_is_told_before_it_is_stopped_whoever_looks_first(
    rig: Rig, database: Database, clock: Clock
) -> None:
    for how in ("end", "pause"):
        mine = Rig(database, rig.engine, clock, at_hours_limit=how)
        caller = await on_a_plan_of(mine, database, 100_000, f"who would {how}")
        box = await ready(mine, caller)
        clock.at += 100_001
        await mine.expire.run_once()
        await mine.warn.run_once()
        assert await told(database, box) == [("sandbox.limit.warning", 80), ("sandbox.limit.reached", 100)]
        types = [event.type for event in await all_events(database, box)]
        stop = EventType.ENDING if how == "end" else EventType.PAUSING
        assert types.index(EventType.LIMIT_REACHED) < types.index(stop)


async def test_who_runs_nothing_is_told_when_the_next_sandbox_runs(rig: Rig, database: Database, clock: Clock) -> None:
    caller = await on_a_plan_of(rig, database, 100_000)
    first = await ready(rig, caller)
    clock.at += 85_000
    await rig.sandboxes.end(caller, first.id)
    assert await rig.warn.run_once() == 0
    assert await rig.warn.tell([caller.organisation], clock(), 80) == 0  # it ended after the sums were read
    await rig.round()
    assert await told(database, first) == []
    second = await ready(rig, caller)
    await rig.round()
    assert await told(database, second) == [("sandbox.limit.warning", 80)]


async def test_who_is_killed_while_it_tells_tells_once_in_the_end(rig: Rig, database: Database, clock: Clock) -> None:
    survived, step = False, 0
    while not survived:
        caller = await on_a_plan_of(rig, database, 100_000, f"killed at {step}")
        boxes = [await ready(rig, caller) for _ in range(2)]
        clock.at += 50_001
        dying = Warn(cast(Database, DiesAt(database, step)), Steps(database, rig.changes, clock))
        try:
            survived = bool(await dying.run_once())
        except Killed:
            again = Rig(database, rig.engine, clock)  # the process after the kill
            await again.expire.run_once()
            await again.warn.run_once()
        for box in boxes:
            assert await told(database, box) == [("sandbox.limit.warning", 80), ("sandbox.limit.reached", 100)]
            await rig.sandboxes.end(caller, box.id)
        await rig.round()
        step += 1
    assert step > 10  # it was killed within and at the end of both transactions


class Killed(Exception):
    """The process is gone."""


class DiesAt:
    """A store whose writer is killed before a statement or a commit, counted over all of its transactions."""

    def __init__(self, database: Database, at: int) -> None:
        self.reading = database.reading
        self._database, self._left = database, at

    @asynccontextmanager
    async def writing(self) -> AsyncIterator["DiesAt.Connection"]:
        async with self._database.writing() as connection:
            yield DiesAt.Connection(self, connection)
            self.step()

    def step(self) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1

    class Connection:
        def __init__(self, store: "DiesAt", connection: AsyncConnection) -> None:
            self._store, self._connection = store, connection
            self.dialect = connection.dialect

        async def execute(self, *statement: Any) -> Any:
            self._store.step()
            return await self._connection.execute(*statement)


async def test_a_span_that_ends_while_hours_are_read_is_counted_once(
    rig: Rig, database: Database, clock: Clock
) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    clock.at += 30_000

    class EndsTheSpan:
        def __init__(self, connection: AsyncConnection) -> None:
            self._connection = connection

        async def execute(self, *statement: Any) -> Any:
            found = await self._connection.execute(*statement)
            await rig.sandboxes.end(caller, box.id)
            return found

    async with database.reading() as connection:
        reader = cast(AsyncConnection, EndsTheSpan(connection))
        assert await running.used(reader, caller.organisation, clock()) == 30_000
        assert await running.used(reader, caller.organisation, clock()) == 30_000


async def test_months_before_count_what_still_runs(
    rig: Rig, accounts: Accounts, database: Database, clock: Clock
) -> None:
    clock.at = at(2026, 5, 31) + 3_600_000
    caller = await rig.caller()
    box = await ready(rig, caller)
    clock.at = at(2026, 7, 1) + 7_000
    running_still = await accounts.billing(caller)
    june = 30 * DAY_MS
    assert running_still.months == {"2026-05": DAY_MS - 3_600_000, "2026-06": june}
    assert running_still.used_ms == 7_000
    async with database.writing() as connection:  # what the sums say once it has ended is the same
        span = await running.span_of(connection, box.id, clock(), clock())
        assert span is not None
        await running.end(connection, box.id, caller.organisation, span)
    ended = await accounts.billing(caller)
    assert (ended.months, ended.used_ms) == (running_still.months, 7_000)


def at(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1000


async def all_events(database: Database, sandbox: Sandbox) -> Sequence[Event]:
    async with database.reading() as connection:
        return await events.after(connection, sandbox.id, 0)


async def told(database: Database, sandbox: Sandbox) -> list[tuple[str, object]]:
    async with database.reading() as connection:
        found = await events.after(connection, sandbox.id, 0)
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))
    return [(event.type.value, event.data["percent"]) for event in found if "limit" in event.type]
