"""Who may start a machine now: claims in order of arrival and few at a time; the pool only while none waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

CALM_S: Final = 0.5
"""How long after a claim the pool waits: what was claimed gets its first commands then."""
PATIENCE_S: Final = 3.0
"""The longest that claims which keep coming hold up the pool, while it has what they ask for."""


class Berths:
    """Bounds how many machines are started at once, so that each comes up as fast as it can."""

    def __init__(self, at_once: int, calm_s: float = CALM_S) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._wanted = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._calm_s = calm_s
        self._calm_at = 0.0

    def called(self) -> None:
        """A claim has come, whether it needs a place or not."""
        self._calm_at = asyncio.get_running_loop().time() + self._calm_s

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """A place for one claim, first come first served."""
        self._wanted += 1
        self._quiet.clear()
        try:
            async with self._places:
                yield
        finally:
            self._wanted -= 1
            if not self._wanted:
                self._quiet.set()

    async def quiet(self) -> None:
        """Wait until no claim is being started or waits to be, and none has come for a moment."""
        clock = asyncio.get_running_loop().time
        impatient_at = clock() + PATIENCE_S
        await self._quiet.wait()
        while (left := min(self._calm_at, impatient_at) - clock()) > 0:
            await asyncio.sleep(left)
            await self._quiet.wait()
