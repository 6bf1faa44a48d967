"""Discard: snapshots that no sandbox goes on from any more are removed from their nodes."""

import logging

from boxkeep_server.engine.interface import Engine, EngineError, NodeAway
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Snapshot
from boxkeep_server.store import checkpoints, sandboxes
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
        found = [(node, one) for node, some in by_node.items() for one in some]
        # The rows after the snapshots: one is taken only of what is pausing, and stays wanted from then on; and a
        # checkpoint has its row before it is taken.
        async with self._database.scanning() as connection:
            kept = await sandboxes.kept(connection, {one.sandbox for _, one in found if one.checkpoint is None})
            named = await checkpoints.wanted(connection, [one.checkpoint for _, one in found if one.checkpoint])
        stale = [
            (node, one)
            for node, one in found
            if (Key.of(one) not in kept if one.checkpoint is None else one.checkpoint not in named)
        ]
        for node, one in stale:
            await self._remove(node, one)
        return len(stale)

    async def _remove(self, node: str, stale: Snapshot) -> None:
        try:
            if stale.checkpoint is None:
                await self._engine.discard(node, stale.sandbox, stale.epoch, stale.role)
            else:
                await self._engine.forget(node, stale.checkpoint)
        except EngineError as error:
            what = stale.checkpoint or f"epoch {stale.epoch}"
            _log.warning("the snapshot of sandbox %s, %s, is not removed yet: %s", stale.sandbox, what, error)
