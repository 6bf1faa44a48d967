"""One task from its prompt to its end, told as it goes on."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from boxkeep_agent import workspace
from boxkeep_agent.api import Api, Refused
from boxkeep_agent.results import result_of
from boxkeep_agent.story import FIELD_MOST, Story, cut

_LOOK_S: Final = 2.0
_ANSWER_S: Final = 60.0
_STOP_S: Final = 20.0
_GO_ON: Final = (
    "The work on this was interrupted before it was finished, as the machine that it ran on was stopped. Files are as "
    "they were left then, but no program runs on. See how far it had come, and finish it."
)

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Order:
    """What is to be done: the prompt of a task, by one of opencode's agents, in a session or in a new one; `again`
    where it was begun there before."""

    task: str
    prompt: str
    agent: str
    session: str | None
    again: bool


class Task:
    """A task under way. `heard` is to be given every event of opencode's; `known` are agents of it that were found."""

    def __init__(self, order: Order, api: Api, known: set[str], directory: str, tell: Tell) -> None:
        self.order = order
        self._api = api
        self._known = known
        self._directory = directory
        self._tell = tell
        self._session: str | None = None
        self._story: Story | None = None
        self._idle = asyncio.Event()

    async def run(self) -> None:
        """Do it; its last word is `completed` or `failed`.

        Raises:
            Away: opencode is gone, and so there is no last word.
        """
        before = await asyncio.to_thread(workspace.look, self._directory)
        try:
            result = await self._result()
        except Refused as refused:
            result = {"kind": "failed", "text": cut(str(refused), FIELD_MOST)}
        files, more = workspace.changed(before, await asyncio.to_thread(workspace.look, self._directory))
        self._tell({**result, "files": files, "moreFiles": more})

    def heard(self, event: dict[str, Any]) -> None:
        """Something has happened in opencode."""
        if self._story is None:
            return
        for told in self._story.told(event):
            self._tell(told)
        if event.get("type") == "session.idle":
            self._idle.set()

    async def stop(self) -> bool:
        """Have it not go on; whether opencode has heard of it and stopped."""
        if self._session is None:
            return True
        try:
            async with asyncio.timeout(_STOP_S):
                with contextlib.suppress(Refused):
                    await self._api.call("POST", f"/session/{self._session}/abort")
                await self._until_idle()
        except TimeoutError:
            return False
        return True

    async def _until_idle(self) -> None:
        busy = await self._busy()
        while busy:
            await asyncio.sleep(_LOOK_S / 4)
            busy = await self._busy()

    async def _result(self) -> dict[str, Any]:
        await self._check_agent()
        self._session = await self._own_session()
        self._story = Story(self._session)
        self._tell({"kind": "started", "session": self._session})
        before = len(await self._messages()) if self._session == self.order.session else 0
        text = _GO_ON if self.order.again and before else self.order.prompt
        body = {"agent": self.order.agent, "parts": [{"type": "text", "text": text}]}
        await self._api.call("POST", f"/session/{self._session}/prompt_async", body)
        return await self._until_answered(before)

    async def _check_agent(self) -> None:
        """Raise `Refused` unless there is such an agent: opencode itself would say nothing at all."""
        if self.order.agent in self._known:
            return
        there = [str(one.get("name")) for one in await self._api.call("GET", "/agent") if isinstance(one, dict)]
        self._known.update(there)
        if self.order.agent not in there:
            raise Refused(f"opencode has no agent {self.order.agent}; it has {', '.join(there)}")

    async def _own_session(self) -> str:
        if self.order.session is not None:
            try:
                await self._api.call("GET", f"/session/{self.order.session}")
            except Refused:
                if not self.order.again:
                    raise Refused("There is no such session in this sandbox") from None
            else:
                return self.order.session
        made = await self._api.call("POST", "/session", {"title": self.order.prompt.strip()[:80] or "task"})
        return str(made["id"])

    async def _until_answered(self, before: int) -> dict[str, Any]:
        """The outcome, once the session has nothing more to do."""
        silent_until = asyncio.get_running_loop().time() + _ANSWER_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._idle.wait()
            self._idle.clear()
            if await self._busy():
                continue
            result = result_of((await self._messages())[before:])
            if result is not None:
                return result
            if asyncio.get_running_loop().time() > silent_until:
                await self.stop()
                raise Refused("The agent has answered nothing")

    async def _busy(self) -> bool:
        states = await self._api.call("GET", "/session/status")
        state = states.get(self._session) if isinstance(states, dict) else None
        return isinstance(state, dict) and state.get("type") != "idle"

    async def _messages(self) -> list[dict[str, Any]]:
        found = await self._api.call("GET", f"/session/{self._session}/message")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
