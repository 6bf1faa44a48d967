"""Release: what is ending or over is taken from its node, and then it has ended."""

import base64
import binascii
from functools import partial
from typing import Any, Final

from boxkeep_server.control.reach import Reacher
from boxkeep_server.control.reconcile.crowd import LOG, Crowd
from boxkeep_server.control.steps import Steps
from boxkeep_server.engine.interface import Engine, EngineError
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.events import EventType
from boxkeep_server.model.node_api import Release as Remains
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.store import endings, sandboxes
from boxkeep_server.store.database import Database

AT_ONCE: Final = 16


class Release:
    """Frees machines, keeps the last words of unfinished commands, erases the environment, writes `ended`."""

    def __init__(self, database: Database, steps: Steps, engine: Engine, reacher: Reacher) -> None:
        self._database = database
        self._steps = steps
        self._engine = engine
        self._reacher = reacher
        self.crowd = Crowd(AT_ONCE)

    async def run_once(self) -> int:
        """Start releasing what is not released; how many were started."""
        async with self._database.reading() as connection:
            waiting = await sandboxes.unreleased(connection)
        return sum(self.crowd.start(one.id, partial(self._release, one)) for one in waiting)

    async def _release(self, sandbox: Sandbox) -> None:
        remains = Remains()
        if sandbox.epoch > 0:
            try:
                remains = await self._engine.release(sandbox.node, sandbox.id, sandbox.epoch)
            except EngineError as error:
                LOG.warning("not released yet", sandbox=sandbox.id, error=str(error))
                return
        self._reacher.forget(sandbox.id, sandbox.epoch)
        async with self._database.writing() as connection:
            current = await sandboxes.get(connection, sandbox.id)
            if current is None or current.epoch != sandbox.epoch:
                return
            await self._settle(connection, current, remains)
            if current.status is Status.ENDING:
                current = await sandboxes.step(
                    connection,
                    current,
                    Status.ENDED,
                    event=EventType.ENDED,
                    at=self._steps.now_ms(),
                    actor="system",
                )
            await sandboxes.released(connection, sandbox.id)
        if current is not None:
            self._steps.tell(current)

    async def _settle(self, connection: Any, sandbox: Sandbox, remains: Remains) -> None:
        oom = sandbox.reason in (Reason.OUT_OF_MEMORY, Reason.HOST_MEMORY)
        await endings.settle_open(
            connection,
            sandbox.id,
            outcome=Outcome.OUT_OF_MEMORY if oom else Outcome.SANDBOX_ENDED,
            reason=sandbox.reason or Reason.USER_REQUEST,
            at=sandbox.ended_at or self._steps.now_ms(),
        )
        for process, tail in remains.tails.items():
            await endings.keep_tails(connection, sandbox.id, process, _plain(tail.stdout), _plain(tail.stderr))


def _plain(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
