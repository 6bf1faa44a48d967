"""Release: what is ending or over is taken from its node, and then it has ended."""

import base64
import binascii
import hashlib
import logging
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.checkpoints import wanted_of
from boxkeep_server.control.launches import outcome_under
from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.reconcile.last_looks import LastLooks
from boxkeep_server.control.reconcile.take import Take
from boxkeep_server.control.salvage import Salvage
from boxkeep_server.control.steps import RELEASE, SYSTEM, Steps
from boxkeep_server.engine.interface import Engine, EngineError
from boxkeep_server.model.checkpoints import LAST, CheckpointState, may_have
from boxkeep_server.model.events import EventType
from boxkeep_server.model.node_api import Release as Remains
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import checkpoints, endings, sandboxes, selections
from boxkeep_server.store.database import Database

AT_ONCE: Final = 16

_log = logging.getLogger(__name__)


class Release:
    """Frees machines, keeps the last words of unfinished commands, erases the environment, writes `ended`."""

    def __init__(
        self, database: Database, steps: Steps, engine: Engine, reacher: Reacher, take: Take, salvage: Salvage
    ) -> None:
        self._take = take
        self.last_looks = LastLooks(salvage, lambda: steps.wake(RELEASE))
        self._database = database
        self._steps = steps
        self._engine = engine
        self._reacher = reacher
        self._more = False
        self._held_up: set[str] = set()
        self.crowd = Crowd(AT_ONCE, self._go_on)

    def _go_on(self) -> None:
        if self._more:
            self._steps.wake(RELEASE)

    async def run_once(self) -> int:
        """Start releasing what is not released; how many were started."""
        async with self._database.reading() as connection:
            known = len(self._held_up) + len(self.last_looks)
            waiting = await selections.unreleased(connection, 2 * AT_ONCE + known)
        idle = [one for one in waiting if one.id not in self.crowd and self.last_looks.over(one)]
        # Those that were held up come last and wake nobody: a node that refuses one must not hold up the others.
        fresh = [one for one in idle if one.id not in self._held_up]
        late = [one for one in idle if one.id in self._held_up]
        self._more = len(fresh) > self.crowd.room
        return sum(self.crowd.start(one.id, partial(self._release, one)) for one in (*fresh, *late))

    async def _release(self, sandbox: Sandbox) -> None:
        remains = Remains()
        if sandbox.epoch > 0:
            try:
                await self._keep_last(sandbox)
                remains, *_ = [await self._engine.release(sandbox.node, *key) for key in sandbox.machines]
                if sandbox.kept_epoch is not None and sandbox.node is not None:
                    for key in sandbox.machines:
                        await self._engine.discard(sandbox.node, *key)
            except EngineError as error:
                self._hold_up(sandbox, error)
                return
        self._held_up.discard(sandbox.id)
        self.last_looks.forget(sandbox)
        self._reacher.forget(sandbox)
        async with self._database.writing() as connection:
            over = await self._over(connection, sandbox, remains)
        if over is not None:
            self._steps.tell(over)

    async def _keep_last(self, sandbox: Sandbox) -> None:
        """What died and may have checkpoints leaves its files as one, as long as its node has them: nobody asked for
        its end.

        Raises:
            NodeAway
        """
        if sandbox.status is not Status.FAILED or sandbox.ready_at is None or not may_have(sandbox):
            return
        wanted = wanted_of(sandbox, last_of(sandbox), self._steps.now_ms(), SYSTEM, name=LAST, memory=False)
        async with self._database.writing() as connection:
            made = await checkpoints.get(connection, wanted.id)
            if made is None:
                await checkpoints.add(connection, wanted)
        if made is None or made.state is CheckpointState.TAKING:
            await self._take.take(made or wanted)

    def _hold_up(self, sandbox: Sandbox, error: EngineError) -> None:
        if sandbox.id not in self._held_up:
            _log.warning("sandbox %s is not released yet: %s", sandbox.id, error)
        self._held_up.add(sandbox.id)

    async def _over(self, connection: AsyncConnection, sandbox: Sandbox, remains: Remains) -> Sandbox | None:
        current = await sandboxes.get(connection, sandbox.id)
        if current is None or current.epoch != sandbox.epoch:
            return None
        await self._settle(connection, current, remains)
        if current.status is Status.ENDING:
            now = self._steps.now_ms()
            over = await sandboxes.step(connection, current, Status.ENDED, event=EventType.ENDED, at=now, actor=SYSTEM)
            if over is None:
                return None
            current = over
        await sandboxes.released(connection, sandbox.id)
        return current

    async def _settle(self, connection: AsyncConnection, sandbox: Sandbox, remains: Remains) -> None:
        await endings.settle_open(
            connection,
            sandbox.id,
            outcome=outcome_under(sandbox.reason),
            reason=sandbox.reason or Reason.USER_REQUEST,
            at=sandbox.ended_at or self._steps.now_ms(),
        )
        for process, tail in remains.tails.items():
            await endings.keep_tails(connection, sandbox.id, process, _plain(tail.stdout), _plain(tail.stderr))


def last_of(sandbox: Sandbox) -> str:
    """The id of the checkpoint that a body leaves which dies: the same each time it is asked for."""
    return hashlib.sha256(f"{sandbox.id} {sandbox.epoch} {LAST}".encode()).hexdigest()[:32]


def _plain(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
