"""Handoffs: one at a time, each step once, and the browser told of who drives; over a real guest."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from boxkeep_server.control.companions import Companions, Kind
from boxkeep_server.control.handoffs import Handoffs
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.reconcile.drive import Drive
from boxkeep_server.control.visits import Visits
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.browsers import NAME, browser_of
from boxkeep_server.model.errors import BoxkeepError, Conflict, NotReady
from boxkeep_server.model.events import EventType
from boxkeep_server.model.handoffs import Handoff, HandoffConflict, HandoffNotFound, HandoffStatus
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.store import events
from tests.api.stage import Stage
from tests.guests import GuestProgram

BROWSER = {"browser": {"mode": "local-chromium", "humanInLoop": True}}
SAYS = """
import json, os, sys
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
say = lambda **said: print(json.dumps(said), flush=True)
say(event="fact", facts={"driver": "ai"})
say(event="ready", ports={"devtools": 9222, "display": 5900})
for line in sys.stdin:
    order = json.loads(line)
    say(event="fact", facts={"driver": order["mode"]})
    say(event="done", order=order["id"])
"""


class House:
    """A sandbox with a browser that says who drives it, and nothing else of one."""

    def __init__(self, stage: Stage, pool: GuestPool, caller: Caller, sandbox: Sandbox, directory: Path) -> None:
        self.stage, self.caller, self.sandbox, self.directory = stage, caller, sandbox, directory
        liveness = Liveness(stage.sandboxes.states, lambda: asyncio.sleep(0.2))
        visits = Visits(stage.reacher, pool, liveness, stage.clock, stage.pausing.awake)
        self.companions = Companions(stage.database, stage.steps, visits, backoff_s=(0.0,))
        self.handoffs = Handoffs(stage.database, stage.steps, stage.sandboxes)
        self.drive = Drive(stage.database, self.companions)
        self._task = asyncio.create_task(self._attend())

    async def _attend(self) -> None:
        arguments = ("-u", "-c", SAYS, str(self.directory / "pids"))
        kind = Kind(
            NAME, sys.executable, "root", EventType.BROWSER_READY, EventType.BROWSER_FAILED, arguments=arguments
        )
        with suppress(BoxkeepError):
            await self.companions.attend(self.sandbox, kind)

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for pid in (self.directory / "pids").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    async def request(self, **more: Any) -> Handoff:
        return await self.handoffs.request(self.caller, self.sandbox.id, "mfa", "A code, please", **more)

    async def driver(self) -> str | None:
        """Who drives, as a client is shown it."""
        browser = browser_of(self.sandbox, (await self.companions.of(self.sandbox.id)).get(NAME))
        assert browser is not None
        return browser.mode if browser.devtools else None

    async def until_driven_by(self, mode: str) -> None:
        async with asyncio.timeout(20):
            while await self.driver() != mode:
                await self.drive.run_once()
                await asyncio.sleep(0.05)

    async def told(self) -> list[str]:
        async with self.stage.database.reading() as connection:
            found = await events.after(connection, self.sandbox.id, 0, 100)
        return [event.type.value.rpartition(".")[2] for event in found if ".handoff." in event.type.value]


@pytest_asyncio.fixture
async def house(
    stage: Stage, pool: GuestPool, key: str, own_guest: Callable[[], GuestProgram], tmp_path: Path
) -> AsyncIterator[House]:
    caller = await stage.keys.authenticate(key)
    made = await stage.sandboxes.create(caller, NewSandbox(runtime="base", capabilities=BROWSER))
    await stage.make_ready(made.id, own_guest().address)
    sandbox = await stage.sandboxes.get(caller, made.id)
    house = House(stage, pool, caller, sandbox, tmp_path)
    await house.until_driven_by("ai")
    yield house
    await house.drive.crowd.close()
    await house.leave()


async def test_a_person_takes_over_and_gives_back(house: House) -> None:
    asked = await house.request(resume_prompt="Go on")
    assert (asked.status, asked.controller) == (HandoffStatus.PENDING, None)
    await house.until_driven_by("ai")
    accepted = await house.handoffs.accept(house.caller, house.sandbox.id, "ada")
    assert (accepted.status, accepted.controller) == (HandoffStatus.ACCEPTED, "ada")
    await house.until_driven_by("shared")
    done = await house.handoffs.complete(house.caller, house.sandbox.id, "typed the code")
    assert (done.status, done.note) == (HandoffStatus.COMPLETED, "typed the code")
    await house.until_driven_by("ai")
    assert await house.told() == ["requested", "accepted", "completed"]


async def test_one_that_is_exclusive_lets_nobody_watch(house: House) -> None:
    await house.request(exclusive=True)
    await house.handoffs.accept(house.caller, house.sandbox.id, "ada")
    await house.until_driven_by("human")
    await house.handoffs.cancel(house.caller, house.sandbox.id)
    await house.until_driven_by("ai")


async def test_each_step_is_taken_once_and_again_is_as_it_is(house: House) -> None:
    await house.request()
    for _ in range(2):
        await house.handoffs.accept(house.caller, house.sandbox.id, "ada")
    with pytest.raises(HandoffConflict):
        await house.handoffs.accept(house.caller, house.sandbox.id, "bob")
    for _ in range(2):
        await house.handoffs.complete(house.caller, house.sandbox.id, None)
    with pytest.raises(HandoffConflict, match="completed and cannot be cancelled"):
        await house.handoffs.cancel(house.caller, house.sandbox.id)
    assert await house.told() == ["requested", "accepted", "completed"]


async def test_of_many_at_once_one_is_open_and_one_person_has_it(house: House) -> None:
    asked = await asyncio.gather(*(house.request() for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, Handoff) for one in asked) == 1
    assert sum(isinstance(one, HandoffConflict) for one in asked) == 7
    takers = [house.handoffs.accept(house.caller, house.sandbox.id, f"person {n}") for n in range(8)]
    took = await asyncio.gather(*takers, return_exceptions=True)
    assert sum(isinstance(one, Handoff) for one in took) == 1
    assert await house.told() == ["requested", "accepted"]


async def test_one_that_nobody_takes_expires_and_another_may_follow(house: House) -> None:
    await house.request(expires_in_ms=60_000)
    await house.handoffs.accept(house.caller, house.sandbox.id, "ada")
    await house.until_driven_by("shared")
    house.stage.clock.ahead_ms += 61_000
    assert await house.handoffs.expire_once() == 1
    await house.until_driven_by("ai")
    with pytest.raises(HandoffConflict, match="expired and cannot be completed"):
        await house.handoffs.complete(house.caller, house.sandbox.id, None)
    again = await house.request(handoff_id="h" * 32)
    assert again == await house.request(handoff_id="h" * 32)


async def test_a_browser_that_begins_again_is_told_who_drives(house: House) -> None:
    await house.request()
    await house.handoffs.accept(house.caller, house.sandbox.id, "ada")
    await house.until_driven_by("shared")
    pid = int((house.directory / "pids").read_text().split()[-1])
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while len((house.directory / "pids").read_text().split()) < 2:
            await asyncio.sleep(0.02)
    await house.until_driven_by("shared")


async def test_where_there_is_no_browser_for_a_person_it_says_so(house: House, stage: Stage) -> None:
    with pytest.raises(HandoffNotFound):
        await house.handoffs.read(house.caller, house.sandbox.id)
    for capabilities, said in (
        (None, "no browser"),
        ({"browser": {"mode": "local-chromium"}}, "humanInLoop"),
        (BROWSER, None),
    ):
        wish = NewSandbox(runtime="base", capabilities=capabilities)
        queued = await stage.sandboxes.create(house.caller, wish)
        with pytest.raises(Conflict if said else NotReady, match=said or "not ready"):
            await house.handoffs.request(house.caller, queued.id, "custom", "")
