"""Capabilities that need software: the image of a sandbox, over a real store and a fake engine."""

from dataclasses import replace

import pytest

from boxkeep_server.control.keys import Caller
from boxkeep_server.model.errors import Invalid, NotBuilt
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import NewSandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store.database import Database
from tests.contract.test_checkpoints import ready, take
from tests.controls import Rig
from tests.engines import Clock, MemoryEngine

WISH = NewSandbox(
    runtime="python", isolation="runsc", ephemeral=False, capabilities={"documents": {"libreofficeHeadless": True}}
)
PLAIN = replace(WISH, capabilities=None)


@pytest.fixture
def rig(database: Database) -> Rig:
    clock = Clock()
    return Rig(database, MemoryEngine(clock), clock)


@pytest.fixture
async def caller(rig: Rig) -> Caller:
    await rig.fleet.refresh()
    return await rig.caller()


async def test_what_needs_an_image_that_no_node_has_is_refused_with_what_the_operator_does(
    rig: Rig, caller: Caller
) -> None:
    with pytest.raises(NotBuilt, match="`boxkeep images build --capability documents`"):
        await rig.sandboxes.create(caller, WISH)
    assert not (await rig.sandboxes.list(caller)).items
    rig.engine.images.append("python-documents")
    await rig.observe.run_once()
    made = await ready(rig, caller, WISH)
    assert made.image == "python-documents"
    assert [wish.image for wish in rig.engine.wishes] == ["python-documents"]


async def test_who_asks_for_nothing_begins_from_the_runtime_alone(rig: Rig, caller: Caller) -> None:
    off = replace(WISH, capabilities={"documents": {"libreofficeHeadless": False}, "browser": {"mode": "none"}})
    for wish in (PLAIN, off):
        assert (await ready(rig, caller, wish)).image == "python"
    assert {wish.image for wish in rig.engine.wishes} == {"python"}


async def test_what_goes_on_keeps_its_image_whether_or_not_it_is_built_any_more(rig: Rig, caller: Caller) -> None:
    rig.engine.images.append("python-documents")
    await rig.fleet.refresh()
    box = await ready(rig, caller, WISH)
    taken = await take(rig, caller, box.id)
    assert taken.image == "python-documents"
    for wish in (NewSandbox(from_checkpoint=taken.id), replace(WISH, from_checkpoint=taken.id)):
        fork = await ready(rig, caller, wish)
        assert fork.image == "python-documents"
        await rig.pausing.pause(caller, fork.id)
        await rig.round()
        await rig.pausing.resume(caller, fork.id)
        await rig.round()
        assert (await rig.sandboxes.get(caller, fork.id)).status is Status.READY
    assert {wish.image for wish in rig.engine.wishes} == {"python-documents"}


async def test_a_fork_cannot_have_what_its_checkpoint_has_not(rig: Rig, caller: Caller) -> None:
    box = await ready(rig, caller, PLAIN)
    taken = await take(rig, caller, box.id)
    with pytest.raises(Invalid, match="the checkpoint is of an image without documents"):
        await rig.sandboxes.create_all(caller, replace(WISH, from_checkpoint=taken.id), [new_id()])
