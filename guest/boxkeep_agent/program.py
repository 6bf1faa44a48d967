"""The agent as a program: opencode is there, is mended when it breaks, and does one task after the other."""

import asyncio
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any, Final

from boxkeep_agent import asking
from boxkeep_agent.api import Away
from boxkeep_agent.models import NONE, models_of
from boxkeep_agent.persons import Persons
from boxkeep_agent.server import NotStarted, OpenCode
from boxkeep_agent.story import FIELD_MOST, cut
from boxkeep_agent.tasks import Order, Task
from boxkeep_agent.wish import BadWish, Wish, read_wish
from boxkeep_desktop.reports import listen, orders, report

_SOCKET: Final = Path("/run/boxkeep-agent.sock")
_AGAIN_S: Final = 0.5
_BACKOFF_S: Final = (0.2, 1.0, 5.0)
_CRASHES_MOST: Final = 5
_CRASHES_WITHIN_S: Final = 120.0
_STARTS_MOST: Final = 3
_REMEMBERED: Final = 200


class Agent:
    """One agent. `run` returns when nobody can give it orders any more, or opencode breaks time and again."""

    def __init__(self, wish: Wish, told: asyncio.StreamReader) -> None:
        self._wish = wish
        self._orders = told
        self._models = models_of(os.environ)
        self._opencode: OpenCode | None = None
        self._task: Task | None = None
        self._work: asyncio.Task[None] | None = None
        self._counts: dict[str, int] = {}
        self._devtools: int | None = None
        self._persons = Persons(self._tell)
        self._broke: deque[float] = deque(maxlen=_CRASHES_MOST)

    async def run(self) -> int:
        """Be there; the exit status."""
        report("fact", facts={"task": "", "ask": "", "devtools": ""})
        server = await asking.serve(_SOCKET, self._answer)
        ordered = asyncio.create_task(self._obey())
        kept = asyncio.create_task(self._keep())
        try:
            await asyncio.wait((ordered, kept), return_when=asyncio.FIRST_COMPLETED)
            return kept.result() if kept.done() else 0
        finally:
            server.close()
            for task in (ordered, kept):
                task.cancel()
            await asyncio.gather(ordered, kept, return_exceptions=True)
            await self._end()

    async def _keep(self) -> int:
        """Have opencode there for as long as it does not break too often."""
        starts = 0
        while True:
            try:
                starts += 1
                self._opencode = await OpenCode.start(self._wish, self._models, str(_SOCKET))
                starts = 0
                report("ready", ports={"opencode": self._opencode.port})
                reason = await self._until_broken(self._opencode)
            except NotStarted as error:
                reason = str(error)
            report("crashed", reason=cut(reason, 1000))
            await self._end()
            if starts >= _STARTS_MOST or not await self._may_go_on():
                report("failed", reason=f"opencode does not stay: {cut(reason, 800)}")
                return 1

    async def _until_broken(self, opencode: OpenCode) -> str:
        listening = asyncio.create_task(self._listen(opencode))
        try:
            status = await opencode.ended()
            return f"opencode has ended: {f'signal {-status}' if status < 0 else f'status {status}'}"
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, opencode: OpenCode) -> None:
        while True:
            try:
                async for event in opencode.api.events():
                    if self._task is not None:
                        self._task.heard(event)
            except Away:
                pass
            await asyncio.sleep(_AGAIN_S)

    async def _may_go_on(self) -> bool:
        """Wait a little longer each time; False once it is no use."""
        now = asyncio.get_running_loop().time()
        self._broke.append(now)
        recent = sum(now - at < _CRASHES_WITHIN_S for at in self._broke)
        if recent == _CRASHES_MOST:
            return False
        await asyncio.sleep(_BACKOFF_S[min(recent, len(_BACKOFF_S)) - 1])
        return True

    async def _end(self) -> None:
        """End opencode. What it worked on has no last word: it is given again."""
        opencode, self._opencode = self._opencode, None
        if opencode is not None:
            await opencode.end()
        await self._let_go()

    async def _obey(self) -> None:
        async for order in orders(self._orders):
            try:
                await self._do(order)
                report("done", order=order.get("id"))
            except Away as error:
                report("refused", order=order.get("id"), reason=cut(str(error), 1000))
            except (KeyError, TypeError, ValueError) as error:
                report("refused", order=order.get("id"), reason=f"The order cannot be understood: {error!r}"[:1000])

    async def _do(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "prompt":
                self._begin(order)
            case "abort":
                await self._abort(str(order["task"]))
            case "browser":
                self._devtools = order["port"]
                report("fact", facts={"devtools": str(self._devtools or "")})
            case "answer":
                self._persons.answered(str(order["ask"]), order["answer"])
            case unknown:
                raise ValueError(unknown)

    def _begin(self, order: dict[str, Any]) -> None:
        """Begin with a task, unless it is under way."""
        wished = Order(
            task=str(order["task"]),
            prompt=str(order["prompt"]),
            agent=str(order["agent"] or self._wish.agent),
            session=order["session"],
            again=bool(order["again"]),
        )
        if self._task is not None:
            if self._task.order.task == wished.task:
                return
            raise Away("The agent works on something else")
        if int(order["from"]) < self._counts.get(wished.task, 0):
            return  # who ordered it has not heard yet what came of it
        if self._opencode is None:
            raise Away("The agent is starting")
        self._counts.pop(wished.task, None)
        self._counts[wished.task] = int(order["from"])
        for old in list(self._counts)[:-_REMEMBERED]:
            del self._counts[old]
        report("fact", facts={"task": wished.task})
        if self._models is None:
            self._tell({"kind": "failed", "text": NONE}, wished.task)
            report("fact", facts={"task": ""})
            return
        self._task = Task(wished, self._opencode.api, self._opencode.agents, self._wish.workspace, self._tell)
        self._work = asyncio.create_task(self._see_through(self._task, self._opencode))

    async def _see_through(self, task: Task, opencode: OpenCode) -> None:
        try:
            await task.run()
        except Away as error:  # given again, once opencode is there
            self._tell({"kind": "interrupted", "text": cut(str(error), FIELD_MOST)})
            if not await _stopped(task):
                await opencode.end()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._tell(
                {"kind": "failed", "text": cut(f"opencode answers what is not understood: {error!r}", FIELD_MOST)}
            )
        finally:
            self._forget()

    async def _abort(self, name: str) -> None:
        """Have a task not go on, if it is under way."""
        task, opencode = self._task, self._opencode
        if task is None or task.order.task != name:
            return
        stopped = await _stopped(task)
        await self._let_go()
        if not stopped and opencode is not None:
            await opencode.end()

    async def _let_go(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        self._forget()

    def _forget(self) -> None:
        if self._task is not None:
            self._task = None
            self._persons.forget()
            report("fact", facts={"task": ""})

    def _tell(self, told: dict[str, Any], task: str | None = None) -> None:
        """Tell something of the task under way."""
        name = task or (self._task.order.task if self._task is not None else None)
        if name is not None:
            report("task", about={"task": name, "n": self._counts[name], **told})
            self._counts[name] += 1

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """What the agent's tools are answered."""
        match question.get("ask"):
            case "browser":
                return {"port": self._devtools}
            case "person":
                if self._task is None:
                    return {"status": "refused", "note": None, "sentence": "There is no task under way"}
                return await self._persons.ask(str(question.get("reason")), str(question.get("message")))
            case _:
                return {"status": "refused", "note": None, "sentence": "That cannot be asked"}


async def _stopped(task: Task) -> bool:
    """Have opencode not go on with a task; whether it has heard and stopped."""
    try:
        return await task.stop()
    except Away:
        return False


async def _run() -> int:
    told = await listen()
    try:
        wish = read_wish(await told.readline())
    except BadWish as error:
        sys.stderr.write(f"boxkeep-agent: {error}\n")
        return 2
    return await Agent(wish, told).run()


def main() -> int:
    """Run the agent that the first line of standard input wishes; its exit status."""
    return asyncio.run(_run())
