"""Take: checkpoints that are wanted are taken by their node, durably, and then they are there."""

import logging
from functools import partial
from typing import Final

from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.steps import SYSTEM, TAKE, UPLOAD, Steps
from boxkeep_server.engine.interface import Engine, MachineGone, NodeAway, NotPaused
from boxkeep_server.model.checkpoints import Checkpoint, Fault
from boxkeep_server.store import checkpoints
from boxkeep_server.store.database import Database

AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


class Take:
    """Moves checkpoints from `taking` to `whole`, or to `failed` where nothing can be kept."""

    def __init__(self, database: Database, steps: Steps, engine: Engine) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self._more = False
        self.crowd = Crowd(AT_ONCE, self._go_on)

    def _go_on(self) -> None:
        if self._more:
            self._steps.wake(TAKE)

    async def run_once(self) -> int:
        """Start what is wanted and is not under way; how many were started."""
        async with self._database.reading() as connection:
            waiting = await checkpoints.taking(connection)
        idle = [one for one in waiting if one.id not in self.crowd]
        self._more = len(idle) > self.crowd.room
        return sum(self.crowd.start(one.id, partial(self._take, one)) for one in idle)

    async def _take(self, wanted: Checkpoint) -> None:
        try:
            await self.take(wanted)
        except NodeAway as away:
            _log.warning("checkpoint %s of sandbox %s is not taken yet: %s", wanted.id, wanted.sandbox, away)

    async def take(self, wanted: Checkpoint) -> None:
        """Have a checkpoint that is wanted taken, and write what came of it. May be repeated.

        Raises:
            NodeAway: it is wanted yet.
        """
        try:
            snapshot = await self._engine.checkpoint(
                wanted.node, wanted.sandbox, wanted.epoch, wanted.id, memory=wanted.memory
            )
        except (NotPaused, MachineGone) as error:
            _log.warning("checkpoint %s of sandbox %s cannot be taken: %s", wanted.id, wanted.sandbox, error)
            async with self._database.writing() as connection:
                await checkpoints.failed(connection, wanted, _fault(error))
        else:
            async with self._database.writing() as connection:
                await checkpoints.taken(connection, wanted, snapshot, wanted.created_by or SYSTEM)
        self._steps.tell_of(wanted.sandbox)
        self._steps.wake(UPLOAD)


def _fault(error: NotPaused | MachineGone) -> Fault:
    if isinstance(error, MachineGone):
        return Fault.SANDBOX_GONE
    return Fault.NO_SPACE if error.full else Fault.NOT_TAKEN
