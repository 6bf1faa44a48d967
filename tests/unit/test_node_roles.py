"""Machines of one sandbox in several roles, over a machine layer in memory: a node keeps them wholly apart."""

from pathlib import Path

import pytest

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import ClaimState, ClaimWish, Role
from boxkeep_server.node import refusals
from tests.node_hosts import Host
from tests.node_layers import Layer
from tests.node_worlds import adopted, wish

BROWSER: Role = "browser"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def both(
    sandbox: str, epoch: int = 1, browser_epoch: int | None = None, **fields: object
) -> tuple[ClaimWish, ClaimWish]:
    """A wish for each machine of a sandbox."""
    return (
        wish(sandbox, epoch, isolation="runsc", **fields),
        wish(sandbox, browser_epoch or epoch, isolation="runsc", role=BROWSER, **fields),
    )


async def test_each_role_has_a_machine_of_its_own_and_is_released_alone(host: Host) -> None:
    service = await adopted(Layer(host))
    main, browser = [await service.claims.claim(one) for one in both(new_id())]
    assert main.machine != browser.machine
    assert main.secret != browser.secret
    assert service.claims.taken() == 2
    await service.claims.release(Key.of(browser))
    assert [claim.role for claim in service.claims.list()] == ["main"]
    with pytest.raises(refusals.EpochReleased):
        await service.claims.claim(wish(main.sandbox, role=BROWSER))
    assert (await service.claims.claim(wish(main.sandbox, 2, role=BROWSER))).epoch == 2
    assert service.claims.get(Key.of(main)).state is ClaimState.RUNNING


async def test_the_epochs_of_roles_count_for_themselves(host: Host) -> None:
    service = await adopted(Layer(host))
    sandbox = new_id()
    for one in both(sandbox, 1, browser_epoch=7):
        await service.claims.claim(one)
    with pytest.raises(refusals.OlderEpoch):
        await service.claims.claim(wish(sandbox, 6, role=BROWSER))
    await service.claims.release(Key(sandbox, 1))
    assert (await service.claims.claim(wish(sandbox, 2))).epoch == 2


async def test_what_is_released_stays_so_by_its_role_in_the_next_process(host: Host) -> None:
    service = await adopted(Layer(host))
    main, browser = both(new_id())
    for one in (main, browser):
        await service.claims.claim(one)
    await service.claims.release(Key.of(browser))
    after = await adopted(Layer(host))
    assert [Key.of(claim) for claim in after.claims.list()] == [Key.of(main)]
    with pytest.raises(refusals.EpochReleased):
        await after.claims.claim(browser)


async def test_snapshots_of_roles_are_kept_gone_on_from_and_discarded_apart(host: Host) -> None:
    service = await adopted(Layer(host))
    wishes = both(new_id())
    for one in wishes:
        await service.claims.claim(one)
        await service.pauses.pause(Key.of(one))
    names = {snapshot.name for snapshot in service.snapshots()}
    sandbox = wishes[0].sandbox
    assert names == {f"{sandbox}-1-main", f"{sandbox}-1-browser"}
    assert {Key.named(name) for name in names} == {Key.of(one) for one in wishes}
    for one in both(sandbox, 2, resume=1):
        claim = await service.claims.claim(one)
        tenancy = host.bodies[claim.machine].tenancy
        assert tenancy is not None
        assert tenancy.resumed
    assert await service.discard(sandbox, 9, BROWSER) == 1
    assert [snapshot.name for snapshot in service.snapshots()] == [f"{sandbox}-1-main"]
    assert await service.discard(sandbox, 9) == 1


@pytest.mark.parametrize("name", ["", "x-1-main", f"{'a' * 32}-1-other", f"{'a' * 32}--browser", f"{'a' * 32}-1"])
def test_what_is_no_name_of_a_pauses_snapshot_is_taken_for_none(name: str) -> None:
    assert Key.named(name) is None
