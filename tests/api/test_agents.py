"""Tasks of agents: one after the other, each to one end, whatever is killed; over a real guest and a played agent."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from boxkeep_server.control.agents import Agents, Prompt
from boxkeep_server.control.companions import Companions
from boxkeep_server.control.handoffs import Handoffs
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.liveness import Liveness
from boxkeep_server.control.reconcile.work import Work
from boxkeep_server.control.visits import Visits
from boxkeep_server.guestwire import GuestPool
from boxkeep_server.model.agents import OPEN_MOST, Task, TaskEvent, TaskReason, TaskStatus, Told, read_told
from boxkeep_server.model.errors import BoxkeepError, Conflict, LimitReached, NotReady
from boxkeep_server.model.handoffs import HandoffStatus
from boxkeep_server.model.sandboxes import NewSandbox, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import agents, companions, events
from tests.api.stage import Stage
from tests.guests import GuestProgram

WISH = {
    "opencode": {"enabled": True, "defaultAgent": "build"},
    "browser": {"mode": "local-chromium", "humanInLoop": True},
}
PATH = "/v1/sandboxes/opencode"
ASK = "a" * 32
PLAYED = """
import json, os, sys
pids, heard = sys.argv[1:3]
assert json.loads(sys.stdin.readline())["workspace"] == "/workspace"
open(pids, "a").write(f"{os.getpid()}\\n")
say = lambda **said: print(json.dumps(said), flush=True)
task, n = "", 0
def tell(kind, **more):
    global n
    say(event="task", about={"task": task, "n": n, "kind": kind, **more})
    n += 1
def on(name):
    global task
    task = name
    say(event="fact", facts={"task": name})
on("")
say(event="fact", facts={"ask": ""})
say(event="ready")
for line in sys.stdin:
    order = json.loads(line)
    open(heard, "a").write(line)
    if order["do"] == "prompt":
        n = order["from"]
        on(order["task"])
        tell("started", session=order["session"] or "ses_new")
        if order["prompt"] == "die" or order["prompt"] == "die once" and not order["again"]:
            os._exit(1)
        if order["prompt"] == "ask":
            ask = ("b" if order["again"] else "a") * 32
            tell("asked", ask=ask, why="mfa", text="A code, please")
            say(event="fact", facts={"ask": ask})
        elif order["prompt"] != "wait":
            tell("text", text="I think\\0")
            files = [{"path": "/workspace/a", "change": "added"}]
            spent = {"tokens": {"input": 3, "output": 2}, "cost": 0.5}
            tell("completed", text="did " + order["prompt"], files=files, moreFiles=False, **spent)
            on("")
    elif order["do"] == "browser":
        say(event="fact", facts={"devtools": str(order["port"] or "")})
    elif order["do"] == "abort":
        on("")
    elif order["do"] == "answer":
        tell("completed", text=json.dumps(order["answer"]))
        say(event="fact", facts={"ask": ""})
        on("")
    say(event="done", order=order["id"])
"""


class House:
    """A sandbox with an agent that does at once what it is told to."""

    def __init__(self, stage: Stage, pool: GuestPool, caller: Caller, sandbox: Sandbox, directory: Path) -> None:
        self.stage, self.caller, self.sandbox, self.directory = stage, caller, sandbox, directory
        liveness = Liveness(stage.sandboxes.states, lambda: asyncio.sleep(0.2))
        visits = Visits(stage.reacher, pool, liveness, stage.clock, stage.pausing.awake)
        self.companions = Companions(stage.database, stage.steps, visits, backoff_s=(0.0,))
        self.handoffs = Handoffs(stage.database, stage.steps, stage.sandboxes)
        self.agents = Agents(stage.database, stage.steps, stage.changes, stage.sandboxes, self.companions, stage.visits)
        self.work = Work(stage.database, stage.steps, self.companions, self.agents, self.handoffs)
        self._task = asyncio.create_task(self._attend())

    async def _attend(self) -> None:
        arguments = ("-u", "-c", PLAYED, str(self.directory / "pids"), str(self.directory / "heard"))
        (kind,) = self.agents.wanted(self.sandbox)
        while True:
            with suppress(BoxkeepError):
                await self.companions.attend(self.sandbox, replace(kind, program=sys.executable, arguments=arguments))
            await asyncio.sleep(0.05)

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.kill()

    def kill(self) -> None:
        file = self.directory / "pids"
        for pid in file.read_text().split() if file.exists() else ():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def heard(self, do: str) -> list[dict[str, Any]]:
        """The orders of that kind that the agent has got."""
        file = self.directory / "heard"
        orders = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [order for order in orders if order["do"] == do]

    async def prompt(self, text: str, **more: Any) -> Task:
        return await self.agents.prompt(self.caller, self.sandbox.id, Prompt(text, **more))

    async def read(self, task: Task) -> Task:
        return await self.agents.read(self.caller, self.sandbox.id, task.id)

    async def until(self, what: Callable[[], Any]) -> Any:
        """What is found, or awaited, to be so while the reconciler works."""
        async with asyncio.timeout(20):
            while True:
                await self.work.run_once()
                found = what()
                found = await found if asyncio.iscoroutine(found) else found
                if found:
                    return found
                await asyncio.sleep(0.02)

    async def until_it_is(self, task: Task, status: TaskStatus) -> Task:
        async def look() -> Task | None:
            now = await self.read(task)
            return now if now.status is status else None

        found: Task = await self.until(look)
        return found

    async def told(self, word: str) -> list[dict[str, Any]]:
        """The types and data of the sandbox's events whose type has that word in it."""
        async with self.stage.database.reading() as connection:
            found = await events.after(connection, self.sandbox.id, 0, 1000)
        return [{"type": event.type.value, **event.data} for event in found if word in event.type.value]

    async def step(self, status: Status, **more: Any) -> None:
        now = await self.stage.sandboxes.state(self.sandbox.id)
        assert now is not None
        assert await self.stage.steps.step(now, status, **more) is not None


@pytest_asyncio.fixture
async def house(
    stage: Stage, pool: GuestPool, key: str, own_guest: Callable[[], GuestProgram], tmp_path: Path
) -> AsyncIterator[House]:
    caller = await stage.keys.authenticate(key)
    made = await stage.sandboxes.create(caller, NewSandbox(runtime="base", capabilities=WISH))
    await stage.make_ready(made.id, own_guest().address)
    house = House(stage, pool, caller, await stage.sandboxes.get(caller, made.id), tmp_path)
    yield house
    await house.work.crowd.close()
    await house.leave()


async def test_a_task_is_done_and_says_what_came_of_it(house: House) -> None:
    queued = await house.prompt("sums", metadata={"for": "ada"})
    assert queued.status is TaskStatus.QUEUED
    done = await house.until_it_is(queued, TaskStatus.COMPLETED)
    assert done.result == {
        "text": "did sums",
        "files": [{"path": "/workspace/a", "change": "added"}],
        "moreFiles": False,
        "tokens": {"input": 3, "output": 2},
        "cost": 0.5,
    }
    assert (done.session, done.metadata, done.tries) == ("ses_new", {"for": "ada"}, 1)
    assert done.started_at is not None
    assert await house.told(".agent.") == [
        {"type": "sandbox.agent.task.queued", "taskId": queued.id, "metadata": {"for": "ada"}},
        {"type": "sandbox.agent.ready"},
        {"type": "sandbox.agent.task.completed", "taskId": queued.id, "metadata": {"for": "ada"}},
    ]


async def test_tasks_are_done_one_after_the_other_the_oldest_first(house: House) -> None:
    first = await house.prompt("wait")
    others = [await house.prompt(f"number {n}", session="ses_old") for n in range(3)]
    await house.until_it_is(first, TaskStatus.RUNNING)
    assert house.agents.busy(house.sandbox.id)
    for _ in range(5):
        await house.work.run_once()
    assert [order["prompt"] for order in house.heard("prompt")] == ["wait"]
    assert (await house.agents.cancel(house.caller, house.sandbox.id, first.id)).reason is TaskReason.CANCELLED
    for one in others:
        assert (await house.until_it_is(one, TaskStatus.COMPLETED)).session == "ses_old"
    assert [order["prompt"] for order in house.heard("prompt")] == ["wait", "number 0", "number 1", "number 2"]
    assert [order["task"] for order in house.heard("abort")] == [first.id]
    await house.work.run_once()
    assert not house.agents.busy(house.sandbox.id)


async def test_a_task_ends_once(house: House) -> None:
    task = await house.prompt("sums")
    await house.until_it_is(task, TaskStatus.COMPLETED)
    after = await house.agents.cancel(house.caller, house.sandbox.id, task.id)
    assert after.status is TaskStatus.COMPLETED
    assert len([one for one in await house.told("task") if "queued" not in one["type"]]) == 1


async def test_what_is_cancelled_before_it_begins_never_does(house: House) -> None:
    await house.until_it_is(first := await house.prompt("wait"), TaskStatus.RUNNING)
    second = await house.prompt("never")
    await house.agents.cancel(house.caller, house.sandbox.id, second.id)
    await house.agents.cancel(house.caller, house.sandbox.id, first.id)
    await house.until_it_is(await house.prompt("last"), TaskStatus.COMPLETED)
    assert "never" not in [order["prompt"] for order in house.heard("prompt")]


async def test_a_task_goes_on_in_its_session_when_its_agent_has_died(house: House) -> None:
    task = await house.prompt("die once")
    done = await house.until_it_is(task, TaskStatus.COMPLETED)
    assert done.tries == 2
    again = house.heard("prompt")[-1]
    assert (again["again"], again["session"], again["from"]) == (True, "ses_new", 1)


async def test_a_task_under_which_the_agent_dies_time_and_again_has_failed(house: House) -> None:
    task = await house.prompt("die")
    failed = await house.until_it_is(task, TaskStatus.FAILED)
    assert failed.reason is TaskReason.INTERRUPTED
    assert len(house.heard("prompt")) <= 3


async def test_a_task_has_its_time_from_when_it_begins(house: House) -> None:
    task = await house.prompt("wait", timeout_ms=60_000)
    house.stage.clock.ahead_ms += 100_000
    await house.until_it_is(task, TaskStatus.RUNNING)
    house.stage.clock.ahead_ms += 59_000
    await house.work.run_once()
    assert (await house.read(task)).open
    house.stage.clock.ahead_ms += 2_000
    assert (await house.until_it_is(task, TaskStatus.FAILED)).reason is TaskReason.TIMED_OUT
    await house.until(lambda: house.heard("abort"))


async def test_the_end_of_the_sandbox_is_the_end_of_its_tasks(house: House) -> None:
    tasks = [await house.prompt("wait"), await house.prompt("next")]
    await house.until_it_is(tasks[0], TaskStatus.RUNNING)
    await house.stage.fail(house.sandbox.id, "machine_died")
    for task in tasks:
        assert (await house.until_it_is(task, TaskStatus.FAILED)).reason is TaskReason.SANDBOX_ENDED


async def test_what_is_going_on_is_told_in_order_and_to_its_end(house: House) -> None:
    task = await house.prompt("sums")
    seen: list[TaskEvent | Task] = []

    async def watch(after: int) -> list[TaskEvent | Task]:
        return [one async for one in house.agents.follow(house.caller, house.sandbox.id, task.id, after)]

    watching = asyncio.create_task(watch(-1))
    await house.until_it_is(task, TaskStatus.COMPLETED)
    async with asyncio.timeout(10):
        seen = await watching
    assert [one.kind for one in seen if isinstance(one, TaskEvent)] == ["started", "text", "completed"]
    assert [one.n for one in seen if isinstance(one, TaskEvent)] == [0, 1, 2]
    assert isinstance(seen[-1], Task)
    assert [one.kind for one in await watch(1) if isinstance(one, TaskEvent)] == ["completed"]


async def test_what_was_heard_before_or_is_of_another_sandbox_changes_nothing(house: House) -> None:
    task = await house.until_it_is(await house.prompt("wait"), TaskStatus.RUNNING)
    async with house.stage.database.reading() as connection:
        (speaker,) = await companions.of(connection, house.sandbox.id)
    told = [Told(task=task.id, n=n, kind="text", text=f"{n}") for n in (0, 0, 1, 1, 2)]
    final = Told(task=task.id, n=3, kind="completed", text="stolen")
    async with house.stage.database.writing() as connection:
        await agents.hear(connection, speaker, told, 7, "system")
        await agents.hear(connection, replace(speaker, sandbox="b" * 32), [final], 7, "system")
        await agents.hear(connection, speaker, [Told(task="c" * 32, n=0, kind="text")], 7, "system")
        found = await agents.events_after(connection, task.id, 0, 10)
    assert [(one.n, one.data) for one in found] == [(1, {"text": "1"}), (2, {"text": "2"})]
    assert (await house.read(task)).status is TaskStatus.RUNNING


async def test_what_a_hostile_agent_tells_is_bounded_and_no_more_than_words(house: House) -> None:
    task = await house.until_it_is(await house.prompt("wait"), TaskStatus.RUNNING)
    async with house.stage.database.reading() as connection:
        (speaker,) = await companions.of(connection, house.sandbox.id)
    flood = [Told(task=task.id, n=n, kind="text", text="x" * 60_000) for n in range(1, 200)]
    async with house.stage.database.writing() as connection:
        await agents.hear(connection, speaker, flood, 7, "system")
        found = await agents.events_after(connection, task.id, -1, 1000)
    assert sum(len(json.dumps(dict(one.data))) for one in found) <= 5 << 20
    for strange in (None, 7, [], {}, {"task": task.id, "n": -1, "kind": "completed"}, {"task": task.id, "n": 1}):
        assert read_told(strange) is None
    assert read_told({"task": task.id, "n": 500, "kind": "started", "session": "ses_x/../../auth"}) is None
    assert read_told({"task": task.id, "n": 500, "kind": "completed", "cost": float("nan")}) is None


async def test_a_person_that_the_agent_asks_for_answers_it(house: House) -> None:
    task = await house.until_it_is(await house.prompt("ask"), TaskStatus.RUNNING)

    async def asked() -> Any:
        return await house.handoffs.latest(house.sandbox.id)

    handoff = await house.until(asked)
    assert (handoff.id, handoff.requested_by, handoff.reason) == (ASK, "agent", "mfa")
    assert handoff.message == "A code, please"
    await house.handoffs.accept(house.caller, house.sandbox.id, "ada")
    await house.handoffs.complete(house.caller, house.sandbox.id, "typed it")
    done = await house.until_it_is(task, TaskStatus.COMPLETED)
    assert done.result is not None
    assert json.loads(done.result["text"]) == {"status": "completed", "note": "typed it", "sentence": None}
    assert len(house.heard("answer")) == 1


async def test_an_agent_that_was_interrupted_while_it_waited_gets_the_answer_to_what_it_had_asked(house: House) -> None:
    task = await house.until_it_is(await house.prompt("ask"), TaskStatus.RUNNING)

    async def asked() -> Any:
        return await house.handoffs.latest(house.sandbox.id)

    first = await house.until(asked)
    house.kill()  # the next asks in other words, as it does not know of the first
    again = await house.until(lambda: len(house.heard("prompt")) == 2 and house.heard("prompt")[-1])
    assert again["again"]
    await house.until(lambda: _adopted(house, task))
    await house.handoffs.accept(house.caller, house.sandbox.id, "ada")
    await house.handoffs.complete(house.caller, house.sandbox.id, "typed it")
    done = await house.until_it_is(task, TaskStatus.COMPLETED)
    assert done.result is not None
    assert json.loads(done.result["text"])["note"] == "typed it"
    assert (await asked()).id == first.id


async def _adopted(house: House, task: Task) -> bool:
    now = await house.read(task)
    return now.ask is not None and now.ask.get("handoff") == ASK


async def test_a_person_that_cannot_be_asked_for_is_refused_with_why(house: House) -> None:
    await house.handoffs.request(house.caller, house.sandbox.id, "captcha", "mine")
    task = await house.prompt("ask")
    done = await house.until_it_is(task, TaskStatus.COMPLETED)
    assert done.result is not None
    answer = json.loads(done.result["text"])
    assert (answer["status"], answer["sentence"]) == ("refused", "A handoff is pending already")


async def test_an_agent_that_names_the_handoff_of_another_sandbox_learns_nothing_of_it(
    house: House, stage: Stage
) -> None:
    other = await stage.sandboxes.create(house.caller, NewSandbox(runtime="base", capabilities=WISH))
    theirs = replace(house.sandbox, id=other.id)
    await house.handoffs.ask(theirs, "mfa", "theirs", actor="me", requested_by="agent", handoff_id=ASK)
    done = await house.until_it_is(await house.prompt("ask"), TaskStatus.COMPLETED)
    assert done.result is not None
    assert json.loads(done.result["text"]) == {"status": "refused", "note": None, "sentence": "That cannot be asked"}


async def test_a_handoff_completed_with_a_prompt_goes_on_in_the_last_session(house: House) -> None:
    await house.until_it_is(await house.prompt("sums", session="ses_a"), TaskStatus.COMPLETED)
    await house.handoffs.request(house.caller, house.sandbox.id, "mfa", "code", resume_prompt="Go on")
    await house.handoffs.accept(house.caller, house.sandbox.id, "ada")
    for _ in range(2):
        done = await house.handoffs.complete(house.caller, house.sandbox.id, None)
    assert done.status is HandoffStatus.COMPLETED
    page = await house.agents.list(house.caller, house.sandbox.id)
    assert [(one.prompt, one.session, one.handoff) for one in page.items] == [
        ("Go on", "ses_a", done.id),
        ("sums", "ses_a", None),
    ]
    await house.until_it_is(page.items[0], TaskStatus.COMPLETED)


async def test_going_back_to_a_checkpoint_ends_what_was_to_be_done(house: House) -> None:
    task = await house.until_it_is(await house.prompt("wait"), TaskStatus.RUNNING)
    async with house.stage.database.writing() as connection:
        await agents.roll_back(connection, house.sandbox.id, 7, "system")
    assert (await house.read(task)).reason is TaskReason.ROLLED_BACK
    await house.until(lambda: house.heard("abort"))  # what goes on of it in memory is stopped


async def test_too_much_is_not_queued(house: House) -> None:
    for n in range(OPEN_MOST):
        await house.prompt(f"number {n}")
    with pytest.raises(LimitReached):
        await house.prompt("one more")


async def test_only_a_sandbox_that_has_an_agent_and_is_ready_takes_prompts(house: House, stage: Stage) -> None:
    without = await stage.sandboxes.create(house.caller, NewSandbox(runtime="base"))
    with pytest.raises(Conflict, match="no agent"):
        await house.agents.prompt(house.caller, without.id, Prompt("x"))
    shut = {"agent": {"enabled": True, "allowPromptApi": False}}
    other = await stage.sandboxes.create(house.caller, NewSandbox(runtime="base", capabilities=shut))
    with pytest.raises(Conflict, match="allowPromptApi"):
        await house.agents.prompt(house.caller, other.id, Prompt("x"))
    early = await stage.sandboxes.create(house.caller, NewSandbox(runtime="base", capabilities=WISH))
    with pytest.raises(NotReady):
        await house.agents.prompt(house.caller, early.id, Prompt("x"))


async def test_by_http_a_prompt_waits_and_a_task_is_read_listed_and_given_up(
    house: House, stage: Stage, key: str, api: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    box = house.sandbox.id
    rounds = asyncio.create_task(house.until(lambda: False))
    try:
        done = (await api.post(f"{PATH}/prompt", json={"id": box, "prompt": "sums", "metadata": {"a": "b"}})).json()
        assert (done["status"], done["result"]["text"], done["metadata"]) == ("completed", "did sums", {"a": "b"})
        body = {"id": box, "prompt": "wait", "sessionId": "ses_1"}
        keyed = {"Idempotency-Key": "once"}
        made = [(await api.post(f"{PATH}/tasks", json=body, headers=keyed)).json() for _ in range(2)]
        assert made[0]["taskId"] == made[1]["taskId"]
        task = made[0]["taskId"]
        page = (await api.get(f"{PATH}/tasks", params={"id": box, "limit": 1})).json()
        assert [one["taskId"] for one in page["items"]] == [task]
        rest = (await api.get(f"{PATH}/tasks", params={"id": box, "cursor": page["nextCursor"]})).json()
        assert [one["taskId"] for one in rest["items"]] == [done["taskId"]]
        for path, ask in (
            ("/tasks", stranger.get(f"{PATH}/tasks", params={"id": box})),
            ("/events", stranger.get(f"{PATH}/tasks/events", params={"id": box, "taskId": task})),
            ("/cancel", stranger.post(f"{PATH}/tasks/cancel", json={"id": box, "taskId": task})),
            ("/prompt", stranger.post(f"{PATH}/prompt", json={"id": box, "prompt": "x"})),
        ):
            assert (await ask).status_code == 404, path
        gone = (await api.post(f"{PATH}/tasks/cancel", json={"id": box, "taskId": task})).json()
        assert (gone["status"], gone["reason"]) == ("failed", "cancelled")
        told = await api.get(f"{PATH}/tasks/events", params={"id": box, "taskId": done["taskId"]})
        names = [line[7:] for line in told.text.splitlines() if line.startswith("event: ")]
        assert names == ["started", "text", "completed", "task"]
        shown = (await api.get("/v1/sandboxes", params={"id": box})).json()["opencode"]
        assert (shown["enabled"], shown["status"], shown["defaultAgent"]) == (True, "ready", "build")
        missing = await api.get(f"{PATH}/tasks", params={"id": box, "taskId": "d" * 32})
        assert (missing.status_code, missing.json()["error"]) == (404, "Task not found")
    finally:
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
