"""Who may start a machine now: claims in order of arrival and few at a time; the pool only while none waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Berths:
    """Bounds how many machines are started at once, so that each comes up as fast as it can."""

    def __init__(self, at_once: int) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._wanted = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

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
        """Wait until no claim is being started or waits to be."""
        await self._quiet.wait()
