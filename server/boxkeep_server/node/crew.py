"""Tasks that belong to somebody: whoever starts one owns it, and none is forgotten when the owner ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Crew:
    """A set of tasks that live until they are done or the crew is dismissed.

    A task that somebody waits for tells its failure to them; one of `watch` makes `faulted` raise it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._fault: asyncio.Future[None] | None = None

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work whose outcome is waited for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._left)
        return task

    def watch(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin work that nobody waits for; its failure is everybody's."""
        task = self.start(work)
        task.add_done_callback(self._report)
        return task

    async def faulted(self) -> None:
        """Wait for a failure of what `watch` began, and raise it."""
        self._fault = self._fault or asyncio.get_running_loop().create_future()
        await self._fault

    async def dismiss(self) -> None:
        """Cancel every task and wait until all have ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _left(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its waiters have it; without any it is no warning of the loop's

    def _report(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._fault = self._fault or asyncio.get_running_loop().create_future()
        if not self._fault.done():
            self._fault.set_exception(error)
