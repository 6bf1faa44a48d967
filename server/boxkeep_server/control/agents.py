"""AI agents of sandboxes: how each is started, and what users have it do."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.changes import Changes
from boxkeep_server.control.companions import Companions, Kind
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import SYSTEM, WORK, Steps
from boxkeep_server.control.visits import Visits
from boxkeep_server.model import agents as model
from boxkeep_server.model.agents import Agent, Task, TaskEvent, TaskReason, TaskStatus, agent_wish, read_told
from boxkeep_server.model.browsers import browser_wish
from boxkeep_server.model.companions import Companion, CompanionState, Said
from boxkeep_server.model.cursors import cursor_of, read_cursor
from boxkeep_server.model.errors import Conflict, LimitReached, NotFound
from boxkeep_server.model.events import EventType
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import agents, organisations
from boxkeep_server.store.database import Database

PROGRAM: Final = "/.boxkeep/guest/bin/agent"
USER: Final = "root"
WORKSPACE: Final = "/workspace"
LOOK_S: Final = 1.0
PAGE: Final = 200


class TaskNotFound(NotFound):
    """The sandbox has no such task."""

    def __init__(self) -> None:
        super().__init__("Task not found")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A wish: what is to be done, by which of opencode's agents, in which session; None for the usual and a new one."""

    text: str
    agent: str | None = None
    session: str | None = None
    metadata: Mapping[str, str] | None = None
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some tasks, and the cursor behind which there are more."""

    items: Sequence[Task]
    next_cursor: str | None


class Agents:
    """The use cases. All raise `SandboxNotFound`, and those about a task `TaskNotFound`."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        changes: Changes,
        sandboxes: Sandboxes,
        companions: Companions,
        visits: Visits,
    ) -> None:
        self._database = database
        self._steps = steps
        self._changes = changes
        self._sandboxes = sandboxes
        self._companions = companions
        self._visits = visits
        self._busy: set[str] = set()

    def wanted(self, sandbox: Sandbox) -> Sequence[Kind]:
        """The companions that a sandbox's agent is made of."""
        wish = agent_wish(sandbox.capabilities)
        if wish is None:
            return ()
        return (
            Kind(
                name=model.NAME,
                program=PROGRAM,
                told_first=partial(_wish, sandbox),
                user=USER,
                became_ready=EventType.AGENT_READY,
                became_failed=EventType.AGENT_FAILED,
                hear=self._hear,
            ),
        )

    def busy(self, sandbox_id: str) -> bool:
        """Whether an agent has something to do in a sandbox that is ready, as far as this process has seen."""
        return sandbox_id in self._busy

    def seen_busy(self, sandboxes: set[str]) -> None:
        """These are the sandboxes in which agents have something to do."""
        self._busy = sandboxes

    async def of(self, sandbox: Sandbox) -> Agent | None:
        """A sandbox's agent as it is now, None where it has none."""
        wish = agent_wish(sandbox.capabilities)
        if wish is None or not sandbox.running:
            return None
        companion = (await self._companions.of(sandbox.id)).get(model.NAME)
        if companion is None or companion.epoch != sandbox.epoch:
            began = sandbox.ready_at or sandbox.created_at
            return Agent(wish, CompanionState.STARTING, None, began)
        return Agent(wish, companion.state, companion.reason, companion.updated_at)

    async def prompt(self, caller: Caller, sandbox_id: str, wish: Prompt, task_id: str | None = None) -> Task:
        """Have a sandbox's agent do something; it is queued behind what it has to do already. One that is there under
        `task_id` is given as it is.

        Raises:
            NotReady: the sandbox takes no calls now.
            Conflict: it has no agent, or none that takes prompts.
            LimitReached: too much is queued already.
        """
        sandbox = await self._with_agent(caller, sandbox_id)
        sandbox = (await self._visits.enter(sandbox, caller.key_id)).sandbox
        new = self._task(sandbox, caller.key_id, wish, task_id or new_id())
        await self._companions.try_again(sandbox, model.NAME)
        async with self._database.writing() as connection:
            await organisations.lock_organisation(connection, sandbox.organisation)
            if (made := await agents.get(connection, new.id)) is not None:
                return made
            if await agents.open_count(connection, sandbox.id) >= model.OPEN_MOST:
                raise LimitReached(f"The sandbox's agent has {model.OPEN_MOST} tasks to do already")
            await agents.add(connection, new)
        self._told(new)
        return new

    async def ended(self, task: Task) -> Task:
        """A task once it has come to its end."""
        with self._changes.listen(task.sandbox) as ear:
            while True:
                async with self._database.reading() as connection:
                    now = await agents.get(connection, task.id)
                if now is None:
                    raise TaskNotFound
                if not now.open:
                    return now
                await ear.heard(LOOK_S)

    async def read(self, caller: Caller, sandbox_id: str, task_id: str) -> Task:
        """A task."""
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        async with self._database.reading() as connection:
            found = await agents.get(connection, task_id)
        if found is None or found.sandbox != sandbox.id:
            raise TaskNotFound
        return found

    async def list(self, caller: Caller, sandbox_id: str, *, cursor: str | None = None, limit: int = 20) -> TaskPage:
        """Tasks, newest first.

        Raises:
            Invalid: the cursor is none of ours.
        """
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        before = None if cursor is None else read_cursor(cursor)
        async with self._database.scanning() as connection:
            found = await agents.page(connection, sandbox.id, before=before, limit=limit + 1)
        items = found[:limit]
        more = len(found) > limit
        return TaskPage(items, cursor_of(items[-1].created_at, items[-1].id) if more else None)

    async def cancel(self, caller: Caller, sandbox_id: str, task_id: str) -> Task:
        """Have a task not go on; one that has come to its end stays as it is."""
        task = await self.read(caller, sandbox_id, task_id)
        async with self._database.writing() as connection:
            await agents.fail(connection, task, TaskReason.CANCELLED, self._steps.now_ms(), caller.key_id)
        self._told(task)
        return await self.read(caller, sandbox_id, task_id)

    async def follow(
        self, caller: Caller, sandbox_id: str, task_id: str, after: int
    ) -> AsyncGenerator[TaskEvent | Task, None]:
        """What happens in a task behind its `after`th thing, as it happens, and the task at last."""
        with self._changes.listen(sandbox_id) as ear:
            while True:
                task = await self.read(caller, sandbox_id, task_id)
                async with self._database.reading() as connection:
                    news = await agents.events_after(connection, task_id, after, PAGE)
                for event in news:
                    after = event.n
                    yield event
                if not news and not task.open:
                    yield task
                    return
                if not news:
                    await ear.heard(LOOK_S)

    def _task(self, sandbox: Sandbox, actor: str, wish: Prompt, task_id: str) -> Task:
        return Task(
            id=task_id,
            sandbox=sandbox.id,
            organisation=sandbox.organisation,
            created_by=actor,
            status=TaskStatus.QUEUED,
            prompt=wish.text,
            agent=wish.agent,
            session=wish.session,
            metadata=wish.metadata,
            handoff=None,
            timeout_ms=wish.timeout_ms,
            created_at=self._steps.now_ms(),
        )

    async def _with_agent(self, caller: Caller, sandbox_id: str) -> Sandbox:
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        wish = agent_wish(sandbox.capabilities)
        if wish is None:
            raise Conflict("The sandbox has no agent: it was not created with capabilities.opencode.enabled")
        if not wish.prompts:
            raise Conflict("The sandbox was created with capabilities.opencode.allowPromptApi false")
        return sandbox

    def _told(self, task: Task) -> None:
        self._busy.add(task.sandbox)
        self._steps.tell_of(task.sandbox)
        self._steps.wake(WORK)

    async def _hear(self, connection: AsyncConnection, speaker: Companion, said: Sequence[Said]) -> None:
        told = [one for line in said if line.event == "task" and (one := read_told(line.about)) is not None]
        await agents.hear(connection, speaker, told, self._steps.now_ms(), SYSTEM)
        self._steps.wake(WORK)


async def _wish(sandbox: Sandbox) -> bytes:
    wish, browser = agent_wish(sandbox.capabilities), browser_wish(sandbox.capabilities)
    told = {
        "agent": None if wish is None else wish.default_agent,
        "workspace": WORKSPACE,
        "browser": browser is not None,
        "person": browser is not None and browser.human_in_loop,
    }
    return orjson.dumps(told) + b"\n"
