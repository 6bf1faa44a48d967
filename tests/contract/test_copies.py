"""Copies of snapshots over either database: made, used by a node that lost all, and never left over."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable

import pytest

from boxkeep_server.blobs.interface import Written
from boxkeep_server.control.keys import Caller
from boxkeep_server.model.copies import base_blob
from boxkeep_server.model.errors import TimedOut
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import NewSandbox, Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import copies
from boxkeep_server.store.database import Database
from tests.blob_stores import MemoryBlobs
from tests.contract.test_checkpoints import KEPT, ready, take
from tests.controls import Rig
from tests.engines import BASES as HELD
from tests.engines import Clock, MemoryEngine

BASES = sorted(base_blob(kind, digest) for kind, digest in HELD)


@pytest.fixture
def blobs(clock: Clock) -> MemoryBlobs:
    return MemoryBlobs(clock)


@pytest.fixture
def rig(database: Database, clock: Clock, blobs: MemoryBlobs) -> Rig:
    return Rig(database, MemoryEngine(clock), clock, blobs=blobs)


async def rounds(rig: Rig) -> None:
    """Every reconciler until nothing more happens."""
    for _ in range(4):
        await rig.round()
        await rig.upload.run_once()
        await rig.upload.crowd.settled()
        await rig.upload.tidy()


async def paused(rig: Rig, caller: Caller, wish: NewSandbox = KEPT) -> Sandbox:
    box = await ready(rig, caller, wish)
    await rig.pausing.pause(caller, box.id)
    await rig.round()
    return await rig.sandboxes.get(caller, box.id)


async def now(rig: Rig, caller: Caller, box: Sandbox) -> Sandbox:
    return await rig.sandboxes.get(caller, box.id)


async def test_what_is_paused_is_copied_and_the_copy_goes_with_it(rig: Rig, blobs: MemoryBlobs) -> None:
    caller = await rig.caller()
    box = await paused(rig, caller)
    assert not box.kept_in_store
    await rounds(rig)
    assert (await now(rig, caller, box)).kept_in_store
    assert sorted(blobs.held) == sorted([*BASES, f"{caller.organisation}/snapshots/{box.id}-{box.kept_epoch}-main"])
    assert await rig.upload.run_once() == 0
    await rig.pausing.resume(caller, box.id)
    await rounds(rig)
    assert (await now(rig, caller, box)).status is Status.READY
    assert sorted(blobs.held) == BASES
    await rig.pausing.pause(caller, box.id)
    await rig.round()
    assert not (await now(rig, caller, box)).kept_in_store
    await rounds(rig)
    again = await now(rig, caller, box)
    assert again.kept_in_store
    assert again.kept_epoch == (box.kept_epoch or 0) + 1
    await rig.sandboxes.end(caller, box.id)
    await rounds(rig)
    assert sorted(blobs.held) == BASES


async def test_checkpoints_are_copied_and_outlive_their_sandbox(rig: Rig, blobs: MemoryBlobs) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id)
    assert taken.stored_at is None
    await rounds(rig)
    assert (await rig.checkpoints.get(caller, taken.id)).stored_at is not None
    await rig.sandboxes.end(caller, box.id)
    await rounds(rig)
    assert f"{caller.organisation}/snapshots/{taken.id}" in blobs.held
    await rig.checkpoints.delete(caller, taken.id)
    await rounds(rig)
    assert sorted(blobs.held) == BASES


async def test_a_node_that_lost_all_goes_on_from_the_store(rig: Rig, blobs: MemoryBlobs) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id)
    await rig.pausing.pause(caller, box.id)
    await rounds(rig)
    rig.engine.lose_everything()
    await rig.fleet.refresh()
    await rig.pausing.resume(caller, box.id)
    forks = await rig.sandboxes.create_all(caller, NewSandbox(from_checkpoint=taken.id), [new_id() for _ in range(20)])
    await rounds(rig)
    assert (await now(rig, caller, box)).status is Status.READY
    for fork in forks:
        assert (await now(rig, caller, fork)).status is Status.READY
    assert rig.engine.bases == HELD


async def test_without_a_copy_or_with_a_damaged_one_it_is_paused_again(rig: Rig, blobs: MemoryBlobs) -> None:
    caller = await rig.caller()
    never, damaged, lost = [await paused(rig, caller) for _ in range(3)]
    kept = rig.engine.kept.pop((never.id, never.epoch))
    await rounds(rig)
    assert not (await now(rig, caller, never)).kept_in_store
    keys = {box.id: f"{caller.organisation}/snapshots/{box.id}-{box.kept_epoch}-main" for box in (damaged, lost)}
    blobs.held[keys[damaged.id]] = (b"x" + blobs.held[keys[damaged.id]][0], 0)
    del blobs.held[keys[lost.id]]
    rig.engine.lose_everything()
    for box in (never, damaged, lost):
        await rig.pausing.resume(caller, box.id)
    await rounds(rig)
    for box in (never, damaged, lost):
        after = await now(rig, caller, box)
        assert (after.status, after.reason) == (Status.PAUSED, Reason.SNAPSHOT_UNFIT)
    rig.engine.kept[never.id, never.epoch] = kept
    await rig.pausing.resume(caller, never.id)
    await rounds(rig)
    assert (await now(rig, caller, never)).status is Status.READY


async def test_while_the_store_is_away_all_else_goes_on_and_what_is_owed_is_not_forgotten(
    rig: Rig, blobs: MemoryBlobs, clock: Clock
) -> None:
    caller = await rig.caller()
    box = await paused(rig, caller)
    blobs.away = True
    for _ in range(3):
        await rig.upload.run_once()
        await rig.upload.crowd.settled()
    assert not (await now(rig, caller, box)).kept_in_store
    blobs.away = False
    assert await rig.upload.run_once() == 0
    clock.at += 6_000
    await rounds(rig)
    assert (await now(rig, caller, box)).kept_in_store
    blobs.away = True
    rig.engine.lose_everything()
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    assert (await now(rig, caller, box)).status is Status.ASSIGNING
    blobs.away = False
    await rig.round()
    await rig.round()
    assert (await now(rig, caller, box)).status is Status.READY
    await rig.pausing.pause(caller, box.id)
    await rounds(rig)
    blobs.away = True
    rig.engine.lose_everything()
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    clock.at += 61_000
    await rig.round()
    after = await now(rig, caller, box)
    assert (after.status, after.reason) == (Status.PAUSED, Reason.STORE_AWAY)


class LosesAnswers(MemoryBlobs):
    """Every second put and delete is done, and says that it timed out."""

    turn = 0

    def _lose(self) -> None:
        self.turn += 1
        if self.turn % 2:
            raise TimedOut("The store of files is slow")

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], *, sha256: str | None = None, absent: bool = False
    ) -> Written:
        written = await super().put(key, chunks, sha256=sha256, absent=absent)
        self._lose()
        return written

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self._lose()


async def test_lost_answers_of_the_store_leave_neither_gaps_nor_rests(database: Database, clock: Clock) -> None:
    blobs = LosesAnswers(clock)
    rig = Rig(database, MemoryEngine(clock), clock, blobs=blobs)
    caller = await rig.caller()
    boxes = [await paused(rig, caller) for _ in range(3)]
    for _ in range(6):
        await rig.upload.run_once()
        await rig.upload.crowd.settled()
        clock.at += 1_000_000
    for box in boxes:
        assert (await now(rig, caller, box)).kept_in_store
        await rig.sandboxes.end(caller, box.id)
    for _ in range(6):
        await rig.round()
        try:
            await rig.upload.tidy()
        except TimedOut:
            continue
    assert sorted(blobs.held) == BASES


class Slow(MemoryEngine):
    """Copies come only when the test lets them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked, self.let = asyncio.Event(), asyncio.Event()

    async def copy(self, node: str, snapshot: str, key: bytes) -> AsyncGenerator[bytes, None]:
        async for chunk in super().copy(node, snapshot, key):
            yield chunk
        self.asked.set()
        await self.let.wait()


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_resumed_while_it_is_copied_leaves_nothing_in_the_store(
    database: Database, clock: Clock, blobs: MemoryBlobs, killed: bool
) -> None:
    engine = Slow(clock)
    rig = Rig(database, engine, clock, blobs=blobs)
    caller = await rig.caller()
    box = await paused(rig, caller)
    await rig.upload.run_once()
    await engine.asked.wait()
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    assert (await now(rig, caller, box)).status is Status.READY
    assert await rig.upload.tidy() == 0, "what is under way is not removed under it"
    engine.let.set()
    await rig.upload.crowd.settled()
    if killed:
        rig = Rig(database, engine, clock, blobs=blobs)
    assert await rig.upload.tidy() == 1
    assert sorted(blobs.held) == BASES
    async with database.reading() as connection:
        assert not await copies.unwanted(connection, 10)


async def test_copies_are_keyed_by_organisation_and_snapshot(rig: Rig, blobs: MemoryBlobs) -> None:
    one, two = await rig.caller("one"), await rig.caller("two")
    boxes = [await paused(rig, caller) for caller in (one, one, two)]
    await rounds(rig)
    keys = {content[:32] for key, (content, _) in blobs.held.items() if "/snapshots/" in key}
    assert len(keys) == 3
    first, second = (f"{one.organisation}/snapshots/{box.id}-{box.kept_epoch}-main" for box in boxes[:2])
    blobs.held[first], blobs.held[second] = blobs.held[second], blobs.held[first]
    rig.engine.lose_everything()
    await rig.pausing.resume(one, boxes[0].id)
    await rounds(rig)
    assert (await now(rig, one, boxes[0])).reason == Reason.SNAPSHOT_UNFIT


async def test_a_copy_that_nobody_knows_of_is_no_copy(rig: Rig) -> None:
    assert await rig.copies.bring(new_id(), rig.engine.node_id) is False
