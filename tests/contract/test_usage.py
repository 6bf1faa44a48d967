"""Usage, billing and the word that hours run out, over a real store and a fake engine."""

from collections.abc import AsyncIterator

import pytest

from boxkeep_server.control.keys import Caller
from boxkeep_server.control.usage import Accounts
from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.plans import Plan
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.store import events, organisations
from boxkeep_server.store.database import Database
from tests.controls import Rig, store_at
from tests.engines import Clock, MemoryEngine


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    async with store_at(store_url) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rig(database: Database, clock: Clock) -> Rig:
    return Rig(database, MemoryEngine(clock), clock)


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return Accounts(database, clock)


async def ready(rig: Rig, caller: Caller) -> Sandbox:
    made = await rig.sandboxes.create(caller, NewSandbox(isolation="runsc"))
    await rig.round()
    return await rig.sandboxes.get(caller, made.id)


async def on_a_plan_of(rig: Rig, database: Database, month_ms: int) -> Caller:
    async with database.writing() as connection:
        await organisations.put_plan(connection, Plan("small", None, None, month_ms, None, None, frozenset()))
    return await rig.caller("small", "small")


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


async def told(database: Database, sandbox: Sandbox) -> list[tuple[str, object]]:
    async with database.reading() as connection:
        found = await events.after(connection, sandbox.id, 0)
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))
    return [(event.type.value, event.data["percent"]) for event in found if "limit" in event.type]
