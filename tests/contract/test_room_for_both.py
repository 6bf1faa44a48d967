"""Sandboxes that want two slots among those that want one: never half placed, and not overtaken for ever."""

import pytest

from boxkeep_server.control.keys import Caller
from boxkeep_server.model.sandboxes import NewSandbox, Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store.database import Database
from tests.contract.test_machines_beside import WISH, Faulty
from tests.controls import Rig
from tests.engines import Clock


@pytest.fixture
def engine(clock: Clock) -> Faulty:
    return Faulty(clock)


@pytest.fixture
def rig(database: Database, clock: Clock, engine: Faulty) -> Rig:
    return Rig(database, engine, clock)


@pytest.fixture
async def caller(rig: Rig) -> Caller:
    return await rig.caller("paired", "pro")


async def now(rig: Rig, caller: Caller, made: Sandbox) -> Sandbox:
    return await rig.sandboxes.get(caller, made.id)


async def test_what_has_room_for_one_machine_alone_is_given_back(rig: Rig, caller: Caller, engine: Faulty) -> None:
    engine.slots = 1
    made = await rig.sandboxes.create(caller, WISH)
    await rig.round()
    assert (await now(rig, caller, made)).status is Status.QUEUED
    assert engine.keys() == []
    engine.slots = 2
    await rig.round()
    assert (await now(rig, caller, made)).status is Status.READY
    assert len(engine.keys()) == 2


async def test_two_that_want_the_last_slots_both_get_them_in_turn(rig: Rig, caller: Caller, engine: Faulty) -> None:
    engine.slots = 3
    both = [await rig.sandboxes.create(caller, WISH) for _ in range(2)]
    for _ in range(3):
        await rig.round()
    first = [one for one in both if (await now(rig, caller, one)).status is Status.READY]
    assert len(first) == 1
    await rig.sandboxes.end(caller, first[0].id)
    for _ in range(3):
        await rig.round()
    (other,) = [one for one in both if one is not first[0]]
    assert (await now(rig, caller, other)).status is Status.READY


async def test_what_has_no_room_for_both_is_not_tried_again_and_holds_up_no_other(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    engine.slots = 1
    pair = await rig.sandboxes.create(caller, WISH)
    await rig.round()
    made_before = engine.made
    single = await rig.sandboxes.create(caller, NewSandbox())
    for _ in range(3):
        await rig.round()
    assert (await now(rig, caller, single)).status is Status.READY
    assert (await now(rig, caller, pair)).status is Status.QUEUED
    assert engine.made == made_before + 1
    rig.clock.at += 60_000
    await rig.round()
    over = await now(rig, caller, pair)
    assert (over.status, over.reason) == (Status.FAILED, Reason.NO_CAPACITY)


async def test_what_wants_two_slots_is_overtaken_for_half_of_its_time_and_not_for_ever(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    engine.slots = 2
    singles = [await rig.sandboxes.create(caller, NewSandbox()) for _ in range(2)]
    await rig.round()
    pair = await rig.sandboxes.create(caller, WISH)
    await rig.round()

    async def instead(of: Sandbox) -> Sandbox:
        """Another, which is created while there is no room, and then one of those ends that have it."""
        other = await rig.sandboxes.create(caller, NewSandbox())
        await rig.round()
        await rig.sandboxes.end(caller, of.id)
        for _ in range(3):
            await rig.round()
        return await now(rig, caller, other)

    overtakes = await instead(of=singles[0])
    assert overtakes.status is Status.READY
    rig.clock.at += 30_000
    waits = await instead(of=singles[1])
    assert waits.status is Status.QUEUED
    await rig.sandboxes.end(caller, overtakes.id)
    for _ in range(3):
        await rig.round()
    assert (await now(rig, caller, pair)).status is Status.READY
