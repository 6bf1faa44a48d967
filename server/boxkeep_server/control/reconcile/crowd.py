"""Work under way in the background, one task a key, bounded in number."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

LOG = structlog.get_logger("boxkeep.control")


class Crowd:
    """At most `at_once` tasks, none twice for the same key. A task that fails is logged and may be started again."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    @property
    def room(self) -> int:
        """How many more may be started."""
        return self._at_once - len(self._tasks)

    def start(self, key: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Start work unless it is under way or there is no room; whether it was started."""
        if key in self._tasks or self.room <= 0:
            return False
        task = asyncio.create_task(self._run(key, work))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return True

    async def _run(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:  # a reconciler goes on: what is wanted stands in the store and is tried again
            LOG.exception("work failed", key=key)

    async def settled(self) -> None:
        """Return when nothing is under way."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def close(self) -> None:
        """Cancel what is under way."""
        for task in list(self._tasks.values()):
            task.cancel()
        await self.settled()
