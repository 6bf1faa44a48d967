"""Who looks at previews: counted where they are served, and known to the rest of the control plane."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

EVERY_S: Final = 1.0
SETTLE_S: Final = 0.1
_REMEMBERED: Final = 100_000


class Presence:
    """Counts visitors by sandbox, where they are served."""

    def __init__(self) -> None:
        self._visitors: Counter[str] = Counter()
        self._came: set[str] = set()
        self._changed = asyncio.Event()

    @contextmanager
    def at(self, sandbox: str) -> Iterator[None]:
        """Be counted while the block runs."""
        self._visitors[sandbox] += 1
        self._came.add(sandbox)
        self._changed.set()
        try:
            yield
        finally:
            self._visitors[sandbox] -= 1
            if not self._visitors[sandbox]:
                del self._visitors[sandbox]
                self._changed.set()

    async def reports(self) -> AsyncGenerator[Collection[str], None]:
        """Where somebody is, or has been since the last report: soon after each change, and every second at least."""
        while True:
            came, self._came = self._came, set()
            yield came | self._visitors.keys()
            if not came - self._visitors.keys():  # else those who left already are told of at once
                await self._change()
            await asyncio.sleep(SETTLE_S)

    async def _change(self) -> None:
        try:
            async with asyncio.timeout(EVERY_S):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()


class Attendance:
    """Knows from reports where somebody is. `monotonic_ms` is a clock that never goes back."""

    def __init__(self, monotonic_ms: Callable[[], float]) -> None:
        self._monotonic_ms = monotonic_ms
        self._there: Collection[str] = frozenset()
        self._seen_at: OrderedDict[str, float] = OrderedDict()

    def report(self, sandboxes: Collection[str]) -> None:
        """Take a report: in these sandboxes somebody is, or has just been, and nowhere else."""
        self._there = frozenset(sandboxes)
        now = self._monotonic_ms()
        for sandbox in self._there:
            self._seen_at[sandbox] = now
            self._seen_at.move_to_end(sandbox)
        while len(self._seen_at) > _REMEMBERED:
            self._seen_at.popitem(last=False)

    def has(self, sandbox: str) -> bool:
        """Whether somebody is in a sandbox now."""
        return sandbox in self._there

    def count(self) -> int:
        """In how many sandboxes somebody is now."""
        return len(self._there)

    def seen_at(self, sandbox: str) -> float:
        """When somebody was last seen in a sandbox, monotonic ms; 0 where that is not known."""
        return self._seen_at.get(sandbox, 0)
