"""Sandboxes that have a machine beside their main one are one: placed, paused, resumed, ended as one, whoever dies."""

from collections.abc import Callable

import pytest

from boxkeep_server.control.keys import Caller
from boxkeep_server.engine.interface import MachineGone, NodeAway, NotPaused, PlacementFailed
from boxkeep_server.model.browsers import PAIRED
from boxkeep_server.model.companions import Companion, CompanionState
from boxkeep_server.model.errors import NotBuilt, NotReady
from boxkeep_server.model.events import EventType
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Claim, ClaimState, ClaimWish, DeathReason, Release, Role, Snapshot
from boxkeep_server.model.sandboxes import NewSandbox, Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import companions, events
from boxkeep_server.store.database import Database
from tests.controls import Rig
from tests.engines import Clock, MemoryEngine

BROWSER: Role = "browser"
IMAGES = ("bun", "base", "base-browser")
WISH = NewSandbox(env={"SECRET": "s"}, capabilities={"browser": {"mode": PAIRED}})


class Killed(Exception):
    """The process ends here."""


class Faulty(MemoryEngine):
    """A node that does to calls what a test says: `fault` is asked before and after each, by its name and role."""

    def __init__(self, now_ms: Callable[[], int], slots: int = 1000) -> None:
        super().__init__(now_ms, slots)
        self.images = list(IMAGES)
        self.fault: Callable[[str, Role], None] = lambda _call, _role: None

    async def place(self, wish: ClaimWish) -> tuple[str, Claim]:
        self.fault("place", wish.role)
        placed = await super().place(wish)
        self.fault("placed", wish.role)
        return placed

    async def pause(
        self, node: str, sandbox: str, epoch: int, role: Role = "main", *, if_idle: bool, or_files: bool
    ) -> Snapshot:
        self.fault("pause", role)
        kept = await super().pause(node, sandbox, epoch, role, if_idle=if_idle, or_files=or_files)
        self.fault("paused", role)
        return kept

    async def checkpoint(
        self, node: str, sandbox: str, epoch: int, role: Role = "main", *, checkpoint: str, memory: bool
    ) -> Snapshot:
        self.fault("checkpoint", role)
        taken = await super().checkpoint(node, sandbox, epoch, role, checkpoint=checkpoint, memory=memory)
        self.fault("checkpointed", role)
        return taken

    async def release(self, node: str | None, sandbox: str, epoch: int, role: Role = "main") -> Release:
        self.fault("release", role)
        released = await super().release(node, sandbox, epoch, role)
        self.fault("released", role)
        return released

    def keys(self) -> list[Key]:
        """What is bound, the main machines first."""
        return sorted((Key.of(one) for one in self.machines.values()), key=lambda key: key.role == BROWSER)

    def snapshots_of(self) -> list[Key]:
        """What is kept, likewise."""
        return sorted((Key.of(one) for one in self.kept.values()), key=lambda key: key.role == BROWSER)


def once(call: str, role: Role, error: Exception) -> Callable[[str, Role], None]:
    """A fault at one call of a kind, the first."""
    left = [error]

    def fault(named: str, of: Role) -> None:
        if (named, of) == (call, role) and left:
            raise left.pop()

    return fault


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


async def ready(rig: Rig, caller: Caller, wish: NewSandbox = WISH) -> Sandbox:
    made = await rig.sandboxes.create(caller, wish)
    await rig.round()
    found = await now(rig, caller, made)
    assert found.status is Status.READY
    return found


async def test_it_is_ready_when_both_machines_are_and_each_has_what_is_its(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    made = await ready(rig, caller)
    assert engine.keys() == list(made.machines) == [Key(made.id, 1), Key(made.id, 1, BROWSER)]
    browser, main = engine.wishes
    assert (main.image, main.env) == ("bun", {"SECRET": "s"})
    assert (browser.image, browser.env) == ("base-browser", {})
    assert main.not_after == browser.not_after


async def test_it_counts_as_one_sandbox(rig: Rig, caller: Caller) -> None:
    for _ in range(10):
        await ready(rig, caller)
    assert len((await rig.sandboxes.list(caller)).items) == 10


async def test_without_the_image_of_its_browser_it_is_refused(rig: Rig, caller: Caller, engine: Faulty) -> None:
    engine.images.remove("base-browser")
    await rig.fleet.refresh()
    with pytest.raises(NotBuilt, match="no image base-browser"):
        await rig.sandboxes.create(caller, WISH)


async def test_a_machine_that_does_not_come_up_fails_it_and_leaves_nothing(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    for role in ("browser", "main"):
        engine.fault = once("place", role, PlacementFailed("its guest never answered"))
        made = await rig.sandboxes.create(caller, WISH)
        await rig.round()
        over = await now(rig, caller, made)
        assert (over.status, over.reason) == (Status.FAILED, Reason.BOOT_FAILED)
        assert engine.keys() == []


async def test_ending_takes_both_machines_down(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    await rig.sandboxes.end(caller, made.id)
    await rig.round()
    assert (await now(rig, caller, made)).status is Status.ENDED
    assert engine.keys() == []


async def test_a_change_of_its_time_is_told_to_both_nodes_of_machines(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    changed = await rig.sandboxes.patch(caller, made.id, max_duration_ms=123_000)
    await rig.round()
    assert changed.expires_at is not None
    assert {one.not_after for one in engine.machines.values()} == {changed.expires_at + 5_000}


async def test_a_pause_keeps_both_and_a_resume_goes_on_from_both(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    await rig.pausing.pause(caller, made.id)
    await rig.round()
    paused = await now(rig, caller, made)
    assert (paused.status, paused.reason) == (Status.PAUSED, Reason.USER_REQUEST)
    assert engine.keys() == []
    assert engine.snapshots_of() == list(paused.kept) == [Key(made.id, 1), Key(made.id, 1, BROWSER)]
    assert paused.kept_bytes == 2 << 30
    await rig.pausing.resume(caller, made.id)
    await rig.round()
    resumed = await now(rig, caller, made)
    assert resumed.status is Status.READY
    assert engine.keys() == [Key(made.id, 2), Key(made.id, 2, BROWSER)]
    assert [wish.resume for wish in engine.wishes[2:]] == [1, 1]
    assert engine.snapshots_of() == []


async def test_what_is_paused_and_ended_leaves_no_snapshot(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    await rig.pausing.pause(caller, made.id)
    await rig.round()
    await rig.sandboxes.end(caller, made.id)
    await rig.round()
    assert (engine.keys(), engine.snapshots_of()) == ([], [])


async def test_a_main_machine_that_cannot_be_kept_leaves_both_running(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    engine.fault = once("pause", "main", NotPaused("memory cannot be written"))
    await rig.pausing.pause(caller, made.id)
    await rig.round()
    still = await now(rig, caller, made)
    assert (still.status, still.reason) == (Status.READY, Reason.PAUSE_FAILED)
    assert engine.keys() == [Key(made.id, 1), Key(made.id, 1, BROWSER)]
    assert engine.snapshots_of() == []


@pytest.mark.parametrize("error", [NotPaused("its disk is broken"), MachineGone("it died")])
async def test_a_browser_that_cannot_be_kept_begins_anew_and_the_sandbox_says_so(
    rig: Rig, caller: Caller, engine: Faulty, error: Exception
) -> None:
    made = await ready(rig, caller)
    engine.fault = once("pause", BROWSER, error)
    await rig.pausing.pause(caller, made.id)
    await rig.round()
    paused = await now(rig, caller, made)
    assert (paused.status, paused.reason) == (Status.PAUSED, Reason.MEMORY_LOST)
    assert (engine.keys(), engine.snapshots_of()) == ([], [Key(made.id, 1)])
    await rig.pausing.resume(caller, made.id)
    await rig.round()
    assert (await now(rig, caller, made)).status is Status.READY
    assert {wish.role: wish.resume for wish in engine.wishes[2:]} == {"main": 1, BROWSER: None}


async def test_a_browser_whose_snapshot_cannot_be_gone_on_from_begins_anew(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    for damaged in (True, False):
        made = await ready(rig, caller)
        await rig.pausing.pause(caller, made.id)
        await rig.round()
        if damaged:
            del engine.kept[made.id, 1, BROWSER]
        else:
            engine.fault = once("place", BROWSER, PlacementFailed("memory of another processor"))
        await rig.pausing.resume(caller, made.id)
        await rig.round()
        assert (await now(rig, caller, made)).status is Status.READY
        assert engine.wishes[-2].role == BROWSER
        assert engine.wishes[-2].resume is None


async def test_a_resume_that_fails_keeps_what_was_kept_of_both(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    await rig.pausing.pause(caller, made.id)
    await rig.round()
    engine.fault = once("place", "main", PlacementFailed("its guest never answered"))
    await rig.pausing.resume(caller, made.id)
    for _ in range(2):
        await rig.round()
    assert (await now(rig, caller, made)).status is Status.PAUSED
    assert (engine.keys(), engine.snapshots_of()) == ([], [Key(made.id, 1), Key(made.id, 1, BROWSER)])
    await rig.pausing.resume(caller, made.id)
    await rig.round()
    assert (await now(rig, caller, made)).status is Status.READY
    assert [wish.resume for wish in engine.wishes[-2:]] == [1, 1]


@pytest.mark.parametrize("role", ["main", "browser"])
@pytest.mark.parametrize("call", ["place", "placed", "pause", "paused", "release", "released"])
@pytest.mark.parametrize("error", [Killed(), NodeAway("the answer was lost")], ids=["killed", "lost"])
async def test_whoever_is_killed_between_two_machines_loses_and_leaks_nothing(
    database: Database, clock: Clock, call: str, role: Role, error: Exception
) -> None:
    """Stopped at a call of the node, before it or after it, a second process brings about what was wanted."""
    engine = Faulty(clock)
    rig = Rig(database, engine, clock)
    caller = await rig.caller("killed", "pro")
    made = await rig.sandboxes.create(caller, WISH)
    engine.fault = once(call, role, error)

    async def settled() -> Rig:
        dying = Rig(database, engine, clock)
        for _ in range(2):
            await dying.round()
        after = Rig(database, engine, clock)
        for _ in range(2):
            await after.round()
        return after

    rig = await settled()
    assert (await now(rig, caller, made)).status is Status.READY
    assert len(engine.keys()) == 2
    await rig.pausing.pause(caller, made.id)
    rig = await settled()
    assert (await now(rig, caller, made)).status is Status.PAUSED
    assert (engine.keys(), len(engine.snapshots_of())) == ([], 2)
    await rig.pausing.resume(caller, made.id)
    rig = await settled()
    assert (await now(rig, caller, made)).status is Status.READY
    assert (len(engine.keys()), engine.snapshots_of()) == (2, [])
    await rig.sandboxes.end(caller, made.id)
    rig = await settled()
    assert (await now(rig, caller, made)).status is Status.ENDED
    assert (engine.keys(), engine.snapshots_of()) == ([], [])


async def test_the_death_of_the_main_machine_is_that_of_the_sandbox(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    engine.die(made.id, DeathReason.OUT_OF_MEMORY, rig.clock())
    await rig.round()
    over = await now(rig, caller, made)
    assert (over.status, over.reason) == (Status.FAILED, Reason.OUT_OF_MEMORY)
    assert engine.keys() == []


async def test_a_browser_that_dies_gets_another_machine_and_the_sandbox_goes_on(
    rig: Rig, caller: Caller, engine: Faulty, database: Database
) -> None:
    made = await ready(rig, caller)
    known = Companion(made.id, made.organisation, BROWSER, 1, 2, 300, CompanionState.READY, {"devtools": 9222}, {})
    async with database.writing() as connection:
        await companions.begin(connection, known)
    engine.die(made.id, DeathReason.OUT_OF_MEMORY, rig.clock(), BROWSER)
    for _ in range(2):
        await rig.round()
    still = await now(rig, caller, made)
    assert (still.status, still.epoch, still.sides) == (Status.READY, 1, {BROWSER: 2})
    assert engine.keys() == [Key(made.id, 1), Key(made.id, 2, BROWSER)]
    assert {one.state for one in engine.machines.values()} == {ClaimState.RUNNING}
    async with database.reading() as connection:
        assert await companions.of(connection, made.id) == []
        told = [event for event in await events.after(connection, made.id, 0) if event.type == EventType.BROWSER_FAILED]
    assert [event.data["reason"] for event in told] == [
        "Its machine is lost, and another takes its place: out_of_memory"
    ]


async def test_a_mended_browser_is_paused_resumed_and_ended_with_its_sandbox(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    made = await ready(rig, caller)
    engine.die(made.id, DeathReason.EXITED, rig.clock(), BROWSER)
    for _ in range(2):
        await rig.round()
    await rig.pausing.pause(caller, made.id)
    await rig.round()
    assert engine.snapshots_of() == [Key(made.id, 1), Key(made.id, 2, BROWSER)]
    await rig.pausing.resume(caller, made.id)
    await rig.round()
    assert engine.keys() == [Key(made.id, 2), Key(made.id, 3, BROWSER)]
    await rig.sandboxes.end(caller, made.id)
    await rig.round()
    assert (engine.keys(), engine.snapshots_of()) == ([], [])


@pytest.mark.parametrize("call", ["place", "placed"])
async def test_whoever_is_killed_while_mending_leaves_it_to_the_next(
    database: Database, clock: Clock, call: str
) -> None:
    engine = Faulty(clock)
    rig = Rig(database, engine, clock)
    caller = await rig.caller("mended", "pro")
    made = await ready(rig, caller)
    engine.die(made.id, DeathReason.EXITED, clock(), BROWSER)
    engine.fault = once(call, BROWSER, Killed())
    await rig.round()
    after = Rig(database, engine, clock)
    for _ in range(2):
        await after.round()
    assert (await now(after, caller, made)).status is Status.READY
    assert engine.keys() == [Key(made.id, 1), Key(made.id, 2, BROWSER)]


async def test_a_browser_whose_node_knows_nothing_of_it_is_had_again(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    del engine.machines[made.id, 1, BROWSER]
    await rig.round()
    assert engine.keys() == [Key(made.id, 1), Key(made.id, 1, BROWSER)]
    await engine.release(None, made.id, 1, BROWSER)
    rig.clock.at += 60_000
    await rig.round()
    assert engine.keys() == [Key(made.id, 1), Key(made.id, 2, BROWSER)]


async def test_a_browser_that_dies_time_and_again_is_mended_more_and_more_slowly(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    made = await ready(rig, caller, NewSandbox(max_duration_ms=3_600_000, capabilities=WISH.capabilities))
    began, made_before = rig.clock(), engine.made
    while rig.clock() - began < 600_000:
        for key, one in list(engine.machines.items()):
            if one.role == BROWSER:
                engine.machines[key] = one.model_copy(update={"state": ClaimState.DEAD, "died_at": rig.clock()})
        await rig.mend.run_once()
        await rig.mend.crowd.settled()
        await rig.observe.run_once()
        rig.clock.at += 1_000
    assert (await now(rig, caller, made)).status is Status.READY
    assert 10 <= engine.made - made_before <= 20


async def test_a_node_that_is_away_or_full_for_a_while_is_asked_again(rig: Rig, caller: Caller, engine: Faulty) -> None:
    made = await ready(rig, caller)
    engine.die(made.id, DeathReason.EXITED, rig.clock(), BROWSER)
    engine.fault = once("place", BROWSER, NodeAway("it is being restarted"))
    await rig.round()
    engine.slots = 1
    rig.clock.at += 60_000
    await rig.round()
    assert (await now(rig, caller, made)).status is Status.READY
    assert engine.keys() == [Key(made.id, 1)]
    engine.slots = 2
    rig.clock.at += 60_000
    await rig.round()
    assert engine.keys() == [Key(made.id, 1), Key(made.id, 2, BROWSER)]


async def test_a_machine_on_its_way_is_not_entered_and_where_it_will_be_is_not_remembered(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    made = await ready(rig, caller)
    rig.reacher.forget(made)
    there = engine.machines[made.id, 1, BROWSER]
    starting = {"state": ClaimState.STARTING, "address": "", "port": 0}
    engine.machines[made.id, 1, BROWSER] = there.model_copy(update=starting)
    with pytest.raises(NotReady):
        await rig.reacher.address(made, BROWSER)
    engine.machines[made.id, 1, BROWSER] = there
    assert (await rig.reacher.address(made, BROWSER)).port == there.port


async def test_machines_that_no_row_wants_are_released_whatever_their_role(
    rig: Rig, caller: Caller, engine: Faulty
) -> None:
    made = await ready(rig, caller)
    stray = engine.machines[made.id, 1, BROWSER]
    for sandbox, epoch in ((new_id(), 1), (made.id, 7)):
        other = stray.model_copy(update={"sandbox": sandbox, "epoch": epoch})
        engine.machines[sandbox, epoch, BROWSER] = other
    await rig.round()
    assert engine.keys() == [Key(made.id, 1), Key(made.id, 1, BROWSER)]
