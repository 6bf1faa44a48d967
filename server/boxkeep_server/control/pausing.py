"""Pausing and resuming: by their users, by the end of their time, when nothing runs, and when somebody calls."""

import asyncio
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.keys import Caller
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import PLACE, Steps
from boxkeep_server.model.errors import Conflict, LimitReached, NotReady
from boxkeep_server.model.events import EventType
from boxkeep_server.model.plans import Plan
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store import organisations, sandboxes, storage
from boxkeep_server.store.database import Database

_TRIES: Final = 50
_WAKE_MS: Final = 60_000
_POLL_S: Final = 0.05


class Pausing:
    """The use cases."""

    def __init__(self, database: Database, steps: Steps, those: Sandboxes) -> None:
        self._database = database
        self._steps = steps
        self._sandboxes = those

    async def pause(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """Have a ready sandbox paused; one that is pausing or paused already is given as it is.

        Raises:
            SandboxNotFound: there is none, or it is another's.
            NotReady: it is not ready.
            LimitReached: the plan allows no more paused sandboxes, or stored bytes.
        """
        for _ in range(_TRIES):
            before = await self._sandboxes.get(caller, sandbox_id)
            if before.status in (Status.PAUSING, Status.PAUSED):
                return before
            if before.status is not Status.READY:
                raise NotReady
            pausing = await self.pause_for(before, Reason.USER_REQUEST, caller.key_id)
            if pausing is not None:
                return pausing
        raise Conflict("Sandbox is being changed by others")

    async def pause_for(
        self,
        before: Sandbox,
        reason: Reason,
        actor: str,
        *,
        origin: str | None = None,
        memory: bool = True,
        limited: bool = True,
    ) -> Sandbox | None:
        """Have a sandbox paused that is still as `before`; None if it has changed. When its time is over it gets a new
        window on resume, else what remains of this one. With `origin` it then goes on by itself, from that checkpoint,
        without `memory` from the files of that alone.

        Raises:
            LimitReached: the plan allows no more paused sandboxes, or stored bytes.
        """
        now = self._steps.now_ms()
        remaining = None if reason is Reason.MAX_DURATION else max(0, (before.expires_at or now) - now)
        async with self._database.writing() as connection:
            plan = await organisations.lock_organisation(connection, before.organisation)
            if limited:
                await check_storage(connection, before.organisation, plan)
            pausing = await sandboxes.step(
                connection,
                before,
                Status.PAUSING,
                event=EventType.PAUSING,
                at=now,
                actor=actor,
                reason=reason,
                remaining_ms=remaining,
                origin=origin,
                files_only=not memory,
            )
        if pausing is not None:
            self._steps.tell(pausing)
        return pausing

    async def resume(self, caller: Caller, sandbox_id: str, *, memory: bool = True) -> Sandbox:
        """Have a paused sandbox go on; one that has a machine or awaits it already is given as it is. Without `memory`
        it goes on from its files alone, and memory that is kept is given up once that has come about.

        Raises:
            SandboxNotFound: there is none, or it is another's.
            Conflict: it is being paused, or resumed in the other way, at this moment, or has ended.
            LimitReached: the plan's concurrency or hours are used up.
        """
        return await self._resume(caller.organisation, sandbox_id, caller.key_id, memory)

    async def _resume(self, organisation: str, sandbox_id: str, actor: str, memory: bool) -> Sandbox:
        for _ in range(_TRIES):
            before = await self._sandboxes.of(organisation, sandbox_id)
            if before.status is Status.ENDING or before.status in OVER:
                raise Conflict("Sandbox has ended")
            if before.status is Status.PAUSING:
                raise Conflict("Sandbox is being paused")
            if before.status is not Status.PAUSED:
                check_way(before, memory)
                return before
            resumed = await self.resume_from(actor, before, None, memory)
            if resumed is not None:
                return resumed
        raise Conflict("Sandbox is being changed by others")

    async def resume_from(self, actor: str, before: Sandbox, origin: str | None, memory: bool) -> Sandbox | None:
        """Have a paused sandbox go on that is still as `before`, from what was kept of it or from a checkpoint, with
        the `memory` that there is or without; None if it has changed.

        Raises:
            LimitReached: the plan's concurrency or hours are used up.
        """
        now = self._steps.now_ms()
        async with self._database.writing() as connection:
            plan = await organisations.lock_organisation(connection, before.organisation)
            await self._sandboxes.check_limits(connection, before.organisation, plan)
            resumed = await sandboxes.step(
                connection,
                before,
                Status.QUEUED,
                event=EventType.RESUMED,
                at=now,
                actor=actor,
                queued_at=now,
                reason=None,
                origin=origin,
                files_only=not memory,
            )
        if resumed is not None:
            self._steps.tell(resumed, PLACE)
        return resumed

    async def awake(self, actor: str, sandbox: Sandbox) -> Sandbox:
        """A sandbox that resumes by itself, once it is ready because `actor` calls; any other as it is.

        Raises:
            LimitReached: the plan's concurrency or hours are used up.
            NotReady: it does not come up.
        """
        if sandbox.running or not sandbox.lifecycle.auto_resume:
            return sandbox
        while sandbox.status is Status.PAUSING:
            await asyncio.sleep(_POLL_S)
            sandbox = await self._sandboxes.of(sandbox.organisation, sandbox.id)
        if sandbox.status is Status.PAUSED:
            await self._resume(sandbox.organisation, sandbox.id, actor, memory=True)
        return await self._sandboxes.wait_of(sandbox.organisation, sandbox.id, _WAKE_MS)


def check_way(sandbox: Sandbox, memory: bool) -> None:
    """Whether a sandbox that is on its way goes on with memory, or without, as is wished.

    Raises:
        Conflict
    """
    if not sandbox.running and sandbox.files_only is memory:
        raise Conflict(f"Sandbox is going on {'without' if memory else 'with'} its memory already")


async def check_storage(
    connection: AsyncConnection, organisation: str, plan: Plan, *, another_paused: bool = True
) -> None:
    """Whether an organisation, whose row is locked, may store more.

    Raises:
        LimitReached
    """
    stored = await storage.stored(connection, organisation)
    if another_paused and plan.paused is not None and stored.paused >= plan.paused:
        raise LimitReached("Storage limit reached", limit="paused", limitCount=plan.paused)
    if plan.stored_bytes is not None and stored.bytes >= plan.stored_bytes:
        raise LimitReached("Storage limit reached", limit="storedBytes", limitBytes=plan.stored_bytes)
