"""Checkpoints: taken of a sandbox that goes on, listed, deleted, and gone back to."""

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

from boxkeep_server.control.changes import Changes
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.pausing import Pausing, check_storage, check_way
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import DISCARD, TAKE, Steps
from boxkeep_server.model.checkpoints import Checkpoint, CheckpointNotFound, CheckpointState, Fault, may_have
from boxkeep_server.model.cursors import cursor_of, read_cursor
from boxkeep_server.model.errors import (
    BoxkeepError,
    Conflict,
    NoSpace,
    NotReady,
    TimedOut,
    Unavailable,
)
from boxkeep_server.model.ids import is_id, new_id
from boxkeep_server.model.sandboxes import Reason, Sandbox
from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store import checkpoints, organisations
from boxkeep_server.store.database import Database

_TRIES: Final = 50
_POLL_S: Final = 0.5
_TAKEN_WITHIN_S: Final = 300.0
_AT_ONCE: Final = 8
"""How many of one sandbox may be under way: each makes it stand still."""


@dataclass(frozen=True, slots=True)
class CheckpointPage:
    """Some checkpoints, and where to go on."""

    items: Sequence[Checkpoint]
    next_cursor: str | None


class Checkpoints:
    """The use cases. `unwritten` has the ids of those that may be there, and that the store does not take as that."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        changes: Changes,
        those: Sandboxes,
        pausing: Pausing,
        unwritten: Container[str],
    ) -> None:
        self._unwritten = unwritten
        self._database = database
        self._steps = steps
        self._changes = changes
        self._sandboxes = those
        self._pausing = pausing

    async def take(
        self, caller: Caller, sandbox_id: str, *, name: str | None, memory: bool, checkpoint_id: str | None = None
    ) -> Checkpoint:
        """Take a checkpoint of a ready sandbox; returns when it is durable. Again under the same id: the same one.

        Raises:
            SandboxNotFound, NotReady: there is no such sandbox for this caller, or it is not ready.
            Conflict: its creator has not asked for checkpoints, or too many are under way.
            LimitReached: the plan allows no more stored bytes.
            NoSpace, Unavailable, TimedOut: it came to nothing; at the last it may come about yet.
        """
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        if not may_have(sandbox):
            raise Conflict(
                "Sandbox has no checkpoints: create it with ephemeral false, or storage.workspace checkpointed"
            )
        with self._changes.listen(sandbox.id) as ear:
            wanted = await self._want(caller, sandbox, checkpoint_id or new_id(), name=name, memory=memory)
            self._steps.wake(TAKE)
            until = asyncio.get_running_loop().time() + _TAKEN_WITHIN_S
            has_waited = False
            while True:
                found = await self._state(wanted.id)
                if found is None:
                    raise CheckpointNotFound
                if found.state is CheckpointState.WHOLE:
                    return found
                if found.fault is not None:
                    raise _error(found.fault)
                if has_waited and wanted.id in self._unwritten:
                    raise Unavailable("The store is away; the checkpoint may come about yet")
                if asyncio.get_running_loop().time() >= until:
                    raise TimedOut("The checkpoint is not whole yet")
                await ear.heard(_POLL_S)
                has_waited = True

    async def _want(
        self, caller: Caller, sandbox: Sandbox, checkpoint_id: str, *, name: str | None, memory: bool
    ) -> Checkpoint:
        async with self._database.writing() as connection:
            plan = await organisations.lock_organisation(connection, caller.organisation)
            made = await checkpoints.get(connection, checkpoint_id)
            if made is not None:
                return made
            if not sandbox.running or sandbox.node is None or sandbox.isolation is None:
                raise NotReady
            await check_storage(connection, caller.organisation, plan, another_paused=False)
            if await checkpoints.under_way(connection, sandbox.id) >= _AT_ONCE:
                raise Conflict(f"{_AT_ONCE} checkpoints of this sandbox are being taken")
            new = wanted_of(sandbox, checkpoint_id, self._steps.now_ms(), caller.key_id, name=name, memory=memory)
            await checkpoints.add(connection, new)
        return new

    async def get(self, caller: Caller, checkpoint_id: str) -> Checkpoint:
        """A whole checkpoint of the caller's organisation.

        Raises:
            CheckpointNotFound: there is none, or it is another's.
        """
        found = await self._state(checkpoint_id)
        if found is None or found.organisation != caller.organisation or found.state is not CheckpointState.WHOLE:
            raise CheckpointNotFound
        return found

    async def list(
        self, caller: Caller, sandbox_id: str | None, *, cursor: str | None = None, limit: int = 100
    ) -> CheckpointPage:
        """Checkpoints of an organisation, or of one of its sandboxes, newest first.

        Raises:
            SandboxNotFound: there is nothing of such a sandbox for this caller.
            Invalid: the cursor is none of ours.
        """
        before = None if cursor is None else read_cursor(cursor)
        async with self._database.scanning() as connection:
            found = await checkpoints.page(
                connection, caller.organisation, sandbox=sandbox_id, before=before, limit=limit + 1
            )
        if sandbox_id is not None and not found:
            await self._sandboxes.get(caller, sandbox_id)
        items = found[:limit]
        more = len(found) > limit
        return CheckpointPage(items, cursor_of(items[-1].created_at, items[-1].id) if more else None)

    async def delete(self, caller: Caller, checkpoint_id: str) -> None:
        """Delete a checkpoint; what sandboxes began from it stays theirs.

        Raises:
            CheckpointNotFound
            Conflict: a sandbox is being started from it.
        """
        found = await self.get(caller, checkpoint_id)
        async with self._database.writing() as connection:
            await organisations.lock_organisation(connection, caller.organisation)
            if await checkpoints.in_use(connection, checkpoint_id):
                raise Conflict("Checkpoint is in use: a sandbox is being started from it")
            if not await checkpoints.delete(connection, found, self._steps.now_ms(), caller.key_id):
                raise CheckpointNotFound
        self._steps.wake(DISCARD)
        self._changes.tell(found.sandbox)

    async def restore(self, caller: Caller, checkpoint_id: str, *, memory: bool = True) -> Sandbox:
        """Have a checkpoint's sandbox, ready or paused, go on from it: what it is now is kept until that has come
        about, and it is paused with that if it fails. Without `memory` it goes on from the files of it alone.

        Raises:
            CheckpointNotFound, SandboxNotFound
            Conflict: the sandbox has ended, or is being paused or started.
            LimitReached: the plan's concurrency or hours are used up.
        """
        found = await self.get(caller, checkpoint_id)
        for _ in range(_TRIES):
            before = await self._sandboxes.get(caller, found.sandbox)
            if before.origin == checkpoint_id:
                check_way(before, memory)
                return before
            if before.status is Status.ENDING or before.status in OVER:
                raise Conflict("Sandbox has ended; create one from the checkpoint")
            if before.status not in (Status.READY, Status.PAUSED):
                raise NotReady
            if before.status is Status.READY:
                moved = await self._pausing.pause_for(
                    before, Reason.RESTORE, caller.key_id, origin=checkpoint_id, memory=memory, limited=False
                )
            else:
                moved = await self._pausing.resume_from(caller.key_id, before, checkpoint_id, memory)
            if moved is not None:
                return moved
        raise Conflict("Sandbox is being changed by others")

    async def _state(self, checkpoint_id: str) -> Checkpoint | None:
        if not is_id(checkpoint_id):
            return None
        async with self._database.reading() as connection:
            return await checkpoints.get(connection, checkpoint_id)


def wanted_of(
    sandbox: Sandbox, checkpoint_id: str, now_ms: int, actor: str, *, name: str | None, memory: bool
) -> Checkpoint:
    """The record of a checkpoint that is wanted of a sandbox's present body."""
    assert sandbox.node is not None and sandbox.isolation is not None, "what had a body had a node"  # noqa: PT018
    return Checkpoint(
        id=checkpoint_id,
        organisation=sandbox.organisation,
        sandbox=sandbox.id,
        epoch=sandbox.epoch,
        name=name,
        state=CheckpointState.TAKING,
        memory=memory,
        keeps=None,
        lost=None,
        runtime=sandbox.runtime,
        image=sandbox.image,
        isolation=sandbox.isolation,
        node=sandbox.node,
        bytes=None,
        stood_ms=None,
        created_at=now_ms,
        taken_at=None,
        created_by=actor,
        fault=None,
        stored_at=None,
        sides=sandbox.sides,
    )


def _error(fault: Fault) -> BoxkeepError:
    match fault:
        case Fault.NO_SPACE:
            return NoSpace("The node has no room for the checkpoint; the sandbox goes on")
        case Fault.SANDBOX_GONE:
            return NotReady()
        case Fault.NOT_TAKEN:
            return Unavailable("The checkpoint could not be taken; the sandbox goes on")
