"""Extend: nodes learn of end times that were changed."""

import logging

from boxkeep_server.control.machines import SLACK_MS
from boxkeep_server.control.steps import Steps
from boxkeep_server.engine.interface import Engine, EngineError
from boxkeep_server.store import sandboxes, selections
from boxkeep_server.store.database import Database

_log = logging.getLogger(__name__)


class Extend:
    """Tells nodes when to end machines by themselves, should the control plane be away by then."""

    def __init__(self, database: Database, steps: Steps, engine: Engine) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine

    async def run_once(self) -> int:
        """Tell what nodes do not know; how many end times."""
        async with self._database.reading() as connection:
            stale = await selections.with_stale_end(connection, SLACK_MS)
        told = 0
        for sandbox in stale:
            if sandbox.node is None or sandbox.expires_at is None:
                continue
            not_after = sandbox.expires_at + SLACK_MS
            try:
                for sandbox_id, epoch, role in sandbox.machines:
                    await self._engine.extend(sandbox.node, sandbox_id, epoch, not_after, role)
            except EngineError as error:
                _log.warning("node not told yet when sandbox %s ends: %s", sandbox.id, error)
                continue
            async with self._database.writing() as connection:
                await sandboxes.told_end(connection, sandbox.id, sandbox.epoch, not_after)
            told += 1
        return told
