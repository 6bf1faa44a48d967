"""Discard: snapshots that no sandbox goes on from any more are removed from their nodes."""

import logging

from boxkeep_server.engine.interface import Engine, EngineError, NodeAway
from boxkeep_server.store import sandboxes
from boxkeep_server.store.database import Database

_log = logging.getLogger(__name__)


class Discard:
    """Holds the snapshots of all nodes against the store."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine

    async def run_once(self) -> int:
        """Remove what nobody wants; how many snapshots."""
        try:
            by_node = await self._engine.snapshots()
        except NodeAway:
            return 0
        # The rows after the snapshots: one is taken only of what is pausing, and stays wanted from then on.
        async with self._database.scanning() as connection:
            wanted = await sandboxes.kept(connection, {one.sandbox for some in by_node.values() for one in some})
        stale = [(node, one) for node, some in by_node.items() for one in some if wanted.get(one.sandbox) != one.epoch]
        for node, one in stale:
            try:
                await self._engine.discard(node, one.sandbox, one.epoch)
            except EngineError as error:
                _log.warning(
                    "the snapshot of sandbox %s, epoch %d, is not removed yet: %s", one.sandbox, one.epoch, error
                )
        return len(stale)
