"""Checkpoints of bound machines: what is asked for in every order, and refused; and what goes on from them."""

import asyncio
from pathlib import Path

import pytest

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, Snapshot
from boxkeep_server.node import refusals
from boxkeep_server.node.layer import MachineFailed, Subject
from tests.node_hosts import Host, Kept
from tests.node_layers import Layer
from tests.node_worlds import adopted, until, wish
from tests.unit.test_node_pauses import claimed

ONE, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


class CannotCopy(Layer):
    """Machines cannot be kept, and go on."""

    async def copy(self, subject: Subject, checkpoint: str, *, memory: bool) -> Snapshot:
        raise MachineFailed("its memory cannot be written")


class DiesOfIt(Layer):
    """Machines die while they are kept."""

    async def copy(self, subject: Subject, checkpoint: str, *, memory: bool) -> Snapshot:
        self.host.die(subject.machine)
        await asyncio.sleep(0)
        raise MachineFailed("it has died")


async def test_a_machine_runs_on_and_the_same_name_is_the_same_checkpoint(host: Host) -> None:
    service, wanted = await claimed(host, isolation="runsc")
    key = Key.of(wanted)
    both = await asyncio.gather(*(service.checkpoints.take(key, ONE, memory=True) for _ in range(2)))
    assert both[0] == both[1] == await service.checkpoints.take(key, ONE, memory=True)
    assert (both[0].checkpoint, both[0].keeps) == (ONE, "memory")
    assert service.claims.get(key).state is ClaimState.RUNNING
    assert not host.standing
    assert not host.closed


async def test_a_pause_and_its_discard_leave_checkpoints_alone(host: Host) -> None:
    service, wanted = await claimed(host)
    await service.checkpoints.take(Key.of(wanted), ONE, memory=False)
    await service.pauses.pause(Key.of(wanted))
    assert await service.discard(wanted.sandbox, 9) == 1
    assert [one.checkpoint for one in service.snapshots()] == [ONE]
    assert await service.forget(ONE)
    assert not await service.forget(ONE)
    assert service.snapshots() == ()


async def test_others_go_on_from_it_under_their_own_names_and_it_may_be_gone_afterwards(host: Host) -> None:
    service, wanted = await claimed(host, isolation="runsc")
    await service.checkpoints.take(Key.of(wanted), ONE, memory=False)
    fork = await service.claims.claim(wish(isolation="runsc", checkpoint=ONE, fork=True))
    tenancy = host.bodies[fork.machine].tenancy
    assert tenancy is not None
    assert (tenancy.resumed, tenancy.forked) == (True, True)
    await service.forget(ONE)
    with pytest.raises(refusals.Unfit):
        await service.claims.claim(wish(isolation="runsc", checkpoint=ONE, fork=True))


async def test_one_of_another_image_or_isolation_is_not_gone_on_from(host: Host) -> None:
    service, wanted = await claimed(host, isolation="runsc")
    await service.checkpoints.take(Key.of(wanted), ONE, memory=False)
    for other in ({"isolation": "runc"}, {"isolation": "runsc", "image": "python"}):
        with pytest.raises(refusals.Malformed):
            await service.claims.claim(wish(checkpoint=ONE, fork=True, **other))


async def test_a_full_disk_and_a_failure_leave_the_machine_running(host: Host) -> None:
    service, wanted = await claimed(host, CannotCopy(host), isolation="runsc")
    with pytest.raises(refusals.Broken):
        await service.checkpoints.take(Key.of(wanted), ONE, memory=True)
    assert service.claims.get(Key.of(wanted)).state is ClaimState.RUNNING
    assert not host.closed


async def test_memory_that_would_be_of_no_use_is_not_taken_and_files_are(host: Host) -> None:
    service, wanted = await claimed(host, isolation="runsc")
    host.lasting = False
    with pytest.raises(refusals.Broken, match="is being opened"):
        await service.checkpoints.take(Key.of(wanted), ONE, memory=True)
    assert service.claims.get(Key.of(wanted)).state is ClaimState.RUNNING
    assert not host.closed
    assert (await service.checkpoints.take(Key.of(wanted), OTHER, memory=False)).keeps == "files"


async def test_no_room_is_said_and_the_machine_goes_on(host: Host) -> None:
    service, wanted = await claimed(host)
    host.full = True
    with pytest.raises(refusals.NoSpace):
        await service.checkpoints.take(Key.of(wanted), ONE, memory=False)
    host.full = False
    assert (await service.checkpoints.take(Key.of(wanted), ONE, memory=False)).keeps == "files"


async def test_a_machine_that_dies_of_it_is_dead_and_its_files_can_be_had(host: Host) -> None:
    service, wanted = await claimed(host, DiesOfIt(host), isolation="runsc")
    with pytest.raises(refusals.Broken):
        await service.checkpoints.take(Key.of(wanted), ONE, memory=True)
    await until(lambda: service.claims.get(Key.of(wanted)).state is ClaimState.DEAD)
    service = await adopted(Layer(host))
    assert (await service.checkpoints.take(Key.of(wanted), ONE, memory=True)).keeps == "files"


async def test_what_is_gone_or_was_never_there_cannot_be_kept(host: Host) -> None:
    service, wanted = await claimed(host)
    with pytest.raises(refusals.NoSuchClaim):
        await service.checkpoints.take(Key(wanted.sandbox, 7, "main"), ONE, memory=False)
    await service.claims.release(Key.of(wanted))
    with pytest.raises(refusals.NoSuchClaim):
        await service.checkpoints.take(Key.of(wanted), ONE, memory=False)


async def test_a_half_that_nobody_takes_is_swept_and_one_under_way_is_not(host: Host) -> None:
    service, _ = await claimed(host)
    host.kept[ONE], host.kept[OTHER] = Kept(), Kept()
    taking = asyncio.get_running_loop().create_future()
    service.checkpoints._under_way[OTHER] = taking  # type: ignore[assignment]
    assert await service.sweep_once() == 1
    assert set(host.kept) == {OTHER}
    taking.cancel()
