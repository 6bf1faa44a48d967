"""Pausing a bound machine, and going on from its snapshot: what is asked for in every order, and refused."""

import asyncio
from pathlib import Path

import pytest

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, ClaimWish, DeathReason
from boxkeep_server.node import refusals
from boxkeep_server.node.layer import MachineFailed, Subject
from boxkeep_server.node.service import Service
from tests.node_hosts import Host, Kept
from tests.node_layers import Layer
from tests.node_worlds import adopted, until, wish


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def claimed(host: Host, layer: Layer | None = None, **fields: object) -> tuple[Service, ClaimWish]:
    service = await adopted(layer or Layer(host))
    wanted = wish(**fields)
    await service.claims.claim(wanted)
    return service, wanted


def again(wanted: ClaimWish, **fields: object) -> ClaimWish:
    return wanted.model_copy(update={"epoch": wanted.epoch + 1, "resume": wanted.epoch, "isolation": "runsc", **fields})


class CannotKeep(Layer):
    """Machines cannot be kept, and go on."""

    async def _stop(self, subject: Subject) -> Kept:
        raise MachineFailed("its memory cannot be written")


class DiesOfIt(Layer):
    """Machines die while their memory is written."""

    async def _stop(self, subject: Subject) -> Kept:
        self.host.die(subject.machine)
        return self.host.kept.setdefault(subject.key.name, Kept())


async def test_a_paused_machine_is_gone_and_kept(host: Host) -> None:
    service, wanted = await claimed(host)
    snapshot = await service.pauses.pause(Key.of(wanted))
    assert (snapshot.sandbox, snapshot.epoch, snapshot.keeps) == (wanted.sandbox, 1, "memory")
    assert service.snapshots() == (snapshot,)
    assert not host.bodies
    assert service.claims.list() == ()
    assert service.claims.taken() == 0
    assert await service.pauses.pause(Key.of(wanted)) == snapshot


async def test_memory_that_would_be_of_no_use_is_not_kept_and_the_machine_goes_on_where_it_may(host: Host) -> None:
    service, wanted = await claimed(host)
    host.lasting = False
    with pytest.raises(refusals.Broken, match="is being opened"):
        await service.pauses.pause(Key.of(wanted))
    assert service.claims.get(Key.of(wanted)).state is ClaimState.RUNNING
    assert not host.closed
    assert (await service.pauses.pause(Key.of(wanted), or_files=True)).keeps == "files"


async def test_two_who_pause_at_once_get_the_same_snapshot(host: Host) -> None:
    service, wanted = await claimed(host)
    first, second = await asyncio.gather(*(service.pauses.pause(Key.of(wanted)) for _ in range(2)))
    assert first == second


async def test_a_sandbox_goes_on_in_its_next_epoch_as_often_as_it_is_asked_for(host: Host) -> None:
    service, wanted = await claimed(host)
    await service.pauses.pause(Key.of(wanted))
    for epoch in range(2, 6):
        claim = await service.claims.claim(again(wanted, epoch=epoch))
        assert claim.state is ClaimState.RUNNING
        tenancy = host.bodies[claim.machine].tenancy
        assert tenancy is not None
        assert tenancy.resumed
        await service.claims.release(Key(wanted.sandbox, epoch, "main"))
    assert len(service.snapshots()) == 1
    assert await service.discard(wanted.sandbox, 1) == 1
    assert await service.discard(wanted.sandbox, 1) == 0


async def test_the_paused_epoch_can_have_no_machine_any_more(host: Host) -> None:
    service, wanted = await claimed(host)
    await service.pauses.pause(Key.of(wanted))
    with pytest.raises(refusals.EpochReleased):
        await service.claims.claim(wanted)


async def test_what_was_never_paused_cannot_be_gone_on_from(host: Host) -> None:
    service = await adopted(Layer(host))
    with pytest.raises(refusals.Unfit):
        await service.claims.claim(wish(epoch=2, resume=1, isolation="runsc"))


async def test_a_snapshot_of_another_isolation_or_image_is_not_gone_on_from(host: Host) -> None:
    service, wanted = await claimed(host)
    await service.pauses.pause(Key.of(wanted))
    for other in ({"isolation": "runc"}, {"image": "python"}):
        with pytest.raises(refusals.Malformed):
            await service.claims.claim(again(wanted, **other))


async def test_what_is_not_there_or_dead_cannot_be_paused(host: Host) -> None:
    service, wanted = await claimed(host)
    with pytest.raises(refusals.NoSuchClaim):
        await service.pauses.pause(Key(wanted.sandbox, 7, "main"))
    host.die(service.claims.get(Key.of(wanted)).machine)
    await until(lambda: service.claims.get(Key.of(wanted)).state is ClaimState.DEAD)
    with pytest.raises(refusals.ClaimIsDead):
        await service.pauses.pause(Key.of(wanted))


@pytest.mark.parametrize(("trouble", "refusal"), [("full", refusals.NoSpace), ("busy", refusals.Busy)])
async def test_a_machine_that_is_not_paused_goes_on(host: Host, trouble: str, refusal: type[Exception]) -> None:
    service, wanted = await claimed(host)
    setattr(host, trouble, True)
    with pytest.raises(refusal):
        await service.pauses.pause(Key.of(wanted), if_idle=True)
    assert service.claims.get(Key.of(wanted)).state is ClaimState.RUNNING
    setattr(host, trouble, False)
    assert (await service.pauses.pause(Key.of(wanted), if_idle=True)).keeps == "memory"


async def test_a_machine_that_cannot_be_kept_is_watched_and_ended_as_before(host: Host) -> None:
    service, wanted = await claimed(host, CannotKeep(host))
    with pytest.raises(refusals.Broken):
        await service.pauses.pause(Key.of(wanted))
    host.time = wanted.not_after
    await service.deaths.expire_once()
    assert service.claims.get(Key.of(wanted)).reason is DeathReason.EXPIRED


async def test_a_machine_does_not_expire_while_it_is_being_paused(host: Host) -> None:
    service, wanted = await claimed(host)
    task = service.pauses.begin(Key.of(wanted))
    await until(lambda: service.claims.get(Key.of(wanted)).state is ClaimState.PAUSING)
    host.time = wanted.not_after
    assert await service.deaths.expire_once() == 0
    assert (await task).keeps == "memory"


async def test_a_release_waits_for_the_pause_and_then_nothing_is_left_but_the_snapshot(host: Host) -> None:
    service, wanted = await claimed(host)
    task = service.pauses.begin(Key.of(wanted))
    await until(lambda: service.claims.get(Key.of(wanted)).state is ClaimState.PAUSING)
    await service.claims.release(Key.of(wanted))
    assert (await task).keeps == "memory"
    assert not host.bodies
    assert await service.discard(wanted.sandbox, 1) == 1


async def test_a_pause_after_the_release_finds_nothing(host: Host) -> None:
    service, wanted = await claimed(host)
    await service.claims.release(Key.of(wanted))
    with pytest.raises(refusals.NoSuchClaim):
        await service.pauses.pause(Key.of(wanted))


async def test_a_machine_that_dies_under_its_pause_keeps_its_files(host: Host) -> None:
    service, wanted = await claimed(host, DiesOfIt(host))
    snapshot = await service.pauses.pause(Key.of(wanted))
    assert snapshot.keeps == "files"
    assert service.claims.list() == ()


async def test_a_pausing_machine_without_its_disk_is_dead(host: Host) -> None:
    service, wanted = await claimed(host, CannotKeep(host))
    machine = service.claims.get(Key.of(wanted)).machine
    host.bodies[machine].disk = False
    host.bodies[machine].alive = False
    with pytest.raises(refusals.Broken):
        await service.pauses.pause(Key.of(wanted))
    assert service.claims.get(Key.of(wanted)).reason is DeathReason.DISK_LOST


async def test_a_half_snapshot_is_swept_when_nobody_is_bound_to_it_and_not_before(host: Host) -> None:
    service, wanted = await claimed(host)
    key, stray = Key.of(wanted), Key("s" * 32, 1, "main")
    host.kept[key.name], host.kept[stray.name] = Kept(), Kept()
    assert [one.items for one in (await service.leaks()).leaks if one.kind == "snapshots"] == [(f"{'s' * 32}-1-main",)]
    assert await service.sweep_once() == 1
    assert set(host.kept) == {key.name}
    await service.claims.release(key)
    assert await service.sweep_once() == 1
    assert host.kept == {}
