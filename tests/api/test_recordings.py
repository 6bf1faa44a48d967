"""Recordings under a real guest: each published once and then taken away, within the plan, to the sandbox's end."""

import asyncio
import hashlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from boxkeep_server.control.artifacts import Artifacts
from boxkeep_server.control.companions import Companions, Kind
from boxkeep_server.control.files import Files
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.reconcile.publish import AGAIN_MS, AT_ONCE_OF_ONE, CALM_MS, Publish
from boxkeep_server.control.recordings import AT_ONCE, LOST, Look, Recordings
from boxkeep_server.control.strays import Strays
from boxkeep_server.control.visits import Visits
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.browsers import NAME
from boxkeep_server.model.companions import Companion, CompanionState
from boxkeep_server.model.errors import BoxkeepError
from boxkeep_server.model.events import Event, EventType
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import companions, events
from tests.api.stage import LAST_LOOK_S, Stage
from tests.guests import GuestProgram

S = "/v1/sandboxes"
WISH = {
    "browser": {"mode": "local-chromium", "recording": True},
    "storage": {"artifactPrefix": "mine"},
}
FILMS = [f"2026-01-01T00-0{minute}-00.000Z.mp4" for minute in range(3)]
SAYS = """
import json, pathlib, sys
waiting = pathlib.Path(sys.argv[1])
for said in ({"event": "fact", "facts": {"recordings": "3"}}, {"event": "ready"}):
    print(json.dumps(said), flush=True)
sys.stdin.read()
(waiting / "2026-01-01T00-09-00.000Z.mp4").write_bytes(b"what was under way")
"""


class Studio:
    """A sandbox whose browser is recorded, as far as anybody outside can tell, into a directory of the test's."""

    def __init__(self, stage: Stage, pool: GuestPool, sandbox: Sandbox) -> None:
        self.stage, self.sandbox = stage, sandbox
        self.folder = stage.recordings_folder
        liveness = Liveness(stage.sandboxes.states, lambda: asyncio.sleep(0.2))
        visits = Visits(stage.reacher, pool, liveness, stage.clock, stage.pausing.awake)
        files = Files(visits, stage.recorder, stage.clock)
        strays = Strays(stage.database, stage.blobs)
        artifacts = Artifacts(stage.database, stage.steps, stage.sandboxes, files, stage.blobs, strays)
        self.recordings = Recordings(stage.database, stage.steps, visits, files, artifacts, folder=str(self.folder))
        self.companions = Companions(stage.database, stage.steps, visits, backoff_s=(0.0,))
        self.publish = Publish(stage.database, self.recordings, stage.clock)
        self._attending: asyncio.Task[None] | None = None

    def record(self, *names: str, content: bytes = b"a film") -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.folder / name).write_bytes(content + name.encode())

    async def attend(self) -> None:
        """Have a browser that says that something waits."""

        arguments = ("-u", "-c", SAYS, str(self.folder))
        kind = Kind(
            NAME, sys.executable, "root", EventType.BROWSER_READY, EventType.BROWSER_FAILED, arguments=arguments
        )
        self._attending = asyncio.create_task(self.companions.attend(self.sandbox, kind))
        while "recordings" not in (await self._facts()):
            await asyncio.sleep(0.02)

    async def _facts(self) -> dict[str, str]:
        one = (await self.companions.of(self.sandbox.id)).get(NAME)
        return {} if one is None else dict(one.facts)

    async def leave(self) -> None:
        if self._attending is not None:
            self._attending.cancel()
            with suppress(asyncio.CancelledError, BoxkeepError):
                await self._attending

    async def round(self) -> int:
        begun = await self.publish.run_once()
        await self.publish.crowd.settled()
        return begun

    async def timeline(self, kind: EventType) -> list[Event]:
        async with self.stage.database.reading() as connection:
            found = await events.after(connection, self.sandbox.id, 0, 1000)
        return [event for event in found if event.type is kind]

    def waiting(self) -> list[str]:
        return sorted(one.name for one in self.folder.iterdir())


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[GuestProgram]:
    program = GuestProgram(tmp_path)
    try:
        yield program
    finally:
        program.process.send_signal(signal.SIGCONT)
        program.stop()


@pytest_asyncio.fixture
async def studio(stage: Stage, pool: GuestPool, guest: GuestProgram) -> AsyncIterator[Studio]:
    key = await stage.key("acme", "free")
    wish = NewSandbox(runtime="base", capabilities=WISH)
    made = await stage.sandboxes.create(await stage.keys.authenticate(key), wish)
    await stage.make_ready(made.id, guest.address)
    ready = await stage.sandboxes.state(made.id)
    assert ready is not None
    one = Studio(stage, pool, ready)
    yield one
    await one.leave()


@pytest_asyncio.fixture
async def mine(stage: Stage, studio: Studio) -> AsyncIterator[httpx.AsyncClient]:
    async with stage.client(await stage.key("acme", "free")) as client:
        yield client


async def published(mine: httpx.AsyncClient, studio: Studio) -> dict[str, dict[str, object]]:
    items = (await mine.get(f"{S}/artifacts", params={"id": studio.sandbox.id})).json()["items"]
    return {item["key"]: item for item in items}


async def test_what_is_whole_is_published_below_the_prefix_and_taken_away(
    studio: Studio, mine: httpx.AsyncClient
) -> None:
    studio.record(*FILMS)
    (studio.folder / "under-way").mkdir()
    (studio.folder / "passwd.mp4").symlink_to("/etc/passwd")
    (studio.folder / "2026.mp4").symlink_to("/etc/passwd")
    (studio.folder / "notes.txt").write_bytes(b"x")
    look = await studio.recordings.publish(studio.sandbox)
    assert (look.published, look.left, look.error) == (3, [], None)
    found = await published(mine, studio)
    assert list(found) == [f"mine/recordings/{name}" for name in FILMS]
    assert {one["contentType"] for one in found.values()} == {"video/mp4"}
    assert studio.waiting() == ["2026.mp4", "notes.txt", "passwd.mp4", "under-way"]
    assert (await studio.recordings.publish(studio.sandbox)).published == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a cancelled open of a blob's file
async def test_broken_off_anywhere_and_repeated_each_is_published_once(studio: Studio, mine: httpx.AsyncClient) -> None:
    studio.record(*FILMS)
    steps, done = 0, False
    while not done:
        steps += 7
        task = asyncio.create_task(studio.recordings.publish(studio.sandbox))
        for _ in range(steps):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert steps > 30, "it was broken off in several places"
    await studio.recordings.publish(studio.sandbox)
    assert studio.waiting() == []
    assert len(await studio.timeline(EventType.ARTIFACTS_UPDATED)) == 3
    for name in FILMS:
        one = (await published(mine, studio))[f"mine/recordings/{name}"]
        assert one["sha256"] == hashlib.sha256(b"a film" + name.encode()).hexdigest()


async def test_what_is_published_is_not_replaced_from_inside(studio: Studio, mine: httpx.AsyncClient) -> None:
    studio.record(*FILMS)
    await studio.recordings.publish(studio.sandbox)
    before = await published(mine, studio)
    studio.record(*FILMS, content=b"another film")
    await studio.recordings.publish(studio.sandbox)
    assert await published(mine, studio) == before
    assert studio.waiting() == []


async def test_of_very_many_some_are_published_at_a_time(studio: Studio, mine: httpx.AsyncClient) -> None:
    studio.record(*(f"{number:04}.mp4" for number in range(AT_ONCE + 5)))
    await studio.attend()
    assert await studio.round() == 1
    assert len(await published(mine, studio)) == AT_ONCE
    assert await studio.round() == 0, "whoever makes very many has to wait"
    studio.stage.clock.ahead_ms += CALM_MS
    await studio.round()
    assert studio.waiting() == []


async def test_a_plan_that_is_full_is_told_once_and_they_wait(studio: Studio, mine: httpx.AsyncClient) -> None:
    studio.record(FILMS[0], FILMS[2])
    with (studio.folder / FILMS[1]).open("wb") as file:
        file.truncate(40 << 30)
    await studio.attend()
    for _ in range(3):
        assert await studio.round() == 1
        assert await studio.round() == 0
        studio.stage.clock.ahead_ms += AGAIN_MS
    (told,) = await studio.timeline(EventType.ARTIFACTS_MISSED)
    keys = [f"recordings/{name}" for name in FILMS]
    assert list(await published(mine, studio)) == [f"mine/{keys[0]}"]
    assert told.data == {"published": 1, "missed": 2, "keys": keys[1:], "reason": "Storage limit reached"}
    studio.record(FILMS[1])
    await studio.round()
    assert list(await published(mine, studio)) == [f"mine/{key}" for key in keys]


async def test_what_was_given_up_inside_for_want_of_room_is_told(studio: Studio, mine: httpx.AsyncClient) -> None:
    studio.record(FILMS[1])
    (studio.folder / FILMS[0]).touch()
    await studio.recordings.publish(studio.sandbox)
    (told,) = await studio.timeline(EventType.ARTIFACTS_MISSED)
    assert told.data == {"published": 0, "missed": 1, "keys": [f"recordings/{FILMS[0]}"], "reason": LOST}
    assert list(await published(mine, studio)) == [f"mine/recordings/{FILMS[1]}"]
    assert studio.waiting() == []


async def over(studio: Studio) -> None:
    async with asyncio.timeout(3 * LAST_LOOK_S + 10):
        while (await studio.stage.sandboxes.states([studio.sandbox.id]))[studio.sandbox.id][0] is not Status.ENDED:
            await asyncio.sleep(0.02)


async def test_what_is_under_way_at_the_end_is_made_whole_and_published(
    studio: Studio, mine: httpx.AsyncClient
) -> None:
    studio.record(*(f"{number:04}.mp4" for number in range(AT_ONCE + 5)))
    await studio.attend()
    assert (await mine.delete(S, params={"id": studio.sandbox.id})).status_code == 200
    await over(studio)
    found = await published(mine, studio)
    assert "mine/recordings/2026-01-01T00-09-00.000Z.mp4" in found
    assert len(found) == AT_ONCE + 6
    assert await studio.timeline(EventType.ARTIFACTS_MISSED) == []
    assert await studio.timeline(EventType.BROWSER_FAILED) == [], "its end is no failure of its browser"


async def test_what_no_desktop_lives_to_make_whole_is_published_as_it_was_left(
    studio: Studio, mine: httpx.AsyncClient
) -> None:
    studio.record(FILMS[0])
    (studio.folder / "under-way").mkdir()
    (studio.folder / "under-way" / FILMS[1]).write_bytes(b"frames" * 1000)
    (studio.folder / "under-way" / FILMS[2]).write_bytes(b"no frame yet")
    assert (await studio.recordings.publish(studio.sandbox)).published == 1
    await mine.delete(S, params={"id": studio.sandbox.id})
    await over(studio)
    assert list(await published(mine, studio)) == [f"mine/recordings/{name}" for name in FILMS[:2]]
    assert await studio.timeline(EventType.ARTIFACTS_MISSED) == []


async def test_a_guest_that_stalls_holds_the_end_up_for_no_longer_than_that_and_it_is_told(
    studio: Studio, mine: httpx.AsyncClient, guest: GuestProgram
) -> None:
    studio.record(*FILMS)
    await studio.attend()
    guest.process.send_signal(signal.SIGSTOP)
    await mine.delete(S, params={"id": studio.sandbox.id})
    await over(studio)
    reasons = [str(event.data["reason"]) for event in await studio.timeline(EventType.ARTIFACTS_MISSED)]
    assert any("recordings were not published" in reason for reason in reasons)


async def test_without_the_wish_nothing_is_looked_for(stage: Stage, guest: GuestProgram) -> None:
    key = await stage.key("other")
    box = await stage.ready_sandbox(key, guest.address)
    stage.recordings_folder.mkdir()
    (stage.recordings_folder / FILMS[0]).write_bytes(b"x")
    async with stage.client(key) as client:
        await client.delete(S, params={"id": box})
        async with asyncio.timeout(20):
            while (await stage.sandboxes.states([box]))[box][0] is not Status.ENDED:
                await asyncio.sleep(0.02)
        assert (await client.get(f"{S}/artifacts", params={"id": box})).json()["items"] == []


class Stalls(Recordings):
    """Never comes to an end with the sandboxes of one organisation."""

    def __init__(self, organisation: str) -> None:
        self.organisation = organisation
        self.looked: list[str] = []

    async def publish(self, sandbox: Sandbox, most: int = AT_ONCE) -> Look:
        self.looked.append(sandbox.organisation)
        if sandbox.organisation == self.organisation:
            await asyncio.Event().wait()
        return Look()


async def test_whose_sandboxes_stall_holds_up_nobody_else(stage: Stage, pool: GuestPool, guest: GuestProgram) -> None:
    keys = [await stage.key(name) for name in ("bad", "good")]
    for key in [keys[0]] * (AT_ONCE_OF_ONE + 2) + [keys[1]]:
        box = await stage.ready_sandbox(key, guest.address)
        sandbox = await stage.sandboxes.state(box)
        assert sandbox is not None
        said = {"facts": {"recordings": "1"}, "updated_at": 1}
        one = Companion(box, sandbox.organisation, NAME, sandbox.epoch, 0, 0, CompanionState.READY, **said)
        async with stage.database.writing() as connection:
            await companions.begin(connection, one)
    stalls = Stalls((await stage.keys.authenticate(keys[0])).organisation)
    publish = Publish(stage.database, stalls, stage.clock)
    assert await publish.run_once() == AT_ONCE_OF_ONE + 1
    await asyncio.sleep(0)
    assert stalls.looked.count(stalls.organisation) == AT_ONCE_OF_ONE
    assert len(stalls.looked) == AT_ONCE_OF_ONE + 1
    await publish.crowd.close()
