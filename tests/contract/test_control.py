"""The life of sandboxes over a real store and a fake engine."""

import asyncio

import pytest

from boxkeep_server.control.audit import Audit
from boxkeep_server.control.keys import Caller
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.errors import (
    Invalid,
    LimitReached,
    NotFound,
    SandboxNotFound,
    Unauthenticated,
)
from boxkeep_server.model.events import QUIET, Event, EventType, Note
from boxkeep_server.model.node_api import DeathReason
from boxkeep_server.model.plans import HOUR_MS, Plan
from boxkeep_server.model.sandboxes import NewSandbox, Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import events, organisations
from boxkeep_server.store import sandboxes as rows
from boxkeep_server.store.commands import CommandRows, Ending
from boxkeep_server.store.database import Database
from tests.controls import Rig, command_in
from tests.engines import AnswersLost, Clock, ComesLate, MemoryEngine, NeverStarts


async def ready(rig: Rig, caller: Caller, **wish: object) -> Sandbox:
    made = await rig.sandboxes.create(caller, NewSandbox(**wish))  # type: ignore[arg-type]
    await rig.round()
    return await rig.sandboxes.get(caller, made.id)


async def test_a_sandbox_goes_from_queued_to_ready_to_ended(rig: Rig) -> None:
    caller = await rig.caller()
    made = await rig.sandboxes.create(caller, NewSandbox(env={"A": "b"}))
    assert (made.status, made.epoch) == (Status.QUEUED, 0)
    await rig.round()
    there = await rig.sandboxes.get(caller, made.id)
    assert there.status is Status.READY
    assert there.expires_at == rig.clock() + there.max_duration_ms
    assert rig.engine.wishes[0].env == {"A": "b"}
    await rig.sandboxes.end(caller, made.id)
    await rig.round()
    over = await rig.sandboxes.get(caller, made.id)
    assert (over.status, over.reason) == (Status.ENDED, Reason.USER_REQUEST)
    assert rig.engine.machines == {}


@pytest.mark.parametrize("limited", [True, False])
async def test_a_sandbox_says_whether_its_disk_has_a_limit_where_it_is(rig: Rig, limited: bool) -> None:
    caller = await rig.caller()
    rig.engine.disk_limit = limited
    made = await rig.sandboxes.create(caller, NewSandbox())
    assert made.disk_limit is None
    await rig.round()
    assert (await rig.sandboxes.get(caller, made.id)).disk_limit is limited


async def test_every_step_has_its_event_without_gaps(rig: Rig, database: Database) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller)
    await rig.sandboxes.end(caller, made.id)
    await rig.round()
    async with database.reading() as connection:
        found = await events.after(connection, made.id, 0)
    assert [event.sequence for event in found] == [1, 2, 3, 4, 5]
    assert [event.type.rpartition(".")[2] for event in found] == ["created", "assigned", "ready", "ending", "ended"]


async def test_the_environment_is_erased_when_a_sandbox_is_over(rig: Rig, database: Database) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller, env={"SECRET": "very"})
    async with database.reading() as connection:
        sealed = (await rows.sealed(connection, made.id)).env
    assert sealed is not None
    assert b"very" not in sealed
    await rig.sandboxes.end(caller, made.id)
    await rig.round()
    async with database.reading() as connection:
        assert await rows.sealed(connection, made.id) == rows.Sealed()


async def test_a_hundred_creates_at_once_on_a_plan_of_ten_make_ten(rig: Rig) -> None:
    caller = await rig.caller("many", "pro")
    tries = (rig.sandboxes.create(caller, NewSandbox()) for _ in range(100))
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(answer, Sandbox) for answer in answers) == 10
    refused = [answer for answer in answers if isinstance(answer, LimitReached)]
    assert [error.sentence for error in refused] == ["Concurrent sandbox limit reached"] * 90


async def test_ending_frees_the_users_slot_before_the_node_has_finished(rig: Rig) -> None:
    caller = await rig.caller("free", "free")
    first = await ready(rig, caller)
    with pytest.raises(LimitReached):
        await rig.sandboxes.create(caller, NewSandbox())
    await rig.sandboxes.end(caller, first.id)
    assert (await rig.sandboxes.create(caller, NewSandbox())).status is Status.QUEUED


async def on_a_plan_of(rig: Rig, database: Database, month_ms: int) -> Caller:
    async with database.writing() as connection:
        await organisations.put_plan(connection, Plan("small", None, None, month_ms, None, None, frozenset()))
    return await rig.caller("small", "small")


async def test_the_hours_of_a_month_used_up_refuse_a_create(rig: Rig, database: Database, clock: Clock) -> None:
    caller = await on_a_plan_of(rig, database, 10_000)
    made = await ready(rig, caller, max_duration_ms=10_000)
    clock.at += 10_000
    await rig.round()
    assert (await rig.sandboxes.get(caller, made.id)).billed_ms == 10_000
    with pytest.raises(LimitReached, match="Monthly sandbox hours limit reached"):
        await rig.sandboxes.create(caller, NewSandbox())
    clock.at += 32 * 24 * HOUR_MS
    assert (await rig.sandboxes.create(caller, NewSandbox())).status is Status.QUEUED


async def test_running_sandboxes_end_when_the_hours_are_used_up(rig: Rig, database: Database, clock: Clock) -> None:
    caller = await on_a_plan_of(rig, database, 10_000)
    made = [await ready(rig, caller) for _ in range(2)]
    clock.at += 4_999
    await rig.round()
    assert [(await rig.sandboxes.get(caller, one.id)).status for one in made] == [Status.READY] * 2
    clock.at += 1
    await rig.round()
    over = [await rig.sandboxes.get(caller, one.id) for one in made]
    assert [(one.status, one.reason) for one in over] == [(Status.ENDED, Reason.HOURS_LIMIT)] * 2


async def test_time_runs_out_and_the_sandbox_says_so(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller, max_duration_ms=1000)
    clock.at += 1000
    await rig.round()
    over = await rig.sandboxes.get(caller, made.id)
    assert (over.status, over.reason, over.billed_ms) == (Status.ENDED, Reason.MAX_DURATION, 1000)


async def test_more_time_wins_over_expiry_and_reaches_the_node(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller, max_duration_ms=1000)
    clock.at += 900
    await rig.sandboxes.patch(caller, made.id, max_duration_ms=60_000)
    clock.at += 900
    await rig.round()
    assert (await rig.sandboxes.get(caller, made.id)).status is Status.READY
    claim = rig.engine.machines[made.id, 1]
    assert claim.not_after >= clock() + 58_000


async def test_a_dead_machine_fails_its_sandbox_and_hours_run_until_its_death(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller)
    died_at = clock.at + 400
    clock.at += 5000
    rig.engine.die(made.id, DeathReason.OUT_OF_MEMORY, died_at)
    await rig.round()
    over = await rig.sandboxes.get(caller, made.id)
    assert (over.status, over.reason, over.billed_ms) == (Status.FAILED, Reason.OUT_OF_MEMORY, 400)
    assert rig.engine.machines == {}


UNDER_COMMANDS = [
    (DeathReason.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY, "out_of_memory"),
    (DeathReason.HOST_MEMORY, Outcome.SANDBOX_ENDED, "host_memory"),
    (DeathReason.EXITED, Outcome.SANDBOX_ENDED, "machine_died"),
    (DeathReason.EXPIRED, Outcome.SANDBOX_ENDED, "max_duration"),
]


@pytest.mark.parametrize(("death", "outcome", "reason"), UNDER_COMMANDS, ids=[str(row[0]) for row in UNDER_COMMANDS])
async def test_a_machine_that_dies_ends_each_open_command_once_with_its_event(
    rig: Rig, database: Database, clock: Clock, death: DeathReason, outcome: Outcome, reason: str
) -> None:
    made = await ready(rig, await rig.caller())
    opened = [command_in(made) for _ in range(3)]
    over = Ending(opened[0].id, clock.at, Outcome.EXITED, exit_code=3)
    written = CommandRows(database)
    await written.write(opened, [over])
    clock.at += 5000
    rig.engine.die(made.id, death, clock.at)
    await rig.round()
    await rig.round()
    found = [await written.get(one.id) for one in opened]
    ends = [(row.outcome, row.reason, row.exit_code) for row in found if row is not None]
    assert ends == [(Outcome.EXITED, None, 3), (outcome, reason, None), (outcome, reason, None)]
    assert [row.ended_at for row in found if row is not None][1:] == [clock.at] * 2
    async with database.reading() as connection:
        told = await events.after(connection, made.id, 0)
    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    ended = {event.data["processId"]: event for event in told if event.type is EventType.COMMAND_ENDED}
    assert sum(event.type is EventType.COMMAND_ENDED for event in told) == 3
    assert {name: event.data["outcome"] for name, event in ended.items()} == {
        opened[0].id: Outcome.EXITED,
        opened[1].id: outcome,
        opened[2].id: outcome,
    }


async def test_a_command_that_is_written_again_is_one_record_with_its_first_end(
    rig: Rig, database: Database, clock: Clock
) -> None:
    made = await ready(rig, await rig.caller())
    rows, (first, second, third) = CommandRows(database), [command_in(made) for _ in range(3)]
    over = Ending(first.id, clock.at, Outcome.EXITED, exit_code=3)
    told = await rows.write([first], [over])
    other = Ending(first.id, clock.at, Outcome.CANCELLED)
    assert await rows.write([first, second], [other]) == told
    assert (await rows.write([], [other, Ending(second.id, clock.at, Outcome.EXITED)])).keys() == {first.id, second.id}
    await rows.write([first, second, third], [])
    page = await rows.page(made.id, None, 10)
    found = {row.id: row.outcome for row in page.items}
    assert found == {first.id: Outcome.EXITED, second.id: Outcome.EXITED, third.id: None}
    async with database.reading() as connection:
        written = [event.type for event in await events.after(connection, made.id, 3)]
    assert (written.count(EventType.COMMAND_STARTED), written.count(EventType.COMMAND_ENDED)) == (3, 2)


async def test_the_event_stream_of_a_failed_sandbox_ends_behind_its_commands_ends(
    rig: Rig, database: Database, clock: Clock
) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller)
    await CommandRows(database).write([command_in(made)], [])
    stream = rig.sandboxes.events(caller, made.id, 4, idle_s=0.0)
    rig.engine.die(made.id, DeathReason.EXITED, clock.at)
    await rig.observe.run_once()
    first = await anext(stream)
    while first is None:
        first = await anext(stream)
    assert first.type is EventType.FAILED
    assert await anext(stream) is None
    await rig.round()
    rest = [event.type async for event in stream if event is not None]
    assert rest == [EventType.COMMAND_ENDED]


async def test_the_event_stream_tells_of_state_and_activity_and_not_of_files(
    rig: Rig, database: Database, clock: Clock
) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller)
    notes = [
        Note(made.id, caller.organisation, kind, clock(), caller.key_id, {})
        for kind in sorted(QUIET)
        for _ in range(101)  # more than are read at once
    ]
    await CommandRows(database).write([], [], notes)
    await CommandRows(database).write([command_in(made)], [])
    stream = rig.sandboxes.events(caller, made.id, 3, idle_s=3600.0)
    first = await anext(stream)
    assert first is not None
    assert (first.type, first.sequence) == (EventType.COMMAND_STARTED, 4 + len(notes))
    await rig.sandboxes.end(caller, made.id)
    await rig.round()
    rest = [event.type async for event in stream if event is not None]
    assert set(rest) == {EventType.ENDING, EventType.COMMAND_ENDED, EventType.ENDED}
    await CommandRows(database).write([], [], notes[:1])
    behind = rig.sandboxes.events(caller, made.id, first.sequence + len(rest), idle_s=3600.0)
    assert [event async for event in behind] == []


async def test_the_audit_log_has_the_rows_of_all_organisations_or_of_what_is_asked_for(
    rig: Rig, database: Database, clock: Clock
) -> None:
    one, two = await rig.caller("one"), await rig.caller("two")
    first = await ready(rig, one)
    clock.at += 1_000
    second = await ready(rig, two)
    notes = [Note(second.id, two.organisation, EventType.FILE_WRITTEN, clock(), two.key_id, {})] * 600
    await CommandRows(database).write([], [], notes)

    async def read(organisation: str | None = None, sandbox: str | None = None, since: int = 0) -> list[Event]:
        rows = Audit(database).read(organisation=organisation, sandbox=sandbox, since=since)
        return [event async for event in rows]

    every = await read()
    assert [event.id for event in every] == sorted({event.id for event in every})
    mine = [event for event in every if event.sandbox == first.id]
    theirs = [event for event in every if event.sandbox == second.id]
    assert (len(mine), len(theirs)) == (3, 603)
    assert len(every) == 606
    assert mine == await read("one") == await read(one.organisation) == await read(sandbox=first.id)
    assert theirs == await read("two") == await read(since=clock())
    assert await read("one", since=clock()) == await read("nobody") == await read("one", second.id) == []


async def test_a_machine_that_never_starts_fails_its_sandbox(database: Database, clock: Clock) -> None:
    rig = Rig(database, NeverStarts(clock), clock)
    made = await ready(rig, await rig.caller())
    assert (made.status, made.reason) == (Status.FAILED, Reason.BOOT_FAILED)


async def test_a_machine_that_comes_late_is_tried_again_until_there_is_no_more_time(
    database: Database, clock: Clock
) -> None:
    engine = ComesLate(clock)
    rig = Rig(database, engine, clock)
    caller = await rig.caller()
    patient, hopeless = await ready(rig, caller), await ready(rig, caller)
    assert {(await rig.sandboxes.get(caller, one.id)).status for one in (patient, hopeless)} <= {
        Status.ASSIGNING,
        Status.QUEUED,
    }
    engine.late = False
    for _ in range(3):
        await rig.round()
    assert (await rig.sandboxes.get(caller, patient.id)).status is Status.READY
    engine.late = True
    third = await ready(rig, caller)
    clock.at += 60_000
    for _ in range(3):
        await rig.round()
    over = await rig.sandboxes.get(caller, third.id)
    assert (over.status, over.reason) == (Status.FAILED, Reason.BOOT_FAILED)


async def test_without_room_a_sandbox_waits_and_then_fails(database: Database, clock: Clock) -> None:
    rig = Rig(database, MemoryEngine(clock, slots=1), clock)
    caller = await rig.caller()
    first = await ready(rig, caller)
    second = await ready(rig, caller)
    assert (first.status, second.status) == (Status.READY, Status.QUEUED)
    clock.at += 60_000
    await rig.round()
    late = await rig.sandboxes.get(caller, second.id)
    assert (late.status, late.reason) == (Status.FAILED, Reason.NO_CAPACITY)


async def test_a_slot_that_frees_goes_to_the_one_that_waits(database: Database, clock: Clock) -> None:
    rig = Rig(database, MemoryEngine(clock, slots=1), clock)
    caller = await rig.caller()
    first, second = await ready(rig, caller), await ready(rig, caller)
    await rig.sandboxes.end(caller, first.id)
    await rig.round()
    await rig.round()
    assert (await rig.sandboxes.get(caller, second.id)).status is Status.READY


async def test_lost_answers_double_nothing_and_lose_nothing(database: Database, clock: Clock) -> None:
    engine = AnswersLost(clock)
    rig = Rig(database, engine, clock)
    caller = await rig.caller()
    made = [await rig.sandboxes.create(caller, NewSandbox()) for _ in range(10)]
    for _ in range(6):
        await rig.round()
    assert {(await rig.sandboxes.get(caller, one.id)).status for one in made} == {Status.READY}
    assert engine.made == 10
    for one in made:
        await rig.sandboxes.end(caller, one.id)
    for _ in range(6):
        await rig.round()
    assert {(await rig.sandboxes.get(caller, one.id)).status for one in made} == {Status.ENDED}
    assert engine.machines == {}


async def test_a_new_process_finishes_what_a_killed_one_began(database: Database, clock: Clock) -> None:
    engine = MemoryEngine(clock)
    first = Rig(database, engine, clock)
    caller = await first.caller()
    made = await first.sandboxes.create(caller, NewSandbox())
    await first.place.run_once()
    await first.place.crowd.close()
    second = Rig(database, engine, clock)
    await second.round()
    assert (await second.sandboxes.get(caller, made.id)).status is Status.READY
    assert engine.made == 1


async def test_a_machine_that_no_row_wants_is_released(rig: Rig) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller)
    claim = rig.engine.machines[made.id, 1]
    rig.engine.machines["z" * 32, 1] = claim.model_copy(update={"sandbox": "z" * 32})
    await rig.round()
    assert list(rig.engine.machines) == [(made.id, 1)]


async def test_nothing_of_another_organisation_is_visible(rig: Rig) -> None:
    mine, other = await rig.caller("mine"), await rig.caller("other")
    made = await ready(rig, mine)
    for forbidden in (
        rig.sandboxes.get(other, made.id),
        rig.sandboxes.end(other, made.id),
        rig.sandboxes.patch(other, made.id, name="x"),
    ):
        with pytest.raises(SandboxNotFound, match="Sandbox session not found"):
            await forbidden
    page = await rig.sandboxes.list(other, limit=10)
    assert page.items == []


async def test_pages_show_each_sandbox_once_newest_first(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    made = []
    for number in range(7):
        clock.at += number % 2
        made.append(await rig.sandboxes.create(caller, NewSandbox(metadata={"odd": str(number % 2)})))
    seen: list[Sandbox] = []
    cursor = None
    while True:
        page = await rig.sandboxes.list(caller, limit=3, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [one.created_at for one in seen] == sorted((one.created_at for one in made), reverse=True)
    assert {one.id for one in seen} == {one.id for one in made}
    odd = await rig.sandboxes.list(caller, limit=10, status=[Status.QUEUED], metadata={"odd": "1"})
    assert len(odd.items) == 3
    with pytest.raises(Invalid):
        await rig.sandboxes.list(caller, limit=3, cursor="nonsense")


async def test_a_revoked_key_is_refused_within_a_second(rig: Rig, clock: Clock) -> None:
    made = await rig.keys.create("one", "free", frozenset())
    other_process = Rig(rig.database, rig.engine, clock)
    caller = await other_process.keys.authenticate(made.key)
    await rig.keys.revoke(made.id)
    clock.at += 999
    with pytest.raises(Unauthenticated):
        await other_process.keys.authenticate(made.key)
    with pytest.raises(Unauthenticated):
        await other_process.keys.caller_of(caller.key_id)


async def test_an_expired_key_is_refused_and_a_rotated_one_replaced(rig: Rig, clock: Clock) -> None:
    made = await rig.keys.create("one", "free", frozenset(), expires_at=clock.at + 10_000)
    clock.at += 9_000
    assert await rig.keys.authenticate(made.key)
    rotated = await rig.keys.rotate(made.id)
    with pytest.raises(Unauthenticated):
        await rig.keys.authenticate(made.key)
    assert (await rig.keys.authenticate(rotated.key)).key_id == rotated.id
    clock.at += 2_000
    for refused in (rig.keys.authenticate(rotated.key), rig.keys.caller_of(rotated.id)):
        with pytest.raises(Unauthenticated):
            await refused
    with pytest.raises(NotFound):
        await rig.keys.rotate(rotated.id)


async def test_ended_sandboxes_are_forgotten_after_their_time(rig: Rig, clock: Clock) -> None:
    caller = await rig.caller()
    made = await ready(rig, caller)
    await rig.sandboxes.end(caller, made.id)
    await rig.round()
    await rig.collect.run_once()
    assert (await rig.sandboxes.get(caller, made.id)).status is Status.ENDED
    clock.at += 1001
    await rig.collect.run_once()
    with pytest.raises(SandboxNotFound):
        await rig.sandboxes.get(caller, made.id)
