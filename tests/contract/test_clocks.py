"""What becomes of all that is measured when the host's clock is set: over both databases, and across processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.idempotency import Idempotency, Slot
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.reconcile.follow import Follow, remembered
from boxkeep_server.model.clocks import SteadyClock
from boxkeep_server.model.errors import Unavailable
from boxkeep_server.model.events import EventType
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import running, sandboxes
from boxkeep_server.store.database import Database
from tests.controls import Rig
from tests.engines import MemoryEngine

WEEK = 7 * 86_400_000
START = 1_800_000_000_000
BOOT = "boot"


@dataclass
class Host:
    """A host whose uptime and wall clock are in our hands."""

    up: int = 50_000
    set_by: int = 0

    def wall(self) -> int:
        """What its clock says."""
        return START + self.up + self.set_by

    def uptime(self) -> int:
        """How long it has been up."""
        return self.up

    def clock(self) -> SteadyClock:
        """The clock of a process that starts now."""
        return SteadyClock(self.wall, self.uptime)


class Process:
    """A control plane that goes by the host's clock, as long as one process of it lives."""

    def __init__(self, host: Host, database: Database, engine: MemoryEngine, clock: SteadyClock) -> None:
        self.clock = clock
        self.database = database
        self.rig = Rig(database, engine, clock.now_ms)  # type: ignore[arg-type]
        self.follow = Follow(database, clock, BOOT)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
async def process(host: Host, database: Database) -> Process:
    clock = host.clock()
    await remembered(database, clock, BOOT)
    return Process(host, database, MemoryEngine(clock.now_ms), clock)


async def ready(process: Process, caller: Caller, lasts_ms: int) -> Sandbox:
    made = await process.rig.sandboxes.create(caller, NewSandbox(max_duration_ms=lasts_ms))
    await process.rig.round()
    return await process.rig.sandboxes.get(caller, made.id)


@pytest.mark.parametrize("by", [WEEK, -WEEK, 3_600_000, -3_600_000])
async def test_what_runs_has_the_same_time_left_and_has_run_as_long(host: Host, process: Process, by: int) -> None:
    caller = await process.rig.caller()
    box = await ready(process, caller, 60_000)
    host.up += 20_000
    host.set_by += by
    assert process.clock.now_ms() == host.wall() - by, "nothing sees the new time before all is moved to it"
    assert await process.follow.run_once() == 1
    assert await process.follow.run_once() == 0
    assert process.clock.now_ms() == host.wall()
    seen = await process.rig.sandboxes.get(caller, box.id)
    assert seen.expires_at == host.wall() + 40_000
    async with process.database.reading() as connection:
        assert await running.used(connection, caller.organisation, host.wall()) <= 20_000
    host.up += 39_999
    await process.rig.round()
    assert (await process.rig.sandboxes.get(caller, box.id)).status is Status.READY
    host.up += 1
    await process.rig.round()
    over = await process.rig.sandboxes.get(caller, box.id)
    assert (over.status, over.billed_ms) == (Status.ENDED, 60_000)


async def test_less_than_a_second_is_let_be(host: Host, process: Process) -> None:
    host.set_by += 999
    assert await process.follow.run_once() == 0


async def test_who_decided_by_an_old_row_and_the_new_time_decides_nothing(host: Host, process: Process) -> None:
    caller = await process.rig.caller()
    box = await ready(process, caller, 60_000)
    old = await process.rig.sandboxes.get(caller, box.id)
    host.set_by += WEEK
    await process.follow.run_once()
    async with process.database.writing() as connection:
        now = process.clock.now_ms()
        moved = await sandboxes.step(connection, old, Status.ENDING, event=EventType.ENDING, at=now, actor="system")
    assert moved is None


@pytest.mark.parametrize("by", [WEEK, -WEEK])
async def test_a_process_after_another_goes_on_by_its_clock_and_then_follows(
    host: Host, database: Database, process: Process, by: int
) -> None:
    caller = await process.rig.caller()
    box = await ready(process, caller, 60_000)
    host.up += 10_000
    host.set_by += by
    after = host.clock()
    await remembered(database, after, BOOT)
    assert after.now_ms() == process.clock.now_ms()
    assert await Follow(database, after, BOOT).run_once() == 1
    assert (await process.rig.sandboxes.get(caller, box.id)).expires_at == host.wall() + 50_000
    rebooted = host.clock()
    await remembered(database, rebooted, "another boot")
    assert rebooted.now_ms() == host.wall()


@pytest.mark.parametrize("by", [WEEK, -WEEK])
async def test_an_idempotency_key_is_kept_for_as_long_as_it_is(host: Host, process: Process, by: int) -> None:
    keys = Idempotency(process.database, process.clock.now_ms, 86_400_000)
    organisation = (await process.rig.caller()).organisation
    slot = await keys.begin(organisation, "create", "key", "same")
    assert isinstance(slot, Slot)
    await keys.give_up(slot)
    host.set_by += by
    await process.follow.run_once()
    again = await keys.begin(organisation, "create", "key", "same")
    assert isinstance(again, Slot)
    assert again.effect == slot.effect
    await keys.give_up(again)
    host.up += 86_400_001
    later = await keys.begin(organisation, "create", "key", "same")
    assert isinstance(later, Slot)
    assert later.effect != slot.effect


async def test_a_store_that_fills_up_leaves_the_clock_and_all_that_is_measured_where_they_were(
    host: Host, process: Process
) -> None:
    caller = await process.rig.caller()
    box = await ready(process, caller, 60_000)
    host.set_by += WEEK
    before = process.clock.now_ms()
    with pytest.raises(Unavailable):
        await Follow(FullInTheEnd(process.database), process.clock, BOOT).run_once()  # type: ignore[arg-type]
    assert process.clock.now_ms() == before
    assert await process.rig.sandboxes.get(caller, box.id) == box


@dataclass
class FullInTheEnd:
    """A store that takes everything, and then does not commit it."""

    database: Database

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        async with self.database.writing() as connection:
            yield connection
            raise Unavailable("The store is away")
