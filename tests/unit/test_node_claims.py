"""Claims and releases over a machine layer in memory."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, DeathReason
from boxkeep_server.node import refusals
from boxkeep_server.node.pool import Kind
from boxkeep_server.node.room import SPARE_DISK_BYTES
from tests.node_hosts import Host
from tests.node_layers import ComesLate, DiesYoung, ForgetsToDie, Layer, NeverStarts
from tests.node_worlds import adopted, service_over, until, wish

RUNSC = Kind("base", "runsc")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_a_claim_answers_with_a_running_machine_that_was_told_everything(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish()
    claim = await service.claims.claim(wanted)
    assert claim.state is ClaimState.RUNNING
    assert claim.isolation == "runsc"
    assert claim.address == "10.0.0.2"
    tenancy = host.bodies[claim.machine].tenancy
    assert tenancy is not None
    assert (tenancy.secret, tenancy.epoch, tenancy.env) == (claim.secret, 1, wanted.env)
    record = host.bodies[claim.machine].record
    assert record is not None
    assert claim.secret != record.secret


async def test_a_binding_is_on_disk_and_holds_no_environment(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await service.claims.claim(wish())
    text = (host.lib / "claims" / f"{claim.machine}.json").read_text()
    assert claim.sandbox in text
    assert "s3cret-value" not in text
    assert not any("s3cret-value" in path.read_text() for path in host.lib.rglob("*") if path.is_file())


async def test_the_same_claim_again_is_the_same_machine(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish()
    first = await service.claims.claim(wanted)
    assert (await service.claims.claim(wanted)).machine == first.machine
    assert len(host.bodies) == 1


async def test_concurrent_claims_for_one_epoch_make_one_machine(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish()
    claims = await asyncio.gather(*(service.claims.claim(wanted) for _ in range(20)))
    assert {claim.machine for claim in claims} == set(host.bodies)
    assert len(host.bodies) == 1


async def test_a_warm_machine_is_taken_once_and_never_returns(host: Host) -> None:
    layer = Layer(host)
    service = await adopted(layer, warm={RUNSC: 1})
    assert await service.refill_once() == 1
    warm = layer.started[0]
    claim = await service.claims.claim(wish())
    assert claim.machine == warm
    assert service.facts().warm == {"base/runsc": 0}
    assert not (host.lib / "pool" / f"{warm}.json").exists()
    await service.claims.release(Key(claim.sandbox, 1, "main"))
    assert host.bodies == {}
    assert service.pool.owned() == set()


async def test_two_claims_never_get_one_warm_machine(host: Host) -> None:
    layer = Layer(host)
    service = await adopted(layer, warm={RUNSC: 1})
    await service.refill_once()
    one, other = await asyncio.gather(service.claims.claim(wish()), service.claims.claim(wish()))
    assert one.machine != other.machine


async def test_a_warm_machine_of_another_isolation_is_left_alone(host: Host) -> None:
    layer = Layer(host)
    service = await adopted(layer, warm={RUNSC: 1})
    await service.refill_once()
    claim = await service.claims.claim(wish(isolation="runc"))
    assert claim.isolation == "runc"
    assert service.facts().warm == {"base/runsc": 1}


async def test_a_warm_machine_that_died_while_it_waited_is_not_given_away(host: Host) -> None:
    layer = Layer(host)
    service = await adopted(layer, warm={RUNSC: 1})
    await service.refill_once()
    host.die(layer.started[0])
    claim = await service.claims.claim(wish())
    assert claim.machine != layer.started[0]
    assert await service.pool.tidy_once() == 1
    assert set(host.bodies) == {claim.machine}


async def test_a_warm_machine_that_fails_at_its_handing_over_is_replaced_by_a_cold_one(host: Host) -> None:
    class DiesWarm(Layer):
        async def hand_over(self, machine, tenancy):  # type: ignore[no-untyped-def]
            if machine.id == self.started[0]:
                self.host.die(machine.id)
            await super().hand_over(machine, tenancy)

    layer = DiesWarm(host)
    service = await adopted(layer, warm={RUNSC: 1})
    await service.refill_once()
    claim = await service.claims.claim(wish())
    assert claim.state is ClaimState.RUNNING
    assert set(host.bodies) == {claim.machine}
    assert len(list((host.lib / "claims").iterdir())) == 1


@pytest.mark.parametrize("kind", [NeverStarts, DiesYoung])
async def test_a_claim_that_fails_leaves_nothing(host: Host, kind: type[Layer]) -> None:
    service = await adopted(kind(host))
    wanted = wish()
    with pytest.raises(refusals.Broken):
        await service.claims.claim(wanted)
    assert host.bodies == {}
    assert service.claims.list() == ()
    assert list((host.lib / "claims").iterdir()) == []
    assert service.claims.taken() == 0


async def test_a_claim_that_fails_and_does_not_go_is_dead_until_released(host: Host) -> None:
    class Worst(ForgetsToDie, NeverStarts):
        pass

    layer = Worst(host)
    service = await adopted(layer)
    wanted = wish()
    with pytest.raises(refusals.Broken):
        await service.claims.claim(wanted)
    claim = service.claims.get(Key.of(wanted))
    assert (claim.state, claim.reason) == (ClaimState.DEAD, DeathReason.BOOT_FAILED)
    with pytest.raises(refusals.Broken):
        await service.claims.release(Key.of(wanted))
    layer.stubborn = False
    await service.claims.release(Key.of(wanted))
    assert host.bodies == {}


async def test_release_takes_everything_and_tells_the_last_words(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish()
    await service.claims.claim(wanted)
    remains = await service.claims.release(Key.of(wanted))
    assert remains.last_seen_at == host.time
    assert remains.tails["p" * 32].stdout == "b3V0"
    assert host.bodies == {}
    assert list((host.lib / "claims").iterdir()) == []


async def test_release_again_says_the_same(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish()
    await service.claims.claim(wanted)
    first = await service.claims.release(Key.of(wanted))
    assert await service.claims.release(Key.of(wanted)) == first


async def test_concurrent_releases_join(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish()
    await service.claims.claim(wanted)
    remains = await asyncio.gather(*(service.claims.release(Key.of(wanted)) for _ in range(10)))
    assert all(one == remains[0] for one in remains)
    assert remains[0].tails


async def test_a_released_epoch_is_shut_also_for_one_never_made_and_after_a_restart(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish()
    await service.claims.release(Key.of(wanted))
    with pytest.raises(refusals.EpochReleased):
        await service.claims.claim(wanted)
    again = await adopted(Layer(host))
    with pytest.raises(refusals.EpochReleased):
        await again.claims.claim(wanted)
    assert (await again.claims.claim(wish(wanted.sandbox, epoch=2))).epoch == 2


async def test_a_release_is_forgotten_after_a_day(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish()
    await service.claims.release(Key.of(wanted))
    host.time += 25 * 3_600_000
    again = await adopted(Layer(host))
    assert await again.claims.claim(wish(wanted.sandbox, not_after=host.time + 1000))
    assert list((host.lib / "released").iterdir()) == []


async def test_a_release_during_a_start_waits_for_it_and_leaves_nothing(host: Host) -> None:
    layer = Layer(host)
    layer.start_gate = asyncio.Event()
    service = await adopted(layer)
    wanted = wish()
    claiming = asyncio.ensure_future(service.claims.claim(wanted))
    await until(lambda: bool(layer.starting))
    releasing = asyncio.ensure_future(service.claims.release(Key.of(wanted)))
    released = service._world.files.released
    await until(lambda: Key.of(wanted) in released)
    layer.start_gate.set()
    await releasing
    with pytest.raises(refusals.NotYet):
        await claiming
    assert host.bodies == {}
    assert list((host.lib / "claims").iterdir()) == []


async def test_a_release_of_a_claim_that_waits_for_its_turn_does_not_wait_with_it(host: Host) -> None:
    layer = Layer(host)
    layer.start_gate = asyncio.Event()
    service = await adopted(layer, starts_at_once=1)
    first, second = wish(), wish()
    one = asyncio.ensure_future(service.claims.claim(first))
    await until(lambda: bool(layer.starting))
    other = asyncio.ensure_future(service.claims.claim(second))
    await asyncio.sleep(0)
    await service.claims.release(Key.of(second))
    with pytest.raises(refusals.NotYet):
        await other
    layer.start_gate.set()
    assert (await one).state is ClaimState.RUNNING
    assert len(host.bodies) == 1


async def test_a_machine_that_comes_late_is_asked_for_again_and_leaves_nothing(host: Host) -> None:
    service = await adopted(ComesLate(host))
    wanted = wish()
    with pytest.raises(refusals.NotYet):
        await service.claims.claim(wanted)
    assert host.bodies == {}
    assert (await service.claims.claim(wanted)).state is ClaimState.RUNNING
    assert len(host.bodies) == 1


async def test_a_claim_is_not_lost_when_its_caller_goes_away(host: Host) -> None:
    layer = Layer(host)
    layer.start_gate = asyncio.Event()
    service = await adopted(layer)
    wanted = wish()
    caller = asyncio.ensure_future(service.claims.claim(wanted))
    await until(lambda: bool(layer.starting))
    caller.cancel()
    layer.start_gate.set()
    assert (await service.claims.claim(wanted)).state is ClaimState.RUNNING
    assert len(layer.started) == 1


async def test_an_older_epoch_than_the_bound_one_is_refused(host: Host) -> None:
    service = await adopted(Layer(host))
    wanted = wish(epoch=5)
    await service.claims.claim(wanted)
    with pytest.raises(refusals.OlderEpoch):
        await service.claims.claim(wish(wanted.sandbox, epoch=4))


async def test_slots_hold_under_a_race(host: Host) -> None:
    service = await adopted(Layer(host), slots=3)
    answers = await asyncio.gather(*(service.claims.claim(wish()) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, refusals.NoRoom) for answer in answers) == 17
    assert len(host.bodies) == 3
    assert service.facts().slots_used == 3
    assert not service.facts().admitting


async def test_a_dead_machine_frees_its_slot(host: Host) -> None:
    service = await adopted(Layer(host), slots=1)
    claim = await service.claims.claim(wish())
    host.die(claim.machine)
    await until(lambda: service.facts().slots_used == 0)
    await service.claims.claim(wish())


async def test_a_warm_machine_makes_way_for_another_kind(host: Host) -> None:
    layer = Layer(host)
    service = await adopted(layer, slots=1, warm={RUNSC: 1})
    await service.refill_once()
    claim = await service.claims.claim(wish(isolation="runc"))
    assert set(host.bodies) == {claim.machine}


@pytest.mark.parametrize("at_once", [1, 2])
async def test_cold_starts_are_few_at_a_time_and_in_order(host: Host, at_once: int) -> None:
    layer = Layer(host)
    layer.start_gate = asyncio.Event()
    service = await adopted(layer, slots=50, starts_at_once=at_once)
    wishes = [wish() for _ in range(30)]
    claiming = asyncio.gather(*(service.claims.claim(wanted) for wanted in wishes))
    await until(lambda: len(layer.starting) == at_once)
    layer.start_gate.set()
    claims = await claiming
    assert layer.most_at_once == at_once
    if at_once == 1:  # those that start together may pass each other
        assert [claim.machine for claim in claims] == layer.started


async def test_the_pool_makes_nothing_while_claims_wait(host: Host) -> None:
    layer = Layer(host)
    layer.start_gate = asyncio.Event()
    service = await adopted(layer, warm={Kind("python", "runc"): 1}, starts_at_once=1)
    claiming = asyncio.ensure_future(service.claims.claim(wish()))
    await until(lambda: bool(layer.starting))
    filling = asyncio.ensure_future(service.refill_once())
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(host.bodies) == 1
    layer.start_gate.set()
    await claiming
    assert await filling == 1
    assert layer.most_at_once == 1


async def test_the_pool_rests_after_failures_and_leaves_nothing(host: Host) -> None:
    layer = NeverStarts(host)
    service = await adopted(layer, warm={RUNSC: 1})
    for _ in range(50):
        assert await service.refill_once() == 0
    assert host.bodies == {}
    assert service.pool.owned() == set()


async def test_the_pool_is_emptied_of_what_is_no_longer_of_today(host: Host) -> None:
    layer = Layer(host)
    service = await adopted(layer, warm={RUNSC: 1})
    await service.refill_once()
    host.stock = type(host.stock)(host.stock.images, host.stock.isolations, "guest-2")
    claim = await service.claims.claim(wish())
    assert claim.machine != layer.started[0]
    assert await service.pool.tidy_once() == 1


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"image": "unknown"}, refusals.Unsupported),
        ({"not_after": 5}, refusals.Malformed),
        ({"network": {"allow": ["10.0.0.0/33"]}}, refusals.Malformed),
        ({"network": {"allow": ["::/0"]}}, refusals.Malformed),
    ],
)
async def test_what_cannot_be_done_is_refused_and_nothing_is_made(
    host: Host, change: dict[str, object], refusal: type[Exception]
) -> None:
    service = await adopted(Layer(host))
    with pytest.raises(refusal):
        await service.claims.claim(wish(**change))  # type: ignore[arg-type]
    assert host.bodies == {}


async def test_an_isolation_that_is_not_here_is_refused(host: Host) -> None:
    host.stock = type(host.stock)(host.stock.images, {"runc": host.stock.isolations["runc"]}, "guest-1")
    service = await adopted(Layer(host))
    with pytest.raises(refusals.Unsupported):
        await service.claims.claim(wish(isolation="runsc"))
    assert (await service.claims.claim(wish())).isolation == "runc"


async def test_an_unknown_claim_is_not_found(host: Host) -> None:
    service = await adopted(Layer(host))
    with pytest.raises(refusals.NoSuchClaim):
        service.claims.get(Key(new_id(), 1, "main"))
    with pytest.raises(refusals.NoSuchClaim):
        service.claims.change(Key(new_id(), 1, "main"), 5)


async def test_strays_are_swept_and_the_owned_are_not(host: Host) -> None:
    layer = Layer(host)
    service = await adopted(layer, warm={RUNSC: 1})
    await service.refill_once()
    await service.claims.claim(wish(isolation="runc"))
    host.bodies["x" * 32] = type(next(iter(host.bodies.values())))(disk=True)
    assert (await service.leaks()).total == 1
    assert await service.sweep_once() == 1
    assert (await service.leaks()).total == 0
    assert len(host.bodies) == 2


async def test_no_machine_is_begun_while_hardly_any_disk_is_left(host: Host) -> None:
    service = await adopted(Layer(host), warm={RUNSC: 1})
    running = await service.claims.claim(wish())
    host.free_disk = SPARE_DISK_BYTES - 1
    assert not service.facts().admitting
    with pytest.raises(refusals.NoRoom):
        await service.claims.claim(wish())
    assert await service.refill_once() == 0
    assert service.claims.get(Key(running.sandbox, 1, "main")).state is ClaimState.RUNNING
    host.free_disk = SPARE_DISK_BYTES
    await service.claims.claim(wish())


class Full:
    """A disk that has no room for one thing that is to be written down, until it has."""

    def __init__(self, *named: str) -> None:
        self.named = set(named)

    def __call__(self, name: str) -> None:
        if name in self.named:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_what_is_released_goes_though_there_is_no_room_to_write_that_down(host: Host) -> None:
    full = Full("note release")
    service = service_over(Layer(host), step=full)
    await service.adopt()
    key = Key((await service.claims.claim(wanted := wish())).sandbox, 1, "main")
    with pytest.raises(refusals.NoSpace):
        await service.claims.release(key)
    assert host.bodies == {}
    full.named.clear()
    await service.claims.release(key)
    with pytest.raises(refusals.EpochReleased):
        await service.claims.claim(wanted)


@pytest.mark.parametrize("where", ["bind", "mark"])
async def test_a_machine_that_cannot_be_written_down_is_none(host: Host, where: str) -> None:
    full = Full(where)
    service = service_over(Layer(host), warm={RUNSC: 1}, step=full)
    await service.adopt()
    if where == "bind":
        with pytest.raises(refusals.NoRoom):
            await service.claims.claim(wish())
    else:
        assert await service.refill_once() == 0
    assert host.bodies == {}
    full.named.clear()
    assert (await service.claims.claim(wish())).state is ClaimState.RUNNING


async def test_a_heartbeat_that_cannot_be_written_down_costs_nothing_else(host: Host) -> None:
    full = Full("beat")
    service = service_over(Layer(host), step=full)
    await service.adopt()
    await service.claims.claim(wish())
    assert await service.deaths.beat_once() == 1
    full.named.clear()
    await service.deaths.beat_once()
    assert (host.lib / "heartbeat.json").exists()
