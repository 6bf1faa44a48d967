"""Checkpoints and forks over either database and a node in memory: in every order, and after lost answers."""

import asyncio
import dataclasses
from typing import Any

import pytest

from boxkeep_server.control.keys import Caller
from boxkeep_server.control.reconcile.release import last_of
from boxkeep_server.engine.interface import NotPaused
from boxkeep_server.model.checkpoints import Checkpoint, CheckpointNotFound
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.errors import Conflict, Invalid, LimitReached, NoSpace, NotReady, Unavailable
from boxkeep_server.model.events import EventType
from boxkeep_server.model.ids import ids_after, is_id, new_id
from boxkeep_server.model.node_api import DeathReason
from boxkeep_server.model.sandboxes import NewSandbox, Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import checkpoints as rows_of_checkpoints
from boxkeep_server.store.commands import CommandRows
from boxkeep_server.store.database import Database
from tests.controls import Rig, command_in
from tests.engines import AnswersLost, Clock

KEPT = NewSandbox(ephemeral=False, isolation="runsc", runtime="python")


async def ready(rig: Rig, caller: Caller, wish: NewSandbox = KEPT) -> Sandbox:
    made = await rig.sandboxes.create(caller, wish)
    for _ in range(6):
        await rig.round()
    found = await rig.sandboxes.get(caller, made.id)
    assert found.status is Status.READY
    return found


async def with_rounds(rig: Rig, work: Any) -> Any:
    """What a call answers that waits for reconcilers."""
    task = asyncio.ensure_future(work)
    async with asyncio.timeout(20):
        while not task.done():
            await rig.round()
            await asyncio.sleep(0.01)
    return await task


async def take(rig: Rig, caller: Caller, sandbox: str, **fields: Any) -> Checkpoint:
    taken = await with_rounds(rig, rig.checkpoints.take(caller, sandbox, **{"name": None, "memory": False, **fields}))
    assert isinstance(taken, Checkpoint)
    return taken


async def kinds(rig: Rig, sandbox: str) -> list[EventType]:
    return [event.type for event in await rig.sandboxes.timeline(sandbox, 0, 100)]


async def test_a_checkpoint_is_there_when_it_is_answered_and_told_of(rig: Rig) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    effect = new_id()
    taken = await take(rig, caller, box.id, name="first", memory=True, checkpoint_id=effect)
    assert (taken.id, taken.name, taken.keeps, taken.runtime, taken.isolation) == (
        effect,
        "first",
        "memory",
        "python",
        "runsc",
    )
    assert (await take(rig, caller, box.id, checkpoint_id=effect)) == taken
    assert (await rig.checkpoints.list(caller, box.id)).items == [taken]
    assert (await kinds(rig, box.id)).count(EventType.CHECKPOINT_CREATED) == 1


@pytest.mark.parametrize(
    ("wish", "may"),
    [
        (NewSandbox(), False),
        (NewSandbox(ephemeral=False), True),
        (NewSandbox(capabilities={"storage": {"workspace": "checkpointed"}}), True),
        (NewSandbox(capabilities={"storage": {"workspace": "ephemeral"}}), False),
    ],
    ids=["ephemeral", "not ephemeral", "checkpointed", "asked for none"],
)
async def test_only_who_asked_for_checkpoints_has_them(rig: Rig, wish: NewSandbox, may: bool) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller, wish)
    if may:
        assert (await take(rig, caller, box.id)).keeps == "files"
    else:
        with pytest.raises(Conflict, match="no checkpoints"):
            await take(rig, caller, box.id)


async def test_what_is_not_ready_or_ended_has_none_taken(rig: Rig) -> None:
    caller = await rig.caller()
    box = await rig.sandboxes.create(caller, KEPT)
    with pytest.raises(NotReady):  # without rounds beside it, which might have it ready before it is looked at
        await rig.checkpoints.take(caller, box.id, name=None, memory=False)


async def test_a_node_without_room_says_so_and_nothing_is_left(rig: Rig) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    rig.engine.pause_fails = NotPaused("full", full=True)
    with pytest.raises(NoSpace):
        await take(rig, caller, box.id)
    assert (await rig.checkpoints.list(caller, None)).items == []
    assert (await rig.sandboxes.get(caller, box.id)).status is Status.READY


async def test_who_waits_is_told_when_the_store_takes_no_outcome_and_finds_it_afterwards(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: object) -> bool:
        raise Unavailable("The store is away")

    caller = await rig.caller()
    box = await ready(rig, caller)
    effect = new_id()
    with monkeypatch.context() as full:
        full.setattr(rows_of_checkpoints, "taken", refuses)
        with pytest.raises(Unavailable, match="may come about yet"):
            await take(rig, caller, box.id, checkpoint_id=effect)
    assert (await take(rig, caller, box.id, checkpoint_id=effect)).id == effect
    assert list(rig.engine.checkpoints) == [effect]
    assert not rig.take.unwritten


async def test_it_comes_about_after_lost_answers_and_by_the_process_after(database: Database, clock: Clock) -> None:
    rig = Rig(database, AnswersLost(clock), clock)
    caller = await rig.caller()
    box = await ready(rig, caller)
    effect = new_id()
    waiting = asyncio.ensure_future(rig.checkpoints.take(caller, box.id, name=None, memory=False, checkpoint_id=effect))
    await asyncio.sleep(0.05)
    waiting.cancel()
    after = Rig(database, rig.engine, clock)
    taken = await take(after, caller, box.id, checkpoint_id=effect)
    assert taken.id == effect
    assert list(rig.engine.checkpoints) == [effect]
    assert (await kinds(after, box.id)).count(EventType.CHECKPOINT_CREATED) == 1


async def test_forks_are_made_all_or_none_and_the_same_when_asked_again(rig: Rig) -> None:
    caller = await rig.caller("three", "builder")
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id)
    wish = NewSandbox(from_checkpoint=taken.id, env={"A": "1"})
    with pytest.raises(LimitReached, match="Concurrent"):
        await rig.sandboxes.create_all(caller, wish, ids_after(new_id(), 3))
    assert len((await rig.sandboxes.list(caller)).items) == 1
    ids = ids_after(new_id(), 2)
    made = await rig.sandboxes.create_all(caller, wish, ids)
    assert [one.id for one in made] == ids
    assert [one.id for one in await rig.sandboxes.create_all(caller, wish, ids)] == ids
    await rig.round()
    for one in made:
        now = await rig.sandboxes.get(caller, one.id)
        assert (now.status, now.runtime, now.isolation, now.from_checkpoint, now.origin) == (
            Status.READY,
            "python",
            "runsc",
            taken.id,
            None,
        )
    wishes = [wish for wish in rig.engine.wishes if wish.checkpoint == taken.id]
    assert [(wish.fork, wish.resume, wish.env) for wish in wishes] == [(True, None, {"A": "1"})] * 2


async def test_a_fork_is_of_the_runtime_and_isolation_of_its_checkpoint_and_of_ones_own(rig: Rig) -> None:
    caller, other = await rig.caller(), await rig.caller("two")
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id)
    for wish in (NewSandbox(runtime="bun"), NewSandbox(isolation="runc")):
        with pytest.raises(Invalid, match="the checkpoint is of"):
            await rig.sandboxes.create(caller, dataclasses.replace(wish, from_checkpoint=taken.id))
    for wrong in (taken.id, "nobody", new_id()):
        with pytest.raises(CheckpointNotFound):
            await rig.sandboxes.create(other, NewSandbox(from_checkpoint=wrong))
        with pytest.raises(CheckpointNotFound):
            await rig.checkpoints.delete(other, wrong)
        with pytest.raises(CheckpointNotFound):
            await rig.checkpoints.restore(other, wrong)
    assert (await rig.checkpoints.list(other, None)).items == []


async def test_one_that_a_sandbox_is_started_from_is_not_deleted_and_then_it_is_gone(rig: Rig) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id)
    await rig.sandboxes.create(caller, NewSandbox(from_checkpoint=taken.id))
    with pytest.raises(Conflict, match="in use"):
        await rig.checkpoints.delete(caller, taken.id)
    await rig.round()
    await rig.checkpoints.delete(caller, taken.id)
    with pytest.raises(CheckpointNotFound):
        await rig.checkpoints.delete(caller, taken.id)
    await rig.round()
    assert rig.engine.checkpoints == {}
    assert (await kinds(rig, box.id))[-1] is EventType.CHECKPOINT_DELETED


async def test_they_outlive_their_sandbox_and_count_as_stored(rig: Rig) -> None:
    caller = await rig.caller("free", "free")
    box = await ready(rig, caller)
    for _ in range(5):
        await take(rig, caller, box.id)
    with pytest.raises(LimitReached, match="Storage"):
        await take(rig, caller, box.id)
    await rig.sandboxes.end(caller, box.id)
    await rig.round()
    await rig.round()
    assert len((await rig.checkpoints.list(caller, box.id)).items) == 5
    assert len(rig.engine.checkpoints) == 5


@pytest.mark.parametrize("paused", [False, True], ids=["ready", "paused"])
async def test_a_sandbox_goes_back_and_what_it_was_is_kept_until_then(rig: Rig, paused: bool) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id)
    if paused:
        await rig.pausing.pause(caller, box.id)
        await rig.round()
    await rig.checkpoints.restore(caller, taken.id)
    seen = set()
    for _ in range(6):
        await rig.pause.run_once()
        await rig.pause.crowd.settled()
        seen.add((await rig.sandboxes.get(caller, box.id)).kept_epoch)
        await rig.round()
    assert 1 in seen
    now = await rig.sandboxes.get(caller, box.id)
    assert (now.status, now.origin, now.kept_epoch, now.epoch) == (Status.READY, None, None, 2)
    wish = rig.engine.wishes[-1]
    assert (wish.checkpoint, wish.fork, wish.resume, wish.epoch) == (taken.id, False, None, 2)
    await rig.round()
    assert rig.engine.kept == {}
    assert EventType.CHECKPOINT_RESTORED in await kinds(rig, box.id)


@pytest.mark.parametrize("paused", [False, True], ids=["ready", "paused"])
async def test_without_memory_it_goes_back_to_the_files_and_all_commands_are_rolled_back(
    rig: Rig, database: Database, paused: bool
) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    rows = CommandRows(database)
    command = command_in(box)
    await rows.write([command], [])
    taken = await take(rig, caller, box.id, memory=True)
    if paused:
        await rig.pausing.pause(caller, box.id)
        await rig.round()
    await rig.checkpoints.restore(caller, taken.id, memory=False)
    with pytest.raises(Conflict, match="without its memory"):
        await rig.checkpoints.restore(caller, taken.id)
    for _ in range(6):
        await rig.round()
    now, wish = await rig.sandboxes.get(caller, box.id), rig.engine.wishes[-1]
    assert (now.status, now.files_only, wish.checkpoint, wish.memory) == (Status.READY, False, taken.id, False)
    row = await rows.get(command.id)
    assert row is not None
    assert row.outcome is Outcome.ROLLED_BACK


async def test_forks_begin_with_the_memory_or_without_as_is_wished(rig: Rig) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id, memory=True)
    for memory in (True, False):
        fork = await ready(rig, caller, NewSandbox(from_checkpoint=taken.id, memory=memory))
        wish = rig.engine.wishes[-1]
        assert (wish.sandbox, wish.checkpoint, wish.fork, wish.memory) == (fork.id, taken.id, True, memory)
        assert not fork.files_only


async def test_a_sandbox_that_cannot_go_back_is_paused_with_all_it_had(rig: Rig) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id)
    rig.engine.checkpoints.clear()
    await rig.checkpoints.restore(caller, taken.id)
    for _ in range(3):
        await rig.round()
    now = await rig.sandboxes.get(caller, box.id)
    assert (now.status, now.reason, now.kept_epoch, now.origin) == (Status.PAUSED, Reason.SNAPSHOT_UNFIT, 1, None)
    await rig.pausing.resume(caller, box.id)
    for _ in range(3):
        await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).status is Status.READY
    assert rig.engine.wishes[-1].resume == 1


async def test_what_has_ended_cannot_go_back(rig: Rig) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    taken = await take(rig, caller, box.id)
    await rig.sandboxes.end(caller, box.id)
    with pytest.raises(Conflict, match="has ended"):
        await rig.checkpoints.restore(caller, taken.id)


@pytest.mark.parametrize("ephemeral", [False, True])
async def test_a_machine_that_dies_leaves_its_files_as_last_where_that_was_asked_for(
    rig: Rig, clock: Clock, ephemeral: bool
) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller, NewSandbox(ephemeral=ephemeral))
    rig.engine.die(box.id, DeathReason.OUT_OF_MEMORY, clock())
    for _ in range(3):
        await rig.round()
    found = (await rig.checkpoints.list(caller, box.id)).items
    assert [(one.name, one.id) for one in found] == ([] if ephemeral else [("last", last_of(box))])
    assert rig.engine.machines == {}


def test_ids_that_follow_are_ids_and_differ() -> None:
    ids = ids_after(new_id(), 100)
    assert len(set(ids)) == 100
    assert all(is_id(one) for one in ids)
