"""Cuts off whoever waits for a sandbox that is no longer ready: nothing waits for a machine that is gone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager

from boxkeep_server.model.errors import NotReady, Unavailable
from boxkeep_server.model.statuses import Status

_log = logging.getLogger(__name__)

POLL_S = 1.0

States = Mapping[str, tuple[Status, int]]


class SandboxGone(NotReady):
    """The sandbox left `ready`, or got another machine, while something waited for its inside."""


class Liveness:
    """Knows which waits hang on which sandbox, and ends them when it is over.

    `states` reads status and epoch of sandboxes from the store, leaving out those that are not there; `changed` returns
    when any sandbox may have changed, and may be late or silent: everything is read again every second anyway.
    `status` is the one that sandboxes have to be in, ready but for those that look into what is ending.
    """

    def __init__(
        self,
        states: Callable[[Collection[str]], Awaitable[States]],
        changed: Callable[[], Awaitable[object]],
        poll_s: float = POLL_S,
        status: Status = Status.READY,
    ) -> None:
        self._states = states
        self._changed = changed
        self._poll_s = poll_s
        self._status = status
        self._waits: dict[tuple[str, int], set[asyncio.Timeout]] = {}

    @asynccontextmanager
    async def while_ready(self, sandbox: str, epoch: int) -> AsyncIterator[None]:
        """Run the block in this task as long as the sandbox is ready in this epoch.

        Raises:
            SandboxGone: it was not, or ceased to be; the block has been cancelled.
        """
        key = (sandbox, epoch)
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._waits.setdefault(key, set()).add(scope)
                try:
                    yield
                finally:
                    self._forget(key, scope)
        except TimeoutError as over:
            if not scope.expired():
                raise
            raise SandboxGone from over

    def waited_for(self, sandbox: str) -> bool:
        """Whether something waits for this sandbox now."""
        return any(name == sandbox for name, _ in self._waits)

    async def run(self) -> None:
        """Watch for ever; a store that is away cuts nobody off."""
        while True:
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._changed()
            except TimeoutError:
                pass
            try:
                await self.run_once()
            except Unavailable as away:
                _log.warning("who waits for sandboxes waits on, for the store is away: %s", away)
                await asyncio.sleep(self._poll_s)

    async def run_once(self) -> int:
        """Cut off the waits for sandboxes that are gone; how many sandboxes those were."""
        keys = list(self._waits)
        if not keys:
            return 0
        states = await self._states({sandbox for sandbox, _ in keys})
        gone = [key for key in keys if states.get(key[0]) != (self._status, key[1])]
        for key in gone:
            self._cut(key)
        return len(gone)

    def _cut(self, key: tuple[str, int]) -> None:
        now = asyncio.get_running_loop().time()
        for scope in self._waits.get(key, ()):
            if scope.when() is None:
                scope.reschedule(now)

    def _forget(self, key: tuple[str, int], scope: asyncio.Timeout) -> None:
        waits = self._waits[key]
        waits.discard(scope)
        if not waits:
            del self._waits[key]
