"""Pause: what is pausing is kept by its node, durably, and then it is paused."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.reconcile.deaths import REASONS
from boxkeep_server.control.steps import PAUSE, PLACE, SYSTEM, Steps
from boxkeep_server.engine.interface import Engine, MachineGone, NodeAway, NotPaused
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.events import EventType
from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import Snapshot
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import endings, sandboxes, selections
from boxkeep_server.store.database import Database

AT_ONCE: Final = 8

_OVER_TIME: Final = (Reason.MAX_DURATION, Reason.HOURS_LIMIT)
_RUNS_ON: Final[dict[str, Any]] = {"remaining_ms": None, "origin": None, "files_only": False}
_LOST: Final = "The sandbox was paused, and its isolation keeps files alone"

_log = logging.getLogger(__name__)


class Pause:
    """Moves sandboxes from `pausing` to `paused`, or back to `ready` where their machine could not be kept."""

    def __init__(self, database: Database, steps: Steps, engine: Engine, reacher: Reacher) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self._reacher = reacher
        self._more = False
        self.crowd = Crowd(AT_ONCE, self._go_on)

    def _go_on(self) -> None:
        if self._more:
            self._steps.wake(PAUSE)

    async def run_once(self) -> int:
        """Start what is to be paused and is not under way; how many were started."""
        async with self._database.reading() as connection:
            waiting = await selections.in_status(connection, Status.PAUSING)
        idle = [one for one in waiting if one.id not in self.crowd]
        self._more = len(idle) > self.crowd.room
        return sum(self.crowd.start(one.id, partial(self._pause, one)) for one in idle)

    async def _pause(self, sandbox: Sandbox) -> None:
        assert sandbox.node is not None, "what was ready has a node"
        main, *sides = sandbox.machines
        try:
            snapshot = await self._engine.pause(
                sandbox.node,
                *main,
                if_idle=sandbox.reason == Reason.IDLE,
                or_files=sandbox.reason != Reason.USER_REQUEST,  # who asks may be told no; what is over can only end
            )
            beside = [one for key in sides if (one := await self._keep_side(sandbox.node, key)) is not None]
        except NodeAway as away:
            _log.warning("sandbox %s is not paused yet: %s", sandbox.id, away)
        except NotPaused as error:
            await self._go_back(sandbox, error)
        except MachineGone as gone:
            await self._fail(sandbox, gone)
        else:
            await self._paused(sandbox, snapshot, beside)

    async def _keep_side(self, node: str, key: Key) -> Snapshot | None:
        """Have a machine beside the main one kept, now that nothing of that one runs any more: whatever can be kept of
        it. None where nothing can: it begins anew then, as one does that dies.

        Raises:
            NodeAway: it may be kept yet.
        """
        try:
            return await self._engine.pause(node, *key, if_idle=False, or_files=True)
        except (NotPaused, MachineGone) as error:
            _log.warning("the %s of sandbox %s is not kept: %s", key.role, key.sandbox, error)
        with suppress(NodeAway):  # a machine that is left is nobody's from the pause on, and taken down as that
            await self._engine.release(node, *key)
        return None

    async def _paused(self, sandbox: Sandbox, snapshot: Snapshot, beside: Sequence[Snapshot]) -> None:
        """The row and the ends of what was lost in one transaction: a paused sandbox has no command in doubt."""
        now = self._steps.now_ms()
        lost = len(beside) < len(sandbox.sides) or any(one.lost is not None for one in (snapshot, *beside))
        async with self._database.writing() as connection:
            paused = await sandboxes.step(
                connection,
                sandbox,
                Status.PAUSED,
                event=EventType.PAUSED,
                at=now,
                actor=SYSTEM,
                kept_epoch=snapshot.epoch,
                kept_sides={one.role: one.epoch for one in beside},
                kept_bytes=sum(one.bytes for one in (snapshot, *beside)),
                pause_keeps=snapshot.keeps,
                paused_at=now,
                reason=Reason.MEMORY_LOST if lost else sandbox.reason,
            )
            if paused is not None and paused.origin is not None:
                paused = await self._restore(connection, paused, now)
            elif paused is not None and snapshot.keeps == "files":
                await endings.settle_open(
                    connection,
                    sandbox.id,
                    outcome=Outcome.LOST_ON_FILES_PAUSE,
                    reason=snapshot.lost or _LOST,
                    at=now,
                )
        if paused is not None:
            self._reacher.forget(sandbox)
            self._steps.tell(paused, PLACE)

    @staticmethod
    async def _restore(connection: AsyncConnection, paused: Sandbox, now: int) -> Sandbox | None:
        """It was paused only to go on from a checkpoint. What has run has its outcome once that has come about."""
        return await sandboxes.step(
            connection,
            paused,
            Status.QUEUED,
            event=EventType.RESUMED,
            at=now,
            actor=SYSTEM,
            queued_at=now,
            reason=Reason.RESTORE,
        )

    async def _go_back(self, sandbox: Sandbox, error: NotPaused) -> None:
        """It runs on, unless its time is over: then it ends, as it would have without the wish to pause it."""
        if not error.busy:
            _log.warning("sandbox %s cannot be paused: %s", sandbox.id, error)
        if sandbox.reason in _OVER_TIME:
            await self._steps.step(sandbox, Status.ENDING, reason=sandbox.reason)
            return
        reason = None if error.busy else Reason.NO_SPACE if error.full else Reason.PAUSE_FAILED
        await self._steps.step(sandbox, Status.READY, reason=reason, **_RUNS_ON)

    async def _fail(self, sandbox: Sandbox, gone: MachineGone) -> None:
        _log.warning("sandbox %s died before it was paused: %s", sandbox.id, gone)
        assert sandbox.node is not None
        claim = await self._engine.claim(sandbox.node, sandbox.id, sandbox.epoch)
        reason = Reason.MACHINE_DIED if claim is None else REASONS[claim.reason]
        await self._steps.step(sandbox, Status.FAILED, reason=reason)
