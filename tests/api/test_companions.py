"""Companions under a real guest: started once, listened to, ordered, and started again; whatever they say."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from boxkeep_server.control.companions import CALM_S, Companions, Kind
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.visits import Visits
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.companions import Companion, CompanionState
from boxkeep_server.model.errors import BoxkeepError, Conflict, SandboxFault
from boxkeep_server.model.events import EventType
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import events
from tests.api.stage import Stage

OBEYS = """
import json, os, sys
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
print(json.dumps({"event": "ready", "ports": {"door": 4711}, "more": [1]}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    said = {"event": "done", "order": order["id"]}
    if order["do"] == "refuse":
        said = {"event": "refused", "order": order["id"], "reason": "It will not"}
    print(json.dumps(said), flush=True)
"""


class Troupe:
    """Companions of one sandbox, and one process that attends to them."""

    def __init__(self, stage: Stage, pool: GuestPool, sandbox: Sandbox, directory: Path) -> None:
        self.stage, self.sandbox, self.directory = stage, sandbox, directory
        self._pool = pool
        self.name = f"helper-{new_id()[:8]}"  # one guest is the inside of many tests' sandboxes
        self.begin()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """A process that knows nothing yet."""
        liveness = Liveness(self.stage.sandboxes.states, lambda: asyncio.sleep(0.2))
        reacher: Reacher = self.stage.reacher
        visits = Visits(reacher, self._pool, liveness, self.stage.clock, self.stage.pausing.awake)
        self.companions = Companions(self.stage.database, self.stage.steps, visits, backoff_s=(0.0,))

    def kind(self, program: str) -> Kind:
        """A companion that is this program of Python's."""

        arguments = ("-u", "-c", program, str(self.directory / "pids"))
        return Kind(
            self.name, sys.executable, "root", EventType.BROWSER_READY, EventType.BROWSER_FAILED, arguments=arguments
        )

    def attend(self, kind: Kind) -> "asyncio.Task[None]":
        """Attend in the background."""
        self._task = asyncio.create_task(self.companions.attend(self.sandbox, kind))
        return self._task

    async def leave(self) -> None:
        """As if the process had been killed."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, BoxkeepError):
                await self._task

    async def known(self) -> Companion | None:
        """What is written of it."""
        return (await self.companions.of(self.sandbox.id)).get(self.name)

    async def until(self, holds: Callable[[Companion], bool]) -> Companion:
        """It, once that holds."""
        async with asyncio.timeout(20):
            while True:
                one = await self.known()
                if one is not None and holds(one):
                    return one
                await asyncio.sleep(0.02)

    async def told(self) -> list[str]:
        """The events of its states, in order."""
        async with self.stage.database.reading() as connection:
            found = await events.after(connection, self.sandbox.id, 0, 100)
        return [event.type.value for event in found if "browser" in event.type.value]

    def pids(self) -> list[int]:
        """The processes that it has been."""
        return [int(line) for line in (self.directory / "pids").read_text().split()]


@pytest_asyncio.fixture
async def troupe(stage: Stage, pool: GuestPool, box: str, tmp_path: Path) -> AsyncIterator[Troupe]:
    sandbox = await stage.sandboxes.state(box)
    assert sandbox is not None
    made = Troupe(stage, pool, sandbox, tmp_path)
    yield made
    await made.leave()
    if (tmp_path / "pids").exists():
        for pid in made.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _ready(one: Companion) -> bool:
    return one.state is CompanionState.READY


async def test_it_is_started_heard_and_obeys(troupe: Troupe) -> None:
    troupe.attend(troupe.kind(OBEYS))
    one = await troupe.until(_ready)
    assert (one.ports, one.attempt, one.epoch) == ({"door": 4711}, 0, troupe.sandbox.epoch)
    await troupe.companions.order(troupe.sandbox, troupe.name, do="something")
    with pytest.raises(Conflict, match="It will not"):
        await troupe.companions.order(troupe.sandbox, troupe.name, do="refuse")
    with pytest.raises(Conflict, match="not ready"):
        await troupe.companions.order(troupe.sandbox, "nobody", do="something")
    assert await troupe.told() == ["sandbox.browser.ready"]


async def test_a_process_after_ours_finds_the_one_that_runs_and_starts_no_other(troupe: Troupe) -> None:
    kind = troupe.kind(OBEYS)
    for _ in range(3):
        troupe.attend(kind)
        await troupe.until(_ready)
        await troupe.companions.order(troupe.sandbox, troupe.name, do="something")
        await troupe.leave()
        troupe.begin()
    assert len(troupe.pids()) == 1
    assert await troupe.told() == ["sandbox.browser.ready"]


async def test_one_that_is_killed_is_started_again_and_that_is_told(troupe: Troupe) -> None:
    troupe.attend(troupe.kind(OBEYS))
    await troupe.until(_ready)
    os.kill(troupe.pids()[0], signal.SIGKILL)
    one = await troupe.until(lambda one: one.attempt == 1 and _ready(one))
    assert one.ports == {"door": 4711}
    await troupe.companions.order(troupe.sandbox, troupe.name, do="something")
    assert await troupe.told() == ["sandbox.browser.ready", "sandbox.browser.failed", "sandbox.browser.ready"]


async def test_one_that_never_gets_ready_is_given_up_with_its_reason(troupe: Troupe) -> None:
    says = 'import sys; print(\'{"event": "crashed", "reason": "no screen"}\', flush=True); sys.exit(3)'
    await asyncio.wait_for(troupe.attend(troupe.kind(says)), 20)
    one = await troupe.known()
    assert one is not None
    assert (one.state, one.reason) == (CompanionState.FAILED, "no screen")
    assert await troupe.told() == ["sandbox.browser.failed"]
    attempts = one.attempt
    await asyncio.wait_for(troupe.attend(troupe.kind(says)), 5)
    again = await troupe.known()
    assert again is not None
    assert again.attempt == attempts


@pytest.mark.parametrize(
    "line",
    [
        "rubbish",
        "[]",
        '{"event": "ready", "ports": {"door": 0}}',
        '{"event": "ready", "ports": {"door": "4711"}}',
        '{"event": "owned"}',
        '{"event": "crashed", "reason": 7}',
        "[" * 100_0,
        '{"event": "ready", "ports": {"' + "x" * 40 + '": 1}}',
    ],
)
async def test_what_it_says_and_we_do_not_know_is_passed_over(troupe: Troupe, line: str) -> None:
    program = f'import time; print({line!r}); print(\'{{"event": "done"}}\', flush=True)\n{OBEYS}'
    troupe.attend(troupe.kind(program))
    one = await troupe.until(_ready)
    assert one.ports == {"door": 4711}
    assert await troupe.told() == ["sandbox.browser.ready"]


async def test_a_line_without_end_is_a_fault_of_the_sandbox(troupe: Troupe) -> None:
    program = "import sys, time\nwhile True: sys.stdout.write('x' * 65536)"
    with pytest.raises(SandboxFault):
        await asyncio.wait_for(troupe.attend(troupe.kind(program)), 20)
    assert await troupe.told() == []


async def test_one_that_never_stops_to_speak_costs_few_writes(troupe: Troupe) -> None:
    program = f'{OBEYS.split("for line")[0]}\nwhile True: print(\'{{"event": "crashed"}}\\n{{"event": "ready"}}\')'
    troupe.attend(troupe.kind(program))
    await troupe.until(_ready)
    clock = asyncio.get_running_loop().time
    began, one = clock(), await troupe.until(_ready)
    for _ in range(4):
        one = await troupe.until(lambda now, before=one: now.heard_to > before.heard_to)
    assert clock() - began > 3 * CALM_S
