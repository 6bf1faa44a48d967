"""Take: checkpoints that are wanted are taken by their node, durably, and then they are there."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.steps import SYSTEM, TAKE, UPLOAD, Steps
from boxkeep_server.engine.interface import Engine, EngineError, MachineGone, NodeAway, NotPaused
from boxkeep_server.model.checkpoints import Checkpoint, Fault
from boxkeep_server.model.errors import Unavailable
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Snapshot
from boxkeep_server.store import checkpoints
from boxkeep_server.store.database import Database

AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


class Take:
    """Moves checkpoints from `taking` to `whole`, or to `failed` where nothing can be kept. `unwritten` are those whose
    node has answered, and of which the store does not take what came of them."""

    def __init__(self, database: Database, steps: Steps, engine: Engine) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self._more = False
        self.unwritten: set[str] = set()
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
            NodeAway, Unavailable: it is wanted yet.
        """
        # All at once: what a page and the code have in common is of one moment, as near as it can be.
        main, *sides = found = await asyncio.gather(*(self._taken(wanted, key) for key in wanted.machines))
        if away := next((one for one in found if isinstance(one, NodeAway)), None):
            raise away
        try:
            await self._write(wanted, main, sides)
        except Unavailable:
            self.unwritten.add(wanted.id)
            raise
        else:
            self.unwritten.discard(wanted.id)
            self._steps.wake(UPLOAD)
        finally:
            self._steps.tell_of(wanted.sandbox)

    async def _write(
        self, wanted: Checkpoint, main: Snapshot | EngineError, sides: Sequence[Snapshot | EngineError]
    ) -> None:
        async with self._database.writing() as connection:
            if isinstance(main, Snapshot):
                beside = [one for one in sides if isinstance(one, Snapshot)]
                lost = _lost(main, wanted.machines[1:], sides)
                await checkpoints.taken(connection, wanted, main, beside, lost, wanted.created_by or SYSTEM)
            else:
                await checkpoints.failed(connection, wanted, _fault(main))

    async def _taken(self, wanted: Checkpoint, key: Key) -> Snapshot | NodeAway | NotPaused | MachineGone:
        """What is kept of one machine, or why nothing is, yet or for ever."""
        try:
            return await self._engine.checkpoint(wanted.node, *key, checkpoint=wanted.id, memory=wanted.memory)
        except (NodeAway, NotPaused, MachineGone) as error:
            _log.warning("checkpoint %s has nothing of the machine %s: %s", wanted.id, key.name, error)
            return error


def _lost(main: Snapshot, keys: Sequence[Key], sides: Sequence[Snapshot | EngineError]) -> str | None:
    """What was asked for and is not there. A checkpoint of the code does not hang on its page, which may be hostile."""
    said = [main.lost]
    for key, one in zip(keys, sides, strict=True):
        if not isinstance(one, Snapshot):
            said.append(f"The {key.role} could not be kept, and would begin anew: {one}")
        elif one.lost is not None:
            said.append(f"Of the {key.role}: {one.lost}")
    return "; ".join(filter(None, said)) or None


def _fault(error: EngineError) -> Fault:
    match error:
        case MachineGone():
            return Fault.SANDBOX_GONE
        case NotPaused(full=True):
            return Fault.NO_SPACE
    return Fault.NOT_TAKEN
