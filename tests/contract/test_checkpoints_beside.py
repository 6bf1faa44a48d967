"""Checkpoints of sandboxes that have a machine beside their main one: taken, gone on from, copied, deleted as one."""

import asyncio
import dataclasses

import pytest

from boxkeep_server.control.keys import Caller
from boxkeep_server.engine.interface import MachineGone, NodeAway, NotPaused, PlacementFailed, SnapshotUnfit
from boxkeep_server.model.checkpoints import Checkpoint
from boxkeep_server.model.copies import Copied
from boxkeep_server.model.errors import NoSpace
from boxkeep_server.model.events import EventType
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import DeathReason, Role
from boxkeep_server.model.sandboxes import NewSandbox, Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import copies
from boxkeep_server.store.database import Database
from tests.blob_stores import MemoryBlobs
from tests.contract.test_checkpoints import take
from tests.contract.test_copies import BASES, rounds
from tests.contract.test_machines_beside import BROWSER, WISH, Faulty, Killed, once
from tests.controls import Rig
from tests.engines import Clock

KEPT = dataclasses.replace(WISH, ephemeral=False, isolation="runsc")


@pytest.fixture
def engine(clock: Clock) -> Faulty:
    return Faulty(clock)


@pytest.fixture
def blobs(clock: Clock) -> MemoryBlobs:
    return MemoryBlobs(clock)


@pytest.fixture
def rig(database: Database, clock: Clock, engine: Faulty, blobs: MemoryBlobs) -> Rig:
    return Rig(database, engine, clock, blobs=blobs)


@pytest.fixture
async def caller(rig: Rig) -> Caller:
    return await rig.caller("paired", "unlimited")


@pytest.fixture
async def box(rig: Rig, caller: Caller) -> Sandbox:
    made = await rig.sandboxes.create(caller, KEPT)
    await rig.round()
    return await now(rig, caller, made)


async def now(rig: Rig, caller: Caller, made: Sandbox) -> Sandbox:
    return await rig.sandboxes.get(caller, made.id)


async def forked(rig: Rig, caller: Caller, taken: Checkpoint) -> Sandbox:
    wish = NewSandbox(from_checkpoint=taken.id, capabilities=WISH.capabilities)
    fork = await rig.sandboxes.create(caller, wish)
    await rig.round()
    return await now(rig, caller, fork)


async def test_it_is_of_both_machines_and_counts_both(rig: Rig, caller: Caller, engine: Faulty, box: Sandbox) -> None:
    taken = await take(rig, caller, box.id, memory=True)
    assert set(engine.checkpoints) == {taken.id, f"{taken.id}-browser"}
    assert (taken.keeps, taken.lost, taken.sides, taken.bytes) == ("memory", None, {BROWSER: 1}, 2 << 30)
    assert engine.keys() == list(box.machines)


async def test_a_fork_goes_on_from_both_and_deleting_it_leaves_nothing_of_either(
    rig: Rig, caller: Caller, engine: Faulty, box: Sandbox
) -> None:
    taken = await take(rig, caller, box.id)
    fork = await forked(rig, caller, taken)
    assert fork.status is Status.READY
    assert [(one.role, one.checkpoint, one.fork) for one in engine.wishes[-2:]] == [
        (BROWSER, taken.id, True),
        ("main", taken.id, True),
    ]
    await rig.checkpoints.delete(caller, taken.id)
    await rig.round()
    assert engine.checkpoints == {}


async def test_a_fork_without_its_browser_goes_on_from_the_code_alone(
    rig: Rig, caller: Caller, engine: Faulty, box: Sandbox
) -> None:
    taken = await take(rig, caller, box.id)
    fork = await rig.sandboxes.create(caller, NewSandbox(from_checkpoint=taken.id))
    await rig.round()
    assert (await now(rig, caller, fork)).status is Status.READY
    assert [one.role for one in engine.wishes if one.sandbox == fork.id] == ["main"]


async def test_a_fork_gets_a_browser_that_its_checkpoint_has_not(rig: Rig, caller: Caller, engine: Faulty) -> None:
    plain = await rig.sandboxes.create(caller, NewSandbox(ephemeral=False))
    await rig.round()
    fork = await forked(rig, caller, await take(rig, caller, plain.id))
    assert fork.status is Status.READY
    assert [(one.role, one.origin is None) for one in engine.wishes[-2:]] == [(BROWSER, True), ("main", False)]


@pytest.mark.parametrize("paused", [False, True], ids=["ready", "paused"])
async def test_both_go_back_to_it(rig: Rig, caller: Caller, engine: Faulty, box: Sandbox, paused: bool) -> None:
    taken = await take(rig, caller, box.id)
    if paused:
        await rig.pausing.pause(caller, box.id)
        await rig.round()
    await rig.checkpoints.restore(caller, taken.id)
    for _ in range(4):
        await rig.round()
    after = await now(rig, caller, box)
    assert (after.status, after.epoch, after.sides) == (Status.READY, 2, {BROWSER: 2})
    assert [(one.checkpoint, one.resume, one.fork) for one in engine.wishes[-2:]] == [(taken.id, None, False)] * 2
    assert (engine.keys(), engine.snapshots_of()) == (list(after.machines), [])


async def test_what_cannot_go_back_is_paused_with_what_both_had(
    rig: Rig, caller: Caller, engine: Faulty, box: Sandbox
) -> None:
    taken = await take(rig, caller, box.id)
    del engine.checkpoints[taken.id]
    await rig.checkpoints.restore(caller, taken.id)
    for _ in range(4):
        await rig.round()
    after = await now(rig, caller, box)
    assert (after.status, after.reason) == (Status.PAUSED, Reason.SNAPSHOT_UNFIT)
    assert (engine.keys(), engine.snapshots_of()) == ([], list(box.machines))
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    assert [one.resume for one in engine.wishes[-2:]] == [1, 1]


@pytest.mark.parametrize("error", [NotPaused("it does not stand still"), MachineGone("there is none")])
async def test_a_browser_that_cannot_be_kept_holds_up_no_checkpoint_and_that_is_said(
    rig: Rig, caller: Caller, engine: Faulty, box: Sandbox, error: Exception
) -> None:
    engine.fault = once("checkpoint", BROWSER, error)
    taken = await take(rig, caller, box.id, memory=True)
    assert (taken.keeps, taken.sides, taken.bytes) == ("memory", {}, 1 << 30)
    assert taken.lost == f"The browser could not be kept, and would begin anew: {error}"
    assert (await forked(rig, caller, taken)).status is Status.READY
    assert [(one.role, one.origin is None) for one in engine.wishes[-2:]] == [(BROWSER, True), ("main", False)]


async def test_where_the_code_cannot_be_kept_there_is_none_and_nothing_is_left_of_the_browser(
    rig: Rig, caller: Caller, engine: Faulty, box: Sandbox
) -> None:
    engine.fault = once("checkpoint", "main", NotPaused("full", full=True))
    with pytest.raises(NoSpace):
        await take(rig, caller, box.id)
    await rig.round()
    assert engine.checkpoints == {}
    assert (await now(rig, caller, box)).status is Status.READY


@pytest.mark.parametrize("error", [SnapshotUnfit("damaged"), PlacementFailed("its guest never answered")])
async def test_a_browser_that_cannot_go_on_from_it_begins_anew(
    rig: Rig, caller: Caller, engine: Faulty, box: Sandbox, error: Exception
) -> None:
    taken = await take(rig, caller, box.id)
    engine.fault = once("place", BROWSER, error)
    fork = await forked(rig, caller, taken)
    assert fork.status is Status.READY
    told = [one for one in await rig.sandboxes.timeline(fork.id, 0, 100) if one.type is EventType.BROWSER_FAILED]
    assert [one.data["reason"] for one in told] == ["It cannot go on from what was kept of it, and begins anew"]
    assert [(one.role, one.origin is None) for one in engine.wishes[-2:]] == [(BROWSER, True), ("main", False)]


@pytest.mark.parametrize("role", ["main", "browser"])
@pytest.mark.parametrize("call", ["checkpoint", "checkpointed"])
@pytest.mark.parametrize("error", [Killed(), NodeAway("the answer was lost")], ids=["killed", "lost"])
async def test_whoever_is_killed_while_it_is_taken_leaves_it_to_the_next(
    database: Database, clock: Clock, call: str, role: Role, error: Exception
) -> None:
    engine = Faulty(clock)
    rig = Rig(database, engine, clock)
    caller = await rig.caller("killed", "unlimited")
    made = await rig.sandboxes.create(caller, KEPT)
    await rig.round()
    engine.fault = once(call, role, error)
    waiting = asyncio.ensure_future(rig.checkpoints.take(caller, made.id, name=None, memory=False))
    async with asyncio.timeout(20):
        while not engine.checkpoints:
            await rig.round()
    waiting.cancel()
    after = Rig(database, engine, clock)
    for _ in range(2):
        await after.round()
    (taken,) = (await after.checkpoints.list(caller, made.id)).items
    assert (taken.sides, set(engine.checkpoints)) == ({BROWSER: 1}, {taken.id, f"{taken.id}-browser"})


async def test_a_machine_that_dies_leaves_the_files_of_both_as_last(
    rig: Rig, caller: Caller, engine: Faulty, box: Sandbox
) -> None:
    engine.die(box.id, DeathReason.OUT_OF_MEMORY, rig.clock())
    for _ in range(3):
        await rig.round()
    (last,) = (await rig.checkpoints.list(caller, box.id)).items
    assert (last.name, last.sides) == ("last", {BROWSER: 1})
    assert engine.keys() == []


async def test_it_is_in_the_store_when_both_are_and_a_node_that_lost_all_has_both_again(
    rig: Rig, caller: Caller, engine: Faulty, blobs: MemoryBlobs, box: Sandbox
) -> None:
    taken = await take(rig, caller, box.id)
    kept = engine.checkpoints.pop(f"{taken.id}-browser")
    await rounds(rig)
    assert (await rig.checkpoints.get(caller, taken.id)).stored_at is None
    engine.checkpoints[kept.name] = kept
    rig.clock.at += 60_000
    await rounds(rig)
    assert (await rig.checkpoints.get(caller, taken.id)).stored_at is not None
    await rig.sandboxes.end(caller, box.id)
    await rounds(rig)
    engine.lose_everything()
    await rig.fleet.refresh()
    assert (await forked(rig, caller, taken)).status is Status.READY
    assert [one.checkpoint for one in engine.wishes[-2:]] == [taken.id, taken.id]
    await rig.checkpoints.delete(caller, taken.id)
    await rounds(rig)
    assert sorted(blobs.held) == BASES


async def test_what_is_paused_is_in_the_store_when_both_are_and_goes_on_from_there(
    rig: Rig, caller: Caller, engine: Faulty, blobs: MemoryBlobs, box: Sandbox
) -> None:
    engine.die(box.id, DeathReason.EXITED, rig.clock(), BROWSER)
    for _ in range(2):
        await rig.round()
    await rig.pausing.pause(caller, box.id)
    await rig.round()
    kept = engine.kept.pop((box.id, 2, BROWSER))
    await rounds(rig)
    assert not (await now(rig, caller, box)).kept_in_store
    engine.kept[box.id, 2, BROWSER] = kept
    rig.clock.at += 60_000
    await rounds(rig)
    assert (await now(rig, caller, box)).kept_in_store
    engine.lose_everything()
    await rig.fleet.refresh()
    await rig.pausing.resume(caller, box.id)
    await rounds(rig)
    assert (await now(rig, caller, box)).status is Status.READY
    assert [one.resume for one in engine.wishes[-2:]] == [2, 1]
    assert engine.keys() == [Key(box.id, 2), Key(box.id, 3, BROWSER)]
    assert sorted(blobs.held) == BASES


async def test_a_copy_of_a_browser_that_is_damaged_costs_the_browser_alone(
    rig: Rig, caller: Caller, engine: Faulty, blobs: MemoryBlobs, box: Sandbox
) -> None:
    taken = await take(rig, caller, box.id)
    await rounds(rig)
    key = f"{caller.organisation}/snapshots/{taken.id}-browser"
    blobs.held[key] = (b"x" + blobs.held[key][0], 0)
    engine.lose_everything()
    await rig.fleet.refresh()
    assert (await forked(rig, caller, taken)).status is Status.READY
    assert [(one.role, one.origin is None) for one in engine.wishes[-2:]] == [(BROWSER, True), ("main", False)]


async def test_of_two_copies_that_are_whole_at_the_same_moment_one_notes_that_both_are(
    rig: Rig, caller: Caller, database: Database, box: Sandbox
) -> None:
    for _ in range(10):
        taken = await take(rig, caller, box.id)
        async with database.writing() as connection:
            owed = [of for of, _ in await copies.owed(connection, 50) if of.checkpoint == taken.id]
            for of in owed:
                await copies.begin(connection, of, await rig.engine.bases_of(box.node or "", of.name), 1)

        async def note(of: Copied) -> bool:
            async with database.writing() as connection:
                return await copies.stored(connection, of, 1, 2)

        assert await asyncio.gather(*map(note, owed)) == [True, True]
        assert (await rig.checkpoints.get(caller, taken.id)).stored_at == 2
