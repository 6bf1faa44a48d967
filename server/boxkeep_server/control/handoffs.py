"""Handoffs: asked for, accepted, completed, cancelled, and expired; the browser is driven by whom they say."""

from typing import Final

from boxkeep_server.control.keys import Caller
from boxkeep_server.control.sandboxes import Sandboxes
from boxkeep_server.control.steps import SYSTEM, WORK, Steps
from boxkeep_server.model.agents import agent_wish, resumed
from boxkeep_server.model.browsers import browser_wish
from boxkeep_server.model.errors import Conflict, NotReady
from boxkeep_server.model.handoffs import (
    LONGEST_MS,
    USUAL_MS,
    Handoff,
    HandoffConflict,
    HandoffNotFound,
    HandoffReason,
    HandoffStatus,
    Requester,
)
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.store import agents, handoffs, organisations
from boxkeep_server.store.database import Database

DRIVE: Final = "reconcile:drive"


class Handoffs:
    """The use cases. All of callers raise `SandboxNotFound`."""

    def __init__(self, database: Database, steps: Steps, sandboxes: Sandboxes) -> None:
        self._database = database
        self._steps = steps
        self._sandboxes = sandboxes

    async def request(
        self,
        caller: Caller,
        sandbox_id: str,
        reason: HandoffReason,
        message: str,
        *,
        requested_by: Requester = "sdk",
        exclusive: bool = False,
        resume_prompt: str | None = None,
        expires_in_ms: int | None = None,
        handoff_id: str | None = None,
    ) -> Handoff:
        """Ask for a person; one that is there already under `handoff_id` is given as it is.

        Raises:
            NotReady: the sandbox does not run.
            Conflict: it has no browser that a person may have, or a handoff is open.
        """
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        return await self.ask(
            sandbox,
            reason,
            message,
            actor=caller.key_id,
            requested_by=requested_by,
            exclusive=exclusive,
            resume_prompt=resume_prompt,
            expires_in_ms=expires_in_ms,
            handoff_id=handoff_id,
        )

    async def ask(
        self,
        sandbox: Sandbox,
        reason: HandoffReason,
        message: str,
        *,
        actor: str,
        requested_by: Requester,
        exclusive: bool = False,
        resume_prompt: str | None = None,
        expires_in_ms: int | None = None,
        handoff_id: str | None = None,
    ) -> Handoff:
        """`request` in the name of `actor`, for a sandbox that is known. Raises the same."""
        _check_may_be_had(sandbox)
        now = self._steps.now_ms()
        new = Handoff(
            id=handoff_id or new_id(),
            sandbox=sandbox.id,
            organisation=sandbox.organisation,
            status=HandoffStatus.PENDING,
            reason=reason,
            message=message,
            requested_by=requested_by,
            exclusive=exclusive,
            controller=None,
            resume_prompt=resume_prompt,
            note=None,
            requested_at=now,
            accepted_at=None,
            completed_at=None,
            expires_at=now + min(expires_in_ms or USUAL_MS, LONGEST_MS),
            updated_at=now,
        )
        async with self._database.writing() as connection:
            await organisations.lock_organisation(connection, sandbox.organisation)
            if handoff_id is not None and (made := await handoffs.get(connection, handoff_id)) is not None:
                return made
            before = await handoffs.latest(connection, sandbox.id)
            if before is not None and before.open:
                raise HandoffConflict(f"A handoff is {before.status} already", requestId=before.id)
            await handoffs.add(connection, new, actor)
        self._steps.tell_of(sandbox.id)
        return new

    async def latest(self, sandbox_id: str) -> Handoff | None:
        """The handoff that a sandbox had last."""
        async with self._database.reading() as connection:
            return await handoffs.latest(connection, sandbox_id)

    async def read(self, caller: Caller, sandbox_id: str) -> Handoff:
        """The handoff that a caller's sandbox had last.

        Raises:
            HandoffNotFound: it had none.
        """
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        found = await self.latest(sandbox.id)
        if found is None:
            raise HandoffNotFound
        return found

    async def accept(self, caller: Caller, sandbox_id: str, controller: str) -> Handoff:
        """A person drives from now on. Again for the same person: as it is.

        Raises:
            HandoffNotFound, HandoffConflict: there is none that could be.
            NotReady: the sandbox does not run.
        """
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        if not sandbox.running:
            raise NotReady
        before = await self.read(caller, sandbox_id)
        if (before.status, before.controller) == (HandoffStatus.ACCEPTED, controller):
            return before
        at = self._steps.now_ms()
        return await self._step(caller, before, HandoffStatus.ACCEPTED, controller=controller, accepted_at=at)

    async def take(self, caller: Caller, sandbox_id: str, controller: str) -> Handoff:
        """A person drives from now on, whether one was asked for or not. Raises as `request` and `accept`."""
        latest = await self.latest(sandbox_id)
        if latest is None or not latest.open:
            await self.request(caller, sandbox_id, "custom", "", requested_by="dashboard")
        return await self.accept(caller, sandbox_id, controller)

    async def complete(self, caller: Caller, sandbox_id: str, note: str | None) -> Handoff:
        """The person has done what was asked, and the agent drives again, with its prompt for that. Again: as it is.

        Raises:
            HandoffNotFound, HandoffConflict: there is none that could be.
        """
        before = await self.read(caller, sandbox_id)
        if before.status is HandoffStatus.COMPLETED:
            return before
        at = self._steps.now_ms()
        sandbox = await self._sandboxes.get(caller, sandbox_id)
        async with self._database.writing() as connection:
            moved = await handoffs.step(
                connection, before, HandoffStatus.COMPLETED, at, caller.key_id, note=note, completed_at=at
            )
            if moved is not None and moved.resume_prompt and agent_wish(sandbox.capabilities) is not None:
                session = await agents.latest_session(connection, sandbox.id)
                await agents.add(connection, resumed(moved, session, new_id(), caller.key_id))
        return self._moved(moved)

    async def cancel(self, caller: Caller, sandbox_id: str) -> Handoff:
        """It is not wanted any more. Again: as it is.

        Raises:
            HandoffNotFound, HandoffConflict: there is none that could be.
        """
        before = await self.read(caller, sandbox_id)
        if before.status is HandoffStatus.CANCELLED:
            return before
        return await self._step(caller, before, HandoffStatus.CANCELLED)

    async def expire_once(self) -> int:
        """End those whose time is over; how many."""
        now = self._steps.now_ms()
        async with self._database.reading() as connection:
            found = await handoffs.expired(connection, now)
        for one in found:
            async with self._database.writing() as connection:
                await handoffs.step(connection, one, HandoffStatus.EXPIRED, now, SYSTEM)
            self._told(one)
        return len(found)

    async def _step(self, caller: Caller, before: Handoff, after: HandoffStatus, **changes: object) -> Handoff:
        async with self._database.writing() as connection:
            moved = await handoffs.step(connection, before, after, self._steps.now_ms(), caller.key_id, **changes)
        return self._moved(moved)

    def _moved(self, moved: Handoff | None) -> Handoff:
        """It, and all are told who wait for it.

        Raises:
            HandoffConflict: something else moved it first.
        """
        if moved is None:
            raise HandoffConflict("The handoff has changed in this moment")
        self._told(moved)
        return moved

    def _told(self, one: Handoff) -> None:
        self._steps.tell_of(one.sandbox)
        self._steps.wake(DRIVE)
        self._steps.wake(WORK)


def _check_may_be_had(sandbox: Sandbox) -> None:
    wish = browser_wish(sandbox.capabilities)
    if wish is None:
        raise Conflict("The sandbox has no browser that could be handed to a person")
    if not wish.human_in_loop:
        raise Conflict("The sandbox was not created with capabilities.browser.humanInLoop")
    if not sandbox.running:
        raise NotReady
