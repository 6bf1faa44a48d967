"""Pausing and resuming over a real store and a fake engine."""

import asyncio
from typing import Any

import pytest

from boxkeep_server.control.keys import Caller
from boxkeep_server.engine.interface import NotPaused
from boxkeep_server.model.commands import Command, Outcome
from boxkeep_server.model.errors import Conflict, LimitReached, NotReady, SandboxNotFound
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import ClaimState, DeathReason
from boxkeep_server.model.plans import GIB, HOUR_MS, Plan
from boxkeep_server.model.sandboxes import Lifecycle, NewSandbox, Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import events, organisations, running
from boxkeep_server.store.commands import CommandRows
from boxkeep_server.store.database import Database
from tests.controls import Rig, command_in
from tests.engines import AnswersLost, Clock, MemoryEngine, NeverStarts


async def ready(rig: Rig, caller: Caller, **wish: Any) -> Sandbox:
    made = await rig.sandboxes.create(caller, NewSandbox(**{"isolation": "runsc", **wish}))
    await rig.round()
    return await rig.sandboxes.get(caller, made.id)


async def paused(rig: Rig, caller: Caller, **wish: Any) -> Sandbox:
    made = await ready(rig, caller, **wish)
    await rig.pausing.pause(caller, made.id)
    await rig.round()
    return await rig.sandboxes.get(caller, made.id)


async def on_a_plan(rig: Rig, database: Database, **limits: Any) -> Caller:
    given = {"concurrent": None, "month_ms": None, "stored_bytes": None, "paused": None, **limits}
    async with database.writing() as connection:
        await organisations.put_plan(connection, Plan("small", None, features=frozenset(), **given))
    return await rig.caller("small", "small")


async def paused_in_the_middle(rig: Rig, caller: Caller, rows: CommandRows, **wish: Any) -> tuple[Sandbox, Command]:
    """A sandbox that was paused, and the command that ran in it."""
    box = await ready(rig, caller, **wish)
    command = command_in(box)
    await rows.write([command], [])
    await rig.pausing.pause(caller, box.id)
    await rig.round()
    return box, command


async def outcome_of(rows: CommandRows, command: Command) -> Outcome | None:
    found = await rows.get(command.id)
    assert found is not None
    return found.outcome


async def test_a_sandbox_is_paused_and_goes_on_from_what_was_kept(rig: Rig, database: Database) -> None:
    caller = await rig.caller()
    box = await paused(rig, caller)
    assert (box.status, box.kept_epoch, box.pause_keeps, box.reason) == (Status.PAUSED, 1, "memory", "user_request")
    assert rig.engine.machines == {}
    assert (await rig.pausing.resume(caller, box.id)).status is Status.QUEUED
    await rig.round()
    back = await rig.sandboxes.get(caller, box.id)
    assert (back.status, back.epoch, back.kept_epoch, back.reason) == (Status.READY, 2, None, None)
    assert (rig.engine.wishes[-1].resume, rig.engine.wishes[-1].isolation) == (1, "runsc")
    assert rig.engine.kept == {}
    async with database.reading() as connection:
        told = [event.type.rpartition(".")[2] for event in await events.after(connection, box.id, 0)]
    assert told == ["created", "assigned", "ready", "pausing", "paused", "resumed", "assigned", "ready"]


async def test_ten_pauses_and_resumes_keep_one_snapshot_at_most(rig: Rig) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    for lives in range(1, 11):
        await rig.pausing.pause(caller, box.id)
        await rig.round()
        assert set(rig.engine.kept) == {(box.id, lives)}
        await rig.pausing.resume(caller, box.id)
        await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).epoch == 11
    assert rig.engine.kept == {}


async def test_pausing_and_resuming_again_changes_nothing(rig: Rig) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    first = await rig.pausing.pause(caller, box.id)
    assert await rig.pausing.pause(caller, box.id) == first
    with pytest.raises(Conflict, match="being paused"):
        await rig.pausing.resume(caller, box.id)
    await rig.round()
    resumed = await rig.pausing.resume(caller, box.id)
    assert await rig.pausing.resume(caller, box.id) == resumed


async def test_what_is_not_ready_or_not_ones_own_is_not_paused(rig: Rig) -> None:
    caller, other = await rig.caller(), await rig.caller("two")
    made = await rig.sandboxes.create(caller, NewSandbox())
    with pytest.raises(NotReady):
        await rig.pausing.pause(caller, made.id)
    for call in (rig.pausing.pause, rig.pausing.resume):
        with pytest.raises(SandboxNotFound):
            await call(other, made.id)
    await rig.sandboxes.end(caller, made.id)
    with pytest.raises(Conflict, match="has ended"):
        await rig.pausing.resume(caller, made.id)


async def test_a_paused_sandbox_counts_to_neither_hours_nor_concurrency(
    rig: Rig, database: Database, clock: Clock
) -> None:
    caller = await on_a_plan(rig, database, concurrent=1, month_ms=HOUR_MS)
    box = await ready(rig, caller)
    clock.at += 10_000
    await rig.pausing.pause(caller, box.id)
    clock.at += 5_000_000
    await rig.round()
    async with database.reading() as connection:
        assert await running.used(connection, caller.organisation, clock()) == 10_000
    second = await ready(rig, caller)
    assert second.status is Status.READY
    with pytest.raises(LimitReached, match="Concurrent"):
        await rig.pausing.resume(caller, box.id)
    await rig.sandboxes.end(caller, second.id)
    await rig.pausing.resume(caller, box.id)


async def test_many_resumes_at_once_keep_the_limit(rig: Rig, database: Database) -> None:
    caller = await on_a_plan(rig, database, concurrent=3)
    boxes = [await paused(rig, caller) for _ in range(8)]
    tries = [rig.pausing.resume(caller, box.id) for box in boxes]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(answer, Sandbox) for answer in answers) == 3
    assert sum(isinstance(answer, LimitReached) for answer in answers) == 5


@pytest.mark.parametrize("limits", [{"paused": 2}, {"stored_bytes": 2 * GIB}])
async def test_what_is_kept_has_its_limits(rig: Rig, database: Database, limits: dict[str, int]) -> None:
    caller = await on_a_plan(rig, database, **limits)
    boxes = [await paused(rig, caller) for _ in range(2)]
    third = await ready(rig, caller)
    with pytest.raises(LimitReached, match="Storage limit reached"):
        await rig.pausing.pause(caller, third.id)
    await rig.sandboxes.end(caller, boxes[0].id)
    assert (await rig.pausing.pause(caller, third.id)).status is Status.PAUSING


async def test_a_pause_by_hand_keeps_what_remains_of_the_time(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller, max_duration_ms=60_000)
    clock.at += 20_000
    await rig.pausing.pause(caller, box.id)
    await rig.round()
    clock.at += 1_000_000
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    back = await rig.sandboxes.get(caller, box.id)
    assert back.expires_at == clock() + 40_000
    clock.at += 40_000
    await rig.round()
    over = await rig.sandboxes.get(caller, box.id)
    assert (over.status, over.reason) == (Status.ENDED, Reason.MAX_DURATION)


async def test_a_longer_time_may_be_given_while_it_is_paused(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    box = await paused(rig, caller, max_duration_ms=60_000)
    await rig.sandboxes.patch(caller, box.id, max_duration_ms=90_000)
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).expires_at == clock() + 90_000


async def test_at_the_end_of_its_time_a_sandbox_is_paused_where_that_is_wished(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller, max_duration_ms=60_000, lifecycle=Lifecycle(on_expiry="pause"))
    clock.at += 60_000
    await rig.round()
    kept = await rig.sandboxes.get(caller, box.id)
    assert (kept.status, kept.reason) == (Status.PAUSED, Reason.MAX_DURATION)
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).expires_at == clock() + 60_000


async def test_what_may_not_be_kept_ends_at_the_end_of_its_time(rig: Rig, database: Database, clock: Clock) -> None:
    caller = await on_a_plan(rig, database, paused=0)
    box = await ready(rig, caller, max_duration_ms=60_000, lifecycle=Lifecycle(on_expiry="pause"))
    clock.at += 60_000
    await rig.round()
    over = await rig.sandboxes.get(caller, box.id)
    assert (over.status, over.reason) == (Status.ENDED, Reason.MAX_DURATION)


async def test_hours_used_up_pause_what_runs_where_the_operator_wants_that(database: Database, clock: Clock) -> None:
    rig = Rig(database, MemoryEngine(clock), clock, at_hours_limit="pause")
    caller = await on_a_plan(rig, database, month_ms=10_000)
    box = await ready(rig, caller)
    clock.at += 10_000
    await rig.round()
    kept = await rig.sandboxes.get(caller, box.id)
    assert (kept.status, kept.reason) == (Status.PAUSED, Reason.HOURS_LIMIT)
    with pytest.raises(LimitReached, match="hours"):
        await rig.pausing.resume(caller, box.id)


async def test_an_idle_sandbox_is_paused_and_a_busy_one_is_not(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    wish = {"lifecycle": Lifecycle(idle_pause_ms=5_000)}
    box, busy, used = [await ready(rig, caller, **wish) for _ in range(3)]
    without = await ready(rig, caller)
    rig.busy.add(busy.id)
    clock.at += 4_999
    await rig.round()
    rig.used[used.id] = clock()
    clock.at += 1
    await rig.round()
    states = {one.id: (await rig.sandboxes.get(caller, one.id)).status for one in (box, busy, used, without)}
    assert states == {box.id: "paused", busy.id: "ready", used.id: "ready", without.id: "ready"}
    assert (await rig.sandboxes.get(caller, box.id)).reason == Reason.IDLE
    rig.busy.clear()
    clock.at += 4_999
    await rig.round()
    assert (await rig.sandboxes.get(caller, used.id)).status is Status.PAUSED
    assert (await rig.sandboxes.get(caller, busy.id)).status is Status.READY
    clock.at += 1
    await rig.round()
    assert (await rig.sandboxes.get(caller, busy.id)).status is Status.PAUSED


async def test_one_that_is_found_busy_after_all_goes_on_and_is_asked_again_later(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller, lifecycle=Lifecycle(idle_pause_ms=5_000))
    rig.engine.pause_fails = NotPaused("something runs", busy=True)
    clock.at += 5_000
    await rig.round()
    on = await rig.sandboxes.get(caller, box.id)
    assert (on.status, on.reason, on.expires_at) == (Status.READY, None, box.expires_at)
    rig.engine.pause_fails = None
    clock.at += 4_999
    await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).status is Status.READY
    clock.at += 1
    await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).status is Status.PAUSED


@pytest.mark.parametrize(
    ("error", "reason"), [(NotPaused("full", full=True), "no_space"), (NotPaused("odd"), "pause_failed")]
)
async def test_what_cannot_be_kept_runs_on_and_says_why(rig: Rig, clock: Clock, error: NotPaused, reason: str) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller, max_duration_ms=60_000)
    rig.engine.pause_fails = error
    clock.at += 10_000
    on = await rig.pausing.pause(caller, box.id)
    await rig.round()
    on = await rig.sandboxes.get(caller, box.id)
    assert (on.status, on.reason, on.expires_at, on.epoch) == (Status.READY, reason, box.expires_at, 1)
    clock.at += 50_000
    await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).billed_ms == 60_000


async def test_a_machine_that_died_before_it_was_kept_fails_its_sandbox(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    await rig.pausing.pause(caller, box.id)
    rig.engine.die(box.id, DeathReason.OUT_OF_MEMORY, clock())
    await rig.pause.run_once()
    await rig.pause.crowd.settled()
    dead = await rig.sandboxes.get(caller, box.id)
    assert (dead.status, dead.reason) == (Status.FAILED, Reason.OUT_OF_MEMORY)


async def test_commands_that_a_pause_of_files_cut_off_have_that_outcome(rig: Rig, database: Database) -> None:
    caller = await rig.caller()
    rows = CommandRows(database)
    box, command = await paused_in_the_middle(rig, caller, rows, isolation="runc")
    assert await outcome_of(rows, command) is Outcome.LOST_ON_FILES_PAUSE
    assert (await rig.sandboxes.get(caller, box.id)).pause_keeps == "files"


async def test_commands_go_on_through_a_pause_that_keeps_memory(rig: Rig, database: Database) -> None:
    caller = await rig.caller()
    rows = CommandRows(database)
    box, command = await paused_in_the_middle(rig, caller, rows)
    assert await outcome_of(rows, command) is None
    await rig.sandboxes.end(caller, box.id)
    await rig.round()
    assert await outcome_of(rows, command) is Outcome.SANDBOX_ENDED


async def test_without_its_memory_it_goes_on_from_files_and_commands_are_lost(rig: Rig, database: Database) -> None:
    caller = await rig.caller()
    rows = CommandRows(database)
    box, command = await paused_in_the_middle(rig, caller, rows)
    await rig.pausing.resume(caller, box.id, memory=False)
    await rig.pausing.resume(caller, box.id, memory=False)
    with pytest.raises(Conflict, match="without its memory"):
        await rig.pausing.resume(caller, box.id)
    assert await outcome_of(rows, command) is None, "it is lost before the files have come up"
    await rig.round()
    wish, back = rig.engine.wishes[-1], await rig.sandboxes.get(caller, box.id)
    assert (wish.resume, wish.memory) == (1, False)
    assert (back.status, back.files_only, back.kept_epoch) == (Status.READY, False, None)
    assert await outcome_of(rows, command) is Outcome.LOST_ON_FILES_PAUSE
    await rig.pausing.resume(caller, box.id)


async def test_memory_is_given_up_only_once_the_files_have_come_up(database: Database, clock: Clock) -> None:
    first = Rig(database, MemoryEngine(clock), clock)
    caller = await first.caller()
    rows = CommandRows(database)
    box, command = await paused_in_the_middle(first, caller, rows)
    engine = NeverStarts(clock)
    engine.kept = first.engine.kept
    rig = Rig(database, engine, clock)
    await rig.pausing.resume(caller, box.id, memory=False)
    await rig.round()
    again = await rig.sandboxes.get(caller, box.id)
    assert (again.status, again.files_only, again.pause_keeps) == (Status.PAUSED, False, "memory")
    assert await outcome_of(rows, command) is None
    await rig.pausing.resume(caller, box.id)
    assert not (await rig.sandboxes.get(caller, box.id)).files_only


@pytest.mark.parametrize("when", ["pausing", "paused", "queued"])
async def test_a_sandbox_may_be_ended_at_any_point_and_nothing_is_left(rig: Rig, when: str) -> None:
    caller = await rig.caller()
    box = await ready(rig, caller)
    await rig.pausing.pause(caller, box.id)
    if when != "pausing":
        await rig.round()
    if when == "queued":
        await rig.pausing.resume(caller, box.id)
    await rig.sandboxes.end(caller, box.id)
    for _ in range(2):
        await rig.round()
    over = await rig.sandboxes.get(caller, box.id)
    assert (over.status, over.reason) == (Status.ENDED, Reason.USER_REQUEST)
    assert (rig.engine.machines, rig.engine.kept) == ({}, {})


async def test_a_resume_that_fails_is_paused_again_with_all_that_it_had(database: Database, clock: Clock) -> None:
    first = Rig(database, MemoryEngine(clock), clock)
    caller = await first.caller()
    box = await paused(first, caller)
    engine = NeverStarts(clock)
    engine.kept = first.engine.kept
    rig = Rig(database, engine, clock)
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    again = await rig.sandboxes.get(caller, box.id)
    assert (again.status, again.reason, again.kept_epoch) == (Status.PAUSED, Reason.BOOT_FAILED, 1)
    first.engine.node_id = engine.node_id
    await first.pausing.resume(caller, box.id)
    await first.round()
    back = await first.sandboxes.get(caller, box.id)
    assert (back.status, back.epoch) == (Status.READY, 3)


async def test_what_is_kept_and_damaged_is_refused_and_stays(rig: Rig) -> None:
    caller = await rig.caller()
    box = await paused(rig, caller)
    saved = dict(rig.engine.kept)
    rig.engine.kept.clear()
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    again = await rig.sandboxes.get(caller, box.id)
    assert (again.status, again.reason) == (Status.PAUSED, Reason.SNAPSHOT_UNFIT)
    rig.engine.kept.update(saved)
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).status is Status.READY


async def test_no_room_for_a_resume_is_waited_for_and_then_it_is_paused_again(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    box = await paused(rig, caller)
    rig.engine.slots = 0
    await rig.pausing.resume(caller, box.id)
    await rig.round()
    assert (await rig.sandboxes.get(caller, box.id)).status is Status.QUEUED
    clock.at += 60_000
    await rig.round()
    again = await rig.sandboxes.get(caller, box.id)
    assert (again.status, again.reason, again.kept_epoch) == (Status.PAUSED, Reason.NO_CAPACITY, 1)


async def test_answers_that_are_lost_lose_nothing(database: Database, clock: Clock) -> None:
    rig = Rig(database, AnswersLost(clock), clock)
    caller = await rig.caller()
    made = await rig.sandboxes.create(caller, NewSandbox(isolation="runsc"))
    await until(rig, caller, made.id, Status.READY)
    for _ in range(3):
        await rig.pausing.pause(caller, made.id)
        await until(rig, caller, made.id, Status.PAUSED)
        await rig.pausing.resume(caller, made.id)
        await until(rig, caller, made.id, Status.READY)
    assert [claim.state for claim in rig.engine.machines.values()] == [ClaimState.RUNNING]


async def until(rig: Rig, caller: Caller, sandbox_id: str, status: Status) -> None:
    for _ in range(10):
        await rig.round()
        if (await rig.sandboxes.get(caller, sandbox_id)).status is status:
            return
    raise AssertionError(f"never {status}")


async def test_snapshots_that_no_sandbox_wants_are_removed_and_no_others(rig: Rig) -> None:
    caller = await rig.caller()
    kept, ended = await paused(rig, caller), await paused(rig, caller)
    stray = rig.engine.kept[ended.id, 1].model_copy(update={"sandbox": new_id()})
    rig.engine.kept[stray.sandbox, 1] = stray
    await rig.sandboxes.end(caller, ended.id)
    await rig.round()
    assert set(rig.engine.kept) == {(kept.id, 1)}


async def test_a_shutdown_keeps_what_is_paused_and_what_was_on_its_way_back(rig: Rig) -> None:
    caller = await rig.caller()
    still, back = await paused(rig, caller), await paused(rig, caller)
    runs = await ready(rig, caller)
    await rig.pausing.resume(caller, back.id)
    down = asyncio.create_task(rig.sandboxes.end_all(Reason.OPERATOR_SHUTDOWN, 5))
    await asyncio.sleep(0)
    for _ in range(3):
        await rig.release.run_once()
        await rig.release.crowd.settled()
        await asyncio.sleep(0.05)
    assert (await down).ended == [runs.id]
    for box in (still, back):
        assert (await rig.sandboxes.get(caller, box.id)).status is Status.PAUSED
    assert len(rig.engine.kept) == 2
