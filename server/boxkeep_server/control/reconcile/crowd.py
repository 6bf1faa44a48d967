"""Work under way in the background, one task a key, bounded in number."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from boxkeep_server.model.errors import Unavailable

_log = logging.getLogger(__name__)


class Crowd:
    """At most `at_once` tasks, none twice for the same key. A task that fails is logged and may be started again.

    `freed` is called whenever one has ended.
    """

    def __init__(self, at_once: int, freed: Callable[[], None] = lambda: None) -> None:
        self._at_once = at_once
        self._freed = freed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

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
        task.add_done_callback(lambda _: self._end(key))
        return True

    def _end(self, key: str) -> None:
        del self._tasks[key]
        self._freed()

    async def _run(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Unavailable as away:
            _log.warning("work on %s waits for the store: %s", key, away)
        except Exception:  # noqa: BLE001 - a reconciler goes on: what is wanted stands in the store and is tried again
            _log.exception("work on %s failed", key)

    async def settled(self) -> None:
        """Return when nothing is under way.

        Raises:
            BaseException: what ended a task that was not a failure of its work.
        """
        while self._tasks:
            await asyncio.gather(*self._tasks.values())

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
