"""What a new node process decides to do with what it finds."""

from pathlib import Path

import pytest

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, DeathReason
from boxkeep_server.node.pool import Kind
from tests.node_hosts import Body, Host
from tests.node_layers import Layer
from tests.node_worlds import adopted, service_over, until, wish

RUNSC = Kind("base", "runsc")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_running_machines_are_adopted_and_watched(host: Host) -> None:
    wanted = wish()
    claim = await (await adopted(Layer(host))).claims.claim(wanted)
    service = service_over(Layer(host))
    plan = await service.adopt()
    assert [one.machine for one in plan.hold] == [claim.machine]
    assert not plan.remove
    assert not plan.rewrite
    assert service.claims.get(Key.of(wanted)).secret == claim.secret
    host.die(claim.machine)
    await until(lambda: service.claims.get(Key.of(wanted)).state is ClaimState.DEAD)


async def test_a_machine_that_died_unseen_was_last_seen_at_the_last_heartbeat(host: Host) -> None:
    wanted = wish()
    before = await adopted(Layer(host))
    claim = await before.claims.claim(wanted)
    host.time += 2000
    await before.deaths.beat_once()
    seen = host.time
    await before.crew.dismiss()
    host.time += 60_000
    host.die(claim.machine)
    service = await adopted(Layer(host))
    dead = service.claims.get(Key.of(wanted))
    assert (dead.state, dead.reason, dead.last_seen_at, dead.died_at) == ("dead", DeathReason.EXITED, seen, None)


async def test_a_machine_that_ran_out_of_memory_unseen_says_so(host: Host) -> None:
    wanted = wish()
    before = await adopted(Layer(host))
    claim = await before.claims.claim(wanted)
    await before.deaths.beat_once()
    await before.crew.dismiss()
    host.die(claim.machine, oom_kills=1)
    service = await adopted(Layer(host))
    assert service.claims.get(Key.of(wanted)).reason is DeathReason.OUT_OF_MEMORY


async def test_a_machine_without_its_disk_has_lost_it(host: Host) -> None:
    wanted = wish()
    claim = await (await adopted(Layer(host))).claims.claim(wanted)
    host.reboot()
    host.bodies[claim.machine].disk = False
    service = await adopted(Layer(host))
    assert service.claims.get(Key.of(wanted)).reason is DeathReason.DISK_LOST


async def test_warm_machines_of_today_wait_on(host: Host) -> None:
    layer = Layer(host)
    await (await adopted(layer, warm={RUNSC: 1})).refill_once()
    service = service_over(Layer(host), warm={RUNSC: 1})
    plan = await service.adopt()
    assert [mark.machine for mark in plan.warm] == layer.started
    assert (await service.claims.claim(wish())).machine == layer.started[0]


@pytest.mark.parametrize("changed", ["boot", "guest", "image", "runtime"])
async def test_warm_machines_of_another_boot_or_digest_are_removed(host: Host, changed: str) -> None:
    layer = Layer(host)
    await (await adopted(layer, warm={RUNSC: 1})).refill_once()
    images, isolations, guest = dict(host.stock.images), dict(host.stock.isolations), host.stock.guest_digest
    if changed == "boot":
        host.boot = "boot-2"
    elif changed == "guest":
        guest = "guest-2"
    elif changed == "image":
        del images["base"]
    else:
        isolations["runsc"] = isolations["runsc"].model_copy(update={"version": "2025"})
    host.stock = type(host.stock)(images, isolations, guest)
    service = service_over(Layer(host))
    plan = await service.adopt()
    assert list(plan.remove) == layer.started
    assert host.bodies == {}
    assert list((host.lib / "pool").iterdir()) == []


async def test_what_has_neither_binding_nor_mark_is_removed(host: Host) -> None:
    host.bodies["x" * 32] = Body(disk=True)
    await adopted(Layer(host))
    assert host.bodies == {}


async def test_a_torn_binding_is_set_aside_and_its_machine_removed(host: Host) -> None:
    claim = await (await adopted(Layer(host))).claims.claim(wish())
    path = host.lib / "claims" / f"{claim.machine}.json"
    path.write_text(path.read_text()[:40])
    service = await adopted(Layer(host))
    assert service.claims.list() == ()
    assert host.bodies == {}
    assert path.with_suffix(".unreadable").exists()


async def test_a_torn_line_of_the_journal_costs_itself_alone(host: Host) -> None:
    service = await adopted(Layer(host))
    before, after = wish(), wish()
    await service.claims.release(Key.of(before))
    (journal,) = (host.lib / "released").iterdir()
    with journal.open("a") as file:
        file.write("abc 1 ma")
    await service.claims.release(Key.of(after))
    again = await adopted(Layer(host))
    released = again._world.files.released
    assert Key.of(before) in released
    assert Key.of(after) in released
