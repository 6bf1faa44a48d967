"""Attend: ready sandboxes have the companions that their capabilities ask for."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from boxkeep_server.control.companions import Companions, Kind
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.model.errors import BoxkeepError
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import selections
from boxkeep_server.store.database import Database

AT_ONCE: Final = 10_000

_log = logging.getLogger(__name__)


class Attend:
    """`wanted` says which companions a sandbox is to have."""

    def __init__(self, database: Database, attending: Companions, wanted: Callable[[Sandbox], Sequence[Kind]]) -> None:
        self._database = database
        self._companions = attending
        self._wanted = wanted
        self.crowd = Crowd(AT_ONCE)

    async def run_once(self) -> int:
        """See that each of them is attended to; how many were begun with."""
        async with self._database.reading() as connection:
            found = await selections.with_capabilities(connection)
        return sum(
            self.crowd.start(f"{sandbox.id} {kind.name}", partial(self._attend, sandbox, kind))
            for sandbox in found
            for kind in self._wanted(sandbox)
        )

    async def _attend(self, sandbox: Sandbox, kind: Kind) -> None:
        try:
            await self._companions.attend(sandbox, kind)
        except BoxkeepError as error:  # cut off by a checkpoint, or the sandbox is ready no more: the next round tells
            _log.debug("the %s of sandbox %s is let be: %s", kind.name, sandbox.id, error)
