"""Machines that die, expire or are ended for the host's sake, over a machine layer in memory."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Claim, ClaimState, DeathReason
from boxkeep_server.node import refusals
from boxkeep_server.node.pool import Kind
from boxkeep_server.node.room import Memory
from boxkeep_server.node.service import Service
from tests.node_hosts import GIB, Host
from tests.node_layers import Layer
from tests.node_worlds import adopted, until, wish


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def death(service: Service, claim: Claim) -> Claim:
    key = Key(claim.sandbox, claim.epoch, claim.role)
    await until(lambda: service.claims.get(key).state is ClaimState.DEAD)
    return service.claims.get(key)


async def running(service: Service, **wished: object) -> Claim:
    return await service.claims.claim(wish(**wished))  # type: ignore[arg-type]


async def test_a_machine_that_exits_is_dead_with_its_hour(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await running(service)
    host.time += 100
    host.die(claim.machine)
    dead = await death(service, claim)
    assert (dead.reason, dead.died_at) == (DeathReason.EXITED, host.time)


async def test_a_machine_in_which_the_kernel_killed_for_memory_as_it_died_is_out_of_memory(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await running(service)
    host.die(claim.machine, oom_kills=1)
    assert (await death(service, claim)).reason is DeathReason.OUT_OF_MEMORY


async def test_an_older_kill_for_memory_is_not_the_cause_of_a_later_exit(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await running(service)
    body = host.bodies[claim.machine]
    body.use = replace(body.use, oom_kills=3)
    assert await service.deaths.beat_once() == 1
    host.die(claim.machine)
    dead = await death(service, claim)
    assert (dead.reason, dead.oom_kills) == (DeathReason.EXITED, 3)


async def test_a_machine_is_ended_at_not_after_and_stays_dead_until_released(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await running(service, not_after=host.time + 50)
    assert await service.deaths.expire_once() == 0
    host.time += 50
    assert await service.deaths.expire_once() == 1
    dead = await death(service, claim)
    assert dead.reason is DeathReason.EXPIRED
    assert host.living() == set()
    remains = await service.claims.release(Key(claim.sandbox, 1, "main"))
    assert (remains.reason, remains.died_at) == (DeathReason.EXPIRED, host.time)


async def test_not_after_can_be_moved_and_that_survives_the_process(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await running(service, not_after=host.time + 50)
    service.claims.change(Key(claim.sandbox, 1, "main"), host.time + 500)
    again = await adopted(Layer(host))
    host.time += 50
    assert await again.deaths.expire_once() == 0
    host.time += 450
    assert await again.deaths.expire_once() == 1


@pytest.mark.parametrize("by", [7 * 86_400_000, -999_000])
async def test_a_machine_is_ended_no_sooner_and_no_later_when_the_hosts_clock_is_set(host: Host, by: int) -> None:
    service = await adopted(Layer(host))
    await running(service, not_after=host.time + 50)
    host.set_by = by
    service = await adopted(Layer(host))
    assert await service.deaths.expire_once() == 0
    host.time += 49
    assert await service.deaths.expire_once() == 0
    host.time += 1
    assert await service.deaths.expire_once() == 1


async def test_the_end_of_a_dead_machine_cannot_be_moved(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await running(service)
    host.die(claim.machine)
    await death(service, claim)
    with pytest.raises(refusals.ClaimIsDead):
        service.claims.change(Key(claim.sandbox, 1, "main"), 99)


async def test_a_release_is_no_death(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await running(service)
    with service.hints.listen() as hints:
        remains = await service.claims.release(Key(claim.sandbox, 1, "main"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert hints.empty()
    assert (remains.reason, remains.died_at) == (None, None)


async def test_changes_of_claims_are_hinted(host: Host) -> None:
    service = await adopted(Layer(host))
    with service.hints.listen() as hints:
        claim = await running(service)
        host.die(claim.machine)
        await death(service, claim)
        told = [hints.get_nowait() for _ in range(hints.qsize())]
    assert [hint.state for hint in told if hint] == ["starting", "running", "dead"]


async def test_a_listener_that_is_slow_loses_the_oldest_hints_and_nobody_waits_for_it(host: Host) -> None:
    service = await adopted(Layer(host))
    claim = await running(service)
    with service.hints.listen() as hints:
        for number in range(5000):
            service.claims.change(Key(claim.sandbox, 1, "main"), 5_000_000 + number)
        assert hints.qsize() <= 1024


async def test_short_memory_empties_the_pool_then_refuses_then_ends_the_largest(host: Host) -> None:
    layer = Layer(host)
    service = await adopted(layer, warm={Kind("base", "runc"): 1})
    small, large = await running(service), await running(service)
    host.bodies[large.machine].use = replace(host.bodies[large.machine].use, memory_bytes=2 * GIB)
    await service.refill_once()
    host.memory = Memory(64 * GIB, 6 * GIB, 0.0)
    assert await service.relieve_once() == 1
    assert await service.refill_once() == 0
    await running(service)
    host.memory = Memory(64 * GIB, 4 * GIB, 0.0)
    assert await service.relieve_once() == 0
    with pytest.raises(refusals.NoRoom):
        await running(service)
    await service.deaths.end_largest_once()
    assert (await death(service, large)).reason is DeathReason.HOST_MEMORY
    assert small.machine in host.living()
    host.memory = Memory(64 * GIB, 60 * GIB, 0.0)
    await service.relieve_once()
    await running(service)
