"""What lies in the folder of artifacts when a sandbox ends: published, within bounds, whatever the guest does."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from boxkeep_server.control.reconcile.last_looks import AT_ONCE, AT_ONCE_OF_ONE, LastLooks
from boxkeep_server.control.salvage import Salvage
from boxkeep_server.engine.interface import NodeAway
from boxkeep_server.model.events import Event, EventType
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import events
from tests.api.stage import LAST_LOOK_S, Stage
from tests.contract.test_store import queued
from tests.guests import GuestProgram

S = "/v1/sandboxes"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[GuestProgram]:
    """A guest of the test's own, which it may stop and kill."""
    program = GuestProgram(tmp_path)
    try:
        yield program
    finally:
        program.process.send_signal(signal.SIGCONT)
        program.stop()


@pytest_asyncio.fixture
async def own(stage: Stage, key: str, guest: GuestProgram) -> AsyncIterator[str]:
    """A ready sandbox with that guest inside, and files in its folder."""
    (stage.folder / "deep").mkdir(parents=True)
    (stage.folder / "result.csv").write_bytes(b"a,b\n" * 1000)
    (stage.folder / "deep" / "large").write_bytes(os.urandom(3_000_000))
    yield await stage.ready_sandbox(key, guest.address)


async def ended(stage: Stage, api: httpx.AsyncClient, box: str) -> list[Event]:
    """End a sandbox; its timeline when it has ended."""
    assert (await api.delete(S, params={"id": box})).status_code == 200
    return await over(stage, box)


async def over(stage: Stage, box: str) -> list[Event]:
    async with asyncio.timeout(3 * LAST_LOOK_S + 10):
        while (found := await stage.sandboxes.state(box)) is None or found.status is not Status.ENDED:
            await asyncio.sleep(0.02)
    async with stage.database.reading() as connection:
        return list(await events.after(connection, box, 0, 1000))


def missed(timeline: list[Event]) -> dict[str, object]:
    """What the one event says that tells what was not published."""
    (event,) = [event for event in timeline if event.type is EventType.ARTIFACTS_MISSED]
    return dict(event.data)


async def keys(api: httpx.AsyncClient, box: str) -> list[str]:
    return [item["key"] for item in (await api.get(f"{S}/artifacts", params={"id": box})).json()["items"]]


async def test_what_lies_in_the_folder_is_published_at_the_end(stage: Stage, api: httpx.AsyncClient, own: str) -> None:
    timeline = await ended(stage, api, own)
    assert await keys(api, own) == ["deep/large", "result.csv"]
    item = (await api.get(f"{S}/artifacts", params={"id": own})).json()["items"][0]
    assert item["sha256"] == hashlib.sha256((stage.folder / "deep/large").read_bytes()).hexdigest()
    kinds = [event.type for event in timeline]
    assert kinds.count(EventType.ARTIFACTS_UPDATED) == 2
    assert EventType.ARTIFACTS_MISSED not in kinds
    assert kinds[-1] is EventType.ENDED
    assert (await api.get(S, params={"id": own})).json()["artifacts"]["count"] == 2


async def test_at_the_end_of_its_time_too(stage: Stage, api: httpx.AsyncClient, own: str) -> None:
    found = await stage.sandboxes.state(own)
    assert found is not None
    await stage.steps.step(found, Status.ENDING, reason=Reason.MAX_DURATION)
    await over(stage, own)
    assert await keys(api, own) == ["deep/large", "result.csv"]


async def test_what_cannot_be_is_told_and_keeps_nothing_else(stage: Stage, api: httpx.AsyncClient, own: str) -> None:
    (stage.folder / "link").symlink_to("/etc/passwd")
    (stage.folder / "out").symlink_to("/etc")
    os.mkfifo(stage.folder / "pipe")
    (stage.folder / os.fsdecode(b"\xff")).write_bytes(b"x")
    told = missed(await ended(stage, api, own))
    assert await keys(api, own) == ["deep/large", "result.csv"]
    assert told["published"] == 2
    assert told["missed"] == 4


async def test_without_the_folder_nothing_is_told(
    stage: Stage, api: httpx.AsyncClient, key: str, guest: GuestProgram
) -> None:
    box = await stage.ready_sandbox(key, guest.address)
    kinds = [event.type for event in await ended(stage, api, box)]
    assert not {EventType.ARTIFACTS_MISSED, EventType.ARTIFACTS_UPDATED} & set(kinds)


async def test_the_plans_storage_is_the_limit(stage: Stage, guest: GuestProgram) -> None:
    key = await stage.key("small", "free")
    async with stage.client(key) as api:
        box = await stage.ready_sandbox(key, guest.address)
        stage.folder.mkdir()
        (stage.folder / "a").write_bytes(b"a")
        with (stage.folder / "b").open("wb") as file:
            file.truncate(40 << 30)
        (stage.folder / "c").write_bytes(b"c")
        told = missed(await ended(stage, api, box))
        assert told == {"published": 1, "missed": 2, "keys": ["b", "c"], "reason": "Storage limit reached"}
        assert await keys(api, box) == ["a"]


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_guest_that_stalls_or_is_dead_holds_the_end_up_for_no_longer_than_that(
    stage: Stage, api: httpx.AsyncClient, own: str, guest: GuestProgram, number: signal.Signals
) -> None:
    guest.process.send_signal(number)
    told = missed(await ended(stage, api, own))
    assert told["published"] == 0
    assert await keys(api, own) == []


async def test_what_grows_without_end_is_given_up(stage: Stage, api: httpx.AsyncClient, own: str) -> None:
    for number in range(1100):
        (stage.folder / f"file-{number}").touch()
    told = missed(await ended(stage, api, own))
    assert told["published"] == 0
    assert "more than 1000 files" in str(told["reason"])


async def test_with_the_store_away_it_ends_all_the_same(stage: Stage, api: httpx.AsyncClient, own: str) -> None:
    aside = stage.folder.parent / "blobs" / "tmp"
    aside.rmdir()
    aside.touch()
    told = missed(await ended(stage, api, own))
    assert told["reason"] == "The store of files is away"
    assert told["missed"] == 2


async def test_a_node_that_is_away_for_a_moment_costs_nothing(
    stage: Stage, api: httpx.AsyncClient, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await stage.sandboxes.state(own)
    assert found is not None
    known, asked = stage.node.claim, []

    async def away(*of: object) -> object:
        asked.append(of)
        if len(asked) == 1:
            raise NodeAway("it is being restarted")
        return await known(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(stage.node, "claim", away)
    timeline = await ended(stage, api, own)
    assert await keys(api, own) == ["deep/large", "result.csv"]
    assert EventType.ARTIFACTS_MISSED not in [event.type for event in timeline]
    assert len(asked) > 1


async def test_again_after_a_kill_publishes_nothing_twice(stage: Stage, api: httpx.AsyncClient, own: str) -> None:
    found = await stage.sandboxes.state(own)
    assert found is not None
    stage.hold()
    ending = await stage.steps.step(found, Status.ENDING, reason=Reason.USER_REQUEST)
    assert ending is not None
    half = asyncio.create_task(stage.salvage.run(ending))
    while not await keys(api, own):
        await asyncio.sleep(0)
    half.cancel()
    await asyncio.gather(half, return_exceptions=True)
    await stage.salvage.run(ending)
    await stage.salvage.run(ending)
    stage.let_go()
    timeline = await over(stage, own)
    assert [event.type for event in timeline].count(EventType.ARTIFACTS_UPDATED) == 2
    assert await keys(api, own) == ["deep/large", "result.csv"]


class Stalls(Salvage):
    """Never comes to an end with the sandboxes of one organisation."""

    def __init__(self, organisation: str) -> None:
        self.organisation = organisation
        self.looked: list[str] = []

    async def run(self, sandbox: Sandbox) -> None:
        self.looked.append(sandbox.id)
        if sandbox.organisation == self.organisation:
            await asyncio.Event().wait()


async def test_who_stalls_holds_up_nobody_else() -> None:
    bad, good = new_id(), new_id()
    stalls, now = Stalls(bad), [0.0]
    looks = LastLooks(stalls, lambda: None, clock=lambda: now[0])
    ending = {"status": Status.ENDING, "epoch": 1, "started_at": 1}
    crowd = [queued(bad, **ending) for _ in range(3 * AT_ONCE)]
    other = queued(good, **ending)
    assert not any(looks.over(one) for one in crowd)
    assert not looks.over(other)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert looks.over(other)
    assert len(stalls.looked) == AT_ONCE_OF_ONE + 1
    now[0] += 31
    released = [one for one in crowd if looks.over(one)]
    assert len(released) == len(crowd) - AT_ONCE_OF_ONE
    for one in released:
        looks.forget(one)
    assert len(looks) == AT_ONCE_OF_ONE
    await looks.crowd.close()


async def test_what_has_no_machine_is_not_looked_into() -> None:
    stalls = Stalls("")
    looks = LastLooks(stalls, lambda: None)
    for fields in ({"status": Status.FAILED}, {"started_at": None}, {"kept_epoch": 1}):
        assert looks.over(queued(new_id(), **{"status": Status.ENDING, "epoch": 2, "started_at": 1, **fields}))
    assert stalls.looked == []
