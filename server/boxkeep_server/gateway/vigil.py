"""Cuts off whoever looks at a preview and may no longer: a revoked key, a port made private."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from boxkeep_server.gateway.entrance import Admission
from boxkeep_server.model.errors import Unavailable

CHECK_S = 0.9


class Withdrawn(Exception):
    """The right to look was one, and is no more."""


class Vigil:
    """Looks at each admission of which use is made, once for all who use it. `holds` says whether it is one still."""

    def __init__(self, holds: Callable[[Admission], Awaitable[bool]], check_s: float = CHECK_S) -> None:
        self._holds = holds
        self._check_s = check_s
        self._uses: dict[Admission, set[asyncio.Timeout]] = {}

    @asynccontextmanager
    async def while_admitted(self, admission: Admission) -> AsyncIterator[None]:
        """Run the block as long as the admission holds.

        Raises:
            Withdrawn: it ceased to; the block has been cancelled.
        """
        scope = asyncio.timeout(None)
        uses = self._uses.setdefault(admission, set())
        try:
            async with scope:
                uses.add(scope)
                try:
                    yield
                finally:
                    uses.discard(scope)
                    if not uses and self._uses.get(admission) is uses:
                        del self._uses[admission]
        except TimeoutError as over:
            if not scope.expired():
                raise
            raise Withdrawn from over

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            await asyncio.sleep(self._check_s)
            await self.run_once()

    async def run_once(self) -> None:
        """Look at each admission in use; a store that is away withdraws nothing."""
        for admission in list(self._uses):
            try:
                if await self._holds(admission):
                    continue
            except Unavailable:
                return
            now = asyncio.get_running_loop().time()
            for scope in self._uses.get(admission, ()):
                if scope.when() is None:
                    scope.reschedule(now)
