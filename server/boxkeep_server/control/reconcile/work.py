"""Work: each agent is on the oldest task of its sandbox, and knows what persons that it has asked for have done."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, get_args

from boxkeep_server.control.agents import Agents
from boxkeep_server.control.companions import Companions
from boxkeep_server.control.handoffs import Handoffs
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.steps import SYSTEM, Steps
from boxkeep_server.model import browsers
from boxkeep_server.model.agents import ASK, NAME, TASK, TRIES_MOST, Task, TaskReason, TaskStatus, next_of
from boxkeep_server.model.companions import Companion, CompanionState
from boxkeep_server.model.errors import BoxkeepError, Conflict, NotReady
from boxkeep_server.model.handoffs import HandoffReason
from boxkeep_server.model.machines import MAIN
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import agents, companions, handoffs, sandboxes
from boxkeep_server.store.database import Database

AT_ONCE: Final = 100
HANDOFF: Final = "handoff"
_OVER: Final = (Status.ENDING, Status.ENDED, Status.FAILED)

_log = logging.getLogger(__name__)


class Work:
    """Tells agents that do something else than is written. `linked` gives the port by which a browser is reached that
    runs in another machine than its agent, None while it is reached by none."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        attending: Companions,
        use: Agents,
        persons: Handoffs,
        linked: Callable[[str], int | None] = lambda _sandbox: None,
    ) -> None:
        self._database = database
        self._steps = steps
        self._companions = attending
        self._agents = use
        self._handoffs = persons
        self._linked = linked
        self.crowd = Crowd(AT_ONCE)

    async def run_once(self) -> int:
        """Bring tasks to the ends that are not their agents' to tell, and see to each agent; how many are seen to."""
        await self._settle()
        async with self._database.reading() as connection:
            there = await companions.ready(connection, NAME)
            browsing = await companions.in_ready_sandboxes(connection, browsers.NAME)
            tasks = await agents.of_sandboxes(connection, [one.sandbox for one in there])
        doors = {one.sandbox: self._door(one, sandbox) for one, sandbox in browsing}
        return sum(self._see_to(one, tasks[one.sandbox], doors.get(one.sandbox)) for one in there)

    def _door(self, browser: Companion, sandbox: Sandbox) -> int | None:
        """The port of loopback at which a sandbox's agent finds its browser; None while there is none."""
        if browser.state is not CompanionState.READY:
            return None
        if sandbox.role_for(browsers.NAME) != MAIN:
            return self._linked(sandbox.id)
        return browser.ports.get(browsers.DEVTOOLS)

    async def _settle(self) -> None:
        now = self._steps.now_ms()
        async with self._database.reading() as connection:
            over = await agents.open_in(connection, *_OVER)
            waiting = await agents.open_in(connection, Status.READY)
            given_up = await companions.failed(connection, NAME)
        self._agents.seen_busy({one.sandbox for one in waiting})
        for task in over:
            await self._fail(task, TaskReason.SANDBOX_ENDED)
        for task in waiting:
            if task.late(now):
                await self._fail(task, TaskReason.TIMED_OUT)
            elif task.sandbox in given_up:
                await self._fail(task, TaskReason.INTERRUPTED, given_up[task.sandbox])

    async def _fail(self, task: Task, reason: TaskReason, message: str | None = None) -> None:
        async with self._database.writing() as connection:
            await agents.fail(connection, task, reason, self._steps.now_ms(), SYSTEM, message)
        self._steps.tell_of(task.sandbox)

    def _see_to(self, agent: Companion, tasks: Sequence[Task], devtools: int | None) -> int:
        """Begin with what the agent is to be told, if anything is."""
        if agent.facts.get(browsers.DEVTOOLS, "") != str(devtools or ""):
            return self.crowd.start(agent.sandbox, partial(self._order, agent.sandbox, do="browser", port=devtools))
        now_on, ask = agent.facts.get(TASK) or None, agent.facts.get(ASK) or None
        current = next((one for one in tasks if one.id == now_on), None)
        wanted = next_of(tasks)
        key = agent.sandbox
        if now_on is not None and current is None:
            return self.crowd.start(key, partial(self._order, key, do="abort", task=now_on))
        if now_on is None and wanted is not None:
            return self.crowd.start(key, partial(self._give, wanted))
        if ask is not None and current is not None and current.ask is not None and current.ask.get("id") == ask:
            return self.crowd.start(key, partial(self._ask, agent, current, current.ask))
        return 0

    async def _give(self, task: Task) -> None:
        if task.tries >= TRIES_MOST:
            await self._fail(task, TaskReason.INTERRUPTED)
            return
        order = {
            "do": "prompt",
            "task": task.id,
            "from": task.told,
            "prompt": task.prompt,
            "agent": task.agent,
            "session": task.session,
            "again": task.status is TaskStatus.RUNNING,
        }
        await self._order(task.sandbox, **order)

    async def _ask(self, agent: Companion, task: Task, ask: Mapping[str, str]) -> None:
        """See that a person is asked for, and tell the agent what has come of it once something has."""
        async with self._database.reading() as connection:
            found = await handoffs.get(connection, ask.get(HANDOFF, ask["id"]))
            latest = await handoffs.latest(connection, agent.sandbox)
            sandbox = await sandboxes.get(connection, agent.sandbox)
        if found is not None and found.sandbox != agent.sandbox:  # the name is the sandbox's own choice
            await self._answer(agent, ask["id"], "refused", None, "That cannot be asked")
        elif found is not None:
            if not found.open:
                await self._answer(agent, ask["id"], found.status, found.note)
        elif latest is not None and latest.open and latest.requested_by == "agent":
            await self._adopt(task, {**ask, HANDOFF: latest.id})
        elif sandbox is not None:
            await self._ask_anew(agent, sandbox, ask)

    async def _adopt(self, task: Task, ask: Mapping[str, str]) -> None:
        """The agent has asked before it was interrupted: what comes of that is the answer."""
        async with self._database.writing() as connection:
            await agents.change(connection, task, replace(task, ask=ask), SYSTEM)

    async def _ask_anew(self, agent: Companion, sandbox: Sandbox, ask: Mapping[str, str]) -> None:
        try:
            await self._handoffs.ask(
                sandbox,
                _reason(ask["reason"]),
                ask["message"],
                actor=SYSTEM,
                requested_by="agent",
                handoff_id=ask["id"],
            )
        except NotReady:
            return
        except Conflict as refused:
            await self._answer(agent, ask["id"], "refused", None, str(refused))

    async def _answer(
        self, agent: Companion, ask: str, status: str, note: str | None, sentence: str | None = None
    ) -> None:
        answer = {"status": status, "note": note, "sentence": sentence}
        await self._order(agent.sandbox, do="answer", ask=ask, answer=answer)

    async def _order(self, sandbox_id: str, **order: object) -> None:
        try:
            await self._companions.order_of(sandbox_id, NAME, **order)
        except BoxkeepError as error:  # tried again with the next round
            _log.info("the agent of sandbox %s was not told: %s", sandbox_id, error)


def _reason(name: str) -> HandoffReason:
    return next((one for one in get_args(HandoffReason) if one == name), "custom")
