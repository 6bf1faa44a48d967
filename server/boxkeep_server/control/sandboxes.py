"""What users do with sandboxes: create, read, list, change, end, wait; within their plan."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.changes import Changes
from boxkeep_server.control.keys import Caller
from boxkeep_server.control.secrets import Secrets
from boxkeep_server.control.steps import ANY, EXTEND, PLACE, Steps
from boxkeep_server.model.browsers import sides_of
from boxkeep_server.model.checkpoints import CheckpointNotFound, CheckpointState
from boxkeep_server.model.cursors import cursor_of, read_cursor
from boxkeep_server.model.errors import Conflict, Invalid, LimitReached, NotBuilt, SandboxNotFound, Unavailable
from boxkeep_server.model.events import QUIET, Event, EventType
from boxkeep_server.model.ids import is_id, new_id
from boxkeep_server.model.images import image_of, software_for, software_of
from boxkeep_server.model.machines import SIDE_IMAGES
from boxkeep_server.model.plans import Plan, checked_duration
from boxkeep_server.model.sandboxes import DEFAULT_RUNTIME, NewSandbox, Reason, Sandbox
from boxkeep_server.model.statuses import OVER, Status
from boxkeep_server.store import checkpoints, events, organisations, running, sandboxes, selections
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal

POLL_S: Final = 0.5
_TRIES: Final = 50
_AT_ONCE: Final = 1000
OPERATOR: Final = "operator"
HAS_OR_AWAITS_A_MACHINE: Final = (Status.QUEUED, Status.ASSIGNING, Status.READY, Status.PAUSING)
_SETTLED: Final = frozenset({Status.READY, Status.PAUSED, Status.ENDING, *OVER})


@dataclass(frozen=True, slots=True)
class Page:
    """Some sandboxes, and where to go on."""

    items: Sequence[Sandbox]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Which sandboxes were ended, and those whose machines were not gone when the time was up."""

    ended: Sequence[str]
    left: Sequence[str]


class Sandboxes:
    """The use cases. `allowed` gives the isolations that can be had now, `images` the images that sandboxes can begin
    from; None while that is not known."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        changes: Changes,
        seal: Seal,
        allowed: Callable[[], Collection[str] | None] = lambda: None,
        images: Callable[[], Collection[str] | None] = lambda: None,
    ) -> None:
        self._database = database
        self._steps = steps
        self._changes = changes
        self._secrets = Secrets(database, seal)
        self._allowed = allowed
        self._images = images
        self._closed = False

    async def create(self, caller: Caller, wish: NewSandbox, sandbox_id: str | None = None) -> Sandbox:
        """Accept a sandbox; one that is there already under `sandbox_id` is given as it is. Raises as `create_all`."""
        return (await self.create_all(caller, wish, [sandbox_id or new_id()]))[0]

    async def create_all(self, caller: Caller, wish: NewSandbox, ids: Sequence[str]) -> Sequence[Sandbox]:
        """Accept sandboxes under these ids, all or none; those that are there already are given as they are.

        Raises:
            Invalid: the duration is over the plan's, the isolation cannot be had, or the checkpoint is of another.
            CheckpointNotFound: there is none, or it is another's.
            NotBuilt: no image here has what its capabilities need.
            LimitReached: the plan's concurrency or hours are used up.
            Unavailable: the service is shutting down.
        """
        if self._closed:
            raise Unavailable("The service is shutting down")
        self._check_isolation(wish.isolation)
        checked_duration(wish.max_duration_ms, caller.plan)
        async with self._database.writing() as connection:
            plan = await organisations.lock_organisation(connection, caller.organisation)
            made = [await sandboxes.get(connection, one) for one in ids]
            if any(one is not None for one in made):  # all were made at once
                return [one for one in made if one is not None and one.organisation == caller.organisation]
            wish, image = await _begun_from(connection, caller, wish)
            beside = [SIDE_IMAGES[role] for role in sides_of(wish.capabilities)]
            for needed in beside if wish.from_checkpoint else [image, *beside]:
                self._check_image(needed)
            await self.check_limits(connection, caller.organisation, plan, len(ids))
            new = [self._new(caller, wish, image, one) for one in ids]
            for one in new:
                await sandboxes.add(connection, one, self._secrets.sealed(wish, one.id), caller.key_id)
        for one in new:
            self._steps.tell(one, PLACE)
        return new

    def _check_isolation(self, wished: str | None) -> None:
        allowed = self._allowed()
        if wished is not None and allowed is not None and wished not in allowed:
            raise Invalid(
                f"Invalid isolation: '{wished}' is not available here. Available: {', '.join(sorted(allowed))}"
            )

    def _check_image(self, image: str) -> None:
        there = self._images()
        software = sorted(software_of(image))
        if software and there is not None and image not in there:
            words = " ".join(f"--capability {one}" for one in software)
            raise NotBuilt(
                f"This server has no image {image}, which these capabilities need: its operator builds it by "
                f"`boxkeep images build {words}`"
            )

    def _new(self, caller: Caller, wish: NewSandbox, image: str, sandbox_id: str) -> Sandbox:
        now = self._steps.now_ms()
        return Sandbox(
            id=sandbox_id,
            organisation=caller.organisation,
            status=Status.QUEUED,
            revision=1,
            epoch=0,
            runtime=wish.runtime or DEFAULT_RUNTIME,
            image=image,
            ephemeral=wish.ephemeral,
            max_duration_ms=checked_duration(wish.max_duration_ms, caller.plan),
            region=None,
            wished_region=wish.region,
            wished_isolation=wish.isolation,
            isolation=None,
            pause_keeps=None,
            capabilities=wish.capabilities,
            network=wish.network,
            name=wish.name,
            metadata=wish.metadata,
            env_names=tuple(sorted(wish.env)),
            node=None,
            created_at=now,
            queued_at=now,
            started_at=None,
            ready_at=None,
            expires_at=None,
            ended_at=None,
            billed_ms=0,
            reason=None,
            created_by=caller.key_id,
            lifecycle=wish.lifecycle,
            from_checkpoint=wish.from_checkpoint,
            origin=wish.from_checkpoint,
            files_only=not wish.memory,
            sides=dict.fromkeys(sides_of(wish.capabilities), 0),
        )

    async def check_limits(self, connection: Any, organisation: str, plan: Plan, more: int = 1) -> None:
        """Whether an organisation, whose row is locked, may have so many more that count.

        Raises:
            LimitReached
        """
        if plan.concurrent is not None and await sandboxes.counted(connection, organisation) + more > plan.concurrent:
            raise LimitReached("Concurrent sandbox limit reached")
        now = self._steps.now_ms()
        if plan.month_ms is not None and await running.used(connection, organisation, now) >= plan.month_ms:
            raise LimitReached("Monthly sandbox hours limit reached")

    async def get(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """A sandbox of the caller's organisation.

        Raises:
            SandboxNotFound: there is none, or it is another's.
        """
        return await self.of(caller.organisation, sandbox_id)

    async def of(self, organisation: str, sandbox_id: str) -> Sandbox:
        """A sandbox of an organisation.

        Raises:
            SandboxNotFound: there is none, or it is another's.
        """
        found = await self.state(sandbox_id)
        if found is None or found.organisation != organisation:
            raise SandboxNotFound
        return found

    async def state(self, sandbox_id: str) -> Sandbox | None:
        """A sandbox, whoever it belongs to."""
        if not is_id(sandbox_id):
            return None
        async with self._database.reading() as connection:
            return await sandboxes.get(connection, sandbox_id)

    async def states(self, ids: Collection[str]) -> Mapping[str, tuple[Status, int]]:
        """Status and epoch of those of `ids` that are there."""
        async with self._database.reading() as connection:
            return await sandboxes.states(connection, ids)

    async def list(
        self,
        caller: Caller,
        *,
        limit: int = 100,
        cursor: str | None = None,
        status: Collection[Status] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Page:
        """Sandboxes of the caller's organisation, newest first.

        Raises:
            Invalid: the cursor is none of ours.
        """
        before = None if cursor is None else read_cursor(cursor)
        async with self._database.scanning() as connection:
            found = await selections.page(
                connection,
                caller.organisation,
                limit=limit + 1,
                before=before,
                status=status,
                metadata=metadata or {},
            )
        items = found[:limit]
        return Page(items, cursor_of(items[-1].created_at, items[-1].id) if len(found) > limit else None)

    async def patch(self, caller: Caller, sandbox_id: str, **given: Any) -> Sandbox:
        """Change `max_duration_ms` (from now, within the plan), `name` or `metadata`.

        Raises:
            Invalid: the duration is over the plan's.
            Conflict: it is over, or changes too often just now.
        """
        for _ in range(_TRIES):
            before = await self.get(caller, sandbox_id)
            changed = await self._patched(caller, before, given)
            if changed is not None:
                self._steps.tell(changed, EXTEND)
                return changed
        raise Conflict("Sandbox is being changed by others")

    async def _patched(self, caller: Caller, before: Sandbox, given: Mapping[str, Any]) -> Sandbox | None:
        changes: dict[str, Any] = {name: given[name] for name in ("name",) if name in given}
        if "metadata" in given:
            changes["metadata"] = given["metadata"] or {}
        if given.get("max_duration_ms") is not None:
            if before.status is Status.ENDING or before.status in OVER:
                raise Conflict("Sandbox has ended")
            changes["max_duration_ms"] = checked_duration(given["max_duration_ms"], caller.plan)
            changes["remaining_ms"] = None
            if before.status is Status.READY:
                changes["expires_at"] = self._steps.now_ms() + changes["max_duration_ms"]
        if not changes:
            return before
        async with self._database.writing() as connection:
            return await sandboxes.change(
                connection,
                before,
                event=EventType.CHANGED,
                at=self._steps.now_ms(),
                actor=caller.key_id,
                **changes,
            )

    async def end(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """End a sandbox; legal in every state, and again.

        Raises:
            SandboxNotFound: there is none, or it is another's.
        """
        await self.get(caller, sandbox_id)
        return await self.end_for(sandbox_id, Reason.USER_REQUEST, caller.key_id)

    async def end_for(self, sandbox_id: str, reason: Reason, actor: str) -> Sandbox:
        """End a sandbox for a reason that is written, unless it ends already."""
        for _ in range(_TRIES):
            before = await self.state(sandbox_id)
            if before is None:
                raise SandboxNotFound
            if before.status is Status.ENDING or before.status in OVER:
                return before
            ended = await self._steps.step(before, Status.ENDING, actor=actor, reason=reason)
            if ended is not None:
                return ended
        raise Conflict("Sandbox is being changed by others")

    async def end_all(self, reason: Reason, within_s: float) -> Shutdown:
        """Accept no more sandboxes, end every one that has or awaits a machine, and return when their machines are
        gone or the time is up. May be repeated."""
        self._closed = True
        until = asyncio.get_running_loop().time() + within_s
        ended: list[str] = []
        with self._changes.listen(ANY) as ear:
            while True:
                async with self._database.scanning() as connection:
                    alive = await selections.in_status(connection, *HAS_OR_AWAITS_A_MACHINE)
                    waiting = await selections.unreleased(connection, _AT_ONCE)
                for sandbox in alive:
                    if sandbox.kept_epoch is not None:  # on its way back: what is kept of it stays
                        await self._steps.step(sandbox, Status.PAUSED, actor=OPERATOR, reason=reason)
                    else:
                        await self.end_for(sandbox.id, reason, OPERATOR)
                        ended.append(sandbox.id)
                left_s = until - asyncio.get_running_loop().time()
                if left_s <= 0 or not (alive or waiting):
                    return Shutdown(ended, [sandbox.id for sandbox in (*alive, *waiting)])
                await ear.heard(min(left_s, POLL_S))

    async def hear(self, sandbox_id: str, within_s: float) -> None:
        """Return when something of a sandbox may have changed, or the time is up."""
        with self._changes.listen(sandbox_id) as ear:
            await ear.heard(within_s)

    async def wait(self, caller: Caller, sandbox_id: str, timeout_ms: int) -> Sandbox:
        """A sandbox once it is ready, paused or over, or as it is when the time is up."""
        return await self.wait_of(caller.organisation, sandbox_id, timeout_ms)

    async def wait_of(self, organisation: str, sandbox_id: str, timeout_ms: int) -> Sandbox:
        """The same for a sandbox of an organisation."""
        until = asyncio.get_running_loop().time() + timeout_ms / 1000
        with self._changes.listen(sandbox_id) as ear:
            while True:
                sandbox = await self.of(organisation, sandbox_id)
                left_s = until - asyncio.get_running_loop().time()
                if sandbox.status in _SETTLED or left_s <= 0:
                    return sandbox
                await ear.heard(min(left_s, POLL_S))

    async def timeline(self, sandbox_id: str, after: int, limit: int) -> Sequence[Event]:
        """What happened in and to a sandbox behind sequence `after`, oldest first."""
        async with self._database.scanning() as connection:
            return await events.after(connection, sandbox_id, after, limit)

    async def events(self, caller: Caller, sandbox_id: str, after: int, idle_s: float) -> AsyncIterator[Event | None]:
        """The events of a sandbox behind sequence `after` but the quiet ones, as they happen, until it is over and its
        commands have their ends; None after `idle_s` of silence.

        Raises:
            SandboxNotFound: there is none, or it is another's.
        """
        with self._changes.listen(sandbox_id) as ear:
            clock = asyncio.get_running_loop().time
            silent_since = clock()
            while True:
                await self.get(caller, sandbox_id)
                async with self._database.reading() as connection:
                    over = await sandboxes.is_released(connection, sandbox_id)
                    news = await events.after(connection, sandbox_id, after)
                for event in news:
                    after = event.sequence
                    if event.type not in QUIET:
                        yield event
                        silent_since = clock()
                if not news and over:
                    return
                if not news:
                    await ear.heard(POLL_S)
                if clock() - silent_since >= idle_s:
                    yield None
                    silent_since = clock()


async def _begun_from(connection: AsyncConnection, caller: Caller, wish: NewSandbox) -> tuple[NewSandbox, str]:
    """A wish with what follows from the checkpoint that it names, and the image that it asks for."""
    needed = software_for(wish.capabilities)
    if wish.from_checkpoint is None:
        return wish, image_of(wish.runtime or DEFAULT_RUNTIME, needed)
    found = await checkpoints.get(connection, wish.from_checkpoint)
    if found is None or found.organisation != caller.organisation or found.state is not CheckpointState.WHOLE:
        raise CheckpointNotFound
    for name, wished, kept in (
        ("runtime", wish.runtime, found.runtime),
        ("isolation", wish.isolation, found.isolation),
    ):
        if wished not in (None, kept):
            raise Invalid(f"Invalid {name}: the checkpoint is of {kept}")
    if missing := needed - software_of(found.image):
        raise Invalid(f"Invalid capabilities: the checkpoint is of an image without {', '.join(sorted(missing))}")
    return replace(wish, runtime=found.runtime, isolation=found.isolation), found.image
